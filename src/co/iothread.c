/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Named loops. A list on the control loop; nothing here is locked but the count of loops that are about to end,
 * which is guarded by a mutex only because co-queues want one.
 */
#include "co/iothread.h"

#include "base/alloc.h"
#include "co/co.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>
#include <sys/queue.h>

struct weir_iothread {
    char *id;
    struct weir_loop *loop;
    unsigned users;
    bool internal; /* the default one */
    bool ending;
    TAILQ_ENTRY(weir_iothread) link;
};

static TAILQ_HEAD(, weir_iothread) iothreads = TAILQ_HEAD_INITIALIZER(iothreads);
static void (*at_end)(void);

static void assert_control(void)
{
    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
}

static int iothread_new(const char *id, bool internal, struct weir_iothread **ret, struct weir_error **err)
{
    struct weir_iothread *iothread;
    struct weir_loop *loop;
    int error = weir_loop_new(id, &loop, err);

    if (error < 0)
        return error;
    iothread = weir_new(struct weir_iothread);
    iothread->id = weir_strdup(id);
    iothread->loop = loop;
    iothread->internal = internal;
    TAILQ_INSERT_TAIL(&iothreads, iothread, link);
    *ret = iothread;
    return 0;
}

static weir_co_fn void run_at_end(void *arg)
{
    at_end();
}

/* Waits until the loop has come to its end. */
static weir_co_fn void iothread_end(struct weir_iothread *iothread)
{
    iothread->ending = true;
    if (at_end)
        weir_co_start(iothread->loop, run_at_end, NULL);
    weir_loop_free(iothread->loop);
    TAILQ_REMOVE(&iothreads, iothread, link);
    free(iothread->id);
    free(iothread);
}

int weir_iothread_add(const char *id, struct weir_error **err)
{
    struct weir_iothread *iothread;

    assert_control();
    TAILQ_FOREACH (iothread, &iothreads, link) {
        if (!iothread->internal && !strcmp(iothread->id, id))
            return weir_error_set(err, -EEXIST, "iothread \"%s\" exists already", id);
    }
    return iothread_new(id, false, &iothread, err);
}

int weir_iothread_del(const char *id, struct weir_error **err)
{
    struct weir_iothread *iothread = weir_iothread_find(id);

    if (!iothread)
        return weir_error_set(err, -ENOENT, "object '%s' not found", id);
    if (iothread->users)
        return weir_error_set(err, -EBUSY, "object '%s' is in use, can not be deleted", id);
    iothread_end(iothread);
    return 0;
}

struct weir_iothread *weir_iothread_find(const char *id)
{
    struct weir_iothread *iothread;

    assert_control();
    TAILQ_FOREACH (iothread, &iothreads, link) {
        if (!iothread->internal && !iothread->ending && !strcmp(iothread->id, id))
            return iothread;
    }
    return NULL;
}

struct weir_iothread *weir_iothread_next(struct weir_iothread *iothread)
{
    assert_control();
    do
        iothread = iothread ? TAILQ_NEXT(iothread, link) : TAILQ_FIRST(&iothreads);
    while (iothread && (iothread->internal || iothread->ending));
    return iothread;
}

int weir_iothread_default(struct weir_iothread **ret_iothread, struct weir_error **err)
{
    struct weir_iothread *iothread;
    int ret;

    assert_control();
    TAILQ_FOREACH (iothread, &iothreads, link) {
        if (iothread->internal && !iothread->ending)
            break;
    }
    if (!iothread) {
        ret = iothread_new("io", true, &iothread, err);
        if (ret < 0)
            return ret;
    }
    *ret_iothread = weir_iothread_ref(iothread);
    return 0;
}

struct weir_iothread *weir_iothread_ref(struct weir_iothread *iothread)
{
    assert_control();
    iothread->users++;
    return iothread;
}

void weir_iothread_unref(struct weir_iothread *iothread)
{
    if (!iothread)
        return;
    assert_control();
    WEIR_ASSERT(iothread->users > 0);
    iothread->users--;
}

struct weir_loop *weir_iothread_loop(const struct weir_iothread *iothread)
{
    return iothread->loop;
}

const char *weir_iothread_id(const struct weir_iothread *iothread)
{
    return iothread->id;
}

void weir_iothread_set_at_end(void (*run)(void))
{
    at_end = run;
}

/* ---- the end of all ---- */

/* Outlives its waiter when a loop does not end. */
struct ending {
    struct weir_mutex mutex;
    struct weir_co_queue queue;
    unsigned left;
    bool abandoned; /* nobody waits any more: the last to end frees it */
};
struct ending_one {
    struct ending *ending;
    struct weir_iothread *iothread;
};

static void ending_free(struct ending *ending)
{
    weir_mutex_done(&ending->mutex);
    free(ending);
}

static weir_co_fn void run_end(void *arg)
{
    struct ending_one one = *(struct ending_one *)arg;
    bool last;

    free(arg);
    iothread_end(one.iothread);
    weir_mutex_lock(&one.ending->mutex);
    last = !--one.ending->left && one.ending->abandoned;
    weir_co_queue_wake_all(&one.ending->queue);
    weir_mutex_unlock(&one.ending->mutex);
    if (last)
        ending_free(one.ending);
}

unsigned weir_iothreads_done(int64_t limit_ns)
{
    int64_t deadline = weir_sys->clock_ns() + limit_ns;
    struct ending *ending = weir_new(struct ending);
    struct weir_iothread *iothread;
    unsigned left;

    assert_control();
    weir_mutex_init(&ending->mutex);
    weir_co_queue_init(&ending->queue);
    TAILQ_FOREACH (iothread, &iothreads, link) {
        struct ending_one *one;

        if (iothread->ending)
            continue;
        iothread->ending = true;
        one = weir_new(struct ending_one);
        *one = (struct ending_one){ ending, iothread };
        ending->left++;
        weir_co_start(weir_loop_control(), run_end, one);
    }
    weir_mutex_lock(&ending->mutex);
    while (ending->left && weir_co_queue_wait_until(&ending->queue, &ending->mutex, deadline) == 0)
        continue;
    left = ending->left;
    ending->abandoned = left;
    weir_mutex_unlock(&ending->mutex);
    if (left)
        return left; /* what is left behind still refers to it */
    ending_free(ending);
    return 0;
}

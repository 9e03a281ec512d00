/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops. One turn reads the clock, runs timers that are due, takes over what other threads have queued, runs a
 * bounded number of calls (a coroutine that may go on is one), and then collects completions: without waiting
 * while calls are left, else asleep until the next timer.
 *
 * The own queue needs no lock. Other threads queue under `lock` and kick the loop only when it said, under the
 * same lock and having seen an empty queue, that it is about to sleep. The kick happens under the lock too: so
 * whoever lets a loop end with its last call has left the loop alone when the loop notices.
 *
 * A loop other than the control loop ends by itself: weir_loop_stop() is a call like others that sets `stop`, and
 * the thread leaves when nothing is left that could ever run.
 */
#include "co/internal.h"
#include "base/alloc.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Changed by the control loop only. A loop's index stays its own until it was freed. */
static struct weir_loop *loops[WEIR_LOOPS_MAX];

static void stop_here(struct weir_call *call)
{
    struct weir_loop *loop = weir_container_of(call, struct weir_loop, stop_call);

    loop->stop = true;
}

static struct weir_loop *loop_new(unsigned index, const char *name)
{
    struct weir_loop *loop = weir_try_alloc(sizeof(*loop), _Alignof(struct weir_loop));

    WEIR_ASSERT(loop);
    memset(loop, 0, sizeof(*loop));
    loop->index = index;
    (void)snprintf(loop->name, sizeof(loop->name), "%s", name);
    STAILQ_INIT(&loop->ready);
    STAILQ_INIT(&loop->remote);
    SLIST_INIT(&loop->pool);
    weir_mutex_init(&loop->lock);
    loop->stop_call.run = stop_here;
    return loop;
}

static void loop_delete(struct weir_loop *loop)
{
    WEIR_ASSERT(loop->in_flight == 0 && loop->timer_count == 0);
    if (loop->sys)
        weir_sys->loop.close(loop->sys);
    weir_mutex_done(&loop->lock);
    free(loop->timers);
    free(loop);
}

/* ---- who am I ---- */

struct weir_loop *weir_loop_self(void)
{
    return weir_locals()->loop;
}

struct weir_loop *weir_loop_control(void)
{
    return loops[0];
}

unsigned weir_loop_index(const struct weir_loop *loop)
{
    return loop->index;
}

const char *weir_loop_name(const struct weir_loop *loop)
{
    return loop->name;
}

int64_t weir_loop_now(const struct weir_loop *loop)
{
    return loop->now_ns;
}

/* ---- turns ---- */

void weir_loop_call(struct weir_loop *loop, struct weir_call *call)
{
    if (loop == weir_loop_self()) {
        STAILQ_INSERT_TAIL(&loop->ready, call, link);
        return;
    }
    weir_mutex_lock(&loop->lock);
    WEIR_ASSERT(!loop->closed);
    STAILQ_INSERT_TAIL(&loop->remote, call, link);
    atomic_store_explicit(&loop->remote_full, true, memory_order_relaxed);
    if (atomic_load_explicit(&loop->sleeping, memory_order_relaxed)) {
        atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
        weir_sys->loop.kick(loop->sys);
    }
    weir_mutex_unlock(&loop->lock);
}

static void take_remote(struct weir_loop *loop)
{
    if (!atomic_load_explicit(&loop->remote_full, memory_order_relaxed))
        return;
    weir_mutex_lock(&loop->lock);
    STAILQ_CONCAT(&loop->ready, &loop->remote);
    atomic_store_explicit(&loop->remote_full, false, memory_order_relaxed);
    weir_mutex_unlock(&loop->lock);
}

static void run_turn(struct weir_loop *loop)
{
    loop->now_ns = weir_sys->clock_ns();
    weir_timers_run(loop);
    take_remote(loop);
    for (unsigned i = 0; i < WEIR_LOOP_TURN_MAX; i++) {
        struct weir_call *call = STAILQ_FIRST(&loop->ready);

        if (!call)
            break;
        STAILQ_REMOVE_HEAD(&loop->ready, link);
        call->run(call);
    }
}

/* Whether the loop may sleep; if so others kick it from now on. */
static bool fall_asleep(struct weir_loop *loop)
{
    bool asleep;

    if (!STAILQ_EMPTY(&loop->ready))
        return false;
    weir_mutex_lock(&loop->lock);
    asleep = STAILQ_EMPTY(&loop->remote);
    atomic_store_explicit(&loop->sleeping, asleep, memory_order_relaxed);
    weir_mutex_unlock(&loop->lock);
    return asleep;
}

static void collect(struct weir_loop *loop)
{
    if (!fall_asleep(loop)) {
        weir_sys->loop.poll(loop->sys, 0);
        return;
    }
    weir_sys->loop.poll(loop->sys, weir_timers_next(loop));
    /* Without the lock: at worst somebody kicks a loop that is awake. */
    atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
}

/* Whether a loop that was stopped has nothing left; it then takes no calls any more. */
static bool close_if_idle(struct weir_loop *loop)
{
    if (!loop->stop || weir_co_count(loop) > 0 || loop->timer_count > 0 || loop->in_flight > 0 ||
        !STAILQ_EMPTY(&loop->ready))
        return false;
    WEIR_SCOPE_LOCK(&loop->lock);
    loop->closed = STAILQ_EMPTY(&loop->remote);
    return loop->closed;
}

void weir_loop_stop(struct weir_loop *loop)
{
    /* Once: a loop whose thread has ended takes no calls. */
    if (!atomic_exchange(&loop->stop_asked, true))
        weir_loop_call(loop, &loop->stop_call);
}

/* ---- the control loop ---- */

int weir_runtime_init(struct weir_error **err)
{
    struct weir_loop *loop;
    int ret;

    WEIR_ASSERT(!loops[0] && !weir_loop_self());
    loop = loop_new(0, "control");
    ret = weir_sys->loop.open(&loop->sys);
    if (ret < 0) {
        loop_delete(loop);
        return weir_error_set_errno(err, ret, "cannot start the control loop");
    }
    weir_context_init_thread(&loop->context);
    loop->now_ns = weir_sys->clock_ns();
    loops[0] = loop;
    weir_locals()->loop = loop;
    return 0;
}

void weir_runtime_done(void)
{
    struct weir_loop *loop = loops[0];

    WEIR_ASSERT(loop && loop == weir_loop_self());
    for (unsigned i = 1; i < WEIR_LOOPS_MAX; i++)
        WEIR_ASSERT(!loops[i]);
    WEIR_ASSERT(weir_co_alive() == 0);
    weir_co_pool_drain(loop);
    weir_context_done(&loop->context);
    weir_locals()->loop = NULL;
    loops[0] = NULL;
    loop_delete(loop);
}

void weir_runtime_run(void)
{
    struct weir_loop *loop = loops[0];

    WEIR_ASSERT(loop && loop == weir_loop_self() && !weir_co_self());
    for (;;) {
        run_turn(loop);
        if (loop->stop)
            break;
        collect(loop);
    }
    loop->stop = false;
    atomic_store(&loop->stop_asked, false);
}

/* ---- other loops ---- */

/* On the control loop: the thread is about to return. */
static void thread_ended(struct weir_call *call)
{
    struct weir_loop *loop = weir_container_of(call, struct weir_loop, ended_call);

    loop->ended = true;
    if (loop->freer)
        weir_co_wake(loop->freer);
}

static void thread_main(void *arg)
{
    struct weir_loop *loop = arg;

    weir_context_init_thread(&loop->context);
    weir_locals()->loop = loop;
    for (;;) {
        run_turn(loop);
        if (close_if_idle(loop))
            break;
        collect(loop);
    }
    weir_co_pool_drain(loop);
    weir_context_done(&loop->context);
    weir_locals()->loop = NULL;
    weir_loop_call(weir_loop_control(), &loop->ended_call);
}

static unsigned free_index(void)
{
    unsigned index = 1;

    while (index < WEIR_LOOPS_MAX && loops[index])
        index++;
    return index;
}

int weir_loop_new(const char *name, struct weir_loop **ret_loop, struct weir_error **err)
{
    unsigned index = free_index();
    struct weir_loop *loop;
    int ret;

    WEIR_ASSERT(loops[0] && weir_loop_self() == loops[0]);
    if (index == WEIR_LOOPS_MAX)
        return weir_error_set(err, -EMFILE, "there are %d threads with a loop already", WEIR_LOOPS_MAX);
    loop = loop_new(index, name);
    loop->ended_call.run = thread_ended;
    ret = weir_sys->loop.open(&loop->sys);
    if (ret < 0) {
        loop_delete(loop);
        return weir_error_set_errno(err, ret, "cannot set up a loop for thread '%s'", name);
    }
    loops[index] = loop;
    ret = weir_sys->thread.start(loop->name, thread_main, loop, &loop->thread);
    if (ret < 0) {
        loops[index] = NULL;
        loop_delete(loop);
        return weir_error_set_errno(err, ret, "cannot start thread '%s'", name);
    }
    *ret_loop = loop;
    return 0;
}

void weir_loop_free(struct weir_loop *loop)
{
    weir_co_assert();
    WEIR_ASSERT(loops[0] && weir_loop_self() == loops[0] && loop != loops[0] && !loop->freer);
    loop->freer = weir_co_self();
    if (!loop->ended)
        weir_loop_stop(loop);
    while (!loop->ended)
        weir_co_yield();
    weir_sys->thread.join(loop->thread);
    loops[loop->index] = NULL;
    loop_delete(loop);
}

/* ---- operations ---- */

static void io_done(struct weir_sys_io *io, int result)
{
    weir_loop_io_end(weir_loop_self());
    io->done = io->then;
    io->done(io, result);
}

void weir_loop_io_begin(struct weir_loop *loop, struct weir_sys_io *io)
{
    WEIR_ASSERT(loop);
    loop->in_flight++;
    weir_sys->loop.submit(loop->sys, io);
}

void weir_loop_io_end(struct weir_loop *loop)
{
    WEIR_ASSERT(loop && loop->in_flight > 0);
    loop->in_flight--;
}

void weir_loop_submit(struct weir_sys_io *io)
{
    io->then = io->done;
    io->done = io_done;
    weir_loop_io_begin(weir_loop_self(), io);
}

void weir_loop_cancel(struct weir_sys_io *io)
{
    struct weir_loop *loop = weir_loop_self();

    WEIR_ASSERT(loop);
    weir_sys->loop.cancel(loop->sys, io);
}

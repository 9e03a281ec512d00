/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Start and end of the embedded library: the control loop on a thread of its own.
 */
#include "weir/library.h"

#include "co/co.h"
#include "co/iothread.h"
#include "embed/embed.h"
#include "graph/graph.h"
#include "io/io.h"
#include "sys/latch.h"
#include "sys/sys.h"
#include "weir/version.h"

#define STOP_LIMIT_NS (10 * 1000000000LL)

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

/* Written by weir_init() and weir_done(), which do not run at the same time; `devices` by the control loop. */
static struct {
    void *thread; /* NULL: not started */
    struct weir_iothread *iothread;
    unsigned devices;
    bool left; /* something hangs: never again */
} library;

const char *weir_version(void)
{
    return NUMBER(WEIR_VERSION_MAJOR) "." NUMBER(WEIR_VERSION_MINOR) "." NUMBER(WEIR_VERSION_PATCH);
}

/* ---- the control thread ---- */

struct start {
    struct weir_latch latch;
    int result;
};

/* Everything but the loop itself; on failure nothing is left. */
static int set_up(void)
{
    int ret = weir_iothread_default(&library.iothread, NULL);

    if (ret)
        return ret;
    weir_drivers_register();
    weir_graph_init(&weir_io_hooks);
    weir_iothread_set_at_end(weir_buffer_trim);
    return 0;
}

static void control_main(void *arg)
{
    struct start *start = arg;
    int ret = weir_runtime_init(NULL);

    if (!ret) {
        ret = set_up();
        if (ret)
            weir_runtime_done();
    }
    start->result = ret;
    weir_latch_open(&start->latch);
    if (ret)
        return;
    weir_runtime_run();
    weir_buffer_trim();
    weir_runtime_done();
}

int weir_init(void)
{
    struct start start = { .result = 0 };
    void *thread;
    int ret;

    if (library.thread || library.left)
        return -EBUSY;
    weir_latch_init(&start.latch);
    ret = weir_sys->thread.start("weir", control_main, &start, &thread);
    if (!ret) {
        weir_latch_wait(&start.latch);
        ret = start.result;
        if (ret)
            weir_sys->thread.join(thread);
        else
            library.thread = thread;
    }
    weir_latch_done(&start.latch);
    return ret;
}

/* ---- from other threads ---- */

struct visit {
    struct weir_latch latch;
    int (*run)(void *arg) weir_co_fn;
    void *arg;
    int result;
};

static weir_co_fn void visit_main(void *arg)
{
    struct visit *visit = arg;

    visit->result = visit->run(visit->arg);
    weir_latch_open(&visit->latch);
}

int weir_embed_run(int (*run)(void *arg) weir_co_fn, void *arg)
{
    struct visit visit = { .run = run, .arg = arg };

    if (!library.thread)
        return -ENODEV;
    if (weir_loop_self())
        return -EDEADLK;
    weir_latch_init(&visit.latch);
    weir_co_start(weir_loop_control(), visit_main, &visit);
    weir_latch_wait(&visit.latch);
    weir_latch_done(&visit.latch);
    return visit.result;
}

struct weir_loop *weir_embed_loop(void)
{
    return weir_iothread_loop(library.iothread);
}

void weir_embed_count(int change)
{
    library.devices += (unsigned)change;
}

/* ---- the end ---- */

static weir_co_fn int end(void *arg)
{
    (void)arg;
    if (library.devices)
        return -EBUSY;
    weir_graph_done(STOP_LIMIT_NS);
    if (weir_graph_limbo_count())
        return -ETIMEDOUT;
    weir_iothread_unref(library.iothread);
    if (weir_iothreads_done(STOP_LIMIT_NS))
        return -ETIMEDOUT;
    weir_loop_stop(weir_loop_control());
    return 0;
}

int weir_done(void)
{
    int ret = weir_embed_run(end, NULL);

    if (ret == -ETIMEDOUT)
        library.left = true;
    if (ret)
        return ret;
    weir_sys->thread.join(library.thread);
    library.thread = NULL;
    return 0;
}

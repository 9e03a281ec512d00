/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Waiting for the OS: operations of the loop, and blocking calls on workers.
 *
 * A worker reports back with a call on the loop, never by waking the coroutine itself: when the call runs, the
 * worker has done with everything that the coroutine may free.
 */
#include "co/internal.h"
#include "base/alloc.h"
#include <errno.h>

/* ---- operations ---- */

struct io_wait {
    struct weir_co *co;
    int result;
    bool done;
};

static void io_done(struct weir_sys_io *io, int result)
{
    struct io_wait *wait = io->waiter;

    weir_loop_io_end(wait->co->loop);
    wait->result = result;
    wait->done = true;
    weir_co_wake(wait->co);
}

int weir_co_io(struct weir_sys_io *io)
{
    struct io_wait wait = { 0 };

    weir_co_assert();
    wait.co = weir_co_self();
    io->done = io_done;
    io->waiter = &wait;
    weir_loop_io_begin(wait.co->loop, io);
    while (!wait.done)
        weir_co_yield();
    return wait.result;
}

/* ---- a blocking call ---- */

struct call_wait {
    struct weir_sys_work work;
    struct weir_call call;
    struct weir_co *co;
    int (*run)(void *arg);
    void *arg;
    int result;
    bool done;
};

static void call_run(struct weir_sys_work *work)
{
    struct call_wait *wait = weir_container_of(work, struct call_wait, work);

    wait->result = wait->run(wait->arg);
}

static void call_done(struct weir_sys_work *work)
{
    struct call_wait *wait = weir_container_of(work, struct call_wait, work);

    weir_loop_call(wait->co->loop, &wait->call);
}

static void call_back(struct weir_call *call)
{
    struct call_wait *wait = weir_container_of(call, struct call_wait, call);

    wait->done = true;
    weir_co_wake(wait->co);
}

int weir_co_work(int (*run)(void *arg), void *arg)
{
    struct call_wait wait = {
        .work.run = call_run, .work.done = call_done, .call.run = call_back, .run = run, .arg = arg
    };

    weir_co_assert();
    wait.co = weir_co_self();
    weir_sys->thread.work(&wait.work);
    while (!wait.done)
        weir_co_yield();
    return wait.result;
}

/* ---- a blocking call with a limit ---- */

/* Who was first: the call that ended or the coroutine that lost patience. */
enum race { RACE_OPEN, RACE_ENDED, RACE_ABANDONED };

/* Freed by the coroutine if the call ended in time, else by the worker. */
struct limited_call {
    struct weir_sys_work work;
    struct weir_call call;
    struct weir_loop *loop;
    struct weir_co *co;
    int (*run)(void *arg);
    void (*release)(void *arg);
    void *arg;
    int result;
    _Atomic unsigned race;
    bool done; /* own loop only */
};

static bool race_win(struct limited_call *limited, enum race outcome)
{
    unsigned expected = RACE_OPEN;

    return atomic_compare_exchange_strong(&limited->race, &expected, outcome);
}

static void limited_run(struct weir_sys_work *work)
{
    struct limited_call *limited = weir_container_of(work, struct limited_call, work);

    limited->result = limited->run(limited->arg);
}

static void limited_done(struct weir_sys_work *work)
{
    struct limited_call *limited = weir_container_of(work, struct limited_call, work);

    if (race_win(limited, RACE_ENDED)) {
        weir_loop_call(limited->loop, &limited->call);
        return;
    }
    /* The coroutine, and its loop perhaps, are gone. */
    if (limited->release)
        limited->release(limited->arg);
    free(limited);
}

static void limited_back(struct weir_call *call)
{
    struct limited_call *limited = weir_container_of(call, struct limited_call, call);

    limited->done = true;
    weir_co_wake(limited->co);
}

struct limit {
    struct weir_timer timer;
    struct weir_co *co;
    bool passed;
};

static void limit_passed(struct weir_timer *timer)
{
    struct limit *limit = weir_container_of(timer, struct limit, timer);

    limit->passed = true;
    weir_co_wake(limit->co);
}

int weir_co_work_until(int (*run)(void *arg), void (*release)(void *arg), void *arg, int64_t deadline_ns)
{
    struct weir_co_cancel never = { 0 };

    return weir_co_work_cancellable(run, release, arg, deadline_ns, &never);
}

void weir_co_cancel(struct weir_co_cancel *cancel)
{
    cancel->cancelled = true;
    if (cancel->co)
        weir_co_wake(cancel->co);
}

/* Whoever waits goes on; the worker cleans up. */
static int leave_behind(struct limit *limit, struct weir_co_cancel *cancel)
{
    weir_timer_cancel(&limit->timer);
    cancel->co = NULL;
    return cancel->cancelled ? -ECANCELED : -ETIMEDOUT;
}

int weir_co_work_cancellable(int (*run)(void *arg), void (*release)(void *arg), void *arg,
                             int64_t deadline_ns, struct weir_co_cancel *cancel)
{
    struct limited_call *limited;
    struct limit limit = { .timer.run = limit_passed };
    int result;

    weir_co_assert();
    limit.co = cancel->co = weir_co_self();
    limited = weir_new(struct limited_call);
    limited->work.run = limited_run;
    limited->work.done = limited_done;
    limited->call.run = limited_back;
    limited->loop = weir_loop_self();
    limited->co = limit.co;
    limited->run = run;
    limited->release = release;
    limited->arg = arg;
    if (deadline_ns >= 0)
        weir_timer_arm(&limit.timer, deadline_ns);
    weir_sys->thread.work(&limited->work);

    while (!limited->done) {
        if ((limit.passed || cancel->cancelled) && race_win(limited, RACE_ABANDONED))
            return leave_behind(&limit, cancel);
        weir_co_yield();
    }
    weir_timer_cancel(&limit.timer);
    cancel->co = NULL;
    result = limited->result;
    free(limited);
    return result;
}

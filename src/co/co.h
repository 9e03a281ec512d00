/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutines and what they wait on.
 *
 * A coroutine runs on one loop at a time and is never destroyed from outside. Its only blocking primitive is
 * weir_co_yield(); a wake that comes before the yield is kept (one token), and wakes may be spurious: always
 * wait in a loop on a condition. Mutexes and queues below work between coroutines of different loops.
 */
#ifndef WEIR_CO_CO_H
#define WEIR_CO_CO_H

#include "co/loop.h"
#include "sys/mutex.h"

struct weir_co;

/* Starts @run(@arg) on @loop, from its queue. Any thread. */
void weir_co_start(struct weir_loop *loop, void (*run)(void *arg) weir_co_fn, void *arg);
/* Starts it on the calling loop and runs it at once until it first waits. Not inside a held mutex. */
void weir_co_run(void (*run)(void *arg) weir_co_fn, void *arg);
/* NULL outside a coroutine. */
struct weir_co *weir_co_self(void);
/* Asserts that the caller is a coroutine and holds no thread mutex. */
void weir_co_assert(void);

/* Waits for weir_co_wake(). */
void weir_co_yield(void) weir_co_fn;
/* Lets the coroutine go on (on its own loop). Any thread; must not race with the coroutine's end. */
void weir_co_wake(struct weir_co *co);
/* Goes to the end of the loop's queue. */
void weir_co_pause(void) weir_co_fn;
void weir_co_sleep_until(int64_t deadline_ns) weir_co_fn;
void weir_co_sleep(int64_t duration_ns) weir_co_fn;
/* Goes on as a coroutine of @loop. */
void weir_co_move(struct weir_loop *loop) weir_co_fn;

/* Submits one OS operation and waits for its result. io->done is overwritten. */
int weir_co_io(struct weir_sys_io *io) weir_co_fn;

/* Runs @run(@arg) on a worker and waits for it; returns its result. */
int weir_co_work(int (*run)(void *arg), void *arg) weir_co_fn;
/*
 * The same with a limit. Past @deadline_ns it returns -ETIMEDOUT at once while the call goes on; @release(@arg) is
 * then called on the worker when the call has ended (it must give back what @run acquired). When the call ends
 * in time @release is not called. @release may be NULL; -1: no limit.
 */
int weir_co_work_until(int (*run)(void *arg), void (*release)(void *arg), void *arg,
                       int64_t deadline_ns) weir_co_fn;

/* For somebody who may end a wait early. Begins zeroed; may be used again until it was cancelled. */
struct weir_co_cancel {
    struct weir_co *co; /* who waits */
    bool cancelled;
};
/* The wait, or the next one, ends at once. On the loop of whoever waits. */
void weir_co_cancel(struct weir_co_cancel *cancel);
/* As weir_co_work_until(); also ends, with -ECANCELED, when @cancel is. */
int weir_co_work_cancellable(int (*run)(void *arg), void (*release)(void *arg), void *arg,
                             int64_t deadline_ns, struct weir_co_cancel *cancel) weir_co_fn;

/* FIFO queue of waiting coroutines; guarded by a thread mutex of the caller's. */
struct weir_co_waiter {
    struct weir_co *co;
    bool woken;
    TAILQ_ENTRY(weir_co_waiter) link;
};
TAILQ_HEAD(weir_co_waiters, weir_co_waiter);
struct weir_co_queue {
    struct weir_co_waiters waiters;
};
void weir_co_queue_init(struct weir_co_queue *queue);
/* Gives @mutex back, waits to be woken, takes it again. */
void weir_co_queue_wait(struct weir_co_queue *queue, struct weir_mutex *mutex) weir_co_fn;
/* As above; 0 when woken, -ETIMEDOUT past @deadline_ns (-1: no limit). */
int weir_co_queue_wait_until(struct weir_co_queue *queue, struct weir_mutex *mutex,
                             int64_t deadline_ns) weir_co_fn;
/* @mutex of the queue must be held. */
bool weir_co_queue_wake_one(struct weir_co_queue *queue);
void weir_co_queue_wake_all(struct weir_co_queue *queue);
bool weir_co_queue_empty(const struct weir_co_queue *queue);

/* A mutex that coroutines may hold over a switch. Fair. */
struct weir_co_mutex {
    struct weir_mutex lock;
    struct weir_co_queue queue;
    struct weir_co *owner;
};
void weir_co_mutex_init(struct weir_co_mutex *mutex);
void weir_co_mutex_done(struct weir_co_mutex *mutex);
void weir_co_mutex_lock(struct weir_co_mutex *mutex) weir_co_fn;
void weir_co_mutex_unlock(struct weir_co_mutex *mutex);

/* Runs several coroutines and waits for all. The group lives on the waiter's stack or in its state. */
struct weir_co_group {
    struct weir_mutex lock;
    struct weir_co_queue queue;
    unsigned running;
};
void weir_co_group_init(struct weir_co_group *group);
void weir_co_group_done(struct weir_co_group *group);
/* Starts @run(@arg) on the calling loop as a member; runs it at once until it first waits. */
void weir_co_group_start(struct weir_co_group *group, void (*run)(void *arg) weir_co_fn, void *arg);
/* Waits until at most @left members run. */
void weir_co_group_wait(struct weir_co_group *group, unsigned left) weir_co_fn;

#endif

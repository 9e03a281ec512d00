/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of this layer know of each other: the insides of loops and coroutines.
 *
 * Everything in a loop belongs to its own thread, except the part that says otherwise. A coroutine belongs to the
 * thread of its loop, except `state`, through which others wake it.
 */
#ifndef WEIR_CO_INTERNAL_H
#define WEIR_CO_INTERNAL_H

#include "co/co.h"
#include "sys/context.h"
#include "sys/sys.h"
#include <stdatomic.h>

/* Stacks that a loop keeps for later coroutines; those of a burst beyond it go back to the OS. */
#define WEIR_CO_POOL_MAX 256
/* Calls and coroutines that one turn of a loop runs before it looks at completions and timers again. */
#define WEIR_LOOP_TURN_MAX 128
#define WEIR_LOOP_NAME_MAX 64

STAILQ_HEAD(weir_calls, weir_call);
SLIST_HEAD(weir_co_pool, weir_co);

struct weir_loop {
    struct weir_sys_loop *sys;
    struct weir_context context; /* of its thread, while a coroutine runs on it */
    struct weir_calls ready;
    int64_t now_ns;
    struct weir_timer **timers; /* binary heap, the earliest first */
    unsigned timer_count, timer_capacity;
    unsigned pooled, stacks_made;
    struct weir_co_pool pool;
    uint64_t in_flight; /* operations handed to the OS */
    bool stop;
    unsigned index;
    char name[WEIR_LOOP_NAME_MAX];

    /* Of its thread's life; the control loop's. */
    void *thread;
    bool ended;
    struct weir_call ended_call;
    struct weir_co *freer; /* waits for ended */

    /* For all threads, under `lock`. */
    _Alignas(64) struct weir_mutex lock;
    struct weir_calls remote;
    bool closed;              /* its thread takes no calls any more (asserted) */
    _Atomic bool sleeping;    /* needs a kick; cleared by its thread without the lock */
    _Atomic bool remote_full; /* a hint, without the lock */
    _Atomic bool stop_asked;
    struct weir_call stop_call;
};

/* One call for all that is due: timers.c */
void weir_timers_run(struct weir_loop *loop);
/* -1 where none is armed. */
int64_t weir_timers_next(const struct weir_loop *loop);

enum weir_co_state {
    WEIR_CO_RUNNING, /* or about to wait, or in a queue without having been woken */
    WEIR_CO_WAITING, /* in weir_co_yield() */
    WEIR_CO_NOTIFIED, /* was woken: in the queue of its loop if it waited, else the next yield returns at once */
};

/* Why a coroutine left the processor. */
enum weir_co_left { WEIR_CO_LEFT_WAITING, WEIR_CO_LEFT_PAUSED, WEIR_CO_LEFT_MOVING, WEIR_CO_LEFT_ENDED };

struct weir_co {
    struct weir_call call; /* in the queue of its loop */
    struct weir_loop *loop;
    _Atomic unsigned state; /* enum weir_co_state */
    enum weir_co_left left;
    bool last; /* to be destroyed: its main function has to end */
    void (*run)(void *arg) weir_co_fn;
    void *arg;
    struct weir_context context;
    struct weir_context *back; /* who entered it */
    struct weir_stack stack;
    SLIST_ENTRY(weir_co) pool_link;
};

/* Gives all pooled stacks of the calling loop back. */
void weir_co_pool_drain(struct weir_loop *loop);
/* Coroutines alive on @loop, those on their way to it not among them. Own loop only. */
unsigned weir_co_count(const struct weir_loop *loop);

/* Submits @io, whose done() ends with weir_loop_io_done(). */
void weir_loop_io_begin(struct weir_loop *loop, struct weir_sys_io *io);
void weir_loop_io_end(struct weir_loop *loop);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops: threads that run coroutines, timers and completions.
 *
 * The thread that calls weir_runtime_init() becomes the *control loop* (index 0): graph changes, QMP and job
 * control run there. weir_loop_new() starts others. What a function says about threads is asserted.
 */
#ifndef WEIR_CO_LOOP_H
#define WEIR_CO_LOOP_H

#include "base/error.h"
#include "base/macros.h"
#include <sys/queue.h>

struct weir_sys_loop;
struct weir_sys_io;

/* The most loops alive at one time; per-loop shards are arrays of this size, indexed by weir_loop_index(). */
#define WEIR_LOOPS_MAX 32

struct weir_loop;

/* Makes the calling thread the control loop. Once per process (in the simulator: once per seed). */
int weir_runtime_init(struct weir_error **err) weir_must_check;
/* The reverse; every other loop must be gone and no coroutine left (asserted). */
void weir_runtime_done(void);
/*
 * Runs the control loop until weir_loop_stop(weir_loop_control()). May be called again afterwards. (In the simulator
 * weir_sim_run() comes back by itself when nothing can happen any more.)
 */
void weir_runtime_run(void);

/* Starts a loop of its own thread. @name is for people. Control loop only. */
int weir_loop_new(const char *name, struct weir_loop **ret_loop, struct weir_error **err) weir_must_check;
/*
 * Stops the loop's thread once it has no coroutine, timer or operation left, and frees it. Waits for that as a
 * coroutine on the control loop.
 */
void weir_loop_free(struct weir_loop *loop) weir_co_fn;
/*
 * Any thread. The control loop returns from weir_runtime_run(); another one ends as weir_loop_free() says, and must
 * still be freed.
 */
void weir_loop_stop(struct weir_loop *loop);

struct weir_loop *weir_loop_self(void); /* NULL on a worker */
struct weir_loop *weir_loop_control(void);
unsigned weir_loop_index(const struct weir_loop *loop); /* 0 .. WEIR_LOOPS_MAX - 1 */
const char *weir_loop_name(const struct weir_loop *loop);
/* Coroutines alive on all loops together (the simulator's "none left" check). */
unsigned weir_co_alive(void);
/* Monotonic ns, read once per turn of the loop: cheap, for statistics and limits. Own loop only. */
int64_t weir_loop_now(const struct weir_loop *loop);

/* A function that runs on a loop. Owned by the caller until it runs. */
struct weir_call {
    void (*run)(struct weir_call *call);
    STAILQ_ENTRY(weir_call) link;
};
/* Queues @call on @loop. Any thread, workers included; not from signal handlers. */
void weir_loop_call(struct weir_loop *loop, struct weir_call *call);

/* A timer. Own loop only, except where said. */
struct weir_timer {
    void (*run)(struct weir_timer *timer);
    int64_t deadline_ns;
    struct weir_loop *loop; /* NULL while not armed */
    unsigned heap_index;
};
void weir_timer_arm(struct weir_timer *timer, int64_t deadline_ns); /* re-arms an armed one */
void weir_timer_cancel(struct weir_timer *timer);                   /* not armed: nothing */

/* Queues an OS operation on the calling loop. See struct weir_sys_io. */
void weir_loop_submit(struct weir_sys_io *io);
void weir_loop_cancel(struct weir_sys_io *io);

#endif

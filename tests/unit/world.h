/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A test that needs a loop: run_world() makes the calling thread the control loop, runs one coroutine on it and
 * ends when that one ends.
 *
 * Inside of coroutines use WEIR_ASSERT, not cmocka's assertions: those leave with longjmp(), which must not
 * change stacks.
 */
#ifndef WEIR_TESTS_WORLD_H
#define WEIR_TESTS_WORLD_H

#include "co/co.h"
#include "sys/sys.h"

struct world_main {
    void (*run)(void *arg) weir_co_fn;
    void *arg;
};

static inline void world_main(void *arg) weir_co_fn;
static inline void world_main(void *arg)
{
    struct world_main *world = arg;

    world->run(world->arg);
    weir_loop_stop(weir_loop_control());
}

static inline void run_world(void (*run)(void *arg) weir_co_fn, void *arg)
{
    struct world_main world = { run, arg };

    WEIR_ASSERT(weir_runtime_init(NULL) == 0);
    weir_co_start(weir_loop_control(), world_main, &world);
    weir_runtime_run();
    WEIR_ASSERT(weir_co_alive() == 0);
    weir_runtime_done();
}

static inline struct weir_loop *new_loop(const char *name)
{
    struct weir_loop *loop;

    WEIR_ASSERT(weir_loop_new(name, &loop, NULL) == 0);
    return loop;
}

#endif

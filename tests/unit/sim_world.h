/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Helpers of the simulator's own tests. Inside of simulated threads use WEIR_ASSERT, not cmocka's assertions:
 * those leave with longjmp(), which must not change stacks.
 */
#ifndef WEIR_TESTS_SIM_WORLD_H
#define WEIR_TESTS_SIM_WORLD_H

#include "sys/sim/sim.h"
#include <string.h>

/* A second of virtual time is far more than any of these tests needs. */
static const struct weir_sim_limits sim_limits = { .steps = 10000000, .time_ns = 100000000000ll };

static inline void sim_begin(uint64_t seed)
{
    struct weir_sim_profile profile;

    weir_sim_profile_init(&profile);
    weir_sim_begin(seed, &profile);
}

/* Runs @run(@arg) as a simulated thread until all have ended. */
static inline void sim_finish(void (*run)(void *arg), void *arg)
{
    weir_sim_spawn("main", run, arg);
    WEIR_ASSERT(weir_sim_run(&sim_limits) == WEIR_SIM_FINISHED);
}

/* One operation of a ring, and whether it is over. */
struct sim_op {
    struct weir_sys_io io;
    struct iovec iov;
    int result;
    bool over;
};

static inline void sim_op_done(struct weir_sys_io *io, int result)
{
    struct sim_op *op = weir_container_of(io, struct sim_op, io);

    WEIR_ASSERT(!op->over);
    op->over = true;
    op->result = result;
}

/* Submits an operation on @buffer. */
static inline void sim_submit(struct weir_sys_loop *loop, struct sim_op *op, enum weir_sys_op kind, int fd,
                              uint64_t offset, void *buffer, size_t length)
{
    memset(op, 0, sizeof(*op));
    op->iov = (struct iovec){ buffer, length };
    op->io = (struct weir_sys_io){ .op = kind, .fd = fd, .iov = &op->iov, .iovcnt = 1, .offset = offset };
    op->io.done = sim_op_done;
    weir_sys->loop.submit(loop, &op->io);
}

static inline int sim_wait(struct weir_sys_loop *loop, struct sim_op *op)
{
    while (!op->over)
        weir_sys->loop.poll(loop, -1);
    return op->result;
}

#endif

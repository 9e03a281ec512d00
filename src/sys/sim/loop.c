/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Loops: operations queue until the next poll, as with a real ring, fly, end, and are reported by a later poll.
 *
 * A poll sometimes returns early for no reason, as the interface allows. What an operation does is the business of
 * file_ops.c and net.c; here it is only carried.
 */
#include "sys/sim/world.h"
#include <errno.h>

struct weir_sys_loop {
    unsigned id;
    struct sim_ios queued, done;
    unsigned flying;
    bool kicked;
    struct sim_thread *sleeper; /* waits in poll() */
    struct sim_thread *owner;   /* the first thread that used it */
    TAILQ_ENTRY(weir_sys_loop) link;
};

int sim_loop_open(struct weir_sys_loop **ret_loop)
{
    struct weir_sys_loop *loop = weir_new(struct weir_sys_loop);

    loop->id = ++sim_world->loop_serial;
    TAILQ_INIT(&loop->queued);
    TAILQ_INIT(&loop->done);
    TAILQ_INSERT_TAIL(&sim_world->loops, loop, link);
    *ret_loop = loop;
    return 0;
}

static void loop_free(struct weir_sys_loop *loop)
{
    TAILQ_REMOVE(&sim_world->loops, loop, link);
    free(loop);
}

void sim_loop_close(struct weir_sys_loop *loop)
{
    WEIR_ASSERT(TAILQ_EMPTY(&loop->queued) && TAILQ_EMPTY(&loop->done) && !loop->flying && !loop->sleeper);
    loop_free(loop);
}

void sim_loops_drop(void)
{
    struct weir_sys_loop *loop;
    struct sim_io *op;

    while ((loop = TAILQ_FIRST(&sim_world->loops))) {
        while ((op = TAILQ_FIRST(&loop->queued))) {
            TAILQ_REMOVE(&loop->queued, op, link);
            free(op);
        }
        while ((op = TAILQ_FIRST(&loop->done))) {
            TAILQ_REMOVE(&loop->done, op, link);
            free(op);
        }
        loop_free(loop);
    }
}

static void own(struct weir_sys_loop *loop)
{
    if (!loop->owner) {
        loop->owner = sim_world->current;
        WEIR_ASSERT(loop->owner);
        loop->owner->has_loop = true;
    }
    WEIR_ASSERT(loop->owner == sim_world->current);
}

static void wake(struct weir_sys_loop *loop)
{
    if (loop->sleeper)
        sim_wake(loop->sleeper);
}

void sim_loop_submit(struct weir_sys_loop *loop, struct weir_sys_io *io)
{
    struct sim_io *op = weir_new(struct sim_io);

    own(loop);
    op->io = io;
    op->loop = loop;
    op->serial = ++sim_world->op_serial;
    io->backend[0] = op;
    TAILQ_INSERT_TAIL(&loop->queued, op, link);
}

void sim_io_end(struct sim_io *op, int result)
{
    struct weir_sys_loop *loop = op->loop;

    WEIR_ASSERT(op->state == SIM_IO_FLYING);
    TAILQ_REMOVE(&sim_world->flying, op, flying);
    if (op->open)
        sim_open_unref(weir_steal(&op->open));
    loop->flying--;
    op->state = SIM_IO_DONE;
    op->result = result;
    TAILQ_INSERT_TAIL(&loop->done, op, link);
    sim_trace("io", op->serial, op->io->op, (uint64_t)(int64_t)result);
    wake(loop);
}

static void start(struct weir_sys_loop *loop, struct sim_io *op)
{
    struct sim_open *open = sim_descriptor(op->io->fd);

    TAILQ_REMOVE(&loop->queued, op, link);
    op->state = SIM_IO_FLYING;
    loop->flying++;
    TAILQ_INSERT_TAIL(&sim_world->flying, op, flying);
    if (!open) {
        sim_io_end(op, -EBADF);
        return;
    }
    op->open = sim_open_ref(open);
    if (open->type == SIM_OPEN_FILE)
        sim_file_io_start(op);
    else
        sim_net_io_start(op);
}

static void start_queued(struct weir_sys_loop *loop)
{
    struct sim_io *op;

    while ((op = TAILQ_FIRST(&loop->queued)))
        start(loop, op);
}

void sim_loop_cancel(struct weir_sys_loop *loop, struct weir_sys_io *io)
{
    struct sim_io *op = io->backend[0];

    own(loop);
    WEIR_ASSERT(op && op->io == io && op->loop == loop);
    sim_trace("cancel", op->serial, op->state, 0);
    /* A ring takes cancellations in the order of submission: what is queued before starts first. */
    if (op->state == SIM_IO_QUEUED)
        start_queued(loop);
    if (op->state == SIM_IO_FLYING && op->cancel)
        op->cancel(op);
}

/* All that has ended by now; sometimes a part of it, as a ring that is being filled may show. */
static void report(struct weir_sys_loop *loop)
{
    struct sim_ios done = TAILQ_HEAD_INITIALIZER(done);
    struct sim_io *op;

    if (TAILQ_EMPTY(&loop->done))
        return;
    do {
        op = TAILQ_FIRST(&loop->done);
        TAILQ_REMOVE(&loop->done, op, link);
        TAILQ_INSERT_TAIL(&done, op, link);
    } while (!TAILQ_EMPTY(&loop->done) && sim_below(SIM_SCHEDULE, 16));
    while ((op = TAILQ_FIRST(&done))) {
        struct weir_sys_io *io = op->io;
        int result = op->result;

        TAILQ_REMOVE(&done, op, link);
        free(op);
        io->backend[0] = NULL;
        io->done(io, result);
    }
}

static bool nothing_to_do(const struct weir_sys_loop *loop)
{
    return TAILQ_EMPTY(&loop->done) && !loop->kicked;
}

void sim_loop_poll(struct weir_sys_loop *loop, int64_t deadline_ns)
{
    own(loop);
    WEIR_ASSERT(!loop->owner->locals.mutexes_held);
    start_queued(loop);
    sim_preempt();
    if (nothing_to_do(loop)) {
        if (deadline_ns >= 0 && deadline_ns <= sim_world->now) {
            sim_give_way();
        } else if (sim_below(SIM_SCHEDULE, 256)) {
            loop->sleeper = sim_world->current;
            (void)sim_block_until(deadline_ns);
            loop->sleeper = NULL;
        }
    }
    loop->kicked = false;
    report(loop);
}

void sim_loop_kick(struct weir_sys_loop *loop)
{
    loop->kicked = true;
    wake(loop);
    sim_preempt();
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connections: two pipes of bounded size. Bytes sent arrive later, in order, in pieces that the seed cuts; what
 * has arrived may be received in smaller pieces still. Operations that find nothing to do wait on their pipe and
 * are tried again, first come, first served, whenever something has changed there.
 */
#include "sys/sim/net.h"
#include "base/iov.h"
#include <errno.h>
#include <poll.h>
#include <string.h>

struct sim_pipe *sim_end_out(struct sim_end *end)
{
    return &end->connection->pipe[end->side];
}

struct sim_pipe *sim_end_in(struct sim_end *end)
{
    return &end->connection->pipe[!end->side];
}

/* ---- operations that wait ---- */

static void wait_cancel(struct sim_io *op)
{
    sim_world->stats.cancelled++;
    sim_io_wait_end(op, op->moved ? (int)op->moved : -ECANCELED);
}

void sim_io_wait(struct sim_io *op, struct sim_ios *list)
{
    op->waiting_on = list;
    op->cancel = wait_cancel;
    TAILQ_INSERT_TAIL(list, op, waiting);
}

void sim_io_wait_end(struct sim_io *op, int result)
{
    TAILQ_REMOVE(op->waiting_on, op, waiting);
    op->waiting_on = NULL;
    op->cancel = NULL;
    sim_io_end(op, result);
}

static int64_t attempt(struct sim_pipe *pipe, struct sim_io *op)
{
    const struct weir_sys_io *io = op->io;

    return io->op == WEIR_SYS_SEND ? sim_pipe_send(pipe, io->iov, io->iovcnt, op->moved)
                                   : sim_pipe_receive(pipe, io->iov, io->iovcnt, op->moved);
}

/* Does what can be done now. True: the operation is over, with *ret_result. */
static bool advance(struct sim_pipe *pipe, struct sim_io *op, int *ret_result)
{
    uint64_t length = weir_iov_length(op->io->iov, op->io->iovcnt);

    for (;;) {
        int64_t result = attempt(pipe, op);

        if (result == -EAGAIN)
            return false;
        if (result > 0)
            op->moved += (uint64_t)result;
        if (result > 0 && (op->io->flags & MSG_WAITALL) && op->moved < length)
            continue;
        *ret_result = op->moved ? (int)op->moved : (int)result;
        return true;
    }
}

static void advance_all(struct sim_pipe *pipe, struct sim_ios *list)
{
    struct sim_io *op;
    int result;

    while ((op = TAILQ_FIRST(list)) && advance(pipe, op, &result))
        sim_io_wait_end(op, result);
}

static void poll_again(struct sim_end *end)
{
    struct sim_io *op = end ? TAILQ_FIRST(&end->pollers) : NULL;

    while (op) {
        struct sim_io *next = TAILQ_NEXT(op, waiting);
        unsigned events = sim_end_events(end) & (op->io->flags | POLLERR | POLLHUP);

        if (events)
            sim_io_wait_end(op, (int)events);
        op = next;
    }
}

/* Something has changed at this pipe. */
static void look_again(struct sim_pipe *pipe)
{
    struct sim_connection *connection = pipe->connection;

    connection->refs++;
    advance_all(pipe, &pipe->receivers);
    advance_all(pipe, &pipe->senders);
    poll_again(connection->end[0]);
    poll_again(connection->end[1]);
    connection->refs--;
}

/* ---- bytes ---- */

static uint32_t part_of(uint32_t count)
{
    if (count > 1 && sim_chance(SIM_NET, sim_world->profile.net_split_ppm))
        return 1 + (uint32_t)sim_below(SIM_NET, count);
    return count;
}

static void arrive(struct sim_event *event);

static void expect(struct sim_pipe *pipe)
{
    bool news = pipe->visible < pipe->used || (pipe->closed_in && !pipe->eof);

    if (news && !pipe->event.place && !pipe->connection->stalled)
        sim_event_at(&pipe->event, sim_world->now + sim_latency(SIM_NET, &sim_world->profile.net), arrive);
}

static void arrive(struct sim_event *event)
{
    struct sim_pipe *pipe = weir_container_of(event, struct sim_pipe, event);

    pipe->visible += part_of(pipe->used - pipe->visible);
    pipe->eof = pipe->closed_in && pipe->visible == pipe->used;
    sim_trace("arrive", pipe->connection->serial, pipe->visible, pipe->eof);
    expect(pipe);
    look_again(pipe);
}

/* Copies between the ring, from @at on, and the vector, from @skip on. */
static void copy(struct sim_pipe *pipe, uint32_t at, const struct iovec *iov, unsigned iovcnt, uint64_t skip,
                 uint32_t count, bool in)
{
    while (count) {
        uint32_t from = at % pipe->size, part = WEIR_MIN(count, pipe->size - from);

        if (in)
            weir_iov_to_buffer(iov, iovcnt, skip, pipe->bytes + from, part);
        else
            weir_iov_from_buffer(iov, iovcnt, skip, pipe->bytes + from, part);
        at += part;
        skip += part;
        count -= part;
    }
}

int64_t sim_pipe_send(struct sim_pipe *pipe, const struct iovec *iov, unsigned iovcnt, uint64_t skip)
{
    uint64_t want = weir_iov_length(iov, iovcnt) - skip;
    uint32_t count = (uint32_t)WEIR_MIN(want, pipe->size - pipe->used);

    if (pipe->closed_in || pipe->closed_out)
        return -EPIPE;
    if (!want)
        return 0;
    if (!count)
        return -EAGAIN;
    count = part_of(count);
    copy(pipe, pipe->head + pipe->used, iov, iovcnt, skip, count, true);
    pipe->used += count;
    sim_world->stats.net_bytes += count;
    sim_trace("send", pipe->connection->serial, count, pipe->used);
    expect(pipe);
    return count;
}

int64_t sim_pipe_receive(struct sim_pipe *pipe, const struct iovec *iov, unsigned iovcnt, uint64_t skip)
{
    uint32_t count = (uint32_t)WEIR_MIN(weir_iov_length(iov, iovcnt) - skip, pipe->visible);

    if (pipe->closed_out)
        return 0;
    if (pipe->reset)
        return -ECONNRESET;
    if (!count)
        return pipe->eof || skip == weir_iov_length(iov, iovcnt) ? 0 : -EAGAIN;
    count = part_of(count);
    copy(pipe, pipe->head, iov, iovcnt, skip, count, false);
    pipe->head = (pipe->head + count) % pipe->size;
    pipe->used -= count;
    pipe->visible -= count;
    sim_trace("receive", pipe->connection->serial, count, pipe->used);
    return count;
}

void sim_end_look_again(struct sim_end *end)
{
    look_again(sim_end_in(end));
    look_again(sim_end_out(end));
}

void sim_connection_stall(struct sim_connection *connection, bool stalled)
{
    connection->stalled = stalled;
    for (unsigned side = 0; side < 2; side++) {
        sim_event_cancel(&connection->pipe[side].event);
        expect(&connection->pipe[side]);
    }
}

/* ---- ends ---- */

static void pipe_init(struct sim_pipe *pipe, struct sim_connection *connection)
{
    pipe->connection = connection;
    pipe->size = sim_world->profile.net_buffer;
    pipe->bytes = weir_alloc(pipe->size);
    TAILQ_INIT(&pipe->receivers);
    TAILQ_INIT(&pipe->senders);
}

void sim_connection_new(struct sim_end *ret_ends[2])
{
    struct sim_connection *connection = weir_new(struct sim_connection);

    connection->serial = ++sim_world->connection_serial;
    connection->refs = 2;
    for (unsigned side = 0; side < 2; side++) {
        struct sim_end *end = weir_new(struct sim_end);

        pipe_init(&connection->pipe[side], connection);
        end->connection = connection;
        end->side = side;
        TAILQ_INIT(&end->pollers);
        connection->end[side] = ret_ends[side] = end;
    }
    sim_world->stats.connections++;
}

void sim_end_shutdown(struct sim_end *end)
{
    struct sim_pipe *out = sim_end_out(end), *in = sim_end_in(end);

    sim_trace("shutdown", end->connection->serial, end->side, 0);
    out->closed_in = true;
    in->closed_out = true;
    expect(out);
    look_again(out);
    look_again(in);
}

void sim_end_free(struct sim_end *end)
{
    struct sim_connection *connection = end->connection;
    struct sim_pipe *out = sim_end_out(end);

    /* What was sent to it and never received makes the other side see a reset. */
    if (sim_end_in(end)->used && !out->closed_in)
        out->reset = true;
    sim_end_shutdown(end);
    connection->end[end->side] = NULL;
    free(end);
    if (--connection->refs)
        return;
    for (unsigned side = 0; side < 2; side++) {
        sim_event_cancel(&connection->pipe[side].event);
        free(connection->pipe[side].bytes);
    }
    free(connection);
}

unsigned sim_end_events(struct sim_end *end)
{
    struct sim_pipe *out = sim_end_out(end), *in = sim_end_in(end);
    bool ended = in->eof || in->reset || in->closed_out;
    unsigned events = 0;

    if (in->visible || ended)
        events |= POLLIN;
    if (ended)
        events |= POLLRDHUP;
    if (out->used < out->size || out->closed_in || out->closed_out)
        events |= POLLOUT;
    if (out->closed_out && ended)
        events |= POLLHUP;
    if (in->reset)
        events |= POLLERR;
    return events;
}

static void start_poll(struct sim_end *end, struct sim_io *op)
{
    unsigned events = sim_end_events(end) & (op->io->flags | POLLERR | POLLHUP);

    if (events)
        sim_io_end(op, (int)events);
    else
        sim_io_wait(op, &end->pollers);
}

void sim_end_io_start(struct sim_end *end, struct sim_io *op)
{
    bool send = op->io->op == WEIR_SYS_SEND;
    struct sim_pipe *pipe = send ? sim_end_out(end) : sim_end_in(end);
    struct sim_ios *list = send ? &pipe->senders : &pipe->receivers;
    int result;

    if (op->io->op == WEIR_SYS_POLL) {
        start_poll(end, op);
        return;
    }
    if (op->io->op != WEIR_SYS_SEND && op->io->op != WEIR_SYS_RECV) {
        sim_io_end(op, -EINVAL);
        return;
    }
    if (TAILQ_EMPTY(list) && advance(pipe, op, &result))
        sim_io_end(op, result);
    else if (op->io->flags & MSG_DONTWAIT)
        sim_io_end(op, op->moved ? (int)op->moved : -EAGAIN);
    else
        sim_io_wait(op, list);
    look_again(pipe);
}

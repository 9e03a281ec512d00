/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transmission: a turn takes all requests that have arrived, hands them to the core as one batch, sends the answers
 * with one call, and receives again.
 *
 * A turn is bounded (ROUNDS_MAX batches of BATCH_MAX requests), so that connections of one loop take turns. Nothing is
 * read while the connection has its share in flight. What the core answers later queues a turn, so that what is
 * answered in one turn of the loop is sent with one call too.
 */
#include "export/nbd/internal.h"
#include "io/io.h"
#include <errno.h>
#include <poll.h>

#define BATCH_MAX 8u /* few, so that the client has answers to read while the next are made */
#define ROUNDS_MAX 8u
#define COLLECT_MAX 4u  /* rounds that one send may answer */
#define PROBE_EVERY 16u /* see receive_more() */
#define LUCK_MAX 8u

enum outcome {
    OUTCOME_MORE,  /* everything that has arrived was taken */
    OUTCOME_AGAIN, /* there may be more */
    OUTCOME_STOP,  /* nothing can be taken now */
};

static void run_turn(struct weir_nbd_connection *connection);

static bool has_room(const struct weir_nbd_connection *connection)
{
    return connection->in_flight < WEIR_NBD_REQUESTS_MAX && connection->bytes < WEIR_NBD_BYTES_MAX;
}

/* ---- requests ---- */

static enum outcome take_requests(struct weir_nbd_connection *connection)
{
    struct weir_request *batch[BATCH_MAX];
    enum outcome outcome = OUTCOME_AGAIN;
    unsigned count = 0;

    if (connection->ending || connection->receiving || connection->resting)
        return OUTCOME_STOP;
    connection->rules.size = atomic_load_explicit(&connection->export->size, memory_order_relaxed);
    while (count < BATCH_MAX && has_room(connection)) {
        struct weir_nbd_command command;
        struct weir_nbd_request *request;
        const char *reason = NULL;
        enum weir_nbd_next next =
            weir_nbd_stream_next(&connection->stream, &connection->rules, &command, &reason);

        if (next == WEIR_NBD_MORE) {
            outcome = OUTCOME_MORE;
            break;
        }
        if (next == WEIR_NBD_BROKEN || (command.type == NBD_CMD_DISC && !command.error)) {
            weir_nbd_connection_end(connection, reason ? reason : "disconnected", 0);
            outcome = OUTCOME_STOP;
            break;
        }
        request = weir_nbd_request_new(connection, &command);
        if (weir_nbd_request_prepare(request))
            batch[count++] = &request->request;
    }
    if (count)
        weir_root_batch(connection->edge, batch, count);
    return outcome;
}

/* ---- receiving ---- */

/* Whether there is something new to parse. */
static bool received(struct weir_nbd_connection *connection, ssize_t result)
{
    if (result > 0) {
        connection->full = (size_t)result == connection->receive_room;
        weir_nbd_stream_received(&connection->stream, (size_t)result);
    } else if (result == 0) {
        weir_nbd_connection_end(connection, "hung up", 0);
    } else {
        weir_nbd_connection_break(connection, "cannot be reached", (int)result);
    }
    return result > 0;
}

static void receive_done(struct weir_sys_io *io, int result)
{
    struct weir_nbd_connection *connection = weir_container_of(io, struct weir_nbd_connection, receive_io);

    connection->receiving = false;
    (void)received(connection, result); /* the turn sees it */
    run_turn(connection);
}

/* Where to receive; 0 elements when the connection ends for want of memory. */
static unsigned receive_space(struct weir_nbd_connection *connection)
{
    struct iovec *iov = connection->receive_iov;
    unsigned count = weir_nbd_stream_space(&connection->stream, iov);

    if (!count)
        weir_nbd_connection_break(connection, "no memory", -ENOMEM);
    connection->receive_room = count ? iov[0].iov_len + (count > 1 ? iov[1].iov_len : 0) : 0;
    return count;
}

/* Whether something new has arrived. */
static bool receive_now(struct weir_nbd_connection *connection)
{
    unsigned count = receive_space(connection);
    ssize_t result;

    if (!count)
        return false;
    result = weir_sys->net.recv_now(connection->fd, connection->receive_iov, count, 0);
    return result != -EAGAIN && received(connection, result);
}

/* ---- rests ---- */

static void poll_done(struct weir_sys_io *io, int result)
{
    struct weir_nbd_connection *connection = weir_container_of(io, struct weir_nbd_connection, poll_io);

    (void)result; /* whatever has happened to the socket shows when something is received */
    connection->polling = false;
    if (connection->resting)
        weir_nbd_rest_over(connection);
    else
        weir_nbd_connection_finish(connection);
}

static void watch_rest(struct weir_nbd_connection *connection);

static void rest_limit(struct weir_timer *timer)
{
    struct weir_nbd_connection *connection = weir_container_of(timer, struct weir_nbd_connection, rest_limit);

    connection->watched = false;
    if (!connection->resting)
        return;
    if (connection->rests != connection->watched_rest) {
        watch_rest(connection);
        return;
    }
    /* It may be waiting for us, to take what it sends before it reads. */
    weir_nbd_pace_fails(&connection->pace);
    weir_nbd_rest_over(connection);
}

/* One timer for thousands of rests: to arm and cancel one for each would cost as much as they save. */
static void watch_rest(struct weir_nbd_connection *connection)
{
    connection->watched = true;
    connection->watched_rest = connection->rests;
    connection->rest_limit.run = rest_limit;
    weir_timer_arm(&connection->rest_limit, weir_sys->clock_ns() + WEIR_NBD_REST_MAX_NS);
}

/*
 * Until the client has read most of what it was sent; everything is answered. An answer that the socket did not take
 * goes when the same is true, so its end is the end of the rest; else a poll says it.
 */
static void rest(struct weir_nbd_connection *connection)
{
    connection->resting = true;
    connection->rests++;
    if (!connection->sending) {
        connection->polling = true;
        connection->poll_io = (struct weir_sys_io){
            .op = WEIR_SYS_POLL,
            .fd = connection->fd,
            .flags = POLLOUT,
            .done = poll_done,
        };
        weir_loop_submit(&connection->poll_io);
    }
    if (!connection->watched)
        watch_rest(connection);
}

/* True when something has arrived already; otherwise it is waited for, or the connection ends. */
static bool receive(struct weir_nbd_connection *connection)
{
    struct weir_sys_io *io = &connection->receive_io;
    unsigned count;

    if (connection->full && receive_now(connection))
        return true;
    if (connection->ending)
        return false;
    if (!connection->unanswered && !connection->polling &&
        weir_nbd_pace_rests(&connection->pace, connection->requests)) {
        rest(connection);
        return false;
    }
    count = receive_space(connection);
    if (!count)
        return false;
    /* Not by recv_now() first: the ring takes what is there by the call that would sleep anyway. */
    *io = (struct weir_sys_io){
        .op = WEIR_SYS_RECV,
        .fd = connection->fd,
        .iov = connection->receive_iov,
        .iovcnt = count,
        .done = receive_done,
    };
    connection->receiving = true;
    weir_loop_submit(io);
    return false;
}

/*
 * Looks for more requests before it answers, so that more answers go with one send. That is worth its call only where
 * the client sends faster than we answer; elsewhere one batch of PROBE_EVERY finds out whether this has changed.
 */
static bool receive_more(struct weir_nbd_connection *connection)
{
    if (!connection->luck && ++connection->probes % PROBE_EVERY)
        return false;
    if (receive_now(connection)) {
        connection->luck = LUCK_MAX;
        return true;
    }
    if (connection->luck)
        connection->luck--;
    return false;
}

void weir_nbd_rest_over(struct weir_nbd_connection *connection)
{
    connection->resting = false;
    (void)receive_now(connection); /* the turn sees what came, or that it ended */
    run_turn(connection);
}

/* ---- turns ---- */

static void run_turn(struct weir_nbd_connection *connection)
{
    unsigned round, unsent = 0;

    WEIR_ASSERT(!connection->in_turn);
    connection->in_turn = true;
    if (atomic_load_explicit(&connection->dropped, memory_order_acquire))
        weir_nbd_connection_break(connection, "sent away", 0);
    for (round = 0; round < ROUNDS_MAX; round++) {
        enum outcome outcome;

        if (!has_room(connection))
            weir_nbd_send(connection);
        if (!has_room(connection))
            break;
        outcome = take_requests(connection);
        if (outcome == OUTCOME_MORE && ++unsent < COLLECT_MAX && receive_more(connection))
            continue;
        weir_nbd_send(connection);
        unsent = 0;
        if (outcome == OUTCOME_STOP || (outcome == OUTCOME_MORE && !receive(connection)))
            break;
    }
    if (round == ROUNDS_MAX)
        weir_nbd_send(connection);
    connection->in_turn = false;
    if (round == ROUNDS_MAX)
        weir_nbd_queue_turn(connection);
    weir_nbd_connection_finish(connection);
}

static void turn(struct weir_call *call)
{
    struct weir_nbd_connection *connection = weir_container_of(call, struct weir_nbd_connection, turn);

    connection->turn_queued = false;
    run_turn(connection);
}

void weir_nbd_queue_turn(struct weir_nbd_connection *connection)
{
    if (connection->turn_queued || connection->in_turn)
        return;
    connection->turn_queued = true;
    connection->turn.run = turn;
    weir_loop_call(weir_loop_self(), &connection->turn);
}

void weir_nbd_transmission_start(struct weir_nbd_connection *connection)
{
    connection->rules.read_only = !connection->export->writable;
    connection->rules.structured = connection->handshake.structured;
    connection->rules.base_allocation = connection->handshake.base_allocation;
    weir_nbd_queue_turn(connection);
}

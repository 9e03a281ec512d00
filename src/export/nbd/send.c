/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Answers out: headers and data of all that is answered in one vector and one call. What the socket does not take
 * is left to the ring; until that has ended, vector and answers stay as they are and further answers queue behind.
 *
 * One call takes no more answers than fill a piece: the socket gives its memory back, which tells how far the client
 * has read (pace.h), only when a whole piece is read.
 */
#include "export/nbd/internal.h"
#include <errno.h>

#define PIECE 16384u

static unsigned add(struct iovec *iov, unsigned count, const void *data, size_t length, size_t *skip)
{
    size_t skipped = WEIR_MIN(*skip, length);

    *skip -= skipped;
    if (skipped == length)
        return count;
    iov[count] = (struct iovec){ (uint8_t *)(uintptr_t)data + skipped, length - skipped };
    return count + 1;
}

/* Fills send_iov, from the first byte that is not on the wire yet, until it has @most bytes or more. */
static unsigned gather(struct weir_nbd_connection *connection, size_t most, size_t *ret_total)
{
    struct iovec *iov = connection->send_iov;
    size_t skip = connection->sent, total = 0;
    struct weir_nbd_request *request;
    unsigned count = 0;

    STAILQ_FOREACH (request, &connection->answered, link) {
        const struct weir_nbd_reply *reply = &request->reply;

        if (count + 2 > WEIR_NBD_SEND_IOVS || (total > connection->sent && total - connection->sent >= most))
            break;
        count = add(iov, count, reply->head, reply->head_length, &skip);
        count = add(iov, count, reply->body, reply->body_length, &skip);
        total += reply->head_length + reply->body_length;
    }
    *ret_total = total - connection->sent;
    return count;
}

/* @length more bytes are on the wire. */
static void advance(struct weir_nbd_connection *connection, size_t length)
{
    struct weir_nbd_request *request;

    connection->sent += length;
    while ((request = STAILQ_FIRST(&connection->answered))) {
        size_t size = request->reply.head_length + (size_t)request->reply.body_length;

        if (connection->sent < size)
            break;
        connection->sent -= size;
        STAILQ_REMOVE_HEAD(&connection->answered, link);
        weir_nbd_request_free(request);
    }
}

void weir_nbd_send_drop(struct weir_nbd_connection *connection)
{
    struct weir_nbd_request *request;

    WEIR_ASSERT(!connection->sending);
    while ((request = STAILQ_FIRST(&connection->answered))) {
        STAILQ_REMOVE_HEAD(&connection->answered, link);
        weir_nbd_request_free(request);
    }
    connection->sent = 0;
}

static void send_done(struct weir_sys_io *io, int result)
{
    struct weir_nbd_connection *connection = weir_container_of(io, struct weir_nbd_connection, send_io);

    connection->sending = false;
    if (result < 0)
        weir_nbd_connection_break(connection, "cannot be reached", result);
    else
        advance(connection, (size_t)result);
    if (connection->resting)
        weir_nbd_rest_over(connection);
    else
        weir_nbd_queue_turn(connection);
}

/* The socket is full: the ring sends all there is when it can. */
static void send_later(struct weir_nbd_connection *connection)
{
    size_t total;
    unsigned count = gather(connection, SIZE_MAX, &total);

    connection->send_io = (struct weir_sys_io){
        .op = WEIR_SYS_SEND,
        .fd = connection->fd,
        .iov = connection->send_iov,
        .iovcnt = count,
        .done = send_done,
    };
    connection->sending = true;
    weir_loop_submit(&connection->send_io);
}

void weir_nbd_send(struct weir_nbd_connection *connection)
{
    bool room = true;

    while (!connection->sending && !connection->broken && !STAILQ_EMPTY(&connection->answered)) {
        size_t total;
        unsigned count = room ? gather(connection, PIECE, &total) : 0;
        ssize_t sent =
            room ? weir_sys->net.send_now(connection->fd, connection->send_iov, count, 0) : -EAGAIN;

        if (sent == -EAGAIN) {
            send_later(connection);
        } else if (sent < 0) {
            weir_nbd_connection_break(connection, "cannot be reached", (int)sent);
        } else {
            advance(connection, (size_t)sent);
            room = (size_t)sent == total;
        }
    }
    if (connection->broken && !connection->sending)
        weir_nbd_send_drop(connection);
}

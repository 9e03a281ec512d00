/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Answers in: heads are parsed in a buffer, the data of reads goes from the socket to where the reader of it wants it,
 * but for what has come along with a head. Everything is checked; what the protocol does not allow ends the connection.
 * If a command can be blamed for it, that one fails with -EIO: sent again it would meet the same answer.
 */
#include "protocol/nbd/client.h"

#include "base/iov.h"
#include <errno.h>

/* The contents of chunks that are no data: text is at most 4096 bytes, extents were asked for one by one. */
#define CONTENT_MAX 65536u

/* ---- bytes ---- */

static size_t available(const struct nbd_connection *connection)
{
    return connection->rx_end - connection->rx_start;
}

/* Receives into the first @count elements of rx_iov, and behind them into the buffer; bytes, or a negative error. */
static weir_co_fn int receive(struct nbd_connection *connection, unsigned count)
{
    struct weir_sys_io io = { .op = WEIR_SYS_RECV, .fd = connection->fd, .iov = connection->rx_iov };
    int ret;

    connection->rx_iov[count] =
        (struct iovec){ connection->rx + connection->rx_end, NBD_RX_SIZE - connection->rx_end };
    io.iovcnt = count + 1;
    ret = weir_co_io(&io);
    return ret ? ret : -ECONNRESET;
}

/* Lets at least @length bytes be there in one piece. */
static weir_co_fn int need(struct nbd_connection *connection, size_t length)
{
    size_t left = available(connection);

    WEIR_ASSERT(length <= NBD_RX_SIZE);
    if (left < length) {
        memmove(connection->rx, connection->rx + connection->rx_start, left);
        connection->rx_start = 0;
        connection->rx_end = left;
    }
    while (available(connection) < length) {
        int ret = receive(connection, 0);

        if (ret < 0)
            return ret;
        connection->rx_end += (size_t)ret;
    }
    return 0;
}

static const uint8_t *take(struct nbd_connection *connection, size_t length)
{
    const uint8_t *data = connection->rx + connection->rx_start;

    connection->rx_start += length;
    return data;
}

/* The next @length bytes are data, for @at in the vector of @command. */
static weir_co_fn int take_data(struct nbd_connection *connection, const struct nbd_command *command,
                                uint64_t at, uint64_t length)
{
    uint64_t here = WEIR_MIN(length, (uint64_t)available(connection));

    weir_iov_from_buffer(command->iov, command->iovcnt, at, take(connection, here), here);
    at += here;
    length -= here;
    if (length)
        connection->rx_start = connection->rx_end = 0;
    while (length) {
        unsigned count = weir_iov_slice(command->iov, command->iovcnt, at, length, connection->rx_iov);
        int ret = receive(connection, count);

        if (ret < 0)
            return ret;
        here = WEIR_MIN(length, (uint64_t)ret);
        connection->rx_end += (uint64_t)ret - here;
        at += here;
        length -= here;
    }
    return 0;
}

/* ---- answers ---- */

static void note_error(struct nbd_command *command, int error)
{
    if (!command->error)
        command->error = error;
}

/* A range of a read that is answered now; false when it must not be. */
static bool note_piece(struct nbd_command *command, uint64_t offset, uint64_t length)
{
    return command->type == NBD_CMD_READ && length && offset >= command->offset &&
           offset - command->offset <= command->length &&
           length <= command->length - (offset - command->offset) &&
           nbd_pieces_add(&command->pieces, offset, length);
}

static weir_co_fn int take_data_chunk(struct nbd_connection *connection, struct nbd_command *command,
                                      uint32_t length)
{
    uint64_t offset;
    int ret;

    if (length <= 8)
        return -EPROTO;
    ret = need(connection, 8);
    if (ret)
        return ret;
    offset = weir_nbd_get64(take(connection, 8));
    if (!note_piece(command, offset, length - 8))
        return -EPROTO;
    return take_data(connection, command, offset - command->offset, length - 8);
}

static int take_hole(struct nbd_command *command, const uint8_t *data, uint32_t length)
{
    uint64_t offset, size;

    if (length != 12)
        return -EPROTO;
    offset = weir_nbd_get64(data);
    size = weir_nbd_get32(data + 8);
    if (!note_piece(command, offset, size))
        return -EPROTO;
    weir_iov_fill(command->iov, command->iovcnt, offset - command->offset, 0, size);
    return 0;
}

/* One extent was asked for; some servers send more, or tell more of it than was asked. */
static int take_status(const struct nbd_connection *connection, struct nbd_command *command,
                       const uint8_t *data, uint32_t length)
{
    uint32_t extent;

    if (command->type != NBD_CMD_BLOCK_STATUS || command->status_length || length < 12 || (length - 4) % 8 ||
        !connection->info.has_context || weir_nbd_get32(data) != connection->info.context_id)
        return -EPROTO;
    extent = weir_nbd_get32(data + 4);
    if (!extent)
        return -EPROTO;
    command->status_length = WEIR_MIN(extent, command->length);
    command->status_flags = weir_nbd_get32(data + 8);
    return 0;
}

static int take_error(struct nbd_command *command, unsigned type, const uint8_t *data, uint32_t length)
{
    uint32_t code, text;

    if (length < 6)
        return -EPROTO;
    code = weir_nbd_get32(data);
    text = weir_nbd_get16(data + 4);
    if (!code || text > length - 6 || (type == NBD_REPLY_TYPE_ERROR && text != length - 6) ||
        (type == NBD_REPLY_TYPE_ERROR_OFFSET && text + 8 != length - 6))
        return -EPROTO;
    note_error(command, nbd_error_get(code));
    return 0;
}

static weir_co_fn int take_chunk(struct nbd_connection *connection, struct nbd_command *command,
                                 const struct nbd_reply *reply)
{
    const uint8_t *data;
    int ret;

    if (reply->type == NBD_REPLY_TYPE_OFFSET_DATA)
        return take_data_chunk(connection, command, reply->length);
    if (reply->length > CONTENT_MAX)
        return -EPROTO;
    ret = need(connection, reply->length);
    if (ret)
        return ret;
    data = take(connection, reply->length);
    if (reply->type & NBD_REPLY_TYPE_ERROR_BIT)
        return take_error(command, reply->type, data, reply->length);
    switch (reply->type) {
    case NBD_REPLY_TYPE_NONE:
        return reply->length || !reply->last ? -EPROTO : 0;
    case NBD_REPLY_TYPE_OFFSET_HOLE:
        return take_hole(command, data, reply->length);
    case NBD_REPLY_TYPE_BLOCK_STATUS:
        return take_status(connection, command, data, reply->length);
    default:
        return -EPROTO;
    }
}

static weir_co_fn int take_simple(struct nbd_connection *connection, struct nbd_command *command,
                                  const struct nbd_reply *reply)
{
    /* With structured replies these two must have one. */
    if (connection->info.structured &&
        (command->type == NBD_CMD_READ || command->type == NBD_CMD_BLOCK_STATUS))
        return -EPROTO;
    note_error(command, reply->error);
    if (command->type != NBD_CMD_READ || reply->error)
        return 0;
    if (!nbd_pieces_add(&command->pieces, command->offset, command->length))
        return -EPROTO;
    return take_data(connection, command, 0, command->length);
}

/* Whether an answer that claims to be the whole one is. */
static bool is_whole(const struct nbd_command *command)
{
    if (command->error)
        return true;
    if (command->type == NBD_CMD_READ)
        return nbd_pieces_cover(&command->pieces, command->offset, command->length);
    return command->type != NBD_CMD_BLOCK_STATUS || command->status_length;
}

/* The next head, and the command that it belongs to. */
static weir_co_fn int next_reply(struct nbd_connection *connection, struct nbd_reply *reply,
                                 struct nbd_command **ret_command)
{
    int ret, size = 0;

    for (size_t least = NBD_SIMPLE_REPLY_SIZE; !size; least = NBD_STRUCTURED_REPLY_SIZE) {
        ret = need(connection, least);
        if (ret)
            return ret;
        size = nbd_reply_get(connection->rx + connection->rx_start, available(connection), reply);
    }
    if (size < 0 || (reply->structured && !connection->info.structured))
        return -EPROTO;
    (void)take(connection, (size_t)size);
    *ret_command = nbd_connection_find(connection, reply->cookie);
    return *ret_command ? 0 : -EPROTO;
}

static weir_co_fn int receive_one(struct nbd_connection *connection, const struct nbd_command *own,
                                  bool *ret_own_done)
{
    struct nbd_command *command;
    struct nbd_reply reply;
    int ret = next_reply(connection, &reply, &command);

    if (ret)
        return ret;
    ret =
        reply.structured ? take_chunk(connection, command, &reply) : take_simple(connection, command, &reply);
    if (!ret && reply.last && !is_whole(command))
        ret = -EPROTO;
    /* It tells us to go, and its successor may take it. */
    if (!ret && reply.last && command->error == -ESHUTDOWN)
        return -ESHUTDOWN;
    if (ret == -EPROTO)
        command->error = -EIO;
    else if (ret || !reply.last)
        return ret;
    *ret_own_done = command == own;
    nbd_connection_answer(connection, command);
    return ret;
}

int nbd_receive(struct nbd_connection *connection, struct nbd_command *command)
{
    bool done = false;
    int ret = 0;

    while (!done && !ret)
        ret = receive_one(connection, command, &done);
    return ret;
}

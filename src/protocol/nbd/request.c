/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests of the core as NBD commands, again and again until one has been answered or time is up.
 */
#include "protocol/nbd/client.h"

#include "io/request.h"
#include <errno.h>

static bool changes(const struct nbd_command *command)
{
    return command->type == NBD_CMD_WRITE || command->type == NBD_CMD_WRITE_ZEROES ||
           command->type == NBD_CMD_TRIM;
}

/*
 * Sent again after a loss, for as long as reconnect-delay allows; what changes nothing at once where a connection is
 * up.
 */
static weir_co_fn int perform(struct nbd_client *client, struct nbd_command *command)
{
    int64_t limit_ns = -1;
    uint64_t above = 0;

    for (unsigned losses = 0;;) {
        /* Before: whichever connection is lost then, its successor has a higher number. */
        uint64_t latest = nbd_client_latest(client);
        struct nbd_connection *connection = nbd_client_get(client, above, limit_ns);
        int ret;

        if (!connection)
            return -EIO;
        ret = nbd_connection_do(connection, command);
        nbd_connection_unref(connection);
        if (ret != NBD_LOST)
            return ret;
        if (limit_ns < 0)
            limit_ns = weir_sys->clock_ns() + client->reconnect_ns;
        /* With a server that takes connections and drops them this must end too. */
        if (++losses >= client->connections && weir_sys->clock_ns() >= limit_ns)
            return -EIO;
        if (changes(command))
            above = latest;
    }
}

static unsigned fua(const struct nbd_client *client, const struct weir_request *request)
{
    return request->flags & WEIR_REQUEST_FUA && client->info.flags & NBD_FLAG_SEND_FUA ? NBD_CMD_FLAG_FUA : 0;
}

static weir_co_fn int zero(struct nbd_client *client, const struct weir_request *request,
                           struct nbd_command *command)
{
    bool quick = request->flags & WEIR_REQUEST_NO_FALLBACK;

    if (!(client->info.flags & NBD_FLAG_SEND_WRITE_ZEROES) ||
        (quick && !(client->info.flags & NBD_FLAG_SEND_FAST_ZERO)))
        return -ENOTSUP;
    command->type = NBD_CMD_WRITE_ZEROES;
    command->flags = fua(client, request) | (quick ? NBD_CMD_FLAG_FAST_ZERO : 0) |
                     (request->flags & WEIR_REQUEST_MAY_UNMAP ? 0 : NBD_CMD_FLAG_NO_HOLE);
    return perform(client, command);
}

/*
 * Whole blocks are asked about, no more than 32 bits can tell. The two bits are those of base:allocation; a context of
 * the user's own is read as if it had the same, as QEMU does.
 */
static weir_co_fn int status(struct weir_node *node, const struct weir_request *request,
                             struct nbd_command *command)
{
    struct nbd_client *client = weir_node_state(node);
    uint64_t align = client->info.block_min, before = request->offset % align;
    uint64_t whole = weir_align_up(before + request->length, align);
    int ret;

    if (!client->info.has_context)
        return -ENOTSUP;
    command->type = NBD_CMD_BLOCK_STATUS;
    command->flags = NBD_CMD_FLAG_REQ_ONE;
    command->offset = request->offset - before;
    command->length = (uint32_t)WEIR_MIN(whole, weir_align_down(UINT32_MAX, align));
    ret = perform(client, command);
    if (ret)
        return ret;
    /* Part of a block: the server does not keep to its own sizes. */
    if (command->status_length <= before)
        return -ENOTSUP;
    *request->status =
        (struct weir_status){ .length = WEIR_MIN(command->status_length - before, request->length),
                              .data = !(command->status_flags & NBD_STATE_HOLE),
                              .zero = command->status_flags & NBD_STATE_ZERO,
                              .allocated = true,
                              .file = node,
                              .file_offset = request->offset };
    return 0;
}

int nbd_submit(struct weir_node *node, struct weir_request *request)
{
    struct nbd_client *client = weir_node_state(node);
    struct nbd_command command = {
        .offset = request->offset,
        .length = (uint32_t)request->length,
        .iov = request->iov,
        .iovcnt = request->iovcnt,
    };

    switch (request->op) {
    case WEIR_OP_READ:
        command.type = NBD_CMD_READ;
        return perform(client, &command);
    case WEIR_OP_WRITE:
        command.type = NBD_CMD_WRITE;
        command.flags = fua(client, request);
        return perform(client, &command);
    case WEIR_OP_ZERO:
        return zero(client, request, &command);
    case WEIR_OP_DISCARD:
        command.type = NBD_CMD_TRIM;
        return client->info.flags & NBD_FLAG_SEND_TRIM ? perform(client, &command) : -ENOTSUP;
    case WEIR_OP_FLUSH:
        command = (struct nbd_command){ .type = NBD_CMD_FLUSH };
        return client->info.flags & NBD_FLAG_SEND_FLUSH ? perform(client, &command) : 0;
    case WEIR_OP_STATUS:
        return status(node, request, &command);
    }
    return -ENOTSUP;
}

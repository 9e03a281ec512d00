/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Answers as they go over the wire. With structured replies negotiated, reads and failures use chunks (one each, the
 * last at once, so that DF is always honoured); other successes stay simple replies, which are shorter.
 */
#include "export/nbd/reply.h"

#include "export/nbd/proto.h"

static void simple(struct weir_nbd_reply *reply, const struct weir_nbd_command *command, uint32_t error)
{
    weir_nbd_put32(reply->head, NBD_SIMPLE_REPLY_MAGIC);
    weir_nbd_put32(reply->head + 4, error);
    weir_nbd_put64(reply->head + 8, command->cookie);
    reply->head_length = 16;
    reply->body_length = 0;
    reply->body = NULL;
}

/* The head of a chunk; @own bytes of the chunk's content stand in the head too. */
static void chunk(struct weir_nbd_reply *reply, const struct weir_nbd_command *command, uint16_t type,
                  uint32_t own, uint32_t body_length)
{
    weir_nbd_put32(reply->head, NBD_STRUCTURED_REPLY_MAGIC);
    weir_nbd_put16(reply->head + 4, NBD_REPLY_FLAG_DONE);
    weir_nbd_put16(reply->head + 6, type);
    weir_nbd_put64(reply->head + 8, command->cookie);
    weir_nbd_put32(reply->head + 16, own + body_length);
    reply->head_length = 20 + own;
    reply->body_length = body_length;
    reply->body = NULL;
}

void weir_nbd_reply_success(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                            bool structured, const void *data)
{
    if (command->type != NBD_CMD_READ) {
        simple(reply, command, 0);
        return;
    }
    if (!structured) {
        simple(reply, command, 0);
        reply->body_length = command->length;
    } else if (!command->length) {
        chunk(reply, command, NBD_REPLY_TYPE_NONE, 0, 0);
    } else {
        chunk(reply, command, NBD_REPLY_TYPE_OFFSET_DATA, 8, command->length);
        weir_nbd_put64(reply->head + 20, command->offset);
    }
    reply->body = data;
}

void weir_nbd_reply_error(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                          bool structured, int error, const char *message)
{
    uint32_t code = weir_nbd_wire_error(error);
    uint16_t length = (uint16_t)(message ? strnlen(message, WEIR_NBD_STRING_MAX) : 0);

    if (!structured) {
        simple(reply, command, code);
        return;
    }
    chunk(reply, command, NBD_REPLY_TYPE_ERROR, 6, length);
    weir_nbd_put32(reply->head + 20, code);
    weir_nbd_put16(reply->head + 24, length);
    reply->body = message;
}

void weir_nbd_reply_status(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                           const void *descriptors, unsigned count)
{
    chunk(reply, command, NBD_REPLY_TYPE_BLOCK_STATUS, 4, 8 * count);
    weir_nbd_put32(reply->head + 20, WEIR_NBD_BASE_ALLOCATION_ID);
    reply->body = descriptors;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an NBD client sends: negotiation, then requests with their data, in pieces of any size. The first byte says
 * how long the pieces are. No socket and no graph: exports come from a table, and every request is answered at once,
 * as a node of nothing but zeroes would.
 */
#include "fuzz.h"
#include "export/nbd/handshake.h"
#include "export/nbd/proto.h"
#include "io/buffer.h"
#include <errno.h>
#include <stdlib.h>

#define SIZE ((uint64_t)1 << 40)
/* Sent behind the input while a write waits for its data, or a refused one for its end. */
#define TAIL ((uint64_t)1 << 20)

static weir_co_fn int find(void *arg, const char *name, bool attach, struct weir_nbd_info *ret_info)
{
    bool *attached = arg;

    if (strcmp(name, "disk") && strcmp(name, "ro"))
        return -ENOENT;
    WEIR_ASSERT(!*attached);
    *attached = attach;
    *ret_info = (struct weir_nbd_info){ .size = SIZE, .preferred_size = 4096, .read_only = *name == 'r' };
    ret_info->description = *name == 'd' ? strdup("a disk") : NULL;
    return 0;
}

static weir_co_fn unsigned list(void *arg, struct weir_nbd_listing **ret_listings)
{
    struct weir_nbd_listing *listings = calloc(2, sizeof(*listings));

    WEIR_ASSERT(listings);
    listings[0] = (struct weir_nbd_listing){ strdup("disk"), strdup("a disk") };
    listings[1] = (struct weir_nbd_listing){ strdup("ro"), NULL };
    *ret_listings = listings;
    return 2;
}

static const struct weir_nbd_directory directory = { .find = find, .list = list };

/* ---- transmission ---- */

static void check_reply(const struct weir_nbd_reply *reply, bool structured)
{
    uint32_t magic = weir_nbd_get32(reply->head);

    WEIR_ASSERT(reply->head_length <= sizeof(reply->head));
    WEIR_ASSERT(magic == NBD_SIMPLE_REPLY_MAGIC || (structured && magic == NBD_STRUCTURED_REPLY_MAGIC));
    if (magic == NBD_STRUCTURED_REPLY_MAGIC)
        WEIR_ASSERT(weir_nbd_get32(reply->head + 16) == reply->head_length - 20 + reply->body_length);
}

static void answer(const struct weir_nbd_rules *rules, struct weir_nbd_command *command)
{
    struct weir_nbd_reply reply;

    WEIR_ASSERT(weir_nbd_command_name(command->type));
    if (command->error) {
        WEIR_ASSERT(command->error < 0 && command->message && !command->buffer);
        weir_nbd_reply_error(&reply, command, rules->structured, command->error, command->message);
    } else if (command->type == NBD_CMD_BLOCK_STATUS) {
        weir_nbd_reply_status(&reply, command, "\0\0\0\1\0\0\0\0", 1);
    } else {
        WEIR_ASSERT(command->offset <= rules->size || command->type == NBD_CMD_FLUSH);
        weir_nbd_reply_success(&reply, command, rules->structured, "");
    }
    check_reply(&reply, rules->structured);
    /* The data can be read from the first byte to the last. */
    if (command->buffer && command->length) {
        const uint8_t *bytes = command->payload;
        uint32_t sum = bytes[command->length - 1];

        for (uint32_t i = 0; i < command->length; i += 512)
            sum += bytes[i];
        WEIR_ASSERT(sum < UINT32_MAX);
    }
    weir_buffer_unref(command->buffer);
}

/* False: the connection ends. A few answers are held back, as those of slow requests are. */
static bool take_commands(struct weir_nbd_stream *stream, const struct weir_nbd_rules *rules)
{
    struct weir_nbd_command held = { 0 };
    enum weir_nbd_next next;
    const char *reason = NULL;
    struct weir_nbd_command command;

    while ((next = weir_nbd_stream_next(stream, rules, &command, &reason)) == WEIR_NBD_COMMAND &&
           command.type != NBD_CMD_DISC) {
        if (held.buffer)
            answer(rules, &held);
        held.buffer = NULL;
        if (command.buffer)
            held = command;
        else
            answer(rules, &command);
    }
    if (held.buffer)
        answer(rules, &held);
    WEIR_ASSERT(!!reason == (next == WEIR_NBD_BROKEN));
    return next == WEIR_NBD_MORE;
}

/* ---- a session ---- */

struct session {
    struct weir_nbd_stream stream;
    struct weir_nbd_handshake handshake;
    struct weir_nbd_rules rules;
    bool attached, transmission;
};

/* False: the connection ends. */
static weir_co_fn bool go_on(struct session *session)
{
    while (!session->transmission) {
        enum weir_nbd_step step = weir_nbd_handshake_step(&session->handshake, &session->stream);

        if (step != WEIR_NBD_STEP_MORE)
            session->handshake.output_length = 0;
        WEIR_ASSERT(session->attached == (step == WEIR_NBD_STEP_TRANSMISSION));
        WEIR_ASSERT(!!session->handshake.reason == (step == WEIR_NBD_STEP_END));
        if (step == WEIR_NBD_STEP_MORE || step == WEIR_NBD_STEP_END)
            return step == WEIR_NBD_STEP_MORE;
        if (step == WEIR_NBD_STEP_TRANSMISSION) {
            session->transmission = true;
            session->rules = (struct weir_nbd_rules){
                .size = session->handshake.info.size,
                .read_only = session->handshake.info.read_only,
                .structured = session->handshake.structured,
                .base_allocation = session->handshake.base_allocation,
            };
        }
    }
    return take_commands(&session->stream, &session->rules);
}

/* @data NULL: zeroes. */
static weir_co_fn bool feed(struct session *session, const uint8_t *data, size_t length)
{
    while (length) {
        struct iovec iov[2];
        unsigned count = weir_nbd_stream_space(&session->stream, iov);
        size_t put = 0;

        WEIR_ASSERT(count);
        for (unsigned i = 0; i < count && length; i++) {
            size_t part = WEIR_MIN(length, iov[i].iov_len);

            WEIR_ASSERT(iov[i].iov_len);
            if (data) {
                memcpy(iov[i].iov_base, data, part);
                data += part;
            } else {
                memset(iov[i].iov_base, 0, part);
            }
            length -= part;
            put += part;
        }
        weir_nbd_stream_received(&session->stream, put);
        if (!go_on(session))
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) weir_co_fn;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct session session = { 0 };
    size_t piece = size ? (data[0] ? data[0] * 16u : size) : 0;
    bool open = true;
    uint64_t missing;

    if (size < 1 || !weir_nbd_stream_init(&session.stream))
        return 0;
    weir_nbd_handshake_init(&session.handshake, &directory, &session.attached);
    for (size_t at = 1; at < size && open; at += piece)
        open = feed(&session, data + at, WEIR_MIN(piece, size - at));
    missing = session.stream.skip;
    if (session.stream.filling)
        missing = session.stream.partial.length - session.stream.filled;
    if (open && missing <= TAIL)
        (void)feed(&session, NULL, missing); /* whether it stays open makes no difference any more */
    weir_nbd_handshake_done(&session.handshake);
    weir_nbd_stream_done(&session.stream);
    return 0;
}

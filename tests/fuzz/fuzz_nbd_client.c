/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an NBD server sends to a client: the negotiation, then heads of answers, and ranges as the chunks of a read
 * bring them. The first byte says how long the pieces are in which it comes.
 */
#include "fuzz.h"
#include "base/error.h"
#include "protocol/nbd/handshake.h"
#include "protocol/nbd/reply.h"
#include <errno.h>

static void check_info(const struct nbd_export_info *info)
{
    WEIR_ASSERT(info->size <= INT64_MAX && (info->flags & NBD_FLAG_HAS_FLAGS));
    WEIR_ASSERT(weir_is_power_of_2(info->block_min) && info->block_min <= info->block_max);
    WEIR_ASSERT(!info->has_context || info->structured);
}

/* Bytes that the negotiation has used; the rest are answers if it has succeeded. */
static size_t negotiate(const uint8_t *data, size_t size, size_t piece, bool *ret_done)
{
    struct nbd_handshake handshake;
    size_t start = 0, end = 0, used;

    nbd_handshake_init(&handshake, "disk", "base:allocation");
    for (;;) {
        WEIR_AUTO_ERROR err = NULL;
        enum nbd_step step = nbd_handshake_step(&handshake, data + start, end - start, &used, &err);

        WEIR_ASSERT(used <= end - start && handshake.output_length <= sizeof(handshake.output));
        WEIR_ASSERT(!!err == (step == NBD_STEP_FAILED));
        WEIR_ASSERT((step == NBD_STEP_SEND) == (handshake.output_length > 0));
        start += used;
        *ret_done = step == NBD_STEP_DONE;
        if (step == NBD_STEP_DONE)
            check_info(&handshake.info);
        if (step == NBD_STEP_DONE || step == NBD_STEP_FAILED || (step == NBD_STEP_MORE && end == size))
            return start;
        if (step == NBD_STEP_MORE)
            end = WEIR_MIN(end + piece, size);
    }
}

static void take_answers(const uint8_t *data, size_t size)
{
    struct nbd_pieces pieces = { 0 };
    uint64_t bytes = 0;
    size_t at = 0;

    while (at < size) {
        struct nbd_reply reply;
        int head = nbd_reply_get(data + at, size - at, &reply);

        if (head <= 0)
            break;
        WEIR_ASSERT((size_t)head <= size - at && reply.error <= 0);
        at += (size_t)head;
        /* The cookie of a chunk serves as its place, so that every order is met. */
        if (reply.structured && reply.length &&
            nbd_pieces_add(&pieces, reply.cookie % (1 << 16), 1 + reply.length % 4096))
            bytes += 1 + reply.length % 4096;
    }
    for (unsigned i = 0; pieces.list && i < pieces.count; i++) {
        WEIR_ASSERT(pieces.list[i].offset < pieces.list[i].end);
        WEIR_ASSERT(!i || pieces.list[i - 1].end < pieces.list[i].offset);
        bytes -= pieces.list[i].end - pieces.list[i].offset;
    }
    if (!pieces.list && pieces.count)
        bytes -= pieces.first.end - pieces.first.offset;
    WEIR_ASSERT(!bytes);
    nbd_pieces_done(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bool done;
    size_t used;

    if (!size)
        return 0;
    used = negotiate(data + 1, size - 1, 1 + (size_t)data[0] * data[0], &done);
    if (done)
        take_answers(data + 1 + used, size - 1 - used);
    return 0;
}

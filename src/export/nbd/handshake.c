/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Framing of the negotiation: greeting, the client's flags, then options one by one.
 */
#include "export/nbd/handshake.h"

#include "base/alloc.h"
#include "export/nbd/proto.h"
#include <errno.h>

#define OPTION_HEADER 16u

/* ---- output ---- */

uint8_t *weir_nbd_handshake_put(struct weir_nbd_handshake *handshake, size_t length)
{
    uint8_t *at;

    if (handshake->output_room - handshake->output_length < length) {
        handshake->output_room = WEIR_MAX(2 * handshake->output_room, handshake->output_length + length);
        handshake->output = weir_realloc(handshake->output, handshake->output_room);
    }
    at = handshake->output + handshake->output_length;
    handshake->output_length += length;
    return at;
}

uint8_t *weir_nbd_handshake_reply(struct weir_nbd_handshake *handshake, uint32_t number, uint32_t kind,
                                  size_t length)
{
    uint8_t *at = weir_nbd_handshake_put(handshake, 20 + length);

    weir_nbd_put64(at, NBD_OPTION_REPLY_MAGIC);
    weir_nbd_put32(at + 8, number);
    weir_nbd_put32(at + 12, kind);
    weir_nbd_put32(at + 16, (uint32_t)length);
    return at + 20;
}

void weir_nbd_handshake_refuse(struct weir_nbd_handshake *handshake, uint32_t number, uint32_t kind,
                               const char *text)
{
    size_t length = strlen(text);

    memcpy(weir_nbd_handshake_reply(handshake, number, kind, length), text, length);
}

/* ---- input ---- */

bool weir_nbd_option_take32(struct weir_nbd_option *option, uint32_t *ret_value)
{
    if (option->length < 4)
        return false;
    *ret_value = weir_nbd_get32(option->data);
    option->data += 4;
    option->length -= 4;
    return true;
}

int weir_nbd_option_take_string(struct weir_nbd_option *option, char **ret_text)
{
    uint32_t length;
    char *text;

    if (!weir_nbd_option_take32(option, &length) || length > option->length || length > WEIR_NBD_STRING_MAX ||
        memchr(option->data, 0, length))
        return -EINVAL;
    text = weir_alloc(length + 1);
    memcpy(text, option->data, length);
    option->data += length;
    option->length -= length;
    *ret_text = text;
    return 0;
}

static enum weir_nbd_step end(struct weir_nbd_handshake *handshake, const char *reason)
{
    handshake->reason = reason;
    return WEIR_NBD_STEP_END;
}

static enum weir_nbd_step take_flags(struct weir_nbd_handshake *handshake, struct weir_nbd_stream *stream)
{
    size_t length;
    const uint8_t *data = weir_nbd_stream_peek(stream, &length);
    uint32_t flags;

    if (length < 4)
        return WEIR_NBD_STEP_MORE;
    flags = weir_nbd_get32(data);
    weir_nbd_stream_consume(stream, 4);
    if (flags & ~(NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES))
        return end(handshake, "set flags that were not offered");
    handshake->got_flags = true;
    handshake->fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;
    handshake->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    return WEIR_NBD_STEP_NEXT;
}

enum weir_nbd_step weir_nbd_handshake_step(struct weir_nbd_handshake *handshake,
                                           struct weir_nbd_stream *stream)
{
    struct weir_nbd_option option;
    enum weir_nbd_step step;
    const uint8_t *data;
    size_t length;
    uint32_t size;

    if (!handshake->got_flags)
        return take_flags(handshake, stream);
    data = weir_nbd_stream_peek(stream, &length);
    if (length < OPTION_HEADER)
        return WEIR_NBD_STEP_MORE;
    if (weir_nbd_get64(data) != NBD_IHAVEOPT)
        return end(handshake, "sent something that is no option");
    option.number = weir_nbd_get32(data + 8);
    option.length = size = weir_nbd_get32(data + 12);
    option.data = data + OPTION_HEADER;
    if (size > WEIR_NBD_OPTION_MAX) {
        weir_nbd_handshake_refuse(handshake, option.number, NBD_REP_ERR_TOO_BIG, "option is too long");
        return end(handshake, "sent an option that is too long");
    }
    if (length - OPTION_HEADER < size)
        return WEIR_NBD_STEP_MORE;
    /* Nothing is received meanwhile, so the data stays where it is also when this waits. */
    step = weir_nbd_option_handle(handshake, &option);
    weir_nbd_stream_consume(stream, OPTION_HEADER + size);
    return step;
}

/* ---- life ---- */

void weir_nbd_handshake_init(struct weir_nbd_handshake *handshake, const struct weir_nbd_directory *directory,
                             void *directory_arg)
{
    uint8_t *at;

    *handshake = (struct weir_nbd_handshake){ .directory = directory, .directory_arg = directory_arg };
    at = weir_nbd_handshake_put(handshake, 18);
    weir_nbd_put64(at, NBD_MAGIC);
    weir_nbd_put64(at + 8, NBD_IHAVEOPT);
    weir_nbd_put16(at + 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

void weir_nbd_handshake_done(struct weir_nbd_handshake *handshake)
{
    free(handshake->context_export);
    free(handshake->export_name);
    free(handshake->info.description);
    free(handshake->output);
    *handshake = (struct weir_nbd_handshake){ 0 };
}

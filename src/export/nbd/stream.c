/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The receive side of a connection, without the socket.
 *
 * Invariant: there is always room in rx for one message of MESSAGE_MAX bytes from `start` on, so that any header,
 * option or small write ends up in one piece. A buffer of which a write in flight holds a part is never written
 * to below `end`; when its room is used up it is exchanged and left to those writes.
 */
#include "export/nbd/stream.h"

#include "export/nbd/proto.h"
#include "io/buffer.h"
#include <errno.h>
#include <stdatomic.h>

#define RX_SIZE ((size_t)256 << 10)
#define IN_PLACE_MAX ((uint32_t)64 << 10) /* a write up to this waits in rx until it is complete */
#define MESSAGE_MAX (IN_PLACE_MAX + NBD_REQUEST_SIZE)
#define BEYOND_BULK ((size_t)4096) /* what to receive behind the data of a large write */

_Static_assert(WEIR_NBD_OPTION_MAX + 16 <= MESSAGE_MAX, "an option must fit");

bool weir_nbd_stream_init(struct weir_nbd_stream *stream)
{
    *stream = (struct weir_nbd_stream){ .rx = weir_buffer_new(RX_SIZE) };
    return stream->rx;
}

void weir_nbd_stream_done(struct weir_nbd_stream *stream)
{
    weir_buffer_unref(stream->rx);
    weir_buffer_unref(stream->partial.buffer);
    *stream = (struct weir_nbd_stream){ 0 };
}

static bool is_shared(const struct weir_buffer *buffer)
{
    /* Acquire: whoever gave up its reference has read what we are about to overwrite. */
    return atomic_load_explicit(&buffer->refs, memory_order_acquire) > 1;
}

/* Makes room for a whole message behind what has not been used yet. */
static bool make_room(struct weir_nbd_stream *stream)
{
    size_t left = stream->end - stream->start;
    uint8_t *old = stream->rx->data;

    if (left == 0 && !is_shared(stream->rx))
        stream->start = stream->end = 0;
    if (stream->start + MESSAGE_MAX < RX_SIZE)
        return true;
    if (is_shared(stream->rx)) {
        struct weir_buffer *next = weir_buffer_new(RX_SIZE);

        if (!next)
            return false;
        memcpy(next->data, old + stream->start, left);
        weir_buffer_unref(stream->rx);
        stream->rx = next;
    } else {
        memmove(old, old + stream->start, left);
    }
    stream->start = 0;
    stream->end = left;
    return true;
}

unsigned weir_nbd_stream_space(struct weir_nbd_stream *stream, struct iovec iov[2])
{
    unsigned count = 0;
    size_t room;

    if (!make_room(stream))
        return 0;
    if (stream->filling) {
        iov[count++] = (struct iovec){ (uint8_t *)stream->partial.payload + stream->filled,
                                       stream->partial.length - stream->filled };
    }
    room = RX_SIZE - stream->end;
    if (stream->bulky && stream->start == stream->end)
        room = WEIR_MIN(room, BEYOND_BULK);
    iov[count++] = (struct iovec){ (uint8_t *)stream->rx->data + stream->end, room };
    return count;
}

void weir_nbd_stream_received(struct weir_nbd_stream *stream, size_t length)
{
    if (stream->filling) {
        uint32_t part = (uint32_t)WEIR_MIN(length, (size_t)(stream->partial.length - stream->filled));

        stream->filled += part;
        length -= part;
    }
    stream->end += length;
    WEIR_ASSERT(stream->end <= RX_SIZE);
}

const uint8_t *weir_nbd_stream_peek(const struct weir_nbd_stream *stream, size_t *ret_length)
{
    *ret_length = stream->end - stream->start;
    return (const uint8_t *)stream->rx->data + stream->start;
}

void weir_nbd_stream_consume(struct weir_nbd_stream *stream, size_t length)
{
    WEIR_ASSERT(length <= stream->end - stream->start);
    stream->start += length;
}

/* A write whose data is not here yet: it gets a buffer of its own, filled by what follows. */
static enum weir_nbd_next begin_filling(struct weir_nbd_stream *stream, struct weir_nbd_command *command)
{
    size_t here = stream->end - stream->start;

    command->buffer = weir_buffer_new(command->length);
    if (!command->buffer) {
        command->error = -ENOMEM;
        command->message = "no memory for the data";
        stream->skip = command->length;
        return WEIR_NBD_COMMAND;
    }
    command->payload = command->buffer->data;
    memcpy(command->payload, (uint8_t *)stream->rx->data + stream->start, here);
    stream->start = stream->end;
    stream->partial = *command;
    stream->filled = (uint32_t)here;
    stream->filling = stream->bulky = true;
    return WEIR_NBD_MORE;
}

/* The header of a write stands at `start` and is not consumed yet. */
static enum weir_nbd_next take_write(struct weir_nbd_stream *stream, struct weir_nbd_command *command)
{
    size_t here = stream->end - stream->start - NBD_REQUEST_SIZE;

    if (!command->error && here < command->length && command->length <= IN_PLACE_MAX)
        return WEIR_NBD_MORE;
    stream->start += NBD_REQUEST_SIZE;
    if (command->error) {
        stream->skip = command->length;
        return WEIR_NBD_COMMAND;
    }
    if (here < command->length)
        return begin_filling(stream, command);
    stream->bulky = false;
    command->buffer = weir_buffer_ref(stream->rx);
    command->payload = (uint8_t *)stream->rx->data + stream->start;
    stream->start += command->length;
    return WEIR_NBD_COMMAND;
}

static bool finish_skip(struct weir_nbd_stream *stream)
{
    size_t part = (size_t)WEIR_MIN(stream->skip, (uint64_t)(stream->end - stream->start));

    stream->start += part;
    stream->skip -= part;
    return !stream->skip;
}

enum weir_nbd_next weir_nbd_stream_next(struct weir_nbd_stream *stream, const struct weir_nbd_rules *rules,
                                        struct weir_nbd_command *ret_command, const char **ret_reason)
{
    const uint8_t *header;

    if (weir_unlikely(stream->filling)) {
        if (stream->filled < stream->partial.length)
            return WEIR_NBD_MORE;
        *ret_command = stream->partial;
        stream->partial.buffer = NULL;
        stream->filling = false;
        return WEIR_NBD_COMMAND;
    }
    if (weir_unlikely(stream->skip) && !finish_skip(stream))
        return WEIR_NBD_MORE;
    if (stream->end - stream->start < NBD_REQUEST_SIZE)
        return WEIR_NBD_MORE;
    header = (const uint8_t *)stream->rx->data + stream->start;
    if (!weir_nbd_parse_request(header, ret_command)) {
        *ret_reason = "sent something that is no request";
        return WEIR_NBD_BROKEN;
    }
    weir_nbd_check_request(rules, ret_command);
    if (ret_command->type == NBD_CMD_WRITE) {
        if (ret_command->length > WEIR_NBD_PAYLOAD_MAX) {
            *ret_reason = "sent a write of more than 32 MiB";
            return WEIR_NBD_BROKEN;
        }
        return take_write(stream, ret_command);
    }
    stream->bulky = false;
    stream->start += NBD_REQUEST_SIZE;
    return WEIR_NBD_COMMAND;
}

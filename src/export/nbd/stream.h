/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a client sends, as it arrives: one large receive buffer, out of which requests are parsed in place.
 *
 * Data of a write that lies in the receive buffer as a whole stays there: the command gets a reference, and the
 * stream goes on in another buffer once this one is used up. The rest of a longer write is received into a buffer
 * of its own. Knows no socket: the caller asks where to put bytes, puts them there, says how many, and takes commands
 * until there is MORE to receive. One loop; nothing waits.
 */
#ifndef WEIR_EXPORT_NBD_STREAM_H
#define WEIR_EXPORT_NBD_STREAM_H

#include "export/nbd/parse.h"
#include <sys/uio.h>

struct weir_buffer;

enum weir_nbd_next {
    WEIR_NBD_MORE,    /* bytes are missing */
    WEIR_NBD_COMMAND, /* one command, maybe one to be refused (its error is set) */
    WEIR_NBD_BROKEN,  /* the client does not speak the protocol; *reason says how */
};

struct weir_nbd_stream {
    struct weir_buffer *rx;
    size_t start, end;               /* what of rx has arrived and was not used yet */
    struct weir_nbd_command partial; /* a write whose data is being received into its own buffer */
    bool filling;
    uint32_t filled;
    uint64_t skip; /* bytes to come that nobody wants: data of a refused write */
    bool bulky;    /* the client sends large writes: receive little beyond them, so that little is copied */
};

/* False when there is no memory. */
bool weir_nbd_stream_init(struct weir_nbd_stream *stream) weir_must_check;
void weir_nbd_stream_done(struct weir_nbd_stream *stream);

/* Where to receive: 1 or 2 elements, or 0 when there is no memory. The memory stays good until received(). */
unsigned weir_nbd_stream_space(struct weir_nbd_stream *stream, struct iovec iov[2]);
/* @length bytes have been put there. */
void weir_nbd_stream_received(struct weir_nbd_stream *stream, size_t length);

/* The next command. ret_reason: static text, with BROKEN only. */
enum weir_nbd_next weir_nbd_stream_next(struct weir_nbd_stream *stream, const struct weir_nbd_rules *rules,
                                        struct weir_nbd_command *ret_command, const char **ret_reason);

/* For the handshake, whose messages are short: what lies there, and using it up. */
const uint8_t *weir_nbd_stream_peek(const struct weir_nbd_stream *stream, size_t *ret_length);
void weir_nbd_stream_consume(struct weir_nbd_stream *stream, size_t length);

#endif

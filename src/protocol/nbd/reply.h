/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Heads of requests and replies, and which parts of a read have come. Pure functions.
 */
#ifndef WEIR_PROTOCOL_NBD_REPLY_H
#define WEIR_PROTOCOL_NBD_REPLY_H

#include "base/nbd_proto.h"

/* Pieces of one read that may be apart from each other at a time; servers send far fewer. */
#define NBD_PIECES_MAX 65536u

struct nbd_reply {
    bool structured;
    bool last;     /* no other chunk of this request follows */
    unsigned type; /* structured: NBD_REPLY_TYPE_... */
    uint64_t cookie;
    uint32_t length; /* structured: bytes of content */
    int error;       /* simple: 0 or -errno */
};

/* Writes the 28 bytes of a request. */
void nbd_request_put(uint8_t header[NBD_REQUEST_SIZE], unsigned flags, unsigned type, uint64_t cookie,
                     uint64_t offset, uint32_t length);
/* Reads a head. Its length; 0: @length bytes are too few; -EPROTO: it is none. */
int nbd_reply_get(const uint8_t *data, size_t length, struct nbd_reply *ret_reply);
/* The -errno for an error on the wire; what is not known is -EINVAL, as the protocol has it. */
int nbd_error_get(uint32_t code);

/* Which parts of a range are there, in order and apart from each other. Begins zeroed. */
struct nbd_pieces {
    struct nbd_piece {
        uint64_t offset, end; /* bytes */
    } first, *list;           /* list NULL: none, or the one in `first` */
    unsigned count, room;
};
/* False where a part of it is there already, or when there are too many pieces. @length is not 0. */
bool nbd_pieces_add(struct nbd_pieces *pieces, uint64_t offset, uint64_t length) weir_must_check;
/* Whether it is exactly this range, as a whole. */
bool nbd_pieces_cover(const struct nbd_pieces *pieces, uint64_t offset, uint64_t length);
void nbd_pieces_done(struct nbd_pieces *pieces);

#endif

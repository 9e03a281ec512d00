/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Heads and pieces. A read that comes in order is one piece that grows: nothing is allocated for it.
 */
#include "protocol/nbd/reply.h"

#include "base/alloc.h"
#include <errno.h>

void nbd_request_put(uint8_t header[NBD_REQUEST_SIZE], unsigned flags, unsigned type, uint64_t cookie,
                     uint64_t offset, uint32_t length)
{
    weir_nbd_put32(header, NBD_REQUEST_MAGIC);
    weir_nbd_put16(header + 4, (uint16_t)flags);
    weir_nbd_put16(header + 6, (uint16_t)type);
    weir_nbd_put64(header + 8, cookie);
    weir_nbd_put64(header + 16, offset);
    weir_nbd_put32(header + 24, length);
}

int nbd_error_get(uint32_t code)
{
    switch (code) {
    case 0:
        return 0;
    case 1:
        return -EPERM;
    case 5:
        return -EIO;
    case 12:
        return -ENOMEM;
    case 28:
        return -ENOSPC;
    case 75:
        return -EOVERFLOW;
    case 95:
        return -ENOTSUP;
    case 108:
        return -ESHUTDOWN;
    default:
        return -EINVAL;
    }
}

int nbd_reply_get(const uint8_t *data, size_t length, struct nbd_reply *ret_reply)
{
    uint32_t magic;

    if (length < 4)
        return 0;
    magic = weir_nbd_get32(data);
    if (magic == NBD_SIMPLE_REPLY_MAGIC) {
        if (length < NBD_SIMPLE_REPLY_SIZE)
            return 0;
        *ret_reply = (struct nbd_reply){ .last = true,
                                         .error = nbd_error_get(weir_nbd_get32(data + 4)),
                                         .cookie = weir_nbd_get64(data + 8) };
        return NBD_SIMPLE_REPLY_SIZE;
    }
    if (magic != NBD_STRUCTURED_REPLY_MAGIC)
        return -EPROTO;
    if (length < NBD_STRUCTURED_REPLY_SIZE)
        return 0;
    *ret_reply = (struct nbd_reply){ .structured = true,
                                     .last = weir_nbd_get16(data + 4) & NBD_REPLY_FLAG_DONE,
                                     .type = weir_nbd_get16(data + 6),
                                     .cookie = weir_nbd_get64(data + 8),
                                     .length = weir_nbd_get32(data + 16) };
    return NBD_STRUCTURED_REPLY_SIZE;
}

/* ---- pieces ---- */

/* Makes the list able to hold one more than the one piece that needs none. */
static void make_room(struct nbd_pieces *pieces)
{
    if (pieces->list && pieces->count < pieces->room)
        return;
    pieces->room = pieces->room ? 2 * pieces->room : 16;
    if (!pieces->list) {
        pieces->list = weir_new_array(struct nbd_piece, pieces->room);
        pieces->list[0] = pieces->first;
    } else {
        pieces->list = weir_realloc(pieces->list, pieces->room * sizeof(*pieces->list));
    }
}

static void insert(struct nbd_pieces *pieces, unsigned at, uint64_t offset, uint64_t end)
{
    if (!pieces->count && !pieces->list) {
        pieces->first = (struct nbd_piece){ offset, end };
        pieces->count = 1;
        return;
    }
    make_room(pieces);
    memmove(pieces->list + at + 1, pieces->list + at, (pieces->count - at) * sizeof(*pieces->list));
    pieces->list[at] = (struct nbd_piece){ offset, end };
    pieces->count++;
}

bool nbd_pieces_add(struct nbd_pieces *pieces, uint64_t offset, uint64_t length)
{
    struct nbd_piece *list = pieces->list ? pieces->list : &pieces->first;
    uint64_t end = offset + length;
    unsigned at = pieces->count;
    bool before, behind;

    while (at > 0 &&
           list[at - 1].offset >= end) /* those that come later are few: mostly it is the last one */
        at--;
    if (at > 0 && list[at - 1].end > offset)
        return false;
    before = at > 0 && list[at - 1].end == offset;
    behind = at < pieces->count && list[at].offset == end;
    if (before && behind) {
        list[at - 1].end = list[at].end;
        memmove(list + at, list + at + 1, (pieces->count - at - 1) * sizeof(*list));
        pieces->count--;
    } else if (before) {
        list[at - 1].end = end;
    } else if (behind) {
        list[at].offset = offset;
    } else if (pieces->count < NBD_PIECES_MAX) {
        insert(pieces, at, offset, end);
    } else {
        return false;
    }
    return true;
}

bool nbd_pieces_cover(const struct nbd_pieces *pieces, uint64_t offset, uint64_t length)
{
    const struct nbd_piece *list = pieces->list ? pieces->list : &pieces->first;

    return pieces->count == 1 && list[0].offset == offset && list[0].end == offset + length;
}

void nbd_pieces_done(struct nbd_pieces *pieces)
{
    free(pieces->list);
    *pieces = (struct nbd_pieces){ 0 };
}

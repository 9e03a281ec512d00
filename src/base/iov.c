/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * I/O vectors. Every walk goes through next_piece(), which turns a range of the vector into flat pieces.
 */
#include "base/iov.h"
#include <string.h>

/* A position in a vector and what is left of a range. */
struct walk {
    const struct iovec *iov;
    unsigned count;
    uint64_t skip;   /* bytes of *iov that lie before the range */
    uint64_t length; /* bytes of the range still to come */
};

static struct walk walk_begin(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length)
{
    struct walk walk = { iov, count, offset, length };

    while (length && walk.count && walk.skip >= walk.iov->iov_len) {
        walk.skip -= walk.iov->iov_len;
        walk.iov++;
        walk.count--;
    }
    return walk;
}

/* The next non-empty piece of the range; false at its end. A range that leaves the vector is an error of ours. */
static bool next_piece(struct walk *walk, struct iovec *ret_piece)
{
    if (!walk->length)
        return false;
    while (walk->count && walk->skip >= walk->iov->iov_len) {
        walk->skip = 0;
        walk->iov++;
        walk->count--;
    }
    WEIR_ASSERT(walk->count > 0);
    ret_piece->iov_base = (char *)walk->iov->iov_base + walk->skip;
    ret_piece->iov_len = WEIR_MIN(walk->iov->iov_len - walk->skip, walk->length);
    walk->skip += ret_piece->iov_len;
    walk->length -= ret_piece->iov_len;
    return true;
}

uint64_t weir_iov_length(const struct iovec *iov, unsigned count)
{
    uint64_t length = 0;

    for (unsigned i = 0; i < count; i++)
        length += iov[i].iov_len;
    return length;
}

unsigned weir_iov_slice(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length,
                        struct iovec *ret_iov)
{
    struct walk walk = walk_begin(iov, count, offset, length);
    unsigned pieces = 0;

    while (next_piece(&walk, &ret_iov[pieces]))
        pieces++;
    return pieces;
}

void weir_iov_from_buffer(const struct iovec *iov, unsigned count, uint64_t offset, const void *buffer,
                          uint64_t length)
{
    struct walk walk = walk_begin(iov, count, offset, length);
    const char *from = buffer;
    struct iovec piece;

    while (next_piece(&walk, &piece)) {
        memcpy(piece.iov_base, from, piece.iov_len);
        from += piece.iov_len;
    }
}

void weir_iov_to_buffer(const struct iovec *iov, unsigned count, uint64_t offset, void *buffer,
                        uint64_t length)
{
    struct walk walk = walk_begin(iov, count, offset, length);
    struct iovec piece;
    char *to = buffer;

    while (next_piece(&walk, &piece)) {
        memcpy(to, piece.iov_base, piece.iov_len);
        to += piece.iov_len;
    }
}

void weir_iov_fill(const struct iovec *iov, unsigned count, uint64_t offset, int byte, uint64_t length)
{
    struct walk walk = walk_begin(iov, count, offset, length);
    struct iovec piece;

    while (next_piece(&walk, &piece))
        memset(piece.iov_base, byte, piece.iov_len);
}

bool weir_iov_is_zero(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length)
{
    struct walk walk = walk_begin(iov, count, offset, length);
    struct iovec piece;

    while (next_piece(&walk, &piece))
        if (!weir_buffer_is_zero(piece.iov_base, piece.iov_len))
            return false;
    return true;
}

bool weir_buffer_is_zero(const void *buffer, size_t length)
{
    const unsigned char *bytes = buffer;
    size_t head = WEIR_MIN(length, (size_t)64);

    /* The usual answer is no, and then mostly at once: data rarely has 64 zeroes in front. */
    for (size_t i = 0; i < head; i++)
        if (bytes[i])
            return false;
    /* Equal to itself 64 bytes further on, and zero in front: zero everywhere. memcmp() runs at cache speed. */
    return memcmp(bytes, bytes + head, length - head) == 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/transfer.h"

#include "base/bitmap.h"
#include "base/iov.h"
#include "graph/node.h"
#include "io/async.h"
#include "sys/sys.h"
#include <errno.h>

/* Below this length a look at the block status costs more than the copy. */
#define STATUS_MIN ((uint64_t)64 << 10)
#define PAGE 4096u
/* How far is asked at a time. */
#define LOOK_AHEAD ((uint64_t)1 << 30)

int weir_transfer_look(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                       int64_t deadline_ns, struct weir_status *ret_status)
{
    struct weir_request request =
        weir_request_make(WEIR_OP_STATUS, offset, length, NULL, 0, WEIR_REQUEST_DEEP | flags);

    request.status = ret_status;
    return weir_io_abandonable(edge, &request, deadline_ns ? deadline_ns : -1);
}

int weir_transfer_write(const struct weir_transfer *transfer, struct weir_request *request)
{
    struct weir_bitmap *written = transfer->written;
    int ret;

    if (transfer->deadline_ns && weir_sys->clock_ns() >= transfer->deadline_ns)
        return -ETIMEDOUT;
    if (written && request->op == WEIR_OP_ZERO && !weir_bitmap_any(written, request->offset, request->length))
        return 0;
    if (written && request->op == WEIR_OP_WRITE)
        weir_bitmap_set(written, request->offset, request->length);
    ret = weir_io_abandonable(transfer->target, request, -1);
    if (written && request->op == WEIR_OP_ZERO && !ret)
        weir_bitmap_clear_inner(written, request->offset, request->length);
    return ret;
}

static weir_co_fn int zero(const struct weir_transfer *transfer, uint64_t offset, uint64_t length)
{
    unsigned flags = transfer->unmap ? WEIR_REQUEST_MAY_UNMAP : 0;
    struct weir_request request = weir_request_make(WEIR_OP_ZERO, offset, length, NULL, 0, flags);
    struct weir_status status = { .length = 0 };

    /* A target that reads as zero there already, with nothing stored, needs no write. */
    if (!transfer->written && length >= STATUS_MIN &&
        !weir_transfer_look(transfer->target, offset, length, transfer->read_flags, transfer->deadline_ns,
                            &status) &&
        status.zero && !status.data && status.length >= length)
        return 0;
    return weir_transfer_write(transfer, &request);
}

static bool has_zero_page(const uint8_t *data, uint64_t length)
{
    for (uint64_t at = 0; at + PAGE <= length; at += PAGE) {
        if (!data[at] && weir_buffer_is_zero(data + at, PAGE))
            return true;
    }
    return false;
}

/* 0, -errno, or 1 where nothing was done, as what was called data (@rough) may hold holes. */
static weir_co_fn int data(const struct weir_transfer *transfer, uint64_t offset, uint64_t length, bool rough,
                           struct weir_buffer *buffer, bool *ret_write)
{
    struct iovec iov = { buffer->data, length };
    struct weir_request request =
        weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, transfer->read_flags);
    int ret;

    *ret_write = false;
    request.buffer = buffer;
    ret = weir_io_abandonable(transfer->source, &request, transfer->deadline_ns ? transfer->deadline_ns : -1);
    if (ret)
        return ret;
    *ret_write = true;
    if (weir_buffer_is_zero(buffer->data, length))
        return zero(transfer, offset, length);
    if (rough && has_zero_page(buffer->data, length))
        return 1;
    request.op = WEIR_OP_WRITE;
    request.flags = transfer->write_flags;
    return weir_transfer_write(transfer, &request);
}

/* What the source says about the beginning of a range, or has said before. */
static weir_co_fn int source_status(const struct weir_transfer *transfer, uint64_t offset, uint64_t length,
                                    bool rough, struct weir_transfer_seen *seen,
                                    struct weir_status *ret_status)
{
    unsigned flags = transfer->read_flags | (rough ? WEIR_REQUEST_ROUGH : 0);
    uint64_t size = weir_node_size(transfer->source->node), ahead = length;
    int ret;

    *ret_status = (struct weir_status){ .length = length, .data = true };
    if (length < STATUS_MIN && rough)
        return 0;
    if (seen && offset >= seen->offset && offset < seen->end) {
        ret_status->length = seen->end - offset;
        ret_status->rough = seen->rough;
        return 0;
    }
    /* One after the other: an answer for more than was asked will be of use. */
    if (seen && offset == seen->end && offset < size)
        ahead = WEIR_MAX(length, WEIR_MIN(size - offset, LOOK_AHEAD));
    ret = weir_transfer_look(transfer->source, offset, ahead, flags, transfer->deadline_ns, ret_status);
    if (!ret && seen && !ret_status->zero)
        *seen = (struct weir_transfer_seen){ offset, offset + ret_status->length, ret_status->rough };
    return ret;
}

int weir_transfer_range(const struct weir_transfer *transfer, uint64_t offset, uint64_t length,
                        struct weir_buffer *buffer, struct weir_transfer_seen *seen, bool *ret_write)
{
    uint64_t exact = offset; /* up to here holes are to be told from data */
    int ret = 0;

    while (length && ret >= 0) {
        bool rough = offset >= exact;
        struct weir_status status;
        uint64_t piece;

        *ret_write = false;
        ret = source_status(transfer, offset, rough ? length : exact - offset, rough, rough ? seen : NULL,
                            &status);
        if (ret)
            break;
        piece = WEIR_MIN(status.length, length);
        if (status.zero) {
            *ret_write = true;
            ret = zero(transfer, offset, piece);
        } else {
            piece = WEIR_MIN(piece, buffer->size);
            ret = data(transfer, offset, piece, status.rough, buffer, ret_write);
        }
        if (ret == 1) {
            exact = offset + piece;
            continue;
        }
        offset += piece;
        length -= piece;
    }
    return ret;
}

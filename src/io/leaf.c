/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests to nodes that act themselves (submit): leaves, and filters with something to do.
 *
 * The driver sees only what fits its limits. What does not is split, bounced through an aligned buffer, or read,
 * merged and written back. That last one holds the aligned range exclusively in the node's lock table; plain
 * writes to a node with an alignment above 1 hold theirs shared, so that neither can undo the other.
 * ZERO falls back to writing zeroes where the driver cannot, FUA to a flush.
 */
#include "base/alloc.h"
#include "base/iov.h"
#include "graph/event.h"
#include "io/io.h"
#include "io/node_io.h"
#include "io/slice.h"

#define ZERO_CHUNK 65536u
#define ZERO_IOVS 16u /* 1 MiB of zeroes a write */

static const char zeroes[ZERO_CHUNK] __attribute__((aligned(4096)));

static bool buffers_fit(const struct weir_limits *limits, const struct weir_request *request)
{
    uint64_t mask = limits->memory_align - 1;

    if (request->iovcnt > limits->iov_max)
        return false;
    if (!mask)
        return true;
    for (unsigned i = 0; i < request->iovcnt; i++) {
        if (((uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len) & mask)
            return false;
    }
    return true;
}

static bool range_fits(const struct weir_limits *limits, const struct weir_request *request)
{
    uint64_t mask = limits->request_align - 1;

    return !((request->offset | request->length) & mask) &&
           (!limits->transfer_max || request->length <= limits->transfer_max);
}

/*
 * The end of the block that ends at @end or holds it. Where a disk ends in the middle of a block it ends there, unless
 * a write beyond makes it longer: the nodes below may be views that have nothing to give behind their end.
 */
static uint64_t block_end(const struct weir_node *node, uint64_t end)
{
    uint64_t up = weir_align_up(end, WEIR_MAX(node->limits.request_align, 1u)), size = weir_node_size(node);

    return node->limits.grows || end > size ? up : WEIR_MIN(up, size);
}

/* Longest aligned piece under @max (0: none). At least one unit, also where a node below allows less: it splits. */
static uint64_t piece_max(uint64_t max, uint64_t align)
{
    return max ? WEIR_MAX(weir_align_down(max, align), align) : UINT64_MAX;
}

/* One request that fits the range limits; bounces buffers that do not fit theirs. */
static weir_co_fn int submit_bounced(struct weir_node *node, struct weir_request *request)
{
    struct weir_request aligned = *request;
    struct weir_buffer *bounce;
    struct iovec iov;
    int ret;

    if (buffers_fit(&node->limits, request))
        return node->driver->submit(node, request);
    bounce = weir_buffer_new(request->length);
    if (!bounce)
        return -ENOMEM;
    iov = (struct iovec){ bounce->data, request->length };
    aligned.iov = &iov;
    aligned.iovcnt = 1;
    aligned.buffer = bounce;
    if (request->op == WEIR_OP_WRITE)
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, bounce->data, request->length);
    ret = node->driver->submit(node, &aligned);
    if (!ret && request->op == WEIR_OP_READ)
        weir_iov_from_buffer(request->iov, request->iovcnt, 0, bounce->data, request->length);
    weir_buffer_unref(bounce);
    return ret;
}

/* An aligned range, in pieces of at most transfer_max. */
static weir_co_fn int submit_split(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = WEIR_MAX(node->limits.request_align, 1u);
    uint64_t max = piece_max(node->limits.transfer_max, align);
    int ret = 0;

    if (!node->limits.transfer_max || request->length <= node->limits.transfer_max)
        return submit_bounced(node, request);
    for (uint64_t done = 0; done < request->length && !ret;) {
        uint64_t length = WEIR_MIN(request->length - done, max);
        struct weir_request piece = *request;
        struct weir_slice slice;

        weir_slice_init(&slice, request->iov, request->iovcnt, done, length);
        piece.offset += done;
        piece.length = length;
        piece.iov = slice.iov;
        piece.iovcnt = slice.count;
        ret = submit_bounced(node, &piece);
        weir_slice_done(&slice);
        done += length;
    }
    return ret;
}

static weir_co_fn int read_unaligned(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = node->limits.request_align;
    uint64_t start = weir_align_down(request->offset, align);
    uint64_t length = block_end(node, request->offset + request->length) - start;
    struct weir_buffer *bounce = weir_buffer_new(length);
    struct weir_request whole = *request;
    struct iovec iov;
    int ret;

    if (!bounce)
        return -ENOMEM;
    iov = (struct iovec){ bounce->data, length };
    whole.offset = start;
    whole.length = length;
    whole.iov = &iov;
    whole.iovcnt = 1;
    whole.buffer = bounce;
    ret = submit_split(node, &whole);
    if (!ret)
        weir_iov_from_buffer(request->iov, request->iovcnt, 0,
                             (char *)bounce->data + (request->offset - start), request->length);
    weir_buffer_unref(bounce);
    return ret;
}

/* Reads one aligned block of @node into @buffer, or what there is of it. */
static weir_co_fn int read_block(struct weir_node *node, uint64_t offset, void *buffer)
{
    uint64_t length = block_end(node, offset + 1) - offset;
    struct iovec iov = { buffer, length };
    struct weir_request request = weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, 0);

    return submit_bounced(node, &request);
}

/* The same, between two events of this node. */
static weir_co_fn int read_side(struct weir_node *node, uint64_t offset, void *buffer, enum weir_event before,
                                enum weir_event after)
{
    int ret;

    if (weir_event_heard())
        weir_event_raise(node, before);
    ret = read_block(node, offset, buffer);
    if (!ret && weir_event_heard())
        weir_event_raise(node, after);
    return ret;
}

/* Read, merge, write back; the caller holds the aligned range exclusively. */
static weir_co_fn int write_merged(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = node->limits.request_align;
    uint64_t start = weir_align_down(request->offset, align);
    uint64_t end = block_end(node, request->offset + request->length);
    uint64_t tail = weir_align_down(request->offset + request->length, align);
    struct weir_buffer *bounce = weir_buffer_new(end - start);
    struct weir_request whole = *request;
    struct iovec iov;
    int ret = 0;

    if (!bounce)
        return -ENOMEM;
    if (start != request->offset)
        ret = read_side(node, start, bounce->data, WEIR_EVENT_PWRITEV_RMW_HEAD,
                        WEIR_EVENT_PWRITEV_RMW_AFTER_HEAD);
    if (!ret && end != request->offset + request->length && (tail != start || start == request->offset))
        ret = read_side(node, tail, (char *)bounce->data + (tail - start), WEIR_EVENT_PWRITEV_RMW_TAIL,
                        WEIR_EVENT_PWRITEV_RMW_AFTER_TAIL);
    if (!ret) {
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, (char *)bounce->data + (request->offset - start),
                           request->length);
        iov = (struct iovec){ bounce->data, end - start };
        whole.offset = start;
        whole.length = end - start;
        whole.iov = &iov;
        whole.iovcnt = 1;
        whole.buffer = bounce;
        ret = submit_split(node, &whole);
    }
    weir_buffer_unref(bounce);
    return ret;
}

static weir_co_fn int leaf_write(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = WEIR_MAX(node->limits.request_align, 1u);
    uint64_t start = weir_align_down(request->offset, align);
    uint64_t end = block_end(node, request->offset + request->length);
    bool partial = start != request->offset || end != request->offset + request->length;
    struct weir_range_lock lock = { 0 };
    int ret;

    if (align > 1)
        weir_range_lock(node->io->ranges, &lock, start, end - start, partial);
    ret = partial ? write_merged(node, request) : submit_split(node, request);
    weir_range_unlock(&lock);
    return ret;
}

static weir_co_fn int write_zeroes(struct weir_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    struct iovec iov[ZERO_IOVS];
    int ret = 0;

    for (unsigned i = 0; i < ZERO_IOVS; i++)
        iov[i] = (struct iovec){ (void *)(uintptr_t)zeroes, ZERO_CHUNK };
    while (length && !ret) {
        uint64_t piece = WEIR_MIN(length, (uint64_t)ZERO_CHUNK * ZERO_IOVS);
        struct weir_request request;
        struct weir_slice slice;

        weir_slice_init(&slice, iov, ZERO_IOVS, 0, piece);
        request = weir_request_make(WEIR_OP_WRITE, offset, piece, slice.iov, slice.count, flags);
        ret = leaf_write(node, &request);
        weir_slice_done(&slice);
        offset += piece;
        length -= piece;
    }
    return ret;
}

/* The aligned middle of a ZERO; -ENOTSUP where the driver has no cheap way. */
static weir_co_fn int zero_middle(struct weir_node *node, const struct weir_request *request, uint64_t offset,
                                  uint64_t end, uint64_t align)
{
    uint64_t max = piece_max(node->limits.zero_max, align);
    struct weir_range_lock lock = { 0 };
    int ret = 0;

    if (node->limits.request_align > 1)
        weir_range_lock(node->io->ranges, &lock, offset, end - offset, false);
    for (uint64_t length; offset < end && !ret; offset += length) {
        struct weir_request piece = *request;

        length = WEIR_MIN(end - offset, max);
        piece.offset = offset;
        piece.length = length;
        piece.flags &= node->limits.zero_flags | WEIR_REQUEST_UNCHANGED;
        ret = node->driver->submit(node, &piece);
    }
    weir_range_unlock(&lock);
    return ret;
}

static weir_co_fn int leaf_zero(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = WEIR_MAX(node->limits.zero_align, WEIR_MAX(node->limits.request_align, 1u));
    uint64_t end = request->offset + request->length;
    uint64_t first = weir_align_up(request->offset, align), last = weir_align_down(end, align);
    unsigned write_flags = request->flags & WEIR_REQUEST_UNCHANGED;
    bool quick_only = request->flags & WEIR_REQUEST_NO_FALLBACK;
    int ret = 0;

    if (end == weir_node_size(node))
        last = WEIR_MAX(last, weir_align_down(end, WEIR_MAX(node->limits.request_align, 1u)));
    if (first >= last)
        return quick_only ? -ENOTSUP : write_zeroes(node, request->offset, request->length, write_flags);
    /* The middle first: whether it works decides what the head and the tail are worth. */
    ret = zero_middle(node, request, first, last, align);
    if (ret == -ENOTSUP && !quick_only)
        ret = write_zeroes(node, first, last - first, write_flags);
    if (!ret && request->offset < first)
        ret = write_zeroes(node, request->offset, first - request->offset, write_flags);
    if (!ret && last < end)
        ret = write_zeroes(node, last, end - last, write_flags);
    return ret;
}

/* Advisory: what does not fill a discard unit stays; a driver without discard is no error. */
static weir_co_fn int leaf_discard(struct weir_node *node, struct weir_request *request)
{
    uint64_t align = WEIR_MAX(node->limits.discard_align, WEIR_MAX(node->limits.request_align, 1u));
    uint64_t end = request->offset + request->length;
    uint64_t offset = weir_align_up(request->offset, align);
    uint64_t max;
    int ret = 0;

    end = end == weir_node_size(node) ? end : weir_align_down(end, align);
    if (offset >= end)
        return 0;
    max = piece_max(node->limits.discard_max, align);
    for (uint64_t length; offset < end && !ret; offset += length) {
        struct weir_request piece = *request;

        length = WEIR_MIN(end - offset, max);
        piece.offset = offset;
        piece.length = length;
        ret = node->driver->submit(node, &piece);
    }
    return ret == -ENOTSUP ? 0 : ret;
}

/*
 * Flush of a protocol node: skipped when nothing has changed since the last good one; concurrent callers share.
 * Sticky failure: the kernel may have dropped the pages and marked them clean, a later success proves nothing. Of a
 * remote leaf that is for the server to say: here the next flush is sent again.
 */
static weir_co_fn int leaf_flush(struct weir_node *node, struct weir_request *request)
{
    struct weir_node_io *io = node->io;
    uint64_t wanted = weir_io_changes(node), covered;
    int ret;

    if (!(node->driver->flags & WEIR_DRIVER_PROTOCOL))
        return node->driver->submit(node, request);
    weir_mutex_lock(&io->flush_mutex);
    while (io->flush_running && !io->flush_error && io->flushed_changes < wanted)
        weir_co_queue_wait(&io->flush_queue, &io->flush_mutex);
    ret = io->flush_error;
    if (ret || io->flushed_changes >= wanted || io->flush_running) {
        weir_mutex_unlock(&io->flush_mutex);
        return ret;
    }
    io->flush_running = true;
    covered = weir_io_changes(node);
    weir_mutex_unlock(&io->flush_mutex);
    ret = node->driver->submit(node, request);
    weir_mutex_lock(&io->flush_mutex);
    io->flush_running = false;
    if (!ret)
        io->flushed_changes = covered;
    else if (!(node->driver->flags & WEIR_DRIVER_REMOTE))
        io->flush_error = ret;
    weir_co_queue_wake_all(&io->flush_queue);
    weir_mutex_unlock(&io->flush_mutex);
    return ret;
}

static weir_co_fn int leaf_change(struct weir_node *node, struct weir_request *request)
{
    switch (request->op) {
    case WEIR_OP_WRITE:
        return leaf_write(node, request);
    case WEIR_OP_ZERO:
        return leaf_zero(node, request);
    default:
        return leaf_discard(node, request);
    }
}

/* Whether FUA has to be made by a flush after the change. */
static bool fua_by_flush(const struct weir_node *node, const struct weir_request *request)
{
    unsigned own = request->op == WEIR_OP_WRITE ? node->limits.write_flags : node->limits.zero_flags;

    /* The driver's own FUA covers what it writes, not what a fallback of ZERO writes. */
    return (request->flags & WEIR_REQUEST_FUA) && (request->op != WEIR_OP_WRITE || !(own & WEIR_REQUEST_FUA));
}

/*
 * A durable write that failed: the OS reports lost pages of the whole file once, and it has told this write. The flush
 * that another guest's earlier write is waiting for would then succeed.
 */
static void note_lost_pages(struct weir_node *node)
{
    struct weir_node_io *io = node->io;
    WEIR_SCOPE_LOCK(&io->flush_mutex);

    if (!io->flush_error)
        io->flush_error = -EIO;
}

int weir_leaf_io(struct weir_node *node, struct weir_request *request)
{
    struct weir_request change = *request, flush = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    bool flush_after;
    int ret;

    switch (request->op) {
    case WEIR_OP_READ:
        return range_fits(&node->limits, request) || node->limits.request_align <= 1
                   ? submit_split(node, request)
                   : read_unaligned(node, request);
    case WEIR_OP_FLUSH:
        return leaf_flush(node, request);
    case WEIR_OP_STATUS:
        return node->driver->submit(node, request);
    default:
        break;
    }
    /* Bytes that have one place are there; and a late write could undo a newer one. */
    if ((request->flags & WEIR_REQUEST_UNCHANGED) && (node->driver->flags & WEIR_DRIVER_PROTOCOL) &&
        !(node->limits.write_flags & WEIR_REQUEST_UNCHANGED))
        return 0;
    flush_after = fua_by_flush(node, request);
    if (flush_after)
        change.flags &= ~(unsigned)WEIR_REQUEST_FUA;
    flush_after &= !node->cache_no_flush;
    ret = leaf_change(node, &change);
    weir_io_changed(node);
    if (ret == -EIO && (change.flags & WEIR_REQUEST_FUA) && !node->cache_direct &&
        (node->driver->flags & (WEIR_DRIVER_PROTOCOL | WEIR_DRIVER_REMOTE)) == WEIR_DRIVER_PROTOCOL)
        note_lost_pages(node);
    if (!ret && flush_after)
        ret = weir_node_submits(node, WEIR_OP_FLUSH) ? leaf_flush(node, &flush)
                                                     : weir_io_flush(weir_node_filtered(node));
    return ret;
}

/* A flush that has nothing to do, or whose failure is known. */
static int try_flush(struct weir_node *node)
{
    struct weir_node_io *io = node->io;

    if (!(node->driver->flags & WEIR_DRIVER_PROTOCOL))
        return -EAGAIN;
    WEIR_SCOPE_LOCK(&io->flush_mutex);
    if (io->flush_error)
        return io->flush_error;
    return !io->flush_running && io->flushed_changes >= weir_io_changes(node) ? 0 : -EAGAIN;
}

/* Whether a request that is no read can be tried: plain writes, for which no range need be locked. */
static bool can_try_change(const struct weir_limits *limits, const struct weir_request *request)
{
    return request->op == WEIR_OP_WRITE && limits->request_align == 1 &&
           !(request->flags & WEIR_REQUEST_UNCHANGED) &&
           !(request->flags & WEIR_REQUEST_FUA & ~limits->write_flags);
}

int weir_leaf_try(struct weir_node *node, struct weir_request *request)
{
    const struct weir_limits *limits = &node->limits;
    int ret;

    if (weir_unlikely(!node->driver->try_submit || request->op == WEIR_OP_FLUSH))
        return request->op == WEIR_OP_FLUSH ? try_flush(node) : -EAGAIN;
    if (!range_fits(limits, request) || !buffers_fit(limits, request))
        return -EAGAIN;
    if (request->op == WEIR_OP_READ)
        return node->driver->try_submit(node, request);
    if (!can_try_change(limits, request))
        return -EAGAIN;
    ret = node->driver->try_submit(node, request);
    if (ret != -EAGAIN)
        weir_io_changed(node);
    return ret;
}

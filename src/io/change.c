/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing a node that has map(): write, zero, discard.
 *
 * Fast path: the range is pinned shared, map(WRITE) says where it may be overwritten in place, done. On -EAGAIN the
 * pin is given back (never upgraded), the whole units that the rest touches are taken exclusively, and each piece
 * goes map(ALLOCATE), move, commit - or abort, if the move fails. A pending extent is invisible, so what an
 * allocation must carry over from before is an ordinary read of the same node; head, data and tail go down as one
 * write.
 */
#include "io/mapped.h"

#include "base/iov.h"
#include "base/law.h"
#include "graph/event.h"
#include "io/io.h"
#include "io/slice.h"

/* Where the data of a change comes from: the request's vector, or zeroes (iov NULL). */
struct source {
    const struct iovec *iov;
    unsigned iovcnt;
    uint64_t skip; /* bytes of the vector already used */
    unsigned flags;
};

static const char zero_block[65536] __attribute__((aligned(4096)));

void weir_map_end(struct weir_node *node, const struct weir_extent *extent, bool commit)
{
    if (WEIR_LAW(WEIR_LAW_MONITOR))
        weir_mutex_lock(&node->io->monitor);
    if (commit)
        node->driver->commit(node, extent);
    else
        node->driver->abort(node, extent);
    if (WEIR_LAW(WEIR_LAW_MONITOR))
        weir_mutex_unlock(&node->io->monitor);
}

/* What came up in map, where a test listens. */
static weir_co_fn void raise_noted(struct weir_node *node, struct weir_meta_pins *pins)
{
    struct weir_edge *edge = weir_node_primary(node);
    uint64_t events = pins->events;

    pins->events = 0;
    if (events && edge)
        weir_event_raise_set(edge->node, events);
}

int weir_map_allocate(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length,
                      unsigned flags, uint64_t stored, struct weir_extent *extent,
                      struct weir_meta_pins *pins)
{
    bool last = false;
    int ret;

    for (;;) {
        *extent = (struct weir_extent){ .child_length = stored };
        ret = weir_map(node, op, offset, length, flags | WEIR_MAP_ALLOCATE, extent, pins);
        raise_noted(node, pins);
        if (ret != -ENOSPC)
            return ret;
        weir_map_unpin(node, pins);
        ret = weir_meta_ops_of(node)->make_room(node);
        /* Nothing to wait for: it may all have come free just after map had looked. */
        if (ret == -ENOSPC && !last)
            last = true;
        else if (ret)
            return ret;
    }
}

/* Writes @length bytes of the source (or zeroes) to the child. */
static weir_co_fn int write_child(struct weir_edge *edge, uint64_t offset, uint64_t length,
                                  struct source *source)
{
    struct weir_request request;
    struct weir_slice slice;
    int ret;

    if (!source->iov) {
        request = weir_request_make(WEIR_OP_ZERO, offset, length, NULL, 0,
                                    source->flags & ~(unsigned)WEIR_REQUEST_UNCHANGED);
        return weir_io(edge, &request);
    }
    weir_slice_init(&slice, source->iov, source->iovcnt, source->skip, length);
    request = weir_request_make(WEIR_OP_WRITE, offset, length, slice.iov, slice.count,
                                source->flags & WEIR_REQUEST_UNSTABLE);
    ret = weir_io(edge, &request);
    weir_slice_done(&slice);
    return ret;
}

/* Old contents of [@offset, @offset + @length) of the node; zero beyond its end. */
static weir_co_fn int read_old(struct weir_node *node, uint64_t offset, uint64_t length, void *buffer)
{
    uint64_t size = weir_node_size(node);
    uint64_t inside = offset >= size ? 0 : WEIR_MIN(length, size - offset);
    struct iovec iov = { buffer, length };

    weir_iov_fill(&iov, 1, inside, 0, length - inside);
    return inside ? weir_mapped_read_locked(node, offset, inside, &iov, 1, 0) : 0;
}

/* What a pending extent carries over from before, around the data. */
struct fill {
    struct weir_buffer *old; /* head, then tail */
    uint64_t head, tail;     /* bytes to be written; 0 also where the child holds these zeroes already */
};

/* Whether all of the range reads as zero without being read: nothing is mapped, and no COW child is asked. */
static weir_co_fn int is_zero_by_map(struct weir_node *node, uint64_t offset, uint64_t length, bool *ret_zero)
{
    bool cow = weir_node_cow(node);

    *ret_zero = true;
    while (length && *ret_zero) {
        struct weir_meta_pins pins = { .count = 0 };
        struct weir_extent extent = { 0 };
        uint64_t piece;
        int ret = weir_map(node, WEIR_OP_READ, offset, length, 0, &extent, &pins);

        weir_map_unpin(node, &pins);
        if (ret)
            return ret;
        *ret_zero = extent.where == WEIR_ZEROED || (extent.where == WEIR_UNMAPPED && !cow);
        piece = WEIR_MIN(length, extent.offset + extent.length - offset);
        offset += piece;
        length -= piece;
    }
    return 0;
}

/* One side: @length bytes of the node at @offset, to @buffer; *length becomes 0 when they need not be written. */
static weir_co_fn int fill_side(struct weir_node *node, bool fresh, uint64_t offset, uint64_t *length,
                                char *buffer)
{
    struct iovec iov = { buffer, *length };
    bool zero = false;
    int ret = 0;

    if (!*length)
        return 0;
    if (fresh)
        ret = is_zero_by_map(node, offset, *length, &zero);
    if (!ret && !zero) {
        ret = read_old(node, offset, *length, buffer);
        zero = !ret && fresh && weir_iov_is_zero(&iov, 1, 0, *length);
    }
    if (zero)
        *length = 0;
    return ret;
}

static weir_co_fn int fill_read(struct weir_node *node, const struct weir_extent *extent, uint64_t offset,
                                uint64_t length, struct fill *fill)
{
    uint64_t head = offset - extent->offset, tail = extent->offset + extent->length - (offset + length);
    bool fresh = extent->flags & WEIR_EXTENT_FRESH;
    int ret;

    *fill = (struct fill){ .head = head, .tail = tail };
    if (!(head + tail))
        return 0;
    weir_event(extent->edge, WEIR_EVENT_COW_READ);
    fill->old = weir_buffer_new(head + tail);
    if (!fill->old)
        return -ENOMEM;
    ret = fill_side(node, fresh, extent->offset, &fill->head, fill->old->data);
    if (!ret)
        ret = fill_side(node, fresh, offset + length, &fill->tail, (char *)fill->old->data + head);
    if (ret)
        weir_buffer_unref(weir_steal(&fill->old));
    return ret;
}

/* Head, data and tail of a pending extent in one child write. */
static weir_co_fn int move_pending(struct weir_node *node, const struct weir_extent *extent, uint64_t offset,
                                   uint64_t length, struct source *source)
{
    uint64_t head = offset - extent->offset;
    uint64_t pieces = source->iov ? 0 : (length + sizeof(zero_block) - 1) / sizeof(zero_block);
    unsigned count = 0, room = (source->iov ? source->iovcnt : (unsigned)pieces) + 2;
    struct fill fill;
    struct iovec *iov;
    struct weir_request request;
    int ret = fill_read(node, extent, offset, length, &fill);

    if (ret)
        return ret;
    iov = weir_new_array(struct iovec, room);
    if (fill.head)
        iov[count++] = (struct iovec){ fill.old->data, fill.head };
    if (source->iov)
        count += weir_iov_slice(source->iov, source->iovcnt, source->skip, length, iov + count);
    for (uint64_t done = 0; done < (source->iov ? 0 : length); done += sizeof(zero_block))
        iov[count++] =
            (struct iovec){ (void *)(uintptr_t)zero_block, WEIR_MIN(length - done, sizeof(zero_block)) };
    if (fill.tail)
        iov[count++] = (struct iovec){ (char *)fill.old->data + head, fill.tail };
    request = weir_request_make(
        WEIR_OP_WRITE, extent->child_offset + head - fill.head, fill.head + length + fill.tail, iov, count,
        source->flags & (WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_BULK | WEIR_REQUEST_APART));
    if (fill.head || fill.tail)
        weir_event(extent->edge, WEIR_EVENT_COW_WRITE);
    ret = weir_io(extent->edge, &request);
    free(iov);
    weir_buffer_unref(fill.old);
    return ret;
}

/* Moves the data to where the allocated extent says, and makes it visible or takes it back. */
static weir_co_fn int move_and_commit(struct weir_node *node, const struct weir_extent *extent,
                                      enum weir_op op, uint64_t offset, uint64_t length,
                                      struct source *source)
{
    bool pending = extent->flags & WEIR_EXTENT_PENDING;
    bool early = pending && !WEIR_LAW(WEIR_LAW_PENDING);
    int ret = 0;

    if (early)
        weir_map_end(node, extent, true);
    if (op != WEIR_OP_DISCARD && extent->where == WEIR_DATA) {
        if (pending)
            ret = move_pending(node, extent, offset, length, source);
        else
            ret = write_child(extent->edge, extent->child_offset + (offset - extent->offset), length, source);
    }
    if (pending && !early)
        weir_map_end(node, extent, !ret);
    return ret;
}

/* The rest of a change, piece by piece. The caller holds the lock units exclusively. */
static weir_co_fn int change_exclusive(struct weir_node *node, enum weir_op op, uint64_t offset,
                                       uint64_t length, struct source *source)
{
    unsigned flags = op == WEIR_OP_ZERO && (source->flags & WEIR_REQUEST_MAY_UNMAP) ? WEIR_MAP_UNMAP : 0;
    int ret = 0;

    while (length && !ret) {
        struct weir_meta_pins pins = { .count = 0 };
        struct weir_extent extent;
        uint64_t piece;

        ret = weir_map_allocate(node, op, offset, length, flags, 0, &extent, &pins);
        if (!ret) {
            piece = WEIR_MIN(length, extent.offset + extent.length - offset);
            ret = move_and_commit(node, &extent, op, offset, piece, source);
            offset += piece;
            length -= piece;
            source->skip += piece;
        }
        weir_map_unpin(node, &pins);
    }
    return ret;
}

/*
 * The same for data that readers see already (WEIR_REQUEST_UNCHANGED): what is mapped has it, or newer data. The check
 * and the change are one, under the lock of the units.
 */
static weir_co_fn int fill_in_exclusive(struct weir_node *node, enum weir_op op, uint64_t offset,
                                        uint64_t length, struct source *source)
{
    int ret = 0;

    while (length && !ret) {
        struct weir_meta_pins pins = { .count = 0 };
        struct weir_extent extent = { 0 };
        uint64_t piece;

        ret = weir_map(node, WEIR_OP_READ, offset, length, 0, &extent, &pins);
        weir_map_unpin(node, &pins);
        if (ret)
            break;
        piece = WEIR_MIN(length, extent.offset + extent.length - offset);
        if (extent.where == WEIR_UNMAPPED || !WEIR_LAW(WEIR_LAW_UNCHANGED))
            ret = change_exclusive(node, op, offset, piece, source); /* moves on in the source */
        else
            source->skip += piece;
        offset += piece;
        length -= piece;
    }
    return ret;
}

/* Takes whole units around the range exclusively, checks the bounds under the lock, and changes it. */
static weir_co_fn int lock_and_change(struct weir_node *node, enum weir_op op, uint64_t offset,
                                      uint64_t length, struct source *source)
{
    uint64_t unit = WEIR_MAX(node->limits.lock_unit, 1u);
    uint64_t start = weir_align_down(offset, unit), end = weir_align_up(offset + length, unit);
    struct weir_range_lock lock = { 0 };
    int ret;

    if (op == WEIR_OP_WRITE ? WEIR_LAW(WEIR_LAW_EXCLUSIVE) : WEIR_LAW(WEIR_LAW_PIN))
        weir_range_lock(node->io->ranges, &lock, start, end - start, true);
    if (offset + length > weir_align_up(weir_node_size(node), op == WEIR_OP_WRITE ? 1 : unit))
        ret = -EINVAL;
    else if (source->flags & WEIR_REQUEST_UNCHANGED)
        ret = fill_in_exclusive(node, op, offset, length, source);
    else
        ret = change_exclusive(node, op, offset, length, source);
    weir_range_unlock(&lock);
    return ret;
}

/* Overwrites in place what may be; returns the bytes done, or -errno. Stops at what must be allocated. */
static weir_co_fn int64_t overwrite(struct weir_node *node, uint64_t offset, uint64_t length,
                                    struct source *source)
{
    struct weir_range_lock pin = { 0 };
    uint64_t done = 0;
    int ret = 0;

    if (WEIR_LAW(WEIR_LAW_PIN))
        weir_range_lock(node->io->ranges, &pin, offset, length, false);
    if (offset + length > weir_node_size(node))
        ret = -EINVAL;
    while (done < length && !ret) {
        struct weir_meta_pins pins = { .count = 0 };
        struct weir_extent extent = { 0 };

        uint64_t at = offset + done, piece;

        ret = weir_map(node, WEIR_OP_WRITE, at, length - done, 0, &extent, &pins);
        weir_map_unpin(node, &pins);
        if (ret == -EAGAIN) { /* of map, not of the child: a write that failed with it was not done */
            ret = 0;
            break;
        }
        if (ret)
            break;
        piece = WEIR_MIN(length - done, extent.offset + extent.length - at);
        ret = write_child(extent.edge, extent.child_offset + (at - extent.offset), piece, source);
        source->skip += piece;
        done += piece;
    }
    weir_range_unlock(&pin);
    return ret ? ret : (int64_t)done;
}

static weir_co_fn int mapped_write(struct weir_node *node, uint64_t offset, uint64_t length,
                                   struct source *source)
{
    int64_t done = source->flags & WEIR_REQUEST_UNCHANGED ? 0 : overwrite(node, offset, length, source);

    if (done < 0)
        return (int)done;
    if ((uint64_t)done == length)
        return 0;
    return lock_and_change(node, WEIR_OP_WRITE, offset + (uint64_t)done, length - (uint64_t)done, source);
}

int weir_mapped_write(struct weir_node *node, uint64_t offset, uint64_t length, const struct iovec *iov,
                      unsigned iovcnt, unsigned flags)
{
    struct source source = { iov, iovcnt, 0, flags };

    return mapped_write(node, offset, length, &source);
}

/* Zeroes written as data, for the parts of a ZERO that do not fill a unit. */
static weir_co_fn int write_zeroes(struct weir_node *node, uint64_t offset, uint64_t length, unsigned flags)
{
    int ret = 0;

    while (length && !ret) {
        uint64_t piece = WEIR_MIN(length, sizeof(zero_block));
        struct iovec iov = { (void *)(uintptr_t)zero_block, piece };

        ret = weir_mapped_write(node, offset, piece, &iov, 1, flags & WEIR_REQUEST_UNCHANGED);
        offset += piece;
        length -= piece;
    }
    return ret;
}

static weir_co_fn int mapped_zero(struct weir_node *node, struct weir_request *request)
{
    /* A format may zero parts of what it locks. */
    uint64_t unit = WEIR_MAX(node->limits.zero_align ? node->limits.zero_align : node->limits.lock_unit, 1u);
    uint64_t end = request->offset + request->length;
    uint64_t first = weir_align_up(request->offset, unit);
    uint64_t last = end == weir_node_size(node) ? end : weir_align_down(end, unit);
    struct source source = { NULL, 0, 0,
                             request->flags & (WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK |
                                               WEIR_REQUEST_UNCHANGED) };
    int ret;

    if (first >= last)
        return request->flags & WEIR_REQUEST_NO_FALLBACK
                   ? -ENOTSUP
                   : write_zeroes(node, request->offset, request->length, request->flags);
    ret = lock_and_change(node, WEIR_OP_ZERO, first, last - first, &source);
    if (ret == -ENOTSUP && !(request->flags & WEIR_REQUEST_NO_FALLBACK))
        ret = write_zeroes(node, first, last - first, request->flags);
    if (!ret && request->offset < first)
        ret = write_zeroes(node, request->offset, first - request->offset, request->flags);
    if (!ret && last < end)
        ret = write_zeroes(node, last, end - last, request->flags);
    return ret;
}

/* Only whole units are given up; the rest of a discard is advice that is not taken. */
static weir_co_fn int mapped_discard(struct weir_node *node, struct weir_request *request)
{
    uint64_t unit = WEIR_MAX(node->limits.lock_unit, 1u);
    uint64_t end = request->offset + request->length;
    uint64_t first = weir_align_up(request->offset, unit);
    uint64_t last = end == weir_node_size(node) ? end : weir_align_down(end, unit);
    struct source source = { NULL, 0, 0, 0 };
    int ret;

    if (first >= last)
        return 0;
    ret = lock_and_change(node, WEIR_OP_DISCARD, first, last - first, &source);
    return ret == -ENOTSUP ? 0 : ret;
}

int weir_mapped_change(struct weir_node *node, struct weir_request *request)
{
    struct source source = { request->iov, request->iovcnt, 0, request->flags };
    int ret;

    switch (request->op) {
    case WEIR_OP_WRITE:
        ret = weir_mapped_can_encode(node, request)
                  ? weir_mapped_write_encoded(node, request)
                  : mapped_write(node, request->offset, request->length, &source);
        break;
    case WEIR_OP_ZERO:
        ret = mapped_zero(node, request);
        break;
    default:
        ret = mapped_discard(node, request);
        break;
    }
    weir_io_changed(node);
    if (weir_meta_ops_of(node)->changed)
        weir_meta_ops_of(node)->changed(node);
    if (!ret && (request->flags & WEIR_REQUEST_FUA) && request->op != WEIR_OP_DISCARD)
        ret = weir_mapped_flush(node);
    return ret;
}

int weir_mapped_flush(struct weir_node *node)
{
    struct weir_edge *edge = weir_node_primary(node);

    if (edge)
        weir_event(edge, WEIR_EVENT_FLUSH_TO_OS);
    return weir_meta_ops_of(node)->sync(node);
}

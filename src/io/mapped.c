/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading a node that has map(), and what reads and changes share.
 *
 * A read holds its range shared (law 3) from before the first map() until the last byte has arrived, so that no
 * change of mapping can pull the extent away.
 */
#include "io/mapped.h"

#include "base/iov.h"
#include "base/law.h"
#include "graph/event.h"
#include "io/io.h"
#include "io/slice.h"

/* Views without tables have nothing that could interleave. */
static bool monitored(const struct weir_node *node)
{
    return weir_node_allocates(node) && WEIR_LAW(WEIR_LAW_MONITOR);
}

int weir_map_once(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
                  struct weir_extent *extent, struct weir_need *need, struct weir_meta_pins *pins)
{
    const struct weir_meta_ops *meta = weir_meta_ops_of(node);
    uint64_t stored = extent->child_length;
    bool enter = monitored(node);
    int ret;

    *extent = (struct weir_extent){ .child_length = stored };
    if (enter)
        weir_mutex_lock(&node->io->monitor);
    if (meta && pins)
        meta->collect(node, pins);
    ret = node->driver->map(node, op, offset, length, flags, extent, need);
    if (meta && pins)
        meta->collect(node, NULL);
    if (enter)
        weir_mutex_unlock(&node->io->monitor);
    WEIR_ASSERT(ret || (extent->offset <= offset && offset < extent->offset + extent->length));
    return ret;
}

void weir_map_unpin(struct weir_node *node, struct weir_meta_pins *pins)
{
    if (pins->count)
        weir_meta_ops_of(node)->unpin(node, pins);
}

int weir_map(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
             struct weir_extent *extent, struct weir_meta_pins *pins)
{
    struct weir_need need;
    int ret;

    while ((ret = weir_map_once(node, op, offset, length, flags, extent, &need, pins)) == WEIR_NEED) {
        /* A long search through tables: what the answer needs is pinned by the last round itself. */
        if (pins->count >= WEIR_META_PINS_MAX / 2)
            weir_map_unpin(node, pins);
        ret = weir_meta_ops_of(node)->load(node, &need, pins);
        if (ret)
            break;
    }
    return ret;
}

struct decode_work {
    struct weir_node *node;
    const struct weir_extent *extent;
    const void *in;
    void *out;
};

static int run_decode(void *arg)
{
    struct decode_work *work = arg;

    return work->node->driver->decode(work->node, work->extent, work->in, work->out);
}

static weir_co_fn int read_encoded(struct weir_node *node, const struct weir_extent *extent, uint64_t offset,
                                   uint64_t length, const struct iovec *iov, unsigned iovcnt, uint64_t skip)
{
    struct weir_buffer *stored = weir_buffer_new(extent->child_length);
    struct weir_buffer *whole = weir_buffer_new(extent->length);
    int ret = -ENOMEM;

    if (stored && whole) {
        struct iovec flat = { stored->data, extent->child_length };
        struct decode_work work = { node, extent, stored->data, whole->data };

        weir_event(extent->edge, WEIR_EVENT_READ_COMPRESSED);
        ret = weir_io_read_short(extent->edge, extent->child_offset, extent->child_length, &flat, 1, 0);
        if (!ret)
            ret = weir_co_work(run_decode, &work);
        if (!ret)
            weir_iov_from_buffer(iov, iovcnt, skip, (char *)whole->data + (offset - extent->offset), length);
    }
    weir_buffer_unref(stored);
    weir_buffer_unref(whole);
    return ret;
}

/* The storage of @node hears that its backing file is read instead. */
static weir_co_fn void raise_backing(const struct weir_node *node)
{
    struct weir_edge *edge = weir_node_primary(node);

    if (edge)
        weir_event(edge, WEIR_EVENT_READ_BACKING_AIO);
}

static weir_co_fn int read_child(struct weir_edge *edge, uint64_t offset, uint64_t length,
                                 const struct iovec *iov, unsigned iovcnt, uint64_t skip)
{
    struct weir_slice slice;
    int ret;

    weir_slice_init(&slice, iov, iovcnt, skip, length);
    ret = weir_io_read_short(edge, offset, length, slice.iov, slice.count, 0);
    weir_slice_done(&slice);
    return ret;
}

static weir_co_fn int read_extent(struct weir_node *node, const struct weir_extent *extent, uint64_t offset,
                                  uint64_t length, const struct iovec *iov, unsigned iovcnt, uint64_t skip)
{
    struct weir_edge *cow = weir_node_cow(node);

    switch (extent->where) {
    case WEIR_DATA:
        return read_child(extent->edge, extent->child_offset + (offset - extent->offset), length, iov, iovcnt,
                          skip);
    case WEIR_ENCODED:
        return read_encoded(node, extent, offset, length, iov, iovcnt, skip);
    case WEIR_UNMAPPED:
        if (!cow)
            break;
        raise_backing(node);
        return read_child(cow, offset, length, iov, iovcnt, skip);
    case WEIR_ZEROED:
        break;
    }
    weir_iov_fill(iov, iovcnt, skip, 0, length);
    return 0;
}

int weir_mapped_read_locked(struct weir_node *node, uint64_t offset, uint64_t length, const struct iovec *iov,
                            unsigned iovcnt, uint64_t skip)
{
    int ret = 0;

    while (length && !ret) {
        struct weir_extent extent = { 0 };
        struct weir_meta_pins pins = { .count = 0 };
        uint64_t piece;

        ret = weir_map(node, WEIR_OP_READ, offset, length, 0, &extent, &pins);
        weir_map_unpin(node, &pins);
        if (ret)
            break;
        piece = WEIR_MIN(length, extent.offset + extent.length - offset);
        ret = read_extent(node, &extent, offset, piece, iov, iovcnt, skip);
        offset += piece;
        length -= piece;
        skip += piece;
    }
    return ret;
}

static weir_co_fn int mapped_read(struct weir_node *node, struct weir_request *request)
{
    struct weir_range_lock pin = { 0 };
    int ret;

    if (weir_node_pins_reads(node))
        weir_range_lock(node->io->ranges, &pin, request->offset, request->length, false);
    if (request->offset + request->length > weir_node_size(node))
        ret = -EINVAL; /* looked at under the lock: the node may have shrunk meanwhile */
    else
        ret =
            weir_mapped_read_locked(node, request->offset, request->length, request->iov, request->iovcnt, 0);
    weir_range_unlock(&pin);
    return ret;
}

int weir_mapped_io(struct weir_node *node, struct weir_request *request)
{
    switch (request->op) {
    case WEIR_OP_READ:
        return mapped_read(node, request);
    case WEIR_OP_FLUSH:
        return weir_mapped_flush(node);
    default:
        return weir_mapped_change(node, request);
    }
}

void weir_mapped_prefetch(struct weir_node *node, const uint64_t *offsets, unsigned count)
{
    const struct weir_edge *cow;

    for (; node->driver->prefetch; node = cow->node) {
        weir_mutex_lock(&node->io->monitor);
        node->driver->prefetch(node, offsets, count);
        weir_mutex_unlock(&node->io->monitor);
        cow = weir_node_cow(node);
        if (!cow)
            break;
    }
}

/* Answers from one extent that is in memory, or -EAGAIN. The range is pinned. */
static int try_pinned(struct weir_node *node, struct weir_request *request)
{
    struct weir_request below = *request;
    struct weir_extent extent;
    struct weir_need need;
    struct weir_edge *cow;
    int ret;

    extent.child_length = 0; /* nothing is stored in another form */
    if (request->offset + request->length > weir_node_size(node))
        return -EINVAL;
    ret = weir_map_once(node, request->op, request->offset, request->length, 0, &extent, &need, NULL);
    if (ret)
        return ret == WEIR_NEED ? -EAGAIN : ret;
    if (extent.offset + extent.length < request->offset + request->length)
        return -EAGAIN;
    cow = weir_node_cow(node);
    switch (extent.where) {
    case WEIR_DATA:
        below.offset = extent.child_offset + (request->offset - extent.offset);
        /* Reading past the end of a child is for the path that can pad. */
        if (request->op == WEIR_OP_READ && below.offset + below.length > weir_node_size(extent.edge->node))
            return -EAGAIN;
        return weir_io_try(extent.edge, &below);
    case WEIR_UNMAPPED:
        if (cow) {
            if (below.offset + below.length > weir_node_size(cow->node) || weir_event_heard())
                return -EAGAIN;
            return weir_io_try(cow, &below);
        }
        break;
    case WEIR_ENCODED:
        return -EAGAIN;
    case WEIR_ZEROED:
        break;
    }
    if (request->op != WEIR_OP_READ)
        return -EAGAIN;
    weir_iov_fill(request->iov, request->iovcnt, 0, 0, request->length);
    return 0;
}

int weir_mapped_try(struct weir_node *node, struct weir_request *request)
{
    struct weir_range_lock pin = { 0 };
    int ret;

    if (request->op != WEIR_OP_READ && request->op != WEIR_OP_WRITE)
        return -EAGAIN;
    if (request->flags & (WEIR_REQUEST_FUA | WEIR_REQUEST_COMPRESSED | WEIR_REQUEST_UNCHANGED))
        return -EAGAIN;
    if (weir_node_pins_reads(node) &&
        !weir_range_try_lock(node->io->ranges, &pin, request->offset, request->length, false))
        return -EAGAIN;
    ret = try_pinned(node, request);
    weir_range_unlock(&pin);
    return ret;
}

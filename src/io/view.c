/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shifts and views: nodes with map() that never allocate. Every operation goes on to where the extent says; there
 * is nothing to lock, as their mapping changes only while they are drained.
 */
#include "io/mapped.h"

#include "base/iov.h"
#include "io/io.h"
#include "io/slice.h"

/* All children that may have been written. */
static weir_co_fn int flush_children(struct weir_node *node)
{
    struct weir_edge *edge;
    int ret = 0;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (edge->perm & (WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED)) {
            int one = weir_io_flush(edge);

            ret = ret ? ret : one;
        }
    }
    return ret;
}

static weir_co_fn int forward(const struct weir_extent *extent, const struct weir_request *request,
                              uint64_t done, uint64_t length)
{
    struct weir_request piece = *request;
    struct weir_slice slice = { .count = 0, .iov = NULL };
    int ret;

    piece.offset = extent->child_offset + (request->offset + done - extent->offset);
    piece.length = length;
    if (request->iov) {
        weir_slice_init(&slice, request->iov, request->iovcnt, done, length);
        piece.iov = slice.iov;
        piece.iovcnt = slice.count;
    }
    ret = request->op == WEIR_OP_READ
              ? weir_io_read_short(extent->edge, piece.offset, length, piece.iov, piece.iovcnt, piece.flags)
              : weir_io(extent->edge, &piece);
    if (request->iov)
        weir_slice_done(&slice);
    return ret;
}

int weir_view_io(struct weir_node *node, struct weir_request *request)
{
    int ret = 0;

    if (request->op == WEIR_OP_FLUSH)
        return flush_children(node);
    for (uint64_t done = 0; done < request->length && !ret;) {
        struct weir_extent extent = { 0 };
        struct weir_need need;
        uint64_t at = request->offset + done, length;

        /* The alignment of a node above may have made a read longer than this one is. */
        if (request->op == WEIR_OP_READ && at >= weir_node_size(node)) {
            weir_iov_fill(request->iov, request->iovcnt, done, 0, request->length - done);
            break;
        }
        ret = weir_map_once(node, request->op, at, request->length - done, 0, &extent, &need, NULL);
        if (ret)
            return ret;
        length = WEIR_MIN(request->length - done, extent.offset + extent.length - at);
        if (extent.where == WEIR_DATA)
            ret = forward(&extent, request, done, length);
        else if (request->op == WEIR_OP_READ)
            weir_iov_fill(request->iov, request->iovcnt, done, 0, length);
        else if (request->op != WEIR_OP_DISCARD)
            ret = -EINVAL;
        done += length;
    }
    return ret;
}

int weir_view_try(struct weir_node *node, struct weir_request *request)
{
    struct weir_request below;
    struct weir_extent extent = { 0 };
    struct weir_need need;
    int ret;

    if (request->op == WEIR_OP_FLUSH)
        return -EAGAIN;
    /* Nothing to enter and no table to keep: asked directly. */
    ret = node->driver->map(node, request->op, request->offset, request->length, 0, &extent, &need);
    if (ret)
        return ret;
    WEIR_ASSERT(extent.offset <= request->offset && request->offset - extent.offset < extent.length);
    if (extent.where != WEIR_DATA || extent.offset + extent.length < request->offset + request->length)
        return -EAGAIN;
    below = *request;
    below.offset = extent.child_offset + (request->offset - extent.offset);
    if (request->op == WEIR_OP_READ && below.offset + below.length > weir_node_size(extent.edge->node))
        return -EAGAIN;
    return weir_io_try(extent.edge, &below);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Block status: map(READ) plus recursion, so that it cannot disagree with what reads do.
 *
 * Leaves answer the STATUS operation themselves: what a host file holds is known only to calls that may wait.
 */
#include "base/law.h"
#include "graph/describe.h"
#include "io/io.h"
#include "io/mapped.h"

static struct weir_status simple(uint64_t length, bool data, bool zero, bool allocated)
{
    return (struct weir_status){ .length = length, .data = data, .zero = zero, .allocated = allocated };
}

static weir_co_fn int leaf_status(struct weir_node *node, uint64_t offset, uint64_t length, unsigned flags,
                                  struct weir_status *ret_status)
{
    struct weir_request request = weir_request_make(WEIR_OP_STATUS, offset, length, NULL, 0, flags);
    struct weir_status status = simple(length, true, false, true);
    uint64_t align = WEIR_MAX(node->limits.request_align, 1u);
    int ret;

    status.file = node;
    status.file_offset = offset;
    request.status = &status;
    ret = weir_leaf_io(node, &request);
    if (ret == -ENOTSUP || ret == -EOPNOTSUPP) {
        status = simple(length, true, false, true);
        status.file = node;
        status.file_offset = offset;
        ret = 0;
    }
    if (ret)
        return ret;
    /* Never answer in smaller steps than the node takes requests. */
    if (status.length < length && weir_align_down(status.length, align))
        status.length = weir_align_down(status.length, align);
    status.length = WEIR_MIN(status.length, length);
    *ret_status = status;
    return 0;
}

/*
 * Whether the file of a format that allocates has many holes, as it has when its space was reserved and not written:
 * only then is each extent worth a question to the host. Found out once; where the host does not say, it is asked each
 * time.
 */
static weir_co_fn bool has_many_holes(struct weir_node *node, struct weir_node *file)
{
    enum weir_file_holes holes = atomic_load_explicit(&node->io->file_holes, memory_order_relaxed);
    int64_t allocated;

    if (holes == WEIR_HOLES_UNKNOWN) {
        allocated = weir_node_allocated_size(file);
        if (allocated < 0)
            return true;
        /* A tenth may be missing: clusters are rarely written to their ends. */
        holes = (uint64_t)allocated + (uint64_t)allocated / 10 < weir_node_size(file) ? WEIR_HOLES_MANY
                                                                                      : WEIR_HOLES_FEW;
        atomic_store_explicit(&node->io->file_holes, holes, memory_order_relaxed);
    }
    return holes == WEIR_HOLES_MANY;
}

/*
 * What the extent's child says about the stored bytes adds "zero" and the place; "allocated" is ours. A format that
 * allocates holds data there also where its file has a hole: the space is taken. A file of data alone is sparse as the
 * disk is: it is not asked.
 */
static weir_co_fn int data_status(struct weir_node *node, const struct weir_extent *extent, uint64_t offset,
                                  uint64_t length, unsigned flags, struct weir_status *ret_status)
{
    struct weir_node *file = weir_node_skip_filters(extent->edge->node);
    uint64_t child_offset = extent->child_offset + (offset - extent->offset);
    bool allocates = node->limits.lock_unit;
    struct weir_status below;
    int ret;

    if (allocates && !file->driver->map &&
        !(extent->edge->role & WEIR_ROLE_PRIMARY && has_many_holes(node, file))) {
        *ret_status = simple(length, true, false, true);
        ret_status->file = file;
        ret_status->file_offset = child_offset;
        return 0;
    }
    ret = weir_io_status(extent->edge, child_offset, length, flags & ~(unsigned)WEIR_REQUEST_DEEP, &below);
    if (ret)
        return ret;
    below.allocated = true;
    below.data = below.data || allocates;
    below.depth = 0;
    *ret_status = below;
    return 0;
}

static weir_co_fn int unmapped_status(struct weir_node *node, uint64_t offset, uint64_t length,
                                      unsigned flags, struct weir_status *ret_status)
{
    struct weir_edge *cow = weir_node_cow(node);
    uint64_t below = cow ? weir_node_size(cow->node) : 0;
    int ret;

    /* Behind the end of a shorter backing image nobody in the chain has anything. */
    if (below > offset)
        length = WEIR_MIN(length, below - offset);
    else if (flags & WEIR_REQUEST_DEEP)
        cow = NULL;
    if (!cow) {
        *ret_status = simple(length, false, true, false);
        return 0;
    }
    if (!(flags & WEIR_REQUEST_DEEP)) {
        *ret_status = simple(length, false, false, false);
        return 0;
    }
    ret = weir_io_status(cow, offset, length, flags, ret_status);
    if (!ret)
        ret_status->depth++;
    return ret;
}

static weir_co_fn int mapped_status(struct weir_node *node, uint64_t offset, uint64_t length, unsigned flags,
                                    struct weir_status *ret_status)
{
    bool locks = weir_node_allocates(node) && weir_node_pins_reads(node);
    struct weir_meta_pins pins = { .count = 0 };
    struct weir_range_lock pin = { 0 };
    struct weir_extent extent = { 0 };
    int ret;

    if (locks)
        weir_range_lock(node->io->ranges, &pin, offset, length, false);
    ret = weir_map(node, WEIR_OP_READ, offset, length, 0, &extent, &pins);
    weir_map_unpin(node, &pins);
    if (!ret) {
        length = WEIR_MIN(length, extent.offset + extent.length - offset);
        switch (extent.where) {
        case WEIR_DATA:
            ret = data_status(node, &extent, offset, length, flags, ret_status);
            break;
        case WEIR_ENCODED:
            *ret_status = simple(length, true, false, true);
            ret_status->compressed = true;
            break;
        case WEIR_ZEROED:
            *ret_status = simple(length, false, true, true);
            break;
        case WEIR_UNMAPPED:
            ret = unmapped_status(node, offset, length, flags, ret_status);
            break;
        }
    }
    weir_range_unlock(&pin);
    return ret;
}

int weir_io_status(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                   struct weir_status *ret_status)
{
    struct weir_node *node = edge->node;
    uint64_t size = weir_node_size(node);
    struct weir_edge *below;

    if (offset >= size) {
        *ret_status = simple(length, false, true, true);
        return 0;
    }
    length = WEIR_MIN(length, size - offset);
    if (weir_node_submits(node, WEIR_OP_STATUS))
        return leaf_status(node, offset, length, flags, ret_status);
    if (node->driver->map)
        return mapped_status(node, offset, length, flags, ret_status);
    below = weir_node_filtered(node);
    if (below)
        return weir_io_status(below, offset, length, flags, ret_status);
    *ret_status = simple(length, true, false, true);
    ret_status->file = node;
    ret_status->file_offset = offset;
    return 0;
}

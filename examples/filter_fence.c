/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * fence: a filter that keeps guests from changing a part of the disk, the example of docs/howto-driver.md.
 *
 * Writes, zeroes and discards that touch [offset, offset + length) fail with EPERM and leave everything as it was; all
 * others pass. Reads and flushes never come here.
 */
#include "graph/graph.h"
#include "io/io.h"
#include <errno.h>

extern const struct weir_driver weir_driver_fence;

struct fence_state {
    struct weir_edge *file;
    uint64_t offset, length; /* bytes; fixed at open, so that any loop may read them */
};

static weir_co_fn int fence_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct fence_state *fence = weir_node_state(node);
    json_int_t offset = json_integer_value(json_object_get(node->options, "offset"));
    json_int_t length = json_integer_value(json_object_get(node->options, "length"));
    int ret;

    if (offset < 0 || length < 0 || offset > INT64_MAX - length)
        return weir_error_set(err, -EINVAL, "The fence of node '%s' is no range of bytes", node->name);
    ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file",
                               WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &fence->file, err);
    if (ret < 0)
        return ret;
    fence->offset = (uint64_t)offset;
    fence->length = (uint64_t)length;
    weir_node_set_size(node, weir_node_size(fence->file->node));
    return 0;
}

/* Without a fence the node wants nothing, and costs nothing. */
static unsigned fence_cares(struct weir_node *node)
{
    const struct fence_state *fence = weir_node_state(node);

    if (!fence->length)
        return 0;
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | WEIR_OP_BIT(WEIR_OP_DISCARD);
}

static bool touches(const struct fence_state *fence, const struct weir_request *request)
{
    return request->offset < fence->offset + fence->length &&
           fence->offset < request->offset + request->length;
}

static weir_co_fn int fence_submit(struct weir_node *node, struct weir_request *request)
{
    struct fence_state *fence = weir_node_state(node);

    return touches(fence, request) ? -EPERM : weir_io(fence->file, request);
}

static int fence_try_submit(struct weir_node *node, struct weir_request *request)
{
    struct fence_state *fence = weir_node_state(node);

    return touches(fence, request) ? -EPERM : weir_io_try(fence->file, request);
}

const struct weir_driver weir_driver_fence = {
    .name = "fence",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct fence_state),
    .open = fence_open,
    .cares = fence_cares,
    .submit = fence_submit,
    .try_submit = fence_try_submit,
};

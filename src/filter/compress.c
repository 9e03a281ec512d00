/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * compress: writes go down to be stored compressed.
 *
 * The format below compresses whole clusters only. So the node takes writes in whole clusters: the core completes
 * shorter ones by what the cluster holds, under a lock of this node. Zeroes come here for that lock, for one that
 * passed beside such a write would be undone by it; everything else passes by.
 */
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/slice.h"
#include <errno.h>

extern const struct weir_driver weir_driver_compress;

struct compress_state {
    struct weir_edge *file;
};

/* The node below that is no filter, by role: a raw node over the whole of its file is as good as one. */
static struct weir_node *stored_by(struct weir_node *node)
{
    struct weir_edge *below;

    while ((below = weir_node_filtered(node)))
        node = below->node;
    return node;
}

static weir_co_fn int compress_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_compress *opts = options;
    struct compress_state *compress = weir_node_state(node);
    const struct weir_node *format;
    int ret;

    ret = weir_node_open_child(node, opts->file, "file", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                               &compress->file, err);
    if (ret < 0)
        return ret;
    format = stored_by(compress->file->node);
    if (!format->driver->encode)
        return weir_error_set(err, -ENOTSUP, "Compression is not supported for underlying format: %s",
                              format->driver->name);
    weir_node_set_size(node, weir_node_size(compress->file->node));
    return 0;
}

static void compress_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct compress_state *compress = weir_node_state(node);
    uint64_t unit = stored_by(compress->file->node)->limits.lock_unit;

    limits->request_align = WEIR_MAX(limits->request_align, (uint32_t)unit);
    limits->memory_align = 1; /* what cannot be compressed is aligned further down */
    limits->grows = false;
    limits->write_flags |= WEIR_REQUEST_FUA | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

static unsigned compress_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO);
}

/* The last cluster may be a short one: the disk ends in it, the request does not. */
static weir_co_fn int submit_inside(struct weir_node *node, const struct weir_request *request)
{
    struct compress_state *compress = weir_node_state(node);
    uint64_t length = WEIR_MIN(request->length, weir_node_size(node) - request->offset);
    struct weir_request inside = *request;
    struct weir_slice slice;
    int ret;

    if (request->op == WEIR_OP_READ)
        weir_iov_fill(request->iov, request->iovcnt, length, 0, request->length - length);
    weir_slice_init(&slice, request->iov, request->iovcnt, 0, length);
    inside.length = length;
    inside.iov = slice.iov;
    inside.iovcnt = slice.count;
    if (request->op == WEIR_OP_WRITE)
        inside.flags |= WEIR_REQUEST_COMPRESSED;
    ret = weir_io(compress->file, &inside);
    weir_slice_done(&slice);
    return ret;
}

/* Reads are those with which the core completes a write. */
static weir_co_fn int compress_submit(struct weir_node *node, struct weir_request *request)
{
    struct compress_state *compress = weir_node_state(node);

    if (request->op == WEIR_OP_READ || request->op == WEIR_OP_WRITE)
        return submit_inside(node, request);
    return weir_io(compress->file, request);
}

const struct weir_driver weir_driver_compress = {
    .name = "compress",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct compress_state),
    .options = &weir_schema_opts_compress,
    .open = compress_open,
    .limits = compress_limits,
    .cares = compress_cares,
    .submit = compress_submit,
};

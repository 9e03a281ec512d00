/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * null-co: no storage. Writes are forgotten; reads give zeroes, or leave the buffer as it is.
 *
 * With read-zeroes the whole disk is a hole for block status. With latency-ns each request takes at least
 * that long, also a flush; then nothing can be answered at once. Any loop; no locks, as nothing is ever
 * changed.
 */
#include "base/iov.h"
#include "co/co.h"
#include "gen/schema.h"
#include "graph/node.h"
#include "io/request.h"
#include "sys/sys.h"
#include <errno.h>

#define SIZE_DEFAULT ((uint64_t)1 << 30)

extern const struct weir_driver weir_driver_null_co;

struct null_state {
    uint64_t latency_ns;
    bool read_zeroes;
};

static weir_co_fn int null_co_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_null_co *opts = options;
    struct null_state *null = weir_node_state(node);

    if (opts->has_size && opts->size < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'size' expects a non-negative number below 2^64");
    if (opts->has_latency_ns && opts->latency_ns > INT64_MAX)
        return weir_error_set(err, -EINVAL, "latency-ns is invalid");
    null->latency_ns = opts->has_latency_ns ? opts->latency_ns : 0;
    null->read_zeroes = opts->has_read_zeroes && opts->read_zeroes;
    weir_node_set_size(node, opts->has_size ? (uint64_t)opts->size : SIZE_DEFAULT);
    return 0;
}

static void null_co_close(struct weir_node *node)
{
}

static void null_co_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->write_flags = WEIR_REQUEST_FUA;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

static int answer(struct weir_node *node, struct weir_request *request)
{
    const struct null_state *null = weir_node_state(node);

    switch (request->op) {
    case WEIR_OP_READ:
        if (null->read_zeroes)
            weir_iov_fill(request->iov, request->iovcnt, 0, 0, request->length);
        return 0;
    case WEIR_OP_STATUS:
        *request->status = (struct weir_status){ .length = request->length,
                                                 .data = !null->read_zeroes,
                                                 .zero = null->read_zeroes,
                                                 .allocated = true,
                                                 .file = node,
                                                 .file_offset = request->offset };
        return 0;
    default:
        return 0;
    }
}

static weir_co_fn int null_co_submit(struct weir_node *node, struct weir_request *request)
{
    const struct null_state *null = weir_node_state(node);

    if (null->latency_ns && request->op != WEIR_OP_STATUS)
        weir_co_sleep((int64_t)null->latency_ns);
    return answer(node, request);
}

static int null_co_try_submit(struct weir_node *node, struct weir_request *request)
{
    const struct null_state *null = weir_node_state(node);

    return null->latency_ns ? -EAGAIN : answer(node, request);
}

static weir_co_fn int null_co_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    weir_node_set_size(node, size);
    return 0;
}

static weir_co_fn int64_t null_co_allocated_size(struct weir_node *node)
{
    return 0;
}

/* No option of its own may change. */
static const struct weir_reopen_ops null_reopen = { 0 };

const struct weir_driver weir_driver_null_co = {
    .name = "null-co",
    .flags = WEIR_DRIVER_PROTOCOL,
    .state_size = sizeof(struct null_state),
    .options = &weir_schema_opts_null_co,
    .open = null_co_open,
    .close = null_co_close,
    .limits = null_co_limits,
    .resize = null_co_resize,
    .submit = null_co_submit,
    .try_submit = null_co_try_submit,
    .allocated_size = null_co_allocated_size,
    .reopen = &null_reopen,
};

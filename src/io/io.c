/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One step down: a request enters a node.
 *
 * Here a node's own options act (discard, detect-zeroes, cache.no-flush), the kind of node decides the path
 * (leaf and busy filters, formats, views, identity), and the node counts what has passed.
 */
#include "io/io.h"

#include "base/alloc.h"
#include "base/iov.h"
#include "graph/graph.h"
#include "io/node_io.h"
#include "io/slice.h"

#define SECTOR 512u /* sizes are multiples of it */

/* What the node's options make of the request: 1 = answered with 0, 0 = go on with *request. */
static int apply_options(struct weir_node *node, struct weir_request *request)
{
    switch (request->op) {
    case WEIR_OP_DISCARD:
        return !node->discard_unmap;
    case WEIR_OP_ZERO:
        if (!node->discard_unmap)
            request->flags &= ~(unsigned)WEIR_REQUEST_MAY_UNMAP;
        return 0;
    case WEIR_OP_FLUSH:
        return node->cache_no_flush && !weir_node_allocates(node);
    default:
        return 0;
    }
}

/* Of several writes that come at one time one is told. */
static void check_threshold(struct weir_node *node, const struct weir_request *request)
{
    uint64_t threshold = atomic_load_explicit(&node->write_threshold, memory_order_relaxed),
             end = request->offset + request->length;

    if (!threshold || end <= threshold || (request->op != WEIR_OP_WRITE && request->op != WEIR_OP_ZERO))
        return;
    if (atomic_compare_exchange_strong(&node->write_threshold, &threshold, 0))
        weir_node_exceeded(node, threshold, end - threshold);
}

/* On the hot path: reads first, then writes. */
static inline bool options_matter(const struct weir_node *node, const struct weir_request *request)
{
    if (request->op == WEIR_OP_READ)
        return false;
    if (request->op == WEIR_OP_WRITE)
        return atomic_load_explicit(&node->watches_writes, memory_order_relaxed);
    return request->op != WEIR_OP_STATUS;
}

static weir_co_fn int enter_node(struct weir_node *node, struct weir_request *request)
{
    struct weir_edge *below;

    if (weir_node_submits(node, request->op))
        return weir_leaf_io(node, request);
    if (node->driver->map)
        return weir_node_allocates(node) ? weir_mapped_io(node, request) : weir_view_io(node, request);
    below = weir_node_filtered(node);
    return below ? weir_io(below, request) : -ENOMEDIUM;
}

/*
 * detect-zeroes: a write of zeroes becomes a ZERO request. A buffer that may change meanwhile is not looked
 * at twice: it is copied first, by whoever issued it as UNSTABLE to a node that detects.
 */
static weir_co_fn int write_detecting(struct weir_node *node, struct weir_request *request)
{
    struct weir_request zero = *request, copy = *request;
    struct weir_buffer *stable = NULL;
    struct iovec iov;
    int ret;

    if (request->flags & WEIR_REQUEST_UNSTABLE) {
        stable = weir_buffer_new(request->length);
        if (!stable)
            return -ENOMEM;
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, stable->data, request->length);
        iov = (struct iovec){ stable->data, request->length };
        copy.iov = &iov;
        copy.iovcnt = 1;
        copy.buffer = stable;
        copy.flags &= ~(unsigned)WEIR_REQUEST_UNSTABLE;
    }
    if (weir_iov_is_zero(copy.iov, copy.iovcnt, 0, copy.length)) {
        zero.op = WEIR_OP_ZERO;
        zero.iov = NULL;
        zero.iovcnt = 0;
        zero.buffer = NULL;
        zero.flags &= WEIR_REQUEST_FUA | WEIR_REQUEST_UNCHANGED;
        if (node->detect_zeroes == WEIR_DETECT_ZEROES_UNMAP && node->discard_unmap)
            zero.flags |= WEIR_REQUEST_MAY_UNMAP;
        ret = enter_node(node, &zero);
    } else {
        ret = enter_node(node, &copy);
    }
    weir_buffer_unref(stable);
    return ret;
}

/* Below root users a write may go beyond the end: formats make their files grow so. */
static inline bool ends_beyond(const struct weir_node *node, const struct weir_request *request)
{
    return (request->op == WEIR_OP_WRITE || request->op == WEIR_OP_ZERO) &&
           request->offset + request->length > weir_node_size(node);
}

/* Every node that the request has passed grows, before anybody may rely on it. */
static void grow(struct weir_node *node, const struct weir_request *request)
{
    weir_node_grow(node, weir_align_up(request->offset + request->length, SECTOR));
}

/* The first node that has to do with the request: reads pass those that do nothing about them. */
static inline struct weir_node *first_node(const struct weir_edge *edge, enum weir_op op)
{
    return op == WEIR_OP_READ ? atomic_load_explicit(&edge->read_to, memory_order_acquire) : edge->node;
}

/* Where a request is counted that @node, the first, has dealt with. */
static inline struct weir_io_counters *counters_of(struct weir_edge *edge, struct weir_node *node)
{
    return weir_likely(node == edge->node) ? &node->io->counters : &edge->io->past;
}

int weir_io(struct weir_edge *edge, struct weir_request *request)
{
    struct weir_node *node = first_node(edge, request->op);
    int64_t start = weir_loop_now(weir_loop_self());
    bool beyond = ends_beyond(node, request);
    int ret;

    if (weir_unlikely(beyond && !node->limits.grows))
        return -ENOSPC;
    if (weir_unlikely(options_matter(node, request))) {
        struct weir_request changed = *request;

        check_threshold(node, request);
        if (apply_options(node, &changed))
            ret = 0;
        else if (request->op == WEIR_OP_WRITE && node->detect_zeroes)
            ret = write_detecting(node, &changed);
        else
            ret = enter_node(node, &changed);
    } else {
        ret = enter_node(node, request);
    }
    if (weir_unlikely(beyond && !ret))
        grow(node, request);
    weir_io_count(counters_of(edge, node), request->op, request->offset, request->length, ret, start);
    return ret;
}

/* @op is the request's: where it is known beforehand, half of this is too. */
static inline int try_enter(struct weir_node *node, struct weir_request *request, enum weir_op op)
{
    struct weir_edge *below;

    if (weir_node_submits(node, op))
        return weir_leaf_try(node, request);
    if (node->driver->map)
        return weir_node_allocates(node) ? weir_mapped_try(node, request) : weir_view_try(node, request);
    below = weir_node_filtered(node);
    return below ? weir_io_try(below, request) : -ENOMEDIUM;
}

/* Apart, so that others do not pay for the copy. */
static __attribute__((noinline)) int try_with_options(struct weir_node *node,
                                                      const struct weir_request *request)
{
    struct weir_request changed = *request;

    if (request->op == WEIR_OP_WRITE && node->detect_zeroes)
        return -EAGAIN; /* looking for zeroes costs more than a coroutine */
    check_threshold(node, request);
    return apply_options(node, &changed) ? 0 : try_enter(node, &changed, changed.op);
}

/* Reads need no look at options or the end. */
static inline int try_read(struct weir_edge *edge, struct weir_request *request)
{
    struct weir_node *node = first_node(edge, WEIR_OP_READ);
    int ret = try_enter(node, request, WEIR_OP_READ);

    if (ret != -EAGAIN)
        weir_io_count_at_once(counters_of(edge, node), request, ret);
    return ret;
}

static inline int try_write(struct weir_node *node, struct weir_request *request)
{
    if (weir_unlikely(request->offset + request->length > weir_node_size(node)))
        return -EAGAIN;
    if (weir_unlikely(atomic_load_explicit(&node->watches_writes, memory_order_relaxed)))
        return try_with_options(node, request);
    return try_enter(node, request, WEIR_OP_WRITE);
}

static inline int try_other(struct weir_node *node, struct weir_request *request)
{
    if (ends_beyond(node, request))
        return -EAGAIN;
    return options_matter(node, request) ? try_with_options(node, request)
                                         : try_enter(node, request, request->op);
}

int weir_io_try(struct weir_edge *edge, struct weir_request *request)
{
    struct weir_node *node = edge->node;
    int ret;

    if (request->op == WEIR_OP_READ)
        return try_read(edge, request);
    ret = request->op == WEIR_OP_WRITE ? try_write(node, request) : try_other(node, request);
    if (ret != -EAGAIN)
        weir_io_count_at_once(&node->io->counters, request, ret);
    return ret;
}

void weir_io_pause(void)
{
    weir_co_pause();
}

int weir_io_read(struct weir_edge *edge, uint64_t offset, uint64_t length, void *buffer)
{
    struct iovec iov = { buffer, length };
    struct weir_request request =
        weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, WEIR_REQUEST_METADATA);

    return weir_io(edge, &request);
}

int weir_io_write(struct weir_edge *edge, uint64_t offset, uint64_t length, const void *buffer,
                  unsigned flags)
{
    struct iovec iov = { (void *)(uintptr_t)buffer, length };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, offset, length, &iov, 1, flags);

    return weir_io(edge, &request);
}

int weir_io_flush(struct weir_edge *edge)
{
    struct weir_request request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);

    return weir_io(edge, &request);
}

int weir_io_read_short(struct weir_edge *edge, uint64_t offset, uint64_t length, const struct iovec *iov,
                       unsigned iovcnt, unsigned flags)
{
    uint64_t size = weir_node_size(edge->node);
    uint64_t inside = offset >= size ? 0 : WEIR_MIN(length, size - offset);
    struct weir_request request;
    struct weir_slice slice;
    int ret = 0;

    if (inside < length)
        weir_iov_fill(iov, iovcnt, inside, 0, length - inside);
    if (inside) {
        weir_slice_init(&slice, iov, iovcnt, 0, inside);
        request = weir_request_make(WEIR_OP_READ, offset, inside, slice.iov, slice.count, flags);
        ret = weir_io(edge, &request);
        weir_slice_done(&slice);
    }
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where root users enter: bounds and permission, the gate, statistics; one request, or a batch.
 *
 * A batch is worked off in order. What can be answered at once is (weir_io_try); the others get a coroutine each.
 * Neighbours that continue each other are merged into one request, unless something below counts requests; if a
 * merged one fails, its members are issued one by one, so that each gets the answer it would have had alone.
 */
#include "base/alloc.h"
#include "graph/gate.h"
#include "io/io.h"
#include "io/node_io.h"
#include "sys/sys.h"

#define MERGE_REQUESTS_MAX 32u
#define MERGE_BYTES_MAX ((uint64_t)1 << 20)
#define MERGE_IOVS_MAX 64u
/* For fewer requests at once a look ahead costs what it saves. */
#define PREFETCH_MIN 3u
#define PREFETCH_MAX 64u

static bool changes(const struct weir_request *request)
{
    return request->op == WEIR_OP_WRITE || request->op == WEIR_OP_ZERO || request->op == WEIR_OP_DISCARD;
}

/* Bounds and permission; 1 = there is nothing to do. Every request of the hot path pays for it. */
static inline __attribute__((always_inline)) int check(const struct weir_edge *edge,
                                                       const struct weir_request *request)
{
    const struct weir_node *node = edge->node;
    uint64_t size = weir_node_size(node);

    /* No drain waits for it any more: the graph below may be another one at any time. */
    if (weir_unlikely(!atomic_load_explicit(&edge->attached, memory_order_acquire)))
        return -ENOMEDIUM;
    if (changes(request)) {
        unsigned needed = WEIR_PERM_WRITE;

        if (request->flags & WEIR_REQUEST_UNCHANGED)
            needed |= WEIR_PERM_WRITE_UNCHANGED;
        if (node->read_only || !(edge->perm & needed))
            return -EPERM;
    } else if (request->op == WEIR_OP_FLUSH) {
        return 0;
    }
    if (request->offset > size || request->length > size - request->offset)
        return changes(request) ? -ENOSPC : -EINVAL;
    return !request->length;
}

/* Checked only now: the node may have been exchanged or resized while we waited at the gate. */
static weir_co_fn int inside(struct weir_edge *edge, struct weir_request *request, int64_t start_ns)
{
    int ret = check(edge, request);

    if (!ret) {
        ret = weir_io(edge, request);
        weir_io_count(&edge->io->counters, request->op, request->offset, request->length, ret, start_ns);
    }
    return ret > 0 ? 0 : ret;
}

static weir_co_fn int root_enter(struct weir_edge *edge, struct weir_request *request)
{
    struct weir_gate_op op = { .op = request->op, .offset = request->offset, .length = request->length };
    int ret;

    weir_gate_enter(edge, &op);
    ret = inside(edge, request, op.start_ns);
    weir_gate_leave(&op);
    return ret;
}

int weir_root_io(struct weir_edge *edge, struct weir_request *request)
{
    int ret = weir_root_try(edge, request);

    return ret == -EAGAIN ? root_enter(edge, request) : ret;
}

int weir_root_try(struct weir_edge *edge, struct weir_request *request)
{
    int ret;

    if (!weir_gate_try_enter(edge))
        return -EAGAIN;
    ret = check(edge, request);
    if (weir_likely(!ret)) {
        ret = weir_io_try(edge, request);
        if (ret != -EAGAIN)
            weir_io_count_at_once(&edge->io->counters, request, ret);
    }
    weir_gate_try_leave(edge);
    return ret > 0 ? 0 : ret;
}

int weir_root_status(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                     struct weir_status *ret_status)
{
    struct weir_gate_op op = { .op = WEIR_OP_STATUS, .offset = offset, .length = length };
    uint64_t size;
    int ret;

    weir_gate_enter(edge, &op);
    size = weir_node_size(edge->node);
    if (!atomic_load_explicit(&edge->attached, memory_order_acquire))
        ret = -ENOMEDIUM;
    else
        ret = offset >= size || length > size - offset || !length
                  ? -EINVAL
                  : weir_io_status(edge, offset, length, flags, ret_status);
    weir_gate_leave(&op);
    return ret;
}

/* ---- batches ---- */

struct item {
    struct weir_edge *edge;
    struct weir_request request; /* the merged one */
    struct iovec iov[MERGE_IOVS_MAX];
    struct weir_request *members[MERGE_REQUESTS_MAX];
    unsigned count;
};

struct lone {
    struct weir_edge *edge;
    struct weir_request *request;
};

static weir_co_fn void run_lone(void *arg)
{
    struct lone lone = *(struct lone *)arg;

    free(arg);
    lone.request->done(lone.request, root_enter(lone.edge, lone.request));
}

static void start_lone(struct weir_edge *edge, struct weir_request *request)
{
    struct lone *lone = weir_new(struct lone);

    *lone = (struct lone){ edge, request };
    weir_co_run(run_lone, lone);
}

static void issue(struct weir_edge *edge, struct weir_request *request)
{
    int ret = weir_root_try(edge, request);

    if (ret == -EAGAIN)
        start_lone(edge, request);
    else
        request->done(request, ret);
}

/* All members pass the gate together: nobody who waits for what is inside may miss those that are tried again. */
static weir_co_fn void run_item(void *arg)
{
    struct item *item = arg;
    struct weir_gate_op op = { .op = item->request.op,
                               .offset = item->request.offset,
                               .length = item->request.length };
    int results[MERGE_REQUESTS_MAX] = { 0 };

    weir_gate_enter(item->edge, &op);
    if (inside(item->edge, &item->request, op.start_ns)) {
        for (unsigned i = 0; i < item->count; i++)
            results[i] = inside(item->edge, item->members[i], op.start_ns);
    }
    weir_gate_leave(&op);
    for (unsigned i = 0; i < item->count; i++)
        item->members[i]->done(item->members[i], results[i]);
    free(item);
}

/* Whether @next continues @request and may share its fate. */
static bool continues(const struct weir_request *request, const struct weir_request *next, uint64_t end)
{
    return next->op == request->op && next->flags == request->flags && next->offset == end && next->length;
}

/* How many requests from the first on make one. */
static unsigned run_length(struct weir_request *const *requests, unsigned count)
{
    const struct weir_request *first = requests[0];
    uint64_t end = first->offset + first->length;
    unsigned iovs = first->iovcnt, n = 1;

    if ((first->op != WEIR_OP_READ && first->op != WEIR_OP_WRITE) || !first->length ||
        (first->flags & WEIR_REQUEST_COMPRESSED))
        return 1;
    while (n < count && n < MERGE_REQUESTS_MAX && continues(first, requests[n], end) &&
           iovs + requests[n]->iovcnt <= MERGE_IOVS_MAX &&
           end + requests[n]->length - first->offset <= MERGE_BYTES_MAX) {
        iovs += requests[n]->iovcnt;
        end += requests[n]->length;
        n++;
    }
    return n;
}

static void issue_merged(struct weir_edge *edge, struct weir_request *const *requests, unsigned count)
{
    struct item *item = weir_try_alloc(sizeof(*item), _Alignof(struct item));
    struct weir_io_shard *shard = weir_io_counters_here(&edge->io->counters);
    unsigned iovs = 0;
    int ret;

    WEIR_ASSERT(item);
    item->edge = edge;
    item->request = *requests[0];
    item->request.iov = item->iov;
    item->request.length = 0;
    item->request.buffer = NULL; /* several owners: who must outlive copies */
    item->count = count;
    for (unsigned i = 0; i < count; i++) {
        item->members[i] = requests[i];
        item->request.length += requests[i]->length;
        for (unsigned j = 0; j < requests[i]->iovcnt; j++)
            item->iov[iovs++] = requests[i]->iov[j];
    }
    item->request.iovcnt = iovs;
    atomic_fetch_add_explicit(&shard->merged[item->request.op], count - 1, memory_order_relaxed);
    ret = weir_root_try(edge, &item->request);
    if (ret == -EAGAIN) {
        weir_co_run(run_item, item);
        return;
    }
    free(item);
    for (unsigned i = 0; i < count; i++) {
        if (ret)
            issue(edge, requests[i]);
        else
            requests[i]->done(requests[i], 0);
    }
}

/* Where the gate is closed nothing is known about the graph below. */
static bool may_merge(struct weir_edge *edge)
{
    bool apart;

    if (!weir_gate_try_enter(edge))
        return false;
    apart = edge->node->limits.apart;
    weir_gate_try_leave(edge);
    return !apart;
}

static void prefetch(struct weir_edge *edge, struct weir_request *const *requests, unsigned count)
{
    uint64_t offsets[PREFETCH_MAX];

    if (!weir_gate_try_enter(edge))
        return;
    if (edge->node->driver->prefetch && atomic_load_explicit(&edge->attached, memory_order_acquire)) {
        count = WEIR_MIN(count, PREFETCH_MAX);
        for (unsigned i = 0; i < count; i++)
            offsets[i] = requests[i]->offset;
        weir_mapped_prefetch(edge->node, offsets, count);
    }
    weir_gate_try_leave(edge);
}

void weir_root_batch(struct weir_edge *edge, struct weir_request *const *requests, unsigned count)
{
    if (count >= PREFETCH_MIN)
        prefetch(edge, requests, count);
    for (unsigned i = 0, n; i < count; i += n) {
        n = run_length(requests + i, count - i);
        if (n > 1 && may_merge(edge)) {
            issue_merged(edge, requests + i, n);
        } else {
            issue(edge, requests[i]);
            n = 1;
        }
    }
}

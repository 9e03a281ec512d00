/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests that their parent may leave behind.
 *
 * The request lives in a heap object of its own, shared by the coroutine that performs it and the parent that
 * waits; whoever is last frees it. It owns references to the edge and to the node, and memory that stays valid: the
 * parent's reference-counted buffer, else a private one.
 */
#include "io/async.h"

#include "base/alloc.h"
#include "base/iov.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/node_io.h"

struct async {
    struct weir_edge *edge;
    struct weir_node *node;
    struct weir_request request;
    struct iovec *iov;            /* own copy of the vector */
    struct weir_buffer *private;  /* own memory, where the parent's is not reference counted */
    struct weir_buffer *borrowed; /* reference to the parent's */
    struct weir_status status;    /* STATUS */
    bool done, left;              /* edge->io->mutex */
    int result;
};

static void async_free(struct async *async)
{
    struct weir_edge *edge = async->edge;
    struct weir_node *node = async->node;

    weir_buffer_unref(async->private);
    weir_buffer_unref(async->borrowed);
    free(async->iov);
    free(async);
    weir_node_unref(node);
    weir_edge_unref(edge);
}

static bool own_memory(struct async *async, const struct weir_request *request)
{
    async->request = *request;
    if (!request->iovcnt)
        return true;
    if (request->buffer) {
        async->borrowed = weir_buffer_ref(request->buffer);
        async->iov = weir_new_array(struct iovec, request->iovcnt);
        __builtin_memcpy(async->iov, request->iov, request->iovcnt * sizeof(*request->iov));
    } else {
        async->private = weir_buffer_new(request->length);
        if (!async->private)
            return false;
        async->iov = weir_new(struct iovec);
        *async->iov = (struct iovec){ async->private->data, request->length };
        async->request.iovcnt = 1;
        async->request.buffer = async->private;
        if (request->op == WEIR_OP_WRITE)
            weir_iov_to_buffer(request->iov, request->iovcnt, 0, async->private->data, request->length);
    }
    async->request.iov = async->iov;
    return true;
}

static weir_co_fn void async_run(void *arg)
{
    struct async *async = arg;
    struct weir_edge_io *io = async->edge->io;
    const struct weir_request *request = &async->request;
    int result = request->op == WEIR_OP_STATUS ? weir_io_status(async->edge, request->offset, request->length,
                                                                request->flags, &async->status)
                                               : weir_io(async->edge, &async->request);
    bool left;

    weir_mutex_lock(&io->mutex);
    async->result = result;
    async->done = true;
    left = async->left;
    if (left)
        atomic_fetch_sub(&io->abandoned, 1);
    weir_co_queue_wake_all(&io->waiters);
    weir_mutex_unlock(&io->mutex);
    if (left) {
        weir_node_request_returned(async->node);
        async_free(async);
    }
}

/* Waits until the request has ended, the edge is broken or the time is up; returns whether it has ended. */
static weir_co_fn bool async_wait(struct async *async, int64_t deadline_ns)
{
    struct weir_edge_io *io = async->edge->io;
    bool done;
    int ret = 0;

    weir_mutex_lock(&io->mutex);
    while (!async->done && !ret && !atomic_load(&async->edge->broken))
        ret = weir_co_queue_wait_until(&io->waiters, &io->mutex, deadline_ns);
    done = async->done;
    if (!done) {
        async->left = true;
        atomic_fetch_add(&io->abandoned, 1);
        atomic_fetch_add(&async->node->left_behind, 1);
    }
    weir_mutex_unlock(&io->mutex);
    return done;
}

int weir_io_abandonable(struct weir_edge *edge, struct weir_request *request, int64_t deadline_ns)
{
    struct async *async;
    int ret;

    if (atomic_load(&edge->broken))
        return -ECANCELED;
    ret = request->op == WEIR_OP_STATUS ? -EAGAIN : weir_io_try(edge, request);
    if (ret != -EAGAIN)
        return ret;
    async = weir_new(struct async);
    async->edge = weir_edge_ref(edge);
    async->node = weir_node_ref(edge->node);
    if (!own_memory(async, request)) {
        async_free(async);
        return -ENOMEM;
    }
    weir_co_run(async_run, async);
    if (!async_wait(async, deadline_ns))
        return atomic_load(&edge->broken) ? -ECANCELED : -ETIMEDOUT;
    ret = async->result;
    if (!ret && request->op == WEIR_OP_READ && async->private)
        weir_iov_from_buffer(request->iov, request->iovcnt, 0, async->private->data, request->length);
    if (!ret && request->op == WEIR_OP_STATUS)
        *request->status = async->status;
    async_free(async);
    return ret;
}

void weir_edge_break(struct weir_edge *edge)
{
    atomic_store(&edge->broken, true);
    WEIR_SCOPE_LOCK(&edge->io->mutex);
    weir_co_queue_wake_all(&edge->io->waiters);
}

unsigned weir_edge_abandoned(const struct weir_edge *edge)
{
    return atomic_load(&edge->io->abandoned);
}

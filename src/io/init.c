/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The core's part in the life of nodes and edges.
 */
#include "base/alloc.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/meta_ops.h"
#include "io/node_io.h"

static void node_init(struct weir_node *node)
{
    struct weir_node_io *io = weir_new(struct weir_node_io);

    io->ranges = weir_range_table_new();
    weir_mutex_init(&io->monitor);
    weir_mutex_init(&io->flush_mutex);
    weir_co_queue_init(&io->flush_queue);
    node->io = io;
}

static void node_done(struct weir_node *node)
{
    if (!node->io)
        return;
    weir_range_table_free(node->io->ranges);
    weir_io_counters_done(&node->io->counters);
    weir_mutex_done(&node->io->monitor);
    weir_mutex_done(&node->io->flush_mutex);
    free(weir_steal(&node->io));
}

static void edge_init(struct weir_edge *edge)
{
    edge->io = weir_new(struct weir_edge_io);
    weir_mutex_init(&edge->io->mutex);
    weir_co_queue_init(&edge->io->waiters);
}

static void edge_done(struct weir_edge *edge)
{
    if (!edge->io)
        return;
    weir_io_counters_done(&edge->io->counters);
    weir_io_counters_done(&edge->io->past);
    weir_mutex_done(&edge->io->mutex);
    free(weir_steal(&edge->io));
}

/* Before close: what guests wrote must be durable in the metadata, and nothing may wait in the quarantine. */
static weir_co_fn int node_settle(struct weir_node *node)
{
    const struct weir_meta_ops *ops;
    int ret;

    if (node->read_only || !weir_node_allocates(node) || !node->meta)
        return 0;
    ops = ((struct weir_meta_head *)node->meta)->ops;
    ret = ops->sync(node);
    /* The first one released what was in quarantine; the second makes these lower counts durable. */
    return ret ? ret : ops->sync(node);
}

const struct weir_graph_hooks weir_io_hooks = {
    .node_init = node_init,
    .node_done = node_done,
    .edge_init = edge_init,
    .edge_done = edge_done,
    .edge_rerouted = weir_io_edge_rerouted,
    .node_settle = node_settle,
};

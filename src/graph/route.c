/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where reads go: an edge leads them past nodes that do nothing about them to the first one that does.
 *
 * So a filter that waits for other things costs a read nothing. What went past is counted once, with the edge; it is
 * told with every node that was passed (the edge_rerouted hook, io/stats.c). Routes are found anew whenever an edge
 * comes or goes and when a driver changes its mind about reads, and change only where that is drained.
 */
#include "base/alloc.h"
#include "graph/internal.h"

/* The way a read goes on from @node unseen; NULL: it ends here. */
static struct weir_edge *way_past(const struct weir_node *node)
{
    if (node->driver->map || !node->graph->opened || node->counts ||
        (atomic_load_explicit(&node->cares, memory_order_relaxed) & WEIR_OP_BIT(WEIR_OP_READ)))
        return NULL;
    return weir_node_filtered(node);
}

static bool is_same(const struct weir_edge *edge, struct weir_node *const *passed, unsigned count,
                    const struct weir_node *to)
{
    if (edge->passed_count != count || atomic_load_explicit(&edge->read_to, memory_order_relaxed) != to)
        return false;
    for (unsigned i = 0; i < count; i++) {
        if (edge->passed[i] != passed[i])
            return false;
    }
    return true;
}

static void set(struct weir_edge *edge, struct weir_node *const *passed, unsigned count, struct weir_node *to)
{
    if (is_same(edge, passed, count, to))
        return;
    if (weir_graph.hooks.edge_rerouted)
        weir_graph.hooks.edge_rerouted(edge);
    edge->passed = weir_realloc(edge->passed, (count + 1) * sizeof(struct weir_node *));
    for (unsigned i = 0; i < count; i++)
        edge->passed[i] = passed[i];
    edge->passed_count = count;
    atomic_store_explicit(&edge->read_to, to, memory_order_release);
}

static void route(struct weir_edge *edge)
{
    struct weir_node *passed[WEIR_GRAPH_DEPTH_MAX], *node = edge->node;
    const struct weir_edge *next;
    unsigned count = 0;

    while (count < WEIR_GRAPH_DEPTH_MAX && (next = way_past(node))) {
        passed[count++] = node;
        node = next->node;
    }
    if (node->counts)
        set(edge, NULL, 0, edge->node);
    else
        set(edge, passed, count, node);
}

void weir_edge_unroute(struct weir_edge *edge)
{
    set(edge, NULL, 0, edge->node);
}

static void route_all(const struct weir_nodes *nodes)
{
    const struct weir_node *node;
    struct weir_edge *edge;

    TAILQ_FOREACH (node, nodes, in_graph) {
        TAILQ_FOREACH (edge, &node->parents, in_node)
            route(edge);
    }
}

void weir_graph_reroute(void)
{
    route_all(&weir_graph.nodes);
    route_all(&weir_graph.leaving);
}

/* ---- for counting ---- */

static void each_of(const struct weir_nodes *nodes, const struct weir_node *target,
                    void (*call)(struct weir_edge *edge, void *arg), void *arg)
{
    const struct weir_node *node;
    struct weir_edge *edge;

    TAILQ_FOREACH (node, nodes, in_graph) {
        TAILQ_FOREACH (edge, &node->parents, in_node) {
            if (weir_edge_passes(edge, target))
                call(edge, arg);
        }
    }
}

bool weir_edge_passes(const struct weir_edge *edge, const struct weir_node *node)
{
    if (!edge->passed_count)
        return false;
    for (unsigned i = 0; i < edge->passed_count; i++) {
        if (edge->passed[i] == node)
            return true;
    }
    return atomic_load_explicit(&edge->read_to, memory_order_relaxed) == node;
}

void weir_graph_each_passing(const struct weir_node *node, void (*call)(struct weir_edge *edge, void *arg),
                             void *arg)
{
    each_of(&weir_graph.nodes, node, call, arg);
    each_of(&weir_graph.leaving, node, call, arg);
}

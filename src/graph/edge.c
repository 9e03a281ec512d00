/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Edges: life, lists, names for messages.
 *
 * An edge references its node for as long as it lives, and requests that were left behind reference the edge: so
 * what they use stays open after the edge is out of the graph.
 */
#include "base/alloc.h"
#include "graph/internal.h"

struct weir_edge *weir_edge_new(struct weir_node *parent, struct weir_node *node, const char *name,
                                unsigned role)
{
    struct weir_edge *edge = weir_new(struct weir_edge);

    edge->node = weir_node_ref(node);
    edge->parent = parent;
    atomic_init(&edge->read_to, node);
    edge->name = weir_strdup(name);
    edge->role = role;
    edge->shared = WEIR_PERM_ALL;
    atomic_init(&edge->refs, 1);
    if (weir_graph.hooks.edge_init)
        weir_graph.hooks.edge_init(edge);
    return edge;
}

void weir_edge_link(struct weir_edge *edge, struct weir_edge *in_parent, struct weir_edge *in_node)
{
    WEIR_ASSERT(!edge->attached);
    edge->attached = true;
    if (in_node)
        TAILQ_INSERT_BEFORE(in_node, edge, in_node);
    else
        TAILQ_INSERT_TAIL(&edge->node->parents, edge, in_node);
    if (edge->parent && in_parent)
        TAILQ_INSERT_BEFORE(in_parent, edge, in_parent);
    else if (edge->parent)
        TAILQ_INSERT_TAIL(&edge->parent->children, edge, in_parent);
    weir_edge_unroute(edge); /* it may have got another node */
    weir_graph_reroute();
}

void weir_edge_unlink(struct weir_edge *edge)
{
    WEIR_ASSERT(edge->attached);
    edge->attached = false;
    TAILQ_REMOVE(&edge->node->parents, edge, in_node);
    if (edge->parent)
        TAILQ_REMOVE(&edge->parent->children, edge, in_parent);
    weir_edge_unroute(edge);
    weir_graph_reroute();
}

static void edge_free(struct weir_edge *edge)
{
    WEIR_ASSERT(!edge->attached);
    if (weir_graph.hooks.edge_done)
        weir_graph.hooks.edge_done(edge);
    weir_node_unref(edge->node);
    weir_gate_free(edge->gate);
    free(edge->passed);
    free(edge->name);
    free(edge);
}

/* ---- requests left behind ---- */

static weir_co_fn void end_lingering(void *arg)
{
    struct weir_lingering *lingering = arg;
    struct weir_edge *edge = lingering->edge;
    bool taken = weir_graph_enter();

    TAILQ_REMOVE(&edge->node->graph->lingering, lingering, link);
    weir_perm_refresh_less();
    weir_graph_leave(taken);
    edge_free(edge);
    free(lingering);
}

static void start_end_lingering(struct weir_call *call)
{
    weir_co_start(weir_loop_control(), end_lingering, weir_container_of(call, struct weir_lingering, call));
}

static void start_lingering(struct weir_edge *edge)
{
    struct weir_lingering *lingering = weir_new(struct weir_lingering);

    lingering->edge = edge;
    lingering->call.run = start_end_lingering;
    edge->lingering = lingering;
    TAILQ_INSERT_TAIL(&edge->node->graph->lingering, lingering, link);
}

bool weir_edge_held(const struct weir_edge *edge)
{
    return atomic_load_explicit(&edge->refs, memory_order_relaxed) > 1;
}

void weir_edge_drop(struct weir_edge *edge)
{
    struct weir_node *node = weir_node_ref(edge->node);

    WEIR_ASSERT(!edge->attached);
    if (weir_edge_held(edge))
        start_lingering(edge);
    weir_edge_unref(edge);
    weir_node_check_unused(node);
    weir_node_unref(node);
}

struct weir_edge *weir_edge_ref(struct weir_edge *edge)
{
    atomic_fetch_add_explicit(&edge->refs, 1, memory_order_relaxed);
    return edge;
}

void weir_edge_unref(struct weir_edge *edge)
{
    if (!edge || atomic_fetch_sub_explicit(&edge->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (edge->lingering)
        weir_loop_call(weir_loop_control(), &edge->lingering->call);
    else
        edge_free(edge);
}

/* The parent and the root user of an edge that is not attached may be gone. */
char *weir_edge_describe_parent(const struct weir_edge *edge)
{
    if (!edge->attached)
        return weir_strdup("requests left behind");
    if (edge->parent)
        return weir_strdup_printf("node '%s'", edge->parent->name);
    if (edge->root_ops && edge->root_ops->describe)
        return edge->root_ops->describe((struct weir_edge *)edge);
    return weir_strdup("an unnamed block device");
}

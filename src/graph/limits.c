/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What requests a node takes: merged from the children that it sends requests to, then the driver's own word.
 */
#include "base/alloc.h"
#include "base/iov.h"
#include "graph/graph.h"
#include "graph/internal.h"

static uint64_t smaller_max(uint64_t a, uint64_t b)
{
    if (!a || !b)
        return a | b;
    return WEIR_MIN(a, b);
}

static void merge(struct weir_limits *limits, const struct weir_limits *child)
{
    limits->request_align = WEIR_MAX(limits->request_align, child->request_align);
    limits->memory_align = WEIR_MAX(limits->memory_align, child->memory_align);
    limits->transfer_max = smaller_max(limits->transfer_max, child->transfer_max);
    limits->transfer_opt = WEIR_MAX(limits->transfer_opt, child->transfer_opt);
    limits->zero_align = WEIR_MAX(limits->zero_align, child->zero_align);
    limits->zero_max = smaller_max(limits->zero_max, child->zero_max);
    limits->discard_align = WEIR_MAX(limits->discard_align, child->discard_align);
    limits->discard_max = smaller_max(limits->discard_max, child->discard_max);
    limits->iov_max = WEIR_MIN(limits->iov_max, child->iov_max);
    limits->apart |= child->apart;
    limits->grows &= child->grows;
    limits->write_flags &= child->write_flags;
    limits->zero_flags &= child->zero_flags;
}

/* The lock unit is a format's own and not inherited. */
static void refresh_limits(struct weir_node *node)
{
    struct weir_limits limits = { .request_align = 1, .memory_align = 1, .iov_max = WEIR_IOV_MAX };
    bool first = true;
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (!(edge->role & (WEIR_ROLE_DATA | WEIR_ROLE_METADATA | WEIR_ROLE_FILTERED)))
            continue;
        if (first) {
            limits.grows = edge->node->limits.grows;
            limits.write_flags = edge->node->limits.write_flags;
            limits.zero_flags = edge->node->limits.zero_flags;
        }
        first = false;
        merge(&limits, &edge->node->limits);
    }
    if (node->driver->limits)
        node->driver->limits(node, &limits);
    WEIR_ASSERT(weir_is_power_of_2(limits.request_align) && weir_is_power_of_2(limits.memory_align));
    WEIR_ASSERT(limits.iov_max);
    node->limits = limits;
}

void weir_node_refresh_cares(struct weir_node *node)
{
    const struct weir_driver *driver = node->driver;
    unsigned cares = 0;

    if (driver->submit && driver->cares)
        cares = driver->cares(node);
    else if (driver->submit && ((driver->flags & WEIR_DRIVER_PROTOCOL) || !driver->map))
        cares = WEIR_OP_BIT(WEIR_OP_COUNT) - 1;
    atomic_store_explicit(&node->cares, cares, memory_order_release);
    weir_graph_reroute();
}

static void mark_above(struct weir_node *node, unsigned mark)
{
    struct weir_edge *edge;

    if (node->graph->mark == mark)
        return;
    node->graph->mark = mark;
    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent && edge->parent->graph->opened)
            mark_above(edge->parent, mark);
    }
}

void weir_node_refresh_limits(struct weir_node *node)
{
    unsigned mark = weir_graph_new_mark(), count;
    weir_autofree struct weir_node **order = weir_graph_order(&count);

    WEIR_ASSERT(order);
    mark_above(node, mark);
    while (count-- > 0) { /* children before parents */
        if (order[count]->graph->mark == mark)
            refresh_limits(order[count]);
    }
}

void weir_node_refresh(struct weir_node *node)
{
    weir_node_refresh_limits(node);
    weir_node_refresh_cares(node);
}

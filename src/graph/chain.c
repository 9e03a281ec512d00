/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Backing chains: the way from a node down through filters and COW children, and freezing it.
 *
 * A frozen link is neither replaced nor detached. Freezes nest: each one who depends on a link counts for itself.
 */
#include "graph/internal.h"

struct weir_edge *weir_chain_edge(const struct weir_node *node)
{
    struct weir_edge *edge = weir_node_filtered(node);

    return edge ? edge : weir_node_cow(node);
}

bool weir_chain_has(const struct weir_node *top, const struct weir_node *node)
{
    const struct weir_edge *edge;

    for (; top != node; top = edge->node) {
        edge = weir_chain_edge(top);
        if (!edge)
            return false;
    }
    return true;
}

struct weir_node *weir_chain_overlay(struct weir_node *top, const struct weir_node *node)
{
    const struct weir_node *layer = weir_node_skip_filters((struct weir_node *)(uintptr_t)node);
    struct weir_node *at = weir_node_skip_filters(top), *next;

    if (!weir_chain_has(top, node))
        return NULL;
    for (; at && (next = weir_node_backing_chain_next(at)); at = next) {
        if (next == layer)
            return at;
    }
    return NULL;
}

int weir_edge_check_thawed(const struct weir_edge *edge, struct weir_error **err)
{
    if (!edge->frozen)
        return 0;
    return weir_error_set(err, -EPERM, "Cannot change '%s' link from '%s' to '%s'", edge->name,
                          edge->parent ? edge->parent->name : edge->name, edge->node->name);
}

int weir_chain_freeze(struct weir_node *top, struct weir_node *bottom, struct weir_error **err)
{
    struct weir_edge *edge;

    if (!weir_chain_has(top, bottom))
        return weir_error_set(err, -EINVAL, "Node '%s' is not in the backing chain of '%s'", bottom->name,
                              top->name);
    for (; top != bottom; top = edge->node) {
        edge = weir_chain_edge(top);
        edge->frozen++;
    }
    return 0;
}

void weir_chain_unfreeze(struct weir_node *top, struct weir_node *bottom)
{
    for (; top != bottom;) {
        struct weir_edge *edge = weir_chain_edge(top);

        WEIR_ASSERT(edge && edge->frozen);
        edge->frozen--;
        top = edge->node;
    }
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Walks over the whole graph.
 *
 * All orders follow the lists (order of creation and of attaching), never addresses.
 */
#include "base/alloc.h"
#include "graph/internal.h"

unsigned weir_graph_new_mark(void)
{
    return ++weir_graph.mark;
}

static unsigned count_edges(const struct weir_node *node)
{
    const struct weir_edge *edge;
    unsigned count = 0;

    TAILQ_FOREACH (edge, &node->parents, in_node)
        count += edge->parent != NULL;
    return count;
}

/* Counts the nodes of both lists; puts those without a parent node into @order. */
static unsigned find_tops(struct weir_node **order, unsigned *ret_tops)
{
    struct weir_nodes *lists[] = { &weir_graph.nodes, &weir_graph.leaving };
    unsigned count = 0, tops = 0;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(lists); i++) {
        struct weir_node *node;

        TAILQ_FOREACH (node, lists[i], in_graph) {
            count++;
            if (!order)
                continue;
            node->graph->depth = 1;
            node->graph->degree = count_edges(node);
            if (!node->graph->degree)
                order[tops++] = node;
        }
    }
    *ret_tops = tops;
    return count;
}

struct weir_node **weir_graph_order(unsigned *ret_count)
{
    unsigned tail, count = find_tops(NULL, &tail);
    struct weir_node **order = weir_new_array(struct weir_node *, count + 1);

    find_tops(order, &tail);
    for (unsigned head = 0; head < tail; head++) {
        struct weir_edge *edge;

        TAILQ_FOREACH (edge, &order[head]->children, in_parent) {
            struct weir_node_graph *child = edge->node->graph;

            child->depth = WEIR_MAX(child->depth, order[head]->graph->depth + 1);
            if (!--child->degree)
                order[tail++] = edge->node;
        }
    }
    if (tail != count) {
        free(order);
        return NULL;
    }
    *ret_count = count;
    return order;
}

int weir_graph_check_shape(const struct weir_node *parent, const struct weir_node *child,
                           struct weir_error **err)
{
    unsigned count, depth = 0;
    struct weir_node **order = weir_graph_order(&count);

    if (!order) {
        return weir_error_set(err, -ELOOP, "Making '%s' a child of '%s' would create a cycle", child->name,
                              parent->name);
    }
    for (unsigned i = 0; i < count; i++)
        depth = WEIR_MAX(depth, order[i]->graph->depth);
    free(order);
    if (depth > WEIR_GRAPH_DEPTH_MAX) {
        return weir_error_set(err, -EINVAL,
                              "Making '%s' a child of '%s' would put more than %d nodes on top of each other",
                              child->name, parent->name, WEIR_GRAPH_DEPTH_MAX);
    }
    return 0;
}

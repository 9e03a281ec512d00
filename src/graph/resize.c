/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sizes: who follows whom, and changing one.
 */
#include "graph/graph.h"
#include "graph/internal.h"

/* ---- following ---- */

static void tell_parents(struct weir_node *node);

/*
 * Takes over the size of the node below. Both may grow meanwhile (weir_node_grow(), the lower one first): the child is
 * looked at after the node, so that a size that the node has grown to is never taken back.
 */
static void follow(struct weir_node *node, const struct weir_node *below)
{
    uint64_t now = weir_node_size(node), size;

    if (node->driver->flags & WEIR_DRIVER_OWN_SIZE)
        return;
    do
        size = weir_node_size(below);
    while (!atomic_compare_exchange_weak_explicit(&node->size, &now, size, memory_order_acq_rel,
                                                  memory_order_acquire));
    if (now != size)
        tell_parents(node);
}

void weir_node_follow_size(struct weir_node *node)
{
    struct weir_edge *edge = weir_node_filtered(node);

    if (edge)
        follow(node, edge->node);
}

uint64_t weir_node_size_now(struct weir_node *node)
{
    struct weir_edge *edge = weir_node_filtered(node);

    if (edge) {
        (void)weir_node_size_now(edge->node);
        follow(node, edge->node);
    }
    return weir_node_size(node);
}

int weir_edge_check_size(const struct weir_edge *edge, struct weir_node *node, struct weir_error **err)
{
    uint64_t was = weir_node_size_now(edge->node), is = weir_node_size_now(node);

    if ((edge->role & WEIR_ROLE_COW) || was == is)
        return 0;
    return weir_error_set(err, -EINVAL, "Cannot replace '%s' by '%s': the sizes differ (%llu and %llu bytes)",
                          edge->node->name, node->name, (unsigned long long)was, (unsigned long long)is);
}

/* Nodes that mirror a child's size have it as their filtered child. */
static void tell_parents(struct weir_node *node)
{
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (!edge->parent) {
            if (edge->root_ops && edge->root_ops->resized)
                edge->root_ops->resized(edge);
        } else if (edge->role & WEIR_ROLE_FILTERED) {
            follow(edge->parent, node);
        }
    }
}

void weir_node_size_called(struct weir_call *call)
{
    struct weir_node *node = weir_container_of(call, struct weir_node_graph, size_call)->node;

    atomic_store_explicit(&node->graph->size_called, false, memory_order_release);
    tell_parents(node);
    weir_node_unref(node);
}

/* The size is stored; on the control loop the parents are told, now or soon. */
static void size_changed(struct weir_node *node)
{
    if (weir_loop_self() == weir_loop_control()) {
        tell_parents(node);
        return;
    }
    if (atomic_exchange_explicit(&node->graph->size_called, true, memory_order_acq_rel))
        return;
    weir_node_ref(node);
    weir_loop_call(weir_loop_control(), &node->graph->size_call);
}

void weir_node_set_size(struct weir_node *node, uint64_t size)
{
    if (atomic_exchange_explicit(&node->size, size, memory_order_acq_rel) != size)
        size_changed(node);
}

void weir_node_grow(struct weir_node *node, uint64_t size)
{
    uint64_t now = weir_node_size(node);

    while (now < size) {
        if (atomic_compare_exchange_weak_explicit(&node->size, &now, size, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            size_changed(node);
            return;
        }
    }
}

/* ---- changing ---- */

static int check_resize(const struct weir_edge *edge, struct weir_error **err)
{
    const struct weir_node *node = edge->node;

    if (node->read_only)
        return weir_error_set(err, -EACCES, "Image is read-only");
    if (!(edge->perm & WEIR_PERM_RESIZE))
        return weir_error_set(err, -EPERM, "Node '%s' may not be resized without the resize permission",
                              node->name);
    return 0;
}

static weir_co_fn int resize(struct weir_edge *edge, uint64_t size, bool check, struct weir_error **err);

/* A filter without an opinion hands it down; its size follows. */
static weir_co_fn int call_driver(struct weir_node *node, uint64_t size, bool check, struct weir_error **err)
{
    struct weir_edge *filtered = weir_node_filtered(node);

    if (node->driver->resize)
        return node->driver->resize(node, size, err);
    if ((node->driver->flags & WEIR_DRIVER_FILTER) && filtered)
        return resize(filtered, size, check, err);
    return weir_error_set(err, -ENOTSUP, "Image format driver does not support resize");
}

static weir_co_fn int resize(struct weir_edge *edge, uint64_t size, bool check, struct weir_error **err)
{
    bool taken = weir_graph_enter();
    struct weir_drain drain;
    int ret = check ? check_resize(edge, err) : 0;

    if (!ret)
        ret = weir_drain_begin(&drain, &edge->node, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        ret = call_driver(edge->node, size, check, err);
        weir_drain_end(&drain);
    }
    weir_graph_leave(taken);
    return ret;
}

int weir_node_resize(struct weir_edge *edge, uint64_t size, struct weir_error **err)
{
    return resize(edge, size, true, err);
}

void weir_node_give_back(struct weir_edge *edge, uint64_t size)
{
    (void)resize(edge, size, false, NULL); /* nobody is there to be told */
}

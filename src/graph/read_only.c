/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A node that was opened read-only is made writable for a job, with the nodes that store its data, and read-only again.
 *
 * From the storage up to the node: first all may be written to, then the permissions say who writes (which opens files
 * for writing), then each driver does what opening for writing would have done.
 */
#include "base/alloc.h"
#include "graph/internal.h"

static weir_co_fn int call_driver(struct weir_node *node, bool read_only, struct weir_error **err)
{
    return node->driver->set_read_only ? node->driver->set_read_only(node, read_only, err) : 0;
}

static void set_writable(struct weir_node *node)
{
    node->graph->lent = true;
    node->read_only = node->read_only_asked = false;
    node->auto_read_only = node->driver->flags & WEIR_DRIVER_PROTOCOL;
}

/* The drivers above have let go by now; what the node was asked to be at first holds again. */
static void set_back(struct weir_writable *writable, unsigned i)
{
    writable->nodes[i]->read_only = true;
    writable->nodes[i]->graph->lent = false;
    writable->nodes[i]->read_only_asked = writable->was[i].asked;
    writable->nodes[i]->auto_read_only = writable->was[i].automatic;
}

static int add(struct weir_writable *writable, struct weir_node *node, struct weir_error **err)
{
    if (writable->count == WEIR_ARRAY_SIZE(writable->nodes))
        return weir_error_set(err, -E2BIG, "Node '%s' is made of too many nodes to be made writable",
                              node->name);
    if ((node->driver->flags & WEIR_DRIVER_PROTOCOL) && !node->driver->set_read_only)
        return weir_error_set(err, -EACCES, "Block node '%s' is read-only", node->name);
    writable->was[writable->count].asked = node->read_only_asked;
    writable->was[writable->count].automatic = node->auto_read_only;
    writable->nodes[writable->count++] = weir_node_ref(node);
    return 0;
}

/* @node and what it stores its data in, as far as it is read-only; children first. */
static int collect(struct weir_writable *writable, struct weir_node *node, struct weir_error **err)
{
    struct weir_edge *edge;
    int ret = 0;

    if (!node->read_only)
        return 0;
    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (!ret && !(edge->role & WEIR_ROLE_COW))
            ret = collect(writable, edge->node, err);
    }
    return ret ? ret : add(writable, node, err);
}

static bool is_protocol(const struct weir_node *node)
{
    return node->driver->flags & WEIR_DRIVER_PROTOCOL;
}

/* Storage first learns that it may be opened for writing; everything else follows once it is. */
static weir_co_fn int tell(struct weir_writable *writable, bool protocols, struct weir_error **err)
{
    int ret = 0;

    for (unsigned i = 0; i < writable->count && !ret; i++) {
        if (is_protocol(writable->nodes[i]) == protocols)
            ret = call_driver(writable->nodes[i], false, err);
        if (!ret && is_protocol(writable->nodes[i]) == protocols)
            writable->told |= 1u << i;
    }
    return ret;
}

void weir_node_make_read_only(struct weir_writable *writable)
{
    WEIR_ASSERT(!writable->count || weir_graph_locked_here());
    for (unsigned i = writable->count; i-- > 0;) {
        if (!is_protocol(writable->nodes[i]) && (writable->told & 1u << i))
            (void)!call_driver(writable->nodes[i], true, NULL);
    }
    for (unsigned i = 0; i < writable->count; i++) {
        if (!is_protocol(writable->nodes[i]))
            set_back(writable, i);
    }
    if (writable->count)
        weir_perm_refresh_less();
    for (unsigned i = 0; i < writable->count; i++) {
        if (is_protocol(writable->nodes[i]) && (writable->told & 1u << i))
            (void)!call_driver(writable->nodes[i], true, NULL);
        if (is_protocol(writable->nodes[i]))
            set_back(writable, i);
    }
    weir_writable_done(writable);
}

int weir_node_make_writable(struct weir_node *node, struct weir_writable *ret_writable,
                            struct weir_error **err)
{
    int ret;

    WEIR_ASSERT(weir_graph_locked_here());
    *ret_writable = (struct weir_writable){ .count = 0 };
    ret = collect(ret_writable, node, err);
    if (!ret)
        ret = tell(ret_writable, true, err);
    if (!ret) {
        for (unsigned i = 0; i < ret_writable->count; i++)
            set_writable(ret_writable->nodes[i]);
        if (ret_writable->count)
            ret = weir_perm_refresh(err);
    }
    if (!ret)
        ret = tell(ret_writable, false, err);
    if (ret)
        weir_node_make_read_only(ret_writable);
    return ret;
}

void weir_writable_done(struct weir_writable *writable)
{
    while (writable->count) {
        writable->nodes[--writable->count]->graph->lent = false;
        weir_node_unref(writable->nodes[writable->count]);
    }
    writable->told = 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening nodes, with their children.
 *
 * A node reserves its name first and is then opened by its driver, which opens children by
 * weir_node_open_child(). A leaf is opened without the graph-change lock, as a file that hangs must not hold up
 * the other monitors. From the first child that is attached on until the whole tree is done the lock is held, so
 * that nobody changes the graph below a format that reads its header. All or nothing: a node whose open failed goes
 * the way of every other node, with the children that it has so far.
 */
#include "base/alloc.h"
#include "graph/internal.h"

void weir_node_detach_children(struct weir_node *node)
{
    struct weir_edge *edge;
    TAILQ_HEAD(, weir_edge) gone = TAILQ_HEAD_INITIALIZER(gone);

    while ((edge = TAILQ_FIRST(&node->children))) {
        if (edge->node->graph->maker == node)
            edge->node->graph->maker = NULL;
        weir_edge_unlink(edge);
        TAILQ_INSERT_TAIL(&gone, edge, in_parent);
    }
    if (TAILQ_EMPTY(&gone))
        return;
    weir_perm_refresh_less();
    while ((edge = TAILQ_FIRST(&gone))) {
        TAILQ_REMOVE(&gone, edge, in_parent);
        weir_edge_drop(edge);
    }
}

/* Gives up a node that was never opened, or whose open failed. */
static void discard_node(struct weir_node *node)
{
    node->graph->opening = false;
    weir_node_leave(node);
    weir_node_unref(node);
}

/* With the node's driver->open(). The node is the caller's on success. */
static weir_co_fn int open_driver(struct weir_node *node, const void *typed, struct weir_error **err)
{
    int ret = node->driver->open ? node->driver->open(node, typed, err) : 0;

    if (ret < 0) {
        discard_node(node);
        return ret;
    }
    node->graph->opening = false;
    node->graph->opened = true;
    weir_node_refresh(node);
    return 0;
}

/* Opens what @json describes: as a child of @parent in @role, or at top level. The reference is the caller's. */
static weir_co_fn int open_node(json_t *json, const struct weir_node *parent, unsigned role, bool name_needed,
                                struct weir_node **ret_node, struct weir_error **err)
{
    struct weir_common inherited = parent ? weir_node_common(parent) : (struct weir_common){ 0 };
    struct weir_options options;
    struct weir_node *node = NULL;
    int ret = weir_options_parse(json, parent ? &inherited : NULL, role, &options, err);

    if (ret < 0)
        return ret;
    if (name_needed && !options.node_name)
        ret = weir_error_set(err, -EINVAL, "'node-name' must be specified for the root node");
    if (!ret)
        ret = weir_node_alloc(options.driver, options.node_name, &node, err);
    if (!ret) {
        node->options = json_incref(options.json);
        node->graph->given = json_deep_copy(json);
        node->graph->maker = parent;
        weir_node_set_common(node, &options.common);
        node->graph->level = parent ? parent->graph->level + 1 : 1;
        ret = open_driver(node, options.typed, err);
    }
    weir_options_done(&options);
    if (!ret)
        *ret_node = node;
    return ret;
}

int weir_node_add(json_t *options, bool user, struct weir_node **ret_node, struct weir_error **err)
{
    uint64_t mark = weir_graph_close_mark();
    bool held = weir_graph_locked_here();
    struct weir_node *node;
    int ret;

    weir_graph_assert();
    ret = open_node(options, NULL, 0, user, &node, err);
    if (!held)
        weir_graph_leave(weir_graph_locked_here());
    if (ret < 0) {
        if (!held)
            weir_graph_wait_closed(mark, WEIR_OPEN_LIMIT_NS);
        return ret;
    }
    node->user_added = user;
    if (ret_node)
        *ret_node = node;
    return 0;
}

int weir_node_new_internal(const struct weir_driver *driver, const char *name, const void *options,
                           struct weir_node **ret_node, struct weir_error **err)
{
    bool held = weir_graph_locked_here();
    struct weir_node *node;
    int ret;

    weir_graph_assert();
    ret = weir_node_alloc(driver, name, &node, err);
    if (ret < 0)
        return ret;
    node->discard_unmap = true; /* it has no options: the nodes below say what becomes of a discard */
    ret = open_driver(node, options, err);
    if (!held)
        weir_graph_leave(weir_graph_locked_here());
    if (ret < 0)
        return ret;
    *ret_node = node;
    return 0;
}

/* ---- children ---- */

/* A new reference to the node that @reference names or describes. The lock is held on success. */
static weir_co_fn int open_reference(struct weir_node *node, json_t *reference, const char *name,
                                     unsigned role, struct weir_node **ret_child, struct weir_error **err)
{
    struct weir_node *child;

    if (!reference)
        return weir_error_set(err, -EINVAL, "Parameter '%s' is missing", name);
    if (json_is_string(reference)) {
        const char *child_name = json_string_value(reference);

        (void)weir_graph_enter();
        child = weir_node_lookup(child_name, child_name, err);
        if (!child)
            return -ENOENT;
        *ret_child = weir_node_ref(child);
        return 0;
    }
    if (!json_is_object(reference))
        return weir_error_set(err, -EINVAL, "Invalid parameter type for '%s', expected: BlockdevRef", name);
    if (node->graph->level >= WEIR_GRAPH_DEPTH_MAX) {
        return weir_error_set(err, -EINVAL, "More than %d nodes on top of each other", WEIR_GRAPH_DEPTH_MAX);
    }
    int ret = open_node(reference, node, role, false, ret_child, err);

    /* While we wait for the lock nobody uses it yet, and nobody else may find it. */
    if (!ret)
        (*ret_child)->graph->opening = true;
    (void)weir_graph_enter();
    if (!ret)
        (*ret_child)->graph->opening = false;
    return ret;
}

static weir_co_fn int attach(struct weir_node *node, struct weir_node *child, const char *name, unsigned role,
                             struct weir_edge **ret_edge, struct weir_error **err)
{
    struct weir_edge *edge = weir_edge_new(node, child, name, role);
    int ret;

    weir_edge_link(edge, NULL, NULL);
    ret = weir_graph_check_shape(node, child, err);
    if (!ret)
        ret = weir_perm_refresh(err);
    if (ret < 0) {
        weir_edge_unlink(edge);
        weir_edge_drop(edge);
        return ret;
    }
    weir_drain_extend();
    *ret_edge = edge;
    return 0;
}

int weir_node_open_child(struct weir_node *node, json_t *reference, const char *name, unsigned role,
                         struct weir_edge **ret_edge, struct weir_error **err)
{
    struct weir_node *child;
    struct weir_edge *edge = NULL;
    int ret;

    weir_graph_assert();
    WEIR_ASSERT(node->graph->opening);
    ret = open_reference(node, reference, name, role, &child, err);
    if (ret < 0)
        return ret;
    ret = attach(node, child, name, role, &edge, err);
    weir_node_unref(child);
    if (!ret && ret_edge)
        *ret_edge = edge;
    return ret;
}

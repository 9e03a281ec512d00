/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nodes: names, the registry, references, helpers by role.
 *
 * A name is taken from the moment a node starts to be opened until its last user is gone. Closing is limbo.c's.
 */
#include "graph/node.h"
#include "base/alloc.h"
#include "graph/internal.h"
#include <stdio.h>
#include <string.h>

/* The name in the registry, nodes that are being opened included. */
static struct weir_node *find_name(const char *name)
{
    struct weir_node *node;

    TAILQ_FOREACH (node, &weir_graph.nodes, in_graph) {
        if (!strcmp(node->name, name))
            return node;
    }
    return NULL;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool name_valid(const char *name)
{
    if (!is_letter(*name))
        return false;
    for (const char *c = name; *c; c++) {
        if (!is_letter(*c) && !(*c >= '0' && *c <= '9') && !strchr("-._", *c))
            return false;
    }
    return true;
}

static int check_name(const char *name, struct weir_error **err)
{
    if (!name_valid(name))
        return weir_error_set(err, -EINVAL, "Invalid node-name: '%s'", name);
    if (strlen(name) > WEIR_NODE_NAME_MAX)
        return weir_error_set(err, -EINVAL, "Node name too long");
    if (find_name(name))
        return weir_error_set(err, -EEXIST, "Duplicate nodes with node-name='%s'", name);
    return 0;
}

/* Users cannot give such a name, and no number comes twice. */
static void make_name(char ret_name[WEIR_NODE_NAME_MAX + 1])
{
    do {
        snprintf(ret_name, WEIR_NODE_NAME_MAX + 1, "#block%03u", ++weir_graph.auto_name);
    } while (find_name(ret_name));
}

int weir_node_alloc(const struct weir_driver *driver, const char *name, struct weir_node **ret_node,
                    struct weir_error **err)
{
    struct weir_node *node;

    if (name) {
        int ret = check_name(name, err);

        if (ret < 0)
            return ret;
    }
    node = weir_new(struct weir_node);
    node->graph = weir_new(struct weir_node_graph);
    node->graph->node = node;
    if (name)
        snprintf(node->name, sizeof(node->name), "%s", name);
    else
        make_name(node->name);
    node->driver = driver;
    node->state = driver->state_size ? weir_alloc(driver->state_size) : NULL;
    node->shared = WEIR_PERM_ALL;
    atomic_init(&node->refs, 1);
    TAILQ_INIT(&node->children);
    TAILQ_INIT(&node->parents);
    TAILQ_INIT(&node->graph->lingering);
    node->graph->opening = true;
    node->graph->size_call.run = weir_node_size_called;
    TAILQ_INSERT_TAIL(&weir_graph.nodes, node, in_graph);
    if (weir_graph.hooks.node_init)
        weir_graph.hooks.node_init(node);
    *ret_node = node;
    return 0;
}

void weir_node_free(struct weir_node *node)
{
    WEIR_ASSERT(TAILQ_EMPTY(&node->children) && TAILQ_EMPTY(&node->parents));
    if (weir_graph.hooks.node_done)
        weir_graph.hooks.node_done(node);
    json_decref(node->options);
    json_decref(node->graph->given);
    free(node->state);
    free(node->graph);
    free(node);
}

void weir_node_unlink(struct weir_node *node)
{
    WEIR_ASSERT(!node->in_limbo);
    TAILQ_REMOVE(&weir_graph.nodes, node, in_graph);
}

/* ---- look-up ---- */

static bool visible(const struct weir_node *node)
{
    return !node->graph->opening && atomic_load_explicit(&node->refs, memory_order_relaxed);
}

struct weir_node *weir_node_find(const char *name)
{
    struct weir_node *node = find_name(name);

    return node && visible(node) ? node : NULL;
}

struct weir_node *weir_node_lookup(const char *device, const char *node_name, struct weir_error **err)
{
    struct weir_node *node = NULL;

    if (node_name)
        node = weir_node_find(node_name);
    if (!node && device)
        node = weir_node_find(device);
    if (!node) {
        (void)weir_error_set(err, -ENOENT, "Cannot find device='%s' nor node-name='%s'", device ? device : "",
                             node_name ? node_name : "");
    }
    return node;
}

struct weir_node *weir_graph_next(struct weir_node *node)
{
    node = node ? TAILQ_NEXT(node, in_graph) : TAILQ_FIRST(&weir_graph.nodes);
    while (node && !visible(node))
        node = TAILQ_NEXT(node, in_graph);
    return node;
}

/* ---- roles ---- */

static struct weir_edge *child_of_role(const struct weir_node *node, unsigned role)
{
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (edge->role & role)
            return edge;
    }
    return NULL;
}

struct weir_edge *weir_node_filtered(const struct weir_node *node)
{
    return child_of_role(node, WEIR_ROLE_FILTERED);
}

struct weir_edge *weir_node_cow(const struct weir_node *node)
{
    return child_of_role(node, WEIR_ROLE_COW);
}

struct weir_edge *weir_node_primary(const struct weir_node *node)
{
    return child_of_role(node, WEIR_ROLE_PRIMARY);
}

struct weir_edge *weir_node_child(const struct weir_node *node, const char *name)
{
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (!strcmp(edge->name, name))
            return edge;
    }
    return NULL;
}

const char *weir_node_file_name(struct weir_node *node)
{
    const char *name = node->driver->filename ? node->driver->filename(node) : NULL;
    struct weir_edge *below = name ? NULL : weir_node_primary(node);

    if (name)
        return name;
    return below ? weir_node_file_name(below->node) : node->name;
}

/*
 * A format over the whole of another node (raw) is an image where that is storage, and else no layer of its own: what
 * the image below it leaves to its backing file is still left to it.
 */
bool weir_node_is_passed(const struct weir_node *node)
{
    const struct weir_edge *edge;

    if (node->driver->flags & WEIR_DRIVER_FILTER)
        return true;
    edge = weir_node_filtered(node);
    while (edge && weir_node_filtered(edge->node))
        edge = weir_node_filtered(edge->node);
    return edge && (edge->node->driver->flags & WEIR_DRIVER_FORMAT);
}

static struct weir_node *skip(struct weir_node *node, bool implicit_only)
{
    while (node && (implicit_only ? node->implicit && (node->driver->flags & WEIR_DRIVER_FILTER)
                                  : weir_node_is_passed(node))) {
        struct weir_edge *edge = weir_node_filtered(node);

        node = edge ? edge->node : NULL;
    }
    return node;
}

struct weir_node *weir_node_skip_implicit(struct weir_node *node)
{
    return skip(node, true);
}

struct weir_node *weir_node_skip_filters(struct weir_node *node)
{
    return skip(node, false);
}

struct weir_node *weir_node_backing_chain_next(struct weir_node *node)
{
    struct weir_edge *edge;

    node = weir_node_skip_filters(node);
    edge = node ? weir_node_cow(node) : NULL;
    return edge ? weir_node_skip_filters(edge->node) : NULL;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: what the graph looks like.
 */
#include "base/alloc.h"
#include "filter/throttle_group.h"
#include "gen/commands.h"
#include "graph/describe.h"
#include "graph/graph.h"
#include "qmp/cmd.h"
#include <errno.h>
#include <string.h>

static char *describe_command(struct weir_edge *edge)
{
    return weir_strdup("a command");
}

const struct weir_root_ops weir_qmp_root_ops = { .kind = "block-backend", .describe = describe_command };

/* The next level: a filter is one, as users of these fields are used to; a plain format's file is not. */
static struct weir_node *level_below(const struct weir_node *node)
{
    struct weir_edge *edge = weir_node_cow(node);

    if (!edge && (node->driver->flags & WEIR_DRIVER_FILTER))
        edge = weir_node_filtered(node);
    return edge ? edge->node : NULL;
}

static unsigned backing_depth(struct weir_node *node)
{
    unsigned depth = 0;

    while ((node = level_below(node)))
        depth++;
    return depth;
}

static json_t *children_info(struct weir_node *node)
{
    json_t *children = json_array();
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->children, in_parent)
        json_array_append_new(children,
                              json_pack("{s:s, s:s}", "child", edge->name, "node-name", edge->node->name));
    return children;
}

/* The limits of its group, if it is a throttle node; else there are none. */
static void add_throttle(json_t *info, struct weir_throttle_group *group)
{
    struct weir_q_throttle_limits limits = { 0 };

    if (group) {
        weir_throttle_group_limits(group, &limits);
        json_object_set_new(info, "group", json_string(weir_throttle_group_name(group)));
    }
    json_object_set_new(info, "bps", json_integer(limits.bps_total));
    json_object_set_new(info, "bps_rd", json_integer(limits.bps_read));
    json_object_set_new(info, "bps_wr", json_integer(limits.bps_write));
    json_object_set_new(info, "iops", json_integer(limits.iops_total));
    json_object_set_new(info, "iops_rd", json_integer(limits.iops_read));
    json_object_set_new(info, "iops_wr", json_integer(limits.iops_write));
}

struct node_list {
    struct weir_node **nodes;
    int64_t *allocated; /* bytes on the host, or -errno */
    unsigned count;
};

static int64_t allocated_by(const struct node_list *list, const struct weir_node *node)
{
    for (unsigned i = 0; i < list->count; i++) {
        if (list->nodes[i] == node)
            return list->allocated[i];
    }
    return -ENOENT;
}

/* With what nests in it. */
static json_t *image_info(const struct node_list *list, struct weir_node *node, bool flat)
{
    json_t *image = weir_node_image_info(node, allocated_by(list, node));
    struct weir_node *below = flat ? NULL : level_below(node);

    if (below)
        json_object_set_new(image, "backing-image", image_info(list, below, flat));
    return image;
}

/* What is not limited is left out. */
static void set_limit(json_t *info, const char *name, uint64_t value)
{
    if (value)
        json_object_set_new(info, name, json_integer((json_int_t)value));
}

static json_t *limits_info(const struct weir_limits *limits)
{
    json_t *info = json_object();

    set_limit(info, "request-alignment", limits->request_align);
    set_limit(info, "max-discard", limits->discard_max);
    set_limit(info, "discard-alignment", limits->discard_align);
    set_limit(info, "max-write-zeroes", limits->zero_max);
    set_limit(info, "write-zeroes-alignment", limits->zero_align);
    set_limit(info, "opt-transfer", limits->transfer_opt);
    set_limit(info, "max-transfer", limits->transfer_max);
    set_limit(info, "max-iov", limits->iov_max);
    set_limit(info, "min-mem-alignment", limits->memory_align);
    set_limit(info, "opt-mem-alignment", limits->memory_align);
    return info;
}

static json_t *node_info(const struct node_list *list, struct weir_node *node, bool flat)
{
    const struct weir_edge *cow = weir_node_cow(node);
    json_t *info = json_pack(
        "{s:s, s:s, s:b, s:s, s:i, s:b, s:s, s:I}", "node-name", node->name, "drv", node->driver->name, "ro",
        node->read_only, "file", weir_node_file_name(node), "backing_file_depth", backing_depth(node),
        "encrypted", 0, "detect_zeroes",
        weir_schema_enum_name(&weir_schema_blockdev_detect_zeroes_options, (int)node->detect_zeroes),
        "write_threshold", (json_int_t)atomic_load(&node->write_threshold));

    if (cow)
        json_object_set_new(info, "backing_file", json_string(weir_node_file_name(cow->node)));
    add_throttle(info, weir_throttle_group_of(node));
    json_object_set_new(info, "cache",
                        json_pack("{s:b, s:b, s:b}", "writeback", 1, "direct", node->cache_direct, "no-flush",
                                  node->cache_no_flush));
    json_object_set_new(info, "image", image_info(list, node, flat));
    json_object_set_new(info, "limits", limits_info(&node->limits));
    json_object_set_new(info, "children", children_info(node));
    if (node->in_limbo)
        json_object_set_new(info, "limbo", json_true());
    return info;
}
_Static_assert((int)WEIR_DETECT_ZEROES_UNMAP == (int)WEIR_Q_BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP,
               "same order");

static void list_add(struct node_list *list, struct weir_node *node)
{
    list->nodes = weir_realloc(list->nodes, (list->count + 1) * sizeof(struct weir_node *));
    list->nodes[list->count++] = weir_node_ref(node);
}

/* Asking a host for sizes waits, and nodes may go meanwhile: all of them are asked first, and referenced. */
weir_co_fn int qmp_query_named_block_nodes(struct weir_qmp_context *ctx,
                                           const struct weir_q_query_named_block_nodes_args *args,
                                           json_t **ret_value, struct weir_error **err)
{
    struct node_list list = { NULL, NULL, 0 };
    struct weir_node *node;

    for (node = weir_graph_next(NULL); node; node = weir_graph_next(node))
        list_add(&list, node);
    for (node = weir_graph_limbo_next(NULL); node; node = weir_graph_limbo_next(node))
        list_add(&list, node);
    list.allocated = weir_new_array(int64_t, list.count + 1);
    for (unsigned i = 0; i < list.count; i++)
        list.allocated[i] = list.nodes[i]->in_limbo ? -1 : weir_node_allocated_size(list.nodes[i]);
    *ret_value = json_array();
    for (unsigned i = 0; i < list.count; i++)
        json_array_append_new(*ret_value, node_info(&list, list.nodes[i], args->flat));
    for (unsigned i = 0; i < list.count; i++)
        weir_node_unref(list.nodes[i]);
    free(list.nodes);
    free(list.allocated);
    return 0;
}

weir_co_fn int qmp_query_block(struct weir_qmp_context *ctx, const struct weir_q_query_block_args *args,
                               json_t **ret_value, struct weir_error **err)
{
    *ret_value = json_array();
    return 0;
}

/* ---- the graph with its permissions ---- */

static json_t *perm_list(unsigned perms)
{
    json_t *list = json_array();

    for (unsigned bit = 0; bit < WEIR_PERM_COUNT; bit++) {
        if (perms & (1u << bit))
            json_array_append_new(list, json_string(weir_perm_name(bit)));
    }
    return list;
}

/* Numbers of one answer: nodes by their place in the list, users after them. */
struct graph_dump {
    json_t *nodes, *edges;
    json_int_t next_id;
};

static json_int_t id_of(const struct weir_node *wanted)
{
    json_int_t id = 1;

    for (struct weir_node *node = weir_graph_next(NULL); node && node != wanted; node = weir_graph_next(node))
        id++;
    return id;
}

/* The name between the quotes of "block job 'm'". */
static char *user_name(struct weir_edge *edge)
{
    weir_autofree char *text = weir_edge_describe_parent(edge);
    char *begin = strchr(text, '\''), *end = begin ? strchr(begin + 1, '\'') : NULL;

    if (!end)
        return weir_strdup(text);
    *end = 0;
    return weir_strdup(begin + 1);
}

static void dump_edge(struct graph_dump *dump, struct weir_edge *edge)
{
    json_int_t parent;

    if (edge->parent) {
        parent = id_of(edge->parent);
    } else {
        weir_autofree char *name = user_name(edge);

        parent = dump->next_id++;
        json_array_append_new(dump->nodes,
                              json_pack("{s:I, s:s, s:s}", "id", parent, "type",
                                        edge->root_ops->kind[6] == 'j' ? "block-job" : "block-backend",
                                        "name", name));
    }
    json_array_append_new(dump->edges,
                          json_pack("{s:I, s:I, s:s, s:o, s:o}", "parent", parent, "child", id_of(edge->node),
                                    "name", edge->name, "perm", perm_list(edge->perm), "shared-perm",
                                    perm_list(edge->shared)));
}

weir_co_fn int qmp_x_debug_query_block_graph(struct weir_qmp_context *ctx,
                                             const struct weir_q_x_debug_query_block_graph_args *args,
                                             json_t **ret_value, struct weir_error **err)
{
    struct graph_dump dump = { json_array(), json_array(), 1 };
    struct weir_node *node;
    struct weir_edge *edge;

    for (node = weir_graph_next(NULL); node; node = weir_graph_next(node))
        json_array_append_new(dump.nodes, json_pack("{s:I, s:s, s:s}", "id", dump.next_id++, "type",
                                                    "block-driver", "name", node->name));
    for (node = weir_graph_next(NULL); node; node = weir_graph_next(node)) {
        TAILQ_FOREACH (edge, &node->parents, in_node)
            dump_edge(&dump, edge);
    }
    *ret_value = json_pack("{s:o, s:o}", "nodes", dump.nodes, "edges", dump.edges);
    return 0;
}

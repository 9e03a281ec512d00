/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Steps that put an overlay on a node: blockdev-snapshot and blockdev-snapshot-sync.
 */
#include "base/alloc.h"
#include "gen/commands.h"
#include "qmp/action.h"
#include <errno.h>
#include <string.h>

/* A layer below others cannot get one more between: that would be theirs to say. */
static int check_free(struct weir_node *node, struct weir_error **err)
{
    const struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent && (edge->role & WEIR_ROLE_COW))
            return weir_error_set(err, -EBUSY, "Node '%s' is busy: node is used as backing hd of '%s'",
                                  node->name, edge->parent->name);
        /* What the job copies, and goes back to, is this node: its guests write above the filter. */
        if (edge->parent && (edge->parent->driver->flags & WEIR_DRIVER_INTERNAL))
            return weir_error_set(err, -EBUSY,
                                  "Node '%s' is busy: the filter '%s' of a block job stands on it",
                                  node->name, edge->parent->name);
    }
    return 0;
}

static int check_overlay(const struct weir_node *overlay, struct weir_error **err)
{
    const struct weir_edge *edge;

    TAILQ_FOREACH (edge, &overlay->parents, in_node) {
        if (!edge->parent)
            return weir_error_set(err, -EBUSY, "The overlay is already in use");
    }
    if (overlay->driver->flags & WEIR_DRIVER_FILTER)
        return weir_error_set(err, -EINVAL, "Filters cannot be used as overlays");
    if (weir_node_cow(overlay))
        return weir_error_set(err, -EBUSY, "The overlay already has a backing image");
    if (!overlay->driver->set_backing_name)
        return weir_error_set(err, -ENOTSUP, "The overlay does not support backing images");
    return 0;
}

/* nodes: the node, its overlay. */
static weir_co_fn int put_on(struct weir_action *action, struct weir_tran *tran, struct weir_error **err)
{
    struct weir_node *node = action->nodes[0], *overlay = action->nodes[1];
    int ret = check_free(node, err);

    if (!ret)
        ret = check_overlay(overlay, err);
    if (!ret && weir_node_size(overlay) < weir_node_size(node))
        ret = weir_error_set(err, -EINVAL, "The overlay '%s' is smaller than '%s' (%llu and %llu bytes)",
                             overlay->name, node->name, (unsigned long long)weir_node_size(overlay),
                             (unsigned long long)weir_node_size(node));
    if (!ret)
        ret = weir_tran_replace_parents(tran, node, overlay, overlay, err);
    if (!ret)
        ret = weir_tran_attach(tran, overlay, node, "backing", WEIR_ROLE_COW, NULL, err);
    return ret;
}

static int snapshot_find(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_snapshot *args = action->args;

    action->nodes[0] = weir_node_lookup(args->node, args->node, err);
    action->nodes[1] = action->nodes[0] ? weir_node_lookup(args->overlay, args->overlay, err) : NULL;
    return action->nodes[1] ? 0 : -ENOENT;
}

const struct weir_action_kind weir_action_snapshot = { .find = snapshot_find, .edit = put_on };

/* ---- with a file ---- */

static weir_co_fn int make_file(const struct weir_q_blockdev_snapshot_sync *args, struct weir_node *node,
                                struct weir_error **err)
{
    const struct weir_driver *driver = weir_driver_find(args->format);
    const char *backing = weir_node_file_name(node);
    json_t *options;
    int ret;

    if (!driver || !driver->create || !driver->set_backing_name)
        return weir_error_set(err, -ENOTSUP, "Format driver '%s' does not support image creation",
                              args->format);
    options = json_pack("{s:s, s:i}", "filename", args->snapshot_file, "size", 0);
    ret = weir_driver_create("file", options, err);
    if (ret)
        return ret;
    options = json_pack("{s:{s:s, s:s}, s:I, s:s, s:s}", "file", "driver", "file", "filename",
                        args->snapshot_file, "size", (json_int_t)weir_node_size(node), "backing-file",
                        backing, "backing-fmt", weir_node_skip_filters(node)->driver->name);
    return weir_driver_create(args->format, options, err);
}

static weir_co_fn int open_file(struct weir_action *action, struct weir_node *node, struct weir_error **err)
{
    const struct weir_q_blockdev_snapshot_sync *args = action->args;
    json_t *options = json_pack("{s:s, s:{s:s, s:s}, s:n, s:s}", "driver", args->format, "file", "driver",
                                "file", "filename", args->snapshot_file, "backing", "discard",
                                node->discard_unmap ? "unmap" : "ignore");
    int ret;

    if (args->has_snapshot_node_name)
        json_object_set_new(options, "node-name", json_string(args->snapshot_node_name));
    if (node->cache_direct || node->cache_no_flush)
        json_object_set_new(
            options, "cache",
            json_pack("{s:b, s:b}", "direct", node->cache_direct, "no-flush", node->cache_no_flush));
    ret = weir_node_add(options, false, &action->added, err);
    json_decref(options);
    return ret;
}

static weir_co_fn int sync_open(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_snapshot_sync *args = action->args;
    struct weir_node *node = weir_node_lookup(args->device, args->node_name, err);
    int ret;

    if (!node)
        return -ENOENT;
    ret = check_free(node, err);
    if (!ret && args->has_snapshot_node_name && weir_node_find(args->snapshot_node_name))
        ret = weir_error_set(err, -EEXIST, "New overlay node-name already in use");
    if (ret)
        return ret;
    weir_node_ref(node);
    if (args->mode == WEIR_Q_NEW_IMAGE_MODE_ABSOLUTE_PATHS)
        ret = make_file(args, node, err);
    if (!ret)
        ret = open_file(action, node, err);
    weir_node_unref(node);
    return ret;
}

static int sync_find(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_snapshot_sync *args = action->args;

    action->nodes[0] = weir_node_lookup(args->device, args->node_name, err);
    action->nodes[1] = action->added;
    return action->nodes[0] ? 0 : -ENOENT;
}

/* The users of the node hold it now; or nobody does. */
static weir_co_fn void sync_end(struct weir_action *action, bool done)
{
    weir_node_give_up(action->added);
}

const struct weir_action_kind weir_action_snapshot_sync = {
    .open = sync_open,
    .find = sync_find,
    .edit = put_on,
    .end = sync_end,
};

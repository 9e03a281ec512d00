/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Steps that add, delete and replace nodes, and the one that fails.
 */
#include "export/export.h"
#include "base/alloc.h"
#include "gen/commands.h"
#include "graph/reopen.h"
#include "qmp/action.h"
#include <errno.h>
#include <string.h>

/* ---- abort ---- */

static weir_co_fn int abort_edit(struct weir_action *action, struct weir_tran *tran, struct weir_error **err)
{
    return weir_error_set(err, -ECANCELED, "Transaction aborted using Abort action");
}

const struct weir_action_kind weir_action_abort = { .edit = abort_edit };

/* ---- blockdev-add ---- */

static weir_co_fn int add_open(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_options *args = action->args;

    int ret = weir_node_add(args->json, true, &action->added, err);

    if (!ret)
        weir_node_ref(action->added);
    return ret;
}

/* Other commands may have used it meanwhile, or deleted it. */
static weir_co_fn void add_end(struct weir_action *action, bool done)
{
    if (!done && weir_node_find(action->added->name) == action->added)
        (void)!weir_node_del(action->added->name, NULL);
    weir_node_unref(action->added);
}

const struct weir_action_kind weir_action_add = { .open = add_open, .end = add_end };

/* ---- blockdev-reopen ---- */

static int reopen_find(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_reopen *args = action->args;
    weir_autofree json_t **options = weir_new_array(json_t *, args->options.count + 1);
    int ret;

    for (size_t i = 0; i < args->options.count; i++)
        options[i] = args->options.items[i].json;
    ret = weir_reopen_plan(options, args->options.count, &action->reopen, err);
    if (!ret)
        action->more = weir_reopen_nodes(action->reopen, &action->more_count);
    return ret;
}

static weir_co_fn int reopen_edit(struct weir_action *action, struct weir_tran *tran, struct weir_error **err)
{
    return weir_reopen_edit(action->reopen, tran, err);
}

static weir_co_fn void reopen_end(struct weir_action *action, bool done)
{
    (void)done;
    weir_reopen_free(action->reopen);
}

const struct weir_action_kind weir_action_reopen = { .find = reopen_find,
                                                     .edit = reopen_edit,
                                                     .end = reopen_end };

/* ---- blockdev-del ---- */

/* Once all steps have made their edits. */
static int del_check(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_del_action *args = action->args;
    const struct weir_node *node = weir_node_find(args->node_name);

    if (!node)
        return weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'", args->node_name);
    if (!node->user_added)
        return weir_error_set(err, -EPERM, "Node %s is not owned by the monitor", node->name);
    if (!TAILQ_EMPTY(&node->parents))
        return weir_error_set(err, -EBUSY, "Node %s is in use", node->name);
    return 0;
}

static weir_co_fn void del_commit(struct weir_action *action)
{
    const struct weir_q_blockdev_del_action *args = action->args;

    (void)!weir_node_del(args->node_name, NULL);
}

const struct weir_action_kind weir_action_del = { .check = del_check, .commit = del_commit };

/* ---- blockdev-replace ---- */

static int find_edge(const struct weir_q_blockdev_replace *args, struct weir_edge **ret_edge,
                     struct weir_error **err)
{
    struct weir_export *export;
    struct weir_node *parent;

    if (args->parent_type == WEIR_Q_BLOCK_PARENT_TYPE_EXPORT) {
        export = weir_export_find(args->u.export.export_id);
        *ret_edge = export ? weir_export_edge(export) : NULL;
        return *ret_edge ? 0
                         : weir_error_set(err, -ENOENT, "Export '%s' is not found", args->u.export.export_id);
    }
    parent = weir_node_find(args->u.driver.node_name);
    if (!parent)
        return weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'",
                              args->u.driver.node_name);
    *ret_edge = weir_node_child(parent, args->u.driver.child);
    if (!*ret_edge)
        return weir_error_set(err, -ENOENT, "Node '%s' has no child '%s'", parent->name,
                              args->u.driver.child);
    return 0;
}

static int replace_find(struct weir_action *action, struct weir_error **err)
{
    const struct weir_q_blockdev_replace *args = action->args;
    int ret = find_edge(args, &action->edge, err);

    if (ret)
        return ret;
    action->nodes[0] = action->edge->node;
    action->nodes[1] = weir_node_find(args->new_child);
    if (!action->nodes[1])
        return weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'", args->new_child);
    return 0;
}

/* An edge that an earlier step has changed is looked at as it is then. */
static weir_co_fn int replace_edit(struct weir_action *action, struct weir_tran *tran,
                                   struct weir_error **err)
{
    struct weir_edge *edge = action->edge;
    struct weir_node *node = action->nodes[1];
    bool internal = edge->parent && (edge->parent->driver->flags & WEIR_DRIVER_INTERNAL);
    int ret;

    if (!atomic_load(&edge->attached))
        return weir_error_set(err, -ENOENT, "An earlier step has taken child '%s' away", edge->name);
    if (internal)
        return weir_error_set(err, -EPERM, "Node '%s' belongs to a job: its children stay as they are",
                              edge->parent->name);
    ret = weir_edge_check_size(edge, node, err);
    return ret || edge->node == node ? ret : weir_tran_replace(tran, edge, node, err);
}

const struct weir_action_kind weir_action_replace = { .find = replace_find, .edit = replace_edit };

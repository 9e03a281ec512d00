/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: the graph is edited while requests come.
 */
#include "base/alloc.h"
#include "gen/commands.h"
#include "qmp/action.h"
#include "qmp/cmd.h"
#include <errno.h>

static weir_co_fn int run_one(const struct weir_action_kind *kind, const void *args, struct weir_error **err)
{
    struct weir_action action = { .kind = kind, .args = args };

    return weir_actions_run(&action, 1, err);
}

weir_co_fn int qmp_blockdev_snapshot(struct weir_qmp_context *ctx,
                                     const struct weir_q_blockdev_snapshot *args, json_t **ret_value,
                                     struct weir_error **err)
{
    return run_one(&weir_action_snapshot, args, err);
}

weir_co_fn int qmp_blockdev_snapshot_sync(struct weir_qmp_context *ctx,
                                          const struct weir_q_blockdev_snapshot_sync *args,
                                          json_t **ret_value, struct weir_error **err)
{
    return run_one(&weir_action_snapshot_sync, args, err);
}

weir_co_fn int qmp_blockdev_replace(struct weir_qmp_context *ctx, const struct weir_q_blockdev_replace *args,
                                    json_t **ret_value, struct weir_error **err)
{
    return run_one(&weir_action_replace, args, err);
}

weir_co_fn int qmp_blockdev_reopen(struct weir_qmp_context *ctx, const struct weir_q_blockdev_reopen *args,
                                   json_t **ret_value, struct weir_error **err)
{
    return run_one(&weir_action_reopen, args, err);
}

static struct weir_action action_of(const struct weir_q_transaction_action *step)
{
    switch (step->type) {
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT:
        return (struct weir_action){ &weir_action_snapshot, &step->u.blockdev_snapshot.data };
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_SYNC:
        return (struct weir_action){ &weir_action_snapshot_sync, &step->u.blockdev_snapshot_sync.data };
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_ADD:
        return (struct weir_action){ &weir_action_add, &step->u.blockdev_add.data };
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_DEL:
        return (struct weir_action){ &weir_action_del, &step->u.blockdev_del.data };
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_REPLACE:
        return (struct weir_action){ &weir_action_replace, &step->u.blockdev_replace.data };
    case WEIR_Q_TRANSACTION_ACTION_KIND_BLOCKDEV_REOPEN:
        return (struct weir_action){ &weir_action_reopen, &step->u.blockdev_reopen.data };
    default:
        return (struct weir_action){ &weir_action_abort, &step->u.abort.data };
    }
}

/* Steps that start jobs could: there are none yet. */
static int check_grouped(const struct weir_q_transaction_args *args, struct weir_error **err)
{
    for (size_t i = 0; i < args->actions.count; i++) {
        enum weir_q_transaction_action_kind kind = args->actions.items[i].type;

        if (kind != WEIR_Q_TRANSACTION_ACTION_KIND_ABORT)
            return weir_error_set(
                err, -EINVAL, "Action '%s' does not support Transaction property completion-mode = grouped",
                weir_schema_enum_name(&weir_schema_transaction_action_kind, (int)kind));
    }
    return 0;
}

weir_co_fn int qmp_transaction(struct weir_qmp_context *ctx, const struct weir_q_transaction_args *args,
                               json_t **ret_value, struct weir_error **err)
{
    weir_autofree struct weir_action *actions = weir_new_array(struct weir_action, args->actions.count + 1);

    if (args->has_properties && args->properties.completion_mode == WEIR_Q_ACTION_COMPLETION_MODE_GROUPED &&
        check_grouped(args, err))
        return -EINVAL;
    for (size_t i = 0; i < args->actions.count; i++)
        actions[i] = action_of(&args->actions.items[i]);
    return weir_actions_run(actions, (unsigned)args->actions.count, err);
}

/* ---- change-backing-file ---- */

static int find_image(const struct weir_q_change_backing_file_args *args, struct weir_node **ret_node,
                      struct weir_error **err)
{
    struct weir_node *device = weir_node_lookup(args->device, args->device, err), *image;
    const struct weir_edge *edge;

    if (!device)
        return -ENOENT;
    TAILQ_FOREACH (edge, &device->parents, in_node) {
        if (edge->parent)
            return weir_error_set(err, -EINVAL, "Need a root block node");
    }
    image = weir_node_find(args->image_node_name);
    if (!image)
        return weir_error_set(err, -ENOENT, "Cannot find device='' nor node-name='%s'",
                              args->image_node_name);
    if (!weir_chain_has(device, image))
        return weir_error_set(err, -EINVAL, "'%s' and image file are not in the same chain", args->device);
    if (!image->driver->set_backing_name || !weir_node_cow(image))
        return weir_error_set(err, -EINVAL,
                              "not allowing backing file change on an image without a backing file");
    *ret_node = image;
    return 0;
}

weir_co_fn int qmp_change_backing_file(struct weir_qmp_context *ctx,
                                       const struct weir_q_change_backing_file_args *args, json_t **ret_value,
                                       struct weir_error **err)
{
    struct weir_drain drain = { 0 };
    struct weir_node *image;
    int ret;

    weir_graph_lock();
    ret = find_image(args, &image, err);
    if (!ret)
        ret = weir_drain_begin(&drain, &image, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        ret = image->read_only ? weir_error_set(err, -EACCES, "Block node is read-only")
                               : image->driver->set_backing_name(
                                     image, args->backing_file,
                                     weir_node_skip_filters(weir_node_cow(image)->node)->driver->name, err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

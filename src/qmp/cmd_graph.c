/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: nodes are added, deleted, created and resized.
 */
#include "gen/commands.h"
#include "graph/graph.h"
#include "job/check.h"
#include "job/create.h"
#include "qmp/cmd.h"
#include "qmp/events.h"
#include <errno.h>

weir_co_fn int qmp_blockdev_add(struct weir_qmp_context *ctx, const struct weir_q_blockdev_options *args,
                                json_t **ret_value, struct weir_error **err)
{
    return weir_node_add(args->json, true, NULL, err);
}

weir_co_fn int qmp_blockdev_del(struct weir_qmp_context *ctx, const struct weir_q_blockdev_del_args *args,
                                json_t **ret_value, struct weir_error **err)
{
    return weir_node_del(args->node_name, err);
}

weir_co_fn int qmp_blockdev_create(struct weir_qmp_context *ctx,
                                   const struct weir_q_blockdev_create_args *args, json_t **ret_value,
                                   struct weir_error **err)
{
    const char *driver = weir_schema_enum_name(&weir_schema_blockdev_driver, (int)args->options.driver);

    return weir_create_start(args->job_id, driver, args->options.json, err);
}

weir_co_fn int qmp_blockdev_check(struct weir_qmp_context *ctx, const struct weir_q_blockdev_check_args *args,
                                  json_t **ret_value, struct weir_error **err)
{
    return weir_check_start(args->job_id, args->node_name, err);
}

/* A user of the node for the time of the command: what stands against a resize is found as a permission conflict. */
weir_co_fn int qmp_block_resize(struct weir_qmp_context *ctx, const struct weir_q_block_resize_args *args,
                                json_t **ret_value, struct weir_error **err)
{
    struct weir_node *node = weir_node_lookup(args->device, args->node_name, err);
    struct weir_edge *edge;
    int ret;

    if (!node)
        return -ENODEV;
    if (args->size < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'size' expects a >0 size");
    ret =
        weir_root_attach(node, "root", WEIR_PERM_RESIZE, WEIR_PERM_ALL, &weir_qmp_root_ops, NULL, &edge, err);
    if (ret)
        return ret;
    ret = weir_node_resize(edge, (uint64_t)args->size, err);
    weir_root_detach(edge, WEIR_DRAIN_LIMIT_NS);
    return ret;
}

weir_co_fn int qmp_block_set_write_threshold(struct weir_qmp_context *ctx,
                                             const struct weir_q_block_set_write_threshold_args *args,
                                             json_t **ret_value, struct weir_error **err)
{
    struct weir_node *node = weir_node_find(args->node_name);

    if (!node)
        return weir_error_set(err, -ENOENT, "Device '%s' not found", args->node_name);
    weir_node_set_write_threshold(node, args->write_threshold);
    return 0;
}

/* ---- events ---- */

static struct weir_monitors *event_monitors;

static void image_damaged(const struct weir_damage *damage)
{
    if (event_monitors)
        weir_qmp_event(event_monitors, "BLOCK_IMAGE_CORRUPTED",
                       json_pack("{s:s, s:s, s:s, s:I, s:b}", "device", "", "node-name", damage->node->name,
                                 "msg", damage->text, "offset", (json_int_t)damage->offset, "fatal",
                                 damage->fatal));
}

static void threshold_exceeded(const struct weir_excess *excess)
{
    if (event_monitors)
        weir_qmp_event(event_monitors, "BLOCK_WRITE_THRESHOLD",
                       json_pack("{s:s, s:I, s:I}", "node-name", excess->node->name, "amount-exceeded",
                                 (json_int_t)excess->amount, "write-threshold",
                                 (json_int_t)excess->threshold));
}

void weir_qmp_connect_node_events(struct weir_monitors *monitors)
{
    event_monitors = monitors;
    weir_graph_on_damage(image_damaged);
    weir_graph_on_excess(threshold_exceeded);
}

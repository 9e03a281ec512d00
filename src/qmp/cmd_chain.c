/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: jobs that change backing chains.
 */
#include "gen/commands.h"
#include "job/commit.h"
#include "job/stream.h"
#include "qmp/cmd.h"
#include <errno.h>

weir_co_fn int qmp_block_stream(struct weir_qmp_context *ctx, const struct weir_q_block_stream_args *args,
                                json_t **ret_value, struct weir_error **err)
{
    struct weir_stream_options options = {
        .job_id = args->job_id,
        .device = args->device,
        .base = args->base,
        .base_node = args->base_node,
        .bottom = args->bottom,
        .backing_file = args->backing_file,
        .filter_node_name = args->filter_node_name,
        .mask_protocol = args->backing_mask_protocol,
        .speed = (uint64_t)args->speed,
        .on_error = (enum weir_job_on_error)args->on_error,
        .auto_finalize = args->auto_finalize,
        .auto_dismiss = args->auto_dismiss,
    };

    if (args->speed < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'speed' expects a non-negative value");
    return weir_stream_start(&options, err);
}

weir_co_fn int qmp_block_commit(struct weir_qmp_context *ctx, const struct weir_q_block_commit_args *args,
                                json_t **ret_value, struct weir_error **err)
{
    struct weir_commit_options options = {
        .job_id = args->job_id,
        .device = args->device,
        .base = args->base,
        .base_node = args->base_node,
        .top = args->top,
        .top_node = args->top_node,
        .backing_file = args->backing_file,
        .filter_node_name = args->filter_node_name,
        .mask_protocol = args->backing_mask_protocol,
        .speed = (uint64_t)args->speed,
        .on_error = (enum weir_job_on_error)args->on_error,
        .auto_finalize = args->auto_finalize,
        .auto_dismiss = args->auto_dismiss,
    };

    if (args->speed < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'speed' expects a non-negative value");
    return weir_commit_start(&options, err);
}

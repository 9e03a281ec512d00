/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: blockdev-mirror, drive-mirror and block-job-change.
 */
#include "gen/commands.h"
#include "job/job.h"
#include "job/mirror.h"
#include "qmp/cmd.h"
#include <errno.h>

static enum weir_mirror_copy_mode copy_mode_of(enum weir_q_mirror_copy_mode mode)
{
    return mode == WEIR_Q_MIRROR_COPY_MODE_WRITE_BLOCKING ? WEIR_MIRROR_COPY_WRITE_BLOCKING
                                                          : WEIR_MIRROR_COPY_BACKGROUND;
}

static int sync_of(enum weir_q_mirror_sync_mode mode, enum weir_mirror_sync *ret_sync,
                   struct weir_error **err)
{
    switch (mode) {
    case WEIR_Q_MIRROR_SYNC_MODE_FULL:
        *ret_sync = WEIR_MIRROR_SYNC_FULL;
        return 0;
    case WEIR_Q_MIRROR_SYNC_MODE_TOP:
        *ret_sync = WEIR_MIRROR_SYNC_TOP;
        return 0;
    case WEIR_Q_MIRROR_SYNC_MODE_NONE:
        *ret_sync = WEIR_MIRROR_SYNC_NONE;
        return 0;
    case WEIR_Q_MIRROR_SYNC_MODE_INCREMENTAL:
        return weir_error_set(err, -EINVAL, "Sync mode 'incremental' not supported");
    default:
        return weir_error_set(err, -EINVAL, "Sync mode 'bitmap' not supported");
    }
}

/* 0: out of range. */
static unsigned share_of(int64_t percent)
{
    return percent >= 1 && percent <= 100 ? (unsigned)percent : 0;
}

/* What both commands have under the same names. */
#define COMMON_OPTIONS(args)                                                              \
    {                                                                                     \
        .job_id = (args)->job_id, .device = (args)->device, .replaces = (args)->replaces, \
        .speed = (uint64_t)(args)->speed, .granularity = (args)->granularity,             \
        .memory = (uint64_t)(args)->buf_size, .share = share_of((args)->x_minimum_share), \
        .copy_mode = copy_mode_of((args)->copy_mode),                                     \
        .on_source_error = (enum weir_job_on_error)(args)->on_source_error,               \
        .on_target_error = (enum weir_job_on_error)(args)->on_target_error,               \
        .auto_finalize = (args)->auto_finalize, .auto_dismiss = (args)->auto_dismiss,     \
    }

/* Checks what the types of the schema let pass. */
static int check(struct weir_mirror_options *options, enum weir_q_mirror_sync_mode sync, bool has_granularity,
                 struct weir_error **err)
{
    if ((int64_t)options->speed < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'speed' expects a non-negative value");
    if ((int64_t)options->memory < 0)
        return weir_error_set(err, -EINVAL, "Invalid parameter 'buf-size'");
    if (!options->share)
        return weir_error_set(err, -EINVAL, "Parameter 'x-minimum-share' expects a value in range [1, 100]");
    if (has_granularity && !options->granularity)
        options->granularity = 1; /* refused by range, not taken for "absent" */
    return sync_of(sync, &options->sync, err);
}

weir_co_fn int qmp_blockdev_mirror(struct weir_qmp_context *ctx,
                                   const struct weir_q_blockdev_mirror_args *args, json_t **ret_value,
                                   struct weir_error **err)
{
    struct weir_mirror_options options = COMMON_OPTIONS(args);
    int ret = check(&options, args->sync, args->has_granularity, err);

    if (ret)
        return ret;
    options.target = args->target;
    options.filter_node_name = args->filter_node_name;
    options.unmap = true;
    options.target_is_zero = args->target_is_zero;
    return weir_mirror_start(&options, err);
}

weir_co_fn int qmp_drive_mirror(struct weir_qmp_context *ctx, const struct weir_q_drive_mirror_args *args,
                                json_t **ret_value, struct weir_error **err)
{
    struct weir_drive_mirror_options options = {
        .mirror = COMMON_OPTIONS(args),
        .target = args->target,
        .format = args->format,
        .node_name = args->node_name,
        .existing = args->mode == WEIR_Q_NEW_IMAGE_MODE_EXISTING,
    };
    int ret = check(&options.mirror, args->sync, args->has_granularity, err);

    if (ret)
        return ret;
    options.mirror.unmap = args->unmap;
    return weir_drive_mirror_start(&options, err);
}

_Static_assert((int)WEIR_Q_BLOCKDEV_ON_ERROR_REPORT == (int)WEIR_JOB_ON_ERROR_REPORT &&
                   (int)WEIR_Q_BLOCKDEV_ON_ERROR_IGNORE == (int)WEIR_JOB_ON_ERROR_IGNORE &&
                   (int)WEIR_Q_BLOCKDEV_ON_ERROR_ENOSPC == (int)WEIR_JOB_ON_ERROR_ENOSPC &&
                   (int)WEIR_Q_BLOCKDEV_ON_ERROR_STOP == (int)WEIR_JOB_ON_ERROR_STOP &&
                   (int)WEIR_Q_BLOCKDEV_ON_ERROR_AUTO == (int)WEIR_JOB_ON_ERROR_AUTO,
               "the policies are QMP's, in the same order");

weir_co_fn int qmp_block_job_change(struct weir_qmp_context *ctx,
                                    const struct weir_q_block_job_change_options *args, json_t **ret_value,
                                    struct weir_error **err)
{
    struct weir_job *job = weir_job_find(args->id);

    if (!job)
        return weir_error_set(err, -ENOENT, "Job not found");
    if (args->type != WEIR_Q_JOB_TYPE_MIRROR)
        return weir_error_set(err, -EINVAL, "Jobs of this type have nothing that can be changed");
    return weir_mirror_change(job, copy_mode_of(args->u.mirror.copy_mode), err);
}

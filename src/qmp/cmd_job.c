/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: jobs, their verbs, queries and events.
 *
 * The job-* commands answer an unknown id with GenericError, the older block-job-* ones with DeviceNotActive, as
 * their users expect.
 */
#include "gen/commands.h"
#include "job/check.h"
#include "job/job.h"
#include "job/mirror.h"
#include "qmp/cmd.h"
#include "qmp/events.h"
#include <errno.h>
#include <string.h>

static struct weir_job *find_job(const char *id, struct weir_error **err)
{
    struct weir_job *job = weir_job_find(id);

    if (!job)
        (void)weir_error_set(err, -ENOENT, "Job not found");
    return job;
}

static struct weir_job *find_block_job(const char *id, struct weir_error **err)
{
    struct weir_job *job = weir_job_find(id);

    if (job && job->driver->is_block_job)
        return job;
    (void)weir_error_set_class(err, WEIR_ERROR_DEVICE_NOT_ACTIVE, -ENOENT, "Block job '%s' not found", id);
    return NULL;
}

#define JOB_VERB(verb)                                                                                       \
    weir_co_fn int qmp_job_##verb(struct weir_qmp_context *ctx, const struct weir_q_job_##verb##_args *args, \
                                  json_t **ret_value, struct weir_error **err)                               \
    {                                                                                                        \
        struct weir_job *job = find_job(args->id, err);                                                      \
                                                                                                             \
        return job ? weir_job_##verb(job, err) : -ENOENT;                                                    \
    }

#define BLOCK_JOB_VERB(verb, member)                                                       \
    weir_co_fn int qmp_block_job_##verb(struct weir_qmp_context *ctx,                      \
                                        const struct weir_q_block_job_##verb##_args *args, \
                                        json_t **ret_value, struct weir_error **err)       \
    {                                                                                      \
        struct weir_job *job = find_block_job(args->member, err);                          \
                                                                                           \
        return job ? weir_job_##verb(job, err) : -ENOENT;                                  \
    }

JOB_VERB(pause)
JOB_VERB(resume)
JOB_VERB(complete)
JOB_VERB(dismiss)
JOB_VERB(finalize)
BLOCK_JOB_VERB(pause, device)
BLOCK_JOB_VERB(resume, device)
BLOCK_JOB_VERB(complete, device)
BLOCK_JOB_VERB(dismiss, id)
BLOCK_JOB_VERB(finalize, id)

weir_co_fn int qmp_job_cancel(struct weir_qmp_context *ctx, const struct weir_q_job_cancel_args *args,
                              json_t **ret_value, struct weir_error **err)
{
    struct weir_job *job = find_job(args->id, err);

    return job ? weir_job_cancel(job, true, err) : -ENOENT;
}

weir_co_fn int qmp_block_job_cancel(struct weir_qmp_context *ctx,
                                    const struct weir_q_block_job_cancel_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    struct weir_job *job = find_block_job(args->device, err);

    return job ? weir_job_cancel(job, args->force, err) : -ENOENT;
}

weir_co_fn int qmp_block_job_set_speed(struct weir_qmp_context *ctx,
                                       const struct weir_q_block_job_set_speed_args *args, json_t **ret_value,
                                       struct weir_error **err)
{
    struct weir_job *job = find_block_job(args->device, err);

    if (!job)
        return -ENOENT;
    if (args->speed < 0)
        return weir_error_set(err, -EINVAL, "Parameter 'speed' expects a non-negative value");
    return weir_job_set_speed(job, (uint64_t)args->speed, err);
}

/* ---- queries ---- */

static void update(struct weir_job *job)
{
    if (job->driver->update)
        job->driver->update(job);
}

static void add_error(json_t *object, const struct weir_job *job)
{
    if (job->error)
        json_object_set_new(object, "error", json_string(weir_error_text(job->error)));
    else if (job->status == WEIR_JOB_CONCLUDED && job->result)
        json_object_set_new(object, "error", json_string("Operation canceled"));
}

static void add_check(json_t *object, struct weir_job *job)
{
    const char *file, *format;
    const struct weir_check_result *result = weir_check_result_of(job, &file, &format);

    if (!result)
        return;
    json_object_set_new(object, "check",
                        json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "filename", file,
                                  "format", format, "check-errors", (json_int_t)result->check_errors,
                                  "image-end-offset", (json_int_t)result->image_end_offset, "corruptions",
                                  (json_int_t)result->corruptions, "leaks", (json_int_t)result->leaks,
                                  "total-clusters", (json_int_t)result->total_clusters, "allocated-clusters",
                                  (json_int_t)result->allocated_clusters, "fragmented-clusters",
                                  (json_int_t)result->fragmented_clusters, "compressed-clusters",
                                  (json_int_t)result->compressed_clusters));
}

weir_co_fn int qmp_query_jobs(struct weir_qmp_context *ctx, const struct weir_q_query_jobs_args *args,
                              json_t **ret_value, struct weir_error **err)
{
    *ret_value = json_array();
    for (struct weir_job *job = weir_job_next(NULL); job; job = weir_job_next(job)) {
        json_t *info;

        update(job);
        info = json_pack("{s:s, s:s, s:s, s:I, s:I}", "id", job->id, "type", job->driver->type, "status",
                         weir_job_status_name(job->status), "current-progress", (json_int_t)job->progress,
                         "total-progress", (json_int_t)job->total);
        add_error(info, job);
        add_check(info, job);
        json_array_append_new(*ret_value, info);
    }
    return 0;
}

static json_t *block_job_info(struct weir_job *job)
{
    static const char *const io_status[] = { "ok", "failed", "nospace" };
    bool ready = job->status == WEIR_JOB_READY || job->status == WEIR_JOB_STANDBY;
    bool busy;
    json_t *info;

    update(job);
    /* A job that is ready has work only while it lags behind. */
    busy = job->busy && !job->paused && !(job->status == WEIR_JOB_READY && job->progress == job->total);
    info =
        json_pack("{s:s, s:s, s:I, s:I, s:b, s:b, s:I, s:s, s:b, s:s, s:b, s:b}", "type", job->driver->type,
                  "device", job->id, "len", (json_int_t)job->total, "offset", (json_int_t)job->progress,
                  "busy", busy, "paused", job->paused, "speed", (json_int_t)job->speed, "io-status",
                  io_status[job->io_status], "ready", ready, "status", weir_job_status_name(job->status),
                  "auto-finalize", job->auto_finalize, "auto-dismiss", job->auto_dismiss);
    if (!strcmp(job->driver->type, "mirror"))
        (void)json_object_update_new(info, json_pack("{s:b, s:b}", "actively-synced",
                                                     weir_mirror_actively_synced(job), "x-converges",
                                                     weir_mirror_converges(job)));
    add_error(info, job);
    return info;
}

weir_co_fn int qmp_query_block_jobs(struct weir_qmp_context *ctx,
                                    const struct weir_q_query_block_jobs_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    *ret_value = json_array();
    for (struct weir_job *job = weir_job_next(NULL); job; job = weir_job_next(job)) {
        if (job->driver->is_block_job)
            json_array_append_new(*ret_value, block_job_info(job));
    }
    return 0;
}

weir_co_fn int qmp_x_query_job_history(struct weir_qmp_context *ctx,
                                       const struct weir_q_x_query_job_history_args *args, json_t **ret_value,
                                       struct weir_error **err)
{
    const struct weir_job_result *result;

    *ret_value = json_array();
    for (unsigned i = 0; (result = weir_job_history(i)); i++) {
        json_t *info = json_pack("{s:s, s:s, s:f, s:i}", "id", result->id, "type", result->type, "end-time",
                                 (double)result->end_wall_ns / 1e9, "result", result->result);

        if (result->error)
            json_object_set_new(info, "error", json_string(result->error));
        json_array_append_new(*ret_value, info);
    }
    return 0;
}

/* ---- events ---- */

static struct weir_monitors *event_monitors;

static json_t *block_job_event(const struct weir_job *job)
{
    return json_pack("{s:s, s:s, s:I, s:I, s:I}", "type", job->driver->type, "device", job->id, "len",
                     (json_int_t)job->total, "offset", (json_int_t)job->progress, "speed",
                     (json_int_t)job->speed);
}

static void job_event(struct weir_job *job, enum weir_job_event event, const struct weir_job_error_info *info)
{
    json_t *data = NULL;
    const char *name = NULL;

    switch (event) {
    case WEIR_JOB_EVENT_STATUS:
        name = "JOB_STATUS_CHANGE";
        data = json_pack("{s:s, s:s}", "id", job->id, "status", weir_job_status_name(job->status));
        break;
    case WEIR_JOB_EVENT_READY:
        name = "BLOCK_JOB_READY";
        data = block_job_event(job);
        break;
    case WEIR_JOB_EVENT_PENDING:
        name = "BLOCK_JOB_PENDING";
        data = json_pack("{s:s, s:s}", "type", job->driver->type, "id", job->id);
        break;
    case WEIR_JOB_EVENT_COMPLETED:
        name = "BLOCK_JOB_COMPLETED";
        data = block_job_event(job);
        add_error(data, job);
        break;
    case WEIR_JOB_EVENT_CANCELLED:
        name = "BLOCK_JOB_CANCELLED";
        data = block_job_event(job);
        break;
    case WEIR_JOB_EVENT_ERROR:
        name = "BLOCK_JOB_ERROR";
        data = json_pack("{s:s, s:s, s:s}", "device", job->id, "operation", info->write ? "write" : "read",
                         "action", info->action);
        break;
    }
    if (event_monitors)
        weir_qmp_event(event_monitors, name, data);
    else
        json_decref(data);
}

void weir_qmp_connect_job_events(struct weir_monitors *monitors)
{
    event_monitors = monitors;
    weir_job_set_listener(job_event);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mirror: a thin policy on the copy engine and the mirror-top filter.
 *
 *     export          export               export
 *       |               |                    |
 *     source   ->   mirror-top --- target   target     source
 *                       |
 *                     source
 *
 * run() copies until in sync and then waits to be told how to end. prepare() is the pivot: drain, look at the
 * bitmap again (M8), flush the target (M9), and exchange it for the filter in one transaction. clean() takes the
 * filter out where no pivot happened. A target that hangs is let go: its edge is broken and its requests end
 * in limbo.
 */
#include "job/mirror.h"

#include "graph/graph.h"
#include "io/async.h"
#include "job/internal.h"
#include "job/mirror_internal.h"
#include <errno.h>
#include <string.h>

/* How long an ignored error is left alone before the next try. */
#define RETRY_NS (100 * 1000000LL)

static struct mirror_parts *parts_of(struct weir_job *job)
{
    return mirror_of(job)->parts;
}

void mirror_parts_free(struct mirror_parts *parts)
{
    if (!parts)
        return;
    weir_node_unref(parts->top);
    weir_node_unref(parts->source);
    weir_node_unref(parts->target);
    weir_copy_free(parts->copy);
    weir_bitmap_free(parts->bitmap);
    weir_bitmap_free(parts->written);
    weir_mutex_done(&parts->mutex);
    free(parts);
}

/* ---- the run ---- */

weir_co_fn int mirror_io_error(struct mirror *mirror, int error, bool write)
{
    struct weir_job *job = &mirror->job;
    enum weir_job_on_error policy = write ? mirror->on_target_error : mirror->on_source_error;

    /* Once it is pending nobody can resume it: it must not stop for good. */
    if (job->status == WEIR_JOB_PENDING && policy != WEIR_JOB_ON_ERROR_IGNORE)
        policy = WEIR_JOB_ON_ERROR_REPORT;
    if (weir_job_io_error(job, policy, error, write))
        return weir_job_fail(job, error, "Could not %s '%s': %s", write ? "write to" : "read",
                             weir_node_file_name(write ? mirror->parts->target : mirror->parts->source),
                             strerror(-error));
    if (job->user_paused) {
        while (job->user_paused && !job->cancelled)
            weir_job_wait(job, -1);
    } else {
        int64_t retry = weir_sys->clock_ns() + RETRY_NS;

        while (!job->cancelled && weir_sys->clock_ns() < retry)
            weir_job_wait(job, retry);
    }
    return 0;
}

weir_co_fn int mirror_settle_errors(struct mirror *mirror, struct weir_copy_state *ret_state)
{
    struct weir_copy *copy = mirror->parts->copy;
    int ret = 0;

    *ret_state = weir_copy_state(copy);
    while (ret_state->error && !ret && !mirror->job.cancelled) {
        ret = mirror_io_error(mirror, ret_state->error, ret_state->error_write);
        if (!ret)
            weir_copy_retry(copy);
        *ret_state = weir_copy_state(copy);
    }
    return mirror->job.cancelled ? -ECANCELED : ret;
}

static weir_co_fn int mirror_run(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct mirror_parts *parts = mirror->parts;
    bool ready = false;

    if (weir_node_size(parts->source) != weir_node_size(parts->target))
        return weir_job_fail(job, -EINVAL, "Source and target image have different sizes");
    if (mirror->sync == WEIR_MIRROR_SYNC_TOP || mirror->sync == WEIR_MIRROR_SYNC_ABOVE) {
        int ret = mirror_mark_top(mirror);

        if (ret)
            return ret;
    }
    mirror->marked = true;
    /* Pauses and drains that came while the job was set up found nothing to pause. */
    weir_copy_set_paused(parts->copy, job->paused);
    weir_copy_start(parts->copy);
    for (;;) {
        struct weir_copy_state state;
        int ret = mirror_settle_errors(mirror, &state);

        if (ret)
            return ret;
        if (!ready && state.caught_up && !job->paused) {
            ready = true;
            weir_job_set_ready(job);
            continue;
        }
        if (ready && state.idle && !job->paused && (mirror->complete_asked || job->soft_cancelled))
            return 0;
        weir_job_wait(job, -1);
    }
}

/* ---- the mode ---- */

bool weir_mirror_actively_synced(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct weir_copy_state state;

    if (!mirror->parts || !mirror->parts->copy || !mirror->marked)
        return false;
    /* The mode first: from then on nothing is marked but what has failed. */
    if (!weir_mirror_top_active(mirror->parts->top))
        return false;
    state = weir_copy_state(mirror->parts->copy);
    return state.idle && !state.error;
}

bool weir_mirror_converges(struct weir_job *job)
{
    struct mirror_parts *parts = parts_of(job);

    return !parts || !parts->copy || weir_mirror_top_active(parts->top) ||
           !weir_copy_state(parts->copy).falling_behind;
}

int weir_mirror_change(struct weir_job *job, enum weir_mirror_copy_mode copy_mode, struct weir_error **err)
{
    struct mirror *mirror = mirror_of(job);
    enum weir_mirror_mode mode =
        copy_mode == WEIR_MIRROR_COPY_WRITE_BLOCKING ? WEIR_MIRROR_BLOCKING : WEIR_MIRROR_BACKGROUND;
    int ret;

    if (job->driver != &weir_mirror_driver)
        return weir_error_set(err, -EINVAL, "Job '%s' is of type '%s', not 'mirror'", job->id,
                              job->driver->type);
    ret = weir_job_accepts(job, WEIR_JOB_CHANGE, err);
    if (ret)
        return ret;
    if (job->cancelled || !mirror->parts || !mirror->edge)
        return weir_error_set(err, -EBUSY, "Job '%s' is starting or ending: it cannot be changed", job->id);
    if (mode == WEIR_MIRROR_BACKGROUND && (mirror->complete_asked || job->soft_cancelled))
        return weir_error_set(err, -EBUSY, "Job '%s' is completing: its copy mode stays 'write-blocking'",
                              job->id);
    weir_mirror_top_set_mode(mirror->parts->top, mode);
    return 0;
}

/* From here on guests cannot make it dirty faster than it is copied. */
static void start_converging(struct mirror *mirror)
{
    weir_mirror_top_set_mode(mirror->parts->top, WEIR_MIRROR_BLOCKING);
}

static int mirror_complete(struct weir_job *job, struct weir_error **err)
{
    struct mirror *mirror = mirror_of(job);

    (void)err;
    mirror->complete_asked = true;
    start_converging(mirror);
    return 0;
}

/* Lets nobody wait for either side any more. */
void mirror_let_go(struct mirror *mirror)
{
    weir_mirror_top_set_mode(mirror->parts->top, WEIR_MIRROR_PASS);
    weir_edge_break(weir_mirror_top_target(mirror->parts->top));
    weir_edge_break(weir_mirror_top_source(mirror->parts->top));
}

static bool mirror_cancel(struct weir_job *job, bool force)
{
    struct mirror *mirror = mirror_of(job);
    bool soft = !force && (job->status == WEIR_JOB_READY || job->status == WEIR_JOB_STANDBY);

    /* A job that is pending may be cleaning up already: its edges are gone, its result stands. */
    if (mirror->pivoting || !mirror->parts)
        return false;
    if (soft) {
        start_converging(mirror);
        return false;
    }
    if (mirror->edge) /* else it is still being set up: run() will not be called */
        mirror_let_go(mirror);
    weir_drain_cancel(&mirror->drain);
    return true;
}

static void mirror_set_speed(struct weir_job *job, uint64_t speed)
{
    if (parts_of(job)->copy)
        weir_copy_set_speed(parts_of(job)->copy, speed);
}

static void mirror_pause_changed(struct weir_job *job)
{
    if (parts_of(job) && parts_of(job)->copy)
        weir_copy_set_paused(parts_of(job)->copy, job->paused);
}

void mirror_update(struct weir_job *job)
{
    struct mirror_parts *parts = parts_of(job);
    struct weir_copy_state state;

    if (!parts || !parts->copy)
        return; /* the last figures stand */
    state = weir_copy_state(parts->copy);
    job->progress = state.copied;
    job->total = job->progress + state.taken + weir_bitmap_count(parts->bitmap);
}

static void mirror_free(struct weir_job *job)
{
    free(mirror_of(job)->replaces);
    mirror_parts_free(parts_of(job));
}

#define MIRROR_SLOTS                                                                                   \
    .is_block_job = true, .size = sizeof(struct mirror), .run = mirror_run, .prepare = mirror_prepare, \
    .clean = mirror_clean, .complete = mirror_complete, .cancel = mirror_cancel,                       \
    .set_speed = mirror_set_speed, .pause_changed = mirror_pause_changed, .update = mirror_update,     \
    .free = mirror_free

const struct weir_job_driver weir_mirror_driver = { .type = "mirror", MIRROR_SLOTS };
const struct weir_job_driver weir_commit_head_driver = { .type = "commit", MIRROR_SLOTS };

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

#include "base/alloc.h"
#include "filter/mirror_top.h"
#include "graph/graph.h"
#include "io/async.h"
#include "job/copy.h"
#include "job/job.h"
#include "job/loop.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>

#define GRANULARITY_DEFAULT 65536u
#define GRANULARITY_MIN 512u
#define GRANULARITY_MAX ((uint64_t)64 << 20)
/* How long an ignored error is left alone before the next try. */
#define RETRY_NS (100 * 1000000LL)
/* How long letting go of a target that does not answer may take. */
#define LET_GO_NS (500 * 1000000LL)
/* How long the end of a job looks after requests that it has left behind. */
#define SETTLE_NS (100 * 1000000LL)
#define SETTLE_STEP_NS 1000000LL
/* A filter that cannot be taken out: how long the next try may take, at most, and how many times that it rests. */
#define AGAIN_NS (50 * 1000000LL)
#define AGAIN_MAX_NS (1000 * 1000000LL)
#define AGAIN_REST 20

/*
 * What the filter reaches. It outlives the job where the filter cannot be taken out at once (a source that hangs), so
 * it stands apart and is freed only after the filter is gone.
 */
struct parts {
    struct weir_node *source, *target, *top; /* references */
    struct weir_bitmap *bitmap;
    struct weir_copy *copy;
    struct weir_mutex mutex;
    struct weir_job *job; /* NULL once the job has ended; mutex */
};

struct mirror {
    struct weir_job job;
    struct parts *parts;
    struct weir_edge *edge; /* our root edge, on top */
    enum weir_mirror_mode mode;
    enum weir_job_on_error on_source_error, on_target_error;
    bool complete_asked;
    bool pivoting; /* too late to cancel: the users are about to move, or have */
    bool pivoted;
    bool inserted; /* top stands between the source and its users */
};

static struct mirror *mirror_of(struct weir_job *job)
{
    return weir_container_of(job, struct mirror, job);
}

static struct parts *parts_of(struct weir_job *job)
{
    return mirror_of(job)->parts;
}

static void parts_free(struct parts *parts)
{
    if (!parts)
        return;
    weir_node_unref(parts->top);
    weir_node_unref(parts->source);
    weir_node_unref(parts->target);
    weir_copy_free(parts->copy);
    weir_bitmap_free(parts->bitmap);
    weir_mutex_done(&parts->mutex);
    free(parts);
}

/* ---- what others call, on any loop ---- */

static void target_event(void *opaque, int ret)
{
    struct parts *parts = opaque;

    if (!parts->copy)
        return; /* somebody uses the filter by its name while the job is still being set up */
    if (ret && ret != -ECANCELED)
        weir_copy_note_error(parts->copy, ret, true);
    else
        weir_copy_kick(parts->copy);
}

static void copy_changed(void *opaque)
{
    struct parts *parts = opaque;

    WEIR_SCOPE_LOCK(&parts->mutex);
    if (parts->job)
        weir_job_wake(parts->job);
}

static uint64_t guest_requests(void *opaque, int64_t *ret_last_ns)
{
    return weir_mirror_top_requests(((struct parts *)opaque)->top, ret_last_ns);
}

static char *describe_edge(struct weir_edge *edge)
{
    return weir_strdup_printf("block job '%s'", ((struct mirror *)edge->root)->job.id);
}

static void edge_drain_begin(struct weir_edge *edge)
{
    weir_job_drain(&((struct mirror *)edge->root)->job, true);
}

static void edge_drain_end(struct weir_edge *edge)
{
    weir_job_drain(&((struct mirror *)edge->root)->job, false);
}

static const struct weir_root_ops mirror_root_ops = {
    .kind = "block-job",
    .describe = describe_edge,
    .drain_begin = edge_drain_begin,
    .drain_end = edge_drain_end,
};

/* ---- the run ---- */

/* An error of the copy or of an active write: 0 and on with it, or the job fails. */
static weir_co_fn int copy_failed(struct mirror *mirror, const struct weir_copy_state *state)
{
    struct weir_job *job = &mirror->job;
    enum weir_job_on_error policy = state->error_write ? mirror->on_target_error : mirror->on_source_error;

    /* Once it is pending nobody can resume it: it must not stop for good. */
    if (job->status == WEIR_JOB_PENDING && policy != WEIR_JOB_ON_ERROR_IGNORE)
        policy = WEIR_JOB_ON_ERROR_REPORT;
    if (weir_job_io_error(job, policy, state->error, state->error_write))
        return weir_job_fail(
            job, state->error, "Could not %s '%s': %s", state->error_write ? "write to" : "read",
            weir_node_file_name(state->error_write ? mirror->parts->target : mirror->parts->source),
            strerror(-state->error));
    if (job->user_paused) {
        while (job->user_paused && !job->cancelled)
            weir_job_wait(job, -1);
    } else {
        int64_t retry = weir_sys->clock_ns() + RETRY_NS;

        while (!job->cancelled && weir_sys->clock_ns() < retry)
            weir_job_wait(job, retry);
    }
    weir_copy_retry(mirror->parts->copy);
    return 0;
}

/* Looks at the state of the copy once, for as long as errors are ignored or resumed from. */
static weir_co_fn int settle_errors(struct mirror *mirror, struct weir_copy_state *ret_state)
{
    int ret = 0;

    *ret_state = weir_copy_state(mirror->parts->copy);
    while (ret_state->error && !ret && !mirror->job.cancelled) {
        ret = copy_failed(mirror, ret_state);
        *ret_state = weir_copy_state(mirror->parts->copy);
    }
    return mirror->job.cancelled ? -ECANCELED : ret;
}

static weir_co_fn int mirror_run(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct parts *parts = mirror->parts;
    bool ready = false;

    if (weir_node_size(parts->source) != weir_node_size(parts->target))
        return weir_job_fail(job, -EINVAL, "Source and target image have different sizes");
    /* Pauses and drains that came while the job was set up found nothing to pause. */
    weir_copy_set_paused(parts->copy, job->paused);
    weir_copy_start(parts->copy);
    for (;;) {
        struct weir_copy_state state;
        int ret = settle_errors(mirror, &state);

        if (ret)
            return ret;
        if (!ready && state.idle && !job->paused) {
            ready = true;
            weir_job_set_ready(job);
            continue;
        }
        if (ready && state.idle && !job->paused && (mirror->complete_asked || job->soft_cancelled))
            return 0;
        weir_job_wait(job, -1);
    }
}

bool weir_mirror_actively_synced(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct weir_copy_state state;

    if (!mirror->parts || !mirror->parts->copy)
        return false;
    state = weir_copy_state(mirror->parts->copy);
    return mirror->mode == WEIR_MIRROR_BLOCKING && state.idle && !state.error;
}

static void start_converging(struct mirror *mirror)
{
    /* From here on guests cannot make it dirty faster than it is copied. */
    mirror->mode = WEIR_MIRROR_BLOCKING;
    weir_mirror_top_set_mode(mirror->parts->top, mirror->mode);
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
static void let_go(struct mirror *mirror)
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
        let_go(mirror);
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

static void mirror_update(struct weir_job *job)
{
    struct parts *parts = parts_of(job);
    struct weir_copy_state state;

    if (!parts || !parts->copy)
        return; /* the last figures stand */
    state = weir_copy_state(parts->copy);
    job->progress = state.copied;
    job->total = job->progress + state.taken + weir_bitmap_count(parts->bitmap);
}

/* ---- the end ---- */

static weir_co_fn int flush_target(struct mirror *mirror)
{
    struct weir_request flush = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    int64_t deadline = weir_sys->clock_ns() + WEIR_DRAIN_LIMIT_NS;
    int ret = weir_io_abandonable(weir_mirror_top_target(mirror->parts->top), &flush, deadline);

    if (ret) {
        /* The pivot does not happen, whatever the policy: durability cannot be ignored. */
        (void)!weir_job_io_error(&mirror->job, WEIR_JOB_ON_ERROR_REPORT, ret, true);
        (void)weir_job_fail(&mirror->job, ret, "Could not flush '%s': %s",
                            weir_node_file_name(mirror->parts->target), strerror(-ret));
    }
    return ret;
}

/*
 * Other writers are welcome on the source again. A step of its own: requests that are left behind on the edge keep
 * what it took and shared last.
 */
static weir_co_fn int relax_source(struct mirror *mirror, struct weir_error **err)
{
    weir_mirror_top_set_alone(mirror->parts->top, false);
    return weir_tran_finish(weir_tran_new(), err);
}

/* Everybody who used the filter uses @node; the filter lets go of its children. Drained, lock held. */
static weir_co_fn int replace_top(struct mirror *mirror, struct weir_node *node, struct weir_error **err)
{
    struct weir_tran *tran;
    int ret = relax_source(mirror, err);

    if (ret)
        return ret;
    tran = weir_tran_new();
    ret = weir_tran_replace_parents(tran, mirror->parts->top, node, mirror->parts->top, err);
    if (ret) {
        weir_tran_abort(tran);
        return ret;
    }
    weir_tran_detach(tran, weir_mirror_top_target(mirror->parts->top));
    weir_tran_detach(tran, weir_mirror_top_source(mirror->parts->top));
    return weir_tran_finish(tran, err);
}

/* In the drained section: 0 and ended, 1 = not clean yet, or -errno. */
static weir_co_fn int end_drained(struct mirror *mirror)
{
    struct weir_copy_state state = weir_copy_state(mirror->parts->copy);
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    if (mirror->job.cancelled)
        return -ECANCELED;
    if (state.error || !state.idle)
        return 1;
    ret = flush_target(mirror);
    if (ret)
        return ret;
    if (mirror->job.soft_cancelled) {
        /* The copy is of this moment: nothing that comes after the drain may reach it. */
        weir_mirror_top_set_mode(mirror->parts->top, WEIR_MIRROR_PASS);
        return 0;
    }
    mirror_update(&mirror->job);
    mirror->pivoting = true;
    ret = replace_top(mirror, mirror->parts->target, &err);
    if (ret)
        return weir_job_fail(&mirror->job, ret, "%s", weir_error_text(err));
    mirror->pivoted = true;
    mirror->inserted = false;
    return 0;
}

static weir_co_fn int mirror_prepare(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct weir_node *nodes[] = { mirror->parts->top, mirror->parts->target };
    int ret;

    do {
        struct weir_drain drain = { 0 };
        WEIR_AUTO_ERROR err = NULL;

        struct weir_copy_state state;

        ret = settle_errors(mirror, &state);
        while (!ret && !state.idle) {
            weir_job_wait(job, -1);
            ret = settle_errors(mirror, &state);
        }
        if (ret)
            return ret;
        weir_graph_lock();
        ret = weir_drain_begin(&drain, nodes, 2, WEIR_DRAIN_LIMIT_NS, &err);
        if (!ret) {
            ret = end_drained(mirror);
            weir_drain_end(&drain);
        } else {
            (void)weir_job_fail(job, ret, "%s", weir_error_text(err));
        }
        weir_graph_unlock();
    } while (ret == 1);
    return ret;
}

/* Takes the filter out; the source's users use the source again. */
static weir_co_fn int remove_filter(struct mirror *mirror, int64_t limit_ns)
{
    struct weir_drain drain = { 0 };
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &mirror->parts->top, 1, limit_ns, NULL);
    if (!ret) {
        ret = replace_top(mirror, mirror->parts->source, NULL);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    mirror->inserted = ret;
    return ret;
}

/*
 * The filter only forwards by now; it is tried again until it can be taken out. Each try stops the guests and holds
 * the graph-change lock, for nothing while a request hangs: so it is short, and the rest after it many times as long.
 */
static weir_co_fn void remove_later(void *arg)
{
    struct mirror *leftover = arg;
    int64_t limit = AGAIN_NS;

    for (;;) {
        weir_co_sleep(limit * AGAIN_REST);
        if (!remove_filter(leftover, limit))
            break;
        limit = WEIR_MIN(2 * limit, AGAIN_MAX_NS);
    }
    parts_free(leftover->parts);
    free(leftover);
}

/* Requests that hang nowhere come back at once: whoever uses the nodes next need not meet them there. */
static weir_co_fn void settle(struct weir_node *top)
{
    int64_t deadline = weir_sys->clock_ns() + SETTLE_NS;

    while (weir_sys->clock_ns() < deadline && (weir_edge_abandoned(weir_mirror_top_source(top)) ||
                                               weir_edge_abandoned(weir_mirror_top_target(top))))
        weir_co_sleep(SETTLE_STEP_NS);
}

static weir_co_fn void mirror_clean(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct parts *parts = mirror->parts;

    mirror_update(job);
    if (!mirror->pivoted)
        let_go(mirror);
    weir_copy_stop(parts->copy);
    if (!mirror->pivoted)
        settle(parts->top);
    weir_mutex_lock(&parts->mutex);
    parts->job = NULL;
    weir_mutex_unlock(&parts->mutex);
    weir_root_detach(weir_steal(&mirror->edge), LET_GO_NS);
    mirror->parts = NULL;
    if (mirror->inserted) {
        struct mirror *leftover = weir_new(struct mirror);

        leftover->parts = parts;
        leftover->inserted = true;
        if (remove_filter(leftover, LET_GO_NS)) {
            weir_co_start(weir_loop_control(), remove_later, leftover);
            return;
        }
        free(leftover);
    }
    parts_free(parts);
}

static void mirror_free(struct weir_job *job)
{
    parts_free(parts_of(job));
}

static const struct weir_job_driver mirror_driver = {
    .type = "mirror",
    .is_block_job = true,
    .size = sizeof(struct mirror),
    .run = mirror_run,
    .prepare = mirror_prepare,
    .clean = mirror_clean,
    .complete = mirror_complete,
    .cancel = mirror_cancel,
    .set_speed = mirror_set_speed,
    .pause_changed = mirror_pause_changed,
    .update = mirror_update,
    .free = mirror_free,
};

/* ---- the start ---- */

static int check_granularity(uint64_t granularity, struct weir_error **err)
{
    if (granularity < GRANULARITY_MIN || granularity > GRANULARITY_MAX)
        return weir_error_set(err, -EINVAL, "Parameter 'granularity' expects a value in range [512B, 64MB]");
    if (!weir_is_power_of_2(granularity))
        return weir_error_set(err, -EINVAL, "Parameter 'granularity' expects a power of 2");
    return 0;
}

static int check_nodes(struct weir_node *source, struct weir_node *target, struct weir_error **err)
{
    const struct weir_edge *edge;

    if (source == target)
        return weir_error_set(err, -EINVAL, "Can't mirror node into itself");
    TAILQ_FOREACH (edge, &source->parents, in_node) {
        if (edge->parent)
            return weir_error_set(err, -EINVAL, "Need a root block node");
    }
    return 0;
}

/* Puts the filter between the source and its users, with everything marked (M1). */
static weir_co_fn int insert_filter(struct mirror *mirror, struct weir_error **err)
{
    struct weir_drain drain = { 0 };
    struct weir_tran *tran;
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &mirror->parts->source, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        tran = weir_tran_new();
        ret = weir_tran_replace_parents(tran, mirror->parts->source, mirror->parts->top, mirror->parts->top,
                                        err);
        weir_mirror_top_set_alone(mirror->parts->top, !ret);
        if (ret)
            weir_tran_abort(tran);
        else
            ret = weir_tran_finish(tran, err);
        weir_mirror_top_set_alone(mirror->parts->top, !ret);
        if (!ret)
            weir_bitmap_set(mirror->parts->bitmap, 0, weir_bitmap_size(mirror->parts->bitmap));
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    mirror->inserted = !ret;
    return ret;
}

static weir_co_fn int build(struct mirror *mirror, const struct weir_mirror_options *options,
                            struct weir_error **err)
{
    uint64_t granularity = options->granularity ? options->granularity : GRANULARITY_DEFAULT;
    struct weir_mirror_top_options top = {
        .source = mirror->parts->source,
        .target = mirror->parts->target,
        .mode = mirror->mode,
        .notify = target_event,
        .opaque = mirror->parts,
    };
    struct weir_copy_options copy = {
        .unmap = true,
        .guests = guest_requests,
        .changed = copy_changed,
        .opaque = mirror->parts,
    };
    int ret = weir_job_loop(&copy.loop, err);

    if (ret)
        return ret;
    top.bitmap = mirror->parts->bitmap = weir_bitmap_new(weir_node_size(mirror->parts->source), granularity);
    if (!mirror->parts->bitmap)
        return weir_error_set(err, -ENOMEM, "No memory for the dirty bitmap of node '%s'",
                              mirror->parts->source->name);
    ret = weir_node_new_internal(&weir_driver_mirror_top, options->filter_node_name, &top,
                                 &mirror->parts->top, err);
    if (ret)
        return ret;
    /* From here on nobody may resize it. */
    if (weir_node_size(mirror->parts->top) != weir_bitmap_size(mirror->parts->bitmap))
        return weir_error_set(err, -EAGAIN, "Node '%s' was resized meanwhile", mirror->parts->source->name);
    ret = weir_root_attach(mirror->parts->top, "main node", 0, WEIR_PERM_ALL, &mirror_root_ops, mirror,
                           &mirror->edge, err);
    if (ret)
        return ret;
    copy.gate = mirror->edge;
    copy.source = weir_mirror_top_source(mirror->parts->top);
    copy.target = weir_mirror_top_target(mirror->parts->top);
    copy.ranges = weir_mirror_top_ranges(mirror->parts->top);
    copy.bitmap = mirror->parts->bitmap;
    copy.speed = mirror->job.speed; /* may have been changed meanwhile */
    mirror->parts->copy = weir_copy_new(&copy);
    return insert_filter(mirror, err);
}

/* Takes back what build() has made; the workers never ran. */
static weir_co_fn void unbuild(struct mirror *mirror)
{
    if (mirror->edge)
        weir_root_detach(weir_steal(&mirror->edge), LET_GO_NS);
    weir_job_discard(&mirror->job);
}

int weir_mirror_start(const struct weir_mirror_options *options, struct weir_error **err)
{
    struct weir_job_options job_options = {
        .id = options->job_id,
        .auto_finalize = options->auto_finalize,
        .auto_dismiss = options->auto_dismiss,
        .speed = options->speed,
    };
    struct weir_node *source = weir_node_lookup(options->device, options->device, err), *target;
    struct weir_job *job;
    struct mirror *mirror;
    int ret;

    target = source ? weir_node_lookup(options->target, options->target, err) : NULL;
    if (!target)
        return -ENODEV;
    ret = options->granularity ? check_granularity(options->granularity, err) : 0;
    if (!ret)
        ret = check_nodes(source, target, err);
    if (!ret)
        ret = weir_job_new(&mirror_driver, &job_options, &job, err);
    if (ret)
        return ret;
    mirror = mirror_of(job);
    mirror->parts = weir_new(struct parts);
    mirror->parts->source = weir_node_ref(source);
    mirror->parts->target = weir_node_ref(target);
    mirror->parts->job = job;
    weir_mutex_init(&mirror->parts->mutex);
    mirror->mode =
        options->copy_mode == WEIR_MIRROR_COPY_WRITE_BLOCKING ? WEIR_MIRROR_BLOCKING : WEIR_MIRROR_BACKGROUND;
    mirror->on_source_error = options->on_source_error;
    mirror->on_target_error = options->on_target_error;
    ret = build(mirror, options, err);
    if (ret) {
        unbuild(mirror);
        return ret;
    }
    weir_job_start(job);
    return 0;
}

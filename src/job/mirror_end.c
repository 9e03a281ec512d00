/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a mirror ends: the pivot, or the filter is taken out; and what is done where the source hangs.
 */
#include "base/law.h"
#include "graph/gate.h"
#include "io/async.h"
#include "job/commit_internal.h"
#include "job/job.h"
#include "job/mirror_internal.h"
#include <errno.h>
#include <string.h>

/* How long the end of a job looks after requests that it has left behind. */
#define SETTLE_NS (100 * 1000000LL)
#define SETTLE_STEP_NS 1000000LL
/* Before the pivot the target is flushed until that takes less than this, or so many times. */
#define FLUSH_SHORT_NS (20 * 1000000LL)
#define FLUSHES_AHEAD_MAX 5
/* A filter that cannot be taken out: how long the next try may take, at most, and how many times that it rests. */
#define AGAIN_NS (50 * 1000000LL)
#define AGAIN_MAX_NS (1000 * 1000000LL)
#define AGAIN_REST 20

/* @deadline_ns -1: for as long as it takes; a cancel ends that. */
static weir_co_fn int flush_target(struct mirror *mirror, int64_t deadline_ns)
{
    struct weir_request flush = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    int ret = weir_io_abandonable(weir_mirror_top_target(mirror->parts->top), &flush, deadline_ns);

    if (ret && mirror->job.cancelled)
        return -ECANCELED;
    if (ret) {
        /* The pivot does not happen, whatever the policy: durability cannot be ignored. */
        (void)!weir_job_io_error(&mirror->job, WEIR_JOB_ON_ERROR_REPORT, ret, true);
        (void)weir_job_fail(&mirror->job, ret, "Could not flush '%s': %s",
                            weir_node_file_name(mirror->parts->target), strerror(-ret));
    }
    return ret;
}

/*
 * The target becomes durable while guests go on, for all that it has taken so far: in the drained section they wait
 * only for what came since. That gets less with each flush, as each takes less time than the one before.
 */
static weir_co_fn int flush_ahead(struct mirror *mirror)
{
    for (unsigned i = 0; i < FLUSHES_AHEAD_MAX; i++) {
        struct weir_gate_op op = { .op = WEIR_OP_FLUSH };
        int64_t begin;
        int ret;

        weir_gate_enter(mirror->edge, &op);
        begin = weir_sys->clock_ns();
        ret = flush_target(mirror, -1);
        weir_gate_leave(&op);
        if (ret || weir_sys->clock_ns() - begin < FLUSH_SHORT_NS)
            return ret;
    }
    return 0;
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
    int ret = weir_edge_check_thawed(weir_mirror_top_source(mirror->parts->top), err);

    if (!ret)
        ret = relax_source(mirror, err);
    if (ret)
        return ret;
    tran = weir_tran_new();
    ret = weir_tran_replace_parents(tran, mirror->parts->top, node, mirror->parts->top, err);
    if (!ret) {
        weir_tran_detach(tran, weir_mirror_top_target(mirror->parts->top));
        weir_tran_detach(tran, weir_mirror_top_source(mirror->parts->top));
    }
    return weir_tran_end(tran, ret, err);
}

/* The node that the target is to replace, looked up again: the graph may have changed since the start. */
static weir_co_fn int place_of(struct mirror *mirror, struct weir_node **ret_replaced,
                               struct weir_error **err)
{
    *ret_replaced = mirror->parts->source;
    return mirror->replaces ? mirror_find_replaced(mirror->parts->source, mirror->replaces, ret_replaced, err)
                            : 0;
}

/* The target takes its place: that of the filter and the source, or that of a node below the source. */
static weir_co_fn int pivot(struct mirror *mirror, struct weir_error **err)
{
    struct mirror_parts *parts = mirror->parts;
    struct weir_node *replaced;
    struct weir_tran *tran;
    int ret = place_of(mirror, &replaced, err);

    if (ret)
        return ret;
    if (replaced == parts->source)
        return replace_top(mirror, parts->target, err);
    ret = relax_source(mirror, err);
    if (ret)
        return ret;
    tran = weir_tran_new();
    ret = weir_tran_replace_parents(tran, parts->top, parts->source, parts->top, err);
    if (!ret) {
        weir_tran_detach(tran, weir_mirror_top_target(parts->top));
        weir_tran_detach(tran, weir_mirror_top_source(parts->top));
        ret = weir_tran_replace_parents(tran, replaced, parts->target, NULL, err);
    }
    return weir_tran_end(tran, ret, err);
}

/* In the drained section: 0 and ended, 1 = not clean yet, or -errno. */
static weir_co_fn int end_drained(struct mirror *mirror)
{
    struct weir_copy_state state = weir_copy_state(mirror->parts->copy);
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    if (mirror->job.cancelled)
        return -ECANCELED;
    if ((state.error || !state.idle) && WEIR_LAW(WEIR_LAW_RECHECK))
        return 1;
    ret = flush_target(mirror, weir_sys->clock_ns() + WEIR_DRAIN_LIMIT_NS);
    if (ret)
        return ret;
    if (mirror->job.soft_cancelled) {
        /* The copy is of this moment: nothing that comes after the drain may reach it. */
        weir_mirror_top_set_mode(mirror->parts->top, WEIR_MIRROR_PASS);
        return 0;
    }
    mirror_update(&mirror->job);
    mirror->pivoting = true;
    mirror_thaw(mirror);
    ret = pivot(mirror, &err);
    if (ret)
        return weir_job_fail(&mirror->job, ret, "%s", weir_error_text(err));
    mirror->pivoted = true;
    mirror->inserted = false;
    return 0;
}

weir_co_fn int mirror_prepare(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct weir_node *nodes[] = { mirror->parts->top, mirror->parts->target, NULL };
    int ret;

    do {
        WEIR_AUTO_ERROR err = NULL;
        struct weir_copy_state state;

        ret = mirror_settle_errors(mirror, &state);
        while (!ret && !state.idle) {
            weir_job_wait(job, -1);
            ret = mirror_settle_errors(mirror, &state);
        }
        if (!ret)
            ret = flush_ahead(mirror);
        if (ret)
            return ret;
        weir_graph_lock();
        ret = place_of(mirror, &nodes[2], &err);
        if (!ret)
            ret = weir_drain_begin(&mirror->drain, nodes, WEIR_ARRAY_SIZE(nodes), WEIR_DRAIN_LIMIT_NS, &err);
        if (!ret) {
            ret = end_drained(mirror);
            weir_drain_end(&mirror->drain);
        } else if (!job->cancelled) {
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
        /* What it stands on now: another job's filter may have been taken out between. */
        ret = replace_top(mirror, weir_mirror_top_source(mirror->parts->top)->node, NULL);
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
    mirror_parts_free(leftover->parts);
    free(leftover);
}

/* Requests that hang nowhere come back at once: whoever uses the nodes next need not meet them there. */
static weir_co_fn void settle(struct weir_node *top)
{
    int64_t deadline = weir_sys->clock_ns() + SETTLE_NS;

    while (weir_sys->clock_ns() < deadline &&
           (weir_edge_held(weir_mirror_top_source(top)) || weir_edge_held(weir_mirror_top_target(top))))
        weir_co_sleep(SETTLE_STEP_NS);
}

weir_co_fn void mirror_clean(struct weir_job *job)
{
    struct mirror *mirror = mirror_of(job);
    struct mirror_parts *parts = mirror->parts;

    mirror_update(job);
    if (!mirror->pivoted)
        mirror_let_go(mirror);
    weir_graph_lock();
    mirror_thaw(mirror);
    weir_graph_unlock();
    if (mirror->pivoted)
        weir_writable_done(&mirror->writable);
    weir_copy_stop(parts->copy);
    if (!mirror->pivoted)
        settle(parts->top);
    weir_mutex_lock(&parts->mutex);
    parts->job = NULL;
    weir_mutex_unlock(&parts->mutex);
    weir_root_detach(weir_steal(&mirror->edge), MIRROR_LET_GO_NS);
    mirror->parts = NULL;
    if (mirror->inserted) {
        struct mirror *leftover = weir_new(struct mirror);

        leftover->parts = parts;
        leftover->inserted = true;
        if (remove_filter(leftover, MIRROR_LET_GO_NS)) {
            weir_writable_done(&mirror->writable); /* it may still be written to, late */
            weir_co_start(weir_loop_control(), remove_later, leftover);
            return;
        }
        free(leftover);
    }
    commit_base_give_back(parts->target, &mirror->writable);
    mirror_parts_free(parts);
}

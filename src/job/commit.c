/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commit of layers that nobody writes to: what lies between the base and the top is copied into the base, where those
 * above do not see it yet, and then the base takes the place of the top.
 *
 *     over            over                     over
 *      |               |                        |
 *     top    ->    commit-top - - - +    ->    base
 *      |               |            |
 *     base            top - base <--+ (job)
 */
#include "filter/commit_top.h"

#include "base/alloc.h"
#include "graph/gate.h"
#include "io/async.h"
#include "job/chain.h"
#include "job/commit_internal.h"
#include "job/filter.h"
#include "sys/sys.h"
#include <errno.h>

#define LOOK_MAX ((uint64_t)1 << 30)

/* ---- the run ---- */

static weir_co_fn int look(struct commit *commit, uint64_t offset, uint64_t length,
                           struct weir_status *ret_status)
{
    struct weir_gate_op op = { .op = WEIR_OP_STATUS, .offset = offset, .length = length };
    struct weir_request request =
        weir_request_make(WEIR_OP_STATUS, offset, length, NULL, 0, WEIR_REQUEST_DEEP | WEIR_REQUEST_BULK);
    int ret;

    request.status = ret_status;
    weir_gate_enter(commit->own.edge, &op);
    ret = weir_io_abandonable(weir_commit_top_source(commit->own.filter), &request, -1);
    weir_gate_leave(&op);
    return ret;
}

/* Marks what the layers above the base hold, and where one of them ends early, which reads as zeroes. */
static weir_co_fn int mark(struct commit *commit)
{
    uint64_t size = weir_bitmap_size(commit->own.bitmap), offset = 0;
    struct weir_job *job = &commit->own.job;

    while (offset < size) {
        struct weir_status status = { .length = 0 };
        uint64_t length = WEIR_MIN(size - offset, LOOK_MAX);
        int ret;

        while (job->paused && !job->cancelled)
            weir_job_wait(job, -1);
        ret = job->cancelled ? -ECANCELED : look(commit, offset, length, &status);
        if (ret)
            return job->cancelled ? -ECANCELED : weir_copy_job_fail(&commit->own, ret, false);
        length = WEIR_MIN(length, status.length);
        if (status.depth < commit->depth)
            weir_bitmap_set(commit->own.bitmap, offset, length);
        offset += length;
    }
    return 0;
}

/* Behind the end of a top that is shorter those above see zeroes: so they do when the base takes its place. */
static weir_co_fn int zero_rest(struct commit *commit)
{
    uint64_t size = weir_bitmap_size(commit->own.bitmap), end = weir_node_size(commit->base);
    struct weir_request zero =
        weir_request_make(WEIR_OP_ZERO, size, end > size ? end - size : 0, NULL, 0, WEIR_REQUEST_MAY_UNMAP);
    struct weir_gate_op op = { .op = WEIR_OP_ZERO, .offset = size, .length = zero.length };
    int ret;

    if (!zero.length)
        return 0;
    weir_gate_enter(commit->own.edge, &op);
    ret = weir_io_abandonable(weir_commit_top_target(commit->own.filter), &zero, -1);
    weir_gate_leave(&op);
    if (ret && commit->own.job.cancelled)
        return -ECANCELED;
    return ret ? weir_copy_job_fail(&commit->own, ret, true) : 0;
}

static weir_co_fn int commit_run(struct weir_job *job)
{
    struct commit *commit = commit_of(job);
    int ret = mark(commit);

    if (!ret)
        ret = weir_copy_job_run(&commit->own, NULL);
    return ret ? ret : zero_rest(commit);
}

/* ---- the end ---- */

struct overlays {
    struct weir_node *nodes[COMMIT_OVERLAYS_MAX];
    struct weir_writable writable[COMMIT_OVERLAYS_MAX];
    unsigned count, opened;
};

/* The layers that stand on @node, maybe through filters. */
static int find_overlays(struct overlays *overlays, struct weir_node *node, struct weir_error **err)
{
    struct weir_edge *edge;
    int ret = 0;

    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (ret || !edge->parent)
            continue;
        if (weir_node_is_passed(edge->parent))
            ret = find_overlays(overlays, edge->parent, err);
        else if (!(edge->role & WEIR_ROLE_COW))
            continue;
        else if (overlays->count == COMMIT_OVERLAYS_MAX)
            ret = weir_error_set(err, -E2BIG, "More than %d images stand on '%s'", COMMIT_OVERLAYS_MAX,
                                 node->name);
        else
            overlays->nodes[overlays->count++] = edge->parent;
    }
    return ret;
}

/* The base takes the place of the filter above the top; overlays, which are written to for the time of it, say so. */
static weir_co_fn int relink(struct commit *commit, struct overlays *overlays, struct weir_error **err)
{
    struct weir_tran *tran;
    int ret = find_overlays(overlays, commit->own.filter, err);

    while (!ret && overlays->opened < overlays->count) {
        ret = weir_node_make_writable(overlays->nodes[overlays->opened],
                                      &overlays->writable[overlays->opened], err);
        overlays->opened += !ret;
    }
    if (ret)
        return ret;
    weir_chain_unfreeze(commit->top, commit->base);
    commit->frozen = false;
    tran = weir_tran_new();
    for (unsigned i = 0; i < overlays->count && !ret; i++)
        ret = weir_chain_set_name(tran, overlays->nodes[i], commit->base, commit->backing_file,
                                  commit->mask_protocol, err);
    if (!ret)
        ret = weir_job_filter_take_out(tran, commit->own.filter, commit->base, err);
    ret = weir_tran_end(tran, ret, err);
    commit->own.inserted = ret;
    return ret;
}

static weir_co_fn int end_drained(struct commit *commit, struct weir_error **err)
{
    struct weir_request flush = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    struct overlays overlays = { .count = 0 };
    int ret = weir_io_abandonable(weir_commit_top_target(commit->own.filter), &flush,
                                  weir_sys->clock_ns() + WEIR_DRAIN_LIMIT_NS);

    if (ret)
        return weir_error_set_errno(err, ret, "Could not flush '%s'", weir_node_file_name(commit->base));
    ret = relink(commit, &overlays, err);
    while (overlays.opened-- > 0)
        weir_node_make_read_only(&overlays.writable[overlays.opened]);
    return ret;
}

static weir_co_fn int commit_prepare(struct weir_job *job)
{
    struct commit *commit = commit_of(job);
    struct weir_node *nodes[] = { commit->own.filter, commit->base };
    struct weir_drain drain = { 0 };
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    weir_copy_stop(commit->own.copy);
    weir_graph_lock();
    ret = weir_drain_begin(&drain, nodes, WEIR_ARRAY_SIZE(nodes), WEIR_DRAIN_LIMIT_NS, &err);
    if (!ret) {
        ret = end_drained(commit, &err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret ? weir_job_fail(job, ret, "%s", weir_error_text(err)) : 0;
}

static void let_go(struct commit *commit)
{
    weir_edge_break(weir_commit_top_source(commit->own.filter));
    weir_edge_break(weir_commit_top_target(commit->own.filter));
}

static weir_co_fn void commit_clean(struct weir_job *job)
{
    struct commit *commit = commit_of(job);

    if (commit->own.inserted)
        let_go(commit);
    weir_copy_job_leave(&commit->own);
    if (commit->own.inserted) {
        weir_graph_lock();
        if (commit->frozen)
            weir_chain_unfreeze(commit->top, commit->base);
        commit->frozen = false;
        weir_graph_unlock();
        commit->own.inserted = false;
        weir_job_filter_remove(weir_steal(&commit->own.filter));
    }
    commit_base_give_back(commit->base, &commit->writable);
}

/* ---- verbs ---- */

static bool commit_cancel(struct weir_job *job, bool force)
{
    struct commit *commit = commit_of(job);

    if (commit->own.inserted && !job->decided)
        let_go(commit);
    return true;
}

static void commit_free(struct weir_job *job)
{
    struct commit *commit = commit_of(job);

    weir_copy_job_free(job);
    weir_node_unref(commit->top);
    weir_node_unref(commit->base);
    free(commit->backing_file);
}

const struct weir_job_driver weir_commit_driver = {
    .type = "commit",
    .is_block_job = true,
    .size = sizeof(struct commit),
    .run = commit_run,
    .prepare = commit_prepare,
    .clean = commit_clean,
    .cancel = commit_cancel,
    .set_speed = weir_copy_job_set_speed,
    .pause_changed = weir_copy_job_pause_changed,
    .update = weir_copy_job_update,
    .free = commit_free,
};

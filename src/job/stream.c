/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Stream: a policy on the copy engine and the copy-on-read filter.
 *
 *     export                export                  export
 *       |                     |                       |
 *      top          ->   copy-on-read        ->      top
 *       |                     |                       |
 *      mid                   top - mid - base        base
 *       |
 *      base
 *
 * The filter keeps the chain as it is, and copies what guests read; the engine goes over all of the disk. What both
 * write is stored only where the top has nothing, so guests' writes need not be watched. The end is one step of the
 * graph: the filter goes, the backing link moves, and the image says so.
 */
#include "base/alloc.h"
#include "filter/copy_on_read.h"
#include "job/chain.h"
#include "job/filter.h"
#include "job/stream_internal.h"
#include <errno.h>

/* ---- the run ---- */

static void tell_ignored(struct weir_copy_job *own)
{
    struct stream *stream = stream_of(&own->job);
    int ignored = atomic_load(&stream->ignored);

    if (ignored && !stream->told)
        (void)!weir_job_io_error(&own->job, WEIR_JOB_ON_ERROR_IGNORE, ignored,
                                 atomic_load(&stream->ignored_write));
    stream->told = ignored;
}

static weir_co_fn int stream_run(struct weir_job *job)
{
    struct stream *stream = stream_of(job);
    int ret = weir_copy_job_run(&stream->own, tell_ignored);

    if (!ret && stream->told)
        ret = weir_copy_job_fail(&stream->own, atomic_load(&stream->ignored),
                                 atomic_load(&stream->ignored_write));
    return ret;
}

/* ---- the end ---- */

/* What the top is to stand on: the node that was named, or what lies below the lowest layer now; NULL: nothing. */
static int find_base(const struct stream *stream, struct weir_node **ret_base, struct weir_error **err)
{
    const struct weir_edge *cow = weir_node_cow(stream->bottom);

    *ret_base = cow ? cow->node : NULL;
    if (!stream->base)
        return 0;
    *ret_base = stream->base;
    if (cow && weir_chain_has(cow->node, stream->base))
        return 0;
    return weir_error_set(err, -EINVAL, "Node '%s' is not a backing image of '%s' any more",
                          stream->base->name, stream->bottom->name);
}

static weir_co_fn int relink(struct stream *stream, struct weir_tran *tran, struct weir_error **err)
{
    struct weir_edge *cow = weir_node_cow(stream->top);
    struct weir_node *base;
    int ret = find_base(stream, &base, err);

    if (ret || !cow || stream->bottom == stream->top)
        return ret; /* nothing below it goes */
    return weir_chain_set_backing(tran, stream->top, base, stream->backing_file, stream->mask_protocol, err);
}

static weir_co_fn int end_drained(struct stream *stream, struct weir_error **err)
{
    struct weir_tran *tran = weir_tran_new();
    int ret;

    weir_copy_on_read_thaw(stream->own.filter);
    ret = weir_job_filter_take_out(tran, stream->own.filter, stream->device, err);
    if (!ret)
        ret = relink(stream, tran, err);
    ret = weir_tran_end(tran, ret, err);
    stream->own.inserted = ret;
    return ret;
}

static weir_co_fn int stream_prepare(struct weir_job *job)
{
    struct stream *stream = stream_of(job);
    struct weir_node *nodes[] = { stream->own.filter, stream->top };
    struct weir_drain drain = { 0 };
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    weir_copy_stop(stream->own.copy);
    weir_graph_lock();
    ret = weir_drain_begin(&drain, nodes, WEIR_ARRAY_SIZE(nodes), WEIR_DRAIN_LIMIT_NS, &err);
    if (!ret) {
        ret = end_drained(stream, &err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret ? weir_job_fail(job, ret, "%s", weir_error_text(err)) : 0;
}

static weir_co_fn void stream_clean(struct weir_job *job)
{
    struct stream *stream = stream_of(job);

    if (stream->own.inserted)
        weir_copy_on_read_let_go(stream->own.filter);
    weir_copy_job_leave(&stream->own);
    if (!stream->own.inserted)
        return;
    weir_graph_lock();
    weir_copy_on_read_thaw(stream->own.filter);
    weir_graph_unlock();
    stream->own.inserted = false;
    weir_job_filter_remove(weir_steal(&stream->own.filter));
}

/* ---- verbs ---- */

static bool stream_cancel(struct weir_job *job, bool force)
{
    struct stream *stream = stream_of(job);

    if (stream->own.inserted && !job->decided)
        weir_copy_on_read_let_go(stream->own.filter);
    return true;
}

static void stream_free(struct weir_job *job)
{
    struct stream *stream = stream_of(job);

    weir_copy_job_free(job);
    weir_node_unref(stream->device);
    weir_node_unref(stream->top);
    weir_node_unref(stream->bottom);
    weir_node_unref(stream->base);
    free(stream->backing_file);
}

const struct weir_job_driver weir_stream_driver = {
    .type = "stream",
    .is_block_job = true,
    .size = sizeof(struct stream),
    .run = stream_run,
    .prepare = stream_prepare,
    .clean = stream_clean,
    .cancel = stream_cancel,
    .set_speed = weir_copy_job_set_speed,
    .pause_changed = weir_copy_job_pause_changed,
    .update = weir_copy_job_update,
    .free = stream_free,
};

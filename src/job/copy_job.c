/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/copy_job.h"

#include "base/alloc.h"
#include "io/stats.h"
#include "job/loop.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>

/* What the engine takes at a time is cut to this; the marks only say what is still to be looked at. */
#define GRANULARITY 65536u
#define MEMORY ((uint64_t)16 << 20)
/* How long letting go of storage that does not answer may take. */
#define LET_GO_NS (500 * 1000000LL)
/* How long an ignored error is left alone before the next try. */
#define RETRY_NS (100 * 1000000LL)

/* ---- what others call, on any loop ---- */

static void changed(void *opaque)
{
    weir_job_wake(&((struct weir_copy_job *)opaque)->job);
}

/* Only guests pass the filter: the job uses the edges below it. */
static void guests(void *opaque, struct weir_pace_guests *ret_guests)
{
    static const enum weir_op ops[] = { WEIR_OP_READ, WEIR_OP_WRITE, WEIR_OP_ZERO, WEIR_OP_DISCARD };
    struct weir_stats stats;

    weir_node_own_stats(((struct weir_copy_job *)opaque)->filter, &stats);
    *ret_guests = (struct weir_pace_guests){ .last_ns = stats.idle_since_ns };
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(ops); i++) {
        ret_guests->ended += stats.op[ops[i]].operations;
        ret_guests->waited_ns += stats.op[ops[i]].total_ns;
    }
}

/* ---- the job as a user of its filter ---- */

static char *describe_edge(struct weir_edge *edge)
{
    return weir_strdup_printf("block job '%s'", ((struct weir_copy_job *)edge->root)->job.id);
}

static void edge_drain_begin(struct weir_edge *edge)
{
    weir_job_drain(&((struct weir_copy_job *)edge->root)->job, true);
}

static void edge_drain_end(struct weir_edge *edge)
{
    weir_job_drain(&((struct weir_copy_job *)edge->root)->job, false);
}

static const struct weir_root_ops root_ops = {
    .kind = "block-job",
    .describe = describe_edge,
    .drain_begin = edge_drain_begin,
    .drain_end = edge_drain_end,
};

int weir_copy_job_attach(struct weir_copy_job *own, struct weir_error **err)
{
    own->filter->counts = true; /* how busy guests are: guests() */
    return weir_root_attach(own->filter, "main node", 0, WEIR_PERM_ALL, &root_ops, own, &own->edge, err);
}

int weir_copy_job_make(struct weir_copy_job *own, const struct weir_copy_options *options,
                       struct weir_error **err)
{
    struct weir_copy_options copy = *options;
    int ret = weir_job_loop(&copy.loop, err);

    if (ret)
        return ret;
    own->bitmap = weir_bitmap_new(weir_node_size(own->filter), GRANULARITY);
    if (!own->bitmap)
        return weir_error_set(err, -ENOMEM, "No memory for the bitmap of node '%s'", own->filter->name);
    own->ranges = weir_range_table_new();
    copy.gate = own->edge;
    copy.ranges = own->ranges;
    copy.bitmap = own->bitmap;
    copy.speed = own->job.speed; /* may have been changed meanwhile */
    copy.memory = MEMORY;
    copy.share = WEIR_PACE_SHARE_DEFAULT;
    copy.guests = guests;
    copy.changed = changed;
    copy.opaque = own;
    own->copy = weir_copy_new(&copy);
    return 0;
}

void weir_copy_job_unmake(struct weir_copy_job *own)
{
    if (own->edge)
        weir_root_detach(weir_steal(&own->edge), -1);
    if (own->filter)
        weir_node_give_up(weir_steal(&own->filter));
    weir_job_discard(&own->job);
}

/* ---- the run ---- */

int weir_copy_job_fail(struct weir_copy_job *own, int error, bool write)
{
    return weir_job_fail(&own->job, error, "Could not %s '%s': %s", write ? "write to" : "read",
                         weir_node_file_name(write ? own->target : own->source), strerror(-error));
}

/* Tells of an error; 0: go on. */
static weir_co_fn int io_error(struct weir_copy_job *own, int error, bool write)
{
    struct weir_job *job = &own->job;

    if (weir_job_io_error(job, own->on_error, error, write))
        return weir_copy_job_fail(own, error, write);
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

int weir_copy_job_run(struct weir_copy_job *own, void (*look)(struct weir_copy_job *own))
{
    struct weir_job *job = &own->job;

    weir_copy_set_paused(own->copy, job->paused);
    weir_copy_start(own->copy);
    for (;;) {
        struct weir_copy_state state = weir_copy_state(own->copy);
        int ret;

        if (job->cancelled)
            return -ECANCELED;
        if (look)
            look(own);
        if (state.error) {
            ret = io_error(own, state.error, state.error_write);
            if (ret)
                return ret;
            weir_copy_retry(own->copy);
        } else if (state.idle && !job->paused) {
            return 0;
        } else {
            weir_job_wait(job, -1);
        }
    }
}

void weir_copy_job_leave(struct weir_copy_job *own)
{
    if (own->copy)
        weir_copy_stop(own->copy);
    if (own->edge)
        weir_root_detach(weir_steal(&own->edge), LET_GO_NS);
}

/* ---- slots ---- */

void weir_copy_job_set_speed(struct weir_job *job, uint64_t speed)
{
    if (weir_copy_job_of(job)->copy)
        weir_copy_set_speed(weir_copy_job_of(job)->copy, speed);
}

void weir_copy_job_pause_changed(struct weir_job *job)
{
    if (weir_copy_job_of(job)->copy)
        weir_copy_set_paused(weir_copy_job_of(job)->copy, job->paused);
}

void weir_copy_job_update(struct weir_job *job)
{
    struct weir_copy_job *own = weir_copy_job_of(job);
    struct weir_copy_state state;

    if (!own->copy)
        return;
    state = weir_copy_state(own->copy);
    job->progress = state.copied;
    job->total = job->progress + state.taken + weir_bitmap_count(own->bitmap);
}

void weir_copy_job_free(struct weir_job *job)
{
    struct weir_copy_job *own = weir_copy_job_of(job);

    weir_copy_free(own->copy);
    if (own->ranges)
        weir_range_table_free(own->ranges);
    weir_bitmap_free(own->bitmap);
    weir_node_unref(own->filter);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a mirror starts: checks, the parts, and the filter put in with a first set of marks.
 */
#include "base/law.h"
#include "io/io.h"
#include "io/stats.h"
#include "job/job.h"
#include "job/loop.h"
#include "job/mirror_internal.h"
#include <errno.h>

/* The default follows the target's clusters, within limits. */
#define GRANULARITY_DEFAULT 65536u
#define GRANULARITY_DEFAULT_MIN 4096u
#define GRANULARITY_MIN 512u
#define GRANULARITY_MAX ((uint64_t)64 << 20)

/* ---- what others call, on any loop ---- */

static void target_event(void *opaque, int ret, bool write)
{
    struct mirror_parts *parts = opaque;

    if (!parts->copy)
        return; /* somebody uses the filter by its name while the job is still being set up */
    if (ret && ret != -ECANCELED)
        weir_copy_note_error(parts->copy, ret, write);
    else
        weir_copy_kick(parts->copy);
}

static void copy_changed(void *opaque)
{
    struct mirror_parts *parts = opaque;

    WEIR_SCOPE_LOCK(&parts->mutex);
    if (parts->job)
        weir_job_wake(parts->job);
}

/* Only guests pass the filter: the job uses the edges below it. */
static void guests(void *opaque, struct weir_pace_guests *ret_guests)
{
    static const enum weir_op ops[] = { WEIR_OP_READ, WEIR_OP_WRITE, WEIR_OP_ZERO, WEIR_OP_DISCARD };
    struct weir_node *top = ((struct mirror_parts *)opaque)->top;
    struct weir_stats stats;

    weir_node_own_stats(top, &stats);
    *ret_guests = (struct weir_pace_guests){
        .last_ns = stats.idle_since_ns,
        .waiting = weir_mirror_top_in_flight(top),
    };
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(ops); i++) {
        ret_guests->ended += stats.op[ops[i]].operations;
        ret_guests->waited_ns += stats.op[ops[i]].total_ns;
    }
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

static int check_granularity(uint64_t granularity, struct weir_error **err)
{
    if (granularity < GRANULARITY_MIN || granularity > GRANULARITY_MAX)
        return weir_error_set(err, -EINVAL, "Parameter 'granularity' expects a value in range [512B, 64MB]");
    if (!weir_is_power_of_2(granularity))
        return weir_error_set(err, -EINVAL, "Parameter 'granularity' expects a power of 2");
    return 0;
}

static uint64_t default_granularity(struct weir_node *target)
{
    uint64_t unit = weir_node_skip_filters(target)->limits.lock_unit;

    return unit ? WEIR_MAX(WEIR_MIN(unit, GRANULARITY_DEFAULT), GRANULARITY_DEFAULT_MIN)
                : GRANULARITY_DEFAULT;
}

/*
 * Whether @node is @at, or something below it that reads the same or is to: a filtered child, a child of a quorum. Who
 * uses the latter directly (@alone: nobody may) would see another disk, if it is bad.
 */
static bool stands_for(const struct weir_node *at, const struct weir_node *node, bool alone)
{
    const struct weir_edge *edge = TAILQ_FIRST(&at->parents);

    if (alone && edge && TAILQ_NEXT(edge, in_node))
        return false;
    if (at == node)
        return true;
    TAILQ_FOREACH (edge, &at->children, in_parent) {
        bool twins = at->driver->children;

        if ((twins || (edge->role & WEIR_ROLE_FILTERED)) && stands_for(edge->node, node, alone || twins))
            return true;
    }
    return false;
}

int mirror_find_replaced(struct weir_node *source, const char *name, struct weir_node **ret_node,
                         struct weir_error **err)
{
    struct weir_node *node = weir_node_find(name);

    if (!node)
        return weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'", name);
    if (!stands_for(source, node, false))
        return weir_error_set(
            err, -EPERM,
            "Cannot replace '%s' by a node mirrored from '%s', because it cannot be guaranteed that "
            "doing so would not lead to an abrupt change of visible data",
            name, source->name);
    *ret_node = node;
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

/* Puts the filter between the source and its users, with everything marked that is to be copied at first (M1). */
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
        ret = weir_tran_end(tran, ret, err);
        weir_mirror_top_set_alone(mirror->parts->top, !ret);
        if (!ret && mirror->sync == WEIR_MIRROR_SYNC_FULL && WEIR_LAW(WEIR_LAW_INSERT))
            weir_bitmap_set(mirror->parts->bitmap, 0, weir_bitmap_size(mirror->parts->bitmap));
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    mirror->inserted = !ret;
    return ret;
}

static int make_bitmaps(struct mirror_parts *parts, const struct weir_mirror_options *options,
                        struct weir_error **err)
{
    uint64_t granularity = options->granularity ? options->granularity : default_granularity(parts->target);
    bool known = options->target_is_zero && options->sync == WEIR_MIRROR_SYNC_FULL;

    parts->bitmap = weir_bitmap_new(weir_node_size(parts->source), granularity);
    if (known)
        parts->written = weir_bitmap_new(weir_node_size(parts->source), granularity);
    if (!parts->bitmap || (known && !parts->written))
        return weir_error_set(err, -ENOMEM, "No memory for the dirty bitmap of node '%s'",
                              parts->source->name);
    return 0;
}

static weir_co_fn int make_filter(struct mirror *mirror, const struct weir_mirror_options *options,
                                  struct weir_error **err)
{
    struct mirror_parts *parts = mirror->parts;
    struct weir_mirror_top_options top = {
        .source = parts->source,
        .target = parts->target,
        .bitmap = parts->bitmap,
        .written = parts->written,
        .unmap = options->unmap,
        .below = mirror->depth,
        .mode = mirror->mode,
        .notify = target_event,
        .opaque = parts,
    };
    int ret =
        weir_node_new_internal(&weir_driver_mirror_top, options->filter_node_name, &top, &parts->top, err);

    if (ret)
        return ret;
    parts->top->counts = true; /* how busy guests are: guests() */
    /* From here on nobody may resize it. */
    if (weir_node_size(parts->top) != weir_bitmap_size(parts->bitmap))
        return weir_error_set(err, -EAGAIN, "Node '%s' was resized meanwhile", parts->source->name);
    return weir_root_attach(parts->top, "main node", 0, WEIR_PERM_ALL, &mirror_root_ops, mirror,
                            &mirror->edge, err);
}

/* Whether requests to @node go past the caches of the host: only then does a file need aligned memory. */
static bool is_direct(const struct weir_node *node)
{
    const struct weir_edge *below;

    while ((below = weir_node_primary(node)))
        node = below->node;
    return node->limits.memory_align > 1;
}

static weir_co_fn int build(struct mirror *mirror, const struct weir_mirror_options *options,
                            struct weir_error **err)
{
    struct mirror_parts *parts = mirror->parts;
    struct weir_copy_options copy = {
        .memory = options->memory ? options->memory : WEIR_MIRROR_MEMORY_DEFAULT,
        .share = options->share ? options->share : WEIR_PACE_SHARE_DEFAULT,
        .direct = is_direct(parts->source) || is_direct(parts->target),
        .guests = guests,
        .changed = copy_changed,
        .opaque = parts,
    };
    int ret = weir_job_loop(&copy.loop, err);

    if (!ret)
        ret = make_bitmaps(parts, options, err);
    if (!ret)
        ret = make_filter(mirror, options, err);
    if (ret)
        return ret;
    copy.gate = mirror->edge;
    copy.transfer = (struct weir_transfer){
        .source = weir_mirror_top_source(parts->top),
        .target = weir_mirror_top_target(parts->top),
        .written = parts->written,
        .unmap = options->unmap,
    };
    copy.ranges = weir_mirror_top_ranges(parts->top);
    copy.bitmap = parts->bitmap;
    copy.speed = mirror->job.speed; /* may have been changed meanwhile */
    parts->copy = weir_copy_new(&copy);
    return insert_filter(mirror, err);
}

/* Takes back what build() has made; the workers never ran. */
static weir_co_fn void unbuild(struct mirror *mirror)
{
    if (mirror->edge)
        weir_root_detach(weir_steal(&mirror->edge), MIRROR_LET_GO_NS);
    weir_job_discard(&mirror->job);
}

static int check(const struct weir_mirror_options *options, struct weir_node **ret_source,
                 struct weir_node **ret_target, struct weir_error **err)
{
    struct weir_node *replaced;
    int ret;

    *ret_source = weir_node_lookup(options->device, options->device, err);
    if (!*ret_source)
        return -ENODEV;
    *ret_target = weir_node_lookup(options->target, options->target, err);
    if (!*ret_target)
        return -ENODEV;
    ret = options->granularity ? check_granularity(options->granularity, err) : 0;
    if (!ret)
        ret = check_nodes(*ret_source, *ret_target, err);
    if (!ret && options->replaces)
        ret = mirror_find_replaced(*ret_source, options->replaces, &replaced, err);
    return ret;
}

/* The chain from the source down to the target stays as it is. */
static weir_co_fn int freeze(struct mirror *mirror, struct weir_error **err)
{
    struct weir_node *source = mirror->parts->source, *target = mirror->parts->target, *at;
    int ret;

    weir_graph_lock();
    ret = weir_chain_freeze(source, target, err);
    weir_graph_unlock();
    if (ret)
        return ret;
    mirror->frozen = true;
    for (at = weir_node_skip_filters(source); at != weir_node_skip_filters(target);
         at = weir_node_backing_chain_next(at))
        mirror->depth++;
    return 0;
}

void mirror_thaw(struct mirror *mirror)
{
    if (mirror->frozen)
        weir_chain_unfreeze(mirror->parts->source, mirror->parts->target);
    mirror->frozen = false;
}

int weir_mirror_start(const struct weir_mirror_options *options, struct weir_error **err)
{
    struct weir_job_options job_options = {
        .id = options->job_id,
        .auto_finalize = options->auto_finalize,
        .auto_dismiss = options->auto_dismiss,
        .speed = options->speed,
    };
    struct weir_node *source, *target;
    struct weir_job *job;
    struct mirror *mirror;
    int ret = check(options, &source, &target, err);

    if (!ret)
        ret = weir_job_new(options->sync == WEIR_MIRROR_SYNC_ABOVE ? &weir_commit_head_driver
                                                                   : &weir_mirror_driver,
                           &job_options, &job, err);
    if (ret)
        return ret;
    mirror = mirror_of(job);
    mirror->parts = weir_new(struct mirror_parts);
    mirror->parts->source = weir_node_ref(source);
    mirror->parts->target = weir_node_ref(target);
    mirror->parts->job = job;
    weir_mutex_init(&mirror->parts->mutex);
    mirror->sync = options->sync;
    mirror->mode =
        options->copy_mode == WEIR_MIRROR_COPY_WRITE_BLOCKING ? WEIR_MIRROR_BLOCKING : WEIR_MIRROR_BACKGROUND;
    mirror->on_source_error = options->on_source_error;
    mirror->on_target_error = options->on_target_error;
    mirror->replaces = options->replaces ? weir_strdup(options->replaces) : NULL;
    if (mirror->sync == WEIR_MIRROR_SYNC_ABOVE)
        ret = freeze(mirror, err);
    if (!ret)
        ret = build(mirror, options, err);
    if (ret) {
        weir_graph_lock();
        mirror_thaw(mirror);
        weir_graph_unlock();
        unbuild(mirror);
        return ret;
    }
    if (options->writable)
        mirror->writable = *options->writable;
    weir_job_start(job);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a commit starts: which layers, and which of the two kinds it is.
 */
#include "base/alloc.h"
#include "filter/commit_top.h"
#include "job/chain.h"
#include "job/commit_internal.h"
#include "job/filter.h"
#include "job/mirror.h"
#include <errno.h>
#include <string.h>

struct layers {
    struct weir_node *device, *top, *base;
};

static int not_in_chain(const char *name, struct weir_error **err)
{
    return weir_error_set(err, -EINVAL, "'%s' is not in this backing file chain", name);
}

static int find_top(const struct weir_commit_options *options, struct layers *layers, struct weir_error **err)
{
    layers->top = layers->device;
    if (options->top_node) {
        layers->top = weir_node_lookup("", options->top_node, err);
        if (!layers->top)
            return -ENOENT;
        return weir_chain_has(layers->device, layers->top) ? 0 : not_in_chain(options->top_node, err);
    }
    if (!options->top || !strcmp(options->top, weir_node_file_name(layers->device)))
        return 0;
    layers->top = weir_chain_find_file(layers->device, options->top);
    return layers->top ? 0 : weir_error_set(err, -ENOENT, "Top image file %s not found", options->top);
}

static int find_base(const struct weir_commit_options *options, struct layers *layers,
                     struct weir_error **err)
{
    struct weir_node *next;

    if (options->base_node) {
        layers->base = weir_node_lookup("", options->base_node, err);
        if (!layers->base)
            return -ENOENT;
        return weir_chain_has(layers->top, layers->base) ? 0 : not_in_chain(options->base_node, err);
    }
    if (options->base) {
        layers->base = weir_chain_find_file(layers->top, options->base);
        return layers->base
                   ? 0
                   : weir_error_set(err, -ENOENT, "Can't find '%s' in the backing chain", options->base);
    }
    for (layers->base = weir_node_skip_filters(layers->top);
         (next = weir_node_backing_chain_next(layers->base));)
        layers->base = next;
    return 0;
}

static int find_layers(const struct weir_commit_options *options, struct layers *ret_layers,
                       struct weir_error **err)
{
    struct layers layers = { .device = weir_node_find(options->device) };
    const struct weir_edge *edge;
    int ret;

    *ret_layers = layers;
    if (!layers.device)
        return weir_error_set_class(err, WEIR_ERROR_DEVICE_NOT_FOUND, -ENODEV, "Device '%s' not found",
                                    options->device);
    if (options->base && options->base_node)
        return weir_error_set(err, -EINVAL, "'base-node' and 'base' are mutually exclusive");
    if (options->top && options->top_node)
        return weir_error_set(err, -EINVAL, "'top-node' and 'top' are mutually exclusive");
    TAILQ_FOREACH (edge, &layers.device->parents, in_node) {
        if (edge->parent)
            return weir_error_set(err, -EINVAL, "Need a root block node");
    }
    ret = find_top(options, &layers, err);
    if (!ret)
        ret = find_base(options, &layers, err);
    if (!ret && weir_node_skip_filters(layers.base) == weir_node_skip_filters(layers.top))
        ret = weir_error_set(err, -EINVAL, "cannot commit an image into itself");
    /* Another job is at work on this chain, or a filter depends on it. */
    for (struct weir_node *at = layers.device; !ret && at != layers.base; at = weir_chain_edge(at)->node)
        ret = weir_edge_check_thawed(weir_chain_edge(at), err);
    *ret_layers = layers;
    return ret;
}

/* ---- layers that nobody writes to ---- */

static weir_co_fn int make_filter(struct commit *commit, const char *name, struct weir_error **err)
{
    struct weir_commit_top_options options = { commit->top, commit->base };
    int ret = weir_node_new_internal(&weir_driver_commit_top, name, &options, &commit->own.filter, err);

    return ret ? ret : weir_copy_job_attach(&commit->own, err);
}

static weir_co_fn int build(struct commit *commit, const struct weir_commit_options *options,
                            struct weir_error **err)
{
    struct weir_copy_job *own = &commit->own;
    struct weir_copy_options copy = { 0 };
    int ret = commit_base_take(commit->base, weir_node_size(commit->top), &commit->writable, err);

    if (!ret)
        ret = make_filter(commit, options->filter_node_name, err);
    if (!ret) {
        copy.transfer = (struct weir_transfer){
            .source = weir_commit_top_source(own->filter),
            .target = weir_commit_top_target(own->filter),
            .unmap = true,
        };
        ret = weir_copy_job_make(own, &copy, err);
    }
    if (!ret) {
        weir_graph_lock();
        ret = weir_chain_freeze(commit->top, commit->base, err);
        weir_graph_unlock();
    }
    if (ret)
        return ret;
    commit->frozen = true;
    for (struct weir_node *at = weir_node_skip_filters(commit->top);
         at != weir_node_skip_filters(commit->base); at = weir_node_backing_chain_next(at))
        commit->depth++;
    ret = weir_job_filter_insert(commit->top, own->filter, err);
    own->inserted = !ret;
    return ret;
}

static weir_co_fn int start_between(const struct weir_commit_options *options, const struct layers *layers,
                                    struct weir_error **err)
{
    struct weir_job_options job_options = {
        .id = options->job_id,
        .auto_finalize = options->auto_finalize,
        .auto_dismiss = options->auto_dismiss,
        .speed = options->speed,
    };
    struct weir_writable writable;
    struct weir_job *job;
    struct commit *commit;
    int ret = weir_job_new(&weir_commit_driver, &job_options, &job, err);

    if (ret)
        return ret;
    commit = commit_of(job);
    commit->top = weir_node_ref(layers->top);
    commit->base = weir_node_ref(layers->base);
    commit->own.source = commit->top;
    commit->own.target = commit->base;
    commit->own.on_error = options->on_error;
    commit->backing_file = options->backing_file ? weir_strdup(options->backing_file) : NULL;
    commit->mask_protocol = options->mask_protocol;
    ret = build(commit, options, err);
    if (!ret) {
        weir_job_start(job);
        return 0;
    }
    if (commit->frozen) {
        weir_graph_lock();
        weir_chain_unfreeze(commit->top, commit->base);
        weir_graph_unlock();
    }
    writable = commit->writable;
    weir_copy_job_unmake(&commit->own);
    commit_base_give_back(layers->base, &writable);
    return ret;
}

/* ---- the head ---- */

static weir_co_fn int start_head(const struct weir_commit_options *options, const struct layers *layers,
                                 struct weir_error **err)
{
    struct weir_writable writable;
    struct weir_mirror_options mirror = {
        .job_id = options->job_id,
        .device = layers->top->name,
        .target = layers->base->name,
        .filter_node_name = options->filter_node_name,
        .sync = WEIR_MIRROR_SYNC_ABOVE,
        .speed = options->speed,
        .unmap = true,
        .on_source_error = options->on_error,
        .on_target_error = options->on_error,
        .auto_finalize = options->auto_finalize,
        .auto_dismiss = options->auto_dismiss,
        .writable = &writable,
    };
    int ret = commit_base_take(layers->base, weir_node_size(layers->top), &writable, err);

    if (ret)
        return ret;
    ret = weir_mirror_start(&mirror, err);
    if (ret)
        commit_base_give_back(layers->base, &writable);
    return ret;
}

int weir_commit_start(const struct weir_commit_options *options, struct weir_error **err)
{
    struct layers layers = { 0 };
    bool head;
    int ret = find_layers(options, &layers, err);

    if (ret)
        return ret;
    head = weir_node_skip_filters(layers.top) == weir_node_skip_filters(layers.device) ||
           (layers.top->perm & WEIR_PERM_WRITE);
    if (head && options->backing_file)
        return weir_error_set(err, -EINVAL, "'backing-file' specified, but 'top' is the active layer");
    if (head && weir_node_size(layers.base) > weir_node_size(layers.top))
        return weir_error_set(err, -EINVAL,
                              "Base '%s' is larger than '%s': the disk would grow with the commit",
                              layers.base->name, layers.top->name);
    weir_node_ref(layers.top);
    weir_node_ref(layers.base);
    ret = head ? start_head(options, &layers, err) : start_between(options, &layers, err);
    weir_node_unref(layers.base);
    weir_node_unref(layers.top);
    return ret;
}

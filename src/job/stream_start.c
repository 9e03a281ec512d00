/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How a stream starts: which layers, the filter, the parts.
 */
#include "base/alloc.h"
#include "filter/copy_on_read.h"
#include "job/chain.h"
#include "job/filter.h"
#include "job/job.h"
#include "job/stream_internal.h"
#include <errno.h>
#include <string.h>

/* ---- what others call, on any loop ---- */

static weir_co_fn int move(void *opaque, uint64_t offset, uint64_t length, unsigned write_flags,
                           struct weir_buffer *buffer, bool *ret_write)
{
    struct stream *stream = stream_of(&((struct weir_copy_job *)opaque)->job);
    int ret = weir_copy_on_read_fill(stream->own.filter, offset, length, write_flags, buffer, ret_write),
        none = 0;

    if (!ret || ret == -ECANCELED || stream->own.on_error != WEIR_JOB_ON_ERROR_IGNORE)
        return ret;
    /* It is passed over, and the job fails at its end. */
    if (atomic_compare_exchange_strong(&stream->ignored, &none, ret))
        atomic_store(&stream->ignored_write, *ret_write);
    weir_job_wake(&stream->own.job);
    return 0;
}

/* ---- which layers ---- */

struct layers {
    struct weir_node *device, *top, *bottom, *base;
};

static int not_below(const struct weir_node *node, const struct layers *layers, struct weir_error **err)
{
    return weir_error_set(err, -EINVAL, "Node '%s' is not a backing image of '%s'", node->name,
                          layers->device->name);
}

static int by_base(struct weir_node *base, struct layers *layers, struct weir_error **err)
{
    layers->base = base;
    layers->bottom = base == layers->device ? NULL : weir_chain_overlay(layers->top, base);
    return layers->bottom ? 0 : not_below(base, layers, err);
}

static int by_bottom(struct weir_node *bottom, struct layers *layers, struct weir_error **err)
{
    if (weir_node_is_passed(bottom))
        return weir_error_set(err, -EINVAL, "Node '%s' is a filter, use a non-filter node as 'bottom'",
                              bottom->name);
    layers->bottom = bottom;
    if (weir_chain_has(layers->device, bottom))
        return 0;
    return weir_error_set(err, -EINVAL, "Node '%s' is not in a chain starting from '%s'", bottom->name,
                          layers->device->name);
}

static int by_name(const struct weir_stream_options *options, struct layers *layers, struct weir_error **err)
{
    const char *name = options->base_node ? options->base_node : options->bottom;
    struct weir_node *node;

    if (options->base) {
        node = weir_chain_find_file(layers->device, options->base);
        return node ? by_base(node, layers, err)
                    : weir_error_set(err, -ENOENT, "Can't find '%s' in the backing chain", options->base);
    }
    node = weir_node_lookup("", name, err);
    if (!node)
        return -ENOENT;
    return options->base_node ? by_base(node, layers, err) : by_bottom(node, layers, err);
}

static int check_options(const struct weir_stream_options *options, struct weir_error **err)
{
    if (options->base && options->base_node)
        return weir_error_set(err, -EINVAL, "'base' and 'base-node' cannot be specified at the same time");
    if (options->base && options->bottom)
        return weir_error_set(err, -EINVAL, "'bottom' and 'base' cannot be specified at the same time");
    if (options->bottom && options->base_node)
        return weir_error_set(err, -EINVAL, "'bottom' and 'base-node' cannot be specified at the same time");
    return 0;
}

static int find_layers(const struct weir_stream_options *options, struct layers *ret_layers,
                       struct weir_error **err)
{
    struct layers layers = { .device = weir_node_lookup(options->device, options->device, err) };
    struct weir_node *next;
    int ret = layers.device ? check_options(options, err) : -ENODEV;

    if (ret)
        return ret;
    layers.top = weir_node_skip_filters(layers.device);
    if (options->base || options->base_node || options->bottom) {
        ret = by_name(options, &layers, err);
    } else {
        for (layers.bottom = layers.top; (next = weir_node_backing_chain_next(layers.bottom));)
            layers.bottom = next;
        if (options->backing_file)
            ret = weir_error_set(err, -EINVAL, "backing file specified, but streaming the entire chain");
    }
    if (!ret && layers.bottom != layers.top) /* known now already, not only at the end */
        ret = weir_edge_check_thawed(weir_node_cow(layers.top), err);
    *ret_layers = layers;
    return ret;
}

/* ---- the parts ---- */

static weir_co_fn int make_filter(struct stream *stream, const char *name, struct weir_error **err)
{
    json_t *options = json_pack("{s:s, s:s, s:s, s:s}", "driver", "copy-on-read", "file",
                                stream->device->name, "bottom", stream->bottom->name, "discard", "unmap");
    int ret;

    if (name)
        json_object_set_new(options, "node-name", json_string(name));
    ret = weir_node_add(options, false, &stream->own.filter, err);
    json_decref(options);
    return ret;
}

static weir_co_fn int build(struct stream *stream, const struct weir_stream_options *options,
                            struct weir_error **err)
{
    struct weir_copy_options copy = { .move = move };
    struct weir_copy_job *own = &stream->own;
    int ret = make_filter(stream, options->filter_node_name, err);

    if (!ret)
        ret = weir_copy_job_attach(own, err);
    if (!ret)
        ret = weir_copy_job_make(own, &copy, err);
    if (ret)
        return ret;
    weir_bitmap_set(own->bitmap, 0, weir_bitmap_size(own->bitmap));
    ret = weir_job_filter_insert(stream->device, own->filter, err);
    own->inserted = !ret;
    return ret;
}

int weir_stream_start(const struct weir_stream_options *options, struct weir_error **err)
{
    struct weir_job_options job_options = {
        .id = options->job_id,
        .auto_finalize = options->auto_finalize,
        .auto_dismiss = options->auto_dismiss,
        .speed = options->speed,
    };
    struct layers layers;
    struct weir_job *job;
    struct stream *stream;
    int ret = find_layers(options, &layers, err);

    if (!ret)
        ret = weir_job_new(&weir_stream_driver, &job_options, &job, err);
    if (ret)
        return ret;
    stream = stream_of(job);
    stream->device = weir_node_ref(layers.device);
    stream->top = weir_node_ref(layers.top);
    stream->bottom = weir_node_ref(layers.bottom);
    stream->base = layers.base ? weir_node_ref(layers.base) : NULL;
    stream->backing_file = options->backing_file ? weir_strdup(options->backing_file) : NULL;
    stream->mask_protocol = options->mask_protocol;
    stream->own.source = stream->own.target = stream->top;
    stream->own.on_error = options->on_error;
    ret = build(stream, options, err);
    if (ret) {
        weir_copy_job_unmake(&stream->own);
        return ret;
    }
    weir_job_start(job);
    return 0;
}

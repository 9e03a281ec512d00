/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * drive-mirror: a mirror to a file that is named, not to a node: it is made first, or opened as it is. The node on it
 * is the job's, so that it goes with the job unless the users of the source have moved to it.
 */
#include "base/alloc.h"
#include "graph/graph.h"
#include "graph/node.h"
#include "job/mirror.h"
#include <errno.h>
#include <jansson.h>
#include <string.h>

static json_t *file_of(const char *filename)
{
    return json_pack("{s:s, s:s}", "driver", "file", "filename", filename);
}

/* The format of a new image: as asked, else that of the source, where a disk of no format is raw. */
static const char *format_of(const struct weir_drive_mirror_options *options, struct weir_node *source)
{
    const struct weir_driver *driver = weir_node_skip_filters(source)->driver;

    if (options->format)
        return options->format;
    return driver->create && strcmp(driver->name, "file") != 0 ? driver->name : "raw";
}

/* The layer below the source, which with sync=top stays below the copy as well; NULL: there is none. */
static struct weir_node *backing_of(const struct weir_drive_mirror_options *options, struct weir_node *source)
{
    return options->mirror.sync == WEIR_MIRROR_SYNC_TOP ? weir_node_backing_chain_next(source) : NULL;
}

static weir_co_fn int create(const struct weir_drive_mirror_options *options, const char *format,
                             struct weir_node *source, struct weir_error **err)
{
    struct weir_node *backing = backing_of(options, source);
    json_int_t size = (json_int_t)weir_node_size(source);
    const struct weir_driver *driver = weir_driver_find(format);
    bool layered = strcmp(format, "raw") != 0;
    json_t *own;
    int ret;

    if (!driver || (layered && !driver->create))
        return weir_error_set(err, -ENOTSUP, "Format driver '%s' does not support image creation", format);
    if (backing && !layered)
        return weir_error_set(err, -EINVAL, "Format 'raw' has no backing file, which sync=top needs");
    own = json_pack("{s:s, s:I}", "filename", options->target, "size", layered ? (json_int_t)0 : size);
    ret = weir_driver_create("file", own, err);
    if (ret || !layered)
        return ret;
    own = json_pack("{s:o, s:I}", "file", file_of(options->target), "size", size);
    if (backing) {
        json_object_set_new(own, "backing-file", json_string(weir_node_file_name(backing)));
        json_object_set_new(own, "backing-fmt", json_string(weir_node_skip_filters(backing)->driver->name));
    }
    return weir_driver_create(format, own, err);
}

static weir_co_fn int open_target(const struct weir_drive_mirror_options *options, const char *format,
                                  struct weir_node *source, struct weir_node **ret_node,
                                  struct weir_error **err)
{
    struct weir_node *backing = options->existing ? NULL : backing_of(options, source);
    json_t *node = json_pack("{s:s, s:o}", "driver", format, "file", file_of(options->target));
    int ret;

    if (options->mirror.unmap) {
        json_object_set_new(node, "discard", json_string("unmap"));
        json_object_set_new(json_object_get(node, "file"), "discard", json_string("unmap"));
    }
    if (options->node_name)
        json_object_set_new(node, "node-name", json_string(options->node_name));
    if (backing)
        json_object_set_new(node, "backing", json_string(backing->name));
    ret = weir_node_add(node, false, ret_node, err);
    json_decref(node);
    return ret;
}

int weir_drive_mirror_start(const struct weir_drive_mirror_options *options, struct weir_error **err)
{
    struct weir_mirror_options mirror = options->mirror;
    struct weir_node *source = weir_node_lookup(mirror.device, mirror.device, err), *target = NULL;
    const char *format;
    int ret = 0;

    if (!source)
        return -ENODEV;
    if (options->existing && !options->format)
        return weir_error_set(err, -EINVAL,
                              "Parameter 'format' is missing: that of an existing image is not guessed");
    if (!options->existing && mirror.sync == WEIR_MIRROR_SYNC_NONE)
        return weir_error_set(err, -ENOTSUP,
                              "sync=none needs mode=existing: a new image would lack the old data");
    weir_node_ref(source);
    format = format_of(options, source);
    if (!options->existing)
        ret = create(options, format, source, err);
    if (!ret)
        ret = open_target(options, format, source, &target, err);
    if (!ret) {
        mirror.target = target->name;
        ret = weir_mirror_start(&mirror, err);
        weir_node_unref(target);
    }
    weir_node_unref(source);
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Makes an image through the drivers' create operations, as blockdev-create does: first the file, then what is in it.
 * A file whose contents could not be made is removed again. Control loop.
 */
#include "tools/img.h"

#include "base/schema_text.h"
#include "co/co.h"
#include "graph/driver.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>

static const char *text_of(const json_t *values, const char *name)
{
    return json_string_value(json_object_get(values, name));
}

/* A device has its size already; the image must fit. */
static weir_co_fn int check_device(const char *path, uint64_t size, struct weir_error **err)
{
    struct img_open how = { .format = "host_device" };
    struct weir_edge *edge;
    uint64_t capacity;
    int ret = img_open(path, &how, &edge, err);

    if (ret)
        return ret;
    capacity = weir_node_size(edge->node);
    img_close(edge);
    if (capacity < size)
        return weir_error_set(err, -ENOSPC, "Could not create '%s': the device has %" PRIu64 " bytes only",
                              path, capacity);
    return 0;
}

static weir_co_fn int make_file(const char *path, uint64_t size, const char *preallocation,
                                struct weir_error **err)
{
    json_t *options = json_pack("{s:s, s:I}", "filename", path, "size", (json_int_t)size);

    if (preallocation)
        json_object_set_new(options, "preallocation", json_string(preallocation));
    return weir_driver_create("file", options, err);
}

static weir_co_fn int make_raw(const char *path, const json_t *values, struct weir_error **err)
{
    uint64_t size = (uint64_t)json_integer_value(json_object_get(values, "size"));
    const char *preallocation = text_of(values, "preallocation");

    if (preallocation && !strcmp(preallocation, "metadata"))
        return weir_error_set(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
    if (preallocation && strcmp(preallocation, "off") != 0 && strcmp(preallocation, "falloc") != 0 &&
        strcmp(preallocation, "full") != 0)
        return weir_error_set(err, -EINVAL, "invalid parameter value: %s", preallocation);
    if (size > INT64_MAX - 511)
        return weir_error_set(err, -EFBIG, "Too large");
    if (img_look(path, NULL) == IMG_FILE_DEVICE)
        return check_device(path, size, err);
    return make_file(path, weir_align_up(size, 512), preallocation, err);
}

/* ---- formats in a file ---- */

static json_t *member_value(const struct img_option *option, json_t *value)
{
    const char *text = json_string_value(value);
    bool on = false;

    /* Disks have whole sectors. */
    if (!strcmp(option->name, "size"))
        return json_integer((json_int_t)weir_align_up((uint64_t)json_integer_value(value), 512));
    if (option->type == IMG_VALUE_BOOL)
        return weir_text_to_bool(text, &on) && on ? json_true() : json_false();
    if (!strcmp(option->name, "compat")) {
        if (!strcmp(text, "0.10"))
            return json_string("v2");
        if (!strcmp(text, "1.1"))
            return json_string("v3");
    }
    return json_incref(value);
}

static json_t *layered_options(const struct img_format *format, const json_t *values)
{
    json_t *options = json_object();

    for (unsigned i = 0; i < format->count; i++) {
        json_t *value = json_object_get(values, format->options[i].name);

        if (value && format->options[i].member)
            json_object_set_new(options, format->options[i].member, member_value(&format->options[i], value));
    }
    return options;
}

static int unlink_run(void *arg)
{
    return weir_sys->file.unlink(arg);
}

/* An empty file, and the definition of a node on it. A device is taken as it is. */
static weir_co_fn int make_child(const char *name, bool *ret_made, json_t **ret_definition,
                                 struct weir_error **err)
{
    const char *path = img_path(name, err);
    enum img_file_kind kind;
    int ret = 0;

    if (!path)
        return -EINVAL;
    kind = img_look(path, NULL);
    if (kind != IMG_FILE_DEVICE)
        ret = make_file(path, 0, NULL, err);
    if (ret)
        return ret;
    *ret_made = kind != IMG_FILE_DEVICE;
    *ret_definition = img_file_definition(path, kind);
    return 0;
}

static weir_co_fn int make_layered(const char *path, const struct img_format *format, const json_t *values,
                                   struct weir_error **err)
{
    const char *data_file = text_of(values, "data_file");
    json_t *options = layered_options(format, values), *child;
    bool made = false, made_data = false;
    int ret = make_child(path, &made, &child, err);

    if (!ret) {
        json_object_set_new(options, "file", child);
        if (data_file)
            ret = make_child(data_file, &made_data, &child, err);
    }
    if (!ret && data_file)
        json_object_set_new(options, "data-file", child);
    if (ret)
        json_decref(options);
    else
        ret = weir_driver_create(format->name, options, err);
    /* The failure that is told is the first one; a file left behind does no harm. */
    if (ret && made)
        (void)weir_co_work(unlink_run, (void *)(uintptr_t)path);
    if (ret && made_data)
        (void)weir_co_work(unlink_run, (void *)(uintptr_t)img_path(data_file, NULL));
    return ret;
}

int img_make(const char *name, const struct img_format *format, const json_t *values, struct weir_error **err)
{
    const char *path = img_path(name, err);
    int ret;

    if (!path)
        return -EINVAL;
    ret = format->layered ? make_layered(path, format, values, err) : make_raw(path, values, err);
    /* Whichever layer noticed it: what the person can do about it is this. */
    if (ret == -EFBIG && err) {
        weir_error_free(weir_steal(err));
        ret = weir_error_set(err, ret, "The image size is too large for file format '%s'%s", format->name,
                             format->layered ? " (try using a larger cluster size)" : "");
    }
    return ret;
}

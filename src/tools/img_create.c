/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img create.
 */
#include "tools/img.h"

#include "graph/filename.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct create {
    const char *format_name, *name;
    const char *backing, *backing_format;
    const char *size;   /* as given; NULL: none */
    char *options;      /* the texts of all -o, joined by commas; NULL: none */
    bool quiet, unsafe; /* unsafe: the backing file is not opened */
    json_t *values;
};

static void add_options(struct create *create, const char *text)
{
    char *old = create->options;

    create->options = old ? weir_strdup_printf("%s,%s", old, text) : weir_strdup(text);
    free(old);
}

static int set_named(struct create *create, const struct img_format *format, const char *name,
                     const char *value, const char *what, struct weir_error **err)
{
    if (!value)
        return 0;
    if (!img_option_find(format, name))
        return weir_error_set(err, -ENOTSUP, "%s not supported for file format '%s'", what, format->name);
    json_object_set_new(create->values, name, json_string(value));
    return 0;
}

/* The size of what is based on it, which also shows that it can be opened. */
static weir_co_fn int backing_size(const struct create *create, const char *backing, const char *format,
                                   uint64_t *ret_size, struct weir_error **err)
{
    weir_autofree char *path = weir_filename_resolve(backing, create->name);
    struct img_open how = { .format = format, .force_share = true };
    struct weir_edge *edge;
    int ret = img_open(path, &how, &edge, err);

    if (ret) {
        weir_error_hint(err, "Could not open backing image.");
        return ret;
    }
    *ret_size = weir_node_size(edge->node);
    if (!format) {
        ret = weir_error_set(err, -EINVAL, "Backing file specified without backing format");
        weir_error_hint(err, "Detected format of %s.", edge->node->driver->name);
    }
    img_close(edge);
    return ret;
}

static weir_co_fn int settle_backing(struct create *create, struct weir_error **err)
{
    const char *backing = json_string_value(json_object_get(create->values, "backing_file"));
    const char *format = json_string_value(json_object_get(create->values, "backing_fmt"));
    uint64_t size;
    int ret;

    if (!backing)
        return 0;
    if (!strcmp(backing, create->name))
        return weir_error_set(err, -EINVAL,
                              "Error: Trying to create an image with the same filename as the backing file");
    if (create->unsafe)
        return 0;
    ret = backing_size(create, backing, format, &size, err);
    if (!ret && !json_object_get(create->values, "size"))
        json_object_set_new(create->values, "size", json_integer((json_int_t)size));
    return ret;
}

static int settle_size(struct create *create, uint64_t size, struct weir_error **err)
{
    if (!create->size)
        return 0;
    if (json_object_get(create->values, "size"))
        return weir_error_set(err, -EINVAL, "The image size must be specified only once");
    json_object_set_new(create->values, "size", json_integer((json_int_t)size));
    return 0;
}

static weir_co_fn int create_image(struct create *create, uint64_t size, struct weir_error **err)
{
    const struct img_format *format = img_format_find(create->format_name, err);
    int ret;

    if (!format || !img_path(create->name, err))
        return -EINVAL;
    if (create->options) {
        ret = img_options_parse(format, create->options, create->values, err);
        if (ret)
            return ret;
    }
    ret = set_named(create, format, "backing_file", create->backing, "Backing file", err);
    if (!ret)
        ret = set_named(create, format, "backing_fmt", create->backing_format, "Backing file format", err);
    if (!ret)
        ret = settle_size(create, size, err);
    if (!ret)
        ret = settle_backing(create, err);
    if (!ret && !json_object_get(create->values, "size"))
        ret = weir_error_set(err, -EINVAL, "Image creation needs a size parameter");
    if (ret)
        return ret;
    img_options_preset(format, create->values);
    if (!create->quiet)
        img_options_print(format, create->name, create->values);
    if (json_object_get(create->values, "backing_fmt") && !json_object_get(create->values, "backing_file"))
        return weir_error_set(err, -EINVAL, "Backing format cannot be used without backing file");
    return img_make(create->name, format, create->values, err);
}

/* -1 to go on, or the exit status. */
static int parse(struct img *img, int argc, char **argv, struct create *create)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { NULL, 0, NULL, 0 },
    };
    struct img_common common = { .json = false };
    int c, status = -1;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":F:b:f:ho:qu", longs)) != -1) {
        if (c == 'F')
            create->backing_format = optarg;
        else if (c == 'b')
            create->backing = optarg;
        else if (c == 'u')
            create->unsafe = true;
        else if (c == 'o')
            add_options(create, optarg);
        else
            status = img_common_option(img, c, &common);
    }
    create->format_name = common.how.format ? common.how.format : "raw";
    create->quiet = common.quiet;
    create->name = optind < argc ? argv[optind++] : NULL;
    create->size = optind < argc ? argv[optind++] : NULL;
    return status;
}

static int help(const struct img *img, const struct create *create)
{
    WEIR_AUTO_ERROR err = NULL;
    const struct img_format *format = img_format_find(create->format_name, &err);

    if (!format) {
        img_complain(img, "%s", weir_error_text(err));
        return 1;
    }
    img_options_help(format, create->name);
    return 0;
}

static weir_co_fn int run(struct img *img, struct create *create)
{
    struct weir_error *err = NULL;
    uint64_t size = 0;

    if (create->options && img_options_help_wanted(create->options))
        return help(img, create);
    if (!create->name)
        return img_usage(img, "Expecting image file name");
    if (create->size && !img_size(img, "image size", create->size, &size))
        return 1;
    if (optind < img->argc)
        return img_usage(img, "Unexpected argument: %s", img->argv[optind]);
    if (create_image(create, size, &err)) {
        img_fail(img, err, "%s", create->name);
        return 1;
    }
    return 0;
}

int img_create(struct img *img, int argc, char **argv)
{
    struct create create = { .values = json_object() };
    int status = parse(img, argc, argv, &create);

    if (status < 0)
        status = run(img, &create);
    json_decref(create.values);
    free(create.options);
    return status;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img convert: arguments, the images, and the target; the copy itself is in img_convert_copy.c.
 */
#include "tools/img_convert.h"

#include "graph/driver.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SPARSE_DEFAULT 4096u
#define SPARSE_MAX ((uint64_t)16 << 20)
#define WORKERS_DEFAULT 8u

struct arguments {
    struct img_common common; /* of the sources */
    const char *out_format, *backing, *backing_format, *cache, *source_cache, *snapshot;
    char *options; /* the texts of all -o, joined by commas; NULL: none */
    uint64_t sparse_size, speed;
    unsigned workers;
    bool sparse_given, compressed, existing, target_is_zero, target_options, out_of_order, salvage, bitmaps,
        skip_broken, offload;
    char **sources;
    unsigned source_count;
    const char *target;
};

/* ---- the command line ---- */

static int parse_workers(const struct img *img, const char *text, unsigned *ret_workers)
{
    char *end;
    unsigned long workers = strtoul(text, &end, 10);

    if (end == text || *end || *text == '-' || !workers || workers > CONVERT_WORKERS_MAX) {
        img_complain(img, "Invalid number of coroutines. Allowed number of coroutines is between 1 and %u",
                     CONVERT_WORKERS_MAX);
        return 1;
    }
    *ret_workers = (unsigned)workers;
    return -1;
}

static int parse_sparse(const struct img *img, const char *text, struct arguments *arguments)
{
    if (!img_size(img, "buffer size for sparse output", text, &arguments->sparse_size))
        return 1;
    if (arguments->sparse_size % 512 || arguments->sparse_size > SPARSE_MAX) {
        img_complain(
            img,
            "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to "
            "%" PRIu64 ". Select 0 to disable sparse detection (fully allocates output).",
            SPARSE_MAX);
        return 1;
    }
    arguments->sparse_given = true;
    return -1;
}

static void add_options(struct arguments *arguments, const char *text)
{
    char *old = arguments->options;

    arguments->options = old ? weir_strdup_printf("%s,%s", old, text) : weir_strdup(text);
    free(old);
}

/* Options with an argument that only this command has; -2: none of them. */
static int take_value(const struct img *img, int c, struct arguments *arguments)
{
    const char **texts[] = { &arguments->out_format, &arguments->backing,      &arguments->backing_format,
                             &arguments->cache,      &arguments->source_cache, &arguments->snapshot };
    static const char letters[] = "OBFtTl";
    const char *letter = c > 0 && c < 128 ? strchr(letters, c) : NULL;

    if (letter) {
        *texts[letter - letters] = optarg;
        return -1;
    }
    switch (c) {
    case 'o':
        add_options(arguments, optarg);
        return -1;
    case 'S':
        return parse_sparse(img, optarg, arguments);
    case 'm':
        return parse_workers(img, optarg, &arguments->workers);
    case 'r':
        return img_size(img, "rate limit", optarg, &arguments->speed) ? -1 : 1;
    default:
        return -2;
    }
}

/* Switches that only this command has; NULL: none of them. */
static bool *find_switch(int c, struct arguments *arguments)
{
    switch (c) {
    case 'c':
        return &arguments->compressed;
    case 'n':
        return &arguments->existing;
    case 'W':
        return &arguments->out_of_order;
    case 'C':
        return &arguments->offload;
    case IMG_OPT_TARGET_IS_ZERO:
        return &arguments->target_is_zero;
    case IMG_OPT_TARGET_IMAGE_OPTS:
        return &arguments->target_options;
    case IMG_OPT_SALVAGE:
        return &arguments->salvage;
    case IMG_OPT_BITMAPS:
        return &arguments->bitmaps;
    case IMG_OPT_SKIP_BROKEN:
        return &arguments->skip_broken;
    default:
        return NULL;
    }
}

static int take_option(struct img *img, int c, struct arguments *arguments)
{
    bool *on = find_switch(c, arguments);
    int status;

    if (on) {
        *on = true;
        return -1;
    }
    status = take_value(img, c, arguments);
    return status == -2 ? img_common_option(img, c, &arguments->common) : status;
}

/* -1 to go on, or the exit status. */
static int parse(struct img *img, int argc, char **argv, struct arguments *arguments)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "source-format", required_argument, NULL, 'f' },
        { "target-format", required_argument, NULL, 'O' },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
        { "force-share", no_argument, NULL, 'U' },
        { "target-image-opts", no_argument, NULL, IMG_OPT_TARGET_IMAGE_OPTS },
        { "target-is-zero", no_argument, NULL, IMG_OPT_TARGET_IS_ZERO },
        { "salvage", no_argument, NULL, IMG_OPT_SALVAGE },
        { "bitmaps", no_argument, NULL, IMG_OPT_BITMAPS },
        { "skip-broken-bitmaps", no_argument, NULL, IMG_OPT_SKIP_BROKEN },
        { NULL, 0, NULL, 0 },
    };
    int c, status = -1;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":hf:O:B:CcF:o:l:S:pt:T:qnm:Wr:U", longs)) != -1)
        status = take_option(img, c, arguments);
    arguments->target = optind < argc ? argv[argc - 1] : NULL;
    arguments->sources = argv + optind;
    arguments->source_count = optind < argc ? (unsigned)(argc - 1 - optind) : 0;
    return status;
}

/* What contradicts itself, and what this program does not do. NULL, or what to complain about. */
static const char *contradiction(const struct arguments *arguments)
{
    if (arguments->skip_broken && !arguments->bitmaps)
        return "Use of --skip-broken-bitmaps requires --bitmaps";
    if (arguments->compressed && arguments->offload)
        return "Cannot enable copy offloading when -c is used";
    if (arguments->sparse_given && arguments->offload)
        return "Cannot enable copy offloading when -S is used";
    if (arguments->offload)
        return "Copy offloading (-C) is not supported";
    if (arguments->target_options && !arguments->existing)
        return "--target-image-opts requires use of -n flag";
    if (arguments->target_is_zero && !arguments->existing)
        return "--target-is-zero requires use of -n flag";
    if (arguments->target_options && arguments->out_format)
        return "--image-opts and --format are mutually exclusive";
    if (arguments->existing && arguments->options)
        return "-o has no effect when skipping image creation";
    if (arguments->backing && !arguments->backing_format)
        return "Use of backing file requires explicit backing format";
    if (arguments->backing && arguments->source_count > 1)
        return "Having a backing file for the target makes no sense when concatenating multiple input images";
    return NULL;
}

static int check(const struct img *img, struct arguments *arguments, struct img_cache *ret_cache)
{
    const char *wrong = contradiction(arguments);

    if (!arguments->source_count) {
        img_complain(img, "Must specify image file name");
        return 1;
    }
    if (wrong) {
        img_complain(img, "%s", wrong);
        return 1;
    }
    if (!img_cache_parse(arguments->cache, ret_cache)) {
        img_complain(img, "Invalid cache option: %s", arguments->cache);
        return 1;
    }
    if (!img_cache_parse(arguments->source_cache, &arguments->common.how.cache)) {
        img_complain(img, "Invalid source cache option: %s", arguments->source_cache);
        return 1;
    }
    return img_common_check(img, arguments->common.how.options, arguments->common.how.format);
}

/* ---- the images ---- */

static weir_co_fn int open_sources(struct convert *convert, struct arguments *arguments)
{
    struct img_open how = arguments->common.how;

    how.exclude_writers = true;
    convert->sources = weir_new_array(struct convert_source, arguments->source_count);
    for (unsigned i = 0; i < arguments->source_count; i++) {
        struct convert_source *source = &convert->sources[i];
        struct weir_error *err = NULL;

        source->name = arguments->sources[i];
        if (img_open(source->name, &how, &source->edge, &err)) {
            img_fail(convert->img, err, "Could not open '%s'", source->name);
            return 1;
        }
        convert->source_count++;
        source->start = convert->size;
        source->size = weir_node_size(source->edge->node);
        convert->size += source->size;
    }
    if (arguments->snapshot) {
        img_complain(
            convert->img,
            "Failed to load snapshot: Block format '%s' used by device '' does not support temporarily "
            "loading internal snapshots",
            convert->sources[0].edge->node->driver->name);
        return 1;
    }
    if (arguments->bitmaps) {
        img_complain(convert->img, "Source lacks bitmap support");
        return 1;
    }
    return 0;
}

static int target_values(const struct convert *convert, const struct arguments *arguments,
                         const struct img_format *format, json_t *values, struct weir_error **err)
{
    const char *const pairs[][3] = {
        { "backing_file", arguments->backing, "Backing file" },
        { "backing_fmt", arguments->backing_format, "Backing file format" },
    };

    if (arguments->options) {
        int ret = img_options_parse(format, arguments->options, values, err);

        if (ret)
            return ret;
    }
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(pairs); i++) {
        if (!pairs[i][1])
            continue;
        if (!img_option_find(format, pairs[i][0]))
            return weir_error_set(err, -ENOTSUP, "%s not supported for file format '%s'", pairs[i][2],
                                  format->name);
        json_object_set_new(values, pairs[i][0], json_string(pairs[i][1]));
    }
    if (json_object_get(values, "backing_file") && !json_object_get(values, "backing_fmt"))
        return weir_error_set(err, -EINVAL, "Use of backing file requires explicit backing format");
    json_object_set_new(values, "size", json_integer((json_int_t)convert->size));
    img_options_preset(format, values);
    return 0;
}

static weir_co_fn int make_target(const struct convert *convert, const struct arguments *arguments)
{
    struct weir_error *err = NULL;
    const struct img_format *format = img_format_find(arguments->out_format, &err);
    json_t *values = json_object();
    int ret = -EINVAL;

    if (!format || !img_path(arguments->target, &err) ||
        target_values(convert, arguments, format, values, &err)) {
        img_fail(convert->img, err, "%s", "");
    } else if (arguments->compressed && !weir_driver_find(format->name)->encode) {
        img_complain(convert->img, "Compression not supported for this file format");
    } else {
        ret = img_make(arguments->target, format, values, &err);
        if (ret)
            img_fail(convert->img, err, "%s: error while converting %s", arguments->target, format->name);
    }
    json_decref(values);
    return ret ? 1 : 0;
}

static weir_co_fn int open_target(struct convert *convert, const struct arguments *arguments,
                                  const struct img_cache *cache)
{
    struct img_open how = {
        .format = arguments->target_options ? NULL : arguments->out_format,
        .options = arguments->target_options,
        .writable = true,
        .cache = *cache,
    };
    struct weir_error *err = NULL;

    if (!img_open(arguments->target, &how, &convert->target, &err))
        return 0;
    img_fail(convert->img, err, "Could not open '%s'", arguments->target);
    return 1;
}

/* From where on a target that nobody has written to reads zero. */
static weir_co_fn int settle_target(struct convert *convert, const struct arguments *arguments)
{
    struct weir_node *node = convert->target->node;
    struct weir_edge *cow = weir_node_cow(node);
    bool new_file =
        !arguments->existing && img_look(img_path(arguments->target, NULL), NULL) != IMG_FILE_DEVICE;

    if (weir_node_size(node) < convert->size) {
        img_complain(convert->img, "output file is smaller than input file");
        return 1;
    }
    if (arguments->compressed && !node->driver->encode) {
        img_complain(convert->img, "Compression not supported for this file format");
        return 1;
    }
    if (cow && arguments->target_is_zero) {
        img_complain(convert->img,
                     "Cannot use --target-is-zero when the destination image has a backing file");
        return 1;
    }
    convert->based = cow && !arguments->existing;
    convert->zero_from = UINT64_MAX;
    if (new_file || arguments->target_is_zero || (!arguments->existing && node->limits.lock_unit))
        convert->zero_from = cow ? weir_node_size(cow->node) : 0;
    return 0;
}

static weir_co_fn int convert_images(struct convert *convert, struct arguments *arguments,
                                     const struct img_cache *cache)
{
    convert->target_name = arguments->target;
    convert->sparse_size = arguments->sparse_size;
    convert->speed = arguments->speed;
    convert->workers = arguments->workers;
    convert->write_flags = cache->write_through ? WEIR_REQUEST_FUA : 0;
    convert->compressed = arguments->compressed;
    convert->out_of_order = arguments->out_of_order;
    convert->salvage = arguments->salvage;
    convert->salvage_quiet = arguments->common.quiet;
    convert->progress.on = arguments->common.progress && !arguments->common.quiet;
    if (open_sources(convert, arguments))
        return 1;
    if (!arguments->out_format && !arguments->target_options)
        arguments->out_format = "raw";
    if (!arguments->existing && make_target(convert, arguments))
        return 1;
    if (open_target(convert, arguments, cache) || settle_target(convert, arguments))
        return 1;
    return convert_copy(convert);
}

static int help(const struct img *img, const struct arguments *arguments)
{
    WEIR_AUTO_ERROR err = NULL;
    const struct img_format *format =
        img_format_find(arguments->out_format ? arguments->out_format : "raw", &err);

    if (format)
        img_options_help(format, arguments->source_count);
    else
        img_complain(img, "%s", weir_error_text(err));
    return format ? 0 : 1;
}

int img_convert(struct img *img, int argc, char **argv)
{
    struct arguments arguments = {
        .cache = "unsafe",
        .source_cache = "writeback",
        .sparse_size = SPARSE_DEFAULT,
        .workers = WORKERS_DEFAULT,
    };
    struct convert convert = { .img = img };
    struct img_cache cache = { .direct = false };
    int status = parse(img, argc, argv, &arguments);

    if (status < 0 && arguments.options && img_options_help_wanted(arguments.options))
        status = help(img, &arguments);
    if (status < 0)
        status = check(img, &arguments, &cache);
    if (status < 0)
        status = convert_images(&convert, &arguments, &cache);
    img_close(convert.target);
    for (unsigned i = 0; i < convert.source_count; i++)
        img_close(convert.sources[i].edge);
    free(convert.sources);
    free(arguments.options);
    return status;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img check: has the format judge its metadata, and repair it.
 *
 * The exit status says what is wrong with the image when the command ends: 0 nothing, 2 corruptions, 3 leaks only; 1 if
 * the check itself could not be done, 63 for formats that have none.
 */
#include "tools/img.h"

#include "graph/graph.h"
#include "sys/sys.h"
#include <stdio.h>
#include <string.h>

enum { CLEAN = 0, INTERNAL = 1, CORRUPT = 2, LEAKS = 3, UNSUPPORTED = 63 };

static void report(void *arg, const char *line)
{
    (void)!weir_sys->process.flush_output();
    fprintf(stderr, "%s\n", line);
}

/* One round over a node that nobody else uses. */
static weir_co_fn int check_once(struct weir_node *node, unsigned fix, struct weir_check_result *result,
                                 struct weir_error **err)
{
    struct weir_drain drain = { 0 };
    int ret;

    memset(result, 0, sizeof(*result));
    weir_graph_lock();
    ret = weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        ret = node->driver->check->check(node, fix, result, report, NULL, err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

static void add(json_t *json, const char *name, uint64_t value, bool always)
{
    if (value || always)
        json_object_set_new(json, name, json_integer((json_int_t)value));
}

static void print_json(const char *name, const char *format, const struct weir_check_result *result)
{
    json_t *json = json_pack("{s:s, s:s}", "filename", name, "format", format);

    add(json, "image-end-offset", result->image_end_offset, false);
    add(json, "total-clusters", result->total_clusters, false);
    add(json, "check-errors", result->check_errors, true);
    add(json, "corruptions", result->corruptions, false);
    add(json, "corruptions-fixed", result->corruptions_fixed, false);
    add(json, "leaks", result->leaks, false);
    add(json, "leaks-fixed", result->leaks_fixed, false);
    add(json, "allocated-clusters", result->allocated_clusters, false);
    add(json, "fragmented-clusters", result->fragmented_clusters, false);
    add(json, "compressed-clusters", result->compressed_clusters, false);
    img_print_json(json);
    json_decref(json);
}

static double percent(uint64_t part, uint64_t whole)
{
    return 100.0 * (double)part / (double)whole;
}

static void print_human(const struct weir_check_result *result)
{
    if (!result->corruptions && !result->leaks && !result->check_errors)
        printf("No errors were found on the image.\n");
    if (result->corruptions)
        printf("\n%" PRIu64 " errors were found on the image.\n"
               "Data may be corrupted, or further writes to the image may corrupt it.\n",
               result->corruptions);
    if (result->leaks)
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n",
               result->leaks);
    if (result->check_errors)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", result->check_errors);
    if (result->total_clusters && result->allocated_clusters)
        printf("%" PRIu64 "/%" PRIu64
               " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
               result->allocated_clusters, result->total_clusters,
               percent(result->allocated_clusters, result->total_clusters),
               percent(result->fragmented_clusters, result->allocated_clusters),
               percent(result->compressed_clusters, result->allocated_clusters));
    if (result->image_end_offset)
        printf("Image end offset: %" PRIu64 "\n", result->image_end_offset);
}

static int verdict(const struct weir_check_result *result)
{
    if (result->corruptions)
        return CORRUPT;
    if (result->check_errors)
        return INTERNAL;
    return result->leaks ? LEAKS : CLEAN;
}

/* With repairs, a second round says what is left. */
static weir_co_fn int check_image(const struct img *img, const struct img_common *common, const char *name,
                                  struct weir_node *node, unsigned fix)
{
    bool talk = !common->quiet && !common->json;
    struct weir_check_result result, first;
    struct weir_error *err = NULL;
    int ret;

    if (!node->driver->check) {
        img_complain(img, "This image format does not support checks");
        return UNSUPPORTED;
    }
    ret = check_once(node, fix, &result, &err);
    first = result;
    if (!ret && (first.corruptions_fixed || first.leaks_fixed)) {
        if (talk)
            printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64
                   " leaked clusters\n"
                   "    %" PRIu64 " corruptions\n\nDouble checking the fixed image now...\n",
                   first.leaks_fixed, first.corruptions_fixed);
        ret = check_once(node, 0, &result, &err);
        result.leaks_fixed = first.leaks_fixed;
        result.corruptions_fixed = first.corruptions_fixed;
    }
    if (ret) {
        img_fail(img, err, "Check failed");
        return INTERNAL;
    }
    if (common->json)
        print_json(name, node->driver->name, &result);
    else if (!common->quiet)
        print_human(&result);
    return verdict(&result);
}

/* -1 to go on, or the exit status. */
static int parse_fix(const struct img *img, const char *text, unsigned *ret_fix)
{
    if (!strcmp(text, "leaks"))
        *ret_fix = WEIR_CHECK_FIX_LEAKS;
    else if (!strcmp(text, "all"))
        *ret_fix = WEIR_CHECK_FIX_LEAKS | WEIR_CHECK_FIX_ERRORS;
    else
        return img_usage(img, "Unknown option value for -r (expecting 'leaks' or 'all'): %s", text);
    return -1;
}

static int parse(struct img *img, int argc, char **argv, struct img_common *common, unsigned *ret_fix)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "format", required_argument, NULL, 'f' },
        { "repair", required_argument, NULL, 'r' },
        { "output", required_argument, NULL, IMG_OPT_OUTPUT },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
        { "force-share", no_argument, NULL, 'U' },
        { NULL, 0, NULL, 0 },
    };
    const char *cache = "writeback";
    int c, status = -1;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":hf:r:T:qU", longs)) != -1) {
        if (c == 'r')
            status = parse_fix(img, optarg, ret_fix);
        else if (c == 'T')
            cache = optarg;
        else
            status = img_common_option(img, c, common);
    }
    if (status < 0 && optind != argc - 1)
        status = img_usage(img, "Expecting one image file name");
    if (status < 0)
        status = img_common_check(img, common->how.options, common->how.format);
    if (status < 0 && !img_cache_parse(cache, &common->how.cache)) {
        img_complain(img, "Invalid source cache option: %s", cache);
        status = 1;
    }
    return status;
}

int img_check(struct img *img, int argc, char **argv)
{
    struct img_common common = { .json = false };
    struct weir_error *err = NULL;
    struct weir_edge *edge;
    unsigned fix = 0;
    int status = parse(img, argc, argv, &common, &fix);

    if (status >= 0)
        return status;
    common.how.writable = common.how.repair = fix;
    if (img_open(argv[optind], &common.how, &edge, &err)) {
        img_fail(img, err, "Could not open '%s'", argv[optind]);
        return INTERNAL;
    }
    status = check_image(img, &common, argv[optind], edge->node, fix);
    img_close(edge);
    return status;
}

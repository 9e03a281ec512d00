/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img info: ImageInfo of an image, or of each image of its backing chain.
 *
 * Each image is opened by itself, without what it is based on: a chain is followed by the names that the images hold,
 * so that a chain with a missing end can still be looked at.
 */
#include "tools/img.h"

#include "graph/describe.h"
#include "qmp/json_order.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- for people ---- */

static void print_members(const json_t *value, int level);

static void print_scalar(const json_t *value)
{
    if (json_is_string(value))
        printf("%s\n", json_string_value(value));
    else if (json_is_boolean(value))
        printf("%s\n", json_is_true(value) ? "true" : "false");
    else if (json_is_integer(value))
        printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
    else
        printf("\n");
}

static void print_one(const char *name, const json_t *value, int level)
{
    printf("%*s", 4 * level, "");
    for (; *name; name++)
        putchar(*name == '-' ? ' ' : *name);
    putchar(':');
    if (!json_is_object(value) && !json_is_array(value)) {
        putchar(' ');
        print_scalar(value);
        return;
    }
    putchar('\n');
    print_members(value, level + 1);
}

static void print_members(const json_t *value, int level)
{
    weir_autofree const char **keys = NULL;

    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value); i++) {
            char name[24];

            (void)snprintf(name, sizeof(name), "[%zu]", i);
            print_one(name, json_array_get(value, i), level);
        }
        return;
    }
    keys = weir_json_keys(value);
    for (unsigned i = 0; keys[i]; i++)
        print_one(keys[i], json_object_get(value, keys[i]), level);
}

static json_int_t number(const json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

static const char *text(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

static void print_snapshot(const json_t *snapshot)
{
    time_t seconds = (time_t)number(snapshot, "date-sec");
    json_int_t clock = number(snapshot, "vm-clock-sec");
    char date[32] = "", size[32], time[48], icount[24] = "";
    struct tm tm;

    if (localtime_r(&seconds, &tm))
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    (void)snprintf(time, sizeof(time), "%02d:%02d:%02d.%03d", (int)(clock / 3600), (int)(clock / 60 % 60),
                   (int)(clock % 60), (int)(number(snapshot, "vm-clock-nsec") / 1000000));
    if (json_object_get(snapshot, "icount"))
        (void)snprintf(icount, sizeof(icount), "%" JSON_INTEGER_FORMAT, number(snapshot, "icount"));
    img_human_size((uint64_t)number(snapshot, "vm-state-size"), size);
    printf("%-9s %-16s %8s%20s%13s%11s\n", text(snapshot, "id"), text(snapshot, "name"), size, date, time,
           icount);
}

static void print_backing(const json_t *info)
{
    const char *backing = text(info, "backing-filename"), *full = text(info, "full-backing-filename");
    const char *format = text(info, "backing-filename-format");

    if (!backing)
        return;
    printf("backing file: %s", backing);
    if (!full)
        printf(" (cannot determine actual path)");
    else if (strcmp(backing, full) != 0)
        printf(" (actual path: %s)", full);
    printf("\n");
    if (format)
        printf("backing file format: %s\n", format);
}

static void print_human(const json_t *info)
{
    char virtual[32], actual[32] = "unavailable";
    const json_t *snapshots = json_object_get(info, "snapshots");
    const json_t *specific = json_object_get(json_object_get(info, "format-specific"), "data");

    img_human_size((uint64_t)number(info, "virtual-size"), virtual);
    if (json_object_get(info, "actual-size"))
        img_human_size((uint64_t)number(info, "actual-size"), actual);
    printf("image: %s\nfile format: %s\nvirtual size: %s (%" JSON_INTEGER_FORMAT " bytes)\ndisk size: %s\n",
           text(info, "filename"), text(info, "format"), virtual, number(info, "virtual-size"), actual);
    if (json_is_true(json_object_get(info, "encrypted")))
        printf("encrypted: yes\n");
    if (json_object_get(info, "cluster-size"))
        printf("cluster_size: %" JSON_INTEGER_FORMAT "\n", number(info, "cluster-size"));
    if (json_is_true(json_object_get(info, "dirty-flag")))
        printf("cleanly shut down: no\n");
    print_backing(info);
    if (json_array_size(snapshots))
        printf("Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK",
               "ICOUNT");
    for (size_t i = 0; i < json_array_size(snapshots); i++)
        print_snapshot(json_array_get(snapshots, i));
    if (json_object_size(specific)) {
        printf("Format specific information:\n");
        print_members(specific, 1);
    }
}

/* ---- the chain ---- */

/* Of the image itself: a file of data beside it counts as another one. */
static weir_co_fn json_t *describe(struct weir_edge *edge)
{
    struct weir_edge *file = weir_node_primary(edge->node);
    int64_t allocated = weir_node_allocated_size(file ? file->node : edge->node);
    json_t *info = weir_node_image_info(edge->node, allocated);

    if (!json_object_get(info, "dirty-flag"))
        json_object_set_new(info, "dirty-flag", json_false());
    return info;
}

static bool is_listed(const json_t *list, const char *name)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        if (!strcmp(text(json_array_get(list, i), "filename"), name))
            return true;
    }
    return false;
}

/* Appends the image, and with @chain those below it, to @list. */
static weir_co_fn int collect(const struct img *img, const char *name, struct img_open how, bool chain,
                              json_t *list)
{
    while (name) {
        struct weir_error *err = NULL;
        struct weir_edge *edge;
        json_t *info;

        /* The first may be known by any name; a loop comes by those that follow. */
        if (is_listed(list, name)) {
            img_complain(img, "Backing file '%s' creates an infinite loop.", name);
            return 1;
        }
        if (img_open(name, &how, &edge, &err)) {
            img_fail(img, err, "Could not open '%s'", name);
            return 1;
        }
        info = describe(edge);
        img_close(edge);
        json_array_append_new(list, info);
        name = chain ? text(info, "full-backing-filename") : NULL;
        if (chain && !name && text(info, "backing-filename")) {
            img_complain(img, "Could not determine the path of backing file '%s'",
                         text(info, "backing-filename"));
            return 1;
        }
        how.format = text(info, "backing-filename-format");
        how.options = false;
    }
    return 0;
}

static void print_list(const json_t *list, bool json, bool chain)
{
    if (json) {
        img_print_json(chain ? list : json_array_get(list, 0));
        return;
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        printf("%s", i ? "\n" : "");
        print_human(json_array_get(list, i));
    }
}

int img_info(struct img *img, int argc, char **argv)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, IMG_OPT_OUTPUT },
        { "backing-chain", no_argument, NULL, IMG_OPT_BACKING_CHAIN },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
        { "force-share", no_argument, NULL, 'U' },
        { NULL, 0, NULL, 0 },
    };
    struct img_common common = { .how.no_backing = true };
    bool chain = false;
    int c, status = -1;
    json_t *list;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":hf:U", longs)) != -1) {
        if (c == IMG_OPT_BACKING_CHAIN)
            chain = true;
        else
            status = img_common_option(img, c, &common);
    }
    if (status < 0 && optind != argc - 1)
        status = img_usage(img, "Expecting one image file name");
    if (status < 0)
        status = img_common_check(img, common.how.options, common.how.format);
    if (status >= 0)
        return status;
    list = json_array();
    status = collect(img, argv[optind], common.how, chain, list);
    if (!status)
        print_list(list, common.json, chain);
    json_decref(list);
    return status;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img map: where the bytes of an image are, through its backing chain.
 */
#include "tools/img.h"

#include <stdio.h>
#include <string.h>

struct map {
    bool json;
    bool begun; /* an entry was printed */
    uint64_t start, length;
    struct weir_status status; /* of the entry; its length is not used */
};

static void print_json(struct map *map)
{
    const struct weir_status *status = &map->status;

    printf(
        "%s{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, \"zero\": %s, "
        "\"data\": %s",
        map->begun ? ",\n" : "", map->start, map->length, status->depth, status->allocated ? "true" : "false",
        status->zero ? "true" : "false", status->data ? "true" : "false");
    if (status->file)
        printf(", \"offset\": %" PRIu64, status->file_offset);
    printf("}");
    map->begun = true;
}

/* Plain data only; 1 after a complaint about data that is not plain. */
static int print_human(const struct img *img, struct map *map)
{
    const struct weir_status *status = &map->status;

    if (!status->data || status->zero)
        return 0;
    if (!status->file) {
        img_complain(img, "File contains external, encrypted or compressed clusters.");
        return 1;
    }
    printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", map->start, map->length, status->file_offset,
           weir_node_file_name(status->file));
    return 0;
}

static int print_entry(const struct img *img, struct map *map)
{
    if (!map->json)
        return map->length ? print_human(img, map) : 0;
    print_json(map);
    return 0;
}

static bool continues(const struct map *map, const struct weir_status *next)
{
    const struct weir_status *last = &map->status;

    return map->length && last->zero == next->zero && last->data == next->data &&
           last->allocated == next->allocated && last->depth == next->depth && last->file == next->file &&
           (!next->file || last->file_offset + map->length == next->file_offset);
}

static weir_co_fn int walk(const struct img *img, struct map *map, struct weir_edge *edge, uint64_t start,
                           uint64_t end)
{
    uint64_t offset = start;
    int ret = 0;

    map->start = start;
    while (offset < end && !ret) {
        struct weir_status status;

        ret = weir_root_status(edge, offset, end - offset, WEIR_REQUEST_DEEP | WEIR_REQUEST_BULK, &status);
        if (ret) {
            img_complain(img, "Could not read file metadata: %s", strerror(-ret));
            return 1;
        }
        if (continues(map, &status)) {
            map->length += status.length;
        } else {
            ret = map->length ? print_entry(img, map) : 0;
            map->start = offset;
            map->length = status.length;
            map->status = status;
        }
        offset += status.length;
    }
    return ret ? ret : print_entry(img, map);
}

static weir_co_fn int map_image(const struct img *img, bool json, struct weir_edge *edge, uint64_t start,
                                uint64_t max)
{
    uint64_t size = weir_node_size(edge->node);
    uint64_t end = start < size ? start + WEIR_MIN(max, size - start) : start;
    struct map map = { .json = json };
    int status;

    printf("%s", json ? "[" : "Offset          Length          Mapped to       File\n");
    status = walk(img, &map, edge, start, end);
    if (json && !status)
        printf("]\n");
    return status;
}

struct arguments {
    struct img_common common;
    uint64_t start, max;
};

/* -1 to go on, or the exit status. */
static int parse(struct img *img, int argc, char **argv, struct arguments *arguments)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "format", required_argument, NULL, 'f' },
        { "output", required_argument, NULL, IMG_OPT_OUTPUT },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
        { "force-share", no_argument, NULL, 'U' },
        { "start-offset", required_argument, NULL, 's' },
        { "max-length", required_argument, NULL, 'l' },
        { NULL, 0, NULL, 0 },
    };
    int c, status = -1;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":hf:s:l:U", longs)) != -1) {
        if (c == 's')
            status = img_size(img, "start offset", optarg, &arguments->start) ? -1 : 1;
        else if (c == 'l')
            status = img_size(img, "max length", optarg, &arguments->max) ? -1 : 1;
        else
            status = img_common_option(img, c, &arguments->common);
    }
    if (status < 0 && optind != argc - 1)
        status = img_usage(img, "Expecting one image file name");
    return status < 0 ? img_common_check(img, arguments->common.how.options, arguments->common.how.format)
                      : status;
}

int img_map(struct img *img, int argc, char **argv)
{
    struct arguments arguments = { .max = INT64_MAX };
    struct weir_error *err = NULL;
    struct weir_edge *edge;
    int status = parse(img, argc, argv, &arguments);

    if (status >= 0)
        return status;
    if (img_open(argv[optind], &arguments.common.how, &edge, &err)) {
        img_fail(img, err, "Could not open '%s'", argv[optind]);
        return 1;
    }
    status = map_image(img, arguments.common.json, edge, arguments.start, arguments.max);
    img_close(edge);
    return status;
}

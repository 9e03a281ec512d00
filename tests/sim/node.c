/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening nodes on images, with the options that the seed has drawn.
 */
#include "seed.h"

#include "graph/reopen.h"
#include <errno.h>
#include <stdio.h>

/* Of what is in flight: as for every drain. */
#define REOPEN_LIMIT_NS (5 * 1000000000LL)

static json_t *leaf_options(const struct image *image, const char *suffix, bool direct)
{
    char name[16];

    (void)snprintf(name, sizeof(name), "%s-%s", image->name, suffix);
    return json_pack("{s:s, s:s, s:s, s:{s:b}}", "driver", "file", "filename", name, "node-name", name,
                     "cache", "direct", direct);
}

static json_t *read_only_file(const char *name)
{
    return json_pack("{s:s, s:s, s:s, s:b}", "driver", "file", "filename", name, "locking", "off",
                     "read-only", 1);
}

static json_t *backing_options(void)
{
    if (!seed.middle)
        return read_only_file("base");
    return json_pack("{s:s, s:b, s:o, s:o}", "driver", "qcow2", "read-only", 1, "file",
                     read_only_file("middle"), "backing", read_only_file("base"));
}

static void set_choice(json_t *options, const char *name, unsigned choice)
{
    if (choice == 1 || choice == 2)
        json_object_set_new(options, name, json_boolean(choice == 1));
}

static void qcow2_options(const struct image *image, json_t *options)
{
    const struct image_qcow2 *q = &image->qcow2;
    uint64_t cluster = (uint64_t)1 << q->params.cluster_bits;

    json_object_set_new(options, "cache-size", json_integer((json_int_t)(image->cache * cluster)));
    set_choice(options, "lazy-refcounts", q->lazy);
    set_choice(options, "discard-no-unref", q->no_unref);
    set_choice(options, "pass-discard-request", q->pass_request);
    set_choice(options, "pass-discard-snapshot", q->pass_snapshot);
    set_choice(options, "pass-discard-other", q->pass_other);
}

static json_t *node_options(const struct image *image)
{
    static const char *const detect[] = { "on", "unmap", "off" };
    static const char *const drivers[] = { "raw", "simfmt", "qcow2" };
    unsigned detects =
        image->detect_zeroes == 1 && image->keeps_discards ? 0 : WEIR_MIN(image->detect_zeroes, 2u);
    json_t *options =
        json_pack("{s:s, s:s, s:s, s:s, s:o}", "driver", drivers[image->kind], "node-name", image->name,
                  "discard", image->keeps_discards ? "ignore" : "unmap", "detect-zeroes", detect[detects],
                  "file", leaf_options(image, "file", image->direct));

    if (image->window) {
        json_object_set_new(options, "offset", json_integer((json_int_t)image->window_offset));
        json_object_set_new(options, "size", json_integer((json_int_t)seed.plan.size));
    }
    if (image->data_file)
        json_object_set_new(options, "data-file", leaf_options(image, "data", image->data_direct));
    if (image->kind == IMAGE_SIMFMT)
        json_object_set_new(options, "x-cache", json_integer(image->cache * SIMFMT_BLOCK));
    if (image->kind == IMAGE_QCOW2)
        qcow2_options(image, options);
    if (image->kind != IMAGE_RAW && image->backing)
        json_object_set_new(options, "backing", backing_options());
    return options;
}

/* Other options while guests work: how files are opened, and how many tables are cached. */
weir_co_fn void image_reopen(struct image *image)
{
    struct image changed = *image;
    struct weir_reopen *reopen = NULL;
    struct weir_drain drain = { 0 };
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *const *nodes;
    unsigned count;
    json_t *options;
    int ret;

    if (!image->large_sectors && !seed.plan.phase) {
        changed.direct = pick(2);
        changed.data_direct = pick(2);
    }
    changed.cache = 1 + (unsigned)pick(2 * image->cache);
    options = node_options(&changed);
    weir_graph_lock();
    ret = weir_reopen_plan(&options, 1, &reopen, &err);
    if (!ret) {
        nodes = weir_reopen_nodes(reopen, &count);
        ret = weir_drain_begin(&drain, nodes, count, REOPEN_LIMIT_NS, &err);
    }
    if (!ret) {
        struct weir_tran *tran = weir_tran_new();

        ret = weir_reopen_edit(reopen, tran, &err);
        if (!ret && !pick(4))
            ret = -ECANCELED;
        ret = weir_tran_end(tran, ret, &err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    weir_reopen_free(reopen);
    json_decref(options);
    CHECK(!ret || ret == -ECANCELED || seed.plan.faults, "reopening image %s: %s", image->name,
          weir_error_text(err));
    if (!ret)
        *image = changed;
    seed.totals.reopenings += !ret;
}

weir_co_fn struct weir_node *image_open(const struct image *image)
{
    WEIR_AUTO_ERROR err = NULL;
    json_t *options = node_options(image);
    struct weir_node *node = NULL;
    int ret;

    CHECK(options, "no options for an image");
    ret = weir_node_add(options, true, &node, &err);
    json_decref(options);
    if (ret && seed.plan.faults && image != &seed.images[0])
        return NULL;
    CHECK(!ret, "could not open image %s: %s", image->name, weir_error_text(err));
    /* A power cut may have left the size that an operator was about to take back. */
    CHECK(weir_node_size(node) == seed.plan.size ||
              (seed.was_cut && seed.plan.resizes && weir_node_size(node) > seed.plan.size),
          "image %s has %llu bytes", image->name, (unsigned long long)weir_node_size(node));
    return node;
}

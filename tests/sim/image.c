/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images: files in the simulated world and the nodes on them.
 */
#include "seed.h"

#include "base/alloc.h"
#include <stdio.h>
#include <string.h>

/* ---- sectors ---- */

static uint64_t word_of(uint64_t value, unsigned i)
{
    return value & 1 ? value + i * 0x9e3779b97f4a7c15ull : value;
}

void sector_fill(uint8_t *bytes, uint64_t value)
{
    for (unsigned i = 0; i < SECTOR / 8; i++) {
        uint64_t word = word_of(value, i);

        memcpy(bytes + 8 * i, &word, 8);
    }
}

static bool is_stamp(const uint8_t *bytes, uint64_t from, uint64_t end, uint64_t value)
{
    uint64_t word;

    for (uint64_t i = from / 8; i < end / 8; i++) {
        memcpy(&word, bytes + 8 * i, 8);
        if (word != word_of(value, (unsigned)i))
            return false;
    }
    return true;
}

bool sector_value(const uint8_t *bytes, uint64_t from, uint64_t end, uint64_t *ret_value)
{
    uint64_t word, odd;

    memcpy(&word, bytes + from, 8);
    odd = word - from / 8 * 0x9e3779b97f4a7c15ull;
    *ret_value = odd & 1 && is_stamp(bytes, from, end, odd) ? odd : word;
    return is_stamp(bytes, from, end, *ret_value);
}

/* ---- files ---- */

static bool backed(void)
{
    return seed.images[0].simfmt && seed.images[0].backing;
}

/* The backing file holds even stamps below 2^20 in the zone of all, small bytes elsewhere. */
static uint8_t base_byte(uint64_t offset)
{
    return (uint8_t)(offset * 7 / 5 % 64);
}

uint64_t image_initial(uint64_t sector)
{
    if (!backed() || (sector + 1) * SECTOR > seed.base_size || sector % 3 == 2)
        return 0;
    return 2 * (sector + 1);
}

void image_fill_base(void)
{
    uint8_t *bytes = weir_alloc(seed.base_size + SECTOR);

    for (uint64_t i = seed.shared_sectors * SECTOR; i < seed.base_size; i++)
        bytes[i] = base_byte(i);
    for (uint64_t s = 0; s < seed.shared_sectors && (s + 1) * SECTOR <= seed.base_size; s++)
        sector_fill(bytes + s * SECTOR, s % 3 == 2 ? 0 : 2 * (s + 1));
    weir_sim_file_put(seed.base, 0, bytes, seed.base_size);
    for (unsigned q = 0; q < seed.plan.queues; q++) {
        struct shadow *zone = &seed.queues[q].zone;
        uint8_t *fresh = weir_alloc(zone->length);

        for (uint64_t i = 0; i < zone->length; i++)
            fresh[i] = backed() && zone->offset + i < seed.base_size ? bytes[zone->offset + i] : 0;
        shadow_settle(zone, zone->offset, zone->length, fresh);
        free(fresh);
    }
    free(bytes);
}

static struct weir_sim_file *new_file(const struct image *image, const char *suffix, uint64_t size)
{
    struct weir_sim_file_options options = { .size = size };
    char name[16];

    /* A disk on a raw file has the size of the file, which large sectors would have to divide. */
    if (image->large_sectors && (image->simfmt || image->window)) {
        options.logical_block = options.memory_align = 4096;
        options.size = weir_align_up(size, 4096);
    }
    (void)snprintf(name, sizeof(name), "%s-%s", image->name, suffix);
    options.remote = image->remote;
    options.no_punch = pick(10) == 0;
    options.no_zero_range = pick(10) == 0;
    options.no_extents = pick(10) == 0;
    options.no_nowait = pick(10) == 0;
    return weir_sim_file_new(name, &options);
}

static void make_simfmt(struct image *image)
{
    const struct plan *plan = &seed.plan;
    uint64_t guest = (plan->size + plan->unit - 1) / plan->unit, host = guest, meta;
    char block[SIMFMT_BLOCK] = { 0 };

    /* Tight: less than the guests could fill. Else enough for all, and for what is in flight or in packing. */
    if (plan->tight)
        host = guest / 2 + pick(guest / 2);
    else if (!plan->exact)
        host = guest + QUEUES_MAX * 8 + (plan->snapshots ? pick(guest) : 0);
    (void)simfmt_layout(plan->size, plan->unit, host, image->data_file, &image->header);
    host += image->header.first_unit;
    meta = simfmt_layout(plan->size, plan->unit, host, image->data_file, &image->header);
    WEIR_ASSERT(host <= WEIR_ARRAY_SIZE(image->leaked));
    memcpy(block, &image->header, sizeof(image->header));
    image->file = new_file(image, "file", weir_align_up(image->data_file ? meta : host * plan->unit, 4096));
    weir_sim_file_put(image->file, 0, block, sizeof(block));
    if (image->data_file)
        image->data = new_file(image, "data", host * plan->unit);
}

void image_make_all(void)
{
    struct weir_sim_file_options options = { .size = 0 };

    seed.base_size = pick(4) ? seed.plan.size : SECTOR + pick(seed.plan.size);
    seed.base = weir_sim_file_new("base", &options);
    for (unsigned i = 0; i < IMAGES_MAX; i++) {
        struct image *image = &seed.images[i];

        /* A copy that has the same backing would show it where the source does not. */
        if (i)
            image->backing = image->backing && backed();
        if (image->simfmt)
            make_simfmt(image);
        else
            image->file = new_file(image, "file",
                                   weir_align_up(seed.plan.size, 512) +
                                       (image->window ? image->window_offset + 512 : 0));
    }
    /* The size of a disk on a raw file is that of the file. */
}

uint64_t image_file_offset(const struct image *image)
{
    return image->window ? image->window_offset : 0;
}

/* ---- nodes ---- */

static json_t *leaf_options(const struct image *image, const char *suffix, bool direct)
{
    char name[16];

    (void)snprintf(name, sizeof(name), "%s-%s", image->name, suffix);
    return json_pack("{s:s, s:s, s:s, s:{s:b}}", "driver", "file", "filename", name, "node-name", name,
                     "cache", "direct", direct);
}

static json_t *node_options(const struct image *image)
{
    static const char *const detect[] = { "on", "unmap", "off" };
    unsigned detects =
        image->detect_zeroes == 1 && image->keeps_discards ? 0 : WEIR_MIN(image->detect_zeroes, 2u);
    json_t *options =
        json_pack("{s:s, s:s, s:s, s:s, s:o}", "driver", image->simfmt ? "simfmt" : "raw", "node-name",
                  image->name, "discard", image->keeps_discards ? "ignore" : "unmap", "detect-zeroes",
                  detect[detects], "file", leaf_options(image, "file", image->direct));

    if (image->window) {
        json_object_set_new(options, "offset", json_integer((json_int_t)image->window_offset));
        json_object_set_new(options, "size", json_integer((json_int_t)seed.plan.size));
    }
    if (image->data_file)
        json_object_set_new(options, "data-file", leaf_options(image, "data", image->data_direct));
    if (image->simfmt)
        json_object_set_new(options, "x-cache", json_integer(image->cache * SIMFMT_BLOCK));
    if (image->simfmt && image->backing)
        json_object_set_new(options, "backing",
                            json_pack("{s:s, s:s, s:s, s:b}", "driver", "file", "filename", "base", "locking",
                                      "off", "read-only", 1));
    return options;
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
    CHECK(weir_node_size(node) == seed.plan.size, "image %s has %llu bytes", image->name,
          (unsigned long long)weir_node_size(node));
    return node;
}

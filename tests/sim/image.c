/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images: files in the simulated world, and what is in them when a seed begins.
 *
 * Guests see the pattern of fill_pattern() where their disk has a backing, or where clusters of it were laid down
 * before; else zeroes. With two layers behind it each cluster is in one of them, and the other one holds garbage.
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
    return seed.images[0].kind != IMAGE_RAW && seed.images[0].backing;
}

/* Even stamps below 2^20 in the zone of all, small bytes elsewhere. */
static uint8_t base_byte(uint64_t offset)
{
    return (uint8_t)(offset * 7 / 5 % 64);
}

uint64_t image_initial(uint64_t sector)
{
    if ((sector + 1) * SECTOR > seed.initial_end || sector % 3 == 2)
        return 0;
    return 2 * (sector + 1);
}

/* [0, @end): the disk. */
static void fill_pattern(uint8_t *bytes, uint64_t end)
{
    for (uint64_t i = seed.shared_sectors * SECTOR; i < end; i++)
        bytes[i] = base_byte(i);
    for (uint64_t s = 0; s < seed.shared_sectors && (s + 1) * SECTOR <= end; s++)
        sector_fill(bytes + s * SECTOR, s % 3 == 2 ? 0 : 2 * (s + 1));
}

static struct weir_sim_file *new_file(const struct image *image, const char *suffix, uint64_t size)
{
    struct weir_sim_file_options options = { .size = size };
    char name[16];

    /* A disk on a raw file has the size of the file, which large sectors would have to divide. */
    if (image->large_sectors && (image->kind != IMAGE_RAW || image->window)) {
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

/* ---- qcow2 ---- */

struct qcow2_medium image_medium(const struct image *image)
{
    return (struct qcow2_medium){ image->file, image->data_file ? image->data : NULL };
}

/* A disk with large sectors ends with a whole one. */
static void pad_file(const struct image *image)
{
    uint64_t size = weir_sim_file_size(image->file), end = weir_align_up(size, 4096);
    uint8_t zeroes[4096] = { 0 };

    if (image->large_sectors)
        weir_sim_file_put(image->file, size, zeroes, end - size);
}

static void make_qcow2(struct image *image)
{
    uint64_t cluster = (uint64_t)1 << image->qcow2.params.cluster_bits;
    struct qcow2_medium medium;

    image->qcow2.params.size = seed.plan.size;
    image->file = new_file(image, "file", 0);
    if (image->data_file)
        image->data = new_file(image, "data",
                               weir_align_up(seed.plan.size, pick(2) ? cluster : WEIR_MIN(cluster, 512u)));
    medium = image_medium(image);
    qcow2_medium_make(&medium, &image->qcow2.params);
}

/* What the making of it has left, to tell what guests do from it. */
static void note_qcow2(struct image *image)
{
    struct qcow2_medium medium = image_medium(image);
    struct qcow2_medium_report report;

    pad_file(image);
    qcow2_medium_walk(&medium, "a fresh image", &report);
    image->qcow2.known_leaks = report.leaks;
    image->qcow2.made_blocks = report.count_blocks;
    image->qcow2.table_offset = report.count_table_offset;
    image->qcow2.l1_offset = report.l1_offset;
}

static bool all_zero(const uint8_t *bytes, uint64_t length)
{
    return !bytes[0] && !memcmp(bytes, bytes + 1, length - 1);
}

/* Lays down one cluster that reads as @bytes. */
static void lay(const struct qcow2_medium *medium, const struct qcow2_medium_params *params, uint64_t number,
                const uint8_t *bytes)
{
    uint64_t cluster = (uint64_t)1 << params->cluster_bits;
    bool zero = params->version == 3 && all_zero(bytes, cluster);
    uint8_t *junk = weir_alloc(cluster);

    memset(junk, params->data_raw ? 0 : 0xa5, cluster);
    if (zero && pick(2))
        (void)qcow2_medium_lay(medium, number, junk, pick(2) ? QCOW2_LAY_ZERO : QCOW2_LAY_KEPT);
    else if (medium->data || pick(3) == 0 || !qcow2_medium_lay(medium, number, bytes, QCOW2_LAY_STORED))
        (void)qcow2_medium_lay(medium, number, bytes, QCOW2_LAY_PLAIN);
    free(junk);
}

/* The image in the middle of a chain: some clusters, in whose place the base is made to hold garbage. */
static void make_middle(uint8_t *bytes)
{
    struct qcow2_medium_params params = {
        .size = weir_align_up(seed.base_size, SECTOR),
        .version = pick(3) ? 3 : 2,
        .cluster_bits = 9 + (unsigned)pick(5),
        .refcount_order = 4,
    };
    struct qcow2_medium medium = { .file = weir_sim_file_new("middle", NULL) };
    uint64_t cluster = (uint64_t)1 << params.cluster_bits, whole = seed.base_size >> params.cluster_bits;

    params.zstd = params.version == 3 && pick(3) == 0;
    qcow2_medium_make(&medium, &params);
    for (uint64_t i = 0, at = 0; i < 24 && at < whole; i++, at += 1 + pick(4)) {
        lay(&medium, &params, at, bytes + at * cluster);
        memset(bytes + at * cluster, 0xa5, cluster);
    }
    seed.middle = medium.file;
}

static void read_base(void *arg, uint64_t offset, uint64_t length, uint8_t *out)
{
    weir_sim_file_peek(seed.base, offset, out, length);
}

void image_read_behind(void *arg, uint64_t offset, uint64_t length, uint8_t *out)
{
    const struct image *image = arg;
    uint64_t end = weir_align_up(seed.base_size, SECTOR),
             inside = offset < end ? least(length, end - offset) : 0;
    struct qcow2_medium middle = { .file = seed.middle };

    memset(out, 0, length);
    if (!image->backing || !inside)
        return;
    if (seed.middle)
        qcow2_medium_read(&middle, 0, offset, inside, out, read_base, NULL);
    else
        read_base(NULL, offset, inside, out);
}

void image_snapshot_offline(void)
{
    struct image *image = &seed.images[seed.current];
    struct qcow2_medium medium = image_medium(image);

    if (image->kind != IMAGE_QCOW2 || !seed.plan.offline_snapshots ||
        image->qcow2.snapshots == SNAPSHOTS_MAX || pick(5) == 0 || !qcow2_medium_snapshot(&medium))
        return;
    pad_file(image);
    image->qcow2.snapshot_hash[image->qcow2.snapshots++] = check_qcow2_hash(image, 0);
    seed.totals.qcow2_snapshots++;
}

/* ---- all of them ---- */

void image_make_all(void)
{
    struct weir_sim_file_options options = { .size = 0 };

    seed.base_size = pick(4) ? seed.plan.size : SECTOR + pick(seed.plan.size);
    if (seed.plan.resizes && pick(3) == 0)
        seed.base_size = seed.plan.size + pick(65536); /* must not show when the disk grows */
    seed.base = weir_sim_file_new("base", &options);
    for (unsigned i = 0; i < IMAGES_MAX; i++) {
        struct image *image = &seed.images[i];

        /* A copy that has the same backing would show it where the source does not. */
        if (i) {
            image->backing = image->backing && backed();
            image->qcow2.laid = 0;
        }
        if (image->kind == IMAGE_QCOW2)
            make_qcow2(image);
        else if (image->kind == IMAGE_SIMFMT)
            make_simfmt(image);
        else
            image->file = new_file(image, "file",
                                   weir_align_up(seed.plan.size, 512) +
                                       (image->window ? image->window_offset + 512 : 0));
    }
    /* The size of a disk on a raw file is that of the file. */
}

/* What guests see is laid down in the first image itself too, in part or, without a backing, all of it. */
static void fill_first(const uint8_t *bytes)
{
    struct image *image = &seed.images[0];
    struct qcow2_medium medium = image_medium(image);
    uint64_t cluster = (uint64_t)1 << image->qcow2.params.cluster_bits;

    for (uint64_t i = 0; i < image->qcow2.laid && (i + 1) * cluster <= seed.plan.size; i++)
        lay(&medium, &image->qcow2.params, i, bytes + i * cluster);
}

/* Where external data is raw, all of it is mapped from the beginning: else a power cut leaves two different disks. */
static void map_raw(struct image *image)
{
    struct qcow2_medium medium = image_medium(image);
    uint64_t cluster = (uint64_t)1 << image->qcow2.params.cluster_bits;
    uint64_t laid = least(image->qcow2.laid, seed.plan.size / cluster);
    uint8_t *zeroes = weir_alloc(cluster);

    for (uint64_t i = laid; i * cluster < seed.plan.size; i++)
        (void)qcow2_medium_lay(&medium, i, zeroes, QCOW2_LAY_PLAIN);
    free(zeroes);
}

void image_fill_all(void)
{
    struct image *first = &seed.images[0];
    uint64_t laid_end = (uint64_t)first->qcow2.laid << first->qcow2.params.cluster_bits;
    uint64_t cluster = (uint64_t)1 << first->qcow2.params.cluster_bits;
    uint8_t *bytes = weir_alloc(WEIR_MAX(seed.base_size, seed.plan.size) + cluster);

    seed.initial_end = backed() ? seed.base_size : WEIR_MIN(laid_end, seed.plan.size & ~(cluster - 1));
    fill_pattern(bytes, seed.initial_end);
    for (unsigned q = 0; q < seed.plan.queues; q++) {
        struct shadow *zone = &seed.queues[q].zone;

        shadow_settle(zone, zone->offset, zone->length, bytes + zone->offset);
    }
    if (first->kind == IMAGE_QCOW2)
        fill_first(bytes);
    for (unsigned i = 0; i < IMAGES_MAX; i++) {
        if (seed.images[i].kind == IMAGE_QCOW2 && seed.images[i].qcow2.params.data_raw)
            map_raw(&seed.images[i]);
        if (seed.images[i].kind == IMAGE_QCOW2)
            note_qcow2(&seed.images[i]);
    }
    if (backed() && seed.plan.chain > 1)
        make_middle(bytes);
    weir_sim_file_put(seed.base, 0, bytes, seed.base_size);
    if (first->qcow2.laid)
        image_snapshot_offline();
    seed.totals.qcow2_deep_chains = seed.middle && first->kind == IMAGE_QCOW2;
    free(bytes);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Judging qcow2 metadata on the medium: all references are collected, then compared with the counts.
 *
 * Every cluster has one use. Tables have one reference, L2 tables one from each L1 table; a data cluster has at most
 * one from each L1 table; stored (compressed) ones share. After that: count >= references, and COPIED in the active
 * tables is set exactly where the count is one.
 */
#include "qcow2_medium_internal.h"

#include "base/alloc.h"
#include <string.h>

/* More than this no image of the tests has. */
#define CLUSTERS_MAX ((uint64_t)1 << 22)

enum use { USE_NONE, USE_TABLE, USE_L2, USE_DATA, USE_STORED };
static const char *const use_names[] = { "nothing", "a table", "an L2 table", "data", "stored data" };

struct walk {
    const struct qcow2_medium *medium;
    const char *where;
    struct medium_header header;
    struct qcow2_medium_report *report;
    uint64_t clusters, end; /* clusters that can be counted; bytes of the file */
    uint64_t referred;      /* behind the last cluster that something refers to */
    uint16_t *references;
    uint8_t *uses, *seen; /* seen: the last L1 table that referred to it, + 1 */
    uint8_t **blocks;     /* by index; NULL: none */
    unsigned l1;          /* the L1 table that is walked, 0: the active one */
};

#define FAIL(walk, format, ...) qcow2_medium_fail("%s: " format, (walk)->where, __VA_ARGS__)
#define HEX(value) ((unsigned long long)(value))

static void refer(struct walk *walk, uint64_t offset, enum use use, const char *what)
{
    uint64_t cluster = offset >> walk->header.bits;
    bool once = use == USE_L2 || use == USE_DATA;

    if (cluster >= walk->clusters || (use != USE_STORED && offset & (walk->header.cluster - 1)))
        FAIL(walk, "%s at %#llx: a wild pointer", what, HEX(offset));
    if (walk->uses[cluster] && (walk->uses[cluster] != use || use == USE_TABLE))
        FAIL(walk, "%s at %#llx overlaps %s", what, HEX(offset), use_names[walk->uses[cluster]]);
    if (once && walk->seen[cluster] == walk->l1 + 1)
        FAIL(walk, "%s at %#llx is referred to twice", what, HEX(offset));
    if ((use == USE_TABLE || use == USE_L2) && offset + walk->header.cluster > walk->end)
        FAIL(walk, "%s at %#llx: the file ends at %#llx", what, HEX(offset), HEX(walk->end));
    walk->uses[cluster] = (uint8_t)use;
    walk->seen[cluster] = (uint8_t)(walk->l1 + 1);
    walk->references[cluster]++;
    walk->referred = WEIR_MAX(walk->referred, cluster + 1);
}

static void refer_table(struct walk *walk, uint64_t offset, uint64_t bytes, const char *what)
{
    for (uint64_t at = 0; at < bytes; at += walk->header.cluster)
        refer(walk, offset + at, USE_TABLE, what);
}

/* ---- counts ---- */

static void read_blocks(struct walk *walk)
{
    const struct medium_header *h = &walk->header;
    uint64_t entries = h->table_clusters * h->cluster / 8, last = 0;

    if (!entries || h->table_offset & (h->cluster - 1) || entries > CLUSTERS_MAX ||
        h->table_offset + entries * 8 > walk->end)
        FAIL(walk, "the refcount table of %llu entries at %#llx is out of place", HEX(entries),
             HEX(h->table_offset));
    walk->blocks = weir_new_array(uint8_t *, entries);
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t offset = medium_word(walk->medium->file, h->table_offset + i * 8);

        if (!offset)
            continue;
        if (offset & 511 || offset + h->cluster > walk->end)
            FAIL(walk, "refcount block %llu at %#llx: a wild pointer", HEX(i), HEX(offset));
        walk->blocks[i] = weir_alloc(h->cluster);
        weir_sim_file_peek(walk->medium->file, offset, walk->blocks[i], h->cluster);
        last = i + 1;
        walk->report->count_blocks++;
    }
    walk->clusters = last * h->block_entries;
    if (h->dirty) /* its counts are made anew: they may be missing */
        walk->clusters = WEIR_MAX(walk->clusters, 2 * (walk->end / h->cluster + 1));
    if (walk->clusters > CLUSTERS_MAX)
        FAIL(walk, "the refcount table covers %llu clusters", HEX(walk->clusters));
    walk->references = weir_new_array(uint16_t, walk->clusters + 1);
    walk->uses = weir_new_array(uint8_t, walk->clusters + 1);
    walk->seen = weir_new_array(uint8_t, walk->clusters + 1);
    for (uint64_t i = 0; i < last; i++) {
        if (walk->blocks[i])
            refer(walk, medium_word(walk->medium->file, h->table_offset + i * 8), USE_TABLE,
                  "a refcount block");
    }
}

static uint64_t count_of(const struct walk *walk, uint64_t cluster)
{
    const uint8_t *block = walk->blocks[cluster / walk->header.block_entries];

    return block ? medium_count_get(block, walk->header.order, cluster % walk->header.block_entries) : 0;
}

/* Behind the last cluster that is counted or referred to. A block may cover far more than there is. */
static uint64_t last_cluster(const struct walk *walk)
{
    uint64_t cluster = walk->clusters, bytes = walk->header.cluster;

    while (cluster && !walk->blocks[(cluster - 1) / walk->header.block_entries])
        cluster -= walk->header.block_entries;
    if (cluster) {
        const uint8_t *block = walk->blocks[(cluster - 1) / walk->header.block_entries];

        while (bytes && !block[bytes - 1])
            bytes--;
        cluster -= walk->header.block_entries - (bytes * 8 >> walk->header.order);
    }
    /* Rounded up: counts of more than a byte may end with zeroes. */
    return WEIR_MAX(WEIR_MIN(cluster + 1, walk->clusters), walk->referred);
}

static void compare_counts(struct walk *walk)
{
    uint64_t end = last_cluster(walk);

    for (uint64_t cluster = 0; cluster < end; cluster++) {
        uint64_t count = count_of(walk, cluster), references = walk->references[cluster];

        if (count < references)
            FAIL(walk, "cluster %llu (%s) has %llu references but a count of %llu", HEX(cluster),
                 use_names[walk->uses[cluster]], HEX(references), HEX(count));
        walk->report->leaks += count - references;
    }
}

/* ---- L1 and L2 tables ---- */

static void check_copied(struct walk *walk, uint64_t entry, uint64_t offset, const char *what)
{
    uint64_t cluster = offset >> walk->header.bits, count = count_of(walk, cluster);
    bool copied = entry & QCOW2_COPIED;

    if (walk->header.dirty)
        return;
    if (copied != (count == 1))
        FAIL(walk, "%s at %#llx %s be overwritten in place, but is counted %llu times", what, HEX(offset),
             copied ? "may" : "must not", HEX(count));
}

static void refer_stored(struct walk *walk, uint64_t entry)
{
    uint64_t offset, length;

    medium_stored_range(&walk->header, entry, &offset, &length);
    if (walk->header.external || entry & QCOW2_COPIED)
        FAIL(walk, "the stored cluster %#llx cannot be", HEX(entry));
    for (uint64_t c = offset >> walk->header.bits; c <= (offset + length - 1) >> walk->header.bits; c++)
        refer(walk, c == offset >> walk->header.bits ? offset : c << walk->header.bits, USE_STORED,
              "a stored cluster");
    walk->report->stored_clusters += !walk->l1;
}

static void check_bits(struct walk *walk, uint64_t entry, uint64_t subclusters)
{
    uint64_t reserved = walk->header.version == 2 || walk->header.extended ? QCOW2_ZERO : 0;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;

    if (entry & (QCOW2_L2_RESERVED | reserved))
        FAIL(walk, "reserved bits are set in the L2 entry %#llx", HEX(entry));
    if (subclusters & subclusters >> 32 & UINT32_MAX)
        FAIL(walk, "subclusters are both stored and zero: %#llx", HEX(subclusters));
    if (walk->header.extended && subclusters & UINT32_MAX && !offset && !walk->header.external)
        FAIL(walk, "subclusters %#llx are stored nowhere", HEX(subclusters));
    if (entry & QCOW2_COPIED && !offset && !walk->header.external)
        FAIL(walk, "the L2 entry %#llx has a flag but no cluster", HEX(entry));
}

static void walk_entry(struct walk *walk, uint64_t index, uint64_t entry, uint64_t subclusters)
{
    const struct medium_header *h = &walk->header;
    uint64_t offset = entry & QCOW2_OFFSET_MASK;
    bool zero = h->extended ? !(subclusters & UINT32_MAX) : entry & QCOW2_ZERO;

    if (entry & QCOW2_COMPRESSED) {
        if (subclusters)
            FAIL(walk, "a stored cluster has subclusters: %#llx", HEX(subclusters));
        refer_stored(walk, entry);
        return;
    }
    check_bits(walk, entry, subclusters);
    if (h->external) {
        if ((offset || entry & QCOW2_COPIED) && (offset != index << h->bits || !(entry & QCOW2_COPIED)))
            FAIL(walk, "cluster %llu of external data: %#llx", HEX(index), HEX(entry));
        walk->report->data_clusters += offset && !walk->l1;
        return;
    }
    if (!offset)
        return;
    refer(walk, offset, USE_DATA, "a data cluster");
    if (!walk->l1) {
        check_copied(walk, entry, offset, "a data cluster");
        walk->report->data_clusters += !zero;
        walk->report->kept_zeroes += zero;
    }
}

static void walk_l2(struct walk *walk, uint64_t first, uint64_t offset)
{
    const struct medium_header *h = &walk->header;
    uint64_t *table = weir_alloc(h->cluster), words = h->entry_size / 8;

    weir_sim_file_peek(walk->medium->file, offset, table, h->cluster);
    for (uint64_t i = 0; i < h->l2_entries; i++) {
        uint64_t entry = be64toh(table[i * words]), sub = words > 1 ? be64toh(table[i * words + 1]) : 0;

        if (entry || sub)
            walk_entry(walk, first + i, entry, sub);
    }
    free(table);
}

static void walk_l1(struct walk *walk, uint64_t offset, uint64_t size, uint64_t disk)
{
    const struct medium_header *h = &walk->header;
    uint64_t per_l1 = h->l2_entries * h->cluster;

    if (size < (disk + per_l1 - 1) / per_l1 || size * 8 > walk->end)
        FAIL(walk, "L1 table %u has %llu entries for %llu bytes", walk->l1, HEX(size), HEX(disk));
    refer_table(walk, offset, size * 8, "an L1 table");
    for (uint64_t i = 0; i < size; i++) {
        uint64_t entry = medium_word(walk->medium->file, offset + i * 8), l2 = entry & QCOW2_OFFSET_MASK;

        if (entry & QCOW2_L1_RESERVED || (entry && !l2))
            FAIL(walk, "the L1 entry %#llx cannot be", HEX(entry));
        if (!l2)
            continue;
        refer(walk, l2, USE_L2, "an L2 table");
        if (!walk->l1) {
            check_copied(walk, entry, l2, "an L2 table");
            walk->report->l2_tables++;
            walk->report->l2_owned += !!(entry & QCOW2_COPIED);
        }
        walk_l2(walk, i * h->l2_entries, l2);
    }
}

static void walk_snapshots(struct walk *walk)
{
    const struct medium_header *h = &walk->header;
    uint64_t at = h->snapshots_offset;
    struct medium_snapshot snapshot;

    if (h->snapshots > 9)
        FAIL(walk, "there are %u snapshots", h->snapshots);
    for (unsigned i = 0; i < h->snapshots; i++) {
        medium_snapshot_read(walk->medium, h, &at, &snapshot);
        walk->l1 = i + 1;
        walk_l1(walk, snapshot.l1_offset, snapshot.l1_size, snapshot.size);
    }
    if (h->snapshots)
        refer_table(walk, h->snapshots_offset, at - h->snapshots_offset, "the snapshot table");
}

/* ---- all of it ---- */

static void walk_done(struct walk *walk)
{
    for (uint64_t i = 0; i < walk->header.table_clusters * walk->header.cluster / 8; i++)
        free(walk->blocks[i]);
    free(walk->blocks);
    free(walk->references);
    free(walk->uses);
    free(walk->seen);
}

void qcow2_medium_walk(const struct qcow2_medium *medium, const char *where,
                       struct qcow2_medium_report *ret_report)
{
    struct walk walk = { .medium = medium, .where = where, .report = ret_report };
    const struct medium_header *h = &walk.header;

    *ret_report = (struct qcow2_medium_report){ .size = 0 };
    medium_header_read(medium, &walk.header);
    walk.end = weir_sim_file_size(medium->file);
    /* A file may end inside of its last cluster, a table that stands there too. */
    read_blocks(&walk);
    refer_table(&walk, 0, 1, "the header");
    refer_table(&walk, h->table_offset, h->table_clusters * h->cluster, "the refcount table");
    walk_l1(&walk, h->l1_offset, h->l1_size, h->size);
    walk_snapshots(&walk);
    if (!h->dirty)
        compare_counts(&walk);
    ret_report->size = h->size;
    ret_report->count_table_offset = h->table_offset;
    ret_report->l1_offset = h->l1_offset;
    ret_report->snapshots = h->snapshots;
    ret_report->dirty = h->dirty;
    walk_done(&walk);
}

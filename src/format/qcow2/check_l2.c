/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counts the references to a window of host clusters: areas, refcount blocks, L2 tables and what those refer to. The
 * first time also judges the entries of the L2 tables, and clears in them what is wrong whatever the counts are.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include "graph/node.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define RUN ((uint64_t)1 << 20) /* neighbouring tables are read at once, up to that much */

/* ---- clusters ---- */

static void overlap(struct qcow2_checker *c, uint64_t cluster, unsigned kind, unsigned other)
{
    static const char *const names[] = { "guest data", "metadata", "an L2 table", "refcounts" };

    qcow2_fault(c, "ERROR cluster %" PRIu64 " is used for %s and for %s", cluster, names[other], names[kind]);
    if (!cluster || (kind != QCOW2_KIND_REFCOUNTS && other != QCOW2_KIND_REFCOUNTS))
        c->knotted = true;
    else if (kind != QCOW2_KIND_DATA && other != QCOW2_KIND_DATA)
        c->tangled = true;
    if (c->silent || (kind != QCOW2_KIND_REFCOUNTS && other != QCOW2_KIND_REFCOUNTS))
        return;
    c->rebuild = true; /* which moves the refcounts away */
    c->count_faults++;
}

/* Areas come first, data last: so a data cluster that is metadata is seen as such. */
static void count(struct qcow2_checker *c, uint64_t cluster, uint32_t refs, enum qcow2_kind kind)
{
    unsigned other;
    bool seen;

    if (!qcow2_counts_has(&c->counts, cluster))
        return;
    seen = qcow2_counts_get(&c->counts, cluster);
    if (!qcow2_counts_add(&c->counts, cluster, refs)) {
        c->no_memory = true;
        return;
    }
    other = qcow2_counts_kind(&c->counts, cluster);
    if (seen && (other != (unsigned)kind || kind == QCOW2_KIND_META || kind == QCOW2_KIND_REFCOUNTS))
        overlap(c, cluster, kind, other);
    if (!seen && kind != QCOW2_KIND_DATA)
        qcow2_counts_set_kind(&c->counts, cluster, kind);
}

static void count_region(struct qcow2_checker *c, const struct qcow2_region *region)
{
    uint64_t start = WEIR_MAX(region->first, c->counts.first);
    uint64_t end = WEIR_MIN(region->first + region->count, c->counts.first + QCOW2_COUNTS_WINDOW);

    for (uint64_t cluster = start; cluster < end; cluster++)
        count(c, cluster, 1, region->kind);
}

/* ---- entries ---- */

/* What is being judged, for the texts. */
struct entry {
    uint64_t value, bitmap;
    uint64_t guest; /* bytes; only sure where there are no snapshots */
    uint64_t *disk;
    bool *dirty;
};

/* Everything that is wrong with the clusters of tables is said once. */
static bool judging(const struct qcow2_checker *c)
{
    return !c->told && !c->silent;
}

static void clear(struct qcow2_checker *c, const struct entry *entry, unsigned word, uint64_t bits)
{
    if (!qcow2_may_correct(c))
        return;
    qcow2_note(c, "Repairing l2_entry=%016" PRIx64 ": bits cleared: %016" PRIx64, entry->value, bits);
    entry->disk[word] &= ~htobe64(bits);
    *entry->dirty = true;
    qcow2_fixed(c);
}

static void judge_compressed(struct qcow2_checker *c, const struct entry *entry)
{
    if (entry->value & QCOW2_COPIED) {
        qcow2_fault(c, "ERROR copied flag of a compressed cluster is set: l2_entry=%016" PRIx64,
                    entry->value);
        clear(c, entry, 0, QCOW2_COPIED);
    }
    if (entry->bitmap) {
        qcow2_fault(
            c, "ERROR compressed cluster has a subcluster bitmap: l2_entry=%016" PRIx64 " bitmap=%016" PRIx64,
            entry->value, entry->bitmap);
        clear(c, entry, 1, UINT64_MAX);
    }
    if (qcow2_has_data_file(&c->h))
        qcow2_fault(c,
                    "ERROR compressed cluster in an image with an external data file: l2_entry=%016" PRIx64,
                    entry->value);
}

static void count_compressed(struct qcow2_checker *c, const struct entry *entry, uint32_t refs)
{
    uint64_t offset, length, last;

    qcow2_compressed_get(entry->value & ~QCOW2_COPIED, c->h.cluster_bits, &offset, &length);
    if (!qcow2_inside(c, offset, length) || !offset) {
        if (judging(c))
            qcow2_fault(c,
                        "ERROR compressed cluster at offset 0x%" PRIx64 " of 0x%" PRIx64
                        " bytes exceeds the end of the file: l2_entry=%016" PRIx64,
                        offset, length, entry->value);
        qcow2_lost(c, offset, length);
        return;
    }
    last = (offset + length - 1) >> c->h.cluster_bits;
    for (uint64_t cluster = offset >> c->h.cluster_bits; cluster <= last; cluster++)
        count(c, cluster, refs, QCOW2_KIND_DATA);
}

static void judge_subclusters(struct qcow2_checker *c, const struct entry *entry, bool placed)
{
    uint32_t allocated = (uint32_t)entry->bitmap, zero = (uint32_t)(entry->bitmap >> 32);

    if (allocated & zero)
        qcow2_fault(
            c, "ERROR subclusters are both allocated and zero: l2_entry=%016" PRIx64 " bitmap=%016" PRIx64,
            entry->value, entry->bitmap);
    if (allocated && !placed)
        qcow2_fault(c,
                    "ERROR subclusters are allocated without a cluster: l2_entry=%016" PRIx64
                    " bitmap=%016" PRIx64,
                    entry->value, entry->bitmap);
}

static void judge_reserved(struct qcow2_checker *c, const struct entry *entry, bool sound)
{
    uint64_t wrong = entry->value & QCOW2_L2_RESERVED;
    bool zero_unknown = entry->value & QCOW2_ZERO && (c->h.version < 3 || qcow2_extended_l2(&c->h));

    if (wrong) {
        qcow2_fault(c, "ERROR L2 entry has reserved bits set: %016" PRIx64, entry->value);
        if (sound)
            clear(c, entry, 0, wrong);
    }
    /* Whether zeroes were meant is a guess. */
    if (zero_unknown)
        qcow2_fault(c, "ERROR L2 entry has the zero flag, which this image does not have: %016" PRIx64,
                    entry->value);
}

/* Guest data in the external file: @placed there, at the guest's own offset. */
static void judge_external(struct qcow2_checker *c, const struct entry *entry, uint64_t offset, bool placed)
{
    uint64_t end =
        c->data ? weir_align_up(weir_node_size(c->data->node), qcow2_cluster_size(&c->h)) : UINT64_MAX;

    if (placed && offset != entry->guest)
        qcow2_fault(c,
                    "ERROR data at offset 0x%" PRIx64 " of the external file should be at 0x%" PRIx64
                    ": l2_entry=%016" PRIx64,
                    offset, entry->guest, entry->value);
    else if (placed && offset >= end && !(entry->value & QCOW2_ZERO))
        qcow2_fault(c,
                    "ERROR data at offset 0x%" PRIx64
                    " exceeds the end of the external file: l2_entry=%016" PRIx64,
                    offset, entry->value);
}

static void count_standard(struct qcow2_checker *c, const struct entry *entry, uint32_t refs)
{
    uint64_t offset = entry->value & QCOW2_OFFSET_MASK;
    bool external = qcow2_has_data_file(&c->h);
    bool placed = offset || (external && entry->value & QCOW2_COPIED);
    bool aligned = qcow2_aligned(c, offset);
    bool sound = aligned && (external || qcow2_inside(c, offset, qcow2_cluster_size(&c->h)));

    if (judging(c)) {
        judge_reserved(c, entry, sound);
        if (qcow2_extended_l2(&c->h))
            judge_subclusters(c, entry, placed);
        if (!sound)
            qcow2_fault(c, "ERROR data cluster at offset 0x%" PRIx64 " %s: l2_entry=%016" PRIx64, offset,
                        aligned ? "exceeds the end of the file" : "is not aligned to clusters", entry->value);
        else if (external)
            judge_external(c, entry, offset, placed);
    }
    if (!sound)
        qcow2_lost(c, offset, qcow2_cluster_size(&c->h));
    else if (offset && !external)
        count(c, offset >> c->h.cluster_bits, refs, QCOW2_KIND_DATA);
}

/* ---- figures of the guest's disk ---- */

static void figure(struct qcow2_checker *c, uint64_t value, uint64_t *next)
{
    uint64_t offset = value & QCOW2_OFFSET_MASK;

    if (value & QCOW2_COMPRESSED) {
        c->r.allocated_clusters++;
        c->r.compressed_clusters++;
        c->r.fragmented_clusters++; /* never where the one before would let expect it */
        return;
    }
    /* Place 0 of external data is told from none by the copied flag, but not where it is all zeroes. */
    if (!offset && (!qcow2_has_data_file(&c->h) || !(value & QCOW2_COPIED) || value & QCOW2_ZERO))
        return;
    c->r.allocated_clusters++;
    if (*next && offset != *next)
        c->r.fragmented_clusters++;
    *next = offset + qcow2_cluster_size(&c->h);
}

static void count_table(struct qcow2_checker *c, const struct qcow2_l2 *l2, uint64_t *table, bool *dirty)
{
    uint64_t step = qcow2_l2_entry_size(&c->h) / 8, entries = qcow2_l2_entries(&c->h);
    uint64_t guest = (uint64_t)l2->l1_index * entries << c->h.cluster_bits, next = 0;
    bool extended = step == 2, figures = judging(c) && l2->where & QCOW2_L2_ACTIVE;

    for (uint64_t i = 0; i < entries; i++) {
        struct entry entry = { be64toh(table[i * step]), extended ? be64toh(table[i * 2 + 1]) : 0,
                               guest + (i << c->h.cluster_bits), &table[i * step], dirty };

        if (!entry.value && !entry.bitmap)
            continue;
        if (entry.value & QCOW2_COMPRESSED) {
            if (judging(c))
                judge_compressed(c, &entry);
            count_compressed(c, &entry, l2->refs);
        } else {
            count_standard(c, &entry, l2->refs);
        }
        if (figures)
            figure(c, entry.value, &next);
    }
}

/* ---- tables ---- */

static weir_co_fn int walk_run(struct qcow2_checker *c, const struct qcow2_l2_walk *walk,
                               const struct qcow2_l2 *l2, size_t count, uint64_t *buffer)
{
    uint64_t start = l2->where & ~QCOW2_L2_ACTIVE, size = qcow2_cluster_size(&c->h);
    int ret = qcow2_check_read(c, start, count * size, buffer);

    for (size_t i = 0; i < count; i++) {
        uint64_t *table = buffer + i * size / 8;
        bool dirty = false;

        if (ret) {
            if (judging(c))
                qcow2_unread(c, ret, "L2 table", start + i * size);
            continue;
        }
        if (walk->active_only && !(l2[i].where & QCOW2_L2_ACTIVE))
            continue;
        walk->each(c, &l2[i], table, &dirty);
        if (dirty) {
            int error = qcow2_check_write(c, start + i * size, size, table);

            if (error)
                return error;
        }
    }
    return 0;
}

int qcow2_walk_l2(struct qcow2_checker *c, const struct qcow2_l2_walk *walk)
{
    uint64_t size = qcow2_cluster_size(&c->h), most = WEIR_MAX(RUN / size, (uint64_t)1);
    weir_autofree uint64_t *buffer = c->l2_count ? weir_try_alloc(most * size, 4096) : NULL;
    size_t count;
    int ret = 0;

    if (c->l2_count && !buffer)
        return -ENOMEM;
    for (size_t i = 0; i < c->l2_count && !ret; i += count) {
        uint64_t start = c->l2[i].where & ~QCOW2_L2_ACTIVE;

        for (count = 1; count < most && i + count < c->l2_count; count++) {
            if ((c->l2[i + count].where & ~QCOW2_L2_ACTIVE) != start + count * size)
                break;
        }
        ret = walk_run(c, walk, &c->l2[i], count, buffer);
    }
    return ret;
}

int qcow2_count_window(struct qcow2_checker *c, uint64_t first, bool without_refcounts)
{
    static const struct qcow2_l2_walk walk = { .each = count_table };
    struct qcow2_region refcounts = { c->h.refcount_table_offset >> c->h.cluster_bits,
                                      c->h.refcount_table_clusters, QCOW2_KIND_REFCOUNTS };
    int ret;

    qcow2_counts_reset(&c->counts, first);
    for (size_t i = 0; i < c->region_count; i++)
        count_region(c, &c->regions[i]);
    if (!without_refcounts) {
        refcounts.count =
            WEIR_MIN(refcounts.count, c->file_clusters - WEIR_MIN(refcounts.first, c->file_clusters));
        count_region(c, &refcounts);
        for (size_t i = 0; i < c->block_count; i++) {
            if (c->blocks[i])
                count(c, c->blocks[i] >> c->h.cluster_bits, 1, QCOW2_KIND_REFCOUNTS);
        }
    }
    for (size_t i = 0; i < c->l2_count; i++)
        count(c, c->l2[i].where >> c->h.cluster_bits, c->l2[i].refs, QCOW2_KIND_L2);
    ret = qcow2_walk_l2(c, &walk);
    c->told |= !c->silent;
    return c->no_memory ? -ENOMEM : ret;
}

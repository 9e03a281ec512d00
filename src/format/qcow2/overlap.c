/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest data never goes where metadata is, whatever a damaged image says.
 *
 * What lies at fixed places is compared by range; L2 tables and refcount blocks in use are members of a set of cluster
 * numbers (open addressing, linear probing; 0 is an empty slot, as cluster 0 is the header).
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"

static uint64_t slot_of(const struct qcow2_set *set, uint64_t cluster)
{
    return cluster * 0x9e3779b97f4a7c15ULL & (set->room - 1);
}

static bool set_grow(struct qcow2_set *set)
{
    struct qcow2_set next = { .room = set->room ? 2 * set->room : 64 };

    next.slots = weir_try_alloc(next.room * sizeof(uint64_t), 8);
    if (!next.slots)
        return false;
    __builtin_memset(next.slots, 0, next.room * sizeof(uint64_t));
    for (uint64_t i = 0; i < set->room; i++) {
        uint64_t at;

        if (!set->slots[i])
            continue;
        for (at = slot_of(&next, set->slots[i]); next.slots[at]; at = (at + 1) & (next.room - 1)) {
        }
        next.slots[at] = set->slots[i];
    }
    next.count = set->count;
    free(set->slots);
    *set = next;
    return true;
}

bool qcow2_set_has(const struct qcow2_set *set, uint64_t cluster)
{
    if (!set->count)
        return false;
    for (uint64_t at = slot_of(set, cluster); set->slots[at]; at = (at + 1) & (set->room - 1)) {
        if (set->slots[at] == cluster)
            return true;
    }
    return false;
}

int qcow2_set_add(struct qcow2_set *set, uint64_t cluster)
{
    uint64_t at;

    if (!cluster || qcow2_set_has(set, cluster))
        return 0;
    if (2 * (set->count + 1) > set->room && !set_grow(set))
        return -ENOMEM;
    for (at = slot_of(set, cluster); set->slots[at]; at = (at + 1) & (set->room - 1)) {
    }
    set->slots[at] = cluster;
    set->count++;
    return 0;
}

void qcow2_set_remove(struct qcow2_set *set, uint64_t cluster)
{
    uint64_t hole, at;

    if (!qcow2_set_has(set, cluster))
        return;
    for (hole = slot_of(set, cluster); set->slots[hole] != cluster; hole = (hole + 1) & (set->room - 1)) {
    }
    /* What would not be found any more behind the hole moves into it. */
    for (at = (hole + 1) & (set->room - 1); set->slots[at]; at = (at + 1) & (set->room - 1)) {
        uint64_t home = slot_of(set, set->slots[at]);

        if (((at - home) & (set->room - 1)) >= ((at - hole) & (set->room - 1))) {
            set->slots[hole] = set->slots[at];
            hole = at;
        }
    }
    set->slots[hole] = 0;
    set->count--;
}

/* ---- what is where ---- */

struct range {
    unsigned flag;
    const char *name;
    uint64_t offset, bytes;
};

static bool touches(const struct qcow2_header *h, const struct range *range, uint64_t first,
                    uint64_t clusters)
{
    uint64_t begin = range->offset >> h->cluster_bits, end = begin + qcow2_clusters(h, range->bytes);

    return first < end && begin < first + clusters;
}

static const char *find_overlap(const struct qcow2 *q, unsigned guarded, uint64_t first, uint64_t clusters)
{
    const struct qcow2_header *h = &q->header;
    const struct range ranges[] = {
        { QCOW2_OVERLAP_HEADER, "qcow2_header", 0, 1 },
        { QCOW2_OVERLAP_ACTIVE_L1, "active L1 table", h->l1_offset, h->l1_size * (uint64_t)8 },
        { QCOW2_OVERLAP_REFCOUNT_TABLE, "refcount table", h->refcount_table_offset,
          (uint64_t)h->refcount_table_clusters << h->cluster_bits },
        { QCOW2_OVERLAP_SNAPSHOT_TABLE, "snapshot table", h->snapshots_offset, q->snapshot_bytes },
        { QCOW2_OVERLAP_BITMAP_DIRECTORY, "bitmap directory", q->bitmap_directory,
          q->bitmap_directory_bytes },
    };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(ranges); i++) {
        if ((guarded & ranges[i].flag) && touches(h, &ranges[i], first, clusters))
            return ranges[i].name;
    }
    for (uint32_t i = 0; (guarded & QCOW2_OVERLAP_INACTIVE_L1) && i < h->snapshot_count; i++) {
        const struct qcow2_snapshot *snapshot = &q->snapshots[i];
        struct range range = { 0, "", snapshot->l1_offset, snapshot->l1_size * (uint64_t)8 };

        if (touches(h, &range, first, clusters))
            return "inactive L1 table";
    }
    for (uint64_t i = 0; i < clusters; i++) {
        if ((guarded & QCOW2_OVERLAP_ACTIVE_L2) && qcow2_set_has(&q->l2_tables, first + i))
            return "L2 table";
        if ((guarded & QCOW2_OVERLAP_REFCOUNT_BLOCK) && qcow2_set_has(&q->blocks, first + i))
            return "refcount block";
        if (qcow2_set_has(&q->inactive_l2, first + i))
            return "inactive L2 table";
    }
    return NULL;
}

const char *qcow2_overlaps(struct weir_node *node, uint64_t first, uint64_t clusters)
{
    const struct qcow2 *q = node->state;

    return find_overlap(q, q->overlap, first, clusters);
}

const char *qcow2_in_use(struct weir_node *node, uint64_t first, uint64_t clusters)
{
    const struct qcow2 *q = node->state;

    return find_overlap(q, q->overlap | QCOW2_OVERLAP_CACHED, first, clusters);
}

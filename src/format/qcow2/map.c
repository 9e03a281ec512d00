/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where things are: from an L2 entry to an extent.
 *
 * An entry is looked at by subclusters; without extended L2 entries a cluster is one subcluster. An extent joins
 * subclusters, also of several clusters, that are in the same state and in a row on the host, within one L2 table.
 */
#include "format/qcow2/qcow2.h"

#include "graph/graph.h"

int qcow2_damaged(struct weir_node *node, const char *what, uint64_t where)
{
    struct qcow2 *q = node->state;
    bool writes = !node->read_only;

    if (writes && !q->failed && q->header.version >= 3) {
        q->header.incompatible |= QCOW2_INCOMPAT_CORRUPT;
        (void)!qcow2_header_put(node); /* without it nothing is written either */
    }
    if (!q->damage_told || (writes && !q->failed))
        weir_node_damaged(node, what, where, writes);
    q->damage_told = true;
    q->failed |= writes;
    return -EIO;
}

bool qcow2_has_host(const struct qcow2 *q, uint64_t word)
{
    if (word & QCOW2_COMPRESSED)
        return false;
    /* Offset 0 is the header, but a good place in a data file. */
    return (word & QCOW2_OFFSET_MASK) || (qcow2_data_apart(q) && (word & QCOW2_COPIED));
}

enum qcow2_state qcow2_state(const struct qcow2 *q, uint64_t word, uint64_t bitmap, unsigned sub)
{
    bool host = qcow2_has_host(q, word), zero, allocated = host;

    if (word & QCOW2_COMPRESSED)
        return QCOW2_STORED;
    if (qcow2_extended_l2(&q->header)) {
        zero = bitmap & QCOW2_SUB_ZERO(sub);
        allocated = bitmap & QCOW2_SUB_ALLOCATED(sub);
    } else {
        zero = q->header.version >= 3 && (word & QCOW2_ZERO);
    }
    if (zero)
        return host ? QCOW2_ZERO_ALLOCATED : QCOW2_ZERO_PLAIN;
    return allocated ? QCOW2_NORMAL : QCOW2_UNALLOCATED;
}

int qcow2_entry_check(struct weir_node *node, uint64_t word)
{
    const struct qcow2 *q = node->state;
    uint64_t offset, length;

    if (word & QCOW2_COMPRESSED) {
        qcow2_compressed_get(word, q->header.cluster_bits, &offset, &length);
        if (qcow2_data_apart(q) || offset > (uint64_t)INT64_MAX - length)
            return qcow2_damaged(node, "compressed cluster", offset);
        return 0;
    }
    if (word & QCOW2_OFFSET_MASK & (qcow2_cluster_size(&q->header) - 1))
        return qcow2_damaged(node, "cluster offset", word & QCOW2_OFFSET_MASK);
    return 0;
}

static enum weir_where where_of(enum qcow2_state state)
{
    static const enum weir_where where[] = { WEIR_UNMAPPED, WEIR_ZEROED, WEIR_ZEROED, WEIR_DATA,
                                             WEIR_ENCODED };

    return where[state];
}

/* Walks subclusters of one table. */
struct walk {
    const struct qcow2 *q;
    const uint64_t *table;
    uint64_t at, end; /* subclusters from the start of the table */
    uint64_t word, bitmap;
    enum qcow2_state state;
};

static void look(struct walk *walk)
{
    const struct qcow2_header *h = &walk->q->header;
    unsigned sub_shift = h->cluster_bits - qcow2_sub_bits(h);
    uint64_t entry = walk->at >> sub_shift;

    walk->word = qcow2_entry(h, walk->table, entry);
    walk->bitmap = qcow2_entry_bitmap(h, walk->table, entry);
    walk->state = qcow2_state(walk->q, walk->word, walk->bitmap, (unsigned)(walk->at - (entry << sub_shift)));
}

/* From the subcluster that holds @offset to the one that holds the last byte, or to the end of the table. */
static struct walk walk_begin(const struct qcow2 *q, const uint64_t *table, uint64_t offset, uint64_t length)
{
    const struct qcow2_header *h = &q->header;
    uint64_t total = qcow2_l2_entries(h) * qcow2_sub_count(h),
             first = offset >> qcow2_sub_bits(h) & (total - 1);
    uint64_t last = (offset + length - 1) >> qcow2_sub_bits(h), base = (offset >> qcow2_sub_bits(h)) - first;
    struct walk walk = { .q = q, .table = table, .at = first, .end = WEIR_MIN(last - base + 1, total) };

    look(&walk);
    return walk;
}

static uint64_t host_of(const struct walk *walk)
{
    const struct qcow2_header *h = &walk->q->header;

    return (walk->word & QCOW2_OFFSET_MASK) + ((walk->at & (qcow2_sub_count(h) - 1)) << qcow2_sub_bits(h));
}

/* A compressed cluster is read whole. */
static void stored_extent(const struct qcow2 *q, uint64_t offset, uint64_t word, struct weir_extent *extent)
{
    uint64_t size = qcow2_cluster_size(&q->header), host, length;

    qcow2_compressed_get(word, q->header.cluster_bits, &host, &length);
    *extent = (struct weir_extent){
        .where = WEIR_ENCODED,
        .flags = WEIR_EXTENT_COMPRESSED,
        .offset = weir_align_down(offset, size),
        .length = size,
        .edge = q->file,
        .child_offset = host,
        .child_length = length,
    };
}

/* Joins what goes on from the first subcluster; @in_place: only what may be overwritten. */
static void join(struct walk *walk, uint64_t offset, bool in_place, struct weir_extent *extent)
{
    const struct qcow2 *q = walk->q;
    unsigned sub_bits = qcow2_sub_bits(&q->header);
    enum weir_where where = where_of(walk->state);
    uint64_t first = walk->at, host = host_of(walk);

    do {
        walk->at++;
        if (walk->at == walk->end)
            break;
        look(walk);
        if (in_place && !qcow2_sole(q, walk->word))
            break;
    } while (where_of(walk->state) == where &&
             (where != WEIR_DATA || host_of(walk) == host + ((walk->at - first) << sub_bits)));
    *extent = (struct weir_extent){
        .where = where,
        .offset = weir_align_down(offset, (uint64_t)1 << sub_bits),
        .length = (walk->at - first) << sub_bits,
        .edge = where == WEIR_DATA ? q->data : NULL,
        .child_offset = where == WEIR_DATA ? host : 0,
        .child_length = where == WEIR_DATA ? (walk->at - first) << sub_bits : 0,
    };
}

int qcow2_map_read(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                   struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    uint64_t *table, span = qcow2_l2_entries(&q->header) << q->header.cluster_bits;
    struct walk walk;
    int ret = qcow2_l2_find(node, offset, &table, need);

    if (ret)
        return ret;
    if (!table) {
        *extent = (struct weir_extent){ .where = WEIR_UNMAPPED,
                                        .offset = weir_align_down(offset, span),
                                        .length = span };
        return 0;
    }
    walk = walk_begin(q, table, offset, length);
    ret = qcow2_entry_check(node, walk.word);
    if (ret)
        return ret;
    if (walk.state == QCOW2_STORED)
        stored_extent(q, offset, walk.word, extent);
    else
        join(&walk, offset, false, extent);
    return 0;
}

/*
 * Entries lie anywhere in tables that are larger than the caches near the processor: the misses of a batch overlap
 * here, where map would wait for each.
 */
void qcow2_prefetch(struct weir_node *node, const uint64_t *offsets, unsigned count)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t last = UINT64_MAX;
    const uint64_t *table = NULL;

    for (unsigned i = 0; i < count; i++) {
        uint64_t index = qcow2_l1_index(h, offsets[i]);

        if (index >= h->l1_size)
            continue;
        if (index != last)
            table = weir_meta_peek_level(node, be64toh(q->l1[index]) & QCOW2_OFFSET_MASK, WEIR_META_TABLE);
        last = index;
        if (table)
            __builtin_prefetch(table + qcow2_l2_index(h, offsets[i]) * qcow2_l2_entry_size(h) / 8);
    }
}

int qcow2_place_check(struct weir_node *node, const struct weir_extent *extent)
{
    const struct qcow2 *q = node->state;
    unsigned bits = q->header.cluster_bits;
    uint64_t first = extent->child_offset >> bits,
             last = (extent->child_offset + extent->child_length - 1) >> bits;

    if (!qcow2_data_apart(q) && qcow2_overlaps(node, first, last - first + 1))
        return qcow2_damaged(node, "cluster offset", extent->child_offset);
    return 0;
}

int qcow2_map_in_place(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                       struct weir_extent *extent)
{
    const struct qcow2 *q = node->state;
    struct walk walk = walk_begin(q, table, offset, length);

    if (walk.state != QCOW2_NORMAL || !qcow2_sole(q, walk.word))
        return -EAGAIN;
    if (qcow2_entry_check(node, walk.word))
        return -EIO;
    join(&walk, offset, true, extent);
    return qcow2_place_check(node, extent);
}

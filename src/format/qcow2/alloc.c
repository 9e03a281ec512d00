/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The search for free clusters, and making room to count them.
 *
 * A refcount block that is missing is made at the first cluster that it counts: that one is free, or the block would
 * be there. When the refcount table itself is full, a larger one is made behind everything that can be counted so far,
 * with the blocks that count it; header and tables follow in meta/'s order (blocks, table, header).
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"

/* Clusters beyond this cannot be pointed to. */
static uint64_t clusters_max(const struct qcow2_header *h)
{
    return ((uint64_t)1 << 55) >> h->cluster_bits;
}

/* Where the file cannot grow it ends with its last whole cluster. */
static bool beyond_file(const struct qcow2 *q, uint64_t cluster)
{
    const struct weir_node *file = q->file->node;

    return !file->limits.grows && (cluster + 1) << q->header.cluster_bits > weir_node_size(file);
}

/* ---- regions: clusters in a row behind everything that is counted so far, with the blocks that count them ---- */

struct region {
    uint64_t first, clusters;     /* what it is for */
    uint64_t first_block, blocks; /* entries of the refcount table; the blocks lie behind the clusters */
};

/* @first_block: from this entry on the refcount table is empty. */
static int plan_region(const struct qcow2 *q, uint64_t first_block, uint64_t clusters, struct region *region)
{
    uint64_t per_block = qcow2_block_entries(&q->header), blocks = 1, end;

    while (blocks * per_block < clusters + blocks)
        blocks++;
    *region = (struct region){ first_block * per_block, clusters, first_block, blocks };
    end = region->first + clusters + blocks;
    return end > clusters_max(&q->header) || beyond_file(q, end - 1) ? -ENOSPC : 0;
}

/* The blocks that count the region, themselves included. */
static int put_blocks(struct weir_node *node, const struct region *region)
{
    struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t per_block = qcow2_block_entries(h), size = qcow2_cluster_size(h);
    uint64_t used = region->clusters + region->blocks;
    int ret = 0;

    q->high_water = WEIR_MAX(q->high_water, region->first + used);
    for (uint64_t i = 0; i < region->blocks && !ret; i++) {
        weir_autofree char *block = weir_try_alloc(size, 8);

        if (!block)
            return -ENOMEM;
        __builtin_memset(block, 0, size);
        for (uint64_t n = 0; n < per_block && i * per_block + n < used; n++)
            qcow2_refcount_set(block, h->refcount_order, n, 1);
        ret = qcow2_set_add(&q->blocks, region->first + region->clusters + i);
        if (!ret)
            ret = weir_meta_put(node, (region->first + region->clusters + i) * size, size, WEIR_META_COUNTS,
                                block);
    }
    return ret;
}

static void enter_blocks(const struct qcow2 *q, const struct region *region, uint64_t *table)
{
    for (uint64_t i = 0; i < region->blocks; i++)
        table[region->first_block + i] =
            htobe64((region->first + region->clusters + i) << q->header.cluster_bits);
}

/* ---- a larger refcount table ---- */

/* Room for the region that holds the table itself, and half as much again. */
static int plan_table(const struct qcow2 *q, struct region *region)
{
    uint64_t per_cluster = qcow2_cluster_size(&q->header) / 8;
    uint64_t clusters = q->header.refcount_table_clusters;
    int ret;

    clusters += WEIR_MAX(clusters / 2, (uint64_t)1);
    for (;; clusters++) {
        if (clusters << q->header.cluster_bits > QCOW2_REFCOUNT_TABLE_BYTES_MAX)
            return -ENOSPC;
        ret = plan_region(q, q->refcount_entries, clusters, region);
        if (ret || clusters * per_cluster >= q->refcount_entries + region->blocks)
            return ret;
    }
}

/* The old table is given up; what it listed stays. */
static int switch_table(struct weir_node *node, uint64_t *table, const struct region *region)
{
    struct qcow2 *q = node->state;
    struct qcow2_header *h = &q->header;
    uint64_t old_first = h->refcount_table_offset >> h->cluster_bits,
             old_clusters = h->refcount_table_clusters;
    int ret;

    free(q->refcount_table);
    q->refcount_table = table;
    q->refcount_entries = region->clusters * qcow2_cluster_size(h) / 8;
    h->refcount_table_offset = region->first << h->cluster_bits;
    h->refcount_table_clusters = (uint32_t)region->clusters;
    weir_meta_note_event(node, WEIR_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
    ret = qcow2_header_put(node);
    if (!ret)
        qcow2_drop_tables(node, old_first, old_clusters);
    return ret;
}

static int grow_table(struct weir_node *node)
{
    struct qcow2 *q = node->state;
    uint64_t size = qcow2_cluster_size(&q->header), piece = qcow2_directory_piece(&q->header);
    struct region region;
    uint64_t *table;
    int ret = plan_table(q, &region);

    if (ret)
        return ret;
    table = weir_try_alloc(region.clusters * size, 8);
    if (!table)
        return -ENOMEM;
    __builtin_memset(table, 0, region.clusters * size);
    __builtin_memcpy(table, q->refcount_table, q->refcount_entries * 8);
    weir_meta_note_event(node, WEIR_EVENT_REFTABLE_GROW);
    weir_meta_note_event(node, WEIR_EVENT_REFBLOCK_ALLOC_WRITE_BLOCKS);
    weir_meta_note_event(node, WEIR_EVENT_REFBLOCK_ALLOC_WRITE_TABLE);
    enter_blocks(q, &region, table);
    ret = put_blocks(node, &region);
    for (uint64_t at = 0; at < region.clusters * size && !ret; at += piece)
        ret = weir_meta_put(node, region.first * size + at, piece, WEIR_META_COUNTS_DIRECTORY,
                            (char *)table + at);
    if (ret) { /* nothing points to what was put */
        free(table);
        return ret;
    }
    return switch_table(node, table, &region);
}

int qcow2_append_tables(struct weir_node *node, uint64_t clusters, uint64_t *ret_first)
{
    struct qcow2 *q = node->state;
    struct region region;
    int ret;

    for (;;) {
        uint64_t first_block = q->refcount_entries;

        while (first_block && !q->refcount_table[first_block - 1])
            first_block--;
        ret = plan_region(q, first_block, clusters, &region);
        if (ret)
            return ret;
        if (first_block + region.blocks <= q->refcount_entries)
            break;
        ret = grow_table(node);
        if (ret)
            return ret;
    }
    ret = put_blocks(node, &region);
    if (ret)
        return ret;
    enter_blocks(q, &region, q->refcount_table);
    for (uint64_t i = 0; i < region.blocks && !ret; i++)
        ret = qcow2_refcount_table_put(node, region.first_block + i);
    *ret_first = region.first;
    return ret;
}

/* ---- blocks ---- */

/* A block for the range that has none. */
static int make_block(struct weir_node *node, uint64_t index)
{
    struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t cluster = index * qcow2_block_entries(h), size = qcow2_cluster_size(h);
    char *block;

    if (beyond_file(q, cluster))
        return -ENOSPC;
    if (qcow2_in_use(node, cluster, 1))
        return qcow2_damaged(node, "refcount table", index);
    if (qcow2_set_add(&q->blocks, cluster))
        return -ENOMEM;
    block = weir_meta_create(node, cluster * size, size, WEIR_META_COUNTS);
    if (!block) {
        qcow2_set_remove(&q->blocks, cluster);
        return -ENOMEM;
    }
    weir_meta_note_event(node, WEIR_EVENT_REFBLOCK_ALLOC);
    weir_meta_note_event(node, WEIR_EVENT_REFBLOCK_ALLOC_HOOKUP);
    qcow2_refcount_set(block, h->refcount_order, 0, 1);
    q->high_water = WEIR_MAX(q->high_water, cluster + 1);
    q->refcount_table[index] = htobe64(cluster * size);
    return qcow2_refcount_table_put(node, index);
}

/* The block that counts from @cluster on, in memory but not pinned. */
static int look_at_block(struct weir_node *node, uint64_t cluster, const void **ret_block,
                         struct weir_need *need)
{
    struct qcow2 *q = node->state;
    uint64_t index = cluster / qcow2_block_entries(&q->header), offset;
    int ret;

    if (cluster >= clusters_max(&q->header) || beyond_file(q, cluster))
        return -ENOSPC;
    if (index >= q->refcount_entries) {
        ret = grow_table(node);
        if (ret)
            return ret;
    }
    ret = qcow2_block_offset(node, index, &offset);
    if (!ret && !offset) {
        ret = make_block(node, index);
        if (!ret)
            ret = qcow2_block_offset(node, index, &offset);
    }
    if (ret)
        return ret;
    *ret_block = weir_meta_peek_level(node, offset, WEIR_META_COUNTS);
    return *ret_block ? 0
                      : weir_meta_need(node, need, offset, qcow2_cluster_size(&q->header), WEIR_META_COUNTS);
}

/* Free clusters from @cluster on, within one block. */
static uint64_t run_in_block(const struct qcow2 *q, const void *block, uint64_t cluster, uint64_t wanted)
{
    uint64_t entries = qcow2_block_entries(&q->header), n = 0;

    while (n < wanted && (cluster % entries) + n < entries && !beyond_file(q, cluster + n) &&
           !qcow2_refcount_get(block, q->header.refcount_order, cluster % entries + n) &&
           !qcow2_reserved(q, cluster + n))
        n++;
    return n;
}

/* The first free cluster from @cluster on in its block, or the first of the next block. */
static uint64_t skip_used(const struct qcow2 *q, const void *block, uint64_t cluster)
{
    uint64_t entries = qcow2_block_entries(&q->header), end = cluster - cluster % entries + entries;

    while (cluster < end && (qcow2_refcount_get(block, q->header.refcount_order, cluster % entries) ||
                             qcow2_reserved(q, cluster)))
        cluster++;
    return cluster;
}

/* Pins what counts the clusters, and refuses what cannot be free. */
static int take_run(struct weir_node *node, uint64_t first, uint64_t clusters, struct weir_need *need)
{
    const struct qcow2 *q = node->state;

    if (qcow2_in_use(node, first, clusters))
        return qcow2_damaged(node, "count of a cluster in use", first << q->header.cluster_bits);
    return qcow2_count_pin(node, first, need);
}

int qcow2_find_free(struct weir_node *node, uint64_t wanted, uint64_t *ret_first, uint64_t *ret_found,
                    struct weir_need *need)
{
    struct qcow2 *q = node->state;
    uint64_t entries = qcow2_block_entries(&q->header), next;
    const void *block;
    int ret;

    if (q->shared_block) /* its counts are nobody's, and going through it again and again would not end soon */
        return qcow2_damaged(node, "refcount block offset", q->shared_block);
    for (;;) {
        ret = look_at_block(node, q->cursor, &block, need);
        if (ret)
            return ret;
        next = skip_used(q, block, q->cursor);
        if (next / entries == q->cursor / entries)
            break;
        q->cursor = next;
    }
    q->cursor = next;
    if (next >= clusters_max(&q->header) ||
        beyond_file(q, next)) /* its block counts more than there is room for */
        return -ENOSPC;
    *ret_first = next;
    *ret_found = run_in_block(q, block, next, wanted);
    return take_run(node, next, *ret_found, need);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reference counts of host clusters, in blocks that the refcount table lists; what is reserved and what was given up
 * is kept beside them in memory.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"

/* ---- claims ---- */

static struct qcow2_claim *claim_find(const struct qcow2 *q, uint64_t cluster)
{
    struct qcow2_claim *claim;

    HASH_FIND(hh, q->claims, &cluster, sizeof(cluster), claim);
    return claim;
}

static struct qcow2_claim *claim_get(struct qcow2 *q, uint64_t cluster)
{
    struct qcow2_claim *claim = claim_find(q, cluster);

    if (!claim) {
        claim = weir_new(struct qcow2_claim);
        claim->cluster = cluster;
        HASH_ADD(hh, q->claims, cluster, sizeof(claim->cluster), claim);
    }
    return claim;
}

static void claim_settle(struct qcow2 *q, struct qcow2_claim *claim)
{
    if (claim->reserved || claim->dropped)
        return;
    HASH_DEL(q->claims, claim);
    free(claim);
}

bool qcow2_reserved(const struct qcow2 *q, uint64_t cluster)
{
    const struct qcow2_claim *claim = q->claims ? claim_find(q, cluster) : NULL;

    return claim && claim->reserved;
}

void qcow2_reserve(struct qcow2 *q, uint64_t first, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++)
        claim_get(q, first + i)->reserved++;
    q->high_water = WEIR_MAX(q->high_water, first + clusters);
}

void qcow2_counts_done(struct qcow2 *q)
{
    struct qcow2_claim *claim, *next;

    HASH_ITER (hh, q->claims, claim, next) {
        HASH_DEL(q->claims, claim);
        free(claim);
    }
}

/* ---- blocks ---- */

int qcow2_block_offset(struct weir_node *node, uint64_t index, uint64_t *ret_offset)
{
    const struct qcow2 *q = node->state;
    uint64_t entry = index < q->refcount_entries ? be64toh(q->refcount_table[index]) : 0;

    *ret_offset = entry & QCOW2_REFCOUNT_OFFSET_MASK;
    if (*ret_offset & (qcow2_cluster_size(&q->header) - 1))
        return qcow2_damaged(node, "refcount block offset", *ret_offset);
    return 0;
}

/* The block and the place in it; NULL when it is not in memory. Pinned for the running map. */
static void *find_block(struct weir_node *node, uint64_t cluster, uint64_t *ret_index)
{
    const struct qcow2 *q = node->state;
    uint64_t entries = qcow2_block_entries(&q->header), offset;

    *ret_index = cluster % entries;
    if (qcow2_block_offset(node, cluster / entries, &offset) || !offset)
        return NULL;
    return weir_meta_find_level(node, offset, WEIR_META_COUNTS);
}

int qcow2_count_pin(struct weir_node *node, uint64_t cluster, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    uint64_t offset;
    int ret = qcow2_block_offset(node, cluster / qcow2_block_entries(&q->header), &offset);

    if (ret || !offset || weir_meta_find_level(node, offset, WEIR_META_COUNTS))
        return ret;
    return weir_meta_need(node, need, offset, qcow2_cluster_size(&q->header), WEIR_META_COUNTS);
}

uint64_t qcow2_count(struct weir_node *node, uint64_t cluster)
{
    const struct qcow2 *q = node->state;
    uint64_t index;
    const void *block = find_block(node, cluster, &index);

    return block ? qcow2_refcount_get(block, q->header.refcount_order, index) : 0;
}

void qcow2_count_set(struct weir_node *node, uint64_t cluster, uint64_t count)
{
    struct qcow2 *q = node->state;
    uint64_t index;
    char *block = find_block(node, cluster, &index);

    WEIR_ASSERT(block);
    q->high_water = WEIR_MAX(q->high_water, cluster + 1);
    qcow2_refcount_set(block, q->header.refcount_order, index, count);
    weir_meta_dirty(node, block + (index << q->header.refcount_order) / 8);
}

uint64_t qcow2_count_promised(struct weir_node *node, uint64_t cluster)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_claim *claim = claim_find(q, cluster);

    return qcow2_count(node, cluster) + (claim ? claim->reserved : 0);
}

/* ---- references come and go ---- */

/* The packing of compressed clusters leaves a cluster whose last reference goes: it may be given away. */
static void leave_pack(struct weir_node *node, uint64_t cluster)
{
    struct qcow2 *q = node->state;
    const struct qcow2_claim *claim = claim_find(q, cluster);

    if (q->pack_offset == q->pack_end || (q->pack_end - 1) >> q->header.cluster_bits != cluster)
        return;
    if (!(claim && claim->reserved) && qcow2_count(node, cluster) <= (claim ? claim->dropped : 0))
        q->pack_offset = q->pack_end = 0;
}

static void claim_return(struct weir_node *node, uint64_t cluster)
{
    struct qcow2 *q = node->state;
    struct qcow2_claim *claim = claim_find(q, cluster);

    WEIR_ASSERT(claim && claim->reserved);
    claim->reserved--;
    claim_settle(q, claim);
}

void qcow2_count_raise(struct weir_node *node, uint64_t cluster)
{
    qcow2_count_set(node, cluster, qcow2_count(node, cluster) + 1);
    claim_return(node, cluster);
}

void qcow2_unreserve(struct weir_node *node, uint64_t first, uint64_t clusters)
{
    struct qcow2 *q = node->state;

    for (uint64_t i = 0; i < clusters; i++) {
        claim_return(node, first + i);
        leave_pack(node, first + i);
        q->cursor = WEIR_MIN(q->cursor, first + i);
    }
}

void qcow2_drop(struct weir_node *node, uint64_t first, uint64_t clusters, enum qcow2_discard why)
{
    struct qcow2 *q = node->state;
    uint64_t size = qcow2_cluster_size(&q->header);

    for (uint64_t cluster = first; cluster < first + clusters; cluster++) {
        struct qcow2_claim *claim = claim_get(q, cluster);
        uint64_t count = qcow2_count(node, cluster);
        bool last;

        /* Counted too low, or a table in use in a damaged image: nobody may take it from the others. */
        if (count <= claim->dropped || qcow2_in_use(node, cluster, 1)) {
            claim_settle(q, claim);
            continue;
        }
        claim->dropped++;
        last = count == claim->dropped && !claim->reserved;
        leave_pack(node, cluster);
        weir_meta_give_up(node, q->file, cluster * size, last ? size : 0, last && q->discard[why], cluster);
    }
}

void qcow2_drop_tables(struct weir_node *node, uint64_t first, uint64_t clusters)
{
    struct qcow2 *q = node->state;
    uint64_t size = qcow2_cluster_size(&q->header);

    for (uint64_t cluster = first; cluster < first + clusters; cluster++) {
        claim_get(q, cluster)->dropped++;
        weir_meta_give_up(node, q->file, cluster * size, size, q->discard[QCOW2_DISCARD_OTHER], cluster);
    }
}

/* What was a table may still be in the cache. */
static void forget_tables(struct weir_node *node, uint64_t cluster)
{
    const struct qcow2 *q = node->state;
    uint64_t size = qcow2_cluster_size(&q->header), piece = qcow2_directory_piece(&q->header);

    if (qcow2_in_use(node, cluster, 1)) /* counted too low: it still is one */
        return;
    for (uint64_t at = 0; at < size; at += piece)
        weir_meta_forget(node, cluster * size + at);
}

int qcow2_release(struct weir_node *node, const struct weir_freed *freed, struct weir_need *need)
{
    struct qcow2 *q = node->state;
    uint64_t cluster = freed->cookie, count;
    struct qcow2_claim *claim;
    int ret;

    ret = qcow2_count_pin(node, cluster, need);
    if (ret)
        return ret;
    claim = claim_find(q, cluster);
    WEIR_ASSERT(claim && claim->dropped);
    claim->dropped--;
    claim_settle(q, claim);
    count = qcow2_count(node, cluster);
    if (!count)
        return 0;
    qcow2_count_set(node, cluster, count - 1);
    if (count == 1) {
        q->cursor = WEIR_MIN(q->cursor, cluster);
        forget_tables(node, cluster);
    }
    return 0;
}

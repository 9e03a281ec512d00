/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * L1 and L2 tables.
 *
 * A table that is made, or copied because a snapshot shares it, says the same as before: so it is linked at once,
 * in map, and not taken back when the write that needed it fails.
 */
#include "format/qcow2/qcow2.h"

/* ---- directories and header: kept whole, handed over in pieces ---- */

static int put_piece(struct weir_node *node, uint64_t table_offset, const uint64_t *table, uint64_t index,
                     enum weir_meta_level level)
{
    const struct qcow2 *q = node->state;
    uint64_t piece = qcow2_directory_piece(&q->header), at = weir_align_down(index * 8, piece);

    return weir_meta_put(node, table_offset + at, piece, level, (const char *)table + at);
}

int qcow2_l1_put(struct weir_node *node, uint64_t index)
{
    const struct qcow2 *q = node->state;

    return put_piece(node, q->header.l1_offset, q->l1, index, WEIR_META_DIRECTORY);
}

int qcow2_refcount_table_put(struct weir_node *node, uint64_t index)
{
    const struct qcow2 *q = node->state;

    return put_piece(node, q->header.refcount_table_offset, q->refcount_table, index,
                     WEIR_META_COUNTS_DIRECTORY);
}

int qcow2_header_put(struct weir_node *node)
{
    struct qcow2 *q = node->state;

    qcow2_header_write(&q->header, q->header_bytes);
    return weir_meta_put(node, 0, sizeof(q->header_bytes), WEIR_META_COUNTS_HEADER, q->header_bytes);
}

/* ---- L2 tables ---- */

static int l1_entry(struct weir_node *node, uint64_t offset, uint64_t *ret_entry)
{
    const struct qcow2 *q = node->state;
    uint64_t index = qcow2_l1_index(&q->header, offset);

    *ret_entry = index < q->header.l1_size ? be64toh(q->l1[index]) : 0;
    if (*ret_entry & QCOW2_OFFSET_MASK & (qcow2_cluster_size(&q->header) - 1))
        return qcow2_damaged(node, "L2 table offset", *ret_entry & QCOW2_OFFSET_MASK);
    return 0;
}

static int load(struct weir_node *node, uint64_t table_offset, uint64_t **ret_table, struct weir_need *need)
{
    const struct qcow2 *q = node->state;

    *ret_table = weir_meta_find_level(node, table_offset, WEIR_META_TABLE);
    return *ret_table
               ? 0
               : weir_meta_need(node, need, table_offset, qcow2_cluster_size(&q->header), WEIR_META_TABLE);
}

int qcow2_l2_find(struct weir_node *node, uint64_t offset, uint64_t **ret_table, struct weir_need *need)
{
    uint64_t entry;
    int ret = l1_entry(node, offset, &entry);

    *ret_table = NULL;
    if (ret || !(entry & QCOW2_OFFSET_MASK))
        return ret;
    return load(node, entry & QCOW2_OFFSET_MASK, ret_table, need);
}

/* A new table, with the contents of @old if there is one. The count of the old one is in memory. */
static int make_table(struct weir_node *node, uint64_t index, const uint64_t *old, uint64_t **ret_table,
                      struct weir_need *need)
{
    struct qcow2 *q = node->state;
    uint64_t size = qcow2_cluster_size(&q->header), cluster, found, *table;
    uint64_t old_cluster = (be64toh(q->l1[index]) & QCOW2_OFFSET_MASK) / size;
    int ret = qcow2_find_free(node, 1, &cluster, &found, need);

    if (!ret)
        ret = qcow2_set_add(&q->l2_tables, cluster);
    if (ret)
        return ret;
    table = weir_meta_create(node, cluster * size, size, WEIR_META_TABLE);
    if (!table) {
        qcow2_set_remove(&q->l2_tables, cluster);
        return -ENOMEM;
    }
    if (old) {
        weir_meta_note_event(node, WEIR_EVENT_L2_ALLOC_COW_READ);
        __builtin_memcpy(table, old, size);
    }
    q->l1[index] = htobe64(cluster * size | QCOW2_COPIED);
    ret = qcow2_l1_put(node, index);
    if (ret) {
        q->l1[index] = htobe64(old_cluster * size);
        weir_meta_forget(node, cluster * size);
        qcow2_set_remove(&q->l2_tables, cluster);
        return ret;
    }
    qcow2_count_set(node, cluster, 1);
    if (old) {
        qcow2_set_remove(&q->l2_tables, old_cluster);
        qcow2_drop(node, old_cluster, 1, QCOW2_DISCARD_OTHER);
    }
    *ret_table = table;
    return 0;
}

int qcow2_l2_for_change(struct weir_node *node, uint64_t offset, uint64_t **ret_table, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    uint64_t index = qcow2_l1_index(&q->header, offset), entry, *old = NULL;
    int ret = l1_entry(node, offset, &entry);

    if (ret)
        return ret;
    if (index >= q->header.l1_size)
        return qcow2_damaged(node, "L1 table size", q->header.l1_size);
    if (entry & QCOW2_OFFSET_MASK) {
        ret = load(node, entry & QCOW2_OFFSET_MASK, &old, need);
        if (!ret && (entry & QCOW2_COPIED)) {
            *ret_table = old;
            return 0;
        }
        if (!ret)
            ret = qcow2_count_pin(node, (entry & QCOW2_OFFSET_MASK) >> q->header.cluster_bits, need);
    }
    return ret ? ret : make_table(node, index, old, ret_table, need);
}

void qcow2_entry_set(struct weir_node *node, uint64_t *table, uint64_t index, uint64_t word, uint64_t bitmap)
{
    const struct qcow2 *q = node->state;
    uint64_t *slot = table + index * (qcow2_l2_entry_size(&q->header) / 8);

    slot[0] = htobe64(word);
    if (qcow2_extended_l2(&q->header))
        slot[1] = htobe64(bitmap);
    weir_meta_dirty(node, slot);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making a pending extent visible, or taking it back. Neither can fail: map has brought all tables into memory.
 */
#include "format/qcow2/qcow2.h"

void qcow2_entry_clusters(const struct qcow2 *q, uint64_t word, uint64_t *ret_first, uint64_t *ret_clusters)
{
    unsigned bits = q->header.cluster_bits;
    uint64_t offset, length;

    *ret_first = *ret_clusters = 0;
    if (word & QCOW2_COMPRESSED) {
        qcow2_compressed_get(word, bits, &offset, &length);
        *ret_first = offset >> bits;
        *ret_clusters = ((offset + length - 1) >> bits) - *ret_first + 1;
    } else if (qcow2_has_host(q, word)) {
        *ret_first = (word & QCOW2_OFFSET_MASK) >> bits;
        *ret_clusters = 1;
    }
}

/* The entry @word is not in the table any more. */
static void drop_entry(struct weir_node *node, uint64_t word, enum qcow2_discard why)
{
    struct qcow2 *q = node->state;
    uint64_t first, clusters, size = qcow2_cluster_size(&q->header);

    qcow2_entry_clusters(q, word, &first, &clusters);
    if (!qcow2_data_apart(q))
        qcow2_drop(node, first, clusters, why);
    else if (clusters && q->discard[why])
        weir_meta_discard_later(node, q->data, first * size, size);
}

static uint64_t bits_between(unsigned first, unsigned end)
{
    return (end == 64 ? 0 : (uint64_t)1 << end) - ((uint64_t)1 << first);
}

/* One cluster of an extent: its entry, and which of its subclusters the extent covers. */
struct piece {
    uint64_t *table, index, word, bitmap;
    unsigned first, end;
    uint64_t host; /* of the cluster; extents with data */
};

static void commit_data(struct weir_node *node, const struct weir_extent *extent, const struct piece *piece)
{
    struct qcow2 *q = node->state;
    bool is_new = extent->cookie == QCOW2_PENDING_NEW;
    uint64_t bitmap = 0;

    if (qcow2_extended_l2(&q->header)) {
        /* A host cluster that was shared or compressed came along whole. */
        if (!is_new || !(qcow2_has_host(q, piece->word) || (piece->word & QCOW2_COMPRESSED)))
            bitmap = piece->bitmap;
        bitmap |= bits_between(piece->first, piece->end);
        bitmap &= ~(bits_between(piece->first, piece->end) << 32);
    }
    if (is_new)
        qcow2_count_raise(node, piece->host >> q->header.cluster_bits);
    qcow2_entry_set(node, piece->table, piece->index, piece->host | QCOW2_COPIED, bitmap);
    /* Beside a data file there is nothing compressed, but a damaged image may say so. */
    if (is_new || (piece->word & QCOW2_COMPRESSED))
        drop_entry(node, piece->word, QCOW2_DISCARD_OTHER);
}

static void commit_stored(struct weir_node *node, const struct weir_extent *extent, const struct piece *piece)
{
    struct qcow2 *q = node->state;

    qcow2_count_raise(node, extent->child_offset >> q->header.cluster_bits);
    qcow2_entry_set(node, piece->table, piece->index,
                    qcow2_compressed_make(extent->child_offset, extent->child_length, q->header.cluster_bits),
                    0);
    drop_entry(node, piece->word, QCOW2_DISCARD_OTHER);
}

static void commit_zeroed(struct weir_node *node, const struct weir_extent *extent, const struct piece *piece)
{
    struct qcow2 *q = node->state;
    bool keep = extent->cookie == QCOW2_PENDING_KEEP;
    uint64_t word = keep ? piece->word : 0, bitmap = keep ? piece->bitmap : 0;

    if (qcow2_extended_l2(&q->header)) {
        bitmap &= ~bits_between(piece->first, piece->end);
        if (extent->where == WEIR_ZEROED)
            bitmap |= bits_between(piece->first, piece->end) << 32;
    } else if (extent->where == WEIR_ZEROED) {
        word |= QCOW2_ZERO;
    }
    qcow2_entry_set(node, piece->table, piece->index, word, bitmap);
    if (!keep)
        drop_entry(node, piece->word, QCOW2_DISCARD_REQUEST);
}

void qcow2_commit(struct weir_node *node, const struct weir_extent *extent)
{
    struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t size = qcow2_cluster_size(h), end = extent->offset + extent->length;
    unsigned sub_bits = qcow2_sub_bits(h);
    struct piece piece;
    int ret = qcow2_l2_find(node, extent->offset, &piece.table, NULL);

    WEIR_ASSERT(!ret && piece.table);
    for (uint64_t at = weir_align_down(extent->offset, size); at < end; at += size) {
        piece.index = qcow2_l2_index(h, at);
        piece.word = qcow2_entry(h, piece.table, piece.index);
        piece.bitmap = qcow2_entry_bitmap(h, piece.table, piece.index);
        piece.first = (unsigned)((WEIR_MAX(extent->offset, at) - at) >> sub_bits);
        piece.end = (unsigned)((WEIR_MIN(end, at + size) - at) >> sub_bits);
        piece.host = extent->child_offset + at - extent->offset;
        if (extent->where == WEIR_DATA)
            commit_data(node, extent, &piece);
        else if (extent->where == WEIR_ENCODED)
            commit_stored(node, extent, &piece);
        else
            commit_zeroed(node, extent, &piece);
    }
}

void qcow2_abort(struct weir_node *node, const struct weir_extent *extent)
{
    const struct qcow2 *q = node->state;
    unsigned bits = q->header.cluster_bits;

    if (extent->cookie != QCOW2_PENDING_NEW)
        return;
    qcow2_unreserve(node, extent->child_offset >> bits,
                    ((extent->child_offset + extent->child_length - 1) >> bits) -
                        (extent->child_offset >> bits) + 1);
}

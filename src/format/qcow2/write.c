/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a write, a zero or a discard will change. The lock units are held exclusively.
 *
 * An answer is either "in place" (not pending), or a pending extent of which extent->cookie says what commit does
 * with the host clusters: new ones were reserved, the old ones stay, or they are given up. Every count that commit
 * touches is brought into memory here; a run of clusters ends where that would be too many.
 */
#include "format/qcow2/qcow2.h"

/* ---- what is replaced ---- */

struct old_blocks {
    uint64_t index[QCOW2_OLD_BLOCKS_MAX];
    unsigned count;
};

/* Brings in what counts the clusters of an entry that will be replaced. -E2BIG: not in this run. */
static int pin_old(struct weir_node *node, uint64_t word, struct old_blocks *blocks, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    uint64_t first, clusters, entries = qcow2_block_entries(&q->header);
    int ret = qcow2_entry_check(node, word);

    if (ret || qcow2_data_apart(q))
        return ret;
    qcow2_entry_clusters(q, word, &first, &clusters);
    for (uint64_t i = 0; i < clusters && !ret; i++) {
        uint64_t index = (first + i) / entries;
        unsigned n = 0;

        while (n < blocks->count && blocks->index[n] != index)
            n++;
        if (n == blocks->count) {
            if (n == QCOW2_OLD_BLOCKS_MAX)
                return -E2BIG;
            blocks->index[blocks->count++] = index;
        }
        ret = qcow2_count_pin(node, first + i, need);
    }
    return ret;
}

/* Clusters from @index on in [@offset, @offset + @length), up to the end of the table. */
static uint64_t clusters_in(const struct qcow2_header *h, uint64_t offset, uint64_t length)
{
    uint64_t last = (offset + length - 1) >> h->cluster_bits;

    return WEIR_MIN(last - (offset >> h->cluster_bits) + 1, qcow2_l2_entries(h) - qcow2_l2_index(h, offset));
}

/* A pending extent of whole clusters around @offset. */
static struct weir_extent pending(const struct qcow2 *q, enum weir_where where, uint64_t offset,
                                  uint64_t clusters, enum qcow2_pending cookie)
{
    return (struct weir_extent){
        .where = where,
        .flags = WEIR_EXTENT_PENDING,
        .offset = weir_align_down(offset, qcow2_cluster_size(&q->header)),
        .length = clusters << q->header.cluster_bits,
        .cookie = cookie,
    };
}

static void place(const struct qcow2 *q, struct weir_extent *extent, uint64_t host)
{
    extent->edge = q->data;
    extent->child_offset = host;
    extent->child_length = extent->length;
}

/* ---- writes of whole clusters ---- */

/* Space that is reserved for the guest's clusters already: preallocated zeroes. */
static int write_kept(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t max,
                      struct weir_extent *extent)
{
    const struct qcow2 *q = node->state;
    uint64_t index = qcow2_l2_index(&q->header, offset), word = qcow2_entry(&q->header, table, index), n = 0;
    uint64_t host = word & QCOW2_OFFSET_MASK, next = word;
    int ret = qcow2_entry_check(node, word);

    while (!ret && n < max && qcow2_state(q, next, 0, 0) == QCOW2_ZERO_ALLOCATED && qcow2_sole(q, next) &&
           (next & QCOW2_OFFSET_MASK) == host + (n << q->header.cluster_bits)) {
        n++;
        if (n < max)
            next = qcow2_entry(&q->header, table, index + n);
    }
    *extent = pending(q, WEIR_DATA, offset, n, QCOW2_PENDING_KEEP);
    place(q, extent, host);
    return ret ? ret : qcow2_place_check(node, extent);
}

/* Whether a write needs another host cluster than the entry has. */
static bool needs_new(const struct qcow2 *q, uint64_t word)
{
    enum qcow2_state state = qcow2_state(q, word, 0, 0);

    return !((state == QCOW2_NORMAL || state == QCOW2_ZERO_ALLOCATED) && qcow2_sole(q, word));
}

/* New host clusters, as many in a row as there are. */
static int write_new(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t max,
                     struct weir_extent *extent, struct weir_need *need)
{
    struct qcow2 *q = node->state;
    uint64_t index = qcow2_l2_index(&q->header, offset), n = 0, host, found;
    struct old_blocks blocks = { .count = 0 };
    int ret = 0;

    while (n < max && needs_new(q, qcow2_entry(&q->header, table, index + n))) {
        ret = pin_old(node, qcow2_entry(&q->header, table, index + n), &blocks, need);
        if (ret)
            break;
        n++;
    }
    if (ret && !(ret == -E2BIG && n))
        return ret;
    if (qcow2_data_apart(q)) { /* the guest's offsets are those of the data file */
        *extent = pending(q, WEIR_DATA, offset, n, QCOW2_PENDING_KEEP);
        place(q, extent, extent->offset);
        return 0;
    }
    ret = qcow2_find_free(node, n, &host, &found, need);
    if (ret)
        return ret;
    *extent = pending(q, WEIR_DATA, offset, found, QCOW2_PENDING_NEW);
    if (host >= q->high_water && q->file->node->limits.grows)
        extent->flags |= WEIR_EXTENT_FRESH;
    qcow2_reserve(q, host, found);
    weir_meta_note_event(node, WEIR_EVENT_CLUSTER_ALLOC);
    place(q, extent, host << q->header.cluster_bits);
    return 0;
}

/* ---- writes of subclusters ---- */

struct subs {
    unsigned first, end;
};

/* The subclusters of the one cluster around @offset that the range touches. */
static struct subs subs_in(const struct qcow2_header *h, uint64_t offset, uint64_t length)
{
    uint64_t inside = offset & (qcow2_cluster_size(h) - 1),
             end = WEIR_MIN(inside + length, qcow2_cluster_size(h));
    unsigned bits = qcow2_sub_bits(h);

    return (struct subs){ (unsigned)(inside >> bits), (unsigned)((end - 1) >> bits) + 1 };
}

static void narrow(const struct qcow2_header *h, struct subs subs, struct weir_extent *extent)
{
    unsigned bits = qcow2_sub_bits(h);

    extent->offset += (uint64_t)subs.first << bits;
    extent->length = (uint64_t)(subs.end - subs.first) << bits;
    if (extent->where == WEIR_DATA) {
        extent->child_offset += (uint64_t)subs.first << bits;
        extent->child_length = extent->length;
    }
}

static int write_subclusters(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                             struct weir_extent *extent, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t index = qcow2_l2_index(h, offset), word = qcow2_entry(h, table, index);
    uint64_t bitmap = qcow2_entry_bitmap(h, table, index);
    struct subs subs = subs_in(h, offset, length), end = subs;
    bool host = qcow2_has_host(q, word);
    int ret;

    if (host && qcow2_sole(q, word)) {
        /* The first one is not in use yet, or the write would be in place. */
        for (end.end = subs.first + 1;
             end.end < subs.end && qcow2_state(q, word, bitmap, end.end) != QCOW2_NORMAL; end.end++) {
        }
        ret = qcow2_entry_check(node, word);
        *extent = pending(q, WEIR_DATA, offset, 1, QCOW2_PENDING_KEEP);
        place(q, extent, word & QCOW2_OFFSET_MASK);
        narrow(h, end, extent);
        return ret ? ret : qcow2_place_check(node, extent);
    }
    ret = write_new(node, table, offset, 1, extent, need);
    /* What a shared or compressed cluster holds must come along: the whole cluster is filled. */
    if (!ret && !host && !(word & QCOW2_COMPRESSED))
        narrow(h, subs, extent);
    return ret;
}

int qcow2_map_write(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                    struct weir_need *need)
{
    struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t *table, max = clusters_in(h, offset, length);
    int ret = qcow2_l2_for_change(node, offset, &table, need);

    if (ret)
        return ret;
    ret = qcow2_map_in_place(node, table, offset, length, extent);
    if (ret != -EAGAIN)
        return ret;
    if (qcow2_extended_l2(h))
        return write_subclusters(node, table, offset, length, extent, need);
    if (!needs_new(q, qcow2_entry(h, table, qcow2_l2_index(h, offset))))
        return write_kept(node, table, offset, max, extent);
    return write_new(node, table, offset, max, extent, need);
}

/* ---- compressed clusters ---- */

int qcow2_map_stored(struct weir_node *node, uint64_t offset, uint64_t stored, struct weir_extent *extent,
                     struct weir_need *need)
{
    struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    struct old_blocks blocks = { .count = 0 };
    uint64_t *table, cluster = q->pack_offset >> h->cluster_bits, found;
    int ret = qcow2_l2_for_change(node, offset, &table, need);

    if (!ret)
        ret = pin_old(node, qcow2_entry(h, table, qcow2_l2_index(h, offset)), &blocks, need);
    if (!ret && q->pack_offset != q->pack_end)
        ret = qcow2_count_pin(node, cluster, need);
    if (ret)
        return ret;
    if (q->pack_end - q->pack_offset < stored ||
        qcow2_count_promised(node, cluster) >= qcow2_refcount_max(h)) {
        ret = qcow2_find_free(node, 1, &cluster, &found, need);
        if (ret)
            return ret;
        q->pack_offset = cluster << h->cluster_bits;
        q->pack_end = q->pack_offset + qcow2_cluster_size(h);
    }
    qcow2_reserve(q, cluster, 1);
    weir_meta_note_event(node, WEIR_EVENT_CLUSTER_ALLOC_BYTES);
    *extent = pending(q, WEIR_ENCODED, offset, 1, QCOW2_PENDING_NEW);
    extent->edge = q->file;
    extent->child_offset = q->pack_offset;
    extent->child_length = stored;
    q->pack_offset += stored;
    return 0;
}

/* ---- zeroes ---- */

static bool has_backing(struct weir_node *node)
{
    return weir_node_cow(node) != NULL;
}

/* Whether the subcluster reads as zero without any change. */
static bool zero_already(struct weir_node *node, enum qcow2_state state)
{
    return state == QCOW2_ZERO_PLAIN || state == QCOW2_ZERO_ALLOCATED ||
           (state == QCOW2_UNALLOCATED && !has_backing(node));
}

static struct weir_extent nothing_to_do(enum weir_where where, uint64_t offset, uint64_t end)
{
    return (struct weir_extent){ .where = where, .offset = offset, .length = end - offset };
}

/* The end of the run of subclusters from @offset on that read as zero; @offset when there is none. */
static uint64_t zero_run(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t end)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t step = (uint64_t)1 << qcow2_sub_bits(h), at = offset;

    while (at < end) {
        uint64_t index = qcow2_l2_index(h, at);
        unsigned sub = (unsigned)(at >> qcow2_sub_bits(h)) & (qcow2_sub_count(h) - 1);

        if (!zero_already(
                node, qcow2_state(q, qcow2_entry(h, table, index), qcow2_entry_bitmap(h, table, index), sub)))
            break;
        at = weir_align_down(at, step) + step;
        if (!qcow2_l2_index(h, at) && !(at & (qcow2_cluster_size(h) - 1)))
            break; /* the end of the table */
    }
    return WEIR_MAX(WEIR_MIN(at, weir_align_up(end, step)), offset);
}

/* Whether the cluster's place is kept when its contents become zero. */
static bool keeps(const struct qcow2 *q, uint64_t word, bool unmap)
{
    if (q->header.version < 3 || !qcow2_has_host(q, word) || !qcow2_sole(q, word))
        return false;
    return !unmap || q->discard_no_unref;
}

static int zero_clusters(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                         bool unmap, struct weir_extent *extent, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t index = qcow2_l2_index(h, offset), max = clusters_in(h, offset, length), n = 0;
    bool keep = keeps(q, qcow2_entry(h, table, index), unmap);
    struct old_blocks blocks = { .count = 0 };
    int ret = 0;

    while (n < max) {
        uint64_t word = qcow2_entry(h, table, index + n);

        if (keeps(q, word, unmap) != keep || (n && zero_already(node, qcow2_state(q, word, 0, 0))))
            break;
        ret = keep ? qcow2_entry_check(node, word) : pin_old(node, word, &blocks, need);
        if (ret)
            break;
        n++;
    }
    if (ret && !(ret == -E2BIG && n))
        return ret;
    *extent = pending(q, WEIR_ZEROED, offset, n, keep ? QCOW2_PENDING_KEEP : QCOW2_PENDING_CLEAR);
    return 0;
}

static int zero_subclusters(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                            bool unmap, struct weir_extent *extent, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t word = qcow2_entry(h, table, qcow2_l2_index(h, offset));
    struct subs subs = subs_in(h, offset, length);
    struct old_blocks blocks = { .count = 0 };
    bool whole = subs.first == 0 && subs.end == QCOW2_SUBCLUSTERS;
    int ret = 0;

    if (!whole && (word & QCOW2_COMPRESSED))
        return -ENOTSUP;
    if (whole && !keeps(q, word, unmap)) {
        ret = pin_old(node, word, &blocks, need);
        *extent = pending(q, WEIR_ZEROED, offset, 1, QCOW2_PENDING_CLEAR);
    } else {
        *extent = pending(q, WEIR_ZEROED, offset, 1, QCOW2_PENDING_KEEP);
        narrow(h, subs, extent);
    }
    return ret;
}

/* Version 2 has no zero flag: in place, or not at all. */
static int zero_without_flag(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                             bool unmap, struct weir_extent *extent, struct weir_need *need)
{
    int ret;

    if (unmap && !has_backing(node)) {
        ret = zero_clusters(node, table, offset, length, true, extent, need);
        extent->where = WEIR_UNMAPPED;
        return ret;
    }
    ret = qcow2_map_in_place(node, table, offset, length, extent);
    return ret == -EAGAIN ? -ENOTSUP : ret;
}

int qcow2_map_zero(struct weir_node *node, uint64_t offset, uint64_t length, bool unmap,
                   struct weir_extent *extent, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t *table, span = qcow2_l2_entries(h) << h->cluster_bits, done;
    int ret = qcow2_l2_find(node, offset, &table, need);

    if (ret)
        return ret;
    if (!table && !has_backing(node)) {
        *extent = nothing_to_do(WEIR_ZEROED, offset, weir_align_down(offset, span) + span);
        return 0;
    }
    if (table) {
        done = zero_run(node, table, offset, offset + length);
        if (done > offset) {
            *extent = nothing_to_do(WEIR_ZEROED, offset, done);
            return 0;
        }
    }
    /* A raw data file must hold the zeroes itself. */
    if (qcow2_data_file_raw(h))
        return qcow2_map_write(node, offset, length, extent, need);
    ret = qcow2_l2_for_change(node, offset, &table, need);
    if (ret)
        return ret;
    if (h->version < 3)
        return zero_without_flag(node, table, offset, length, unmap, extent, need);
    return qcow2_extended_l2(h) ? zero_subclusters(node, table, offset, length, unmap, extent, need)
                                : zero_clusters(node, table, offset, length, unmap, extent, need);
}

/* ---- discards: whole clusters ---- */

/* Whether discarding the cluster changes nothing. */
static bool nothing_stored(const struct qcow2 *q, uint64_t word, uint64_t bitmap)
{
    if (word & QCOW2_COMPRESSED)
        return false;
    if (!qcow2_has_host(q, word))
        return true;
    if (!q->discard_no_unref || !qcow2_sole(q, word))
        return false;
    return qcow2_extended_l2(&q->header) ? (bitmap >> 32) == UINT32_MAX
                                         : qcow2_state(q, word, 0, 0) == QCOW2_ZERO_ALLOCATED;
}

static uint64_t unstored_run(const struct qcow2 *q, const uint64_t *table, uint64_t index, uint64_t max)
{
    uint64_t n = 0;

    while (n < max && nothing_stored(q, qcow2_entry(&q->header, table, index + n),
                                     qcow2_entry_bitmap(&q->header, table, index + n)))
        n++;
    return n;
}

int qcow2_map_discard(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                      struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    const struct qcow2_header *h = &q->header;
    uint64_t *table, span = qcow2_l2_entries(h) << h->cluster_bits, max = clusters_in(h, offset, length), n;
    int ret = qcow2_l2_find(node, offset, &table, need);

    if (qcow2_data_file_raw(h) || (h->version < 3 && has_backing(node)))
        return -ENOTSUP;
    if (ret)
        return ret;
    n = table ? unstored_run(q, table, qcow2_l2_index(h, offset), max) : 0;
    if (!table || n) {
        *extent =
            nothing_to_do(WEIR_UNMAPPED, offset,
                          table ? weir_align_down(offset, qcow2_cluster_size(h)) + (n << h->cluster_bits)
                                : weir_align_down(offset, span) + span);
        return 0;
    }
    ret = qcow2_l2_for_change(node, offset, &table, need);
    if (ret)
        return ret;
    ret = qcow2_extended_l2(h)
              ? zero_subclusters(node, table, offset, qcow2_cluster_size(h), true, extent, need)
              : zero_clusters(node, table, offset, length, true, extent, need);
    if (extent->cookie == QCOW2_PENDING_CLEAR && !has_backing(node))
        extent->where = WEIR_UNMAPPED;
    return ret;
}

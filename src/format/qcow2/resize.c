/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another size of the disk. The node is drained: nobody else reads or changes anything.
 *
 * Growing: a larger L1 table is durable before the header points to it. Shrinking: what is cut off is zeroed and given
 * up before the size changes, so that it does not come back when the disk grows again; the L1 table stays as it is.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include "io/node_io.h"

#include <errno.h>

static uint64_t l1_entries_for(const struct qcow2_header *h, uint64_t size)
{
    uint64_t span = qcow2_l2_entries(h) << h->cluster_bits;

    return size / span + !!(size % span);
}

/* Lays the new table down, with the old contents. Inside the monitor. */
static int put_l1(struct weir_node *node, uint64_t first, uint64_t clusters, uint64_t **ret_table)
{
    struct qcow2 *q = node->state;
    uint64_t bytes = clusters << q->header.cluster_bits, piece = qcow2_directory_piece(&q->header);
    uint64_t *table = weir_try_alloc(bytes, 8);
    int ret = 0;

    if (!table)
        return -ENOMEM;
    __builtin_memset(table, 0, bytes);
    __builtin_memcpy(table, q->l1, q->header.l1_size * (uint64_t)8);
    for (uint64_t at = 0; at < bytes && !ret; at += piece)
        ret = weir_meta_put(node, (first << q->header.cluster_bits) + at, piece, WEIR_META_DIRECTORY,
                            (char *)table + at);
    if (ret)
        free(table);
    else
        *ret_table = table;
    return ret;
}

/* Inside the monitor. */
static int switch_l1(struct weir_node *node, uint64_t *table, uint64_t first, uint64_t entries)
{
    struct qcow2 *q = node->state;
    struct qcow2_header *h = &q->header;
    uint64_t old_offset = h->l1_offset;
    uint32_t old_size = h->l1_size;
    int ret;

    h->l1_offset = first << h->cluster_bits;
    h->l1_size = (uint32_t)entries;
    ret = qcow2_header_put(node);
    if (ret) { /* on disk the old one goes on */
        h->l1_offset = old_offset;
        h->l1_size = old_size;
        return ret;
    }
    free(q->l1);
    q->l1 = table;
    qcow2_drop_tables(node, old_offset >> h->cluster_bits, qcow2_clusters(h, old_size * (uint64_t)8));
    return 0;
}

static weir_co_fn int grow_l1(struct weir_node *node, uint64_t entries)
{
    struct qcow2 *q = node->state;
    struct qcow2_header *h = &q->header;
    uint64_t clusters = qcow2_clusters(h, entries * 8), first, *table = NULL;
    int ret;

    if (entries <= h->l1_size)
        return 0;
    if (entries * 8 > QCOW2_L1_BYTES_MAX)
        return -EFBIG;
    weir_event(q->file, WEIR_EVENT_L1_GROW_ALLOC_TABLE);
    weir_meta_begin(node);
    ret = qcow2_append_tables(node, clusters, &first);
    if (!ret) {
        ret = put_l1(node, first, clusters, &table);
        if (ret)
            qcow2_drop_tables(node, first, clusters);
    }
    weir_meta_end(node);
    weir_event(q->file, WEIR_EVENT_L1_GROW_WRITE_TABLE);
    if (!ret)
        ret = weir_meta_sync(node);
    weir_event(q->file, WEIR_EVENT_L1_GROW_ACTIVATE_TABLE);
    weir_meta_begin(node);
    if (!ret)
        ret = switch_l1(node, table, first, entries);
    if (ret && table) {
        free(table);
        qcow2_drop_tables(node, first, clusters);
    }
    weir_meta_end(node);
    return ret;
}

static weir_co_fn int put_size(struct weir_node *node, uint64_t size)
{
    struct qcow2 *q = node->state;
    int ret;

    weir_meta_begin(node);
    q->header.size = size;
    ret = qcow2_header_put(node);
    weir_meta_end(node);
    return ret;
}

static weir_co_fn int store_size(struct weir_node *node, uint64_t size)
{
    struct qcow2 *q = node->state;
    uint64_t old = q->header.size;
    int ret = put_size(node, size);

    if (!ret)
        ret = weir_meta_sync(node);
    if (ret) /* or a later flush would write it all the same */
        (void)!put_size(node, old);
    else
        weir_node_set_size(node, size);
    return ret;
}

static weir_co_fn int clear(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t end)
{
    struct weir_request request =
        weir_request_make(op, offset, end - offset, NULL, 0, op == WEIR_OP_ZERO ? WEIR_REQUEST_MAY_UNMAP : 0);

    return end > offset ? weir_mapped_change(node, &request) : 0;
}

/*
 * A backing file that is longer than the disk was must not show behind the old end. Durable before the header has the
 * new size: neither a crash nor a failure leaves a larger disk that shows it.
 */
static weir_co_fn int hide_backing(struct weir_node *node, uint64_t old, uint64_t size)
{
    struct weir_edge *cow = weir_node_cow(node);
    uint64_t end = cow ? WEIR_MIN(weir_node_size(cow->node), size) : 0;
    int ret;

    if (end <= old)
        return 0;
    weir_node_set_size(node, size); /* for this change alone */
    ret = clear(node, WEIR_OP_ZERO, old, end);
    weir_node_set_size(node, old);
    return ret ? ret : weir_meta_sync(node);
}

static weir_co_fn int grow(struct weir_node *node, uint64_t size)
{
    struct qcow2 *q = node->state;
    uint64_t old = q->header.size;
    int ret = grow_l1(node, l1_entries_for(&q->header, size));

    if (!ret && qcow2_has_data_file(&q->header) && qcow2_data_file_raw(&q->header)) {
        struct weir_error *ignored = NULL;

        /* A raw data file can be read without the image: it is as long as the disk. */
        if (weir_node_size(q->data->node) < size)
            ret = weir_node_resize(q->data, size, &ignored);
        weir_error_free(ignored);
    }
    if (!ret)
        ret = hide_backing(node, old, size);
    return ret ? ret : store_size(node, size);
}

static weir_co_fn int shrink(struct weir_node *node, uint64_t size)
{
    struct qcow2 *q = node->state;
    uint64_t old = q->header.size, whole = weir_align_up(size, qcow2_cluster_size(&q->header));
    int ret;

    weir_event(q->file, WEIR_EVENT_L1_SHRINK_FREE_L2_CLUSTERS);
    ret = clear(node, WEIR_OP_ZERO, size, WEIR_MIN(whole, old));
    if (!ret)
        ret = clear(node, WEIR_OP_DISCARD, whole, old);
    /* What a discard leaves must not be the backing file's, and nothing where raw external data keeps all. */
    if (!ret && (weir_node_cow(node) || qcow2_data_file_raw(&q->header)))
        ret = clear(node, WEIR_OP_ZERO, whole, old);
    weir_event(q->file, WEIR_EVENT_L1_SHRINK_WRITE_TABLE);
    if (!ret)
        ret = weir_meta_sync(node);
    return ret ? ret : store_size(node, size);
}

int qcow2_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret;

    if (size % 512)
        return weir_error_set(err, -EINVAL, "The new size must be a multiple of 512");
    if (size > INT64_MAX)
        return weir_error_set_errno(err, -EFBIG, "Could not resize");
    if (q->header.snapshot_count && q->header.version < 3)
        return weir_error_set(err, -ENOTSUP, "Can't resize a version 2 image which has snapshots");
    if (size == q->header.size)
        return 0;
    ret = size > q->header.size ? grow(node, size) : shrink(node, size);
    return ret ? weir_error_set_errno(err, ret, "Could not resize '%s'", weir_node_file_name(node)) : 0;
}

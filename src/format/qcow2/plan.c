/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layout of a new image.
 *
 * Refcount blocks count themselves and the table that finds them, so their number is the smallest fixed point: more of
 * them never make less necessary, and each round of the search only grows.
 */
#include "format/qcow2/plan.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define ENTRY_SIZE 8u
/* Entries of L1 and L2 tables have no room for more. */
#define HOST_OFFSET_MAX ((uint64_t)1 << 56)
/* What people's tools can open: beyond, offsets rounded up to a cluster or to 1 GiB would not fit. */
#define DISK_SIZE_MAX ((uint64_t)INT64_MAX + 1 - ((uint64_t)1 << 30))

static uint64_t divide_up(uint64_t value, uint64_t unit)
{
    return value / unit + !!(value % unit);
}

static int check_size(const struct qcow2_header *h, struct weir_error **err)
{
    uint64_t per_l1 = qcow2_l2_entries(h) << h->cluster_bits;

    if (h->size > INT64_MAX)
        return weir_error_set(err, -EINVAL, "Could not resize image: Image size cannot be negative");
    if (h->size > DISK_SIZE_MAX)
        return weir_error_set(err, -EIO,
                              "Could not resize image: offset(%" PRIu64 ") exceeds maximum(%" PRIu64 ")",
                              h->size, DISK_SIZE_MAX);
    if (divide_up(h->size, per_l1) > QCOW2_L1_BYTES_MAX / ENTRY_SIZE)
        return weir_error_set(err, -EFBIG,
                              "Could not resize image: Failed to grow the L1 table: File too large");
    return 0;
}

/* Refcount blocks, and clusters of their table, for an image of @others clusters besides. */
static int plan_counts(struct qcow2_plan *plan, uint64_t others, struct weir_error **err)
{
    struct qcow2_header *h = &plan->header;
    uint64_t blocks = 1, table = 1;

    for (;;) {
        uint64_t blocks_needed = divide_up(others + blocks + table, qcow2_block_entries(h));
        uint64_t table_needed = qcow2_clusters(h, blocks_needed * ENTRY_SIZE);

        if (blocks_needed * ENTRY_SIZE > QCOW2_REFCOUNT_TABLE_BYTES_MAX ||
            others + blocks + table > HOST_OFFSET_MAX >> h->cluster_bits)
            return weir_error_set(err, -EFBIG,
                                  "Could not resize image: Cannot count references to so many clusters: "
                                  "File too large");
        if (blocks_needed <= blocks && table_needed <= table)
            break;
        blocks = WEIR_MAX(blocks, blocks_needed);
        table = WEIR_MAX(table, table_needed);
    }
    plan->blocks = blocks;
    h->refcount_table_clusters = (uint32_t)table;
    return 0;
}

int qcow2_plan_make(const struct qcow2_header *header, bool mapped, struct qcow2_plan *ret_plan,
                    struct weir_error **err)
{
    struct qcow2_plan plan = { .header = *header, .mapped = mapped };
    struct qcow2_header *h = &plan.header;
    uint64_t clusters = qcow2_clusters(h, h->size), l1_clusters, l1_offset, data;
    int ret = check_size(h, err);

    if (ret)
        return ret;
    if (mapped && h->size > HOST_OFFSET_MAX)
        return weir_error_set(err, -EFBIG, "Could not resize image: Cannot preallocate: File too large");
    h->l1_size = (uint32_t)divide_up(clusters, qcow2_l2_entries(h));
    l1_clusters = qcow2_clusters(h, h->l1_size * (uint64_t)ENTRY_SIZE);
    plan.l2_tables = mapped ? h->l1_size : 0;
    data = mapped && !qcow2_has_data_file(h) ? clusters : 0;
    ret = plan_counts(&plan, 1 + l1_clusters + plan.l2_tables + data, err);
    if (ret)
        return ret;
    h->refcount_table_offset = qcow2_cluster_size(h);
    plan.blocks_offset = h->refcount_table_offset + ((uint64_t)h->refcount_table_clusters << h->cluster_bits);
    l1_offset = plan.blocks_offset + (plan.blocks << h->cluster_bits);
    h->l1_offset = l1_clusters ? l1_offset : 0; /* an empty disk has no table */
    plan.l2_offset = l1_offset + (l1_clusters << h->cluster_bits);
    plan.data_offset = plan.l2_offset + (plan.l2_tables << h->cluster_bits);
    plan.end = plan.data_offset + (data << h->cluster_bits);
    *ret_plan = plan;
    return 0;
}

/* ---- contents ---- */

/* The part of [offset, offset + length) that lies in a table, in bytes of the table. */
struct part {
    uint64_t from, to; /* equal: none */
    uint8_t *bytes;    /* where byte @from goes */
};

static struct part part_of(uint64_t table_offset, uint64_t table_length, uint64_t offset, uint64_t length,
                           uint8_t *bytes)
{
    uint64_t from = WEIR_MAX(offset, table_offset),
             to = WEIR_MIN(offset + length, table_offset + table_length);

    return from < to ? (struct part){ from - table_offset, to - table_offset, bytes + (from - offset) }
                     : (struct part){ 0 };
}

/* Entries that point at contiguous clusters from @target on. */
static void fill_pointers(struct part part, uint64_t target, unsigned cluster_bits, uint64_t flags)
{
    for (uint64_t at = part.from; at < part.to; at += ENTRY_SIZE) {
        uint64_t entry = htobe64((target + (at / ENTRY_SIZE << cluster_bits)) | flags);

        memcpy(part.bytes + (at - part.from), &entry, ENTRY_SIZE);
    }
}

/*
 * Subclusters of new clusters are not allocated: they read as zero, or as the backing file, until somebody writes. In
 * a raw data file the data is what the guest sees, so there they are.
 */
static void fill_l2(const struct qcow2_plan *plan, struct part part)
{
    const struct qcow2_header *h = &plan->header;
    uint64_t target = qcow2_has_data_file(h) ? 0 : plan->data_offset, width = qcow2_l2_entry_size(h);
    uint64_t bitmap = qcow2_data_file_raw(h) ? UINT32_MAX : 0;

    for (uint64_t at = part.from; at < part.to; at += ENTRY_SIZE) {
        bool is_bitmap = at % width;
        uint64_t word = is_bitmap ? bitmap : (target + (at / width << h->cluster_bits)) | QCOW2_COPIED;

        word = htobe64(word);
        memcpy(part.bytes + (at - part.from), &word, ENTRY_SIZE);
    }
}

/* Every cluster of the image is referenced once. A slice at a multiple of 8 bytes is a block of its own. */
static void fill_counts(const struct qcow2_plan *plan, struct part part)
{
    const struct qcow2_header *h = &plan->header;
    uint64_t first = part.from * 8 >> h->refcount_order, end = part.to * 8 >> h->refcount_order;
    uint64_t used = WEIR_MIN(end, plan->end >> h->cluster_bits);

    for (uint64_t i = first; i < used; i++)
        qcow2_refcount_set(part.bytes, h->refcount_order, i - first, 1);
}

void qcow2_plan_fill(const struct qcow2_plan *plan, uint64_t offset, uint64_t length, void *bytes)
{
    const struct qcow2_header *h = &plan->header;
    uint64_t entries = qcow2_clusters(h, h->size);

    memset(bytes, 0, length);
    fill_pointers(part_of(h->refcount_table_offset, plan->blocks * ENTRY_SIZE, offset, length, bytes),
                  plan->blocks_offset, h->cluster_bits, 0);
    fill_counts(plan, part_of(plan->blocks_offset, plan->blocks << h->cluster_bits, offset, length, bytes));
    if (!plan->mapped)
        return;
    fill_pointers(part_of(h->l1_offset, h->l1_size * (uint64_t)ENTRY_SIZE, offset, length, bytes),
                  plan->l2_offset, h->cluster_bits, QCOW2_COPIED);
    fill_l2(plan, part_of(plan->l2_offset, entries * qcow2_l2_entry_size(h), offset, length, bytes));
}

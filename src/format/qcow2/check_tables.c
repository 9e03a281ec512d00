/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where everything is: areas of the file, L1 tables, and the L2 tables that they refer to. A table that overlaps
 * another one is not followed: a foreign image could otherwise make a few bytes mean any number of entries.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((uint64_t)1 << 20) /* what is read at once of a long table */

bool qcow2_add_region(struct qcow2_checker *c, uint64_t offset, uint64_t length, enum qcow2_kind kind,
                      const char *what, int *ret)
{
    struct qcow2_region region = { offset >> c->h.cluster_bits, qcow2_clusters(&c->h, length), kind };
    struct qcow2_region *last = c->region_count ? &c->regions[c->region_count - 1] : NULL;

    if (!qcow2_inside(c, offset, length)) {
        qcow2_fault(c, "ERROR %s at offset 0x%" PRIx64 " of 0x%" PRIx64 " bytes exceeds the end of the file",
                    what, offset, length);
        qcow2_lost(c, offset, length);
        return false;
    }
    if (last && last->kind == kind && last->first + last->count == region.first) {
        last->count += region.count;
        return true;
    }
    *ret = qcow2_check_room(&c->regions, &c->region_room, c->region_count, sizeof(region),
                            QCOW2_CHECK_REGIONS_MAX);
    if (*ret)
        return false;
    c->regions[c->region_count++] = region;
    return true;
}

int qcow2_add_table(struct qcow2_checker *c, const struct qcow2_table *table)
{
    int ret = qcow2_check_room(&c->tables, &c->table_room, c->table_count, sizeof(*table),
                               1 + QCOW2_SNAPSHOTS_MAX + QCOW2_BITMAPS_MAX);

    if (!ret)
        c->tables[c->table_count++] = *table;
    return ret;
}

/* ---- L2 tables, each once ---- */

static int by_place(const void *a, const void *b)
{
    const struct qcow2_l2 *left = a, *right = b;

    return (left->where > right->where) - (left->where < right->where);
}

void qcow2_sort_l2(struct qcow2_checker *c)
{
    size_t kept = 0;

    qsort(c->l2, c->l2_count, sizeof(*c->l2), by_place);
    for (size_t i = 1; i < c->l2_count; i++) {
        struct qcow2_l2 *into = &c->l2[kept], *from = &c->l2[i];

        if ((into->where ^ from->where) > QCOW2_L2_ACTIVE) {
            c->l2[++kept] = *from;
            continue;
        }
        into->refs = from->refs > UINT32_MAX - into->refs ? UINT32_MAX : into->refs + from->refs;
        /* The active one sorts behind the others of its place. */
        if ((from->where ^ into->where) & QCOW2_L2_ACTIVE)
            into->l1_index = from->l1_index;
        into->where |= from->where;
    }
    c->l2_count = c->l2_count ? kept + 1 : 0;
}

int qcow2_add_l2(struct qcow2_checker *c, uint64_t offset, uint32_t l1_index, bool active)
{
    struct qcow2_l2 l2 = { offset | (active ? QCOW2_L2_ACTIVE : 0), 1, l1_index };
    int ret;

    /* Many snapshots refer to the same tables: merging them may make room enough. */
    if (c->l2_count == c->l2_room && c->l2_count > c->l2_merged * 2) {
        qcow2_sort_l2(c);
        c->l2_merged = c->l2_count;
    }
    ret = qcow2_check_room(&c->l2, &c->l2_room, c->l2_count, sizeof(l2), QCOW2_CHECK_L2_MAX);
    if (!ret)
        c->l2[c->l2_count++] = l2;
    return ret;
}

/* ---- L1 tables ---- */

static void table_name(const struct qcow2_table *table, char *name, size_t size)
{
    if (table->type == QCOW2_TABLE_ACTIVE)
        (void)snprintf(name, size, "active L1 table");
    else
        (void)snprintf(name, size,
                       table->type == QCOW2_TABLE_BITMAP ? "table of bitmap %" PRIu32
                                                         : "L1 table of snapshot %" PRIu32,
                       table->index + 1);
}

static int judge_l1(struct qcow2_checker *c, const struct qcow2_table *table, uint32_t index, uint64_t *disk,
                    bool *dirty)
{
    uint64_t entry = be64toh(*disk), offset = entry & QCOW2_OFFSET_MASK;
    bool sound = qcow2_aligned(c, offset) && qcow2_inside(c, offset, qcow2_cluster_size(&c->h));
    char name[48];

    if (!entry)
        return 0;
    table_name(table, name, sizeof(name));
    if (entry & QCOW2_L1_RESERVED) {
        qcow2_fault(c, "ERROR %s: entry %" PRIu32 " has reserved bits set: %016" PRIx64, name, index, entry);
        if (sound && qcow2_may_correct(c)) {
            qcow2_note(c, "Repairing %s: entry %" PRIu32 ": reserved bits cleared", name, index);
            *disk = htobe64(entry & ~QCOW2_L1_RESERVED);
            *dirty = true;
            qcow2_fixed(c);
        }
    }
    if (sound)
        return offset ? qcow2_add_l2(c, offset, index, table->type == QCOW2_TABLE_ACTIVE) : 0;
    qcow2_fault(c, "ERROR %s: entry %" PRIu32 ": L2 table at offset 0x%" PRIx64 " %s", name, index, offset,
                qcow2_aligned(c, offset) ? "exceeds the end of the file" : "is not aligned to clusters");
    qcow2_lost(c, offset, qcow2_cluster_size(&c->h));
    return 0;
}

static weir_co_fn int follow_l1(struct qcow2_checker *c, const struct qcow2_table *table)
{
    uint64_t bytes = (uint64_t)table->entries * 8;
    weir_autofree uint64_t *piece = weir_try_alloc(WEIR_MIN(bytes, PIECE), 4096);

    if (!piece)
        return -ENOMEM;
    for (uint64_t at = 0; at < bytes; at += PIECE) {
        uint64_t length = WEIR_MIN(bytes - at, PIECE);
        int ret = qcow2_check_read(c, table->offset + at, length, piece);
        bool dirty = false;

        if (ret) {
            qcow2_unread(c, ret, "L1 table", table->offset + at);
            continue;
        }
        for (uint64_t i = 0; i < length / 8 && !ret; i++)
            ret = judge_l1(c, table, (uint32_t)(at / 8 + i), &piece[i], &dirty);
        if (!ret && dirty)
            ret = qcow2_check_write(c, table->offset + at, length, piece);
        if (ret)
            return ret;
    }
    return 0;
}

/* ---- all of them ---- */

static int by_offset(const void *a, const void *b)
{
    const struct qcow2_table *left = a, *right = b;

    return (left->offset > right->offset) - (left->offset < right->offset);
}

static weir_co_fn int follow(struct qcow2_checker *c, struct qcow2_table *table, uint64_t *end)
{
    uint64_t bytes = (uint64_t)table->entries * 8;
    char name[48];
    int ret = 0;

    table_name(table, name, sizeof(name));
    if (!qcow2_aligned(c, table->offset)) {
        qcow2_fault(c, "ERROR %s at offset 0x%" PRIx64 " is not aligned to clusters", name, table->offset);
        qcow2_lost(c, table->offset, bytes);
        return 0;
    }
    if (table->offset < *end) {
        qcow2_fault(c, "ERROR %s at offset 0x%" PRIx64 " overlaps another table and is not followed", name,
                    table->offset);
        c->incomplete = true;
        return 0;
    }
    if (!qcow2_add_region(c, table->offset, bytes, QCOW2_KIND_META, name, &ret))
        return ret;
    *end = table->offset + bytes;
    table->followed = true;
    return table->type == QCOW2_TABLE_BITMAP ? qcow2_follow_bitmap(c, table) : follow_l1(c, table);
}

int qcow2_find_tables(struct qcow2_checker *c)
{
    struct qcow2_table active = { c->h.l1_offset, c->h.l1_size, 0, QCOW2_TABLE_ACTIVE };
    uint64_t end = 0;
    int ret = 0;

    (void)qcow2_add_region(c, 0, qcow2_cluster_size(&c->h), QCOW2_KIND_META, "header", &ret);
    if (!ret && active.entries)
        ret = qcow2_add_table(c, &active);
    if (!ret)
        ret = qcow2_find_extensions(c);
    if (!ret)
        ret = qcow2_find_snapshots(c);
    if (ret)
        return ret;
    if (c->table_count)
        qsort(c->tables, c->table_count, sizeof(*c->tables), by_offset);
    for (size_t i = 0; i < c->table_count && !ret; i++)
        ret = follow(c, &c->tables[i], &end);
    if (!ret && c->l2_count)
        qcow2_sort_l2(c);
    return ret;
}

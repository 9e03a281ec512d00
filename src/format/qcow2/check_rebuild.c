/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All counts written anew behind the end of the file: blocks for what is in use, then the table; the header is
 * switched over when they are durable. The old ones are not counted any more. Where some references could not be
 * followed, every cluster of the file is kept: counted at least once; and where an entry points to what would then be
 * new clusters, nothing is rebuilt.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include "io/io.h"
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

struct plan {
    bool *needed;        /* for each block */
    size_t count;        /* blocks that the table has room for */
    size_t blocks;       /* of those, needed */
    uint64_t start, end; /* clusters: the new blocks and the table */
    uint64_t table_clusters;
    uint64_t *table; /* in the byte order of the disk */
};

static uint64_t wanted(const struct qcow2_checker *c, const struct plan *plan, uint64_t cluster)
{
    uint64_t refs = qcow2_counts_get(&c->counts, cluster), most = qcow2_refcount_max(&c->h);

    if (cluster >= plan->start)
        return cluster < plan->end;
    if (c->incomplete && !refs)
        return cluster < c->file_clusters;
    return WEIR_MIN(refs, most);
}

static bool in_use(const struct qcow2_checker *c, uint64_t first, uint64_t count)
{
    if (c->incomplete)
        return true;
    for (uint64_t cluster = first; cluster < first + count; cluster++) {
        if (!qcow2_counts_touched(&c->counts, cluster))
            cluster |= QCOW2_COUNTS_PAGE - 1;
        else if (qcow2_counts_get(&c->counts, cluster))
            return true;
    }
    return false;
}

/* Which blocks the clusters that are there want. */
static weir_co_fn int look(struct qcow2_checker *c, struct plan *plan)
{
    uint64_t entries = qcow2_block_entries(&c->h);

    WEIR_ASSERT(entries); /* at least 64, whatever an image says: the header was checked */
    for (uint64_t first = 0; first < c->file_clusters; first += QCOW2_COUNTS_WINDOW) {
        uint64_t end = WEIR_MIN(first + QCOW2_COUNTS_WINDOW, c->file_clusters);
        int ret = qcow2_count_window(c, first, true);

        if (ret)
            return ret;
        for (uint64_t at = first; at < end; at += entries) {
            if (!in_use(c, at, WEIR_MIN(entries, end - at)))
                continue;
            plan->needed[at / entries] = true;
            plan->blocks++;
        }
    }
    return 0;
}

/* The new blocks and the table count themselves: until nothing is added any more. False: there is no place. */
static bool place(struct qcow2_checker *c, struct plan *plan)
{
    uint64_t entries = qcow2_block_entries(&c->h), table = 0;
    size_t blocks = SIZE_MAX;

    plan->start = c->file_clusters;
    plan->table_clusters = 1;
    while (blocks != plan->blocks || table != plan->table_clusters) {
        blocks = plan->blocks;
        table = plan->table_clusters;
        plan->end = plan->start + blocks + table;
        for (uint64_t i = plan->start / entries; i <= (plan->end - 1) / entries && i < plan->count; i++) {
            plan->blocks += !plan->needed[i];
            plan->needed[i] = true;
        }
        plan->table_clusters = qcow2_clusters(&c->h, ((plan->end - 1) / entries + 1) * 8);
    }
    return plan->table_clusters << c->h.cluster_bits <= QCOW2_REFCOUNT_TABLE_BYTES_MAX &&
           (!c->lost_cluster || plan->end <= c->lost_cluster);
}

static weir_co_fn int write_blocks(struct qcow2_checker *c, struct plan *plan)
{
    uint64_t entries = qcow2_block_entries(&c->h), size = qcow2_cluster_size(&c->h);
    uint64_t offset = plan->start << c->h.cluster_bits;
    weir_autofree void *block = weir_try_alloc(size, 4096);
    int ret = block ? 0 : -ENOMEM;

    for (uint64_t first = 0; first < plan->end && !ret; first += QCOW2_COUNTS_WINDOW) {
        ret = qcow2_count_window(c, first, true);
        for (uint64_t at = first; at < WEIR_MIN(plan->end, first + QCOW2_COUNTS_WINDOW) && !ret;
             at += entries) {
            if (!plan->needed[at / entries])
                continue;
            memset(block, 0, size);
            for (uint64_t i = 0; i < entries && at + i < plan->end; i++)
                qcow2_refcount_set(block, c->h.refcount_order, i, wanted(c, plan, at + i));
            plan->table[at / entries] = htobe64(offset);
            ret = qcow2_check_write(c, offset, size, block);
            offset += size;
        }
    }
    return ret;
}

static weir_co_fn int write_table(struct qcow2_checker *c, const struct plan *plan)
{
    uint64_t length = plan->table_clusters << c->h.cluster_bits;
    uint64_t offset = (plan->end - plan->table_clusters) << c->h.cluster_bits;
    struct {
        uint64_t offset;
        uint32_t clusters;
    } __attribute__((packed)) header = { htobe64(offset), htobe32((uint32_t)plan->table_clusters) };
    int ret = qcow2_check_write(c, offset, length, plan->table);

    if (!ret)
        ret = weir_io_flush(c->file);
    if (!ret)
        ret = qcow2_check_write(c, offsetof(struct qcow2_disk_header, refcount_table_offset), sizeof(header),
                                &header);
    if (!ret)
        ret = weir_io_flush(c->file);
    if (ret)
        return ret;
    c->h.refcount_table_offset = offset;
    c->h.refcount_table_clusters = (uint32_t)plan->table_clusters;
    return 0;
}

static weir_co_fn int carry_out(struct qcow2_checker *c, struct plan *plan)
{
    int ret = look(c, plan);

    if (ret)
        return ret;
    if (!place(c, plan)) {
        c->silent = false;
        qcow2_note(
            c, "ERROR there is no place for new refcounts that no entry points to and that a table can list");
        return 0;
    }
    plan->table = weir_try_alloc(plan->table_clusters << c->h.cluster_bits, 4096);
    if (!plan->table)
        return -ENOMEM;
    memset(plan->table, 0, plan->table_clusters << c->h.cluster_bits);
    ret = write_blocks(c, plan);
    if (!ret)
        ret = write_table(c, plan);
    if (ret)
        return ret;
    c->r.corruptions_fixed += c->count_faults;
    c->count_faults = 0;
    if (!c->incomplete)
        c->r.leaks_fixed += c->r.leaks;
    c->file_clusters = plan->end;
    c->rebuild = c->tangled = false;
    return qcow2_find_blocks(c);
}

int qcow2_rebuild(struct qcow2_checker *c)
{
    struct plan plan = { .count = QCOW2_REFCOUNT_TABLE_BYTES_MAX / 8 };
    int ret = 0;

    if (c->file_clusters / qcow2_block_entries(&c->h) >= plan.count) {
        qcow2_note(c, "ERROR new refcounts would need a table that is too large");
        return 0;
    }
    qcow2_note(c, "Rebuilding the refcounts at the end of the file");
    plan.needed = weir_alloc(plan.count);
    c->silent = true;
    ret = carry_out(c, &plan);
    c->silent = false;
    free(plan.needed);
    free(plan.table);
    return ret;
}

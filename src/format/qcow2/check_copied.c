/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copied flags of the active tables: set where the count of what the entry refers to is exactly one. An external
 * data file has no counts: whatever is there is the image's alone.
 *
 * A flag that is set wrongly loses data of snapshots, one that is missing costs a copy. So flags are only set
 * where all counts have become right.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include <errno.h>
#include <inttypes.h>

#define PIECE ((uint64_t)1 << 20)

static void judge(struct qcow2_checker *c, uint64_t *disk, uint64_t refcount, const char *what, bool *dirty)
{
    uint64_t entry = be64toh(*disk);
    bool set = refcount == 1, may = qcow2_may_correct(c) || (set && c->fix && !c->tangled);

    if (!!(entry & QCOW2_COPIED) == set)
        return;
    qcow2_fault(c, "ERROR copied flag is wrong: %s_entry=%016" PRIx64 " refcount=%" PRIu64, what, entry,
                refcount);
    if (!may || c->r.check_errors || (set && c->count_faults))
        return;
    qcow2_note(c, "Repairing copied flag: %s_entry=%016" PRIx64 " refcount=%" PRIu64, what, entry, refcount);
    *disk = htobe64(entry ^ QCOW2_COPIED);
    *dirty = true;
    qcow2_fixed(c);
}

/* An entry that points to nothing has no flag; that is looked at with the first window. */
static void judge_place(struct qcow2_checker *c, uint64_t *disk, const char *what, bool *dirty)
{
    uint64_t offset = be64toh(*disk) & QCOW2_OFFSET_MASK, cluster = offset >> c->h.cluster_bits;

    if (!qcow2_aligned(c, offset) || !qcow2_inside(c, offset, qcow2_cluster_size(&c->h)))
        return;
    if (qcow2_counts_has(&c->counts, cluster))
        judge(c, disk, offset ? qcow2_counts_get(&c->counts, cluster) : 0, what, dirty);
}

static void judge_l2(struct qcow2_checker *c, const struct qcow2_l2 *l2, uint64_t *table, bool *dirty)
{
    uint64_t step = qcow2_l2_entry_size(&c->h) / 8, words = qcow2_l2_entries(&c->h) * step;
    bool external = qcow2_has_data_file(&c->h);

    (void)l2;
    for (uint64_t i = 0; i < words; i += step) {
        uint64_t entry = be64toh(table[i]);

        if (!entry || entry & QCOW2_COMPRESSED)
            continue;
        if (!external)
            judge_place(c, &table[i], "l2", dirty);
        else if (!c->counts.first && entry & QCOW2_OFFSET_MASK)
            judge(c, &table[i], 1, "l2", dirty);
    }
}

static weir_co_fn int check_l1(struct qcow2_checker *c, const struct qcow2_table *table)
{
    uint64_t bytes = (uint64_t)table->entries * 8;
    weir_autofree uint64_t *piece = weir_try_alloc(WEIR_MIN(bytes, PIECE), 4096);

    if (!piece)
        return -ENOMEM;
    for (uint64_t at = 0; at < bytes; at += PIECE) {
        uint64_t length = WEIR_MIN(bytes - at, PIECE);
        bool dirty = false;
        int ret = qcow2_check_read(c, table->offset + at, length, piece);

        if (ret)
            continue; /* has been said when it was followed */
        for (uint64_t i = 0; i < length / 8; i++) {
            if (piece[i])
                judge_place(c, &piece[i], "l1", &dirty);
        }
        if (dirty)
            ret = qcow2_check_write(c, table->offset + at, length, piece);
        if (ret)
            return ret;
    }
    return 0;
}

int qcow2_check_copied(struct qcow2_checker *c)
{
    static const struct qcow2_l2_walk walk = { .each = judge_l2, .active_only = true };
    int ret = 0;

    for (uint64_t first = 0; first < c->file_clusters && !ret; first += QCOW2_COUNTS_WINDOW) {
        ret = qcow2_load_counts(c, first);
        for (size_t i = 0; i < c->table_count && !ret; i++) {
            if (c->tables[i].type == QCOW2_TABLE_ACTIVE && c->tables[i].followed)
                ret = check_l1(c, &c->tables[i]);
        }
        if (!ret)
            ret = qcow2_walk_l2(c, &walk);
    }
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The refcount table and its blocks: found, compared with what was counted, and corrected where they are.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define SEEN ((uint64_t)1) /* in drop_twins(): an offset has this bit free */

/* ---- the table ---- */

/* What a table of new counts repairs. */
static weir_printf(2, 3) void fault(struct qcow2_checker *c, const char *format, ...)
{
    char line[160];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    qcow2_fault(c, "%s", line);
    c->count_faults++;
}

static uint64_t judge_block(struct qcow2_checker *c, size_t index, uint64_t entry)
{
    bool aligned = qcow2_aligned(c, entry & QCOW2_REFCOUNT_OFFSET_MASK);

    if (entry & ~QCOW2_REFCOUNT_OFFSET_MASK)
        fault(c, "ERROR refcount table: entry %zu has reserved bits set: %016" PRIx64, index, entry);
    else if (!aligned)
        fault(c, "ERROR refcount table: entry %zu: offset 0x%" PRIx64 " is not aligned to clusters", index,
              entry);
    else if (!qcow2_inside(c, entry, qcow2_cluster_size(&c->h)))
        fault(c, "ERROR refcount table: entry %zu: offset 0x%" PRIx64 " exceeds the end of the file", index,
              entry);
    else
        return entry;
    c->rebuild = true;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a & ~SEEN, right = *(const uint64_t *)b & ~SEEN;

    return (left > right) - (left < right);
}

/* A block that is there twice is only read once, so that no image makes much work of few blocks. */
static int drop_twins(struct qcow2_checker *c)
{
    weir_autofree uint64_t *sorted = weir_try_alloc(c->block_count * 8, 16);
    uint64_t *twin;

    if (!sorted)
        return -ENOMEM;
    memcpy(sorted, c->blocks, c->block_count * 8);
    qsort(sorted, c->block_count, 8, by_value);
    for (size_t i = 0; i + 1 < c->block_count; i++)
        sorted[i] = sorted[i] == sorted[i + 1] ? sorted[i] : 0;
    sorted[c->block_count - 1] = 0;
    qsort(sorted, c->block_count, 8, by_value);
    for (size_t i = 0; i < c->block_count; i++) {
        twin = c->blocks[i] ? bsearch(&c->blocks[i], sorted, c->block_count, 8, by_value) : NULL;
        if (!twin)
            continue;
        if (!(*twin & SEEN)) {
            *twin |= SEEN;
            continue;
        }
        fault(c, "ERROR refcount table: entry %zu: the block at offset 0x%" PRIx64 " is there twice", i,
              c->blocks[i]);
        c->rebuild = true;
        c->blocks[i] = 0;
    }
    return 0;
}

int qcow2_find_blocks(struct qcow2_checker *c)
{
    uint64_t bytes = (uint64_t)c->h.refcount_table_clusters << c->h.cluster_bits;
    int ret;

    free(c->blocks);
    c->block_count = 0;
    c->blocks = NULL;
    if (!qcow2_inside(c, c->h.refcount_table_offset, bytes) || !c->h.refcount_table_offset) {
        fault(c,
              "ERROR refcount table at offset 0x%" PRIx64 " of 0x%" PRIx64
              " bytes exceeds the end of the file",
              c->h.refcount_table_offset, bytes);
        c->rebuild = true;
        return 0;
    }
    c->blocks = weir_try_alloc(bytes, 4096);
    if (!c->blocks)
        return -ENOMEM;
    ret = qcow2_check_read(c, c->h.refcount_table_offset, bytes, c->blocks);
    if (ret) {
        qcow2_unread(c, ret, "refcount table", c->h.refcount_table_offset);
        return 0;
    }
    c->block_count = bytes / 8;
    for (size_t i = 0; i < c->block_count; i++)
        c->blocks[i] = c->blocks[i] ? judge_block(c, i, be64toh(c->blocks[i])) : 0;
    return drop_twins(c);
}

/* ---- the blocks of a window ---- */

struct block_walk {
    int (*each)(struct qcow2_checker *c, size_t index, void *block, bool *ret_dirty);
    bool absent; /* also those that are not there */
    bool tell;   /* when one cannot be read */
};

static weir_co_fn int walk_block(struct qcow2_checker *c, const struct block_walk *walk, size_t index,
                                 void *block)
{
    uint64_t size = qcow2_cluster_size(&c->h), offset = index < c->block_count ? c->blocks[index] : 0;
    bool dirty = false;
    int ret;

    if (!offset && !walk->absent)
        return 0;
    if (offset) {
        ret = qcow2_check_read(c, offset, size, block);
        if (ret) {
            if (walk->tell)
                qcow2_unread(c, ret, "refcount block", offset);
            return 0;
        }
    }
    ret = walk->each(c, index, block, &dirty);
    return !ret && dirty ? qcow2_check_write(c, offset, size, block) : ret;
}

/* With the last window come all blocks of clusters behind the end of the file. */
static weir_co_fn int walk_blocks(struct qcow2_checker *c, const struct block_walk *walk)
{
    uint64_t entries = qcow2_block_entries(&c->h), first = c->counts.first;
    weir_autofree void *block = weir_try_alloc(qcow2_cluster_size(&c->h), 4096);
    size_t from = first / entries, to = (first + QCOW2_COUNTS_WINDOW) / entries;
    int ret = block ? 0 : -ENOMEM;

    if (first + QCOW2_COUNTS_WINDOW >= c->file_clusters) {
        to = (size_t)((c->file_clusters + entries - 1) / entries);
        to = WEIR_MAX(to, c->block_count);
    }
    for (size_t i = from; i < to && !ret; i++)
        ret = walk_block(c, walk, i, block);
    return ret;
}

static uint64_t counted(const struct qcow2_checker *c, uint64_t cluster)
{
    return qcow2_counts_has(&c->counts, cluster) ? qcow2_counts_get(&c->counts, cluster) : 0;
}

/* More references than anybody counts are not told apart. */
static bool agrees(const struct qcow2_checker *c, uint64_t stored, uint64_t refs)
{
    return stored == refs || (refs == QCOW2_COUNT_MANY && stored >= refs);
}

/* ---- compare ---- */

/* Clusters behind @cluster of a page in which nothing is referenced: huge files cost little where they are empty. */
static uint64_t skip(const struct qcow2_checker *c, uint64_t cluster)
{
    if (qcow2_counts_has(&c->counts, cluster) && qcow2_counts_touched(&c->counts, cluster))
        return 0;
    return QCOW2_COUNTS_PAGE - 1 - cluster % QCOW2_COUNTS_PAGE;
}

static int compare_block(struct qcow2_checker *c, size_t index, void *block, bool *dirty)
{
    uint64_t entries = qcow2_block_entries(&c->h), first = index * entries;
    bool absent = index >= c->block_count || !c->blocks[index];

    (void)dirty;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t refs = counted(c, first + i), stored;

        if (absent && !refs) {
            i += skip(c, first + i);
            continue;
        }
        stored = absent ? 0 : qcow2_refcount_get(block, c->h.refcount_order, i);
        if ((stored || refs) && first + i < c->file_clusters)
            c->end_cluster = WEIR_MAX(c->end_cluster, first + i + 1);
        if (agrees(c, stored, refs))
            continue;
        if (stored > refs) {
            c->r.leaks++;
            qcow2_note(c, "Leaked cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, first + i,
                       stored, refs);
        } else {
            fault(c, "ERROR cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, first + i, stored,
                  refs);
            c->rebuild |= absent;
        }
    }
    return 0;
}

int qcow2_compare(struct qcow2_checker *c)
{
    static const struct block_walk walk = { compare_block, .absent = true, .tell = true };
    int ret = 0;

    for (uint64_t first = 0; first < c->file_clusters && !ret; first += QCOW2_COUNTS_WINDOW) {
        ret = qcow2_count_window(c, first, false);
        if (!ret)
            ret = walk_blocks(c, &walk);
    }
    return ret;
}

/* ---- repair where they are ---- */

static int fix_block(struct qcow2_checker *c, size_t index, void *block, bool *dirty)
{
    uint64_t entries = qcow2_block_entries(&c->h), first = index * entries;

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t refs = counted(c, first + i), stored = qcow2_refcount_get(block, c->h.refcount_order, i);
        bool lower = stored > refs && c->fix & WEIR_CHECK_FIX_LEAKS && !c->incomplete;
        bool raise = stored < refs && c->fix & WEIR_CHECK_FIX_ERRORS && !agrees(c, stored, refs);

        if (raise && refs > qcow2_refcount_max(&c->h)) {
            qcow2_note(c, "ERROR cluster %" PRIu64 ": %" PRIu64 " references cannot be counted in %u bits",
                       first + i, refs, 1u << c->h.refcount_order);
            continue;
        }
        if (!lower && !raise)
            continue;
        qcow2_note(c, "Repairing cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64, first + i,
                   stored, refs);
        qcow2_refcount_set(block, c->h.refcount_order, i, refs);
        c->r.leaks_fixed += lower;
        c->r.corruptions_fixed += raise;
        c->count_faults -= raise;
        *dirty = true;
    }
    return 0;
}

int qcow2_fix_counts(struct qcow2_checker *c)
{
    static const struct block_walk walk = { fix_block };
    bool more = c->file_clusters > QCOW2_COUNTS_WINDOW;
    int ret = 0;

    for (uint64_t first = 0; first < c->file_clusters && !ret; first += QCOW2_COUNTS_WINDOW) {
        if (more) { /* else the only window is still there */
            c->silent = true;
            ret = qcow2_count_window(c, first, false);
            c->silent = false;
        }
        if (!ret)
            ret = walk_blocks(c, &walk);
    }
    return ret;
}

/* ---- as they are ---- */

static int load_block(struct qcow2_checker *c, size_t index, void *block, bool *dirty)
{
    uint64_t entries = qcow2_block_entries(&c->h), first = index * entries;

    (void)dirty;
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t stored = qcow2_refcount_get(block, c->h.refcount_order, i);

        if (stored && qcow2_counts_has(&c->counts, first + i) &&
            !qcow2_counts_set(&c->counts, first + i, (uint32_t)WEIR_MIN(stored, (uint64_t)QCOW2_COUNT_MANY)))
            return -ENOMEM;
    }
    return 0;
}

int qcow2_load_counts(struct qcow2_checker *c, uint64_t first)
{
    static const struct block_walk walk = { load_block };

    qcow2_counts_reset(&c->counts, first);
    return walk_blocks(c, &walk);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the parts of the check share. First everything that says where tables are is read once (check_tables.c,
 * check_snapshots.c, check_bitmaps.c, check_refcounts.c): that gives areas, refcount blocks and L2 tables, each L2
 * table once with the number of its references. Then host clusters are counted, a window of them at a time
 * (check_l2.c), and compared with the counts on disk. So the work grows with the size of the metadata, not with how
 * often tables are referred to.
 */
#ifndef WEIR_FORMAT_QCOW2_CHECK_STATE_H
#define WEIR_FORMAT_QCOW2_CHECK_STATE_H

#include "format/qcow2/check.h"
#include "format/qcow2/check_counts.h"

/* What a cluster holds, as far as it matters: two of different kinds must not share one. */
enum qcow2_kind {
    QCOW2_KIND_DATA,
    QCOW2_KIND_META, /* header, L1 tables, snapshots, bitmaps: exactly one owner */
    QCOW2_KIND_L2,   /* may be shared by snapshots */
    QCOW2_KIND_REFCOUNTS,
};

/* An area of the file in use, in clusters. */
struct qcow2_region {
    uint64_t first, count;
    enum qcow2_kind kind;
};

/* A table of entries that is to be followed: L1 tables and bitmap tables. */
struct qcow2_table {
    uint64_t offset;
    uint32_t entries, index; /* index: of the snapshot, or the bitmap */
    enum qcow2_table_type { QCOW2_TABLE_ACTIVE, QCOW2_TABLE_SNAPSHOT, QCOW2_TABLE_BITMAP } type;
    bool followed; /* else it is not where a table can be */
};

struct qcow2_l2 {
    uint64_t where; /* offset; QCOW2_L2_ACTIVE */
    uint32_t refs;
    uint32_t l1_index; /* of the active table where that has it */
};
#define QCOW2_L2_ACTIVE ((uint64_t)1)

struct qcow2_checker {
    struct weir_edge *file, *data; /* data: NULL where there is no external file */
    struct qcow2_header h;
    unsigned fix;
    struct weir_check_result r;
    void (*report)(void *arg, const char *line);
    void *arg;
    uint64_t file_clusters; /* the last one may be there in part */
    uint64_t lost_cluster;  /* behind the end of the file; an entry points there; 0: none */
    uint64_t end_cluster;   /* behind the last one that is counted or referenced */
    bool told;              /* what is wrong with tables has been said; only counting matters now */
    bool silent;            /* counting again: nothing is said at all */
    bool incomplete;        /* some references could not be followed */
    bool rebuild;           /* the refcount structures cannot be repaired where they are */
    uint64_t count_faults;  /* corruptions of counts, that right ones would repair */
    bool tangled; /* refcounts share a cluster with a table: none is corrected before they have moved */
    bool knotted; /* other tables do, or the header: nothing at all is repaired */
    bool changed; /* something was written */

    bool no_memory; /* while counting: the result is worth nothing */

    struct qcow2_counts counts;
    struct qcow2_table *tables;
    size_t table_count, table_room;
    struct qcow2_region *regions;
    size_t region_count, region_room;
    struct qcow2_l2 *l2;
    size_t l2_count, l2_room, l2_merged; /* l2_merged: how many there were when they were last merged */

    uint64_t *blocks; /* offsets of the refcount blocks; 0: none that can be used */
    size_t block_count;
};

static inline uint64_t qcow2_file_end(const struct qcow2_checker *c)
{
    return c->file_clusters << c->h.cluster_bits;
}
static inline bool qcow2_aligned(const struct qcow2_checker *c, uint64_t offset)
{
    return !(offset & (qcow2_cluster_size(&c->h) - 1));
}
static inline bool qcow2_inside(const struct qcow2_checker *c, uint64_t offset, uint64_t length)
{
    return offset <= qcow2_file_end(c) && length <= qcow2_file_end(c) - offset;
}

/* Whether an entry of a table may be corrected. */
static inline bool qcow2_may_correct(const struct qcow2_checker *c)
{
    return c->fix & WEIR_CHECK_FIX_ERRORS && !c->tangled;
}

/* ---- check_report.c ---- */
/* A line that is not a fault. */
void qcow2_note(struct qcow2_checker *c, const char *format, ...) weir_printf(2, 3);
/* A corruption. */
void qcow2_fault(struct qcow2_checker *c, const char *format, ...) weir_printf(2, 3);
/* Something that could not be read, so that it is not known what it refers to. */
void qcow2_unread(struct qcow2_checker *c, int error, const char *what, uint64_t offset);
/*
 * A reference that cannot be followed: to [@offset, @offset + @length). Nothing is freed any more, and where that is
 * behind the end of the file it must not become longer, or the entry would suddenly point to something.
 */
void qcow2_lost(struct qcow2_checker *c, uint64_t offset, uint64_t length);
/* A corruption that was repaired. */
void qcow2_fixed(struct qcow2_checker *c);
/* Reads of the file; zeroes beyond its end. */
int qcow2_check_read(struct qcow2_checker *c, uint64_t offset, uint64_t length,
                     void *buffer) weir_co_fn weir_must_check;
int qcow2_check_write(struct qcow2_checker *c, uint64_t offset, uint64_t length,
                      const void *buffer) weir_co_fn weir_must_check;
/* Room for one more in an array whose length a foreign image decides: -ENOMEM, or -EFBIG beyond @max. */
int qcow2_check_room(void *array_pointer, size_t *room, size_t count, size_t size,
                     size_t max) weir_must_check;

/* ---- where everything is; once ---- */
int qcow2_find_tables(struct qcow2_checker *c) weir_co_fn weir_must_check;
int qcow2_find_snapshots(struct qcow2_checker *c) weir_co_fn weir_must_check;
int qcow2_find_extensions(struct qcow2_checker *c) weir_co_fn weir_must_check;
int qcow2_find_blocks(struct qcow2_checker *c) weir_co_fn weir_must_check;
/* @offset was checked to be aligned. False with a fault where it is not inside of the file. */
bool qcow2_add_region(struct qcow2_checker *c, uint64_t offset, uint64_t length, enum qcow2_kind kind,
                      const char *what, int *ret);
int qcow2_add_table(struct qcow2_checker *c, const struct qcow2_table *table) weir_must_check;
int qcow2_add_l2(struct qcow2_checker *c, uint64_t offset, uint32_t l1_index, bool active) weir_must_check;
void qcow2_sort_l2(struct qcow2_checker *c);
/* Judges the entries of a bitmap's table. */
int qcow2_follow_bitmap(struct qcow2_checker *c, const struct qcow2_table *table) weir_co_fn weir_must_check;

/* ---- counting ---- */
/* Counts the references to the clusters from @first on, as many as a window has. */
int qcow2_count_window(struct qcow2_checker *c, uint64_t first,
                       bool without_refcounts) weir_co_fn weir_must_check;
/* Counts and compares all; then repairs what may be. */
int qcow2_compare(struct qcow2_checker *c) weir_co_fn weir_must_check;
int qcow2_fix_counts(struct qcow2_checker *c) weir_co_fn weir_must_check;
int qcow2_rebuild(struct qcow2_checker *c) weir_co_fn weir_must_check;
/* Loads the counts of a window as they stand on disk. */
int qcow2_load_counts(struct qcow2_checker *c, uint64_t first) weir_co_fn weir_must_check;
int qcow2_check_copied(struct qcow2_checker *c) weir_co_fn weir_must_check;

/* ---- L2 tables ---- */
/* Calls @each for the L2 tables, in the order of their places. @dirty: it is written back. */
struct qcow2_l2_walk {
    void (*each)(struct qcow2_checker *c, const struct qcow2_l2 *l2, uint64_t *table, bool *ret_dirty);
    bool active_only;
};
int qcow2_walk_l2(struct qcow2_checker *c, const struct qcow2_l2_walk *walk) weir_co_fn weir_must_check;

#endif

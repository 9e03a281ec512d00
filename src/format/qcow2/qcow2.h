/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The qcow2 driver, seen by the files that share the work. What follows runs inside the node's monitor, in memory,
 * unless it is marked weir_co_fn.
 *
 *   layout.c    what stands on disk
 *   open.c      options, features, children; life of a node
 *   counts.c    reference counts: look-up, reservation, release
 *   alloc.c     the search for free clusters; new refcount blocks, a larger refcount table
 *   table.c     L1 and L2 tables: find, create, copy on write
 *   map.c       where things are (reads, writes in place)
 *   write.c     what a write, a zero or a discard will change
 *   commit.c    making it so, or taking it back
 *   resize.c    another size of the disk
 *   reopen.c    other options
 *   backing.c   another name of the backing file
 *   codec.c     compression
 *   check*.c    judging and repairing the metadata
 *   create.c    new images
 *   describe.c  what people are told
 *
 * Directories (L1 table, refcount table) and the header are kept in memory whole and handed to meta/ when they change;
 * L2 tables and refcount blocks live in meta/'s cache, a whole cluster each.
 *
 * Counts are raised in commit (tables: in map, when they are made) and lowered in release. Between its reservation
 * and its count a cluster is kept from others by `reserved`; between giving up and release `dropped` says how many of
 * its counted references are already gone. A cluster is free when its count and its reservations are zero.
 */
#ifndef WEIR_FORMAT_QCOW2_QCOW2_H
#define WEIR_FORMAT_QCOW2_QCOW2_H

#include "format/qcow2/layout.h"
#include "graph/node.h"
#include "meta/meta.h"
#include <errno.h>
#include <uthash.h>

/* Directories are handed to meta/ in pieces of this size, or of a cluster where that is smaller (bytes). */
#define QCOW2_DIRECTORY_PIECE 4096u
/* How many refcount blocks an allocation may touch for what it replaces: bounds the tables that it needs in memory. */
#define QCOW2_OLD_BLOCKS_MAX 4u

/* One cluster that somebody reserved or gave up. */
struct qcow2_claim {
    uint64_t cluster;
    uint32_t reserved, dropped;
    UT_hash_handle hh;
};

/* Why space becomes free: options pass-discard-*. */
enum qcow2_discard { QCOW2_DISCARD_REQUEST, QCOW2_DISCARD_SNAPSHOT, QCOW2_DISCARD_OTHER, QCOW2_DISCARDS };

/* weir_extent.cookie of pending extents. */
enum qcow2_pending {
    QCOW2_PENDING_NEW = 1,   /* host clusters were reserved for it */
    QCOW2_PENDING_KEEP = 2,  /* the entries keep their host clusters */
    QCOW2_PENDING_CLEAR = 4, /* the entries give their host clusters up */
};

struct qcow2_snapshot {
    uint64_t l1_offset, vm_state_size, disk_size, vm_clock_ns, icount;
    uint32_t l1_size, date_s, date_ns;
    bool has_disk_size, has_icount;
    char *id, *name;
};

struct qcow2_bitmap {
    unsigned flags; /* enum qcow2_bitmap_flags */
    uint64_t granularity;
    char *name;
};

/* Cluster numbers, never 0. Begins zeroed. */
struct qcow2_set {
    uint64_t *slots, room, count;
};

struct qcow2 {
    struct qcow2_header header;
    uint8_t header_bytes[QCOW2_HEADER_MAX];
    struct weir_edge *file, *data; /* the same, unless the data is apart */
    uint64_t *l1;                  /* as on disk; whole pieces */
    uint64_t *refcount_table;      /* the same */
    uint64_t refcount_entries;
    uint64_t shared_block; /* offset of a refcount block that the table lists twice; 0: none */
    struct qcow2_claim *claims;
    uint64_t cursor;     /* no free cluster lies before it */
    uint64_t high_water; /* clusters from here on were never handed out, and lie behind the end of the file */
    uint64_t pack_offset, pack_end; /* where the next compressed cluster goes; equal: nowhere */
    bool failed;                    /* the metadata is damaged: no more writes */
    bool damage_told;
    unsigned overlap;                                /* enum qcow2_overlap: what is guarded */
    struct qcow2_set l2_tables, blocks, inactive_l2; /* clusters of these, as far as they are guarded */
    uint64_t snapshot_bytes, bitmap_directory, bitmap_directory_bytes;

    bool discard[QCOW2_DISCARDS], discard_no_unref, lazy_refcounts;
    char *backing_name, *backing_format, *data_file_name; /* from the header; NULL: none */
    struct qcow2_snapshot *snapshots;                     /* header.snapshot_count */
    struct qcow2_bitmap *bitmaps;
    uint32_t bitmap_count;
};

enum qcow2_overlap {
    QCOW2_OVERLAP_HEADER = 1 << 0,
    QCOW2_OVERLAP_ACTIVE_L1 = 1 << 1,
    QCOW2_OVERLAP_ACTIVE_L2 = 1 << 2,
    QCOW2_OVERLAP_REFCOUNT_BLOCK = 1 << 3,
    QCOW2_OVERLAP_REFCOUNT_TABLE = 1 << 4,
    QCOW2_OVERLAP_SNAPSHOT_TABLE = 1 << 5,
    QCOW2_OVERLAP_INACTIVE_L1 = 1 << 6,
    QCOW2_OVERLAP_INACTIVE_L2 = 1 << 7,
    QCOW2_OVERLAP_BITMAP_DIRECTORY = 1 << 8,
    QCOW2_OVERLAP_CONSTANT = QCOW2_OVERLAP_HEADER | QCOW2_OVERLAP_ACTIVE_L1 | QCOW2_OVERLAP_REFCOUNT_TABLE |
                             QCOW2_OVERLAP_SNAPSHOT_TABLE | QCOW2_OVERLAP_BITMAP_DIRECTORY,
    QCOW2_OVERLAP_CACHED = QCOW2_OVERLAP_CONSTANT | QCOW2_OVERLAP_ACTIVE_L2 | QCOW2_OVERLAP_REFCOUNT_BLOCK |
                           QCOW2_OVERLAP_INACTIVE_L1,
    QCOW2_OVERLAP_ALL = (1 << 9) - 1,
};

static inline uint64_t qcow2_directory_piece(const struct qcow2_header *h)
{
    return WEIR_MIN((uint64_t)QCOW2_DIRECTORY_PIECE, qcow2_cluster_size(h));
}
static inline bool qcow2_data_apart(const struct qcow2 *q)
{
    return q->data != q->file;
}
/* Subclusters of a cluster: 1 without extended L2 entries. And their size in bits. */
static inline unsigned qcow2_sub_count(const struct qcow2_header *h)
{
    return qcow2_extended_l2(h) ? QCOW2_SUBCLUSTERS : 1;
}
static inline unsigned qcow2_sub_bits(const struct qcow2_header *h)
{
    return qcow2_extended_l2(h) ? h->cluster_bits - 5 : h->cluster_bits;
}

struct weir_opts_qcow2;

/* ---- options.c ---- */
int qcow2_options_take(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                       struct weir_meta_options *meta, struct weir_error **err);

/* ---- open.c ---- */
/* What opening for writing changes on disk at once, and what closing says again. */
int qcow2_begin_writing(struct weir_node *node, struct weir_error **err) weir_co_fn;
void qcow2_end_writing(struct weir_node *node) weir_co_fn;
/* Learns where the tables of snapshots are, if they are to be guarded. */
int qcow2_guard_snapshots(struct weir_node *node) weir_co_fn;

/* ---- reopen.c ---- */
extern const struct weir_reopen_ops qcow2_reopen_ops;

/* ---- counts.c ---- */
/* Brings the block that counts @cluster into memory and keeps it there: 0, WEIR_NEED or -errno. */
int qcow2_count_pin(struct weir_node *node, uint64_t cluster, struct weir_need *need);
/* Its block is in memory. 0 where there is no block. */
uint64_t qcow2_count(struct weir_node *node, uint64_t cluster);
void qcow2_count_set(struct weir_node *node, uint64_t cluster, uint64_t count);
/* A further reference to a reserved cluster. */
void qcow2_count_raise(struct weir_node *node, uint64_t cluster);
/* Its count once all that is reserved has come true. The block is in memory. */
uint64_t qcow2_count_promised(struct weir_node *node, uint64_t cluster);
bool qcow2_reserved(const struct qcow2 *q, uint64_t cluster);
void qcow2_reserve(struct qcow2 *q, uint64_t first, uint64_t clusters);
void qcow2_unreserve(struct weir_node *node, uint64_t first, uint64_t clusters);
/* A reference to each of the clusters is gone from the tables; the blocks that count them are in memory. */
void qcow2_drop(struct weir_node *node, uint64_t first, uint64_t clusters, enum qcow2_discard why);
/* The same for clusters of tables, which have one reference. */
void qcow2_drop_tables(struct weir_node *node, uint64_t first, uint64_t clusters);
int qcow2_release(struct weir_node *node, const struct weir_freed *freed, struct weir_need *need);
/* Offset of refcount block @index, or 0; -EIO where the table holds nonsense. */
int qcow2_block_offset(struct weir_node *node, uint64_t index, uint64_t *ret_offset);
void qcow2_counts_done(struct qcow2 *q);

/* ---- alloc.c ---- */
/*
 * Finds up to @wanted adjacent free clusters, with their counts in memory; nothing is reserved. 0, WEIR_NEED, -ENOSPC,
 * -EIO.
 */
int qcow2_find_free(struct weir_node *node, uint64_t wanted, uint64_t *ret_first, uint64_t *ret_found,
                    struct weir_need *need);
/* Just as many clusters in a row for a table, counted at once; given back by qcow2_drop_tables(). */
int qcow2_append_tables(struct weir_node *node, uint64_t clusters, uint64_t *ret_first);

/* ---- table.c ---- */
static inline uint64_t qcow2_l1_index(const struct qcow2_header *h, uint64_t offset)
{
    return offset >> (2 * h->cluster_bits - (qcow2_extended_l2(h) ? 4 : 3));
}
static inline uint64_t qcow2_l2_index(const struct qcow2_header *h, uint64_t offset)
{
    return (offset >> h->cluster_bits) & (qcow2_l2_entries(h) - 1);
}
/* The table that maps @offset, NULL when there is none. 0, WEIR_NEED, -EIO. */
int qcow2_l2_find(struct weir_node *node, uint64_t offset, uint64_t **ret_table, struct weir_need *need);
/* The same, one that may be changed: made, or copied, when need be. */
int qcow2_l2_for_change(struct weir_node *node, uint64_t offset, uint64_t **ret_table,
                        struct weir_need *need);
static inline uint64_t qcow2_entry(const struct qcow2_header *h, const uint64_t *table, uint64_t index)
{
    return be64toh(table[index * qcow2_l2_entry_size(h) / 8]);
}
static inline uint64_t qcow2_entry_bitmap(const struct qcow2_header *h, const uint64_t *table, uint64_t index)
{
    return qcow2_extended_l2(h) ? be64toh(table[2 * index + 1]) : 0;
}
void qcow2_entry_set(struct weir_node *node, uint64_t *table, uint64_t index, uint64_t word, uint64_t bitmap);
/* Hands the piece of the directory that holds entry @index to meta/. */
int qcow2_l1_put(struct weir_node *node, uint64_t index);
int qcow2_refcount_table_put(struct weir_node *node, uint64_t index);
int qcow2_header_put(struct weir_node *node);

/* ---- map.c ---- */
enum qcow2_state { QCOW2_UNALLOCATED, QCOW2_ZERO_PLAIN, QCOW2_ZERO_ALLOCATED, QCOW2_NORMAL, QCOW2_STORED };
/* State of subcluster @sub of an entry. */
enum qcow2_state qcow2_state(const struct qcow2 *q, uint64_t word, uint64_t bitmap, unsigned sub);
/* Whether data in state NORMAL may be overwritten, and space in state ZERO_ALLOCATED used, where it is. */
static inline bool qcow2_sole(const struct qcow2 *q, uint64_t word)
{
    return (word & QCOW2_COPIED) || qcow2_data_apart(q);
}
/* Whether the entry has a host cluster of its own (that its offset stands for). */
bool qcow2_has_host(const struct qcow2 *q, uint64_t word);
/* -EIO where the entry points to a place that cannot be. */
int qcow2_entry_check(struct weir_node *node, uint64_t word);
void qcow2_prefetch(struct weir_node *node, const uint64_t *offsets, unsigned count);
int qcow2_map_read(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                   struct weir_need *need);
/* 0 with what may be overwritten in place from @offset on; -EAGAIN when nothing may. */
int qcow2_map_in_place(struct weir_node *node, const uint64_t *table, uint64_t offset, uint64_t length,
                       struct weir_extent *extent);
/* -EIO where data would go to a place, taken from an entry, that is a table's. */
int qcow2_place_check(struct weir_node *node, const struct weir_extent *extent);
/* The metadata is damaged at @what: no writes from now on. Returns -EIO. */
int qcow2_damaged(struct weir_node *node, const char *what, uint64_t where);

/* ---- write.c ---- */
int qcow2_map_write(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                    struct weir_need *need);
int qcow2_map_stored(struct weir_node *node, uint64_t offset, uint64_t stored, struct weir_extent *extent,
                     struct weir_need *need);
int qcow2_map_zero(struct weir_node *node, uint64_t offset, uint64_t length, bool unmap,
                   struct weir_extent *extent, struct weir_need *need);
int qcow2_map_discard(struct weir_node *node, uint64_t offset, uint64_t length, struct weir_extent *extent,
                      struct weir_need *need);

/* ---- commit.c ---- */
void qcow2_commit(struct weir_node *node, const struct weir_extent *extent);
void qcow2_abort(struct weir_node *node, const struct weir_extent *extent);
/* The host clusters that an entry refers to; 0 clusters: none. */
void qcow2_entry_clusters(const struct qcow2 *q, uint64_t word, uint64_t *ret_first, uint64_t *ret_clusters);

/* ---- resize.c ---- */
int qcow2_resize(struct weir_node *node, uint64_t size, struct weir_error **err) weir_co_fn;

/* ---- overlap.c ---- */
/* Whether the clusters hold metadata, as far as that is guarded: its name, else NULL. */
const char *qcow2_overlaps(struct weir_node *node, uint64_t first, uint64_t clusters);
/* The same whatever is guarded: what the allocator must not hand out, as tables in memory are known by their place. */
const char *qcow2_in_use(struct weir_node *node, uint64_t first, uint64_t clusters);
bool qcow2_set_has(const struct qcow2_set *set, uint64_t cluster);
int qcow2_set_add(struct qcow2_set *set, uint64_t cluster);
void qcow2_set_remove(struct qcow2_set *set, uint64_t cluster);

/* ---- open.c ---- */
int qcow2_open(struct weir_node *node, const void *options, struct weir_error **err) weir_co_fn;
void qcow2_close(struct weir_node *node) weir_co_fn;

/* ---- snapshot.c ---- */
int qcow2_snapshots_load(struct weir_node *node, struct weir_error **err) weir_co_fn;
void qcow2_snapshots_free(struct qcow2 *q);

/* ---- bitmaps.c ---- */
int qcow2_bitmaps_load(struct weir_node *node, const struct qcow2_extension_at *extension,
                       struct weir_error **err) weir_co_fn;
void qcow2_bitmaps_free(struct qcow2 *q);

/* ---- describe.c ---- */
void qcow2_describe(struct weir_node *node, json_t *image);

/* ---- open.c ---- */
/* The slot of struct weir_driver. */
int qcow2_set_read_only(struct weir_node *node, bool read_only, struct weir_error **err) weir_co_fn;

/* ---- backing.c ---- */
/* The slot set_backing_name of struct weir_driver. */
int qcow2_set_backing_name(struct weir_node *node, const char *name, const char *format,
                           struct weir_error **err) weir_co_fn;

#endif

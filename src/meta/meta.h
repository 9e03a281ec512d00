/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tables of a format: a cache with ordered write-back, and the quarantine of freed space.
 *
 * A driver calls weir_meta_init() in open and weir_meta_done() in close. In map, commit, abort, release and sync -
 * that is, inside the node's monitor - it finds tables in memory, marks them dirty and gives space up; it never
 * reads or writes one. A table that is missing is asked for by `return weir_meta_need(...)` from map.
 *
 * Write-back (laws 6 and 7): one at a time per node, from copies taken in one step inside the monitor. Levels are
 * written in their order, each made durable before the next; data is flushed before any table that may point to
 * it. So counts may be too high after a crash, never too low. Of a large table only the pieces that changed are
 * written.
 */
#ifndef WEIR_META_META_H
#define WEIR_META_META_H

#include "graph/event.h"

enum weir_meta_level {
    WEIR_META_COUNTS,           /* reference counts */
    WEIR_META_COUNTS_DIRECTORY, /* points to them */
    WEIR_META_COUNTS_HEADER, /* points to that directory: a header whose other fields need no order of their own */
    WEIR_META_TABLE,         /* points to data */
    WEIR_META_DIRECTORY, /* points to tables */
    WEIR_META_HEADER,    /* points to directories */
};
#define WEIR_META_LEVELS 6
/* A table is written in pieces of this size, or whole where it is smaller (bytes). */
#define WEIR_META_PIECE 4096u
/* The longest table (bytes). */
#define WEIR_META_TABLE_MAX ((uint64_t)2 << 20)

struct weir_meta_options {
    struct weir_edge *edge;      /* holds the tables; the data too, unless data_edge is set */
    struct weir_edge *data_edge; /* holds the data, when not the same; else NULL */
    uint64_t cache_max; /* bytes of clean tables kept; dirty and pinned ones may exceed it for a while */
    int64_t clean_interval_ns; /* tables not used for so long are dropped; 0: never */
};

/* The quarantine is worked off without a guest's flush when it holds more, or is older, than this. */
#define WEIR_META_QUARANTINE_BYTES ((uint64_t)64 << 20)
#define WEIR_META_QUARANTINE_NS (5 * 1000000000LL)

/* Sets node->meta. Control loop. */
void weir_meta_init(struct weir_node *node, const struct weir_meta_options *options);
/* The options that hold now. Control loop. */
struct weir_meta_options weir_meta_options(struct weir_node *node);
/* Changes two of them; tables that have no place any more leave the memory. Control loop, drained. */
void weir_meta_set_cache(struct weir_node *node, uint64_t cache_max, int64_t clean_interval_ns);
/* Waits for background work and frees the cache; dirty tables are lost (sync first). */
void weir_meta_done(struct weir_node *node) weir_co_fn;

/* ---- inside the monitor ---- */
/* The table that starts at @offset of the edge, or NULL when it is not in memory. Pinned for the running map. */
void *weir_meta_find(struct weir_node *node, uint64_t offset);
/* The same without keeping it in memory for the commit: for looking through tables that will not be changed. */
void *weir_meta_peek(struct weir_node *node, uint64_t offset);
/*
 * The same where an image says where its tables are, as it may say that two are at one place: NULL too where the
 * cache holds another kind of table there; loading this one then fails with -EIO.
 */
void *weir_meta_find_level(struct weir_node *node, uint64_t offset, enum weir_meta_level level);
void *weir_meta_peek_level(struct weir_node *node, uint64_t offset, enum weir_meta_level level);
/* Fills @need for a table of @length bytes and returns WEIR_NEED. */
int weir_meta_need(struct weir_node *node, struct weir_need *need, uint64_t offset, uint64_t length,
                   enum weir_meta_level level);
/*
 * A new table, zeroed and dirty, whatever cache or disk hold at that place (rule F10b). For map with ALLOCATE.
 * NULL while an old block of that place is still being written: -EAGAIN is then answered by weir_meta_need().
 */
void *weir_meta_create(struct weir_node *node, uint64_t offset, uint64_t length, enum weir_meta_level level);
/* From map: raises @event on the edge of the tables as soon as the answer is there (graph/event.h). */
void weir_meta_note_event(struct weir_node *node, enum weir_event event);
/* The piece of a table that holds the address @data has changed. */
void weir_meta_dirty(struct weir_node *node, void *data);
/*
 * Hands in the contents of a table that the driver keeps itself (a directory, a header): copied, and dirty. Always in
 * the same pieces: a place has one length. Never found again, and needs no pin. -ENOMEM: nothing was done.
 */
int weir_meta_put(struct weir_node *node, uint64_t offset, uint64_t length, enum weir_meta_level level,
                  const void *data) weir_must_check;
/* The table's space is free: drops the cached block. */
void weir_meta_forget(struct weir_node *node, uint64_t offset);
/*
 * From commit: a reference to [@offset, @offset + @length) of @edge was dropped. release() is called for it once
 * that is durable, after the child was told to discard it where @discard. @length 0: others still use the space.
 */
void weir_meta_give_up(struct weir_node *node, struct weir_edge *edge, uint64_t offset, uint64_t length,
                       bool discard, uint64_t cookie);
/*
 * From commit, where nobody allocates space on @edge because the bytes of the node have the same offset there:
 * nothing points to the range any more. Once that is durable the child is told to discard it, unless somebody uses
 * or has mapped it again by then. release() is not called.
 */
void weir_meta_discard_later(struct weir_node *node, struct weir_edge *edge, uint64_t offset,
                             uint64_t length);

/* ---- outside the monitor ---- */
/* Enters and leaves it: for open, resize and the like, which change tables without a request. Nothing waits inside. */
void weir_meta_begin(struct weir_node *node);
void weir_meta_end(struct weir_node *node);
/*
 * Loads the table at @offset if it is not in memory and keeps it there until weir_meta_unload(). For open, snapshot
 * and check, which touch many tables: inside the monitor it can then be found.
 */
int weir_meta_load(struct weir_node *node, uint64_t offset, uint64_t length,
                   enum weir_meta_level level) weir_co_fn weir_must_check;
void weir_meta_unload(struct weir_node *node, uint64_t offset);
/* Same as a flush of the node. */
int weir_meta_sync(struct weir_node *node) weir_co_fn weir_must_check;
/* The same with the counts, also where these may lag behind. */
int weir_meta_sync_all(struct weir_node *node) weir_co_fn weir_must_check;
/*
 * Lets counts lag behind the tables on disk (true), because the image says on disk that they cannot be trusted; false
 * ends that with the next sync. Control loop.
 */
void weir_meta_lazy_counts(struct weir_node *node, bool lazy);

struct weir_meta_stats {
    uint64_t loads, evictions, write_backs, tables_written, released, discarded, rooms, self_syncs;
    uint64_t quarantine_bytes, quarantine_count, cached_bytes;
};
void weir_meta_stats(struct weir_node *node, struct weir_meta_stats *ret_stats);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The structures behind meta.h. Private to meta/.
 */
#ifndef WEIR_META_INTERNAL_H
#define WEIR_META_INTERNAL_H

#include "io/meta_ops.h"
#include "io/node_io.h"
#include "meta/meta.h"
#include <uthash.h>

struct weir_meta_block {
    uint64_t offset, length; /* of the metadata edge */
    enum weir_meta_level level;
    unsigned pins;
    bool dirty, writing, loading;
    bool gone;  /* dropped while pinned or written: freed by the last holder */
    bool fresh; /* has never been written back: the first time is another event */
    bool used;  /* since eviction or the cleaner last looked at it */
    uint64_t dirty_pieces[WEIR_META_TABLE_MAX / WEIR_META_PIECE / 64]; /* bits, valid while dirty */
    char *data;
    UT_hash_handle hh;
    TAILQ_ENTRY(weir_meta_block) lru;
};
TAILQ_HEAD(weir_meta_blocks, weir_meta_block);

/* A map rarely looks at more tables than this between a find and the change. */
#define RECENT 8

struct weir_meta_quarantined {
    struct weir_freed freed;
    int64_t since_ns;
    STAILQ_ENTRY(weir_meta_quarantined) link;
};
STAILQ_HEAD(weir_meta_quarantine, weir_meta_quarantined);

/* All but the mutexes is guarded by the node's monitor. */
struct weir_meta {
    struct weir_meta_head head;
    struct weir_node *node;
    struct weir_meta_options options;
    unsigned options_number;                /* how often they have changed */
    struct weir_meta_block *blocks;         /* hash by offset */
    struct weir_meta_blocks lru;            /* all, oldest first; what is found in use goes to the end */
    struct weir_meta_block *recent[RECENT]; /* of the last finds; NULL: none */
    unsigned recent_at;
    uint64_t cached_bytes;
    struct weir_meta_pins *collector;
    struct weir_co_queue changed; /* a load has ended, space was released, the keeper has ended */

    struct weir_meta_quarantine quarantine;
    uint64_t quarantine_count, quarantine_bytes;
    unsigned draining; /* entries taken out and not yet released */

    struct weir_co_mutex write_back; /* rule F6 */
    bool lazy_counts;

    struct weir_co_queue keeper_queue;
    bool keeper_running, keeper_stop, cleaner_running;
    struct weir_meta_stats stats;
};

static inline void weir_meta_enter(struct weir_meta *meta)
{
    weir_mutex_lock(&meta->node->io->monitor);
}
static inline void weir_meta_leave(struct weir_meta *meta)
{
    weir_mutex_unlock(&meta->node->io->monitor);
}

extern const struct weir_meta_ops weir_meta_ops_table;

/* cache.c; inside the monitor */
void weir_meta_block_mark_all(struct weir_meta_block *block);
struct weir_meta_block *weir_meta_block_find(struct weir_meta *meta, uint64_t offset);
void weir_meta_block_pin(struct weir_meta_block *block);
void weir_meta_block_unpin(struct weir_meta *meta, struct weir_meta_block *block);
void weir_meta_block_drop(struct weir_meta *meta, struct weir_meta_block *block);
/* Drops what exceeds cache_max, as far as it can. Inside the monitor. */
void weir_meta_cache_trim(struct weir_meta *meta);
/*
 * cache.c; outside. Pins the block. @may_write: dirty tables may be written back to make place; without, the cache
 * grows instead (the caller is the write-back).
 */
int weir_meta_block_load(struct weir_meta *meta, uint64_t offset, uint64_t length, enum weir_meta_level level,
                         bool may_write, struct weir_meta_block **ret_block) weir_co_fn;

/* quarantine.c; outside the monitor */
int weir_meta_release(struct weir_meta *meta, uint64_t count) weir_co_fn;
int weir_meta_make_room(struct weir_node *node) weir_co_fn;
void weir_meta_changed(struct weir_node *node) weir_co_fn;
void weir_meta_keeper_end(struct weir_meta *meta) weir_co_fn;

/* clean.c */
void weir_meta_cleaner_start(struct weir_meta *meta);

/* write_back.c */
int weir_meta_write_back(struct weir_node *node) weir_co_fn;
/* The same with the counts, also where they may lag behind. */
int weir_meta_write_back_all(struct weir_node *node) weir_co_fn;

#endif

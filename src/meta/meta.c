/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Life of the cache, and the table by which the core reaches it.
 */
#include "meta/meta.h"

#include "base/alloc.h"
#include "meta/internal.h"

static weir_co_fn int ops_load(struct weir_node *node, const struct weir_need *need,
                               struct weir_meta_pins *pins)
{
    struct weir_meta_block *block;
    int ret;

    /* A table that was loaded for this map stays in memory until the map has been used. */
    WEIR_ASSERT(pins && pins->count < WEIR_META_PINS_MAX);
    ret = weir_meta_block_load(node->meta, need->offset, need->length, need->level, true, &block);
    if (!ret)
        pins->blocks[pins->count++] = block;
    return ret;
}

static void ops_collect(struct weir_node *node, struct weir_meta_pins *pins)
{
    node->meta->collector = pins;
}

static void ops_unpin(struct weir_node *node, struct weir_meta_pins *pins)
{
    weir_meta_enter(node->meta);
    for (unsigned i = 0; i < pins->count; i++)
        weir_meta_block_unpin(node->meta, pins->blocks[i]);
    pins->count = 0;
    weir_meta_leave(node->meta);
}

const struct weir_meta_ops weir_meta_ops_table = {
    .load = ops_load,
    .collect = ops_collect,
    .unpin = ops_unpin,
    .sync = weir_meta_write_back,
    .make_room = weir_meta_make_room,
    .changed = weir_meta_changed,
};

void weir_meta_init(struct weir_node *node, const struct weir_meta_options *options)
{
    struct weir_meta *meta = weir_new(struct weir_meta);

    meta->head.ops = &weir_meta_ops_table;
    meta->node = node;
    meta->options = *options;
    TAILQ_INIT(&meta->lru);
    STAILQ_INIT(&meta->quarantine);
    weir_co_queue_init(&meta->changed);
    weir_co_queue_init(&meta->keeper_queue);
    weir_co_mutex_init(&meta->write_back);
    node->meta = meta;
    weir_meta_cleaner_start(meta);
}

struct weir_meta_options weir_meta_options(struct weir_node *node)
{
    return node->meta->options;
}

void weir_meta_set_cache(struct weir_node *node, uint64_t cache_max, int64_t clean_interval_ns)
{
    struct weir_meta *meta = node->meta;

    weir_meta_enter(meta);
    meta->options.cache_max = cache_max;
    meta->options.clean_interval_ns = clean_interval_ns;
    meta->options_number++;
    weir_meta_cache_trim(meta);
    weir_co_queue_wake_all(&meta->keeper_queue);
    weir_meta_leave(meta);
    weir_meta_cleaner_start(meta);
}

void weir_meta_done(struct weir_node *node)
{
    struct weir_meta *meta = node->meta;

    if (!meta)
        return;
    weir_meta_keeper_end(meta);
    while (!TAILQ_EMPTY(&meta->lru)) {
        struct weir_meta_block *block = TAILQ_FIRST(&meta->lru);

        WEIR_ASSERT(!block->pins && !block->writing && !block->loading);
        weir_meta_block_drop(meta, block);
    }
    while (!STAILQ_EMPTY(&meta->quarantine)) {
        struct weir_meta_quarantined *entry = STAILQ_FIRST(&meta->quarantine);

        STAILQ_REMOVE_HEAD(&meta->quarantine, link);
        free(entry);
    }
    weir_co_mutex_done(&meta->write_back);
    free(weir_steal(&node->meta));
}

void weir_meta_begin(struct weir_node *node)
{
    weir_meta_enter(node->meta);
}

void weir_meta_end(struct weir_node *node)
{
    weir_meta_leave(node->meta);
}

void weir_meta_stats(struct weir_node *node, struct weir_meta_stats *ret_stats)
{
    struct weir_meta *meta = node->meta;

    weir_meta_enter(meta);
    *ret_stats = meta->stats;
    ret_stats->quarantine_bytes = meta->quarantine_bytes;
    ret_stats->quarantine_count = meta->quarantine_count;
    ret_stats->cached_bytes = meta->cached_bytes;
    weir_meta_leave(meta);
}

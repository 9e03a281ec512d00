/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ordered write-back.
 *
 *   counts; flush; tables; [flush; directories]; [flush; header]; flush
 *
 * Everything dirty is copied in one step inside the monitor, together with the length of the quarantine: what is
 * written afterwards is one consistent state, and guests go on changing the tables meanwhile. Counts are lowered
 * in release only, so a count block never waits for a pointer and the order has no cycle.
 */
#include "meta/internal.h"

#include "base/alloc.h"
#include "base/law.h"
#include "io/io.h"

struct copy {
    struct weir_meta_block *block;
    char *data;
};

struct batch {
    struct copy *copies[WEIR_META_LEVELS];
    unsigned counts[WEIR_META_LEVELS];
    uint64_t quarantine; /* entries whose pointers are gone once this batch is durable */
};

/* Inside the monitor. */
static void copy_level(struct weir_meta *meta, unsigned level, struct batch *batch)
{
    struct weir_meta_block *block;
    unsigned count = 0;

    TAILQ_FOREACH (block, &meta->lru, lru)
        count += block->dirty && block->level == level;
    batch->copies[level] = count ? weir_new_array(struct copy, count) : NULL;
    batch->counts[level] = 0;
    TAILQ_FOREACH (block, &meta->lru, lru) {
        struct copy *copy;

        if (!block->dirty || block->level != level)
            continue;
        copy = &batch->copies[level][batch->counts[level]++];
        copy->block = block;
        copy->data = weir_alloc(block->length);
        __builtin_memcpy(copy->data, block->data, block->length);
        block->dirty = false;
        block->writing = true;
    }
}

static void take_batch(struct weir_meta *meta, struct batch *batch)
{
    struct weir_node *node = meta->node;

    weir_meta_enter(meta);
    if (node->driver->sync)
        node->driver->sync(node);
    for (unsigned level = 0; level < WEIR_META_LEVELS; level++)
        copy_level(meta, level, batch);
    batch->quarantine = meta->quarantine_count;
    weir_meta_leave(meta);
}

static void settle_batch(struct weir_meta *meta, struct batch *batch, int ret)
{
    weir_meta_enter(meta);
    meta->stats.write_backs++;
    for (unsigned level = 0; level < WEIR_META_LEVELS; level++) {
        for (unsigned i = 0; i < batch->counts[level]; i++) {
            struct weir_meta_block *block = batch->copies[level][i].block;

            block->writing = false;
            if (ret)
                block->dirty = true; /* what the disk holds is unknown: it is written again */
            weir_meta_block_pin(block);
            weir_meta_block_unpin(meta, block); /* frees one that was dropped meanwhile */
            free(batch->copies[level][i].data);
            meta->stats.tables_written++;
        }
        free(batch->copies[level]);
    }
    weir_meta_leave(meta);
}

static weir_co_fn int write_level(struct weir_meta *meta, const struct batch *batch, unsigned level)
{
    int ret = 0;

    for (unsigned i = 0; i < batch->counts[level] && !ret; i++) {
        const struct copy *copy = &batch->copies[level][i];

        ret = weir_io_write(meta->options.edge, copy->block->offset, copy->block->length, copy->data, 0);
    }
    return ret;
}

static weir_co_fn int flush_data(struct weir_meta *meta)
{
    return meta->options.data_edge ? weir_io_flush(meta->options.data_edge) : 0;
}

/* Laws 6 and 7: data, then counts, are durable before what points to them is written. */
static weir_co_fn int flush_below_tables(struct weir_meta *meta)
{
    int ret = 0;

    if (WEIR_LAW(WEIR_LAW_BARRIER))
        ret = flush_data(meta);
    if (!ret && WEIR_LAW(WEIR_LAW_ORDER))
        ret = weir_io_flush(meta->options.edge);
    return ret;
}

static weir_co_fn int write_batch(struct weir_meta *meta, const struct batch *batch)
{
    bool tables = batch->counts[WEIR_META_TABLE] || batch->counts[WEIR_META_DIRECTORY] ||
                  batch->counts[WEIR_META_HEADER];
    int ret = write_level(meta, batch, WEIR_META_COUNTS);

    if (!ret && tables)
        ret = flush_below_tables(meta);
    for (unsigned level = WEIR_META_TABLE; level < WEIR_META_LEVELS && !ret; level++) {
        if (!batch->counts[level])
            continue;
        if (level > WEIR_META_TABLE)
            ret = weir_io_flush(meta->options.edge);
        if (!ret)
            ret = write_level(meta, batch, level);
    }
    if (!ret)
        ret = flush_data(meta);
    return ret ? ret : weir_io_flush(meta->options.edge);
}

/* Writes everything back; frees nothing. */
static weir_co_fn int write_back_locked(struct weir_meta *meta, uint64_t *ret_quarantine)
{
    struct batch batch;
    int ret;

    take_batch(meta, &batch);
    ret = write_batch(meta, &batch);
    settle_batch(meta, &batch, ret);
    *ret_quarantine = batch.quarantine;
    return ret;
}

int weir_meta_write_back(struct weir_node *node)
{
    struct weir_meta *meta = node->meta;
    uint64_t quarantine = 0;
    int ret;

    weir_co_mutex_lock(&meta->write_back);
    ret = write_back_locked(meta, &quarantine);
    /* Still under the mutex: the entries that this batch covered are the first ones of the quarantine. */
    if (!ret && quarantine)
        (void)!weir_meta_release(meta, quarantine); /* what stays is tried again; the data is durable */
    weir_co_mutex_unlock(&meta->write_back);
    return ret;
}

int weir_meta_sync(struct weir_node *node)
{
    return weir_meta_write_back(node);
}

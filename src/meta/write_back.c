/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Ordered write-back.
 *
 *   counts; [flush; their directory]; [flush; header]; flush; tables; [flush; directories]; [flush; header]; flush
 *
 * Everything dirty is copied in one step inside the monitor, together with the length of the quarantine: what is
 * written afterwards is one consistent state, and guests go on changing the tables meanwhile. Counts are lowered
 * in release only, so a count block never waits for a pointer and the order has no cycle. Of a table only the pieces
 * that changed are copied and written.
 */
#include "meta/internal.h"

#include "base/alloc.h"
#include "base/law.h"
#include "io/io.h"

struct copy {
    struct weir_meta_block *block;
    bool fresh; /* of the block, before this */
    char *data; /* the pieces, one behind the other */
    uint64_t pieces[WEIR_META_TABLE_MAX / WEIR_META_PIECE / 64];
};

struct batch {
    struct copy *copies[WEIR_META_LEVELS];
    unsigned counts[WEIR_META_LEVELS];
    uint64_t quarantine; /* entries whose pointers are gone once this batch is durable */
};

/* The first run of set pieces from *at on; false when there is none. In bytes of the table. */
static bool next_run(const struct copy *copy, uint64_t *at, uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t length = copy->block->length, piece = *at;
    uint64_t pieces = (length + WEIR_META_PIECE - 1) / WEIR_META_PIECE;

#define IS_SET(i) (copy->pieces[(i) / 64] >> (i) % 64 & 1)
    while (piece < pieces && !IS_SET(piece))
        piece++;
    if (piece == pieces)
        return false;
    *ret_offset = piece * WEIR_META_PIECE;
    while (piece < pieces && IS_SET(piece))
        piece++;
#undef IS_SET
    *ret_length = WEIR_MIN(piece * WEIR_META_PIECE, length) - *ret_offset;
    *at = piece;
    return true;
}

/* Inside the monitor. */
static void copy_block(struct weir_meta_block *block, struct copy *copy)
{
    uint64_t at = 0, offset, length, total = 0;

    copy->block = block;
    copy->fresh = block->fresh;
    __builtin_memcpy(copy->pieces, block->dirty_pieces, sizeof(copy->pieces));
    while (next_run(copy, &at, &offset, &length))
        total += length;
    copy->data = weir_alloc(total);
    for (at = total = 0; next_run(copy, &at, &offset, &length); total += length)
        __builtin_memcpy(copy->data + total, block->data + offset, length);
    __builtin_memset(block->dirty_pieces, 0, sizeof(block->dirty_pieces));
    block->dirty = false;
    block->fresh = false;
    block->writing = true;
}

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
        if (block->dirty && block->level == level)
            copy_block(block, &batch->copies[level][batch->counts[level]++]);
    }
}

/* Counts may wait, but not the header, which says more than where they are. */
static bool counts_may_wait(const struct weir_meta *meta)
{
    const struct weir_meta_block *block;

    TAILQ_FOREACH (block, &meta->lru, lru) {
        if (block->dirty && block->level == WEIR_META_COUNTS_HEADER)
            return false;
    }
    return meta->lazy_counts;
}

static void take_batch(struct weir_meta *meta, bool all, struct batch *batch)
{
    struct weir_node *node = meta->node;
    unsigned first;

    weir_meta_enter(meta);
    if (node->driver->sync)
        node->driver->sync(node);
    first = !all && counts_may_wait(meta) ? WEIR_META_TABLE : WEIR_META_COUNTS;
    *batch = (struct batch){ .quarantine = 0 };
    for (unsigned level = first; level < WEIR_META_LEVELS; level++)
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
            if (ret) { /* what the disk holds is unknown: it is written again */
                for (unsigned j = 0; j < WEIR_ARRAY_SIZE(block->dirty_pieces); j++)
                    block->dirty_pieces[j] |= batch->copies[level][i].pieces[j];
                block->dirty = true;
                block->fresh = batch->copies[level][i].fresh;
            }
            weir_meta_block_pin(block);
            weir_meta_block_unpin(meta, block); /* frees one that was dropped meanwhile */
            free(batch->copies[level][i].data);
            meta->stats.tables_written++;
        }
        free(batch->copies[level]);
    }
    weir_meta_leave(meta);
}

/* Whether only parts of the table are written. */
static bool is_part(const struct copy *copy)
{
    uint64_t at = 0, offset, length;

    return next_run(copy, &at, &offset, &length) && length < copy->block->length;
}

/* What is about to be written, by the names that these tables have in qcow2. */
static weir_co_fn void raise_update(struct weir_meta *meta, const struct copy *copy)
{
    static const struct {
        enum weir_event fresh, update;
    } events[WEIR_META_LEVELS] = {
        [WEIR_META_COUNTS] = { WEIR_EVENT_REFBLOCK_ALLOC_WRITE, WEIR_EVENT_REFBLOCK_UPDATE },
        [WEIR_META_COUNTS_DIRECTORY] = { WEIR_EVENT_COUNT, WEIR_EVENT_REFTABLE_UPDATE },
        [WEIR_META_COUNTS_HEADER] = { WEIR_EVENT_COUNT, WEIR_EVENT_COUNT },
        [WEIR_META_TABLE] = { WEIR_EVENT_L2_ALLOC_WRITE, WEIR_EVENT_L2_UPDATE },
        [WEIR_META_DIRECTORY] = { WEIR_EVENT_COUNT, WEIR_EVENT_L1_UPDATE },
        [WEIR_META_HEADER] = { WEIR_EVENT_COUNT, WEIR_EVENT_COUNT },
    };
    enum weir_meta_level level = copy->block->level;

    if (!weir_event_heard())
        return;
    if (copy->fresh && events[level].fresh != WEIR_EVENT_COUNT)
        weir_event(meta->options.edge, events[level].fresh);
    if (events[level].update != WEIR_EVENT_COUNT)
        weir_event(meta->options.edge, events[level].update);
    if (level == WEIR_META_COUNTS && is_part(copy))
        weir_event(meta->options.edge, WEIR_EVENT_REFBLOCK_UPDATE_PART);
}

static weir_co_fn int write_level(struct weir_meta *meta, const struct batch *batch, unsigned level)
{
    int ret = 0;

    for (unsigned i = 0; i < batch->counts[level] && !ret; i++) {
        const struct copy *copy = &batch->copies[level][i];
        uint64_t at = 0, offset, length;

        raise_update(meta, copy);
        for (const char *data = copy->data; !ret && next_run(copy, &at, &offset, &length); data += length)
            ret = weir_io_write(meta->options.edge, copy->block->offset + offset, length, data,
                                WEIR_REQUEST_METADATA);
    }
    return ret;
}

/* Between tables: not the flush of a guest. */
static weir_co_fn int flush_edge(struct weir_edge *edge)
{
    struct weir_request request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, WEIR_REQUEST_METADATA);

    return weir_io(edge, &request);
}

static weir_co_fn int flush_data(struct weir_meta *meta)
{
    return meta->options.data_edge ? flush_edge(meta->options.data_edge) : 0;
}

/* Laws 6 and 7: data, then counts, are durable before what points to them is written. */
static weir_co_fn int flush_below_tables(struct weir_meta *meta)
{
    int ret = 0;

    if (WEIR_LAW(WEIR_LAW_BARRIER))
        ret = flush_data(meta);
    if (!ret && WEIR_LAW(WEIR_LAW_ORDER))
        ret = flush_edge(meta->options.edge);
    return ret;
}

static weir_co_fn int write_batch(struct weir_meta *meta, const struct batch *batch)
{
    bool tables = batch->counts[WEIR_META_TABLE] || batch->counts[WEIR_META_DIRECTORY] ||
                  batch->counts[WEIR_META_HEADER];
    int ret = write_level(meta, batch, WEIR_META_COUNTS);

    for (unsigned level = WEIR_META_COUNTS_DIRECTORY; level < WEIR_META_TABLE && !ret; level++) {
        if (!batch->counts[level])
            continue;
        ret = flush_edge(meta->options.edge);
        if (!ret)
            ret = write_level(meta, batch, level);
    }
    if (!ret && tables)
        ret = flush_below_tables(meta);
    for (unsigned level = WEIR_META_TABLE; level < WEIR_META_LEVELS && !ret; level++) {
        if (!batch->counts[level])
            continue;
        if (level > WEIR_META_TABLE)
            ret = flush_edge(meta->options.edge);
        if (!ret)
            ret = write_level(meta, batch, level);
    }
    if (!ret)
        ret = flush_data(meta);
    return ret ? ret : flush_edge(meta->options.edge);
}

/* Writes everything back; frees nothing. */
static weir_co_fn int write_back_locked(struct weir_meta *meta, bool all, uint64_t *ret_quarantine)
{
    struct batch batch;
    int ret;

    take_batch(meta, all, &batch);
    ret = write_batch(meta, &batch);
    settle_batch(meta, &batch, ret);
    *ret_quarantine = batch.quarantine;
    return ret;
}

static weir_co_fn int write_back(struct weir_node *node, bool all)
{
    struct weir_meta *meta = node->meta;
    uint64_t quarantine = 0;
    int ret;

    weir_co_mutex_lock(&meta->write_back);
    ret = write_back_locked(meta, all, &quarantine);
    /* Still under the mutex: the entries that this batch covered are the first ones of the quarantine. */
    if (!ret && quarantine)
        (void)!weir_meta_release(meta, quarantine); /* what stays is tried again; the data is durable */
    weir_co_mutex_unlock(&meta->write_back);
    return ret;
}

int weir_meta_write_back(struct weir_node *node)
{
    return write_back(node, false);
}

int weir_meta_write_back_all(struct weir_node *node)
{
    return write_back(node, true);
}

int weir_meta_sync(struct weir_node *node)
{
    return weir_meta_write_back(node);
}

int weir_meta_sync_all(struct weir_node *node)
{
    return write_back(node, true);
}

void weir_meta_lazy_counts(struct weir_node *node, bool lazy)
{
    weir_meta_enter(node->meta);
    node->meta->lazy_counts = lazy;
    weir_meta_leave(node->meta);
}

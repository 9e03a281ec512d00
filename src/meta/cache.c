/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table cache: find, load, pin, evict.
 *
 * A block leaves the cache only when it is neither dirty, nor being written, nor pinned (rule F7). When nothing may
 * leave, dirty blocks are written back first; if pins alone fill the cache it grows for a while rather than make
 * one request wait for another.
 */
#include "meta/internal.h"

#include "base/alloc.h"
#include "base/law.h"
#include "io/io.h"
#include "sys/sys.h"

struct weir_meta_block *weir_meta_block_find(struct weir_meta *meta, uint64_t offset)
{
    struct weir_meta_block *block;

    /* Random requests to a disk of a GiB alternate between two tables. */
    for (unsigned i = 1; i <= 2; i++) {
        block = meta->recent[(meta->recent_at - i) % RECENT];
        if (block && block->offset == offset)
            return block;
    }
    HASH_FIND(hh, meta->blocks, &offset, sizeof(offset), block);
    return block;
}

static void block_free(struct weir_meta_block *block)
{
    free(block->data);
    free(block);
}

void weir_meta_block_pin(struct weir_meta_block *block)
{
    block->pins++;
}

void weir_meta_block_unpin(struct weir_meta *meta, struct weir_meta_block *block)
{
    WEIR_ASSERT(block->pins);
    block->pins--;
    if (block->gone && !block->pins && !block->writing)
        block_free(block);
}

void weir_meta_block_drop(struct weir_meta *meta, struct weir_meta_block *block)
{
    for (unsigned i = 0; i < RECENT; i++) {
        if (meta->recent[i] == block)
            meta->recent[i] = NULL;
    }
    HASH_DEL(meta->blocks, block);
    TAILQ_REMOVE(&meta->lru, block, lru);
    meta->cached_bytes -= block->length;
    block->gone = true;
    if (!block->pins && !block->writing)
        block_free(block);
}

void weir_meta_block_mark_all(struct weir_meta_block *block)
{
    uint64_t pieces = (block->length + WEIR_META_PIECE - 1) / WEIR_META_PIECE;

    for (uint64_t i = 0; i < pieces; i++)
        block->dirty_pieces[i / 64] |= (uint64_t)1 << i % 64;
    block->dirty = true;
}

static struct weir_meta_block *block_add(struct weir_meta *meta, uint64_t offset, uint64_t length,
                                         enum weir_meta_level level)
{
    struct weir_meta_block *block;
    char *data = length <= WEIR_META_TABLE_MAX ? weir_try_alloc(length, 4096) : NULL;

    if (!data)
        return NULL;
    block = weir_new(struct weir_meta_block);
    block->offset = offset;
    block->length = length;
    block->level = level;
    block->data = data;
    HASH_ADD(hh, meta->blocks, offset, sizeof(block->offset), block);
    TAILQ_INSERT_TAIL(&meta->lru, block, lru);
    meta->cached_bytes += length;
    return block;
}

/*
 * Makes place for @length bytes by dropping clean blocks, oldest first; false when there is not enough. A block that
 * was used since eviction last came by goes to the end instead (a find just marks it), where it is met again unmarked.
 */
static bool evict(struct weir_meta *meta, uint64_t length)
{
    struct weir_meta_block *block, *next;

    for (block = TAILQ_FIRST(&meta->lru); block && meta->cached_bytes + length > meta->options.cache_max;
         block = next) {
        next = TAILQ_NEXT(block, lru);
        if (block->dirty || block->writing || block->loading || block->pins)
            continue;
        if (block->used) {
            block->used = false;
            if (!next) {
                next = block;
            } else {
                TAILQ_REMOVE(&meta->lru, block, lru);
                TAILQ_INSERT_TAIL(&meta->lru, block, lru);
            }
            continue;
        }
        meta->stats.evictions++;
        weir_meta_block_drop(meta, block);
    }
    return meta->cached_bytes + length <= meta->options.cache_max;
}

void weir_meta_cache_trim(struct weir_meta *meta)
{
    (void)evict(meta, 0);
}

static bool any_dirty(const struct weir_meta *meta)
{
    const struct weir_meta_block *block;

    TAILQ_FOREACH (block, &meta->lru, lru) {
        if (block->dirty)
            return true;
    }
    return false;
}

static weir_co_fn void raise_load(struct weir_meta *meta, const struct weir_meta_block *block)
{
    if (block->level == WEIR_META_TABLE)
        weir_event(meta->options.edge, WEIR_EVENT_L2_LOAD);
    else if (block->level == WEIR_META_COUNTS)
        weir_event(meta->options.edge, WEIR_EVENT_REFBLOCK_LOAD);
}

/* Reads a block that was just added, outside the monitor. Enters it again before it returns. */
static weir_co_fn int block_read(struct weir_meta *meta, struct weir_meta_block *block)
{
    struct iovec iov = { block->data, block->length };
    int ret;

    block->loading = true;
    weir_meta_block_pin(block);
    weir_meta_leave(meta);
    raise_load(meta, block);
    ret =
        weir_io_read_short(meta->options.edge, block->offset, block->length, &iov, 1, WEIR_REQUEST_METADATA);
    weir_meta_enter(meta);
    block->loading = false;
    meta->stats.loads++;
    weir_co_queue_wake_all(&meta->changed);
    if (ret) {
        if (!block->gone)
            weir_meta_block_drop(meta, block);
        weir_meta_block_unpin(meta, block);
    }
    return ret;
}

int weir_meta_block_load(struct weir_meta *meta, uint64_t offset, uint64_t length, enum weir_meta_level level,
                         bool may_write, struct weir_meta_block **ret_block)
{
    struct weir_meta_block *block;
    bool wrote = !may_write;
    int ret = 0;

    weir_meta_enter(meta);
    for (;;) {
        block = weir_meta_block_find(meta, offset);
        if (block && block->loading) {
            weir_co_queue_wait(&meta->changed, &meta->node->io->monitor);
            continue;
        }
        if (block && (block->length != length || block->level != level)) {
            ret = -EIO; /* the image says that two different tables are here */
            break;
        }
        if (block) {
            weir_meta_block_pin(block);
            break;
        }
        if (!evict(meta, length) && !wrote && any_dirty(meta)) {
            wrote = true;
            weir_meta_leave(meta);
            ret = weir_meta_write_back_all(meta->node);
            weir_meta_enter(meta);
            if (ret)
                break;
            continue;
        }
        block = block_add(meta, offset, length, level);
        ret = block ? block_read(meta, block) : -ENOMEM;
        break;
    }
    weir_meta_leave(meta);
    if (!ret)
        *ret_block = block;
    return ret;
}

/* ---- for drivers ---- */

/* Pins a block that the running map uses, once. */
static void collect_pin(struct weir_meta *meta, struct weir_meta_block *block)
{
    struct weir_meta_pins *pins = meta->collector;

    if (!pins)
        return;
    for (unsigned i = 0; i < pins->count; i++) {
        if (pins->blocks[i] == block)
            return;
    }
    WEIR_ASSERT(pins->count < WEIR_META_PINS_MAX);
    weir_meta_block_pin(block);
    pins->blocks[pins->count++] = block;
}

/* The running map uses it, and may change it. */
static void *use(struct weir_meta *meta, struct weir_meta_block *block)
{
    if (!block->used)
        block->used = true;
    if (meta->recent[(meta->recent_at - 1) % RECENT] != block)
        meta->recent[meta->recent_at++ % RECENT] = block;
    collect_pin(meta, block);
    return block->data;
}

void *weir_meta_find(struct weir_node *node, uint64_t offset)
{
    struct weir_meta_block *block;

    WEIR_LAW_PREEMPT();
    block = weir_meta_block_find(node->meta, offset);
    return block && !block->loading ? use(node->meta, block) : NULL;
}

void *weir_meta_peek(struct weir_node *node, uint64_t offset)
{
    struct weir_meta_block *block = weir_meta_block_find(node->meta, offset);

    return block && !block->loading ? block->data : NULL;
}

void *weir_meta_find_level(struct weir_node *node, uint64_t offset, enum weir_meta_level level)
{
    struct weir_meta_block *block;

    WEIR_LAW_PREEMPT();
    block = weir_meta_block_find(node->meta, offset);
    return block && !block->loading && block->level == level ? use(node->meta, block) : NULL;
}

void *weir_meta_peek_level(struct weir_node *node, uint64_t offset, enum weir_meta_level level)
{
    struct weir_meta_block *block = weir_meta_block_find(node->meta, offset);

    return block && !block->loading && block->level == level ? block->data : NULL;
}

int weir_meta_need(struct weir_node *node, struct weir_need *need, uint64_t offset, uint64_t length,
                   enum weir_meta_level level)
{
    *need = (struct weir_need){ node->meta->options.edge, offset, length, level };
    return WEIR_NEED;
}

void *weir_meta_create(struct weir_node *node, uint64_t offset, uint64_t length, enum weir_meta_level level)
{
    struct weir_meta_block *block = weir_meta_block_find(node->meta, offset);

    if (block && (block->loading || block->length != length || block->level != level))
        return NULL;
    if (!block) {
        (void)evict(node->meta, length); /* else the cache grows until the next load */
        block = block_add(node->meta, offset, length, level);
        if (!block)
            return NULL;
    }
    __builtin_memset(block->data, 0, length);
    weir_meta_block_mark_all(block);
    block->fresh = true;
    return use(node->meta, block);
}

void weir_meta_note_event(struct weir_node *node, enum weir_event event)
{
    struct weir_meta_pins *pins = node->meta->collector;

    if (weir_event_heard() && pins)
        pins->events |= WEIR_EVENT_BIT(event);
}

int weir_meta_put(struct weir_node *node, uint64_t offset, uint64_t length, enum weir_meta_level level,
                  const void *data)
{
    struct weir_meta_block *block = weir_meta_block_find(node->meta, offset);

    if (!block) {
        (void)evict(node->meta, length);
        block = block_add(node->meta, offset, length, level);
        if (block)
            block->fresh = true;
    }
    if (!block)
        return -ENOMEM;
    if (block->loading || block->length != length || block->level != level)
        return -EIO; /* the image says that two different tables are here */
    __builtin_memcpy(block->data, data, length);
    weir_meta_block_mark_all(block);
    return 0;
}

static bool holds(const struct weir_meta_block *block, const void *data)
{
    return (uintptr_t)data - (uintptr_t)block->data < block->length;
}

/* Nearly always one of the last few that were found. */
static struct weir_meta_block *block_holding(struct weir_meta *meta, const void *data)
{
    struct weir_meta_block *block;

    for (unsigned i = 1; i <= RECENT; i++) {
        block = meta->recent[(meta->recent_at - i) % RECENT];
        if (block && holds(block, data))
            return block;
    }
    TAILQ_FOREACH (block, &meta->lru, lru) {
        if (holds(block, data))
            break;
    }
    return block;
}

void weir_meta_dirty(struct weir_node *node, void *data)
{
    struct weir_meta_block *block;
    uint64_t piece;

    WEIR_LAW_PREEMPT();
    block = block_holding(node->meta, data);
    WEIR_ASSERT(block); /* a table that is not in the cache was changed */
    piece = (uint64_t)((const char *)data - block->data) / WEIR_META_PIECE;
    block->dirty_pieces[piece / 64] |= (uint64_t)1 << piece % 64;
    block->dirty = true;
}

void weir_meta_forget(struct weir_node *node, uint64_t offset)
{
    struct weir_meta_block *block = weir_meta_block_find(node->meta, offset);

    if (block && !block->loading)
        weir_meta_block_drop(node->meta, block);
}

int weir_meta_load(struct weir_node *node, uint64_t offset, uint64_t length, enum weir_meta_level level)
{
    struct weir_meta_block *block;

    return weir_meta_block_load(node->meta, offset, length, level, true, &block);
}

void weir_meta_unload(struct weir_node *node, uint64_t offset)
{
    struct weir_meta_block *block;

    weir_meta_enter(node->meta);
    block = weir_meta_block_find(node->meta, offset);
    WEIR_ASSERT(block);
    weir_meta_block_unpin(node->meta, block);
    weir_meta_leave(node->meta);
}

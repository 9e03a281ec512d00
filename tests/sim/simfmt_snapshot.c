/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * simfmt: the internal snapshot, the layout and the compression.
 *
 * Creating one holds [0, size) exclusively (rule F9), first clears every in-place flag durably (F9b), then copies the
 * table and raises the counts, and last sets the header's flag. Deleting clears the flag and gives all
 * references of the snapshot table up; they are released once that is durable.
 */
#include "base/alloc.h"
#include "io/node_io.h"
#include "meta/meta.h"
#include "simfmt_internal.h"

static uint64_t guest_units(const struct simfmt_header *header)
{
    return (header->size + header->unit - 1) / header->unit;
}

static uint64_t blocks_for(uint64_t entries, uint64_t per_block)
{
    return (entries + per_block - 1) / per_block;
}

uint64_t simfmt_layout(uint64_t size, uint64_t unit, uint64_t host_units, bool data_edge,
                       struct simfmt_header *ret_header)
{
    struct simfmt_header header = {
        .magic = SIMFMT_MAGIC, .size = size, .unit = unit, .host_units = host_units
    };
    uint64_t table = blocks_for(guest_units(&header), SIMFMT_TABLE_ENTRIES) * SIMFMT_BLOCK;
    uint64_t end;

    header.counts_offset = unit;
    header.table_offset = header.counts_offset + blocks_for(host_units, SIMFMT_COUNT_ENTRIES) * SIMFMT_BLOCK;
    header.snapshot_offset = header.table_offset + table;
    end = header.snapshot_offset + table;
    header.first_unit = data_edge ? 1 : (end + unit - 1) / unit;
    *ret_header = header;
    return end;
}

static void enter(struct weir_node *node)
{
    weir_mutex_lock(&node->io->monitor);
}
static void leave(struct weir_node *node)
{
    weir_mutex_unlock(&node->io->monitor);
}

/* Runs @step on every active table block with its snapshot block, both kept in memory meanwhile. */
static weir_co_fn int each_block(struct weir_node *node,
                                 int (*step)(struct weir_node *node, uint64_t block) weir_co_fn)
{
    struct simfmt *fmt = node->state;
    uint64_t blocks = blocks_for(guest_units(&fmt->header), SIMFMT_TABLE_ENTRIES);
    int ret = 0;

    for (uint64_t i = 0; i < blocks && !ret; i++) {
        uint64_t active = fmt->header.table_offset + i * SIMFMT_BLOCK;
        uint64_t saved = fmt->header.snapshot_offset + i * SIMFMT_BLOCK;

        ret = weir_meta_load(node, active, SIMFMT_BLOCK, WEIR_META_TABLE);
        if (ret)
            break;
        ret = weir_meta_load(node, saved, SIMFMT_BLOCK, WEIR_META_TABLE);
        if (!ret) {
            ret = step(node, i);
            weir_meta_unload(node, saved);
        }
        weir_meta_unload(node, active);
    }
    return ret;
}

static weir_co_fn int clear_flags(struct weir_node *node, uint64_t block)
{
    const struct simfmt *fmt = node->state;
    uint64_t *table;

    enter(node);
    table = weir_meta_find(node, fmt->header.table_offset + block * SIMFMT_BLOCK);
    for (unsigned i = 0; i < SIMFMT_TABLE_ENTRIES; i++)
        table[i] &= ~(uint64_t)SIMFMT_IN_PLACE;
    weir_meta_dirty(node, table);
    leave(node);
    return 0;
}

/* Raises the count of what @entry points to. */
static weir_co_fn int add_reference(struct weir_node *node, uint64_t entry)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = simfmt_offset(entry) / fmt->header.unit, block = simfmt_count_block(fmt, unit);
    uint32_t *count;
    int ret = weir_meta_load(node, block, SIMFMT_BLOCK, WEIR_META_COUNTS);

    if (ret)
        return ret;
    enter(node);
    count = simfmt_find_count(node, unit);
    (*count)++;
    weir_meta_dirty(node, count);
    leave(node);
    weir_meta_unload(node, block);
    return 0;
}

/* Copies one block of entries; on failure what was copied stays counted and pointed to. */
static weir_co_fn int save_block(struct weir_node *node, uint64_t block)
{
    const struct simfmt *fmt = node->state;
    int ret = 0;

    for (unsigned i = 0; i < SIMFMT_TABLE_ENTRIES && !ret; i++) {
        uint64_t *active, *saved, entry;

        enter(node);
        active = weir_meta_find(node, fmt->header.table_offset + block * SIMFMT_BLOCK);
        entry = active[i];
        leave(node);
        if (simfmt_kind(entry) >= SIMFMT_PLAIN)
            ret = add_reference(node, entry);
        if (ret)
            break;
        enter(node);
        saved = weir_meta_find(node, fmt->header.snapshot_offset + block * SIMFMT_BLOCK);
        saved[i] = entry;
        weir_meta_dirty(node, saved);
        leave(node);
    }
    return ret;
}

/* Gives up every reference of a snapshot block, after all counts it needs are in memory. */
static weir_co_fn int drop_block(struct weir_node *node, uint64_t block)
{
    const struct simfmt *fmt = node->state;
    int ret = 0;

    for (unsigned i = 0; i < SIMFMT_TABLE_ENTRIES && !ret; i++) {
        uint64_t *saved, entry, count_block;
        bool counted;

        enter(node);
        saved = weir_meta_find(node, fmt->header.snapshot_offset + block * SIMFMT_BLOCK);
        entry = saved[i];
        leave(node);
        counted = simfmt_kind(entry) >= SIMFMT_PLAIN;
        count_block = counted ? simfmt_count_block(fmt, simfmt_offset(entry) / fmt->header.unit) : 0;
        if (counted)
            ret = weir_meta_load(node, count_block, SIMFMT_BLOCK, WEIR_META_COUNTS);
        if (ret)
            break;
        enter(node);
        saved = weir_meta_find(node, fmt->header.snapshot_offset + block * SIMFMT_BLOCK);
        saved[i] = 0;
        weir_meta_dirty(node, saved);
        simfmt_drop(node, entry);
        leave(node);
        if (counted)
            weir_meta_unload(node, count_block);
    }
    return ret;
}

void (*simfmt_before_header)(void);

static weir_co_fn int set_header(struct weir_node *node, uint64_t snapshot)
{
    struct simfmt *fmt = node->state;

    enter(node);
    fmt->header.snapshot = snapshot;
    fmt->header_changed = true;
    leave(node);
    if (simfmt_before_header)
        simfmt_before_header();
    return weir_meta_sync(node);
}

static weir_co_fn int create_locked(struct weir_node *node)
{
    int ret = each_block(node, clear_flags);

    if (!ret)
        ret = weir_meta_sync(node);
    if (!ret)
        ret = each_block(node, save_block);
    /* The copy stays, counted and unreachable, when this fails: a leak, which the next try takes over. */
    return ret ? ret : set_header(node, 1);
}

/* What an earlier try left in the snapshot table is given back first. */
int simfmt_snapshot_create(struct weir_node *node)
{
    struct simfmt *fmt = node->state;
    struct weir_range_lock lock;
    int ret = -EEXIST;

    weir_range_lock(node->io->ranges, &lock, 0, guest_units(&fmt->header) * fmt->header.unit, true);
    if (!fmt->header.snapshot) {
        ret = each_block(node, drop_block);
        if (!ret)
            ret = create_locked(node);
    }
    weir_range_unlock(&lock);
    return ret;
}

int simfmt_snapshot_delete(struct weir_node *node)
{
    struct simfmt *fmt = node->state;
    struct weir_range_lock lock;
    int ret = -ENOENT;

    weir_range_lock(node->io->ranges, &lock, 0, guest_units(&fmt->header) * fmt->header.unit, true);
    if (fmt->header.snapshot) {
        ret = set_header(node, 0);
        if (!ret)
            ret = each_block(node, drop_block);
    }
    weir_range_unlock(&lock);
    return ret;
}

bool simfmt_has_snapshot(struct weir_node *node)
{
    return ((struct simfmt *)node->state)->header.snapshot;
}

/* ---- compression: one word for every 512 bytes that repeat it ---- */

uint64_t simfmt_encode(struct weir_node *node, const void *in, uint64_t length, void *out)
{
    const uint64_t *words = in;
    uint64_t *packed = out, sectors = length / 512;

    (void)node;
    for (uint64_t s = 0; s < sectors; s++) {
        for (unsigned i = 1; i < 64; i++) {
            if (words[s * 64 + i] != words[s * 64])
                return 0;
        }
        packed[s] = words[s * 64];
    }
    return sectors * 8;
}

int simfmt_decode_unit(uint64_t unit, const void *in, uint64_t stored, void *out)
{
    const uint64_t *packed = in;
    uint64_t *words = out;

    if (stored != unit / 512 * 8)
        return -EIO;
    for (uint64_t i = 0; i < unit / 8; i++)
        words[i] = packed[i / 64];
    return 0;
}

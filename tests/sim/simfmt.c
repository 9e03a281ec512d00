/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * simfmt: where things are.
 *
 * Counts are raised in commit and lowered in release. Between its reservation (map) and its count (commit) a host
 * unit is kept from others by `reserved`; between its giving up (commit) and its release `dropped` says how many of
 * its counted references are already gone. A unit is free when its count and its reservations are zero.
 */
#include "simfmt.h"

#include "base/alloc.h"
#include "io/io.h"
#include "io/node_io.h"
#include "meta/meta.h"
#include "simfmt_internal.h"
#include "sys/sys.h"

/* Another loop may run here, were it not for the monitor. */
static void preempt(void)
{
    weir_sys->thread.preempt();
}

static uint64_t table_block(const struct simfmt *fmt, uint64_t base, uint64_t index)
{
    return base + index / SIMFMT_TABLE_ENTRIES * SIMFMT_BLOCK;
}

static int need_table(struct weir_node *node, struct weir_need *need, uint64_t index)
{
    const struct simfmt *fmt = node->state;

    return weir_meta_need(node, need, table_block(fmt, fmt->header.table_offset, index), SIMFMT_BLOCK,
                          WEIR_META_TABLE);
}

static uint64_t *find_table(struct weir_node *node, uint64_t index)
{
    const struct simfmt *fmt = node->state;

    return weir_meta_find(node, table_block(fmt, fmt->header.table_offset, index));
}

uint64_t simfmt_count_block(const struct simfmt *fmt, uint64_t unit)
{
    return fmt->header.counts_offset + unit / SIMFMT_COUNT_ENTRIES * SIMFMT_BLOCK;
}

static int need_count(struct weir_node *node, struct weir_need *need, uint64_t unit)
{
    return weir_meta_need(node, need, simfmt_count_block(node->state, unit), SIMFMT_BLOCK, WEIR_META_COUNTS);
}

uint32_t *simfmt_find_count(struct weir_node *node, uint64_t unit)
{
    uint32_t *block = weir_meta_find(node, simfmt_count_block(node->state, unit));

    return block ? block + unit % SIMFMT_COUNT_ENTRIES : NULL;
}

static const uint32_t *peek_count(struct weir_node *node, uint64_t unit)
{
    uint32_t *block = weir_meta_peek(node, simfmt_count_block(node->state, unit));

    return block ? block + unit % SIMFMT_COUNT_ENTRIES : NULL;
}

/* ---- answers without change ---- */

static enum weir_where where_of(uint64_t entry)
{
    static const enum weir_where where[] = { WEIR_UNMAPPED, WEIR_ZEROED, WEIR_DATA, WEIR_ENCODED };

    return where[simfmt_kind(entry)];
}

/* Whether @next goes on where an extent of @n units that began with @first ends. */
static bool joins(const struct simfmt *fmt, uint64_t first, uint64_t next, uint64_t n)
{
    if (simfmt_kind(first) != simfmt_kind(next) || (first & SIMFMT_IN_PLACE) != (next & SIMFMT_IN_PLACE))
        return false;
    switch (simfmt_kind(first)) {
    case SIMFMT_NONE:
    case SIMFMT_ZERO:
        return true;
    case SIMFMT_PLAIN:
        return simfmt_offset(next) == simfmt_offset(first) + n * fmt->header.unit;
    default:
        return false;
    }
}

static void extent_of(struct simfmt *fmt, const uint64_t *table, uint64_t index, uint64_t last,
                      struct weir_extent *extent)
{
    uint64_t at = index % SIMFMT_TABLE_ENTRIES, entry = table[at], n = 1;

    while (index + n <= last && at + n < SIMFMT_TABLE_ENTRIES && joins(fmt, entry, table[at + n], n))
        n++;
    extent->where = where_of(entry);
    extent->offset = index * fmt->header.unit;
    extent->length = n * fmt->header.unit;
    if (extent->where == WEIR_DATA || extent->where == WEIR_ENCODED) {
        extent->edge = fmt->data;
        extent->child_offset = simfmt_offset(entry);
        extent->child_length = extent->where == WEIR_DATA ? extent->length : simfmt_length(entry);
    }
}

/* ---- allocation ---- */

static bool is_free(struct simfmt *fmt, uint64_t unit, uint32_t count)
{
    return !count && !fmt->reserved[unit];
}

/*
 * Looks for up to @wanted adjacent free units. 0 and *ret_unit, *ret_count; WEIR_NEED; or -ENOSPC.
 */
static int find_free(struct weir_node *node, uint64_t wanted, uint64_t *ret_unit, uint64_t *ret_count,
                     struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t first = fmt->header.first_unit, total = fmt->header.host_units - first;

    for (uint64_t i = 0; i < total; i++) {
        uint64_t unit = first + (fmt->cursor - first + i) % total, n = 0;

        while (n < wanted && unit + n < fmt->header.host_units) {
            const uint32_t *count = peek_count(node, unit + n);

            if (!count)
                return need_count(node, need, unit + n);
            if (!is_free(fmt, unit + n, *count))
                break;
            n++;
        }
        preempt();
        if (n) {
            *ret_unit = unit;
            *ret_count = n;
            return 0;
        }
    }
    fmt->stats.no_space++;
    return -ENOSPC;
}

/* Whatever commit will touch for the old entry must be in memory: the count it drops a reference to. */
static int pin_old(struct weir_node *node, uint64_t entry, struct weir_need *need)
{
    const struct simfmt *fmt = node->state;
    uint64_t unit = simfmt_offset(entry) / fmt->header.unit;

    if (simfmt_kind(entry) < SIMFMT_PLAIN || simfmt_find_count(node, unit))
        return 0;
    return need_count(node, need, unit);
}

static int map_plain(struct weir_node *node, uint64_t *table, uint64_t index, uint64_t last,
                     struct weir_extent *extent, struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t at = index % SIMFMT_TABLE_ENTRIES, n = 0, unit, found;
    int ret;

    while (n < SIMFMT_RUN_MAX && index + n <= last && at + n < SIMFMT_TABLE_ENTRIES &&
           !(simfmt_kind(table[at + n]) == SIMFMT_PLAIN && (table[at + n] & SIMFMT_IN_PLACE))) {
        ret = pin_old(node, table[at + n], need);
        if (ret)
            return ret;
        n++;
    }
    ret = find_free(node, n, &unit, &found, need);
    if (ret)
        return ret;
    for (uint64_t i = 0; i < found; i++) {
        if (!simfmt_find_count(node, unit + i))
            return need_count(node, need, unit + i);
    }
    preempt();
    for (uint64_t i = 0; i < found; i++)
        fmt->reserved[unit + i]++;
    fmt->cursor = unit + found < fmt->header.host_units ? unit + found : fmt->header.first_unit;
    *extent = (struct weir_extent){
        .where = WEIR_DATA,
        .flags = WEIR_EXTENT_PENDING,
        .offset = index * fmt->header.unit,
        .length = found * fmt->header.unit,
        .edge = fmt->data,
        .child_offset = unit * fmt->header.unit,
        .child_length = found * fmt->header.unit,
    };
    return 0;
}

/* A place for @stored bytes in the unit that is being packed, or in a new one. */
static int map_stored(struct weir_node *node, const uint64_t *table, uint64_t index, uint64_t stored,
                      struct weir_extent *extent, struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = fmt->pack_unit, found;
    int ret = pin_old(node, table[index % SIMFMT_TABLE_ENTRIES], need);

    if (ret)
        return ret;
    if (!unit || fmt->pack_fill + stored > fmt->header.unit) {
        ret = find_free(node, 1, &unit, &found, need);
        if (ret)
            return ret;
    }
    if (!simfmt_find_count(node, unit))
        return need_count(node, need, unit);
    if (unit != fmt->pack_unit) {
        fmt->pack_unit = unit;
        fmt->pack_fill = 0;
    }
    preempt();
    fmt->reserved[unit]++;
    *extent = (struct weir_extent){
        .where = WEIR_ENCODED,
        .flags = WEIR_EXTENT_PENDING,
        .offset = index * fmt->header.unit,
        .length = fmt->header.unit,
        .edge = fmt->data,
        .child_offset = unit * fmt->header.unit + fmt->pack_fill,
        .child_length = stored,
    };
    fmt->pack_fill += stored;
    return 0;
}

/* ZERO and DISCARD: the state the range will have. */
static int map_clear(struct weir_node *node, uint64_t *table, uint64_t index, uint64_t last, enum weir_op op,
                     unsigned flags, struct weir_extent *extent, struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t at = index % SIMFMT_TABLE_ENTRIES, entry = table[at], n = 0;
    bool leaves_hole = op == WEIR_OP_DISCARD && !weir_node_cow(node);
    int ret;

    if (simfmt_kind(entry) < SIMFMT_PLAIN &&
        (simfmt_kind(entry) == SIMFMT_ZERO || leaves_hole || !weir_node_cow(node))) {
        extent_of(fmt, table, index, last, extent);
        extent->flags = 0;
        return 0;
    }
    if (op == WEIR_OP_ZERO && !(flags & WEIR_MAP_UNMAP) && simfmt_kind(entry) == SIMFMT_PLAIN &&
        (entry & SIMFMT_IN_PLACE)) {
        extent_of(fmt, table, index, last, extent);
        return 0;
    }
    while (n < SIMFMT_RUN_MAX && index + n <= last && at + n < SIMFMT_TABLE_ENTRIES) {
        ret = pin_old(node, table[at + n], need);
        if (ret)
            return ret;
        n++;
    }
    *extent = (struct weir_extent){
        .where = leaves_hole ? WEIR_UNMAPPED : WEIR_ZEROED,
        .flags = WEIR_EXTENT_PENDING,
        .offset = index * fmt->header.unit,
        .length = n * fmt->header.unit,
    };
    return 0;
}

static int simfmt_map(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length,
                      unsigned flags, struct weir_extent *extent, struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = fmt->header.unit, index = offset / unit, last = (offset + length - 1) / unit;
    uint64_t stored = extent->child_length, *table = find_table(node, index), entry;

    if (!table)
        return need_table(node, need, index);
    preempt();
    entry = table[index % SIMFMT_TABLE_ENTRIES];
    if (op == WEIR_OP_READ) {
        extent_of(fmt, table, index, last, extent);
        return 0;
    }
    if (op != WEIR_OP_WRITE)
        return map_clear(node, table, index, last, op, flags, extent, need);
    if (simfmt_kind(entry) == SIMFMT_PLAIN && (entry & SIMFMT_IN_PLACE) && !(flags & WEIR_MAP_ENCODED)) {
        extent_of(fmt, table, index, last, extent);
        if (!(flags & WEIR_MAP_ALLOCATE))
            fmt->stats.in_place++;
        return 0;
    }
    if (!(flags & WEIR_MAP_ALLOCATE))
        return -EAGAIN;
    return flags & WEIR_MAP_ENCODED ? map_stored(node, table, index, stored, extent, need)
                                    : map_plain(node, table, index, last, extent, need);
}

/* ---- making it so ---- */

/* The packing leaves a unit whose last reference goes: it may be given away. */
static void leave_pack_unit(struct weir_node *node, uint64_t unit)
{
    struct simfmt *fmt = node->state;
    const uint32_t *count = simfmt_find_count(node, unit);

    if (unit == fmt->pack_unit && !fmt->reserved[unit] && (!count || *count <= fmt->dropped[unit]))
        fmt->pack_unit = 0;
}

/* The reference that @entry holds is gone from the table. */
void simfmt_drop(struct weir_node *node, uint64_t entry)
{
    struct simfmt *fmt = node->state;
    uint64_t unit_size = fmt->header.unit, unit = simfmt_offset(entry) / unit_size;
    const uint32_t *count;
    bool last;

    if (simfmt_kind(entry) < SIMFMT_PLAIN)
        return;
    count = simfmt_find_count(node, unit);
    WEIR_ASSERT(count);
    fmt->dropped[unit]++;
    /* A unit that is still being packed has references to come. */
    last = *count <= fmt->dropped[unit] && !fmt->reserved[unit];
    if (*count > fmt->dropped[unit])
        fmt->stats.shared++;
    leave_pack_unit(node, unit);
    weir_meta_give_up(node, fmt->data, unit * unit_size, last ? unit_size : 0, last, unit);
}

static uint64_t entry_for(const struct weir_extent *extent, uint64_t i, uint64_t unit)
{
    switch (extent->where) {
    case WEIR_DATA:
        return (extent->child_offset + i * unit) << 16 | SIMFMT_IN_PLACE | SIMFMT_PLAIN;
    case WEIR_ENCODED:
        return extent->child_offset << 16 | extent->child_length << 3 | SIMFMT_STORED;
    case WEIR_ZEROED:
        return SIMFMT_ZERO;
    default:
        return SIMFMT_NONE;
    }
}

static void simfmt_commit(struct weir_node *node, const struct weir_extent *extent)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = fmt->header.unit, index = extent->offset / unit;
    uint64_t *table = find_table(node, index);

    WEIR_ASSERT(table);
    for (uint64_t i = 0; i < extent->length / unit; i++) {
        uint64_t *slot = table + (index + i) % SIMFMT_TABLE_ENTRIES, old = *slot;
        uint64_t entry = entry_for(extent, i, unit);

        if (simfmt_kind(entry) >= SIMFMT_PLAIN) {
            uint64_t host = simfmt_offset(entry) / unit;
            uint32_t *count = simfmt_find_count(node, host);

            WEIR_ASSERT(count && fmt->reserved[host]);
            (*count)++;
            weir_meta_dirty(node, count);
            fmt->reserved[host]--;
            fmt->stats.allocations++;
            fmt->stats.stored += extent->where == WEIR_ENCODED;
        }
        preempt();
        *slot = entry;
        simfmt_drop(node, old);
    }
    weir_meta_dirty(node, table);
}

static void simfmt_abort(struct weir_node *node, const struct weir_extent *extent)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = fmt->header.unit;

    if (extent->where != WEIR_DATA && extent->where != WEIR_ENCODED)
        return;
    fmt->stats.aborts++;
    for (uint64_t i = 0; i < (extent->length + unit - 1) / unit; i++) {
        uint64_t host = extent->child_offset / unit + i;

        WEIR_ASSERT(fmt->reserved[host]);
        fmt->reserved[host]--;
        leave_pack_unit(node, host);
    }
}

static int simfmt_release(struct weir_node *node, const struct weir_freed *freed, struct weir_need *need)
{
    struct simfmt *fmt = node->state;
    uint64_t unit = freed->cookie;
    uint32_t *count = simfmt_find_count(node, unit);

    if (!count)
        return need_count(node, need, unit);
    WEIR_ASSERT(*count && fmt->dropped[unit]);
    preempt();
    (*count)--;
    fmt->dropped[unit]--;
    weir_meta_dirty(node, count);
    return 0;
}

static void simfmt_sync(struct weir_node *node)
{
    struct simfmt *fmt = node->state;
    struct simfmt_header *block;

    if (!fmt->header_changed)
        return;
    block = weir_meta_find(node, 0);
    WEIR_ASSERT(block); /* loaded at open and kept */
    *block = fmt->header;
    weir_meta_dirty(node, block);
    fmt->header_changed = false;
}

/* ---- life ---- */

static void simfmt_limits(struct weir_node *node, struct weir_limits *limits)
{
    struct simfmt *fmt = node->state;

    limits->request_align = 1;
    limits->memory_align = 1;
    limits->transfer_max = 0;
    limits->lock_unit = fmt->header.unit;
    limits->zero_align = limits->discard_align = fmt->header.unit;
    limits->zero_max = limits->discard_max = 0;
}

static weir_co_fn int open_children(struct weir_node *node, struct weir_error **err)
{
    struct simfmt *fmt = node->state;
    json_t *data = json_object_get(node->options, "data-file");
    json_t *backing = json_object_get(node->options, "backing");
    struct weir_edge *cow;
    int ret;

    ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file",
                               WEIR_ROLE_METADATA | WEIR_ROLE_PRIMARY | (data ? 0 : WEIR_ROLE_DATA),
                               &fmt->file, err);
    fmt->data = fmt->file;
    if (!ret && data)
        ret = weir_node_open_child(node, data, "data-file", WEIR_ROLE_DATA, &fmt->data, err);
    if (!ret && backing)
        ret = weir_node_open_child(node, backing, "backing", WEIR_ROLE_COW, &cow, err);
    return ret;
}

static weir_co_fn int simfmt_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct simfmt *fmt = node->state;
    char block[SIMFMT_BLOCK];
    struct weir_meta_options meta;
    json_t *cache = json_object_get(node->options, "x-cache");
    int ret;

    (void)options;
    ret = open_children(node, err);
    if (ret)
        return ret;
    ret = weir_io_read(fmt->file, 0, sizeof(block), block);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not read the header");
    __builtin_memcpy(&fmt->header, block, sizeof(fmt->header));
    if (fmt->header.magic != SIMFMT_MAGIC)
        return weir_error_set(err, -EINVAL, "Not a simfmt image");
    fmt->cursor = fmt->header.first_unit;
    fmt->reserved = weir_new_array(uint16_t, fmt->header.host_units);
    fmt->dropped = weir_new_array(uint16_t, fmt->header.host_units);
    meta = (struct weir_meta_options){
        .edge = fmt->file,
        .data_edge = fmt->data == fmt->file ? NULL : fmt->data,
        .cache_max = cache ? (uint64_t)json_integer_value(cache) : 4 * SIMFMT_BLOCK,
    };
    weir_meta_init(node, &meta);
    ret = weir_meta_load(node, 0, SIMFMT_BLOCK, WEIR_META_HEADER);
    if (ret) {
        weir_meta_done(node);
        free(fmt->reserved);
        free(fmt->dropped);
        return weir_error_set_errno(err, ret, "Could not load the header");
    }
    weir_node_set_size(node, fmt->header.size);
    return 0;
}

struct simfmt_stats simfmt_totals __attribute__((section("weir_sim_kept")));

void simfmt_stats(struct weir_node *node, struct simfmt_stats *ret_stats)
{
    struct weir_meta_stats meta;

    *ret_stats = ((struct simfmt *)node->state)->stats;
    weir_meta_stats(node, &meta);
    ret_stats->loads = meta.loads;
    ret_stats->evictions = meta.evictions;
    ret_stats->tables_written = meta.tables_written;
    ret_stats->released = meta.released;
    ret_stats->rooms = meta.rooms;
}

static void add_totals(struct weir_node *node)
{
    struct simfmt_stats stats;

    simfmt_stats(node, &stats);
    simfmt_totals.allocations += stats.allocations;
    simfmt_totals.aborts += stats.aborts;
    simfmt_totals.stored += stats.stored;
    simfmt_totals.in_place += stats.in_place;
    simfmt_totals.shared += stats.shared;
    simfmt_totals.no_space += stats.no_space;
    simfmt_totals.loads += stats.loads;
    simfmt_totals.evictions += stats.evictions;
    simfmt_totals.tables_written += stats.tables_written;
    simfmt_totals.released += stats.released;
    simfmt_totals.rooms += stats.rooms;
}

static weir_co_fn void simfmt_close(struct weir_node *node)
{
    struct simfmt *fmt = node->state;

    add_totals(node);
    /* Nobody is in between a map and its commit or abort. */
    for (uint64_t unit = 0; unit < fmt->header.host_units; unit++)
        WEIR_ASSERT(!fmt->reserved[unit]);
    weir_meta_unload(node, 0);
    weir_meta_done(node);
    free(fmt->reserved);
    free(fmt->dropped);
}

static int simfmt_decode(struct weir_node *node, const struct weir_extent *extent, const void *in, void *out)
{
    const struct simfmt *fmt = node->state;

    return simfmt_decode_unit(fmt->header.unit, in, extent->child_length, out);
}

const struct weir_driver weir_driver_simfmt = {
    .name = "simfmt",
    .flags = WEIR_DRIVER_FORMAT,
    .state_size = sizeof(struct simfmt),
    .open = simfmt_open,
    .close = simfmt_close,
    .limits = simfmt_limits,
    .map = simfmt_map,
    .commit = simfmt_commit,
    .abort = simfmt_abort,
    .release = simfmt_release,
    .sync = simfmt_sync,
    .decode = simfmt_decode,
    .encode = simfmt_encode,
};

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blklogwrites: keeps a log of all changes, in the format of the kernel's dm-log-writes target, so that its tools can
 * replay them up to any point.
 *
 *   sector 0   super block: magic, version, number of entries, sector size
 *   then       entry (one sector: where, how many sectors, flags), followed by the data of a write; and so on
 *
 * All numbers are little-endian, all sectors are of the log's sector size, which requests are aligned to. Zeroes are
 * logged as writes of zeroes, discards without data, a durable write with the FUA flag.
 *
 * An entry is added when its request has succeeded at the child, before the guest is answered, one entry at a time:
 * what a guest saw end before it issued a flush is in the log before the flush is. The super block counts complete
 * entries only. It is written every `interval` entries, with each flush, which makes the log durable too, and on close.
 */
#include "base/alloc.h"
#include "base/iov.h"
#include "co/co.h"
#include "io/stable.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/slice.h"
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define LOG_MAGIC 0x6a736677736872ULL
#define LOG_VERSION 1u
#define SECTOR_MIN 512u
#define SECTOR_MAX (1u << 23)
#define INTERVAL_DEFAULT 4096u

enum log_flags { LOG_FLUSH = 1 << 0, LOG_FUA = 1 << 1, LOG_DISCARD = 1 << 2 };

struct log_super {
    uint64_t magic, version, entries;
    uint32_t sector_size;
} __attribute__((packed));
_Static_assert(sizeof(struct log_super) == 28, "on-disk layout");

struct log_entry {
    uint64_t sector, sectors, flags, data_length;
};
_Static_assert(sizeof(struct log_entry) == 32, "on-disk layout");

extern const struct weir_driver weir_driver_blklogwrites;

struct blklogwrites_state {
    struct weir_edge *file, *log;
    uint32_t sector_size;
    uint64_t interval;
    struct weir_co_mutex mutex; /* one entry at a time */
    uint64_t entries, end;      /* complete ones; where the next one goes, bytes */
    uint64_t super_entries;     /* that the super block on the log counts */
};

/* ---- the log ---- */

static weir_co_fn int write_super(struct blklogwrites_state *state)
{
    weir_autofree char *sector = weir_alloc(state->sector_size);
    struct log_super super = {
        .magic = htole64(LOG_MAGIC),
        .version = htole64(LOG_VERSION),
        .entries = htole64(state->entries),
        .sector_size = htole32(state->sector_size),
    };
    int ret;

    memcpy(sector, &super, sizeof(super));
    ret = weir_io_write(state->log, 0, state->sector_size, sector, 0);
    if (!ret)
        state->super_entries = state->entries;
    return ret;
}

/* The data of a write, or zeroes, behind the sector of the entry. */
static weir_co_fn int write_data(struct blklogwrites_state *state, const struct weir_request *request)
{
    struct weir_request data = *request;

    data.offset = state->end + state->sector_size;
    data.flags = request->op == WEIR_OP_ZERO ? WEIR_REQUEST_MAY_UNMAP : 0;
    return weir_io(state->log, &data);
}

static weir_co_fn int write_entry(struct blklogwrites_state *state, const struct weir_request *request)
{
    weir_autofree char *sector = weir_alloc(state->sector_size);
    bool has_data = request->op == WEIR_OP_WRITE || request->op == WEIR_OP_ZERO;
    unsigned flags = request->op == WEIR_OP_FLUSH     ? LOG_FLUSH
                     : request->op == WEIR_OP_DISCARD ? LOG_DISCARD
                                                      : 0;
    uint64_t sectors = (request->length + state->sector_size - 1) / state->sector_size;
    struct log_entry entry = {
        .sector = htole64(request->offset / state->sector_size),
        .sectors = htole64(sectors),
        .flags = htole64(flags | (request->flags & WEIR_REQUEST_FUA ? LOG_FUA : 0)),
    };
    int ret = 0;

    memcpy(sector, &entry, sizeof(entry));
    if (has_data)
        ret = write_data(state, request);
    if (!ret)
        ret = weir_io_write(state->log, state->end, state->sector_size, sector, 0);
    if (ret)
        return ret;
    state->end += state->sector_size * (1 + (has_data ? sectors : 0));
    state->entries++;
    return 0;
}

/* A failed entry leaves the log as it was: the next one takes its place. */
static weir_co_fn int add_entry(struct blklogwrites_state *state, const struct weir_request *request)
{
    bool durable = request->op == WEIR_OP_FLUSH || (request->flags & WEIR_REQUEST_FUA);
    int ret;

    weir_co_mutex_lock(&state->mutex);
    ret = write_entry(state, request);
    if (!ret && (durable || state->entries - state->super_entries >= state->interval))
        ret = write_super(state);
    weir_co_mutex_unlock(&state->mutex);
    return !ret && durable ? weir_io_flush(state->log) : ret;
}

/* ---- going on with a log ---- */

static int check_sector_size(uint64_t size, struct weir_error **err)
{
    if (size >= SECTOR_MIN && size <= SECTOR_MAX && weir_is_power_of_2(size))
        return 0;
    return weir_error_set(err, -EINVAL, "Invalid log sector size %" PRIu64, size);
}

static weir_co_fn int read_log(struct weir_edge *log, uint64_t offset, void *buffer, uint64_t length,
                               struct weir_error **err)
{
    int ret = offset + length > weir_node_size(log->node) ? -EIO : weir_io_read(log, offset, length, buffer);

    if (ret)
        return weir_error_set(err, ret, "Could not read the log at offset %" PRIu64, offset);
    return 0;
}

/* Walks the entries to where the next one goes. */
static weir_co_fn int find_end(struct blklogwrites_state *state, struct weir_error **err)
{
    uint64_t size = weir_node_size(state->log->node);

    state->end = state->sector_size;
    for (uint64_t i = 0; i < state->entries; i++) {
        struct log_entry entry;
        uint64_t sectors;
        int ret = read_log(state->log, state->end, &entry, sizeof(entry), err);

        if (ret)
            return ret;
        sectors = le64toh(entry.flags) & LOG_DISCARD ? 0 : le64toh(entry.sectors);
        if (sectors > size / state->sector_size)
            return weir_error_set(err, -EINVAL, "Invalid entry of the log at offset %" PRIu64, state->end);
        state->end += state->sector_size * (1 + sectors);
    }
    return 0;
}

static weir_co_fn int open_old_log(struct blklogwrites_state *state, struct weir_error **err)
{
    struct log_super super;
    int ret = read_log(state->log, 0, &super, sizeof(super), err);

    if (ret)
        return ret;
    if (le64toh(super.magic) != LOG_MAGIC)
        return weir_error_set(err, -EINVAL, "Invalid log superblock magic");
    if (le64toh(super.version) != LOG_VERSION)
        return weir_error_set(err, -EINVAL, "Unsupported log version %" PRIu64, le64toh(super.version));
    state->sector_size = le32toh(super.sector_size);
    state->entries = state->super_entries = le64toh(super.entries);
    ret = check_sector_size(state->sector_size, err);
    return ret ? ret : find_end(state, err);
}

/* ---- life ---- */

static weir_co_fn int open_log(struct blklogwrites_state *state, const struct weir_opts_blklogwrites *opts,
                               struct weir_error **err)
{
    bool append = opts->has_log_append && opts->log_append;
    int ret = 0;

    if (append && opts->has_log_sector_size)
        return weir_error_set(err, -EINVAL, "log-append and log-sector-size are mutually exclusive");
    state->interval =
        opts->has_log_super_update_interval ? opts->log_super_update_interval : INTERVAL_DEFAULT;
    if (!state->interval)
        return weir_error_set(err, -EINVAL, "Invalid log superblock update interval %" PRIu64,
                              state->interval);
    state->sector_size = opts->has_log_sector_size ? opts->log_sector_size : SECTOR_MIN;
    ret = check_sector_size(state->sector_size, err);
    if (ret)
        return ret;
    state->end = state->sector_size;
    return append && weir_node_size(state->log->node) ? open_old_log(state, err) : 0;
}

static weir_co_fn int blklogwrites_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_blklogwrites *opts = options;
    struct blklogwrites_state *state = weir_node_state(node);
    const struct weir_node *file;
    int ret;

    ret = weir_node_open_child(node, opts->file, "file", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &state->file,
                               err);
    if (!ret)
        ret = weir_node_open_child(node, opts->log, "log", WEIR_ROLE_METADATA, &state->log, err);
    if (!ret)
        ret = open_log(state, opts, err);
    if (ret)
        return ret;
    file = state->file->node;
    if (weir_node_size(file) % state->sector_size && !file->limits.grows)
        return weir_error_set(err, -EINVAL,
                              "Size of node '%s' is not a multiple of the log sector size %" PRIu32,
                              file->name, state->sector_size);
    weir_co_mutex_init(&state->mutex);
    weir_node_set_size(node, weir_node_size(file));
    return 0;
}

static weir_co_fn void blklogwrites_close(struct weir_node *node)
{
    struct blklogwrites_state *state = weir_node_state(node);

    /* Nobody is left who could be told about a failure. */
    if (state->super_entries != state->entries)
        (void)write_super(state);
    weir_co_mutex_done(&state->mutex);
}

/* The log is no place that the guest's requests go to: its limits are its own. */
static void blklogwrites_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct blklogwrites_state *state = weir_node_state(node);
    const struct weir_limits *file = &state->file->node->limits;

    *limits = (struct weir_limits){
        .request_align = state->sector_size,
        .memory_align = 1,
        .iov_max = WEIR_IOV_MAX,
        .transfer_opt = file->transfer_opt,
        .grows = file->grows,
        .apart = true, /* what the guest has issued is what is logged */
        .write_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_UNCHANGED,
        .zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK,
    };
}

static unsigned blklogwrites_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | WEIR_OP_BIT(WEIR_OP_DISCARD) |
           WEIR_OP_BIT(WEIR_OP_FLUSH);
}

/* ---- requests ---- */

/* With which the core completes a write of less than a sector; the file may end within it. */
static weir_co_fn int read_sectors(struct blklogwrites_state *state, const struct weir_request *request)
{
    uint64_t size = weir_node_size(state->file->node);
    uint64_t length = request->offset < size ? WEIR_MIN(request->length, size - request->offset) : 0;
    struct weir_request inside = *request;
    struct weir_slice slice;
    int ret = 0;

    weir_iov_fill(request->iov, request->iovcnt, length, 0, request->length - length);
    weir_slice_init(&slice, request->iov, request->iovcnt, 0, length);
    inside.length = length;
    inside.iov = slice.iov;
    inside.iovcnt = slice.count;
    if (length)
        ret = weir_io(state->file, &inside);
    weir_slice_done(&slice);
    return ret;
}

static weir_co_fn int blklogwrites_submit(struct weir_node *node, struct weir_request *request)
{
    struct blklogwrites_state *state = weir_node_state(node);
    struct weir_stable stable;
    int ret;

    if (request->op == WEIR_OP_READ)
        return read_sectors(state, request);
    /* Copies of what is read already: they may be late, and replayed they would undo what is newer. */
    if (request->flags & WEIR_REQUEST_UNCHANGED)
        return weir_io(state->file, request);
    ret = weir_stable_init(&stable, request, false);
    if (!ret)
        ret = weir_io(state->file, &stable.request);
    if (!ret)
        ret = add_entry(state, &stable.request);
    weir_stable_done(&stable);
    return ret;
}

const struct weir_driver weir_driver_blklogwrites = {
    .name = "blklogwrites",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct blklogwrites_state),
    .options = &weir_schema_opts_blklogwrites,
    .open = blklogwrites_open,
    .close = blklogwrites_close,
    .limits = blklogwrites_limits,
    .cares = blklogwrites_cares,
    .submit = blklogwrites_submit,
};

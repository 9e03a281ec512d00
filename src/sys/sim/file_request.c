/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests on files: what the seed makes of one, and how it takes effect.
 *
 * The same path serves the ring, inline calls and workers; they differ in who waits. A request is in the world's
 * list from its begin to its end, so that a power cut finds it: what has not taken effect by then may still do.
 * Calls of the test itself (no current thread) meet no fault and take no time.
 */
#include "sys/sim/file.h"
#include "base/iov.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

/* ---- what is asked ---- */

static enum weir_sim_kind kind_of(const struct sim_request *request)
{
    switch (request->action) {
    case SIM_READ:
        return WEIR_SIM_READ;
    case SIM_WRITE:
        return WEIR_SIM_WRITE;
    case SIM_FLUSH:
        return WEIR_SIM_FLUSH;
    case SIM_CONTROL_CALL:
        return WEIR_SIM_CONTROL;
    default:
        return WEIR_SIM_ALLOCATE;
    }
}

static const struct weir_sim_faults *faults_of(const struct weir_sim_file *file, enum weir_sim_kind kind)
{
    return file->own_faults & (1u << kind) ? &file->faults[kind] : &sim_world->profile.io[kind];
}

static bool is_transfer(const struct sim_request *request)
{
    return request->action == SIM_READ || request->action == SIM_WRITE;
}

static int check_direct(const struct sim_request *request)
{
    const struct weir_sim_file_options *options = &request->file->options;

    if ((request->offset | request->length) & (options->logical_block - 1))
        return -EINVAL;
    for (unsigned i = 0; i < request->iovcnt; i++)
        if (((uintptr_t)request->iov[i].iov_base & (options->memory_align - 1)) ||
            (request->iov[i].iov_len & (options->logical_block - 1)))
            return -EINVAL;
    return 0;
}

static int check_fallocate(const struct sim_request *request)
{
    const struct weir_sim_file_options *options = &request->file->options;
    unsigned mode = request->flags & ~(unsigned)FALLOC_FL_KEEP_SIZE;
    bool keep = request->flags & FALLOC_FL_KEEP_SIZE;

    if (!request->length)
        return -EINVAL;
    if (mode == FALLOC_FL_PUNCH_HOLE   ? !keep || options->no_punch
        : mode == FALLOC_FL_ZERO_RANGE ? options->no_zero_range
                                       : mode != 0)
        return -EOPNOTSUPP;
    if (!options->block)
        return 0;
    if (!mode)
        return -EOPNOTSUPP;
    if ((request->offset | request->length) & (options->logical_block - 1) ||
        request->offset + request->length > sim_disk_size(request->file->disk))
        return -EINVAL;
    return 0;
}

static int check(const struct sim_request *request)
{
    const struct weir_sim_file_options *options = &request->file->options;
    int access = request->open ? request->open->flags & O_ACCMODE : O_RDWR;

    if (request->action == SIM_READ && access == O_WRONLY)
        return -EBADF;
    if (request->action != SIM_READ && request->action != SIM_FLUSH && request->action != SIM_CONTROL_CALL &&
        access == O_RDONLY)
        return -EBADF;
    switch (request->action) {
    case SIM_READ:
    case SIM_WRITE:
        return request->open->flags & O_DIRECT ? check_direct(request) : 0;
    case SIM_FALLOCATE:
        return check_fallocate(request);
    case SIM_TRUNCATE:
        return options->block ? -EINVAL : 0;
    case SIM_DISCARD:
    case SIM_ZERO_OUT:
        if (!options->block)
            return -ENOTTY;
        if (request->action == SIM_DISCARD && !options->discard_granularity)
            return -EOPNOTSUPP;
        if ((request->offset | request->length) & (options->logical_block - 1) ||
            request->offset + request->length > sim_disk_size(request->file->disk))
            return -EINVAL;
        return 0;
    default:
        return 0;
    }
}

/* ---- its fate ---- */

static bool is_bad(const struct sim_request *request, uint64_t *ret_before)
{
    const struct weir_sim_file *file = request->file;

    for (unsigned i = 0; i < file->bad_count; i++) {
        const struct sim_bad_range *bad = &file->bad[i];

        if ((request->action == SIM_READ ? bad->read : bad->write) &&
            request->offset < bad->offset + bad->length && bad->offset < request->offset + request->length) {
            *ret_before = bad->offset > request->offset ? bad->offset - request->offset : 0;
            return true;
        }
    }
    return false;
}

static void draw_error(struct sim_request *request, const struct weir_sim_faults *faults)
{
    uint64_t before = 0;

    if (request->action != SIM_FLUSH && request->action != SIM_CONTROL_CALL && is_bad(request, &before)) {
        request->error = -EIO;
        request->limit = before;
    } else if (sim_chance(SIM_FAULT, faults->eio_ppm)) {
        request->error = -EIO;
        /* A part of it may have landed. */
        request->limit = sim_below(SIM_FAULT, request->length / SIM_SECTOR + 1) * SIM_SECTOR;
    }
    /* Whole blocks only, where blocks are what the device writes. */
    if (request->error && request->open && (request->open->flags & O_DIRECT))
        request->limit = weir_align_down(request->limit, request->file->options.logical_block);
    sim_world->stats.eio += request->error != 0;
}

static void draw_short(struct sim_request *request, const struct weir_sim_faults *faults)
{
    bool whole = sim_world->profile.short_whole;
    uint64_t unit = request->open->flags & O_DIRECT    ? request->file->options.logical_block
                    : sim_below(SIM_FAULT, 2) || whole ? SIM_SECTOR
                                                       : 1;

    if (request->length <= unit)
        return;
    request->limit = unit * (1 + sim_below(SIM_FAULT, (request->length - 1) / unit));
    sim_world->stats.short_io++;
}

static void draw_fate(struct sim_request *request)
{
    enum weir_sim_kind kind = kind_of(request);
    const struct weir_sim_faults *faults = faults_of(request->file, kind);
    bool nowait = is_transfer(request) && (request->flags & RWF_NOWAIT);

    request->limit = request->length;
    if (!sim_world->current)
        return;
    request->latency = sim_latency(SIM_DISK, &faults->latency);
    draw_error(request, faults);
    if (!nowait && ((request->file->stick & (1u << kind)) || sim_chance(SIM_FAULT, faults->stuck_ppm)))
        request->stuck = true;
    if (!is_transfer(request))
        return;
    if (!request->error && sim_chance(SIM_FAULT, faults->short_ppm))
        draw_short(request, faults);
    if (request->length > SIM_SECTOR && sim_chance(SIM_DISK, sim_world->profile.two_step_ppm)) {
        request->first = SIM_SECTOR * (1 + sim_below(SIM_DISK, (request->length - 1) / SIM_SECTOR));
        sim_world->stats.torn++;
    }
}

static int draw_nowait(const struct sim_request *request)
{
    bool cached = !sim_world->current || (!(request->file->stick & (1u << kind_of(request))) &&
                                          sim_chance(SIM_DISK, sim_world->profile.nowait_ppm));

    if (request->file->options.no_nowait)
        return -EOPNOTSUPP;
    sim_world->stats.nowait_ok += cached;
    sim_world->stats.nowait_again += !cached;
    return cached ? 0 : -EAGAIN;
}

/* ---- taking effect ---- */

/* Copies from the disk to the request's vector. */
static void transfer_read(struct sim_request *request, uint64_t upto)
{
    uint64_t skip = 0;

    for (unsigned i = 0; i < request->iovcnt && request->moved < upto; i++) {
        uint64_t length = request->iov[i].iov_len, from = request->moved - skip;

        if (request->moved < skip + length) {
            uint64_t part = WEIR_MIN(length - from, upto - request->moved);

            sim_disk_read(request->file->disk, request->offset + request->moved,
                          (char *)request->iov[i].iov_base + from, part);
            request->moved += part;
        }
        skip += length;
    }
}

/* In one piece: where the vector's elements end in the middle of a sector must not show after a power cut. */
static void transfer_write(struct sim_request *request, uint64_t upto)
{
    uint64_t length = upto - request->moved;
    weir_autofree char *bytes = weir_alloc(length);

    weir_iov_to_buffer(request->iov, request->iovcnt, request->moved, bytes, length);
    sim_disk_write(request->file->disk, request->change, request->offset + request->moved, bytes, length);
    request->moved = upto;
}

static void transfer(struct sim_request *request, uint64_t upto)
{
    if (request->action == SIM_READ)
        transfer_read(request, upto);
    else if (upto > request->moved)
        transfer_write(request, upto);
}

static uint64_t room(const struct weir_sim_file *file)
{
    uint64_t allocated = sim_disk_allocated(file->disk);

    return file->budget > allocated ? file->budget - allocated : 0;
}

/* Cuts a write to what there is space for. */
static void limit_write(struct sim_request *request)
{
    struct weir_sim_file *file = request->file;
    uint64_t at = request->offset + request->moved, size = sim_disk_size(file->disk);
    uint64_t fits = request->limit - request->moved;

    if (file->options.block)
        fits = WEIR_MIN(fits, size > at ? size - at : 0);
    else if (file->budget != UINT64_MAX)
        fits = sim_disk_fits(file->disk, at, fits, room(file));
    if (request->moved + fits == request->limit)
        return;
    /* Whole blocks from its begin; a first step may have ended inside of one. */
    if (request->open->flags & O_DIRECT)
        fits -= WEIR_MIN(fits, (request->moved + fits) % file->options.logical_block);
    request->limit = request->moved + fits;
    if (!request->limit && !request->error)
        request->error = -ENOSPC;
    sim_world->stats.enospc++;
}

void sim_request_apply(struct sim_request *request, uint64_t upto)
{
    uint64_t size = sim_disk_size(request->file->disk);

    if (request->action == SIM_READ)
        request->limit = WEIR_MIN(request->limit, size > request->offset ? size - request->offset : 0);
    else if (request->moved < request->limit)
        limit_write(request);
    transfer(request, WEIR_MIN(upto, request->limit));
}

static void zero_or_allocate(struct sim_request *request, bool zero)
{
    struct sim_disk *disk = request->file->disk;
    uint64_t size = sim_disk_size(disk), end = request->offset + request->length;
    bool keep = request->file->options.block || (request->flags & FALLOC_FL_KEEP_SIZE);
    uint64_t length;

    if (keep)
        end = WEIR_MIN(end, size);
    length = end > request->offset ? end - request->offset : 0;
    if (request->file->budget != UINT64_MAX &&
        sim_disk_fits(disk, request->offset, length, room(request->file)) < length) {
        request->error = -ENOSPC;
        sim_world->stats.enospc++;
        return;
    }
    if (end > size)
        sim_disk_resize(disk, request->change, end);
    if (zero)
        sim_disk_zero(disk, request->change, request->offset, length, true);
    else
        sim_disk_allocate(disk, request->change, request->offset, length);
}

static void give_up(struct sim_request *request, bool garbage)
{
    struct sim_disk *disk = request->file->disk;
    uint64_t last = weir_align_up(sim_disk_size(disk), SIM_PAGE);
    uint64_t end = WEIR_MIN(request->offset + request->length, last);
    uint8_t bytes[SIM_SECTOR];

    if (end <= request->offset)
        return;
    sim_disk_zero(disk, request->change, request->offset, end - request->offset, false);
    memset(bytes, 0xdd, sizeof(bytes));
    for (uint64_t at = request->offset; garbage && at < end; at += SIM_SECTOR)
        sim_disk_write(disk, request->change, at, bytes, SIM_SECTOR);
}

static void apply_other(struct sim_request *request)
{
    switch (request->action) {
    case SIM_FALLOCATE:
        if (request->flags & FALLOC_FL_PUNCH_HOLE)
            give_up(request, false);
        else
            zero_or_allocate(request, request->flags & FALLOC_FL_ZERO_RANGE);
        break;
    case SIM_TRUNCATE:
        sim_disk_resize(request->file->disk, request->change, request->offset);
        break;
    case SIM_DISCARD:
        give_up(request, request->file->options.discard_garbage);
        break;
    case SIM_ZERO_OUT:
        zero_or_allocate(request, true);
        break;
    default:
        break;
    }
}

static void flush(struct sim_request *request)
{
    struct weir_sim_file *file = request->file;

    if (file->flush_broken)
        request->error = -EIO;
    else if (request->error)
        sim_disk_lose(file->disk, request->serial, sim_world->profile.flush_lose_ppm);
    else
        sim_disk_flush(file->disk, request->serial);
    sim_world->stats.flushes++;
    sim_world->stats.failed_flushes += request->error != 0;
    file->flush_broken |= request->error && sim_world->profile.flush_sticky;
}

/* ---- from begin to end ---- */

int64_t sim_request_begin(struct sim_request *request)
{
    int result;

    if (is_transfer(request))
        request->length = weir_iov_length(request->iov, request->iovcnt);
    result = check(request);
    if (!result && is_transfer(request) && (request->flags & RWF_NOWAIT))
        result = draw_nowait(request);
    if (result || (is_transfer(request) && !request->length))
        return result;
    draw_fate(request);
    request->serial = sim_world->io_serial;
    if (request->action != SIM_READ && request->action != SIM_FLUSH && request->action != SIM_CONTROL_CALL)
        request->change = sim_change_new();
    TAILQ_INSERT_TAIL(&sim_world->requests, request, link);
    return 1;
}

void sim_request_abandon(struct sim_request *request)
{
    TAILQ_REMOVE(&sim_world->requests, request, link);
    if (request->change)
        sim_change_forget(weir_steal(&request->change));
}

static void complete(struct sim_request *request)
{
    struct weir_sim_file *file = request->file;
    struct sim_change *change = weir_steal(&request->change);
    bool sync = request->open && (request->open->flags & O_DSYNC);

    TAILQ_REMOVE(&sim_world->requests, request, link);
    if (!change)
        return;
    if (request->action == SIM_WRITE && !request->error && (sync || (request->flags & RWF_DSYNC)))
        sim_disk_settle(file->disk, change, request->offset, request->moved);
    sim_change_complete(change, ++sim_world->io_serial);
}

int64_t sim_request_finish(struct sim_request *request)
{
    uint64_t sample = 0;
    int64_t result;

    if (is_transfer(request))
        sim_request_apply(request, request->length);
    else if (request->action == SIM_FLUSH)
        flush(request);
    else if (!request->error || sim_below(SIM_FAULT, 2))
        apply_other(request);
    complete(request);
    result = request->error ? request->error : (int64_t)request->moved;
    sim_world->stats.operations += request->action != SIM_CONTROL_CALL;
    if (request->moved)
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, &sample,
                           WEIR_MIN(request->moved, sizeof(sample)));
    sim_trace("file", ((uint64_t)request->file->id << 32) | request->action, request->offset,
              (uint64_t)result);
    sim_trace("bytes", sample, request->length, request->flags);
    return result;
}

void sim_request_stick(struct sim_request *request, void (*release)(struct sim_request *request),
                       void *waiter)
{
    request->release = release;
    request->waiter = waiter;
    TAILQ_INSERT_TAIL(&request->file->stuck, request, stuck_link);
    request->file->stuck_count++;
    sim_world->stats.stuck++;
    sim_trace("stuck", request->file->id, request->action, request->offset);
}

static void wake_waiter(struct sim_request *request)
{
    sim_wake(request->waiter);
}

int64_t sim_request_call(struct sim_request *request, bool at_once)
{
    int64_t first, result = sim_request_begin(request);
    struct sim_thread *self = sim_world->current;

    if (result != 1)
        return result;
    if (!self)
        return sim_request_finish(request);
    if (!at_once) {
        sim_world->stats.loop_blocked += self->has_loop;
        first = (int64_t)sim_below(SIM_DISK, (uint64_t)request->latency + 1);
        sim_spend(first);
        if (request->first)
            sim_request_apply(request, request->first);
        sim_spend(request->latency - first);
    }
    if (request->stuck)
        sim_request_stick(request, wake_waiter, self);
    while (request->stuck)
        sim_block();
    return sim_request_finish(request);
}

int sim_file_control(struct weir_sim_file *file, struct sim_open *open)
{
    struct sim_request request = { .file = file, .open = open, .action = SIM_CONTROL_CALL };

    return (int)sim_request_call(&request, false);
}

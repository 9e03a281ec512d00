/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library's calls on files: by descriptor, by name, and those of a loop's ring.
 */
#include "sys/sim/file.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <string.h>

/* ---- the ring ---- */

static void ring_end(struct sim_io *op, int64_t result)
{
    free(weir_steal(&op->request));
    sim_io_end(op, (int)result);
}

static void ring_finish(struct sim_event *event)
{
    struct sim_io *op = weir_container_of(event, struct sim_io, event);

    ring_end(op, sim_request_finish(op->request));
}

static void ring_first_step(struct sim_event *event)
{
    struct sim_io *op = weir_container_of(event, struct sim_io, event);
    struct sim_request *request = op->request;

    sim_request_apply(request, request->first);
    sim_event_at(&op->event, sim_world->now + request->latency, ring_finish);
}

static void ring_released(struct sim_request *request)
{
    struct sim_io *op = request->waiter;

    sim_event_at(&op->event, sim_world->now + request->latency, ring_finish);
}

static void ring_cancel(struct sim_io *op)
{
    /* Once the disk has it, it may be too late; what is stuck cannot be called back at all. */
    if (op->request->stuck || !sim_chance(SIM_DISK, sim_world->profile.cancel_ppm))
        return;
    sim_event_cancel(&op->event);
    sim_world->stats.cancelled++;
    sim_request_abandon(op->request);
    ring_end(op, -ECANCELED);
}

static void ring_fill(struct sim_io *op, struct sim_request *request)
{
    static const enum sim_action actions[] = {
        [WEIR_SYS_READ] = SIM_READ,
        [WEIR_SYS_WRITE] = SIM_WRITE,
        [WEIR_SYS_FSYNC] = SIM_FLUSH,
        [WEIR_SYS_FALLOCATE] = SIM_FALLOCATE,
    };
    const struct weir_sys_io *io = op->io;

    request->file = op->open->file;
    request->open = op->open;
    request->action = actions[io->op];
    request->flags = io->flags;
    request->offset = io->offset;
    request->length = io->length;
    request->iov = io->iov;
    request->iovcnt = io->iovcnt;
}

void sim_file_io_start(struct sim_io *op)
{
    struct sim_request *request;
    int64_t result, first;

    if (op->io->op > WEIR_SYS_FALLOCATE) {
        /* A file is always ready for poll(2), and no socket. */
        sim_io_end(op, op->io->op == WEIR_SYS_POLL ? (int)op->io->flags : -ENOTSOCK);
        return;
    }
    op->request = request = weir_new(struct sim_request);
    ring_fill(op, request);
    result = sim_request_begin(request);
    if (result != 1) {
        ring_end(op, result);
        return;
    }
    op->cancel = ring_cancel;
    if (request->stuck) {
        sim_request_stick(request, ring_released, op);
        return;
    }
    if (!request->first) {
        sim_event_at(&op->event, sim_world->now + request->latency, ring_finish);
        return;
    }
    first = (int64_t)sim_below(SIM_DISK, (uint64_t)request->latency + 1);
    request->latency -= first;
    sim_event_at(&op->event, sim_world->now + first, ring_first_step);
}

/* ---- by name ---- */

static int open_flags_check(const struct weir_sim_file *file, int flags)
{
    if ((flags & (O_CREAT | O_EXCL)) == (O_CREAT | O_EXCL))
        return -EEXIST;
    if (flags & O_DIRECTORY)
        return -ENOTDIR;
    if (file->options.read_only && (flags & O_ACCMODE) != O_RDONLY)
        return -EACCES;
    if (file->options.no_direct && (flags & O_DIRECT))
        return -EINVAL;
    return 0;
}

static int truncate_call(struct weir_sim_file *file, struct sim_open *open, uint64_t size)
{
    struct sim_request request = { .file = file, .open = open, .action = SIM_TRUNCATE, .offset = size };

    return (int)sim_request_call(&request, false);
}

int sim_file_open(const char *path, int flags, unsigned mode)
{
    struct weir_sim_file *file = weir_sim_file_find(path);
    struct sim_open *open;
    int result = 0;

    sim_preempt();
    if (!file && !(flags & O_CREAT))
        return -ENOENT;
    if (!file)
        file = weir_sim_file_new(path, NULL);
    else
        result = open_flags_check(file, flags);
    if (!result)
        result = sim_file_control(file, NULL);
    if (!result && (flags & O_TRUNC) && !file->options.block)
        result = truncate_call(file, NULL, 0);
    if (result)
        return result;
    open = sim_open_new(SIM_OPEN_FILE);
    open->file = file;
    open->flags = flags;
    file->flush_broken = false;
    result = sim_descriptor_new(open);
    sim_trace("open", file->id, (uint64_t)result, (uint64_t)flags);
    return result;
}

int sim_file_unlink(const char *path)
{
    struct weir_sim_file *file = weir_sim_file_find(path);
    int result = file ? sim_file_control(file, NULL) : -ENOENT;

    if (!result && file->name && strcmp(file->name, path) == 0)
        free(weir_steal(&file->name));
    return result;
}

int sim_file_rename(const char *from, const char *to)
{
    struct weir_sim_file *file = weir_sim_file_find(from), *old;
    int result = file ? sim_file_control(file, NULL) : -ENOENT;

    /* The call took time: somebody else may have renamed it. */
    file = weir_sim_file_find(from);
    if (!result && !file)
        result = -ENOENT;
    if (result)
        return result;
    old = weir_sim_file_find(to);
    if (old == file)
        return 0;
    if (old)
        free(weir_steal(&old->name));
    free(file->name);
    file->name = weir_strdup(to);
    return 0;
}

/* ---- by descriptor ---- */

static struct sim_open *file_open(int fd)
{
    struct sim_open *open = sim_descriptor(fd);

    return open && open->type == SIM_OPEN_FILE ? open : NULL;
}

/* Holds the description while the call lasts: another thread may close the descriptor. */
static int64_t call(struct sim_request *request, int fd, bool at_once)
{
    struct sim_open *open;
    int64_t result;

    sim_preempt();
    open = file_open(fd);
    if (!open)
        return -EBADF;
    request->open = sim_open_ref(open);
    request->file = open->file;
    result = sim_request_call(request, at_once);
    sim_open_unref(open);
    return result;
}

void sim_file_close(int fd)
{
    struct sim_open *open = file_open(fd);

    WEIR_ASSERT(open);
    if (sim_world->current && sim_world->current->has_loop)
        sim_world->stats.loop_blocked++;
    sim_locks_drop(open->file, open);
    sim_trace("close", open->file->id, (uint64_t)fd, 0);
    sim_descriptor_close(fd);
    sim_preempt();
}

void sim_file_forget(struct sim_open *open)
{
    sim_locks_drop(open->file, open);
}

/* The file of @fd, after the time that a call takes; files live as long as the world. */
static int control(int fd, struct weir_sim_file **ret_file)
{
    struct sim_request request = { .action = SIM_CONTROL_CALL };
    int result = (int)call(&request, fd, false);

    *ret_file = request.file;
    return result;
}

int sim_file_stat(int fd, struct weir_sys_stat *ret_stat)
{
    const struct weir_sim_file_options *options;
    struct weir_sim_file *file;
    int result = control(fd, &file);

    if (result)
        return result;
    options = &file->options;
    memset(ret_stat, 0, sizeof(*ret_stat));
    ret_stat->type = options->block ? WEIR_SYS_FILE_BLOCK : WEIR_SYS_FILE_REGULAR;
    ret_stat->size = sim_disk_size(file->disk);
    ret_stat->allocated = options->block ? 0 : sim_disk_allocated(file->disk);
    ret_stat->device = 1;
    ret_stat->inode = file->id;
    ret_stat->logical_block = options->logical_block;
    ret_stat->memory_align = options->memory_align;
    ret_stat->discard_granularity = options->discard_granularity;
    ret_stat->fs_magic = file->options.remote ? NFS_SUPER_MAGIC : EXT4_SUPER_MAGIC;
    ret_stat->read_only = options->block && options->read_only;
    return 0;
}

int sim_file_truncate(int fd, uint64_t size)
{
    struct sim_request request = { .action = SIM_TRUNCATE, .offset = size };

    return (int)call(&request, fd, false);
}

int sim_file_fallocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    struct sim_request request = {
        .action = SIM_FALLOCATE, .flags = (unsigned)mode, .offset = offset, .length = length
    };

    return (int)call(&request, fd, false);
}

int sim_file_fsync(int fd, bool data_only)
{
    struct sim_request request = { .action = SIM_FLUSH };

    return (int)call(&request, fd, false);
}

static ssize_t transfer_call(enum sim_action action, int fd, const struct iovec *iov, unsigned iovcnt,
                             uint64_t offset, int flags, bool at_once)
{
    struct sim_request request = {
        .action = action, .flags = (unsigned)flags, .iov = iov, .iovcnt = iovcnt, .offset = offset
    };

    return (ssize_t)call(&request, fd, at_once);
}

ssize_t sim_file_pread(int fd, void *buffer, size_t length, uint64_t offset)
{
    struct iovec iov = { buffer, length };

    return transfer_call(SIM_READ, fd, &iov, 1, offset, 0, false);
}

ssize_t sim_file_pwrite(int fd, const void *buffer, size_t length, uint64_t offset)
{
    struct iovec iov = { (void *)(uintptr_t)buffer, length };

    return transfer_call(SIM_WRITE, fd, &iov, 1, offset, 0, false);
}

ssize_t sim_file_preadv(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    return transfer_call(SIM_READ, fd, iov, iovcnt, offset, flags, true);
}

ssize_t sim_file_pwritev(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    return transfer_call(SIM_WRITE, fd, iov, iovcnt, offset, flags, true);
}

int sim_file_extent(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end)
{
    struct weir_sim_file *file;
    int result = control(fd, &file);

    if (result)
        return result;
    if (file->options.no_extents)
        return -EOPNOTSUPP;
    if (offset >= sim_disk_size(file->disk))
        return -ENXIO;
    *ret_data = sim_disk_extent(file->disk, offset, ret_end);
    if (most && *ret_data)
        *ret_end = WEIR_MIN(*ret_end, offset + most);
    return 0;
}

int sim_file_discard(int fd, uint64_t offset, uint64_t length)
{
    struct sim_request request = { .action = SIM_DISCARD, .offset = offset, .length = length };

    return (int)call(&request, fd, false);
}

int sim_file_zero_out(int fd, uint64_t offset, uint64_t length)
{
    struct sim_request request = { .action = SIM_ZERO_OUT, .offset = offset, .length = length };

    return (int)call(&request, fd, false);
}

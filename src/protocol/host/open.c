/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Life of a file node: open, close, size.
 *
 * One job on a worker opens the file, looks at it and finds out whether RWF_NOWAIT works; if it takes
 * longer than WEIR_OPEN_LIMIT_NS the command fails naming the file, and the job cleans up after itself
 * whenever it ends. The size of a node is that of the file rounded up to 512 bytes, as other tools have it;
 * what lies beyond the end of the file reads as zero.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include "io/request.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>

#define SECTOR 512u
/* Linux moves no more than this in one call. */
#define TRANSFER_MAX ((uint64_t)1 << 30)
#define LIMIT_SECONDS ((int)(WEIR_OPEN_LIMIT_NS / 1000000000))

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

/* File systems on storage of this machine, whose calls do not wait for another machine or program. */
static const uint64_t local_magics[] = { EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, TMPFS_MAGIC };

struct open_job {
    char *path;
    int flags;
    int result; /* of open or stat */
    struct weir_host_fd *fd;
    struct weir_sys_stat stat;
    bool special; /* neither a file nor a device: not opened */
    bool nowait;  /* reads understand RWF_NOWAIT */
};

static void open_job_free(void *arg)
{
    struct open_job *job = arg;

    weir_host_fd_unref(job->fd);
    free(job->path);
    free(job);
}

/* Opening a FIFO waits for its other end: look before. What cannot be looked at so is found out by opening. */
static bool is_special(const char *path)
{
    struct weir_sys_stat stat;
    int fd = weir_sys->file.open(path, O_PATH, 0);
    int ret;

    if (fd < 0)
        return false;
    ret = weir_sys->file.stat(fd, &stat);
    weir_sys->file.close(fd);
    return ret >= 0 && stat.type == WEIR_SYS_FILE_OTHER;
}

/* Always 0: -ETIMEDOUT must mean that the job was left behind. */
static int open_job_run(void *arg)
{
    struct open_job *job = arg;
    char byte[1];
    struct iovec iov = { byte, sizeof(byte) };
    ssize_t got;

    job->stat.type = WEIR_SYS_FILE_OTHER;
    job->special = is_special(job->path);
    if (job->special)
        return 0;
    job->result = weir_sys->file.open(job->path, job->flags, 0);
    if (job->result < 0)
        return 0;
    job->fd = weir_host_fd_new(job->result);
    job->result = weir_sys->file.stat(job->fd->fd, &job->stat);
    if (job->result < 0 || (job->flags & O_DIRECT))
        return 0;
    got = weir_sys->file.preadv(job->fd->fd, &iov, 1, 0, RWF_NOWAIT);
    job->nowait = got >= 0 || got == -EAGAIN;
    return 0;
}

static int open_error(const char *path, int flags, int ret, struct weir_error **err)
{
    if (ret == -EINVAL && (flags & O_DIRECT))
        return weir_error_set(err, ret, "Could not open '%s': the file system does not support O_DIRECT",
                              path);
    return weir_error_set_errno(err, ret, "Could not open '%s'", path);
}

/* Runs the job; on success the caller owns *ret_job, and job->fd is open. */
static weir_co_fn int run_open(const char *path, int flags, struct open_job **ret_job,
                               struct weir_error **err)
{
    struct open_job *job = weir_new(struct open_job);
    int ret;

    job->path = weir_strdup(path);
    job->flags = flags;
    ret = weir_co_work_until(open_job_run, open_job_free, job, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS);
    if (ret == -ETIMEDOUT)
        return weir_error_set(err, ret, "Could not open '%s': no answer within %d seconds", path,
                              LIMIT_SECONDS);
    if (job->result < 0) {
        ret = open_error(path, flags, job->result, err);
        open_job_free(job);
        return ret;
    }
    *ret_job = job;
    return 0;
}

/* The node's file, not another one that has its name now. */
static weir_co_fn int open_same(struct weir_host_file *host, int flags, const char *how,
                                struct open_job **ret_job, struct weir_error **err)
{
    struct open_job *job;
    int ret = run_open(host->path, flags | (host->direct ? O_DIRECT : 0), &job, err);

    if (ret < 0)
        return ret;
    if (job->stat.device != host->device || job->stat.inode != host->inode) {
        open_job_free(job);
        return weir_error_set(err, -ESTALE, "Could not open '%s'%s: another file has this name now",
                              host->path, how);
    }
    *ret_job = job;
    return 0;
}

int weir_host_open_for_writing(struct weir_host_file *host, struct weir_host_fd **ret_fd,
                               struct weir_error **err)
{
    struct open_job *job;
    int ret = open_same(host, O_RDWR, " for writing", &job, err);

    if (ret < 0)
        return ret;
    *ret_fd = weir_steal(&job->fd);
    open_job_free(job);
    return 0;
}

static int check_type(const struct weir_host_options *options, enum weir_sys_file_type type,
                      struct weir_error **err)
{
    if (options->device && type != WEIR_SYS_FILE_BLOCK && type != WEIR_SYS_FILE_CHAR)
        return weir_error_set(err, -EINVAL,
                              "'%s' driver requires '%s' to be either a character or block device",
                              options->driver, options->path);
    if (!options->device && type != WEIR_SYS_FILE_REGULAR)
        return weir_error_set(err, -EINVAL, "'%s' driver requires '%s' to be a regular file", options->driver,
                              options->path);
    return 0;
}

static bool is_local(const struct weir_sys_stat *stat)
{
    if (stat->type != WEIR_SYS_FILE_REGULAR)
        return false;
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(local_magics); i++) {
        if (stat->fs_magic == local_magics[i])
            return true;
    }
    return false;
}

/* How transfers of one direction start; see io.c for how they change. */
static enum weir_host_inline first_way(const struct weir_host_file *host, bool nowait)
{
    if (host->direct)
        return WEIR_HOST_NEVER;
    if (nowait)
        return WEIR_HOST_NOWAIT;
    return host->local && host->aio != WEIR_HOST_AIO_IO_URING ? WEIR_HOST_PLAIN : WEIR_HOST_NEVER;
}

static void set_ways(struct weir_host_file *host, bool nowait)
{
    enum weir_host_inline how = first_way(host, nowait);

    atomic_store(&host->reading.how, how);
    atomic_store(&host->writing.how, how == WEIR_HOST_NOWAIT ? WEIR_HOST_UNTRIED : how);
}

int weir_host_open_again(struct weir_host_file *host, bool writable, struct weir_host_fd **ret_fd,
                         struct weir_error **err)
{
    struct open_job *job;
    int ret = open_same(host, writable ? O_RDWR : O_RDONLY, "", &job, err);

    if (ret < 0)
        return ret;
    set_ways(host, job->nowait);
    *ret_fd = weir_steal(&job->fd);
    open_job_free(job);
    return 0;
}

int weir_host_aio_error(struct weir_error **err)
{
    return weir_error_set(err, -EINVAL,
                          "aio=native was specified, but it requires cache.direct=on, "
                          "which was not specified.");
}

static void take_over(struct weir_host_file *host, struct open_job *job)
{
    host->fd = weir_steal(&job->fd);
    host->type = job->stat.type;
    host->device = job->stat.device;
    host->inode = job->stat.inode;
    host->logical_block = WEIR_MAX(job->stat.logical_block, 1u);
    host->memory_align = WEIR_MAX(job->stat.memory_align, 1u);
    host->discard_granularity = job->stat.discard_granularity;
    host->local = is_local(&job->stat);
    host->reserves = host->local && job->stat.fs_magic == EXT4_SUPER_MAGIC;
    host->slow_holes = job->stat.fs_magic == TMPFS_MAGIC;
    set_ways(host, job->nowait);
}

static weir_co_fn int open_file(struct weir_node *node, const struct weir_host_options *options,
                                struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    bool writable = !node->read_only_asked && !node->auto_read_only;
    int flags = (writable ? O_RDWR : O_RDONLY) | (host->direct ? O_DIRECT : 0);
    struct open_job *job;
    uint64_t size;
    int ret;

    ret = run_open(options->path, flags, &job, err);
    if (ret < 0)
        return ret;
    ret = check_type(options, job->stat.type, err);
    if (!ret && writable && job->stat.read_only)
        ret = weir_error_set(err, -EROFS, "Could not open '%s': the device is read-only", options->path);
    if (ret < 0) {
        open_job_free(job);
        return ret;
    }
    size = weir_align_up(job->stat.size, SECTOR);
    atomic_store(&host->length_min, job->stat.size);
    take_over(host, job);
    open_job_free(job);
    host->dynamic = node->auto_read_only && !node->read_only_asked;
    host->fd_writable = writable;
    if (writable)
        host->write_fd = weir_host_fd_ref(host->fd);
    weir_node_set_size(node, size);
    return 0;
}

int weir_host_open(struct weir_node *node, const struct weir_host_options *options, struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    int ret;

    host->direct = node->cache_direct;
    host->no_flush = node->cache_no_flush;
    host->aio = options->aio;
    host->locking = options->locking;
    if (host->aio == WEIR_HOST_AIO_NATIVE && !host->direct)
        return weir_host_aio_error(err);
    weir_mutex_init(&host->write_mutex);
    weir_mutex_init(&host->calls_mutex);
    weir_co_queue_init(&host->calls_queue);
    host->path = weir_strdup(options->path);
    ret = open_file(node, options, err);
    if (ret < 0) {
        weir_mutex_done(&host->write_mutex);
        weir_mutex_done(&host->calls_mutex);
        free(weir_steal(&host->path));
    }
    return ret;
}

void weir_host_close(struct weir_node *node)
{
    struct weir_host_file *host = weir_node_state(node);

    weir_host_fd_unref_wait(weir_steal(&host->write_fd));
    weir_host_fd_unref_wait(weir_steal(&host->keeper));
    weir_host_fd_unref_wait(weir_steal(&host->fd));
    weir_mutex_done(&host->write_mutex);
    weir_mutex_done(&host->calls_mutex);
    free(weir_steal(&host->path));
}

void weir_host_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct weir_host_file *host = weir_node_state(node);
    bool device = host->type != WEIR_SYS_FILE_REGULAR;

    limits->request_align = host->direct ? host->logical_block : 1;
    limits->memory_align = host->direct ? host->memory_align : 1;
    limits->transfer_max = TRANSFER_MAX;
    limits->grows = !device;
    limits->iov_max = 1024;
    if (device)
        limits->zero_align = host->logical_block;
    limits->discard_align =
        device ? WEIR_MAX(host->discard_granularity, host->logical_block) : host->discard_granularity;
    limits->write_flags = WEIR_REQUEST_FUA;
    limits->zero_flags = WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

const char *weir_host_filename(struct weir_node *node)
{
    return ((struct weir_host_file *)weir_node_state(node))->path;
}

/* How long a query waits for the host. */
#define ASK_LIMIT_NS (30 * 1000000LL)

/* ---- what takes a descriptor and may hang ---- */

struct fd_job {
    struct weir_host_fd *fd;
    uint64_t size;
    int64_t result;
};

static void fd_job_free(void *arg)
{
    struct fd_job *job = arg;

    weir_host_fd_unref(job->fd);
    free(job);
}

/* 0 and *ret_result (a value or -errno) when the call ended in time; else -ETIMEDOUT. */
static weir_co_fn int fd_job_do(struct weir_host_fd *fd, int (*run)(void *arg), uint64_t size,
                                int64_t limit_ns, int64_t *ret_result)
{
    struct fd_job *job = weir_new(struct fd_job);
    int ret;

    job->fd = weir_host_fd_ref(fd);
    job->size = size;
    ret = weir_co_work_until(run, fd_job_free, job, weir_sys->clock_ns() + limit_ns);
    if (ret == -ETIMEDOUT)
        return ret;
    *ret_result = job->result;
    fd_job_free(job);
    return 0;
}

static int run_allocated(void *arg)
{
    struct fd_job *job = arg;
    struct weir_sys_stat stat;
    int ret = weir_sys->file.stat(job->fd->fd, &stat);

    job->result = ret < 0 ? ret : (int64_t)stat.allocated;
    atomic_store(&job->fd->asking, false);
    return 0;
}

int64_t weir_host_allocated_size(struct weir_node *node)
{
    struct weir_host_file *host = weir_node_state(node);
    int64_t result = 0;
    int ret;

    if (host->type != WEIR_SYS_FILE_REGULAR)
        return -ENOTSUP;
    /* For queries only: who asks is not made to wait for a file system that hangs, nor to pile up calls in it. */
    if (atomic_exchange(&host->fd->asking, true))
        return -EBUSY;
    ret = fd_job_do(host->fd, run_allocated, 0, ASK_LIMIT_NS, &result);
    return ret < 0 ? ret : result;
}

static int run_truncate(void *arg)
{
    struct fd_job *job = arg;

    job->result = weir_sys->file.truncate(job->fd->fd, job->size);
    return 0;
}

static int run_size(void *arg)
{
    struct fd_job *job = arg;
    struct weir_sys_stat stat;
    int ret = weir_sys->file.stat(job->fd->fd, &stat);

    job->result = ret < 0 ? ret : (int64_t)stat.size;
    return 0;
}

/* A device has the size it has: what may change is how much of it we know. */
static weir_co_fn int resize_device(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    int64_t now = 0;
    int ret = fd_job_do(host->fd, run_size, 0, WEIR_OPEN_LIMIT_NS, &now);

    if (ret < 0 || now < 0)
        return weir_error_set_errno(err, ret < 0 ? ret : (int)now, "Could not get the size of '%s'",
                                    host->path);
    if (size > (uint64_t)now)
        return weir_error_set(err, -EINVAL, "Cannot grow device files");
    weir_node_set_size(node, size);
    return 0;
}

int weir_host_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    struct weir_host_fd *fd;
    int64_t result = 0;
    int ret;

    if (host->type != WEIR_SYS_FILE_REGULAR)
        return resize_device(node, size, err);
    if (size > INT64_MAX - SECTOR)
        return weir_error_set_errno(err, -EFBIG, "Failed to resize the file '%s'", host->path);
    fd = weir_host_write_get(host);
    if (!fd)
        return weir_error_set(err, -EACCES, "Image is read-only");
    if (size < atomic_load(&host->length_min))
        atomic_store(&host->length_min, size);
    ret = fd_job_do(fd, run_truncate, size, WEIR_OPEN_LIMIT_NS, &result);
    weir_host_write_put(host, fd);
    if (ret < 0)
        return weir_error_set(err, ret, "Failed to resize the file '%s': no answer within %d seconds",
                              host->path, LIMIT_SECONDS);
    if (result < 0)
        return weir_error_set_errno(err, (int)result, "Failed to resize the file '%s'", host->path);
    atomic_store(&host->length_min, size);
    weir_node_set_size(node, weir_align_up(size, SECTOR));
    return 0;
}

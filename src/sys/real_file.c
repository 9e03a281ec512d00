/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files and block devices: thin covers over the system calls. Calls that a signal interrupts are made again; every
 * other error comes back as it is. Nothing here locks or keeps state.
 */
#include "sys/real.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* What is assumed of O_DIRECT where the kernel does not say. */
#define LOGICAL_BLOCK_DEFAULT 512
#define MEMORY_ALIGN_DEFAULT 4096

int weir_real_file_open(const char *path, int flags, unsigned mode)
{
    return WEIR_REAL_RETRY(open(path, flags | O_CLOEXEC, mode));
}

void weir_real_file_close(int fd)
{
    /* Never again on EINTR: Linux has freed the descriptor by then. Errors of write-back are fsync()'s to report. */
    (void)close(fd);
}

/* ---- stat ---- */

/* The number that the file @name of the queue of a block device holds; 0 where there is none. */
static uint32_t queue_limit(unsigned device_major, unsigned device_minor, const char *name)
{
    /* A partition has no queue of its own: that of the disk is one level up. */
    static const char *const paths[] = { "/sys/dev/block/%u:%u/queue/%s",
                                         "/sys/dev/block/%u:%u/../queue/%s" };
    char path[128];
    unsigned value = 0;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(paths); i++) {
        FILE *file;
        bool found;

        (void)snprintf(path, sizeof(path), i ? paths[1] : paths[0], device_major, device_minor, name);
        file = fopen(path, "re");
        if (!file)
            continue;
        found = fscanf(file, "%u", &value) == 1;
        (void)fclose(file); /* it was only read */
        if (found)
            return value;
    }
    return 0;
}

static int stat_block(int fd, const struct statx *from, struct weir_sys_stat *stat)
{
    int logical_block = 0, read_only = 0;

    if (WEIR_REAL_RETRY(ioctl(fd, BLKGETSIZE64, &stat->size)) < 0)
        return -errno;
    if (WEIR_REAL_RETRY(ioctl(fd, BLKSSZGET, &logical_block)) >= 0 && logical_block > 0)
        stat->logical_block = (uint32_t)logical_block;
    if (WEIR_REAL_RETRY(ioctl(fd, BLKROGET, &read_only)) >= 0)
        stat->read_only = read_only != 0;
    stat->discard_granularity =
        queue_limit(from->stx_rdev_major, from->stx_rdev_minor, "discard_granularity");
    stat->allocated = 0;
    return 0;
}

static enum weir_sys_file_type file_type(unsigned mode)
{
    if (S_ISREG(mode))
        return WEIR_SYS_FILE_REGULAR;
    if (S_ISBLK(mode))
        return WEIR_SYS_FILE_BLOCK;
    if (S_ISCHR(mode))
        return WEIR_SYS_FILE_CHAR;
    return WEIR_SYS_FILE_OTHER;
}

int weir_real_file_stat(int fd, struct weir_sys_stat *ret_stat)
{
    struct weir_sys_stat stat = { .logical_block = LOGICAL_BLOCK_DEFAULT,
                                  .memory_align = MEMORY_ALIGN_DEFAULT };
    struct statx from;
    struct statfs system;
    int ret = WEIR_REAL_RETRY(statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_DIOALIGN, &from));

    if (ret < 0)
        return ret;
    ret = WEIR_REAL_RETRY(fstatfs(fd, &system));
    if (ret < 0)
        return ret;
    stat.type = file_type(from.stx_mode);
    stat.size = from.stx_size;
    stat.allocated = from.stx_blocks * 512; /* this unit is fixed, whatever the file system's block is */
    stat.device = makedev(from.stx_dev_major, from.stx_dev_minor);
    stat.inode = from.stx_ino;
    stat.fs_magic = (uint64_t)system.f_type;
    if (stat.type == WEIR_SYS_FILE_BLOCK) {
        ret = stat_block(fd, &from, &stat);
        if (ret < 0)
            return ret;
    } else if (stat.type == WEIR_SYS_FILE_REGULAR) {
        stat.discard_granularity = (uint32_t)system.f_bsize;
    }
    /* Both are 0 where the file cannot do direct I/O at all. */
    if ((from.stx_mask & STATX_DIOALIGN) && from.stx_dio_offset_align) {
        stat.logical_block = from.stx_dio_offset_align;
        stat.memory_align = WEIR_MAX(from.stx_dio_mem_align, 1);
    }
    *ret_stat = stat;
    return 0;
}

/* ---- names, size, durability ---- */

int weir_real_file_unlink(const char *path)
{
    return WEIR_REAL_RETRY(unlink(path));
}

int weir_real_file_rename(const char *from, const char *to)
{
    return WEIR_REAL_RETRY(rename(from, to));
}

int weir_real_file_truncate(int fd, uint64_t size)
{
    if (size > INT64_MAX)
        return -EFBIG;
    return WEIR_REAL_RETRY(ftruncate(fd, (off_t)size));
}

int weir_real_file_fallocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    if (offset > INT64_MAX || length > INT64_MAX)
        return -EFBIG;
    return WEIR_REAL_RETRY(fallocate(fd, mode, (off_t)offset, (off_t)length));
}

int weir_real_file_fsync(int fd, bool data_only)
{
    return WEIR_REAL_RETRY(data_only ? fdatasync(fd) : fsync(fd));
}

/* ---- data ---- */

ssize_t weir_real_file_pread(int fd, void *buffer, size_t length, uint64_t offset)
{
    return WEIR_REAL_RETRY(pread(fd, buffer, length, (off_t)offset));
}

ssize_t weir_real_file_pwrite(int fd, const void *buffer, size_t length, uint64_t offset)
{
    return WEIR_REAL_RETRY(pwrite(fd, buffer, length, (off_t)offset));
}

ssize_t weir_real_file_preadv(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    return WEIR_REAL_RETRY(preadv2(fd, iov, (int)iovcnt, (off_t)offset, flags));
}

ssize_t weir_real_file_pwritev(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    return WEIR_REAL_RETRY(pwritev2(fd, iov, (int)iovcnt, (off_t)offset, flags));
}

/* ---- holes ---- */

/* The end of the hole at @offset, which is before the end of the file. */
static int hole_to_end(int fd, uint64_t offset, bool *ret_data, uint64_t *ret_end)
{
    struct stat stat;

    if (fstat(fd, &stat) < 0)
        return -errno;
    if ((uint64_t)stat.st_size <= offset)
        return -ENXIO;
    *ret_data = false;
    *ret_end = (uint64_t)stat.st_size;
    return 0;
}

/* Up to where each page is data, no further than some @most bytes from @offset, which is. */
static uint64_t data_end(int fd, uint64_t offset, uint64_t most)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), end = weir_align_down(offset, page) + page;
    struct stat stat;
    off_t next;

    while ((next = lseek(fd, (off_t)end, SEEK_DATA)) == (off_t)end && end - offset < most)
        end += page;
    /* Nothing behind it: the file may end within the page. */
    return next < 0 && !fstat(fd, &stat) ? WEIR_MIN(end, (uint64_t)stat.st_size) : end;
}

int weir_real_file_extent(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end)
{
    off_t at;

    if (offset > INT64_MAX)
        return -ENXIO;
    at = lseek(fd, (off_t)offset, SEEK_DATA);
    if (at < 0 && errno == ENXIO) /* no data up to the end, or beyond the end already */
        return hole_to_end(fd, offset, ret_data, ret_end);
    if (at < 0)
        return errno == EINVAL || errno == ESPIPE ? -EOPNOTSUPP : -errno;
    if ((uint64_t)at > offset) {
        *ret_data = false;
        *ret_end = (uint64_t)at;
        return 0;
    }
    at = most ? (off_t)data_end(fd, offset, most) : lseek(fd, (off_t)offset, SEEK_HOLE);
    if (at < 0)
        return errno == EINVAL ? -EOPNOTSUPP : -errno;
    /* Punched between the two calls: "data" is never wrong, only dearer, so one byte of it is a true answer. */
    *ret_data = true;
    *ret_end = WEIR_MAX((uint64_t)at, offset + 1);
    return 0;
}

int weir_real_file_discard(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = { offset, length };

    return WEIR_REAL_RETRY(ioctl(fd, BLKDISCARD, range));
}

int weir_real_file_zero_out(int fd, uint64_t offset, uint64_t length)
{
    uint64_t range[2] = { offset, length };

    return WEIR_REAL_RETRY(ioctl(fd, BLKZEROOUT, range));
}

/* ---- locks ---- */

static struct flock lock_of(enum weir_sys_lock kind, uint64_t start, uint64_t length)
{
    static const short types[] = {
        [WEIR_SYS_UNLOCK] = F_UNLCK,
        [WEIR_SYS_LOCK_SHARED] = F_RDLCK,
        [WEIR_SYS_LOCK_EXCLUSIVE] = F_WRLCK,
    };

    return (struct flock){
        .l_type = types[kind],
        .l_whence = SEEK_SET,
        .l_start = (off_t)start,
        .l_len = (off_t)length,
    };
}

int weir_real_file_lock(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length)
{
    struct flock lock = lock_of(kind, start, length);
    int ret = WEIR_REAL_RETRY(fcntl(fd, F_OFD_SETLK, &lock));

    return ret == -EACCES ? -EAGAIN : ret; /* POSIX allows either */
}

int weir_real_file_lock_test(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length)
{
    struct flock lock = lock_of(kind, start, length);
    int ret;

    WEIR_ASSERT(kind != WEIR_SYS_UNLOCK);
    ret = WEIR_REAL_RETRY(fcntl(fd, F_OFD_GETLK, &lock));
    return ret < 0 ? ret : lock.l_type != F_UNLCK;
}

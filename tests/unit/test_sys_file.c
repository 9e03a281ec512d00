/* SPDX-License-Identifier: BSD-2-Clause */
/* The real files: what is written is read, holes are where they were made, locks exclude other descriptions. */
#include "sys_temp.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#define MIB (1024 * 1024)

static const struct weir_sys_file_ops *const file = &weir_sys_real.file;

static void opens_and_names(void **state)
{
    char path[PATH_MAX], other[PATH_MAX];
    int fd = temp_file(path);

    (void)snprintf(other, sizeof(other), "%.200s-renamed", path);
    file->close(fd);
    assert_int_equal(file->open("/nonexistent/file", O_RDONLY, 0), -ENOENT);
    assert_int_equal(file->open("/proc/self/exe", O_RDWR, 0), -ETXTBSY);
    fd = file->open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    assert_int_equal(fd, -EEXIST);
    assert_int_equal(file->rename(path, other), 0);
    assert_int_equal(file->rename(path, other), -ENOENT);
    fd = file->open(other, O_RDWR, 0);
    assert_true(fd >= 0);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    file->close(fd);
    assert_int_equal(file->unlink(other), 0);
    assert_int_equal(file->unlink(other), -ENOENT);
}

static void reads_what_was_written(void **state)
{
    char path[PATH_MAX], buffer[32] = { 0 }, first[4], second[4];
    struct iovec out[2] = { { (char[]){ "abc" }, 3 }, { (char[]){ "defg" }, 4 } };
    struct iovec in[2] = { { first, 4 }, { second, 4 } };
    int fd = temp_file(path);
    ssize_t got;

    assert_int_equal(file->pwrite(fd, "0123456789", 10, 5), 10);
    assert_int_equal(file->pread(fd, buffer, sizeof(buffer), 4), 11);
    assert_memory_equal(buffer,
                        "\0"
                        "0123456789",
                        11);
    assert_int_equal(file->pwritev(fd, out, 2, 6, 0), 7);
    got = file->preadv(fd, in, 2, 5, RWF_NOWAIT);
    if (got == -EOPNOTSUPP || got == -EAGAIN) /* tmpfs, or evicted just now */
        got = file->preadv(fd, in, 2, 5, 0);
    assert_int_equal(got, 8);
    assert_memory_equal(first, "0abc", 4);
    assert_memory_equal(second, "defg", 4);
    assert_int_equal(file->fsync(fd, true), 0);
    assert_int_equal(file->fsync(fd, false), 0);
    assert_int_equal(file->pread(-1, buffer, 1, 0), -EBADF);
    assert_int_equal(file->preadv(fd, in, 2, 1000, 0), 0);
    file->close(fd);
    assert_int_equal(file->unlink(path), 0);
}

static void tells_what_a_file_is(void **state)
{
    char path[PATH_MAX];
    int fd = temp_file(path);
    struct weir_sys_stat stat, other;
    struct statfs system;

    assert_int_equal(file->truncate(fd, 3 * MIB + 1), 0);
    assert_int_equal(file->stat(fd, &stat), 0);
    assert_int_equal(stat.type, WEIR_SYS_FILE_REGULAR);
    assert_int_equal(stat.size, 3 * MIB + 1);
    assert_in_range(stat.allocated, 0, MIB);
    assert_int_equal(file->fallocate(fd, 0, 0, 2 * MIB), 0);
    assert_int_equal(file->stat(fd, &stat), 0);
    assert_in_range(stat.allocated, 2 * MIB, 3 * MIB);
    assert_true(weir_is_power_of_2(stat.logical_block));
    assert_true(weir_is_power_of_2(stat.memory_align));
    assert_int_equal(statfs(path, &system), 0);
    assert_int_equal(stat.fs_magic, system.f_type);
    assert_int_equal(file->truncate(fd, UINT64_MAX), -EFBIG);
    assert_int_equal(file->fallocate(fd, 0, UINT64_MAX, 1), -EFBIG);
    file->close(fd);
    assert_int_equal(file->unlink(path), 0);

    fd = file->open("/dev/null", O_RDWR, 0);
    assert_int_equal(file->stat(fd, &other), 0);
    assert_int_equal(other.type, WEIR_SYS_FILE_CHAR);
    assert_false(other.inode == stat.inode && other.device == stat.device);
    file->close(fd);
    fd = file->open("/", O_RDONLY, 0);
    assert_int_equal(file->stat(fd, &other), 0);
    assert_int_equal(other.type, WEIR_SYS_FILE_OTHER);
    file->close(fd);
    assert_int_equal(file->stat(fd, &other), -EBADF);
}

/* Direct transfers of the smallest unit that was promised do work. */
static void direct_alignment_is_true(void **state)
{
    char path[PATH_MAX];
    struct weir_sys_stat stat;
    void *memory = NULL;
    int fd = temp_file(path), direct;

    direct = file->open(path, O_RDWR | O_DIRECT, 0);
    assert_int_equal(file->truncate(fd, MIB), 0);
    file->close(fd);
    assert_int_equal(file->unlink(path), 0);
    if (direct == -EINVAL)
        skip(); /* a file system without it */
    assert_int_equal(file->stat(direct, &stat), 0);
    assert_int_equal(posix_memalign(&memory, WEIR_MAX(stat.memory_align, sizeof(void *)), stat.logical_block),
                     0);
    memset(memory, 7, stat.logical_block);
    assert_int_equal(file->pwrite(direct, memory, stat.logical_block, stat.logical_block),
                     stat.logical_block);
    assert_int_equal(file->pread(direct, memory, stat.logical_block, 0), stat.logical_block);
    assert_int_equal(((char *)memory)[0], 0);
    file->close(direct);
    free(memory);
}

/* The same answers page by page, but for the end of data that is further away than asked for. */
static void finds_the_end_of_data_page_by_page(void **state)
{
    static char block[16 * 4096 + 1];
    char path[PATH_MAX];
    int fd = temp_file(path), ret;
    bool data;
    uint64_t end;

    memset(block, 1, sizeof(block));
    assert_int_equal(file->pwrite(fd, block, sizeof(block), MIB), sizeof(block));
    ret = file->extent(fd, 0, 4096, &data, &end);
    if (ret == -EOPNOTSUPP)
        skip();
    assert_false(data);
    assert_int_equal(end, MIB);
    assert_int_equal(file->extent(fd, MIB, 8192, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, MIB + 8192);
    assert_int_equal(file->extent(fd, MIB + 5000, 4096, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, MIB + 12288);
    assert_int_equal(file->extent(fd, MIB, 2 * MIB, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, MIB + sizeof(block)); /* the end of the file, within a page */
    assert_int_equal(file->truncate(fd, 4 * MIB), 0);
    assert_int_equal(file->extent(fd, MIB, 2 * MIB, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, MIB + 17 * 4096);
    file->close(fd);
    assert_int_equal(file->unlink(path), 0);
}

static void finds_holes(void **state)
{
    char path[PATH_MAX], block[4096];
    int fd = temp_file(path), fds[2], ret;
    bool data;
    uint64_t end;

    memset(block, 1, sizeof(block));
    assert_int_equal(file->truncate(fd, 4 * MIB), 0);
    assert_int_equal(file->pwrite(fd, block, sizeof(block), MIB), sizeof(block));
    ret = file->extent(fd, 0, 0, &data, &end);
    if (ret == -EOPNOTSUPP)
        skip();
    assert_int_equal(ret, 0);
    assert_false(data);
    assert_int_equal(end, MIB);
    assert_int_equal(file->extent(fd, MIB + 1, 0, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, MIB + sizeof(block));
    assert_int_equal(file->extent(fd, end, 0, &data, &end), 0);
    assert_false(data);
    assert_int_equal(end, 4 * MIB);
    assert_int_equal(file->extent(fd, 4 * MIB - 1, 0, &data, &end), 0);
    assert_false(data);
    assert_int_equal(end, 4 * MIB);
    assert_int_equal(file->extent(fd, 4 * MIB, 0, &data, &end), -ENXIO);
    assert_int_equal(file->extent(fd, UINT64_MAX, 0, &data, &end), -ENXIO);

    assert_int_equal(file->pwrite(fd, block, 1, 4 * MIB), 1); /* data up to an odd end */
    assert_int_equal(file->extent(fd, 4 * MIB, 0, &data, &end), 0);
    assert_true(data);
    assert_int_equal(end, 4 * MIB + 1);
    assert_int_equal(file->fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, MIB, sizeof(block)), 0);
    assert_int_equal(file->extent(fd, 0, 0, &data, &end), 0);
    assert_false(data);
    assert_int_equal(end, 4 * MIB);
    file->close(fd);
    assert_int_equal(file->unlink(path), 0);

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(file->extent(fds[0], 0, 0, &data, &end), -EOPNOTSUPP);
    assert_true(file->discard(fds[0], 0, 4096) < 0);
    assert_true(file->zero_out(fds[0], 0, 4096) < 0);
    file->close(fds[0]);
    file->close(fds[1]);
}

static void locks_exclude_other_descriptions(void **state)
{
    char path[PATH_MAX];
    int one = temp_file(path), two = file->open(path, O_RDWR, 0), reader = file->open(path, O_RDONLY, 0);

    assert_int_equal(file->lock(one, WEIR_SYS_LOCK_SHARED, 100, 2), 0);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_SHARED, 101, 1), 0);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 101, 1), -EAGAIN);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 102, 1), 0);
    /* Own locks are no conflict; those of others are, also for a description that could not take the lock. */
    assert_int_equal(file->lock_test(one, WEIR_SYS_LOCK_EXCLUSIVE, 100, 1), 0);
    assert_int_equal(file->lock_test(two, WEIR_SYS_LOCK_EXCLUSIVE, 100, 1), 1);
    assert_int_equal(file->lock_test(two, WEIR_SYS_LOCK_SHARED, 100, 1), 0);
    assert_int_equal(file->lock_test(one, WEIR_SYS_LOCK_SHARED, 102, 1), 1);
    assert_int_equal(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 100, 1), 1);
    assert_int_equal(file->lock(reader, WEIR_SYS_LOCK_SHARED, 100, 1), 0);
    assert_int_equal(file->lock(reader, WEIR_SYS_LOCK_EXCLUSIVE, 300, 1), -EBADF);
    /* Until the descriptions are unlocked or closed. */
    assert_int_equal(file->lock(one, WEIR_SYS_UNLOCK, 100, 2), 0);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 101, 1), 0);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 100, 1), -EAGAIN);
    file->close(reader);
    assert_int_equal(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 100, 1), 0);
    assert_int_equal(file->lock_test(one, WEIR_SYS_LOCK_SHARED, 0, 0), 1);
    file->close(two);
    assert_int_equal(file->lock_test(one, WEIR_SYS_LOCK_EXCLUSIVE, 0, 0), 0);
    file->close(one);
    assert_int_equal(file->unlink(path), 0);
}

static void clocks_and_randomness(void **state)
{
    int64_t before = weir_sys_real.clock_ns();

    assert_true(before > 0);
    assert_true(weir_sys_real.clock_ns() >= before);
    assert_true(weir_sys_real.wall_ns() > INT64_C(1600000000) * 1000000000);
    assert_true(weir_sys_real.random() != weir_sys_real.random());
    assert_ptr_equal(weir_sys, &weir_sys_real);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_and_names),
        cmocka_unit_test(reads_what_was_written),
        cmocka_unit_test(tells_what_a_file_is),
        cmocka_unit_test(direct_alignment_is_true),
        cmocka_unit_test(finds_holes),
        cmocka_unit_test(finds_the_end_of_data_page_by_page),
        cmocka_unit_test(locks_exclude_other_descriptions),
        cmocka_unit_test(clocks_and_randomness),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

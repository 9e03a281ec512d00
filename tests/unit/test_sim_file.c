/* SPDX-License-Identifier: BSD-2-Clause */
/* Files of the simulator: calls, faults, space, locks. */
#include "sim_files.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

/* ---- names and descriptors ---- */

static void names(void *arg)
{
    struct weir_sys_stat stat;
    int fd, second;
    char byte = 0;

    WEIR_ASSERT(weir_sys->file.open("none", O_RDWR, 0) == -ENOENT);
    WEIR_ASSERT(weir_sys->file.open("disk", O_RDWR | O_CREAT | O_EXCL, 0600) == -EEXIST);
    WEIR_ASSERT(weir_sys->file.open("readonly", O_RDWR, 0) == -EACCES);
    fd = weir_sys->file.open("readonly", O_RDONLY, 0);
    WEIR_ASSERT(fd >= 0 && weir_sys->file.pwrite(fd, &byte, 1, 0) == -EBADF);
    weir_sys->file.close(fd);
    WEIR_ASSERT(weir_sys->file.stat(fd, &stat) == -EBADF);

    fd = weir_sys->file.open("new", O_RDWR | O_CREAT, 0600);
    WEIR_ASSERT(fd >= 0 && weir_sys->file.pwrite(fd, "hello", 5, 3) == 5);
    WEIR_ASSERT(weir_sys->file.stat(fd, &stat) == 0);
    WEIR_ASSERT(stat.type == WEIR_SYS_FILE_REGULAR && stat.size == 8 && stat.allocated == 4096);
    WEIR_ASSERT(weir_sys->file.rename("new", "disk") == 0);
    WEIR_ASSERT(weir_sys->file.open("new", O_RDWR, 0) == -ENOENT);
    second = open_file("disk");
    WEIR_ASSERT(weir_sys->file.pread(second, &byte, 1, 4) == 1 && byte == 'e');
    WEIR_ASSERT(weir_sys->file.pread(second, &byte, 1, 8) == 0);
    WEIR_ASSERT(weir_sys->file.unlink("disk") == 0 && weir_sys->file.unlink("disk") == -ENOENT);
    WEIR_ASSERT(weir_sys->file.pread(second, &byte, 1, 3) == 1 && byte == 'h');
    weir_sys->file.close(second);
    second = weir_sys->file.open("again", O_RDWR | O_CREAT, 0600);
    WEIR_ASSERT(weir_sys->file.pwrite(second, "x", 1, 0) == 1);
    weir_sys->file.close(second);
    second = weir_sys->file.open("again", O_RDWR | O_TRUNC, 0);
    WEIR_ASSERT(weir_sys->file.stat(second, &stat) == 0 && stat.size == 0);
    weir_sys->file.close(second);
    weir_sys->file.close(fd);
}

static void names_and_descriptors(void **state)
{
    struct weir_sim_file_options options = { .size = 4096, .read_only = true };

    sim_begin(1);
    (void)new_file("disk", 4096);
    (void)weir_sim_file_new("readonly", &options);
    sim_finish(names, NULL);
    assert_int_equal(weir_sim_descriptors(), 0);
    weir_sim_end();
}

/* ---- block devices and O_DIRECT ---- */

static void devices(void *arg)
{
    static uint8_t buffer[16384] __attribute__((aligned(4096)));
    int fd = weir_sys->file.open("device", O_RDWR | O_DIRECT, 0);
    struct weir_sys_stat stat;

    WEIR_ASSERT(fd >= 0 && weir_sys->file.stat(fd, &stat) == 0);
    WEIR_ASSERT(stat.type == WEIR_SYS_FILE_BLOCK && stat.size == 16384 && stat.allocated == 0);
    WEIR_ASSERT(stat.logical_block == 4096 && stat.discard_granularity == 4096);
    memset(buffer, 7, sizeof(buffer));
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 512, 0) == -EINVAL);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 4096, 512) == -EINVAL);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer + 512, 4096, 0) == -EINVAL);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 16384, 0) == 16384);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 8192, 12288) == 4096);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 4096, 16384) == -ENOSPC);
    WEIR_ASSERT(weir_sys->file.truncate(fd, 4096) == -EINVAL);
    WEIR_ASSERT(weir_sys->file.fallocate(fd, 0, 0, 4096) == -EOPNOTSUPP);
    WEIR_ASSERT(weir_sys->file.zero_out(fd, 0, 4096) == 0);
    WEIR_ASSERT(weir_sys->file.discard(fd, 4096, 4096) == 0);
    WEIR_ASSERT(weir_sys->file.discard(fd, 4096, 512) == -EINVAL);
    WEIR_ASSERT(weir_sys->file.pread(fd, buffer, 16384, 0) == 16384);
    WEIR_ASSERT(buffer[0] == 0 && buffer[4096] == 0xdd && buffer[8192] == 7);
    weir_sys->file.close(fd);
}

static void block_devices(void **state)
{
    struct weir_sim_file_options options = { .size = 16384,
                                             .block = true,
                                             .logical_block = 4096,
                                             .memory_align = 4096,
                                             .discard_granularity = 4096,
                                             .discard_garbage = true };

    sim_begin(1);
    (void)weir_sim_file_new("device", &options);
    sim_finish(devices, NULL);
    weir_sim_end();
}

/* ---- bytes ---- */

static uint8_t mirror[40000];

/* Writes at every alignment against a plain array. */
static void random_bytes(void *arg)
{
    uint8_t buffer[9000];
    int fd = open_file("disk");

    memset(mirror, 0, sizeof(mirror));
    for (unsigned step = 0; step < 300; step++) {
        size_t length = 1 + weir_sim_random(weir_sim_random(2) ? 9000 : 600);
        uint64_t offset = weir_sim_random(sizeof(mirror) - length);

        switch (weir_sim_random(4)) {
        case 0:
            WEIR_ASSERT(weir_sys->file.pread(fd, buffer, length, offset) == (ssize_t)length);
            WEIR_ASSERT(memcmp(buffer, mirror + offset, length) == 0);
            break;
        case 1:
            WEIR_ASSERT(weir_sys->file.fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset,
                                                 length) == 0);
            memset(mirror + offset, 0, length);
            break;
        default:
            for (size_t i = 0; i < length; i++)
                mirror[offset + i] = buffer[i] = (uint8_t)(step + i);
            WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, length, offset) == (ssize_t)length);
        }
        if (weir_sim_random(20) == 0)
            WEIR_ASSERT(weir_sys->file.fsync(fd, true) == 0);
    }
    weir_sys->file.close(fd);
}

static void bytes_at_every_alignment(void **state)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        uint8_t bytes[sizeof(mirror)];

        assert_true(run_with(seed, NULL, random_bytes));
        weir_sim_file_peek(weir_sim_file_find("disk"), 0, bytes, sizeof(bytes));
        assert_memory_equal(bytes, mirror, sizeof(bytes));
        weir_sim_end();
    }
}

static void huge(void *arg)
{
    const uint64_t far = 15ull << 40;
    int fd = open_file("huge");
    uint64_t end;
    bool data;
    char byte = 0;

    WEIR_ASSERT(weir_sys->file.extent(fd, 0, 0, &data, &end) == 0 && !data && end == 16ull << 40);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, "x", 1, far + 5000) == 1);
    WEIR_ASSERT(weir_sys->file.extent(fd, 7, 0, &data, &end) == 0 && !data && end == far + 4096);
    WEIR_ASSERT(weir_sys->file.extent(fd, far + 4096, 0, &data, &end) == 0 && data && end == far + 8192);
    WEIR_ASSERT(weir_sys->file.extent(fd, far + 8192, 0, &data, &end) == 0 && !data && end == 16ull << 40);
    WEIR_ASSERT(weir_sys->file.extent(fd, 16ull << 40, 0, &data, &end) == -ENXIO);
    WEIR_ASSERT(weir_sys->file.pread(fd, &byte, 1, far + 5000) == 1 && byte == 'x');
    WEIR_ASSERT(weir_sys->file.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 16ull << 40) ==
                0);
    WEIR_ASSERT(weir_sys->file.extent(fd, 0, 0, &data, &end) == 0 && !data && end == 16ull << 40);
    WEIR_ASSERT(weir_sys->file.fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 100, 600000) == 0);
    WEIR_ASSERT(weir_sys->file.extent(fd, 0, 0, &data, &end) == 0 && data && end == 602112);
    WEIR_ASSERT(weir_sys->file.pread(fd, &byte, 1, 5000) == 1 && byte == 0);
    weir_sys->file.close(fd);
}

static void sparse_files_of_16_tib(void **state)
{
    sim_begin(1);
    (void)new_file("huge", 16ull << 40);
    sim_finish(huge, NULL);
    weir_sim_end();
}

/* ---- space ---- */

static void fill_up(void *arg)
{
    struct weir_sim_file *file = arg;
    static uint8_t buffer[32768];
    int fd = open_file("disk");

    weir_sim_file_budget(file, 12288);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 4096, 100) == 4096);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 8192, 8192) == 4096);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 4096, 40960) == -ENOSPC);
    WEIR_ASSERT(weir_sys->file.fallocate(fd, 0, 16384, 4096) == -ENOSPC);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 12288, 0) == 12288);
    WEIR_ASSERT(weir_sys->file.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == 0);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 4096, 40960) == 4096);
    weir_sys->file.close(fd);
}

static void a_full_disk(void **state)
{
    assert_true(run_with(1, NULL, fill_up));
    assert_int_equal(weir_sim_stats()->enospc, 3);
    assert_int_equal(weir_sim_file_allocated(weir_sim_file_find("disk")), 12288);
    weir_sim_end();
}

/* ---- errors ---- */

static void bad_ranges(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    uint8_t buffer[8192];
    struct sim_op op;
    int fd = open_file("disk");

    weir_sim_file_bad_range(arg, 4096, 512, true, true);
    weir_sim_file_bad_range(arg, 16384, 512, false, true);
    memset(buffer, 5, sizeof(buffer));
    WEIR_ASSERT(weir_sys->file.pread(fd, buffer, 4096, 0) == 4096);
    WEIR_ASSERT(weir_sys->file.pread(fd, buffer, 4097, 0) == -EIO);
    WEIR_ASSERT(weir_sys->file.pread(fd, buffer, 512, 16384) == 512);
    WEIR_ASSERT(weir_sys->file.pwrite(fd, buffer, 512, 16384) == -EIO);
    for (unsigned i = 0; i < 3; i++) {
        sim_submit(ring, &op, WEIR_SYS_READ, fd, 4500, buffer, 100);
        WEIR_ASSERT(sim_wait(ring, &op) == -EIO);
    }
    weir_sim_file_heal(arg);
    WEIR_ASSERT(weir_sys->file.pread(fd, buffer, 4097, 0) == 4097);
    sim_submit(ring, &op, WEIR_SYS_READ, 55, 0, buffer, 100);
    WEIR_ASSERT(sim_wait(ring, &op) == -EBADF);
    weir_sys->file.close(fd);
    weir_sys->loop.close(ring);
}

static void persistent_errors(void **state)
{
    assert_true(run_with(1, NULL, bad_ranges));
    assert_int_equal(weir_sim_stats()->eio, 5);
    weir_sim_end();
}

static unsigned reads_failed, reads_short, writes_failed, writes_short, landed_in_part;

static void unlucky(void *arg)
{
    uint8_t buffer[8192], before[8192], after[8192];
    int fd = open_file("disk");
    unsigned landed = 0;

    for (unsigned i = 0; i < 50; i++) {
        ssize_t result = weir_sys->file.pread(fd, buffer, sizeof(buffer), 0);

        WEIR_ASSERT(result == -EIO || (result > 0 && result <= (ssize_t)sizeof(buffer)));
        reads_failed += result == -EIO;
        reads_short += result > 0 && result < (ssize_t)sizeof(buffer);
        memset(buffer, (int)i + 1, sizeof(buffer));
        weir_sim_file_peek(arg, 0, before, sizeof(before));
        result = weir_sys->file.pwrite(fd, buffer, sizeof(buffer), 0);
        weir_sim_file_peek(arg, 0, after, sizeof(after));
        for (landed = 0; landed < sizeof(after) && after[landed] == i + 1; landed++)
            ;
        WEIR_ASSERT(memcmp(after + landed, before + landed, sizeof(after) - landed) == 0);
        WEIR_ASSERT(result == -EIO || (result > 0 && result == (ssize_t)landed));
        writes_failed += result == -EIO;
        landed_in_part += result == -EIO && landed && landed < sizeof(buffer);
        writes_short += result > 0 && result < (ssize_t)sizeof(buffer);
    }
    weir_sys->file.close(fd);
}

static void transient_errors_and_short_transfers(void **state)
{
    struct weir_sim_profile profile;

    reads_failed = reads_short = writes_failed = writes_short = landed_in_part = 0;
    weir_sim_profile_init(&profile);
    profile.io[WEIR_SIM_READ].eio_ppm = profile.io[WEIR_SIM_WRITE].eio_ppm = 100000;
    profile.io[WEIR_SIM_READ].short_ppm = profile.io[WEIR_SIM_WRITE].short_ppm = 200000;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        assert_true(run_with(seed, &profile, unlucky));
        weir_sim_end();
    }
    assert_in_range(reads_failed, 60, 140);
    assert_in_range(writes_failed, 60, 140);
    assert_in_range(landed_in_part, 30, 140);
    assert_in_range(reads_short, 120, 240);
    assert_in_range(writes_short, 120, 240);
}

/* ---- locks ---- */

static void lock_ranges(void *arg)
{
    const struct weir_sys_file_ops *file = &weir_sys->file;
    int one = open_file("disk"), two = open_file("disk"), reader = file->open("disk", O_RDONLY, 0);

    WEIR_ASSERT(file->lock(one, WEIR_SYS_LOCK_SHARED, 100, 10) == 0);
    WEIR_ASSERT(file->lock(two, WEIR_SYS_LOCK_SHARED, 105, 10) == 0);
    WEIR_ASSERT(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 109, 2) == -EAGAIN);
    WEIR_ASSERT(file->lock(two, WEIR_SYS_LOCK_EXCLUSIVE, 110, 2) == 0);
    WEIR_ASSERT(file->lock_test(one, WEIR_SYS_LOCK_SHARED, 111, 1) == 1);
    WEIR_ASSERT(file->lock_test(one, WEIR_SYS_LOCK_SHARED, 112, 1) == 0);
    WEIR_ASSERT(file->lock_test(two, WEIR_SYS_LOCK_EXCLUSIVE, 110, 1) == 0);
    WEIR_ASSERT(file->lock(reader, WEIR_SYS_LOCK_EXCLUSIVE, 500, 1) == -EBADF);
    /* Out of the middle. */
    WEIR_ASSERT(file->lock(one, WEIR_SYS_UNLOCK, 102, 2) == 0);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 102, 2) == 0);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 101, 1) == 1);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 104, 1) == 1);
    file->close(one);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 0, 105) == 0);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 0, 0) == 1);
    file->close(two);
    WEIR_ASSERT(file->lock_test(reader, WEIR_SYS_LOCK_EXCLUSIVE, 0, 0) == 0);
    file->close(reader);
}

static void locks_belong_to_descriptions(void **state)
{
    assert_true(run_with(1, NULL, lock_ranges));
    weir_sim_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_descriptors),
        cmocka_unit_test(block_devices),
        cmocka_unit_test(bytes_at_every_alignment),
        cmocka_unit_test(sparse_files_of_16_tib),
        cmocka_unit_test(a_full_disk),
        cmocka_unit_test(persistent_errors),
        cmocka_unit_test(transient_errors_and_short_transfers),
        cmocka_unit_test(locks_belong_to_descriptions),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * file over an OS that lacks features, is slow, or fails: the real table with some calls replaced.
 *
 * Which way a transfer took is seen by counting: inline calls, calls handed to the ring, calls on workers.
 */
#include "driver_world.h"
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>

#define RWF_FLAGS_NOWAIT 0x8 /* RWF_NOWAIT, where the libc has no name for it */

/* What the replaced calls do. Reset by begin(). */
static struct {
    bool no_nowait_write, no_nowait, remote;
    bool no_zero_range, no_punch, no_extents;
    int fsync_error;
    int64_t frozen_ns;    /* the clock stands still; 0: it goes */
    unsigned slow_writes; /* so many plain writes take 10 ms of a clock that stands still */
    unsigned short_reads; /* so many transfers move 1 byte only */
    unsigned short_writes;
    bool ext4;
    uint64_t reserved; /* bytes, by calls on a loop */
    atomic_uint inline_calls, ring_calls, worker_calls, fsyncs, allocations, extents;
} world;

static struct weir_sys sys;

static void count_transfer(int flags)
{
    if (!weir_loop_self())
        atomic_fetch_add(&world.worker_calls, 1);
    else
        atomic_fetch_add(&world.inline_calls, 1);
}

static bool take(unsigned *count)
{
    return *count && (*count)--;
}

static ssize_t fake_preadv(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    struct iovec one = { iov->iov_base, 1 };

    count_transfer(flags);
    if ((flags & RWF_FLAGS_NOWAIT) && world.no_nowait)
        return -EOPNOTSUPP;
    if (iov->iov_len > 1 && take(&world.short_reads))
        return weir_sys_real.file.preadv(fd, &one, 1, offset, flags);
    return weir_sys_real.file.preadv(fd, iov, iovcnt, offset, flags);
}

static ssize_t fake_pwritev(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags)
{
    struct iovec one = { iov->iov_base, 1 };

    count_transfer(flags);
    if ((flags & RWF_FLAGS_NOWAIT) && (world.no_nowait || world.no_nowait_write))
        return -EOPNOTSUPP;
    if (!(flags & RWF_FLAGS_NOWAIT) && weir_loop_self() && take(&world.slow_writes))
        world.frozen_ns += 10000000;
    if (iov->iov_len > 1 && take(&world.short_writes))
        return weir_sys_real.file.pwritev(fd, &one, 1, offset, flags);
    return weir_sys_real.file.pwritev(fd, iov, iovcnt, offset, flags);
}

static void fake_submit(struct weir_sys_loop *loop, struct weir_sys_io *io)
{
    static struct iovec one;

    if (io->op == WEIR_SYS_READ || io->op == WEIR_SYS_WRITE)
        atomic_fetch_add(&world.ring_calls, 1);
    if (io->op == WEIR_SYS_FSYNC) {
        atomic_fetch_add(&world.fsyncs, 1);
        if (world.fsync_error)
            io->fd = -1; /* EBADF stands for whatever it would be */
    }
    if (io->op == WEIR_SYS_FALLOCATE) {
        atomic_fetch_add(&world.allocations, 1);
        if (((io->flags & FALLOC_FL_ZERO_RANGE) && world.no_zero_range) ||
            ((io->flags & FALLOC_FL_PUNCH_HOLE) && world.no_punch))
            io->flags = FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE; /* EOPNOTSUPP on these file systems */
    }
    if ((io->op == WEIR_SYS_READ && io->iov->iov_len > 1 && take(&world.short_reads)) ||
        (io->op == WEIR_SYS_WRITE && io->iov->iov_len > 1 && take(&world.short_writes))) {
        one = (struct iovec){ io->iov->iov_base, 1 };
        io->iov = &one;
        io->iovcnt = 1;
    }
    weir_sys_real.loop.submit(loop, io);
}

static int fake_stat(int fd, struct weir_sys_stat *ret_stat)
{
    int ret = weir_sys_real.file.stat(fd, ret_stat);

    if (!ret && world.remote)
        ret_stat->fs_magic = 0x6969; /* NFS */
    world.ext4 = !ret && ret_stat->fs_magic == EXT4_SUPER_MAGIC;
    return ret;
}

static int fake_fallocate(int fd, int mode, uint64_t offset, uint64_t length)
{
    if (mode == FALLOC_FL_KEEP_SIZE && weir_loop_self())
        world.reserved += length;
    return weir_sys_real.file.fallocate(fd, mode, offset, length);
}

static int fake_extent(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end)
{
    atomic_fetch_add(&world.extents, 1);
    return world.no_extents ? -EOPNOTSUPP : weir_sys_real.file.extent(fd, offset, most, ret_data, ret_end);
}

static int64_t fake_clock(void)
{
    return world.frozen_ns ? world.frozen_ns : weir_sys_real.clock_ns();
}

static int fake_fsync(int fd, bool data_only)
{
    atomic_fetch_add(&world.fsyncs, 1);
    return world.fsync_error ? world.fsync_error : weir_sys_real.file.fsync(fd, data_only);
}

static weir_co_fn struct weir_edge *begin(const char *options)
{
    return user(
        add("{'driver':'file','node-name':'f','filename':'%s'%s}", make_file(path("a"), MIB, 1), options),
        R | W, ALL);
}

static weir_co_fn void end(struct weir_edge *edge)
{
    leave(edge);
    del("f");
}

/* Transfers from now on go this way and no other. */
static weir_co_fn void expect_way(struct weir_edge *edge, bool write, char way)
{
    atomic_store(&world.inline_calls, 0);
    atomic_store(&world.ring_calls, 0);
    atomic_store(&world.worker_calls, 0);
    if (write)
        fill(edge, 0, 4096, 2);
    else
        WEIR_ASSERT(holds(edge, 8192, 4096, 1));
    WEIR_ASSERT((atomic_load(&world.ring_calls) == 1) == (way == 'r'));
    WEIR_ASSERT((atomic_load(&world.worker_calls) == 1) == (way == 'w'));
    WEIR_ASSERT(way != 'i' || atomic_load(&world.inline_calls) == 1);
}

/* ---- which way ---- */

weir_co_fn DRIVER_TEST(nowait_missing_for_writes)
{
    struct weir_edge *edge;

    world.no_nowait_write = true;
    edge = begin("");
    fill(edge, 0, 512, 2); /* finds out */
    expect_way(edge, true, 'i');
    expect_way(edge, false, 'i');
    end(edge);
}

static weir_co_fn void submit(struct weir_edge *edge, uint64_t length, unsigned flags)
{
    static char data[MIB];
    struct iovec iov = { data, length };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, 0, length, &iov, 1, flags);

    WEIR_ASSERT(!edge->node->driver->submit(edge->node, &request));
}

/* What a format above writes never takes the synchronous try: the first such write finds out as well. */
weir_co_fn DRIVER_TEST(nowait_missing_for_writes_from_above)
{
    struct weir_edge *edge;

    world.no_nowait_write = true;
    edge = begin("");
    submit(edge, 4096, 0);
    expect_way(edge, true, 'i');
    atomic_store(&world.ring_calls, 0);
    submit(edge, 4096, 0);
    WEIR_ASSERT(!atomic_load(&world.ring_calls));
    end(edge);
}

/* A bulk copy may wait, and goes on in its way when others had to leave it; long writes have their space reserved. */
weir_co_fn DRIVER_TEST(bulk)
{
    struct weir_edge *edge;

    world.no_nowait_write = true;
    edge = begin("");
    submit(edge, 4096, 0);
    world.frozen_ns = weir_sys_real.clock_ns();
    world.slow_writes = 2;
    submit(edge, 4096, WEIR_REQUEST_BULK);
    expect_way(edge, true, 'i'); /* the slow one counted for nothing; this one is slow, and counts */
    expect_way(edge, true, 'r');
    atomic_store(&world.ring_calls, 0);
    submit(edge, 4096, WEIR_REQUEST_BULK);
    WEIR_ASSERT(!atomic_load(&world.ring_calls) && !world.reserved);
    submit(edge, MIB, WEIR_REQUEST_BULK);
    WEIR_ASSERT(!atomic_load(&world.ring_calls) && world.reserved == (world.ext4 ? MIB : 0));
    world.frozen_ns = 0;
    end(edge);
}

weir_co_fn DRIVER_TEST(nowait_missing)
{
    struct weir_edge *edge;

    world.no_nowait = true;
    edge = begin("");
    expect_way(edge, true, 'i');
    expect_way(edge, false, 'i');
    end(edge);
    edge = begin(",'aio':'io_uring'");
    expect_way(edge, true, 'r');
    expect_way(edge, false, 'r');
    end(edge);
}

/* A file system that may hang: never a plain call on a loop, and not the ring's threads either. */
weir_co_fn DRIVER_TEST(remote)
{
    struct weir_edge *edge;

    world.remote = world.no_nowait = true;
    edge = begin("");
    expect_way(edge, true, 'w');
    expect_way(edge, false, 'w');
    end(edge);
    world.no_nowait = false;
    world.no_nowait_write = true;
    edge = begin("");
    fill(edge, 0, 512, 2);
    expect_way(edge, true, 'w');
    expect_way(edge, false, 'i');
    end(edge);
}

/* One slow call, and the ring takes over; after 25 times as long inline calls come back. */
weir_co_fn DRIVER_TEST(slow_inline_rests)
{
    struct weir_edge *edge;

    world.no_nowait_write = true;
    edge = begin("");
    fill(edge, 0, 512, 2);
    world.frozen_ns = weir_sys_real.clock_ns();
    expect_way(edge, true, 'i');
    world.slow_writes = 1;
    expect_way(edge, true, 'i');
    expect_way(edge, true, 'r');
    expect_way(edge, false, 'i'); /* the other direction has nothing to do with it */
    world.frozen_ns += 249000000;
    expect_way(edge, true, 'r');
    world.frozen_ns += 2000000;
    expect_way(edge, true, 'i');
    world.frozen_ns = 0;
    end(edge);
}

/* ---- parts ---- */

static weir_co_fn void moves_all(struct weir_edge *edge)
{
    world.short_reads = 1;
    WEIR_ASSERT(holds(edge, 0, 8192, 1));
    world.short_reads = 5;
    WEIR_ASSERT(holds(edge, 100, 8192, 1));
    world.short_writes = 1;
    fill(edge, 100, 5000, 3);
    world.short_writes = 4;
    fill(edge, 9000, 5000, 3);
    WEIR_ASSERT(holds(edge, 100, 5000, 3) && holds(edge, 9000, 5000, 3) && holds(edge, 5100, 3900, 1));
    WEIR_ASSERT(!world.short_reads && !world.short_writes && holds(edge, 14000, 1000, 1));
}

weir_co_fn DRIVER_TEST(short_transfers)
{
    static const char *const options[] = { "", ",'aio':'threads'", ",'aio':'io_uring'" };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(options); i++) {
        struct weir_edge *edge;

        edge = begin(options[i]);
        moves_all(edge);
        end(edge);
        world.no_nowait = true;
        edge = begin(options[i]);
        moves_all(edge);
        end(edge);
        world.no_nowait = false;
    }
}

/* ---- space ---- */

weir_co_fn DRIVER_TEST(zero_range_missing)
{
    struct weir_edge *edge;

    world.no_zero_range = true;
    edge = begin("");
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 65536, NULL, WEIR_REQUEST_NO_FALLBACK) &&
                holds(edge, 0, 65536, 0));
    WEIR_ASSERT(allocated(path("a")) >= MIB);
    WEIR_ASSERT(atomic_load(&world.allocations) == 3); /* refused, punched, filled */
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 65536, 65536, NULL, 0) && atomic_load(&world.allocations) == 5);
    end(edge);
}

weir_co_fn DRIVER_TEST(nothing_zeroes)
{
    struct weir_edge *edge;

    world.no_zero_range = world.no_punch = true;
    edge = begin(",'discard':'unmap'");
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 0, 65536, NULL, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP);
    WEIR_ASSERT(holds(edge, 0, 65536, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 100, 70000, NULL, WEIR_REQUEST_MAY_UNMAP) &&
                holds(edge, 100, 70000, 0));
    WEIR_ASSERT(holds(edge, 0, 100, 1) && holds(edge, 70100, 1000, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 65536, 65536, NULL, 0));
    WEIR_ASSERT(atomic_load(&world.allocations) == 2); /* each refusal is heard once */
    end(edge);
}

weir_co_fn DRIVER_TEST(extents_unknown)
{
    struct weir_edge *edge;

    world.no_extents = true;
    edge = begin("");
    for (unsigned i = 0; i < 3; i++)
        WEIR_ASSERT(status_of(edge, 0, MIB).data && status_of(edge, 0, MIB).length == MIB);
    WEIR_ASSERT(atomic_load(&world.extents) == 1);
    end(edge);
}

/* ---- flush ---- */

weir_co_fn DRIVER_TEST(test_cache_no_flush)
{
    struct weir_edge *edge;

    edge = begin(",'cache':{'no-flush':true}");
    fill(edge, 0, 512, 2);
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) && !atomic_load(&world.fsyncs));
    end(edge);
    atomic_store(&world.fsyncs, 0);
    edge = begin("");
    fill(edge, 0, 512, 2);
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) && atomic_load(&world.fsyncs) == 1);
    end(edge);
}

/* A flush that failed once has lost data for good: no later one may say otherwise. */
weir_co_fn DRIVER_TEST(failed_flush_stays_failed)
{
    static const char *const options[] = { "", ",'aio':'threads'" };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(options); i++) {
        struct weir_edge *edge;
        char buffer[512] = { 0 };

        edge = begin(options[i]);
        fill(edge, 0, 512, 2);
        world.fsync_error = -EBADF;
        WEIR_ASSERT(io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) == -EBADF);
        world.fsync_error = 0;
        WEIR_ASSERT(io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) == -EBADF);
        WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0));
        WEIR_ASSERT(io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) == -EBADF);
        end(edge);
        edge = begin(options[i]);
        fill(edge, 0, 512, 2);
        WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
        end(edge);
    }
}

static int reset_world(void **state)
{
    memset(&world, 0, sizeof(world));
    sys = weir_sys_real;
    sys.file.preadv = fake_preadv;
    sys.file.pwritev = fake_pwritev;
    sys.file.stat = fake_stat;
    sys.file.extent = fake_extent;
    sys.file.fallocate = fake_fallocate;
    sys.file.fsync = fake_fsync;
    sys.loop.submit = fake_submit;
    sys.clock_ns = fake_clock;
    weir_sys = &sys;
    return 0;
}

#define FAULT_TEST(name) cmocka_unit_test_setup(name, reset_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FAULT_TEST(nowait_missing_for_writes),
        FAULT_TEST(nowait_missing_for_writes_from_above),
        FAULT_TEST(bulk),
        FAULT_TEST(nowait_missing),
        FAULT_TEST(remote),
        FAULT_TEST(slow_inline_rests),
        FAULT_TEST(short_transfers),
        FAULT_TEST(zero_range_missing),
        FAULT_TEST(nothing_zeroes),
        FAULT_TEST(extents_unknown),
        FAULT_TEST(test_cache_no_flush),
        FAULT_TEST(failed_flush_stays_failed),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

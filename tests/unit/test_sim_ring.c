/* SPDX-License-Identifier: BSD-2-Clause */
/* Files of the simulator in time: the ring's order, stuck I/O, inline calls, latencies. */
#include "sim_files.h"
#include "unit.h"
#include <errno.h>

/* ---- stuck ---- */

static int stuck_results[3];

static void stuck_ring(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    static uint8_t buffer[SECTOR];
    struct sim_op op;
    int fd = open_file("disk");

    buffer[0] = 9;
    weir_sim_file_stick(arg, WEIR_SIM_DATA_KINDS);
    sim_submit(ring, &op, WEIR_SYS_WRITE, fd, 0, buffer, SECTOR);
    weir_sys->loop.poll(ring, weir_sim_now() + 1000000);
    weir_sys->loop.cancel(ring, &op.io);
    stuck_results[0] = sim_wait(ring, &op);
    weir_sys->file.close(fd);
    weir_sys->loop.close(ring);
}

static void stuck_inline(void *arg)
{
    uint8_t byte;
    struct iovec iov = { &byte, 1 };
    int fd = open_file("disk");

    weir_sim_sleep(500000);
    WEIR_ASSERT(weir_sys->file.preadv(fd, &iov, 1, 0, RWF_NOWAIT) == -EAGAIN);
    stuck_results[1] = (int)weir_sys->file.preadv(fd, &iov, 1, 0, 0);
    weir_sys->file.close(fd);
}

static void stuck_sync(void *arg)
{
    int fd = open_file("disk");

    weir_sim_sleep(500000);
    stuck_results[2] = weir_sys->file.fsync(fd, true);
    weir_sys->file.close(fd);
}

static void stuck_io(void **state)
{
    struct weir_sim_profile profile;

    weir_sim_profile_init(&profile);
    profile.cancel_ppm = WEIR_SIM_ALWAYS;
    for (unsigned round = 0; round < 2; round++) {
        struct weir_sim_file *file;
        uint8_t byte;

        assert_false(run_with(1, &profile, stuck_ring));
        file = weir_sim_file_find("disk");
        weir_sim_spawn("inline", stuck_inline, NULL);
        weir_sim_spawn("sync", stuck_sync, NULL);
        assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_IDLE);
        assert_int_equal(weir_sim_file_stuck(file), 3);
        assert_int_equal(weir_sim_threads(), 3);
        weir_sim_file_release(file, round ? -EIO : 0);
        assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_FINISHED);
        assert_int_equal(weir_sim_file_stuck(file), 0);
        assert_int_equal(stuck_results[0], round ? -EIO : (int)SECTOR);
        assert_int_equal(stuck_results[1], round ? -EIO : 1);
        assert_int_equal(stuck_results[2], round ? -EIO : 0);
        weir_sim_file_peek(file, 0, &byte, 1);
        assert_int_equal(byte, round ? 0 : 9);
        assert_int_equal(weir_sim_stats()->stuck, 3);
        assert_int_equal(weir_sim_stats()->released, 3);
        weir_sim_end();
    }
}

static void stuck_files_die_with_the_power(void **state)
{
    assert_false(run_with(1, NULL, stuck_ring));
    assert_int_equal(weir_sim_file_stuck(weir_sim_file_find("disk")), 1);
    weir_sim_power_cut();
    assert_int_equal(weir_sim_file_stuck(weir_sim_file_find("disk")), 0);
    assert_int_equal(weir_sim_threads(), 0);
    weir_sim_end();
}

/* ---- the ring ---- */

static unsigned reordered, cancelled, took_effect;

static void many_at_once(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    static uint8_t buffers[16][SECTOR];
    struct sim_op ops[16];
    unsigned last = 0;
    int fd = open_file("disk");

    for (unsigned i = 0; i < 16; i++) {
        memset(buffers[i], (int)i + 1, SECTOR);
        sim_submit(ring, &ops[i], WEIR_SYS_WRITE, fd, i * SECTOR, buffers[i], SECTOR);
    }
    weir_sys->loop.poll(ring, 0);
    for (unsigned i = 12; i < 16; i++)
        weir_sys->loop.cancel(ring, &ops[i].io);
    for (unsigned over = 0; over < 16;) {
        weir_sys->loop.poll(ring, -1);
        over = 0;
        for (unsigned i = 0; i < 16; i++) {
            reordered += ops[i].over && i < last;
            last = ops[i].over ? WEIR_MAX(last, i) : last;
            over += ops[i].over;
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        uint8_t byte;

        weir_sim_file_peek(arg, i * SECTOR, &byte, 1);
        WEIR_ASSERT(ops[i].result == (int)SECTOR || (i >= 12 && ops[i].result == -ECANCELED));
        WEIR_ASSERT(ops[i].result < 0 || byte == i + 1);
        cancelled += ops[i].result < 0;
        took_effect += ops[i].result > 0;
    }
    weir_sys->file.close(fd);
    weir_sys->loop.close(ring);
}

static void a_ring_reorders_and_cancels(void **state)
{
    reordered = cancelled = took_effect = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        assert_true(run_with(seed, NULL, many_at_once));
        weir_sim_end();
    }
    assert_in_range(reordered, 20, 100000);
    assert_in_range(cancelled, 20, 60);
    assert_in_range(took_effect, 260, 300);
}

static unsigned torn_reads;

static void read_while_written(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    static uint8_t ones[4096], seen[4096];
    struct sim_op write, read;
    int fd = open_file("disk");

    memset(ones, 1, sizeof(ones));
    sim_submit(ring, &write, WEIR_SYS_WRITE, fd, 0, ones, sizeof(ones));
    sim_submit(ring, &read, WEIR_SYS_READ, fd, 0, seen, sizeof(seen));
    WEIR_ASSERT(sim_wait(ring, &write) == 4096);
    WEIR_ASSERT(sim_wait(ring, &read) == 4096);
    torn_reads += memchr(seen, 0, sizeof(seen)) && memchr(seen, 1, sizeof(seen));
    weir_sys->file.close(fd);
    weir_sys->loop.close(ring);
}

static void overlapping_operations_may_be_torn(void **state)
{
    torn_reads = 0;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        assert_true(run_with(seed, NULL, read_while_written));
        weir_sim_end();
    }
    assert_in_range(torn_reads, 10, 60);
}

static void try_without_waiting(void *arg)
{
    uint8_t byte = 3;
    struct iovec iov = { &byte, 1 };
    int fd = open_file("disk");
    int64_t now = weir_sim_now();
    unsigned hits = 0;

    for (unsigned i = 0; i < 200; i++) {
        ssize_t result = weir_sys->file.preadv(fd, &iov, 1, i, RWF_NOWAIT);

        WEIR_ASSERT(result == 1 || result == -EAGAIN);
        hits += result == 1;
        WEIR_ASSERT(weir_sys->file.pwritev(fd, &iov, 1, i, 0) == 1);
    }
    WEIR_ASSERT(weir_sim_now() == now);
    WEIR_ASSERT(hits > 60 && hits < 140);
    weir_sys->file.close(fd);
}

static void inline_calls_take_no_time(void **state)
{
    assert_true(run_with(1, NULL, try_without_waiting));
    assert_int_equal(weir_sim_stats()->nowait_ok + weir_sim_stats()->nowait_again, 200);
    weir_sim_end();
}

/* A blocking call on a thread with a loop is counted: loops must never make one. */
static void block_a_loop(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    int fd = open_file("disk");

    WEIR_ASSERT(weir_sim_stats()->loop_blocked == 0);
    weir_sys->loop.poll(ring, 0);
    WEIR_ASSERT(weir_sys->file.fsync(fd, true) == 0);
    WEIR_ASSERT(weir_sim_stats()->loop_blocked == 1);
    weir_sys->loop.close(ring);
}

static void blocking_calls_on_loops_are_counted(void **state)
{
    assert_true(run_with(1, NULL, block_a_loop));
    weir_sim_end();
}

static void slow_flush(void *arg)
{
    const struct weir_sim_faults slow = { .latency = { .min_ns = 50000000 } };
    int fd = open_file("disk");
    int64_t before;

    weir_sim_file_faults(arg, WEIR_SIM_FLUSH, &slow);
    before = weir_sim_now();
    WEIR_ASSERT(weir_sys->file.fsync(fd, true) == 0);
    WEIR_ASSERT(weir_sim_now() == before + 50000000);
    weir_sys->file.close(fd);
}

static void latencies_can_be_set_for_a_file(void **state)
{
    assert_true(run_with(1, NULL, slow_flush));
    weir_sim_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stuck_io),
        cmocka_unit_test(stuck_files_die_with_the_power),
        cmocka_unit_test(a_ring_reorders_and_cancels),
        cmocka_unit_test(overlapping_operations_may_be_torn),
        cmocka_unit_test(inline_calls_take_no_time),
        cmocka_unit_test(blocking_calls_on_loops_are_counted),
        cmocka_unit_test(latencies_can_be_set_for_a_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a power cut may leave: over many seeds every allowed outcome must occur and no other.
 *
 * A case changes a file in a first life; after the cut the test looks at the contents as a small number (which
 * version each of up to three sectors shows) and counts how often each number came.
 */
#include "sim_world.h"
#include "unit.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>

#define SEEDS 400
#define SECTOR 512u

static int file_fd;
static struct weir_sys_loop *ring;

static void fill(uint8_t *buffer, unsigned version, size_t length)
{
    memset(buffer, (int)version, length);
}

/* Writes @version to @count sectors from sector @first on, on a worker's path. */
static void put(unsigned version, unsigned first, unsigned count)
{
    uint8_t buffer[8 * SECTOR];

    fill(buffer, version, count * SECTOR);
    WEIR_ASSERT(weir_sys->file.pwrite(file_fd, buffer, count * SECTOR, first * SECTOR) ==
                (ssize_t)(count * SECTOR));
}

static void begin_life(void)
{
    file_fd = weir_sys->file.open("disk", O_RDWR, 0);
    WEIR_ASSERT(file_fd >= 0 && weir_sys->loop.open(&ring) == 0);
}

static void flush(void)
{
    WEIR_ASSERT(weir_sys->file.fsync(file_fd, true) == 0);
}

/* ---- cases: each leaves sector 0, 1, 2 at versions; version v of a sector is bytes of value v ---- */

static void unflushed(void *arg)
{
    begin_life();
    put(1, 0, 2);
    put(2, 0, 1);
}

static void flushed(void *arg)
{
    begin_life();
    put(1, 0, 2);
    put(2, 0, 1);
    flush();
}

static void flushed_then_more(void *arg)
{
    begin_life();
    put(1, 0, 3);
    flush();
    put(2, 1, 1);
    put(3, 2, 1);
}

/* A write that is in flight while the flush begins may be covered or not. */
static void in_flight_at_the_flush(void *arg)
{
    static uint8_t one[SECTOR], two[SECTOR];
    struct sim_op write, later, sync;

    begin_life();
    fill(one, 1, SECTOR);
    fill(two, 2, SECTOR);
    sim_submit(ring, &write, WEIR_SYS_WRITE, file_fd, 0, one, SECTOR);
    WEIR_ASSERT(sim_wait(ring, &write) == (int)SECTOR);
    sim_submit(ring, &later, WEIR_SYS_WRITE, file_fd, 0, two, SECTOR);
    sim_submit(ring, &sync, WEIR_SYS_FSYNC, file_fd, 0, NULL, 0);
    WEIR_ASSERT(sim_wait(ring, &sync) == 0);
    WEIR_ASSERT(sim_wait(ring, &later) == (int)SECTOR);
}

static void dsync(void *arg)
{
    static uint8_t one[SECTOR];
    struct iovec iov = { one, SECTOR };

    begin_life();
    put(1, 1, 1);
    fill(one, 2, SECTOR);
    WEIR_ASSERT(weir_sys->file.pwritev(file_fd, &iov, 1, 0, RWF_DSYNC) == (ssize_t)SECTOR);
}

static void punched(void *arg)
{
    begin_life();
    put(1, 0, 3);
    flush();
    WEIR_ASSERT(weir_sys->file.fallocate(file_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, SECTOR,
                                         2 * SECTOR) == 0);
}

static void never_completed(void *arg)
{
    static uint8_t one[2 * SECTOR];
    static struct sim_op write;

    begin_life();
    fill(one, 1, 2 * SECTOR);
    sim_submit(ring, &write, WEIR_SYS_WRITE, file_fd, 0, one, 2 * SECTOR);
    weir_sys->loop.poll(ring, 0);
    weir_sim_stop();
    weir_sys->loop.poll(ring, -1);
}

/* ---- running them ---- */

static unsigned counts[1000];

static void run_case(void (*life)(void *arg), void (*prepare)(struct weir_sim_file *file), bool kill)
{
    memset(counts, 0, sizeof(counts));
    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct weir_sim_file_options options = { .size = 8192 };
        struct weir_sim_file *file;
        uint8_t bytes[3 * SECTOR];
        enum weir_sim_outcome outcome;

        sim_begin(seed);
        file = weir_sim_file_new("disk", &options);
        if (prepare)
            prepare(file);
        weir_sim_spawn("life", life, NULL);
        outcome = weir_sim_run(&sim_limits);
        assert_true(outcome == WEIR_SIM_FINISHED || outcome == WEIR_SIM_STOPPED);
        weir_sim_heal();
        if (kill)
            weir_sim_kill();
        else
            weir_sim_power_cut();
        assert_int_equal(weir_sim_descriptors(), 0);
        weir_sim_file_peek(file, 0, bytes, sizeof(bytes));
        for (unsigned i = 0; i < sizeof(bytes); i++)
            assert_int_equal(bytes[i], bytes[i / SECTOR * SECTOR]);
        counts[bytes[0] * 100 + bytes[SECTOR] * 10 + bytes[2 * SECTOR]]++;
        weir_sim_file_peek_durable(file, 0, bytes, sizeof(bytes));
        assert_true(weir_sim_file_possible(file, 0, bytes));
        weir_sim_end();
    }
}

/* Exactly the outcomes of the list (ended by -1) occur, each at least a few times. */
static void expect(const int *allowed)
{
    unsigned total = 0;

    for (; *allowed >= 0; allowed++) {
        if (counts[*allowed] < 4)
            fail_msg("outcome %03d came only %u times", *allowed, counts[*allowed]);
        total += counts[*allowed];
    }
    if (total != SEEDS)
        for (unsigned i = 0; i < WEIR_ARRAY_SIZE(counts); i++)
            if (counts[i])
                print_message("%03u: %u\n", i, counts[i]);
    assert_int_equal(total, SEEDS);
}

static void each_sector_at_any_version(void **state)
{
    const int allowed[] = { 0, 10, 100, 110, 200, 210, -1 };

    run_case(unflushed, NULL, false);
    expect(allowed);
}

static void a_flush_makes_durable(void **state)
{
    run_case(flushed, NULL, false);
    expect((const int[]){ 210, -1 });
    run_case(flushed_then_more, NULL, false);
    expect((const int[]){ 111, 121, 113, 123, -1 });
}

static void a_flush_covers_what_was_complete(void **state)
{
    run_case(in_flight_at_the_flush, NULL, false);
    expect((const int[]){ 100, 200, -1 });
}

static void dsync_covers_its_own_range(void **state)
{
    run_case(dsync, NULL, false);
    expect((const int[]){ 200, 210, -1 });
}

static void holes_are_changes_too(void **state)
{
    run_case(punched, NULL, false);
    expect((const int[]){ 100, 101, 110, 111, -1 });
}

static void what_is_in_flight_may_be_torn(void **state)
{
    run_case(never_completed, NULL, false);
    expect((const int[]){ 0, 10, 100, 110, -1 });
}

static void a_killed_process_loses_nothing(void **state)
{
    run_case(unflushed, NULL, true);
    expect((const int[]){ 210, -1 });
    run_case(never_completed, NULL, true);
    expect((const int[]){ 110, -1 });
}

/* ---- flushes that fail ---- */

static void fail_then_flush(void *arg)
{
    const struct weir_sim_faults healthy = { .eio_ppm = 0 };

    begin_life();
    put(1, 0, 1);
    WEIR_ASSERT(weir_sys->file.fsync(file_fd, true) == -EIO);
    weir_sim_file_faults(weir_sim_file_find("disk"), WEIR_SIM_FLUSH, &healthy);
    /* Says that all is well, though what the failed one dropped is not there. */
    flush();
    put(2, 2, 1);
    flush();
}

static void break_flushes(struct weir_sim_file *file)
{
    const struct weir_sim_faults broken = { .eio_ppm = WEIR_SIM_ALWAYS };

    weir_sim_file_faults(file, WEIR_SIM_FLUSH, &broken);
}

static void a_failed_flush_may_lose_for_good(void **state)
{
    run_case(fail_then_flush, break_flushes, false);
    expect((const int[]){ 2, 102, -1 });
}

static void fail_stickily(void *arg)
{
    begin_life();
    put(1, 0, 1);
    WEIR_ASSERT(weir_sys->file.fsync(file_fd, true) == -EIO);
    weir_sim_file_faults(weir_sim_file_find("disk"), WEIR_SIM_FLUSH,
                         &(struct weir_sim_faults){ .eio_ppm = 0 });
    WEIR_ASSERT(weir_sys->file.fsync(file_fd, true) == -EIO);
    weir_sys->file.close(file_fd);
    begin_life();
    put(2, 0, 1);
    flush();
}

static void a_failed_flush_may_be_sticky(void **state)
{
    struct weir_sim_profile profile;
    struct weir_sim_file *file;

    weir_sim_profile_init(&profile);
    profile.flush_sticky = true;
    weir_sim_begin(1, &profile);
    file = weir_sim_file_new("disk", NULL);
    break_flushes(file);
    sim_finish(fail_stickily, NULL);
    assert_int_equal(weir_sim_stats()->failed_flushes, 2);
    weir_sim_end();
}

/* ---- sizes ---- */

static void grow_and_shrink(void *arg)
{
    begin_life();
    WEIR_ASSERT(weir_sys->file.truncate(file_fd, 1536) == 0);
    put(1, 0, 3);
    flush();
    WEIR_ASSERT(weir_sys->file.truncate(file_fd, 512) == 0);
    WEIR_ASSERT(weir_sys->file.truncate(file_fd, 1024) == 0);
}

static void sizes_are_changes_too(void **state)
{
    unsigned sizes[4] = { 0 }, stale = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        struct weir_sim_file *file;
        uint8_t bytes[2048];
        uint64_t size;

        sim_begin(seed);
        file = weir_sim_file_new("disk", NULL);
        sim_finish(grow_and_shrink, NULL);
        assert_int_equal(weir_sim_file_size(file), 1024);
        weir_sim_file_peek(file, 0, bytes, sizeof(bytes));
        assert_int_equal(bytes[511], 1);
        assert_int_equal(bytes[512], 0);
        weir_sim_power_cut();
        size = weir_sim_file_size(file);
        assert_true(size == 512 || size == 1024 || size == 1536);
        sizes[size / 512]++;
        weir_sim_file_peek(file, 0, bytes, sizeof(bytes));
        assert_int_equal(bytes[0], 1);
        stale += bytes[512] == 1;
        for (uint64_t at = size; at < sizeof(bytes); at++)
            assert_int_equal(bytes[at], 0);
        weir_sim_end();
    }
    assert_in_range(sizes[1], 10, SEEDS);
    assert_in_range(sizes[2], 10, SEEDS);
    assert_in_range(sizes[3], 10, SEEDS);
    assert_in_range(stale, 10, SEEDS);
}

/* ---- against a plain model ---- */

#define MODEL_SECTORS 64
#define MODEL_VERSIONS 200

/* For each sector the versions that a cut may leave: [first, last]. */
struct model {
    unsigned first[MODEL_SECTORS], last[MODEL_SECTORS];
    uint8_t value[MODEL_SECTORS][MODEL_VERSIONS];
};

static void model_put(struct model *model, unsigned sector, uint8_t value)
{
    WEIR_ASSERT(model->last[sector] + 1 < MODEL_VERSIONS);
    model->value[sector][++model->last[sector]] = value;
}

static void random_life(void *arg)
{
    struct model *model = arg;

    begin_life();
    for (unsigned step = 0; step < 120; step++) {
        unsigned count = 1 + (unsigned)weir_sim_random(8);
        unsigned first = (unsigned)weir_sim_random(MODEL_SECTORS - count + 1);
        uint8_t value = (uint8_t)weir_sim_random(256);

        if (weir_sim_random(12) == 0) {
            flush();
            memcpy(model->first, model->last, sizeof(model->first));
            continue;
        }
        if (weir_sim_random(4) == 0) {
            int mode =
                FALLOC_FL_KEEP_SIZE | (weir_sim_random(2) ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);

            value = 0;
            WEIR_ASSERT(weir_sys->file.fallocate(file_fd, mode, first * SECTOR, count * SECTOR) == 0);
        } else {
            put(value, first, count);
        }
        for (unsigned i = 0; i < count; i++)
            model_put(model, first + i, value);
    }
}

static bool model_allows(const struct model *model, unsigned sector, uint8_t value)
{
    for (unsigned i = model->first[sector]; i <= model->last[sector]; i++)
        if (model->value[sector][i] == value)
            return true;
    return false;
}

static void random_changes_against_a_model(void **state)
{
    struct model *model = calloc(1, sizeof(*model));
    uint64_t old = 0, uncertain = 0;

    assert_non_null(model);
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct weir_sim_file_options options = { .size = MODEL_SECTORS * SECTOR };
        struct weir_sim_file *file;
        uint8_t bytes[MODEL_SECTORS * SECTOR], durable[MODEL_SECTORS * SECTOR];

        memset(model, 0, sizeof(*model));
        sim_begin(seed);
        file = weir_sim_file_new("disk", &options);
        sim_finish(random_life, model);
        weir_sim_file_peek(file, 0, bytes, sizeof(bytes));
        weir_sim_file_peek_durable(file, 0, durable, sizeof(durable));
        for (unsigned i = 0; i < MODEL_SECTORS; i++) {
            assert_int_equal(bytes[i * SECTOR], model->value[i][model->last[i]]);
            assert_int_equal(durable[i * SECTOR + 511], model->value[i][model->first[i]]);
            assert_true(weir_sim_file_possible(file, i * SECTOR, bytes + i * SECTOR));
            fill(durable, model->value[i][model->first[i]] ^ 1u, SECTOR);
            assert_int_equal(weir_sim_file_possible(file, i * SECTOR, durable),
                             model_allows(model, i, durable[0]));
        }
        weir_sim_power_cut();
        weir_sim_file_peek(file, 0, bytes, sizeof(bytes));
        for (unsigned i = 0; i < sizeof(bytes); i++) {
            assert_int_equal(bytes[i], bytes[i / SECTOR * SECTOR]);
            assert_true(model_allows(model, i / SECTOR, bytes[i]));
        }
        uncertain += weir_sim_stats()->cut_sectors;
        old += weir_sim_stats()->cut_old_sectors;
        weir_sim_end();
    }
    assert_in_range(uncertain, 1000, 64 * 200);
    assert_in_range(old, uncertain / 4, uncertain * 3 / 4);
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_sector_at_any_version),
        cmocka_unit_test(a_flush_makes_durable),
        cmocka_unit_test(a_flush_covers_what_was_complete),
        cmocka_unit_test(dsync_covers_its_own_range),
        cmocka_unit_test(holes_are_changes_too),
        cmocka_unit_test(what_is_in_flight_may_be_torn),
        cmocka_unit_test(a_killed_process_loses_nothing),
        cmocka_unit_test(a_failed_flush_may_lose_for_good),
        cmocka_unit_test(a_failed_flush_may_be_sticky),
        cmocka_unit_test(sizes_are_changes_too),
        cmocka_unit_test(random_changes_against_a_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

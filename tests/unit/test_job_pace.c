/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pace of a copy: steps up while guests do not notice, down when they do, never under its share, and all of it when
 * nobody is there. Guests are a few numbers here, and time is one.
 */
#include "unit.h"

#include "job/pace.h"

#define MS 1000000LL
#define WINDOW (20 * MS)

struct world {
    struct weir_pace pace;
    struct weir_pace_guests guests;
    struct weir_pace_limits limits;
    int64_t now;
};

static struct world new_world(unsigned share, bool direct)
{
    struct world world = { .now = 1000 * MS };

    weir_pace_init(&world.pace, share, direct);
    return world;
}

/* One window in which @count requests of @latency ns end. */
static void window(struct world *world, unsigned count, int64_t latency)
{
    world->now += WINDOW;
    world->guests.ended += count;
    world->guests.waited_ns += count * (uint64_t)latency;
    if (count)
        world->guests.last_ns = world->now;
    world->limits = weir_pace_look(&world->pace, world->now, &world->guests);
}

static void windows(struct world *world, unsigned number, unsigned count, int64_t latency)
{
    while (number--)
        window(world, count, latency);
}

static uint64_t in_flight(const struct world *world)
{
    return world->limits.workers * world->limits.chunk;
}

static void test_alone(void **state)
{
    for (unsigned direct = 0; direct < 2; direct++) {
        struct world world = new_world(20, direct);

        window(&world, 0, 0);
        assert_int_equal(world.limits.share, 100);
        assert_int_equal(world.limits.workers, direct ? 16 : 4);
        assert_int_equal(world.limits.chunk, direct ? 1 << 20 : 256 << 10);
    }
}

static void test_begins_small(void **state)
{
    struct world world = new_world(30, false);

    windows(&world, 3, 0, 0);
    window(&world, 1, 50000);
    assert_int_equal(world.limits.workers, 1);
    assert_int_equal(world.limits.chunk, 64 << 10);
    assert_int_equal(world.limits.share, 30);
}

static void test_grows_where_guests_do_not_notice(void **state)
{
    for (unsigned direct = 0; direct < 2; direct++) {
        struct world world = new_world(20, direct);
        uint64_t before = 64 << 10;

        window(&world, 100, 50000);
        for (unsigned i = 0; i < 3; i++) {
            window(&world, 100, 60000);
            assert_true(i ? in_flight(&world) > before : world.limits.share == 100);
            before = in_flight(&world);
        }
        windows(&world, 10, 100, 60000);
        assert_int_equal(world.limits.workers, direct ? 8 : 4);
        assert_int_equal(world.limits.chunk, direct ? 256 << 10 : 128 << 10);
        assert_false(world.limits.apart);
    }
}

static void test_shrinks_where_they_do(void **state)
{
    struct world world = new_world(20, true);

    windows(&world, 8, 100, 200000);
    assert_int_equal(world.limits.workers, 8);
    window(&world, 10, 2000000);
    assert_int_equal(world.limits.workers, 1);
    assert_int_equal(world.limits.chunk, 256 << 10);
    windows(&world, 2, 10, 2000000);
    assert_int_equal(world.limits.share, 20);
}

/* Requests that do not end are the worst that guests can go through. */
static void test_guests_that_wait(void **state)
{
    struct world world = new_world(20, false);

    windows(&world, 8, 100, 200000);
    world.guests.waiting = 4;
    windows(&world, 50, 0, 0);
    assert_int_equal(world.limits.workers, 1);
    assert_int_equal(world.limits.share, 20);
}

/* What is calm is looked at again: a guest that has become slow by itself is no reason to stay small. */
static void test_learns_anew(void **state)
{
    struct world world = new_world(20, false);
    unsigned small = 0, large = 0;

    windows(&world, 8, 100, 50000);
    windows(&world, 500, 100, 5000000);
    for (unsigned i = 0; i < 500; i++) {
        window(&world, 100, 5000000);
        small += world.limits.share < 100;
        large += world.limits.workers == 4;
    }
    assert_true(large > 450);
    assert_true(small >= 4 && small < 20); /* once in two seconds */
}

/* Looks every millisecond for so long; one request ends each time that @latency has passed. */
static unsigned busy_looks(struct world *world, int64_t duration, int64_t latency)
{
    int64_t end = world->now + duration, next = world->now + latency;
    unsigned busy = 0;

    for (; world->now < end; world->now += MS) {
        if (latency && world->now >= next) {
            world->guests.ended++;
            world->guests.waited_ns += (uint64_t)latency;
            world->guests.last_ns = world->now;
            next += latency;
        }
        world->limits = weir_pace_look(&world->pace, world->now, &world->guests);
        busy += world->pace.busy;
    }
    return busy;
}

/* A reader that waits 60 ms for each request is not gone in between; nor does it stay for ever. */
static void test_slow_guests_are_there(void **state)
{
    struct world world = new_world(20, true);

    (void)busy_looks(&world, 200 * MS, 60 * MS);
    assert_int_equal(busy_looks(&world, 1000 * MS, 60 * MS), 1000);
    (void)busy_looks(&world, 300 * MS, 0);
    assert_int_equal(busy_looks(&world, 1000 * MS, 0), 0);
    /* One request that hung for a minute says nothing of the next ones. */
    (void)busy_looks(&world, 60001 * MS, 60000 * MS);
    (void)busy_looks(&world, 1100 * MS, 0);
    assert_int_equal(busy_looks(&world, 1000 * MS, 0), 0);
}

/* What was begun beside a copy that works hard, and ends at the lowest step, is no measure of the calm. */
static void test_calm_is_not_learned_from_before(void **state)
{
    struct world world = new_world(20, true);
    unsigned at_lowest = 0; /* windows; requests that end in the first were begun before it */

    windows(&world, 8, 10, 10 * MS);
    assert_int_equal(world.limits.workers, 8);
    for (unsigned i = 0; i < 2000; i++) {
        at_lowest = world.pace.step ? 0 : at_lowest + 1;
        window(&world, 10, at_lowest < 2 ? 19 * MS : 10 * MS);
        assert_true(world.pace.calm_ns <= 10 * MS);
    }
}

static void test_rest(void **state)
{
    struct weir_pace_limits limits = { 1, 65536, 20 };

    assert_int_equal(weir_pace_rest(&limits, 100000), 400000);
    limits.share = 100;
    assert_int_equal(weir_pace_rest(&limits, 100000), 0);
    limits.share = 1;
    assert_int_equal(weir_pace_rest(&limits, 100000), 9900000);
    assert_int_equal(weir_pace_rest(&limits, 1000 * MS), 1000 * MS); /* not for minutes */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_begins_small),
        cmocka_unit_test(test_grows_where_guests_do_not_notice),
        cmocka_unit_test(test_shrinks_where_they_do),
        cmocka_unit_test(test_guests_that_wait),
        cmocka_unit_test(test_learns_anew),
        cmocka_unit_test(test_slow_guests_are_there),
        cmocka_unit_test(test_calm_is_not_learned_from_before),
        cmocka_unit_test(test_rest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

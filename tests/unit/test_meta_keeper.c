/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keeper, who works off the quarantine of a node without any guest's flush. In virtual time: its five seconds
 * pass at once.
 */
#include "image_world.h"
#include "sim_world.h"

#define SECOND 1000000000LL

/* The test that runs. */
static void (*current)(void *arg) weir_co_fn;

static void simulated(void *arg)
{
    (void)arg;
    run_drivers(current);
}

static void in_virtual_time(void (*body)(void *arg) weir_co_fn)
{
    current = body;
    sim_begin(1);
    sim_finish(simulated, NULL);
    weir_sim_end();
}

#define KEEPER_TEST(name)               \
    static void name##_body(void *arg); \
    static void name(void **state)      \
    {                                   \
        in_virtual_time(name##_body);   \
    }                                   \
    static void name##_body(void *arg)

/* By age: five seconds after the oldest was given up, and not before. */
weir_co_fn KEEPER_TEST(by_age)
{
    static const struct image_options options = { .size = 0 };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 1) && !image_flush(&image));
    (void)ram_log(image.file);
    WEIR_ASSERT(!image_discard(&image, 0));
    weir_co_sleep(3 * SECOND);
    WEIR_ASSERT(!image_discard(&image, 1));
    weir_co_sleep(2 * SECOND - 100000000);
    ram_expect(image.file, "");
    weir_co_sleep(200000000);
    /* Both: the write-back covers what was given up before it. */
    ram_expect(image.file, "write 4608+512, flush, discard 12288+4096, discard 16384+4096");
    WEIR_ASSERT(!image_stats(&image).quarantine_count && image_stats(&image).self_syncs == 1);
    WEIR_ASSERT(!image_discard(&image, 0)); /* nothing there to give up */
    weir_co_sleep(20 * SECOND);
    ram_expect(image.file, "");
    WEIR_ASSERT(!image_write(&image, 2, 1) && !image_discard(&image, 2));
    weir_co_sleep(6 * SECOND);
    WEIR_ASSERT(image_stats(&image).released == 3 && image_stats(&image).self_syncs == 2); /* a new one */
    image_end(&image);
}

/* By size: more than 64 MiB are not kept for five seconds. */
weir_co_fn KEEPER_TEST(by_size)
{
    static const struct image_options options = { .size = 80 * MIB, .unit = MIB, .room = 70 };
    struct image image = image_new(&options);

    for (unsigned i = 0; i < 66; i++)
        WEIR_ASSERT(!image_write(&image, i, 1));
    WEIR_ASSERT(!image_flush(&image));
    for (unsigned i = 0; i < 64; i++)
        WEIR_ASSERT(!image_discard(&image, i));
    weir_co_sleep(SECOND);
    WEIR_ASSERT(image_stats(&image).quarantine_bytes == 64 * MIB);
    WEIR_ASSERT(!image_discard(&image, 64));
    weir_co_sleep(SECOND / 10);
    WEIR_ASSERT(!image_stats(&image).quarantine_bytes && image_stats(&image).released == 65);
    image_end(&image);
}

/* In a drained node nothing moves; afterwards it is soon done. */
weir_co_fn KEEPER_TEST(not_while_drained)
{
    static const struct image_options options = { .size = 0 };
    struct image image = image_new(&options);
    struct weir_drain drain;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    (void)ram_log(image.file);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &image.node, 1, SECOND, NULL));
    weir_co_sleep(20 * SECOND);
    ram_expect(image.file, "");
    weir_drain_end(&drain);
    weir_graph_unlock();
    weir_co_sleep(SECOND);
    ram_expect(image.file, "write 4608+512, flush, discard 12288+4096");
    image_end(&image);
}

/* A drain waits for the keeper's write-back. */
static weir_co_fn void let_go_later(void *arg)
{
    weir_co_sleep(SECOND);
    ram_release(arg);
}

weir_co_fn KEEPER_TEST(drain_waits_for_it)
{
    static const struct image_options options = { .size = 0 };
    struct image image = image_new(&options);
    struct weir_drain drain;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    image.file->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    weir_co_sleep(6 * SECOND);
    WEIR_ASSERT(image.file->held == 1);
    weir_co_run(let_go_later, image.file);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &image.node, 1, 5 * SECOND, NULL));
    WEIR_ASSERT(!image.file->held && image_stats(&image).released == 1);
    weir_drain_end(&drain);
    weir_graph_unlock();
    image_end(&image);
}

/* It fails and tries again, not without end but every five seconds. */
weir_co_fn KEEPER_TEST(failing)
{
    static const struct image_options options = { .size = 0 };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    image.file->bad_offset = image.header.table_offset;
    image.file->bad_length = 512;
    weir_co_sleep(5 * SECOND + SECOND / 2);
    WEIR_ASSERT(image_stats(&image).self_syncs == 1 && image_stats(&image).quarantine_count == 1);
    weir_co_sleep(10 * SECOND);
    WEIR_ASSERT(image_stats(&image).self_syncs == 3);
    image.file->bad_length = 0;
    weir_co_sleep(5 * SECOND);
    WEIR_ASSERT(image_stats(&image).self_syncs == 4 && !image_stats(&image).quarantine_count);
    image_end(&image);
}

/* A node can go while the keeper waits for its time. */
weir_co_fn KEEPER_TEST(end_of_the_node)
{
    static const struct image_options options = { .size = 0 };
    struct image image = image_new(&options);
    int64_t start;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    settle();
    start = weir_sys->clock_ns();
    image_end(&image);
    WEIR_ASSERT(weir_sys->clock_ns() - start < SECOND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_age),
        cmocka_unit_test(by_size),
        cmocka_unit_test(not_while_drained),
        cmocka_unit_test(drain_waits_for_it),
        cmocka_unit_test(failing),
        cmocka_unit_test(end_of_the_node),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

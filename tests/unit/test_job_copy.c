/* SPDX-License-Identifier: BSD-2-Clause */
/* Copies that somebody waits for: what comes first, who is let go when, and what becomes of late requests. */
#include "ram.h"

#include "base/bitmap.h"
#include "io/async.h"
#include "job/copy.h"

#define GRANULE ((uint64_t)(64 * KIB))
#define LIMIT_NS 2000000

struct setup {
    struct ram *source, *target;
    struct weir_edge *gate;
    struct weir_copy_options options;
    struct weir_copy *copy;
};

static void no_guests(void *opaque, struct weir_pace_guests *ret_guests)
{
    (void)opaque;
    *ret_guests = (struct weir_pace_guests){ 0 };
}

static void nothing(void *opaque)
{
    (void)opaque;
}

/* A source full of 's' and a target full of 't'. */
static weir_co_fn void begin(struct setup *setup)
{
    struct weir_node *source, *target;

    ram_register();
    source = add("{'driver':'ram','node-name':'source'}");
    target = add("{'driver':'ram','node-name':'target'}");
    setup->source = ram_of("source");
    setup->target = ram_of("target");
    memset(setup->source->data, 's', MIB);
    memset(setup->target->data, 't', MIB);
    setup->gate = user(source, 0, ALL);
    setup->options = (struct weir_copy_options){
        .loop = weir_loop_control(),
        .gate = setup->gate,
        .transfer = { .source = user(source, R, ALL), .target = user(target, W, ALL) },
        .ranges = weir_range_table_new(),
        .bitmap = weir_bitmap_new(MIB, GRANULE),
        .memory = MIB,
        .share = 20,
        .guests = no_guests,
        .changed = nothing,
    };
    setup->copy = weir_copy_new(&setup->options);
}

static weir_co_fn void end(struct setup *setup)
{
    weir_copy_stop(setup->copy);
    weir_copy_free(setup->copy);
    weir_range_table_free(setup->options.ranges);
    weir_bitmap_free(setup->options.bitmap);
    leave(setup->options.transfer.source);
    leave(setup->options.transfer.target);
    leave(setup->gate);
    del("source");
    del("target");
}

static weir_co_fn int now(struct setup *setup, uint64_t offset, uint64_t length, int64_t limit_ns)
{
    bool write;

    return weir_copy_now(setup->copy, offset, length, limit_ns, &write);
}

/* Whether granule @index of the target holds @byte all over. */
static bool target_is(const struct setup *setup, unsigned index, char byte)
{
    const char *data = setup->target->data + index * GRANULE;

    return data[0] == byte && !memcmp(data, data + 1, GRANULE - 1);
}

static bool is_marked(const struct setup *setup, unsigned index)
{
    return weir_bitmap_get(setup->options.bitmap, index * GRANULE);
}

static bool is_locked(const struct setup *setup, unsigned index)
{
    struct weir_range_lock lock = { 0 };
    bool locked = !weir_range_try_lock(setup->options.ranges, &lock, index * GRANULE, GRANULE, true);

    if (!locked)
        weir_range_unlock(&lock);
    return locked;
}

struct waiting {
    struct setup *setup;
    uint64_t offset, length;
    int64_t limit_ns;
    bool over, write;
    int result;
};

static weir_co_fn void wait_run(void *arg)
{
    struct waiting *waiting = arg;

    waiting->result = weir_copy_now(waiting->setup->copy, waiting->offset, waiting->length, waiting->limit_ns,
                                    &waiting->write);
    waiting->over = true;
}

static weir_co_fn void wait_over(const struct waiting *waiting)
{
    while (!waiting->over)
        weir_co_sleep(100000);
}

/* Whole granules, those that are marked, and no others. */
weir_co_fn DRIVER_TEST(what_is_marked)
{
    struct setup setup;

    begin(&setup);
    weir_bitmap_set(setup.options.bitmap, 0, GRANULE);
    weir_bitmap_set(setup.options.bitmap, 2 * GRANULE, 3 * GRANULE);
    WEIR_ASSERT(!now(&setup, GRANULE - 1, 2 * GRANULE + 2, -1));
    for (unsigned i = 0; i < 5; i++) {
        WEIR_ASSERT(target_is(&setup, i, i == 1 || i == 4 ? 't' : 's'));
        WEIR_ASSERT(is_marked(&setup, i) == (i == 4) && !is_locked(&setup, i));
    }
    WEIR_ASSERT(weir_copy_state(setup.copy).copied == 3 * GRANULE && !weir_copy_state(setup.copy).taken);
    weir_bitmap_set(setup.options.bitmap, 15 * GRANULE, GRANULE);
    WEIR_ASSERT(!now(&setup, MIB - 1, 1, LIMIT_NS * 1000) && target_is(&setup, 15, 's'));
    end(&setup);
}

/* Neither a pause nor a speed of a byte a second holds it up; the workers make up for the speed later. */
weir_co_fn DRIVER_TEST(ahead_of_everything)
{
    struct setup setup;

    begin(&setup);
    setup.options.speed = 1;
    weir_copy_free(setup.copy);
    setup.copy = weir_copy_new(&setup.options);
    weir_copy_set_paused(setup.copy, true);
    weir_copy_start(setup.copy);
    weir_bitmap_set(setup.options.bitmap, 0, MIB);
    WEIR_ASSERT(!now(&setup, 3 * GRANULE, 1, -1) && target_is(&setup, 3, 's'));
    weir_copy_set_paused(setup.copy, false);
    settle();
    WEIR_ASSERT(!now(&setup, 8 * GRANULE, 1, -1) && target_is(&setup, 8, 's'));
    for (unsigned i = 0; i < 16; i++)
        WEIR_ASSERT(i == 3 || i == 8 || target_is(&setup, i, 't'));
    end(&setup);
}

/* What a worker has taken is marked no more, but not copied yet either. */
weir_co_fn DRIVER_TEST(waits_for_a_worker)
{
    struct setup setup;
    struct waiting waiting = { &setup, 0, 1, -1, false, false, 0 };

    begin(&setup);
    setup.target->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    weir_bitmap_set(setup.options.bitmap, 0, GRANULE);
    weir_copy_start(setup.copy);
    ram_wait_held(setup.target, 1);
    weir_co_run(wait_run, &waiting);
    settle();
    WEIR_ASSERT(!is_marked(&setup, 0) && !waiting.over);
    WEIR_ASSERT(now(&setup, 0, 1, LIMIT_NS) == -ETIMEDOUT && is_locked(&setup, 0));
    ram_release(setup.target);
    wait_over(&waiting);
    WEIR_ASSERT(!waiting.result && target_is(&setup, 0, 's') && !is_locked(&setup, 0));
    end(&setup);
}

/* A write that comes late lands on nothing newer: until then nobody gets its range. */
weir_co_fn DRIVER_TEST(late_write)
{
    struct setup setup;
    struct weir_node *target;
    bool write;

    begin(&setup);
    target = setup.options.transfer.target->node;
    setup.target->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    weir_bitmap_set(setup.options.bitmap, 0, 2 * GRANULE);
    do
        WEIR_ASSERT(weir_copy_now(setup.copy, 0, 1, LIMIT_NS, &write) == -ETIMEDOUT);
    while (!setup.target->held); /* on a busy machine the limit may pass before the write begins */
    WEIR_ASSERT(write && is_locked(&setup, 0) && !is_locked(&setup, 1));
    WEIR_ASSERT(atomic_load(&target->left_behind) == 1 && !weir_copy_state(setup.copy).idle);
    WEIR_ASSERT(now(&setup, 0, 1, LIMIT_NS) == -ETIMEDOUT && setup.target->held == 1);
    ram_release(setup.target);
    while (is_locked(&setup, 0) || atomic_load(&target->left_behind))
        weir_co_pause();
    WEIR_ASSERT(target_is(&setup, 0, 's') && !is_marked(&setup, 0) && is_marked(&setup, 1));
    end(&setup);
}

/* A read that comes late leads to no write. */
weir_co_fn DRIVER_TEST(late_read)
{
    struct setup setup;
    bool write;

    begin(&setup);
    setup.source->hold = WEIR_OP_BIT(WEIR_OP_READ);
    weir_bitmap_set(setup.options.bitmap, 0, GRANULE);
    WEIR_ASSERT(weir_copy_now(setup.copy, 0, 1, LIMIT_NS, &write) == -ETIMEDOUT && !write);
    while (is_locked(&setup, 0))
        weir_co_pause();
    WEIR_ASSERT(is_marked(&setup, 0));
    ram_release(setup.source);
    while (weir_edge_abandoned(setup.options.transfer.source))
        weir_co_pause();
    settle();
    WEIR_ASSERT(target_is(&setup, 0, 't'));
    WEIR_ASSERT(!now(&setup, 0, 1, -1) && target_is(&setup, 0, 's'));
    end(&setup);
}

weir_co_fn DRIVER_TEST(failures)
{
    struct setup setup;
    bool write;

    begin(&setup);
    weir_bitmap_set(setup.options.bitmap, 0, 2 * GRANULE);
    setup.source->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(weir_copy_now(setup.copy, 0, 2 * GRANULE, -1, &write) == -EIO && !write);
    WEIR_ASSERT(is_marked(&setup, 0) && is_marked(&setup, 1));
    setup.target->bad_offset = GRANULE;
    setup.target->bad_length = 1;
    WEIR_ASSERT(weir_copy_now(setup.copy, 0, 2 * GRANULE, -1, &write) == -EIO && write);
    WEIR_ASSERT(is_marked(&setup, 1) && !weir_copy_state(setup.copy).error &&
                !weir_copy_state(setup.copy).taken);
    setup.target->bad_offset = setup.target->bad_length = 0;
    WEIR_ASSERT(!now(&setup, 0, 2 * GRANULE, -1) && target_is(&setup, 0, 's') && target_is(&setup, 1, 's'));
    end(&setup);
}

struct stopping {
    struct weir_copy *copy;
    bool over;
};

static weir_co_fn void stop_run(void *arg)
{
    struct stopping *stopping = arg;

    weir_copy_stop(stopping->copy);
    stopping->over = true;
}

/* A stop lets everybody go once the edges are broken, and is not over before. */
weir_co_fn DRIVER_TEST(stopped)
{
    struct setup setup;
    struct waiting writes = { &setup, 0, 1, -1, false, false, 0 },
                   waits = { &setup, 1, 1, -1, false, false, 0 };
    struct stopping stopping = { .over = false };

    begin(&setup);
    stopping.copy = setup.copy;
    setup.target->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    weir_bitmap_set(setup.options.bitmap, 0, GRANULE);
    weir_co_run(wait_run, &writes);
    ram_wait_held(setup.target, 1);
    weir_co_run(wait_run, &waits);
    weir_co_run(stop_run, &stopping);
    wait_over(&waits);
    WEIR_ASSERT(waits.result == -ECANCELED && !writes.over && !stopping.over);
    weir_edge_break(setup.options.transfer.target);
    wait_over(&writes);
    WEIR_ASSERT(writes.result == -ECANCELED && is_marked(&setup, 0));
    while (!stopping.over)
        weir_co_pause();
    WEIR_ASSERT(now(&setup, 0, 1, -1) == -ECANCELED);
    ram_release(setup.target);
    while (weir_edge_abandoned(setup.options.transfer.target))
        weir_co_pause();
    end(&setup);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_marked),
        cmocka_unit_test(ahead_of_everything),
        cmocka_unit_test(waits_for_a_worker),
        cmocka_unit_test(late_write),
        cmocka_unit_test(late_read),
        cmocka_unit_test(failures),
        cmocka_unit_test(stopped),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

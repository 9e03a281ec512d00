/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutines and loops of the library in the simulated world: reproducible, nothing left over, new lives after
 * power cuts.
 */
#include "sim_world.h"
#include "unit.h"
#include "base/alloc.h"
#include "co/co.h"
#include "sys/sim/heap.h"
#include <fcntl.h>
#include <stdlib.h>

/* Whether static variables of an abandoned life can be put back. */
static WEIR_SIM_KEPT bool fresh_lives;

#define GUESTS 4
#define REQUESTS 60
#define BLOCK 4096u
#define BLOCKS 32u

struct life {
    struct weir_loop *loops[3];
    struct weir_co_mutex order;
    struct weir_co_group guests;
    int fd;
    unsigned finished;
};

static int open_disk(void *arg)
{
    return weir_sys->file.open("disk", O_RDWR, 0);
}

static int close_disk(void *arg)
{
    weir_sys->file.close(((struct life *)arg)->fd);
    return 0;
}

static void one_request(struct life *life, uint8_t *buffer) weir_co_fn;
static void one_request(struct life *life, uint8_t *buffer)
{
    struct iovec iov = { buffer, BLOCK };
    struct weir_sys_io io = { .fd = life->fd, .iov = &iov, .iovcnt = 1 };
    int result;

    io.offset = weir_sim_random(BLOCKS) * BLOCK;
    io.op = weir_sim_random(3) ? WEIR_SYS_WRITE : WEIR_SYS_READ;
    if (weir_sim_random(10) == 0)
        io = (struct weir_sys_io){ .fd = life->fd, .op = WEIR_SYS_FSYNC };
    if (weir_sim_random(4) == 0)
        weir_co_mutex_lock(&life->order);
    result = weir_co_io(&io);
    WEIR_ASSERT(result == (io.op == WEIR_SYS_FSYNC ? 0 : (int)BLOCK));
    if (life->order.owner == weir_co_self())
        weir_co_mutex_unlock(&life->order);
}

static void guest(void *arg) weir_co_fn;
static void guest(void *arg)
{
    struct life *life = arg;
    uint8_t *buffer = weir_try_alloc(BLOCK, 512);

    WEIR_ASSERT(buffer);
    memset(buffer, (int)weir_sim_random(256), BLOCK);
    for (unsigned i = 0; i < REQUESTS; i++) {
        if (weir_sim_random(8) == 0)
            weir_co_move(life->loops[weir_sim_random(3)]);
        if (weir_sim_random(8) == 0)
            weir_co_sleep((int64_t)weir_sim_random(100000));
        one_request(life, buffer);
        life->finished++;
    }
    free(buffer);
    weir_co_move(weir_loop_control());
}

static void operate(void *arg) weir_co_fn;
static void operate(void *arg)
{
    struct life *life = arg;

    life->loops[0] = weir_loop_control();
    WEIR_ASSERT(weir_loop_new("one", &life->loops[1], NULL) == 0);
    WEIR_ASSERT(weir_loop_new("two", &life->loops[2], NULL) == 0);
    weir_co_mutex_init(&life->order);
    weir_co_group_init(&life->guests);
    life->fd = weir_co_work(open_disk, NULL);
    WEIR_ASSERT(life->fd >= 0);
    for (unsigned i = 0; i < GUESTS; i++)
        weir_co_group_start(&life->guests, guest, life);
    weir_co_group_wait(&life->guests, 0);
    (void)weir_co_work(close_disk, life);
    weir_co_group_done(&life->guests);
    weir_co_mutex_done(&life->order);
    weir_loop_free(life->loops[1]);
    weir_loop_free(life->loops[2]);
    weir_loop_stop(weir_loop_control());
}

static void process_main(void *arg)
{
    WEIR_ASSERT(weir_runtime_init(NULL) == 0);
    weir_co_start(weir_loop_control(), operate, arg);
    weir_runtime_run();
    WEIR_ASSERT(weir_co_alive() == 0);
    weir_runtime_done();
}

static uint64_t run_seed(uint64_t seed, bool shift)
{
    struct weir_sim_file_options options = { .size = BLOCKS * BLOCK };
    struct weir_sim_profile profile;
    struct life life = { .finished = 0 };
    uint64_t hash;

    weir_sim_heap_begin();
    weir_sim_profile_random(&profile, seed);
    weir_sim_begin(seed, &profile);
    if (shift)
        weir_sim_heap_shift(seed);
    (void)weir_sim_file_new("disk", &options);
    sim_finish(process_main, &life);
    assert_int_equal(life.finished, GUESTS * REQUESTS);
    assert_int_equal(weir_sim_descriptors(), 0);
    assert_int_equal(weir_sim_stats()->loop_blocked, 0);
    hash = weir_sim_hash();
    weir_sim_end();
    assert_int_equal(weir_sim_heap_live(), 0);
    return hash;
}

static void a_seed_gives_one_history(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        uint64_t hash = run_seed(seed, false);

        assert_int_equal(run_seed(seed, false), hash);
        assert_int_equal(run_seed(seed, true), hash);
        assert_int_not_equal(run_seed(seed + 1000, false), hash);
    }
    weir_sim_heap_end();
}

static void many_lives_of_one_disk(void **state)
{
    struct weir_sim_file_options options = { .size = BLOCKS * BLOCK };
    unsigned cut_short = 0;

    if (!fresh_lives)
        skip();
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct weir_sim_profile profile;

        weir_sim_profile_random(&profile, seed);
        weir_sim_begin(seed, &profile);
        (void)weir_sim_file_new("disk", &options);
        for (unsigned number = 0; number < 4; number++) {
            struct weir_sim_limits limits = { .events = 1 + weir_sim_random(400) };
            /* Abandoned with the life that uses it. */
            static WEIR_SIM_KEPT struct life lives[4];

            lives[number] = (struct life){ .finished = 0 };
            weir_sim_spawn("main", process_main, &lives[number]);
            weir_sim_heap_begin();
            cut_short += weir_sim_run(&limits) == WEIR_SIM_TIMEOUT;
            weir_sim_power_cut();
            weir_sim_heap_forget();
            assert_int_equal(weir_co_alive(), 0);
        }
        weir_sim_end();
        assert_int_equal(run_seed(seed, false), run_seed(seed, false));
    }
    assert_in_range(cut_short, 40, 80);
    weir_sim_heap_end();
}

static void nobody_wakes_it(void *arg) weir_co_fn;
static void nobody_wakes_it(void *arg)
{
    weir_co_yield();
}

static void hang(void *arg)
{
    WEIR_ASSERT(weir_runtime_init(NULL) == 0);
    weir_co_start(weir_loop_control(), nobody_wakes_it, NULL);
    weir_runtime_run();
}

static void a_hang_is_seen(void **state)
{
    if (!fresh_lives)
        skip();
    weir_sim_heap_begin();
    sim_begin(1);
    weir_sim_spawn("main", hang, NULL);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_IDLE);
    assert_int_equal(weir_co_alive(), 1);
    weir_sim_power_cut();
    weir_sim_heap_forget();
    assert_int_equal(weir_co_alive(), 0);
    weir_sim_end();
    weir_sim_heap_end();
}

static void what_is_left_is_counted(void **state)
{
    void *volatile kept, *volatile moved; /* or the compiler sees that nobody needs them */

    weir_sim_heap_begin();
    kept = malloc(10);
    moved = realloc(calloc(3, 3), 1000);
    assert_int_equal(weir_sim_heap_live(), 2);
    free(kept);
    assert_int_equal(weir_sim_heap_live(), 1);
    free(moved);
    free(NULL);
    assert_int_equal(weir_sim_heap_live(), 0);
    weir_sim_heap_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_is_counted),
        cmocka_unit_test(a_seed_gives_one_history),
        cmocka_unit_test(many_lives_of_one_disk),
        cmocka_unit_test(a_hang_is_seen),
    };

    fresh_lives = weir_sim_statics_save();
    return cmocka_run_group_tests(tests, NULL, NULL);
}

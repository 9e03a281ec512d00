/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The same loops and coroutines in the simulated world: many orders of threads, each from a seed. A lost wake
 * leaves the world idle, a second entry into a coroutine or a broken lock trips an assertion.
 */
#include "sim_world.h"
#include "unit.h"
#include "world.h"
#include <errno.h>

#define LOOPS 3
#define ACTORS 8
#define ROUNDS 12

struct scene {
    struct weir_loop *loops[LOOPS];
    struct weir_co_mutex mutex;
    unsigned inside, entries;
    struct weir_mutex lock;
    struct weir_co_queue queue;
    unsigned tickets, taken, timeouts;
    struct weir_co_group group;
    unsigned started;
    unsigned works, late, released;
    bool ended;
};

static void hold_mutex(struct scene *scene, bool pause) weir_co_fn;
static void hold_mutex(struct scene *scene, bool pause)
{
    weir_co_mutex_lock(&scene->mutex);
    WEIR_ASSERT(scene->inside++ == 0);
    if (pause)
        weir_co_pause();
    WEIR_ASSERT(--scene->inside == 0);
    scene->entries++;
    weir_co_mutex_unlock(&scene->mutex);
}

static void give_ticket(struct scene *scene)
{
    WEIR_SCOPE_LOCK(&scene->lock);
    scene->tickets++;
    (void)weir_co_queue_wake_one(&scene->queue);
}

static void take_ticket(struct scene *scene, int64_t limit_ns) weir_co_fn;
static void take_ticket(struct scene *scene, int64_t limit_ns)
{
    WEIR_SCOPE_LOCK(&scene->lock);

    while (!scene->tickets) {
        int64_t deadline = limit_ns < 0 ? -1 : weir_sys->clock_ns() + limit_ns;
        int result = weir_co_queue_wait_until(&scene->queue, &scene->lock, deadline);

        if (result == -ETIMEDOUT)
            scene->timeouts++;
    }
    scene->tickets--;
    scene->taken++;
}

static int work(void *arg)
{
    return 3;
}

static void release(void *arg)
{
    struct scene *scene = arg;

    scene->released++;
}

static void call_worker(struct scene *scene, int64_t limit_ns) weir_co_fn;
static void call_worker(struct scene *scene, int64_t limit_ns)
{
    int result = weir_co_work_until(work, release, scene, weir_sys->clock_ns() + limit_ns);

    WEIR_ASSERT(result == 3 || result == -ETIMEDOUT);
    scene->works++;
    scene->late += result == -ETIMEDOUT;
}

static void act(void *arg) weir_co_fn;
static void act(void *arg)
{
    struct scene *scene = arg;
    bool gives = scene->started++ % 2 == 0; /* the others take */

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t dice = weir_sys->random();
        struct weir_loop *loop = scene->loops[dice % LOOPS];

        weir_co_move(loop);
        WEIR_ASSERT(weir_loop_self() == loop);
        hold_mutex(scene, dice & 8);
        if (dice & 16)
            weir_co_sleep((int64_t)(dice >> 8) % 3000);
        else
            weir_co_wake(weir_co_self());
        if (gives)
            give_ticket(scene);
        else
            take_ticket(scene, dice & 32 ? 500 : -1);
        if (dice & 64)
            call_worker(scene, (int64_t)(dice >> 8) % 4000);
    }
}

static void direct(void *arg) weir_co_fn;
static void direct(void *arg)
{
    struct scene *scene = arg;

    scene->loops[0] = weir_loop_control();
    scene->loops[1] = new_loop("one");
    scene->loops[2] = new_loop("two");
    weir_co_mutex_init(&scene->mutex);
    weir_mutex_init(&scene->lock);
    weir_co_queue_init(&scene->queue);
    weir_co_group_init(&scene->group);
    for (unsigned i = 0; i < ACTORS; i++) {
        weir_co_group_wait(&scene->group, ACTORS / 2);
        weir_co_group_start(&scene->group, act, scene);
    }
    weir_co_group_wait(&scene->group, 0);
    weir_co_group_done(&scene->group);
    weir_loop_free(scene->loops[1]);
    weir_loop_free(scene->loops[2]);
    WEIR_ASSERT(scene->entries == ACTORS * ROUNDS && scene->taken == ACTORS / 2 * ROUNDS && !scene->tickets);
    WEIR_ASSERT(weir_co_queue_empty(&scene->queue));
    weir_mutex_done(&scene->lock);
    weir_co_mutex_done(&scene->mutex);
    scene->ended = true;
}

static void simulated_main(void *arg)
{
    run_world(direct, arg);
}

/* Adds to @sums what happened, so that the test can ask for a mixture of everything. */
static uint64_t play(uint64_t seed, uint64_t shift, struct scene *sums)
{
    struct scene scene = { 0 };
    struct weir_sim_profile profile;
    uint64_t hash;

    weir_sim_profile_init(&profile);
    profile.preempt_every = 1 + (uint32_t)(seed % 7);
    profile.overlap_ns = seed % 2 ? 300 : 0;
    profile.work = (struct weir_sim_latency){ .min_ns = 100, .mean_ns = 1000 };
    weir_sim_begin(seed, &profile);
    if (shift)
        weir_sim_heap_shift(shift);
    sim_finish(simulated_main, &scene);
    assert_true(scene.ended);
    /* The world has finished, so have all workers: each late call was released. */
    assert_int_equal(scene.released, scene.late);
    hash = weir_sim_hash();
    weir_sim_end();
    sums->timeouts += scene.timeouts;
    sums->works += scene.works;
    sums->late += scene.late;
    return hash;
}

static void all_orders_end_well(void **state)
{
    struct scene sums = { 0 };

    for (uint64_t seed = 1; seed <= 300; seed++)
        (void)play(seed, 0, &sums);
    assert_in_range(sums.timeouts, 100, 1000000);
    assert_in_range(sums.late, 100, sums.works - 100);
}

static void no_order_depends_on_an_address(void **state)
{
    struct scene sums = { 0 };

    for (uint64_t seed = 1; seed <= 30; seed++) {
        uint64_t hash = play(seed, 0, &sums);

        assert_int_equal(play(seed, seed, &sums), hash);
        assert_int_not_equal(play(seed + 1000, 0, &sums), hash);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_orders_end_well),
        cmocka_unit_test(no_order_depends_on_an_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

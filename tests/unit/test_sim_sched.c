/* SPDX-License-Identifier: BSD-2-Clause */
/* The simulator's threads, time, mutexes and workers; that a seed determines everything that happens. */
#include "sim_world.h"
#include "unit.h"
#include "sys/mutex.h"
#include <stdlib.h>

/* ---- time ---- */

static void sleep_twice(void *arg)
{
    WEIR_ASSERT(weir_sim_now() == 0);
    weir_sim_sleep(1000);
    WEIR_ASSERT(weir_sim_now() == 1000 && weir_sys->clock_ns() == 1000);
    weir_sim_sleep(5);
    *(int64_t *)arg = weir_sim_now();
}

static void time_moves_by_sleeping_only(void **state)
{
    int64_t end = 0;

    sim_begin(1);
    sim_finish(sleep_twice, &end);
    assert_int_equal(end, 1005);
    assert_int_equal(weir_sim_threads(), 0);
    weir_sim_end();
}

/* ---- orders ---- */

static void note(void *arg)
{
    char *text = arg;

    for (unsigned i = 0; i < 3; i++) {
        size_t length = strlen(text);

        text[length] = (char)weir_sys->random();
        text[length] = (char)('a' + i);
        weir_sys->thread.preempt();
    }
}

static void start_three(void *arg)
{
    void *threads[3];

    for (unsigned i = 0; i < 3; i++)
        WEIR_ASSERT(weir_sys->thread.start("note", note, arg, &threads[i]) == 0);
    for (unsigned i = 0; i < 3; i++)
        weir_sys->thread.join(threads[i]);
}

/* How three threads that write letters mix. */
static uint64_t mixture(uint64_t seed, uint64_t shift, char text[16])
{
    struct weir_sim_profile profile;
    uint64_t hash;

    memset(text, 0, 16);
    weir_sim_profile_init(&profile);
    profile.preempt_every = 2;
    weir_sim_begin(seed, &profile);
    if (shift)
        weir_sim_heap_shift(shift);
    sim_finish(start_three, text);
    hash = weir_sim_hash();
    weir_sim_end();
    return hash;
}

static void a_seed_decides_everything(void **state)
{
    char first[16], again[16];
    unsigned different = 0;

    for (uint64_t seed = 1; seed <= 200; seed++) {
        uint64_t hash = mixture(seed, 0, first);

        assert_int_equal(mixture(seed, 0, again), hash);
        assert_string_equal(first, again);
        assert_int_equal(mixture(seed, seed, again), hash);
        assert_string_equal(first, again);
        different += mixture(seed + 1, 0, again) != hash && strcmp(first, again) != 0;
    }
    assert_in_range(different, 150, 200);
}

/* ---- mutexes ---- */

struct counter {
    struct weir_mutex lock;
    unsigned value, contended;
    bool inside;
};

static void count_up(void *arg)
{
    struct counter *counter = arg;

    for (unsigned i = 0; i < 50; i++) {
        unsigned seen;

        counter->contended += counter->lock.taken;
        weir_mutex_lock(&counter->lock);
        WEIR_ASSERT(weir_mutex_held() == 1 && !counter->inside);
        counter->inside = true;
        seen = counter->value;
        weir_sys->thread.preempt();
        counter->value = seen + 1;
        counter->inside = false;
        weir_mutex_unlock(&counter->lock);
        WEIR_ASSERT(weir_mutex_held() == 0);
    }
}

static void mutexes_exclude(void **state)
{
    struct counter counter = { .value = 0 };
    struct weir_sim_profile profile;

    weir_sim_profile_init(&profile);
    profile.preempt_every = 3;
    weir_sim_begin(7, &profile);
    weir_mutex_init(&counter.lock);
    for (unsigned i = 0; i < 3; i++)
        weir_sim_spawn("counter", count_up, &counter);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_FINISHED);
    assert_int_equal(counter.value, 150);
    assert_in_range(counter.contended, 5, 150);
    assert_in_range(weir_sim_stats()->preemptions, 10, 100000);
    weir_mutex_done(&counter.lock);
    weir_sim_end();
}

struct pair {
    struct weir_mutex first, second;
};

static void lock_forward(void *arg)
{
    struct pair *pair = arg;

    weir_mutex_lock(&pair->first);
    weir_sim_sleep(100);
    weir_mutex_lock(&pair->second);
}

static void lock_backward(void *arg)
{
    struct pair *pair = arg;

    weir_mutex_lock(&pair->second);
    weir_sim_sleep(100);
    weir_mutex_lock(&pair->first);
}

static void mutex_deadlock_is_a_timeout(void **state)
{
    const struct weir_sim_limits limits = { .steps = 20000 };
    struct pair pair;

    sim_begin(3);
    weir_mutex_init(&pair.first);
    weir_mutex_init(&pair.second);
    weir_sim_spawn("forward", lock_forward, &pair);
    weir_sim_spawn("backward", lock_backward, &pair);
    assert_int_equal(weir_sim_run(&limits), WEIR_SIM_TIMEOUT);
    weir_sim_end();
}

/* ---- ends of a run ---- */

static void poll_for_ever(void *arg)
{
    struct weir_sys_loop *loop;

    WEIR_ASSERT(weir_sys->loop.open(&loop) == 0);
    *(struct weir_sys_loop **)arg = loop;
    for (;;)
        weir_sys->loop.poll(loop, -1);
}

static void kick(void *arg)
{
    weir_sys->loop.kick(*(struct weir_sys_loop **)arg);
}

static void nothing_left_to_happen_is_idle(void **state)
{
    struct weir_sys_loop *loop;

    sim_begin(3);
    weir_sim_spawn("poller", poll_for_ever, &loop);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_IDLE);
    assert_int_equal(weir_sim_threads(), 1);
    /* A run may go on, when something has happened from outside. */
    weir_sim_spawn("kicker", kick, &loop);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_IDLE);
    weir_sim_end();
}

static void look_again_and_again(void *arg)
{
    struct weir_sys_loop *loop;

    WEIR_ASSERT(weir_sys->loop.open(&loop) == 0);
    while (!*(bool *)arg)
        weir_sys->loop.poll(loop, 0);
    weir_sys->loop.close(loop);
}

static void set_later(void *arg)
{
    weir_sim_sleep(1000000);
    *(bool *)arg = true;
}

static void polling_without_waiting_does_not_stop_time(void **state)
{
    bool flag = false;

    sim_begin(5);
    weir_sim_spawn("looker", look_again_and_again, &flag);
    weir_sim_spawn("setter", set_later, &flag);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_FINISHED);
    weir_sim_end();
}

static void sleep_often(void *arg)
{
    for (unsigned i = 0; i < 100; i++)
        weir_sim_sleep(1000);
}

static void stop_early(void *arg)
{
    weir_sim_sleep(50500);
    weir_sim_stop();
}

static void runs_have_limits(void **state)
{
    sim_begin(3);
    weir_sim_spawn("sleeper", sleep_often, NULL);
    assert_int_equal(weir_sim_run(&(struct weir_sim_limits){ .time_ns = 10500 }), WEIR_SIM_TIMEOUT);
    assert_int_equal(weir_sim_now(), 10500);
    assert_int_equal(weir_sim_run(&(struct weir_sim_limits){ .events = 10 }), WEIR_SIM_TIMEOUT);
    assert_int_equal(weir_sim_now(), 20000);
    weir_sim_spawn("stopper", stop_early, NULL);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_STOPPED);
    assert_int_equal(weir_sim_now(), 70500);
    assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_FINISHED);
    assert_int_equal(weir_sim_now(), 100000);
    weir_sim_end();
}

/* ---- workers ---- */

struct job {
    struct weir_sys_work work;
    struct jobs *jobs;
};

struct jobs {
    struct job job[20];
    unsigned running, most, over;
};

static void job_run(struct weir_sys_work *work)
{
    struct jobs *jobs = weir_container_of(work, struct job, work)->jobs;

    jobs->running++;
    jobs->most = WEIR_MAX(jobs->most, jobs->running);
    weir_sim_sleep(1000000);
    jobs->running--;
}

static void job_done(struct weir_sys_work *work)
{
    weir_container_of(work, struct job, work)->jobs->over++;
}

static void hand_out(void *arg)
{
    struct jobs *jobs = arg;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(jobs->job); i++) {
        jobs->job[i] = (struct job){ .work = { .run = job_run, .done = job_done }, .jobs = jobs };
        weir_sys->thread.work(&jobs->job[i].work);
    }
}

static void workers_are_limited(void **state)
{
    struct weir_sim_profile profile;
    struct jobs jobs = { .over = 0 };

    weir_sim_profile_init(&profile);
    profile.workers = 3;
    weir_sim_begin(9, &profile);
    sim_finish(hand_out, &jobs);
    assert_int_equal(jobs.over, 20);
    assert_int_equal(jobs.most, 3);
    assert_int_equal(weir_sim_stats()->works, 20);
    assert_int_equal(weir_sim_stats()->workers_max, 3);
    weir_sim_end();
}

/* ---- the next life ---- */

static unsigned lost_static;
static WEIR_SIM_KEPT unsigned kept_static;

static void use_statics(void *arg)
{
    WEIR_ASSERT(lost_static == 0);
    lost_static++;
    kept_static++;
    weir_sim_sleep(1000000000);
}

static void a_life_begins_with_fresh_statics(void **state)
{
    if (!weir_sim_statics_save())
        skip();
    sim_begin(1);
    for (unsigned life = 1; life <= 3; life++) {
        weir_sim_spawn("life", use_statics, NULL);
        assert_int_equal(weir_sim_run(&(struct weir_sim_limits){ .time_ns = 1000 }), WEIR_SIM_TIMEOUT);
        assert_int_equal(lost_static, 1);
        if (life % 2)
            weir_sim_power_cut();
        else
            weir_sim_kill();
        assert_int_equal(lost_static, 0);
        assert_int_equal(kept_static, life);
        assert_int_equal(weir_sim_threads(), 0);
    }
    assert_int_equal(weir_sim_stats()->power_cuts, 2);
    assert_int_equal(weir_sim_stats()->kills, 1);
    weir_sim_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_moves_by_sleeping_only),
        cmocka_unit_test(a_seed_decides_everything),
        cmocka_unit_test(mutexes_exclude),
        cmocka_unit_test(mutex_deadlock_is_a_timeout),
        cmocka_unit_test(nothing_left_to_happen_is_idle),
        cmocka_unit_test(polling_without_waiting_does_not_stop_time),
        cmocka_unit_test(runs_have_limits),
        cmocka_unit_test(workers_are_limited),
        cmocka_unit_test(a_life_begins_with_fresh_statics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

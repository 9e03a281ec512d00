/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A world's beginning and end, power cuts, the trace hash, profiles, and the table that the library sees.
 */
#include "sys/sim/world.h"
#include <string.h>

/* Wall time at time 0: an arbitrary Saturday. */
#define EPOCH_NS (1700000000ll * 1000000000ll)

WEIR_SIM_KEPT struct sim_world *sim_world;

/* ---- profiles ---- */

void weir_sim_profile_init(struct weir_sim_profile *ret_profile)
{
    static const struct weir_sim_latency data = { 2000, 40000, 2000000, 2000 };
    static const struct weir_sim_latency control = { 500, 5000, 200000, 2000 };

    memset(ret_profile, 0, sizeof(*ret_profile));
    for (unsigned kind = 0; kind < WEIR_SIM_KINDS; kind++)
        ret_profile->io[kind].latency = kind == WEIR_SIM_CONTROL ? control : data;
    ret_profile->io[WEIR_SIM_FLUSH].latency.mean_ns = 200000;
    ret_profile->work = control;
    ret_profile->net = control;
    ret_profile->workers = 64;
    ret_profile->preempt_every = 60;
    ret_profile->overlap_ns = 200000;
    ret_profile->two_step_ppm = 300000;
    ret_profile->nowait_ppm = 500000;
    ret_profile->cancel_ppm = 500000;
    ret_profile->flush_lose_ppm = 500000;
    ret_profile->net_split_ppm = 200000;
    ret_profile->net_buffer = 65536;
}

void weir_sim_profile_random(struct weir_sim_profile *ret_profile, uint64_t seed)
{
    static const uint32_t nowait[] = { 0, 300000, 700000, WEIR_SIM_ALWAYS };
    static const uint32_t preempt[] = { 0, 8, 30, 100, 400, 2000 };
    static const int64_t mean[] = { 0, 5000, 40000, 40000, 400000 };
    static const unsigned workers[] = { 1, 2, 4, 64 };
    struct sim_random random;

    weir_sim_profile_init(ret_profile);
    sim_random_init(&random, seed, 0x70726f66);
    for (unsigned kind = 0; kind < WEIR_SIM_KINDS; kind++) {
        ret_profile->io[kind].latency.mean_ns = mean[sim_random_below(&random, WEIR_ARRAY_SIZE(mean))];
        ret_profile->io[kind].latency.spike_ppm = (uint32_t)sim_random_below(&random, 3) * 10000;
    }
    ret_profile->work.mean_ns = mean[sim_random_below(&random, WEIR_ARRAY_SIZE(mean))];
    ret_profile->net.mean_ns = mean[sim_random_below(&random, WEIR_ARRAY_SIZE(mean))];
    ret_profile->workers = workers[sim_random_below(&random, WEIR_ARRAY_SIZE(workers))];
    ret_profile->preempt_every = preempt[sim_random_below(&random, WEIR_ARRAY_SIZE(preempt))];
    ret_profile->overlap_ns = (int64_t)sim_random_below(&random, 4) * 100000;
    ret_profile->two_step_ppm = (uint32_t)sim_random_below(&random, 3) * 300000;
    ret_profile->nowait_ppm = nowait[sim_random_below(&random, WEIR_ARRAY_SIZE(nowait))];
    ret_profile->net_split_ppm = (uint32_t)sim_random_below(&random, 4) * 250000;
    ret_profile->net_buffer = 1024u << sim_random_below(&random, 8);
}

void weir_sim_set_profile(const struct weir_sim_profile *profile)
{
    sim_world->profile = *profile;
    if (!sim_world->profile.workers)
        sim_world->profile.workers = WEIR_ARRAY_SIZE(sim_world->idle);
    WEIR_ASSERT(sim_world->profile.workers <= WEIR_ARRAY_SIZE(sim_world->idle));
    if (!sim_world->profile.net_buffer)
        sim_world->profile.net_buffer = 65536;
}

/* ---- life ---- */

void weir_sim_begin(uint64_t seed, const struct weir_sim_profile *profile)
{
    struct sim_world *world;

    WEIR_ASSERT(!sim_world);
    sim_world = world = weir_new(struct sim_world);
    world->seed = seed;
    world->hash = seed;
    world->preempt_left = 1;
    for (unsigned i = 0; i < SIM_STREAMS; i++)
        sim_random_init(&world->random[i], seed, i + 1);
    weir_sim_set_profile(profile);
    TAILQ_INIT(&world->threads);
    TAILQ_INIT(&world->flying);
    TAILQ_INIT(&world->requests);
    TAILQ_INIT(&world->loops);
    TAILQ_INIT(&world->files);
    TAILQ_INIT(&world->works);
    TAILQ_INIT(&world->works_waiting);
    TAILQ_INIT(&world->listeners);
    weir_sys = &weir_sys_sim;
}

/* Everything that a process loses with its end. */
static void end_life(bool kernel_survives)
{
    WEIR_ASSERT(!sim_world->current);
    sim_events_drop();
    sim_files_cut(kernel_survives);
    sim_threads_drop();
    sim_works_drop();
    sim_descriptors_drop();
    sim_loops_drop();
    weir_locals_set(NULL);
}

void weir_sim_end(void)
{
    struct sim_world *world = sim_world;

    end_life(true);
    sim_files_drop();
    for (unsigned i = 0; i < world->shift_count; i++)
        free(world->shift[i]);
    free(world->shift);
    free(world->descriptors);
    free(world->runnable);
    free(world->events);
    free(world);
    sim_world = NULL;
}

void weir_sim_power_cut(void)
{
    sim_world->stats.power_cuts++;
    sim_trace("power cut", sim_world->stats.power_cuts, (uint64_t)sim_world->now, 0);
    end_life(false);
    sim_statics_restore();
    weir_sys = &weir_sys_sim;
}

void weir_sim_kill(void)
{
    sim_world->stats.kills++;
    sim_trace("kill", sim_world->stats.kills, (uint64_t)sim_world->now, 0);
    end_life(true);
    sim_statics_restore();
    weir_sys = &weir_sys_sim;
}

/* ---- random numbers, hash, counters ---- */

uint64_t weir_sim_random(uint64_t n)
{
    return sim_below(SIM_TEST, n);
}

bool weir_sim_chance(uint32_t ppm)
{
    return sim_chance(SIM_TEST, ppm);
}

int64_t weir_sim_now(void)
{
    return sim_world->now;
}

static inline void mix(uint64_t value)
{
    uint64_t hash = (sim_world->hash ^ value) * 0x9fb21c651e98df25ull;

    sim_world->hash = hash ^ (hash >> 29);
}

void sim_trace(const char *what, uint64_t a, uint64_t b, uint64_t c)
{
    mix(a);
    mix(b);
    mix(c);
    if (weir_unlikely(sim_world->watch != NULL))
        sim_world->watch(sim_world->now, what, a, b, c);
}

void weir_sim_mix(uint64_t value)
{
    sim_trace("test", value, 0, 0);
}

uint64_t weir_sim_hash(void)
{
    return sim_world->hash;
}

void weir_sim_watch(void (*show)(int64_t now, const char *what, uint64_t a, uint64_t b, uint64_t c))
{
    sim_world->watch = show;
}

const struct weir_sim_stats *weir_sim_stats(void)
{
    return &sim_world->stats;
}

void weir_sim_heap_shift(uint64_t seed)
{
    struct sim_world *world = sim_world;
    struct sim_random random;
    unsigned count;

    WEIR_ASSERT(!world->shift);
    sim_random_init(&random, seed, 0x68656170);
    count = 200 + (unsigned)sim_random_below(&random, 800);
    world->shift = weir_new_array(void *, count);
    world->shift_count = count;
    for (unsigned i = 0; i < count; i++)
        world->shift[i] = weir_alloc(16 + sim_random_below(&random, 16u << sim_random_below(&random, 9)));
    /* Holes of many sizes, freed in another order than they were made. */
    for (unsigned i = 0; i < count / 2; i++) {
        unsigned pick = (unsigned)sim_random_below(&random, count);

        free(weir_steal(&world->shift[pick]));
    }
}

/* ---- the library's table ---- */

static int64_t clock_ns(void)
{
    return sim_world->now;
}

static int64_t wall_ns(void)
{
    return EPOCH_NS + sim_world->now;
}

static uint64_t random_number(void)
{
    return sim_random_next(&sim_world->random[SIM_LIBRARY]);
}

const struct weir_sys weir_sys_sim = {
    .name = "simulated",
    .simulated = true,
    .clock_ns = clock_ns,
    .wall_ns = wall_ns,
    .random = random_number,
    .loop = {
        .open = sim_loop_open,
        .close = sim_loop_close,
        .submit = sim_loop_submit,
        .cancel = sim_loop_cancel,
        .poll = sim_loop_poll,
        .kick = sim_loop_kick,
    },
    .file = {
        .open = sim_file_open,
        .close = sim_file_close,
        .stat = sim_file_stat,
        .unlink = sim_file_unlink,
        .truncate = sim_file_truncate,
        .fallocate = sim_file_fallocate,
        .fsync = sim_file_fsync,
        .pread = sim_file_pread,
        .pwrite = sim_file_pwrite,
        .preadv = sim_file_preadv,
        .pwritev = sim_file_pwritev,
        .extent = sim_file_extent,
        .discard = sim_file_discard,
        .zero_out = sim_file_zero_out,
        .lock = sim_file_lock,
        .lock_test = sim_file_lock_test,
        .rename = sim_file_rename,
    },
    .net = {
        .listen = sim_net_listen,
        .connect = sim_net_connect,
        .send_now = sim_net_send_now,
        .recv_now = sim_net_recv_now,
        .shutdown = sim_net_shutdown,
        .close = sim_net_close,
        .set_nodelay = sim_net_set_nodelay,
        .set_nonblocking = sim_net_set_nonblocking,
        .resolve = sim_net_resolve,
        .name = sim_net_name,
        .is_listening = sim_net_is_listening,
    },
    .thread = {
        .start = sim_thread_start,
        .join = sim_thread_join,
        .work = sim_work,
        .preempt = sim_preempt,
    },
};

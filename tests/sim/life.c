/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One seed: a world, a life of the library in it; after a power cut the medium is judged, and a second life goes on
 * from there.
 */
#include "seed.h"

#include "base/alloc.h"
#include "format/qcow2/codec.h"
#include "filter/copy_on_read.h"
#include "graph/gate.h"
#include "io/buffer.h"
#include "io/io.h"
#include "io/stats.h"
#include "job/job.h"
#include "job/loop.h"
#include "meta/meta.h"
#include "sys/sim/heap.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Far more than any seed needs: who gets here hangs. */
#define STEPS_MAX 60000000u
#define TIME_MAX_NS (900 * 1000000000LL)
/* A request that a guest makes takes no longer than this. */
#define GUESTS_LIMIT_NS (300 * 1000000000LL)
#define LIMBO_LIMIT_NS (3 * 1000000000LL)

WEIR_SIM_KEPT struct seed seed;

void seed_fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, " (life %u, %.6f s)\n", seed.life, (double)weir_sim_now() / 1e9);
    _exit(3);
}

void life_may_cut(enum cut_where where)
{
    const struct plan *plan = &seed.plan;

    if (plan->cut && seed.life == plan->main_life && where == plan->cut_where &&
        ++seed.cut_counts[where] == plan->cut_after)
        weir_sim_stop();
}

/* ---- the library's life ---- */

extern const struct weir_driver weir_driver_file, weir_driver_raw, weir_driver_qcow2, weir_driver_blkdebug;

static const struct weir_root_ops root_ops = { .kind = "block-backend" };

weir_co_fn struct weir_edge *life_attach(struct weir_node *node, const char *name, unsigned perm)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_edge *edge;
    int ret = weir_root_attach(node, name, perm, WEIR_PERM_ALL, &root_ops, NULL, &edge, &err);

    CHECK(!ret, "attach: %s", weir_error_text(err));
    return edge;
}

static weir_co_fn void open_all(void)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE;
    struct weir_node *node = image_open(&seed.images[seed.current]);

    for (unsigned i = 0; i < seed.plan.guests; i++) {
        seed.edges[i] = life_attach(node, "guest", perm);
        if (seed.plan.gate_requests)
            weir_gate_set_limits(seed.edges[i], seed.plan.gate_requests, 0);
    }
    for (unsigned i = 0; i < seed.plan.loops; i++)
        CHECK(!weir_loop_new("guests", &seed.loops[i], NULL), "no loop");
}

static weir_co_fn void start_operator(void (*run)(void *arg) weir_co_fn)
{
    seed.operators_running++;
    weir_co_start(weir_loop_control(), run, NULL);
}

static weir_co_fn void run_guests(void)
{
    int64_t deadline = weir_sim_now() + GUESTS_LIMIT_NS;

    bool main = seed.life == seed.plan.main_life;

    seed.guests_running = seed.plan.queues;
    seed.operators_running = 0;
    seed.ending = false;
    for (unsigned i = 0; i < seed.plan.queues; i++) {
        struct queue *queue = &seed.queues[i];

        queue->left = main ? seed.plan.requests : 12;
        queue->edge = seed.edges[i % seed.plan.guests];
        weir_co_start(seed.loops[i % seed.plan.guests % seed.plan.loops], guest_run, queue);
    }
    if (main || pick(2))
        start_operator(operator_drains);
    if (main && seed.plan.snapshots)
        start_operator(operator_snapshots);
    if (main && seed.plan.mirrors)
        start_operator(operator_mirrors);
    if (main && seed.plan.resizes)
        start_operator(operator_resizes);
    if (main && seed.plan.edits)
        start_operator(operator_edits);
    while (__atomic_load_n(&seed.guests_running, __ATOMIC_SEQ_CST) || seed.operators_running) {
        CHECK(weir_sim_now() < deadline || !seed.guests_running, "%u guests are still waiting",
              seed.guests_running);
        if (!seed.guests_running)
            seed.ending = true;
        weir_co_sleep(1000000);
    }
}

/* Whether a flush has failed: then nothing can be made durable any more until the files are opened anew. */
static bool flushes_failed(void)
{
    return weir_sim_stats()->failed_flushes;
}

static weir_co_fn void detach_guest(struct weir_edge *edge)
{
    struct weir_stats stats;

    weir_edge_stats(edge, &stats);
    for (unsigned op = 0; op < WEIR_OP_COUNT; op++)
        seed.totals.merged += stats.op[op].merged;
    weir_root_detach(edge, -1);
}

/* simfmt counts by itself when it is closed. */
static void count_tables(void)
{
    struct weir_node *node = weir_node_find(seed.images[seed.current].name);
    struct weir_meta_stats stats;

    if (!node || seed.images[seed.current].kind != IMAGE_QCOW2)
        return;
    weir_meta_stats(node, &stats);
    seed.totals.table_loads += stats.loads;
    seed.totals.table_evictions += stats.evictions;
    seed.totals.tables_written += stats.tables_written;
    seed.totals.space_released += stats.released;
    seed.totals.rooms_made += stats.rooms;
}

static weir_co_fn void close_all(void)
{
    WEIR_AUTO_ERROR err = NULL;
    int64_t deadline;
    int ret;

    for (unsigned i = 0; i < seed.plan.guests; i++)
        detach_guest(weir_steal(&seed.edges[i]));
    count_tables();
    ret = weir_node_del(seed.images[seed.current].name, &err);
    CHECK(!ret, "blockdev-del: %s", weir_error_text(err));
    /* What a mirror that was just cancelled has left behind. */
    for (deadline = weir_sim_now() + LIMBO_LIMIT_NS; weir_graph_limbo_count() && weir_sim_now() < deadline;)
        weir_co_sleep(1000000);
    CHECK(!weir_graph_next(NULL) && !weir_graph_limbo_count(), "a node is left at the end");
    weir_graph_done(5 * 1000000000LL);
    weir_job_loop_done();
    weir_job_done();
    for (unsigned i = 0; i < seed.plan.loops; i++)
        weir_loop_free(seed.loops[i]);
}

static weir_co_fn void live(void *arg)
{
    weir_graph_init(&weir_io_hooks);
    open_all();
    if (seed.life > 1)
        check_disk(seed.edges[0], seed.was_cut, seed.was_cut);
    plan_faults();
    run_guests();
    weir_sim_heal();
    if (!flushes_failed())
        check_disk(seed.edges[pick(seed.plan.guests)], false, false);
    close_all();
    weir_loop_stop(weir_loop_control());
}

static void before_header(void)
{
    life_may_cut(CUT_AT_HEADER);
}

static void life_main(void *arg)
{
    simfmt_before_header = before_header;
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_raw);
    weir_driver_register(&weir_driver_simfmt);
    weir_driver_register(&weir_driver_qcow2);
    weir_driver_register(&weir_driver_copy_on_read);
    weir_driver_register(&weir_driver_blkdebug);
    CHECK(!weir_runtime_init(NULL), "no runtime");
    weir_co_start(weir_loop_control(), live, NULL);
    weir_runtime_run();
    CHECK(!weir_co_alive(), "%u coroutines are left at the end", weir_co_alive());
    weir_runtime_done();
    weir_buffer_trim();
    qcow2_codec_trim();
}

/* ---- the world around it ---- */

static void show_leak(const void *memory, size_t size, const void *caller)
{
    (void)fprintf(stderr, "    %zu bytes from %p\n", size, caller);
}

/* Lets a life run to its end (true), or to the power cut that was drawn (false). */
static bool run_life(void)
{
    struct weir_sim_limits limits = { .steps = STEPS_MAX, .time_ns = TIME_MAX_NS };
    enum weir_sim_outcome outcome;

    seed.life++;
    weir_sim_spawn("control", life_main, NULL);
    outcome = weir_sim_run(&limits);
    if (outcome == WEIR_SIM_STOPPED) {
        limits.events = seed.plan.cut_events;
        outcome = weir_sim_run(&limits);
        if (outcome == WEIR_SIM_TIMEOUT)
            return false;
    }
    CHECK(outcome == WEIR_SIM_FINISHED, "life %u is %s after %.3f s", seed.life,
          weir_sim_outcome_name(outcome), (double)weir_sim_now() / 1e9);
    CHECK(!weir_sim_descriptors(), "%u descriptors are left at the end", weir_sim_descriptors());
    return true;
}

static void check_all_mediums(enum check_when when)
{
    for (unsigned i = 0; i < IMAGES_MAX; i++) {
        bool current = i == seed.current;

        check_medium(&seed.images[i], current ? when : CHECK_AFTER_CUT, current);
    }
}

/* Which image the guests used when the power went. */
static void find_current(void)
{
    const struct weir_node *node = seed.edges[0] ? seed.edges[0]->node : NULL;

    while (node && (node->driver->flags & WEIR_DRIVER_INTERNAL))
        node = TAILQ_FIRST(&node->children) ? TAILQ_FIRST(&node->children)->node : NULL;
    for (unsigned i = 0; node && i < IMAGES_MAX; i++) {
        if (!strcmp(node->name, seed.images[i].name))
            seed.current = i;
    }
}

static void cut_and_go_on(bool running)
{
    if (running)
        find_current();
    seed.totals.power_cuts_mirroring += seed.mirroring;
    seed.mirroring = seed.editing = false;
    weir_sim_heal();
    weir_sim_power_cut();
    weir_sim_heap_forget();
    seed.totals.power_cuts++;
    seed.was_cut = true;
    check_all_mediums(CHECK_AFTER_CUT);
    image_snapshot_offline();
    seed.totals.second_lives++;
    CHECK(run_life(), "a second life was cut");
    check_all_mediums(CHECK_AT_END);
}

/* A life before the main one: it ends in good order, the power goes, and nothing may be missing. */
static void quiet_life(void)
{
    CHECK(run_life(), "a quiet life was cut");
    check_all_mediums(CHECK_AT_END);
    seed.flushed = history_tick();
    for (unsigned q = 0; q < seed.plan.queues; q++)
        shadow_flushed(&seed.queues[q].zone);
    weir_sim_power_cut();
    weir_sim_heap_forget();
    check_all_mediums(CHECK_AT_END);
    image_snapshot_offline();
}

static void sum_up(void)
{
    const struct weir_sim_stats *stats = weir_sim_stats();

    seed.totals.seeds = 1;
    seed.totals.disk_faults = stats->eio + stats->enospc + stats->short_io;
    seed.totals.failed_flushes = stats->failed_flushes;
    seed.totals.allocations = simfmt_totals.allocations;
    seed.totals.allocations_aborted = simfmt_totals.aborts;
    seed.totals.stored_compressed = simfmt_totals.stored;
    seed.totals.units_shared = simfmt_totals.shared;
    seed.totals.table_loads += simfmt_totals.loads;
    seed.totals.table_evictions += simfmt_totals.evictions;
    seed.totals.tables_written += simfmt_totals.tables_written;
    seed.totals.space_released += simfmt_totals.released;
    seed.totals.rooms_made += simfmt_totals.rooms;
    seed.hash = weir_sim_hash();
}

/* The world's own memory comes and goes with the library's: it is looked at when both are gone. */
static void end_world(void)
{
    weir_sim_end();
    if (!weir_sim_heap_live())
        return;
    weir_sim_heap_each(show_leak);
    seed_fail("%zu allocations are left at the end", weir_sim_heap_live());
}

void seed_run(uint64_t number, uint64_t heap_shift, bool show)
{
    struct weir_sim_profile profile;

    seed.number = number;
    history_reset();
    weir_sim_heap_begin();
    weir_sim_profile_init(&profile);
    weir_sim_begin(number, &profile);
    plan_draw();
    plan_profile(&profile);
    weir_sim_set_profile(&profile);
    guest_setup();
    image_make_all();
    image_fill_all();
    for (uint64_t s = 0; s < seed.shared_sectors; s++)
        history_settle(s, image_initial(s));
    if (show)
        plan_show();
    if (heap_shift)
        weir_sim_heap_shift(heap_shift);
    while (seed.life + 1 < seed.plan.main_life)
        quiet_life();
    if (!run_life())
        cut_and_go_on(true);
    else if (flushes_failed())
        cut_and_go_on(false);
    else
        check_all_mediums(CHECK_AT_END);
    sum_up();
    end_world();
}

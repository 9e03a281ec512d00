/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mirror jobs under load: both modes, any granularity and speed, every way to end, targets that fail or hang.
 *
 * Judged: in a drained section, where nothing is marked, the target equals the source. After a pivot the guests'
 * answers go on to be right, also after a power cut. A soft cancel leaves a copy of one moment. Whatever happens, a job
 * that is force-cancelled ends soon, and a target that hangs leaves what hangs in limbo and nothing else.
 */
#include "seed.h"

#include "base/alloc.h"
#include "filter/mirror_top.h"
#include "io/async.h"
#include "io/io.h"
#include "job/mirror.h"
#include <string.h>

/* A force-cancelled job ends within this, whatever its target does. */
#define CANCEL_LIMIT_NS (3 * 1000000000LL)
/* No job of these takes longer: disks of at most 1 MiB. */
#define JOB_LIMIT_NS (120 * 1000000000LL)
#define SIDE_LIMIT_NS (500 * 1000000LL)
/* What it leaves behind on disks that do not hang is through by then. */
#define CALM_NS (100 * 1000000LL)
/* How long one is watched that meets faults. */
#define FAULTY_LIMIT_NS (2 * 1000000000LL)

static struct weir_job *job_now(void)
{
    return weir_job_find("mirror");
}

static weir_co_fn void sleep_some(int64_t most_ns)
{
    weir_co_sleep(1 + (int64_t)pick((uint64_t)most_ns));
}

/* ---- in sync ---- */

/* Once a mirror is actively synced it stays so, until its mode is changed or something fails. */
static void watch_sync(struct weir_job *job)
{
    bool steady = job->status <= WEIR_JOB_STANDBY && !job->cancelled && !seed.plan.faults && !seed.plan.tight;
    bool synced = steady && weir_mirror_actively_synced(job);

    CHECK(!steady || !seed.synced || synced, "a mirror that was actively synced is no more");
    seed.totals.mirrors_seen_synced += synced && !seed.synced;
    seed.synced = synced;
}

/* ---- comparing ---- */

static bool nothing_marked(struct weir_job *job)
{
    bool started = job->status >= WEIR_JOB_RUNNING && job->status <= WEIR_JOB_STANDBY;

    if (!started || job->cancelled || !job->driver->update)
        return false;
    job->driver->update(job);
    return job->total == job->progress && job->progress;
}

/* A side that hangs, or that the job lets go of meanwhile, is left. */
static weir_co_fn int read_side(struct weir_edge *edge, uint8_t *bytes)
{
    struct iovec iov = { bytes, seed.plan.size };
    struct weir_request request = weir_request_make(WEIR_OP_READ, 0, seed.plan.size, &iov, 1, 0);

    return weir_io_abandonable(edge, &request, weir_sim_now() + SIDE_LIMIT_NS);
}

static weir_co_fn void compare(struct weir_edge *source, struct weir_edge *target)
{
    uint8_t *one = weir_try_alloc(seed.plan.size, 4096), *other = weir_try_alloc(seed.plan.size, 4096);
    int ret = read_side(source, one);

    ret = ret ? ret : read_side(target, other);
    CHECK(!ret || seed.plan.faults || ret == -ECANCELED || ret == -ETIMEDOUT,
          "reading both sides of a mirror: %s", strerror(-ret));
    for (uint64_t i = 0; i < seed.plan.size && !ret; i++)
        CHECK(one[i] == other[i], "nothing is marked, but byte %llu is %u in the source and %u in the target",
              (unsigned long long)i, one[i], other[i]);
    seed.totals.drained_comparisons += !ret;
    free(one);
    free(other);
}

weir_co_fn void mirrors_compare_drained(void)
{
    struct weir_job *job = seed.mirroring ? job_now() : NULL;
    struct weir_node *top = seed.edges[0]->node;

    if (!job || top->driver != &weir_driver_mirror_top)
        return;
    watch_sync(job);
    if (!nothing_marked(job))
        return;
    compare(weir_mirror_top_source(top), weir_mirror_top_target(top));
}

/* ---- one mirror ---- */

struct run {
    struct image *target;
    char source[8];
    uint64_t cancelled; /* history clock: when the soft cancel was asked */
    bool soft, forced, stuck;
};

static weir_co_fn bool start(struct run *run)
{
    static const enum weir_job_on_error policies[] = { WEIR_JOB_ON_ERROR_REPORT, WEIR_JOB_ON_ERROR_REPORT,
                                                       WEIR_JOB_ON_ERROR_IGNORE, WEIR_JOB_ON_ERROR_STOP,
                                                       WEIR_JOB_ON_ERROR_ENOSPC };
    struct weir_mirror_options options = {
        .job_id = "mirror",
        .device = run->source,
        .target = run->target->name,
        .speed = pick(3) ? 0 : 200000 + pick(4000000),
        .memory = pick(3) ? 0 : 1 + pick(200000),
        .unmap = pick(4),
        .granularity = (uint64_t)512 << pick(9),
        .copy_mode = pick(2) ? WEIR_MIRROR_COPY_WRITE_BLOCKING : WEIR_MIRROR_COPY_BACKGROUND,
        .on_source_error = policies[pick(WEIR_ARRAY_SIZE(policies))],
        .on_target_error = policies[pick(WEIR_ARRAY_SIZE(policies))],
        .auto_finalize = pick(4),
    };
    WEIR_AUTO_ERROR err = NULL;
    int ret = weir_mirror_start(&options, &err);

    /* What an earlier one has left behind on the source still holds the permission to write. */
    CHECK(!ret || seed.plan.faults || weir_sim_now() < seed.calm_ns, "starting a mirror: %s",
          weir_error_text(err));
    seed.totals.mirrors += !ret;
    return !ret;
}

static weir_co_fn bool wait_for(struct weir_job *job, unsigned statuses, int64_t limit_ns)
{
    int64_t deadline = weir_sim_now() + limit_ns;

    while (!(1u << job->status & (statuses | 1u << WEIR_JOB_CONCLUDED))) {
        if (weir_sim_now() >= deadline)
            return false;
        if (job->user_paused && job->io_status != WEIR_JOB_IO_OK)
            (void)!weir_job_resume(job, NULL);
        watch_sync(job);
        weir_co_sleep(200000);
    }
    return true;
}

/* As it goes, with requests in flight: no drain is needed for it. */
static weir_co_fn void switch_modes(struct weir_job *job)
{
    for (unsigned i = 1 + (unsigned)pick(20); i--;) {
        enum weir_mirror_copy_mode mode =
            pick(2) ? WEIR_MIRROR_COPY_WRITE_BLOCKING : WEIR_MIRROR_COPY_BACKGROUND;

        if (job->cancelled || job->status > WEIR_JOB_STANDBY)
            return;
        watch_sync(job);
        if (!weir_mirror_change(job, mode, NULL) && mode == WEIR_MIRROR_COPY_BACKGROUND)
            seed.synced = false;
        sleep_some(300000);
    }
}

/* A few commands that must do no harm. */
static weir_co_fn void disturb(struct weir_job *job)
{
    for (unsigned i = (unsigned)pick(6); i-- && job->status != WEIR_JOB_CONCLUDED;) {
        sleep_some(5000000);
        switch (pick(6)) {
        case 0:
            (void)!weir_job_set_speed(job, pick(2) ? 0 : 300000 + pick(4000000), NULL);
            break;
        case 1:
            if (!weir_job_pause(job, NULL)) {
                sleep_some(3000000);
                (void)!weir_job_resume(job, NULL);
            }
            break;
        case 2:
            operator_drain_once();
            break;
        default:
            switch_modes(job);
            break;
        }
    }
}

static void stick_target(struct run *run)
{
    run->stuck = true;
    weir_sim_file_stick(run->target->file, WEIR_SIM_DATA_KINDS);
    if (run->target->data)
        weir_sim_file_stick(run->target->data, WEIR_SIM_DATA_KINDS);
}

static weir_co_fn void force_cancel(struct run *run, struct weir_job *job)
{
    seed.cancelling = true;
    run->forced = !weir_job_cancel(job, true, NULL);
    CHECK(wait_for(job, 0, CANCEL_LIMIT_NS), "a force-cancelled mirror is still %s after 3 s",
          weir_job_status_name(job->status));
}

/* Waits for one of @statuses; a job that meets faults again and again is cancelled in the end. */
static weir_co_fn bool wait_or_cancel(struct run *run, struct weir_job *job, unsigned statuses)
{
    bool faulty = seed.plan.faults || seed.plan.tight;

    if (wait_for(job, statuses, faulty ? FAULTY_LIMIT_NS : JOB_LIMIT_NS))
        return true;
    CHECK(faulty, "a mirror is still %s after 120 s", weir_job_status_name(job->status));
    force_cancel(run, job);
    return false;
}

/* Tells it how to end and waits for that. */
static weir_co_fn void end(struct run *run, struct weir_job *job)
{
    unsigned ready = 1u << WEIR_JOB_READY | 1u << WEIR_JOB_STANDBY, way = (unsigned)pick(11);

    disturb(job);
    /* Only file systems whose calls may hang are kept away from the loops. */
    if (way == 0 && run->target->remote) {
        stick_target(run);
        sleep_some(20000000);
        force_cancel(run, job);
        return;
    }
    if (way <= 1) {
        force_cancel(run, job);
        return;
    }
    /* A rate limit below the guests' own rate would never let it get ready. */
    if (job->status != WEIR_JOB_CONCLUDED)
        (void)!weir_job_set_speed(job, 0, NULL);
    if (!wait_or_cancel(run, job, ready))
        return;
    if (job->status != WEIR_JOB_CONCLUDED)
        sleep_some(4000000);
    /* With faults more often: what was not brought over is to be seen before it happens to be copied again. */
    for (unsigned i = (unsigned)pick(2) + 3 * !!seed.plan.faults; i--;) {
        operator_drain_once();
        sleep_some(500000);
    }
    /* Its end meets requests that began in background mode. */
    if (pick(2) && !weir_mirror_change(job, WEIR_MIRROR_COPY_BACKGROUND, NULL)) {
        seed.synced = false;
        sleep_some(1000000);
    }
    run->cancelled = history_tick();
    life_may_cut(CUT_AT_MIRROR);
    if (way <= 4 && !weir_job_cancel(job, false, NULL))
        run->soft = job->soft_cancelled;
    else if (way > 4)
        (void)!weir_job_complete(job, NULL);
    if (pick(8) == 0) {
        sleep_some(3000000);
        force_cancel(run, job);
        return;
    }
    if (!job->auto_finalize) {
        if (!wait_or_cancel(run, job, 1u << WEIR_JOB_PENDING))
            return;
        (void)!weir_job_finalize(job, NULL);
    }
    (void)wait_or_cancel(run, job, 0);
}

static weir_co_fn void judge_copy(struct run *run)
{
    struct weir_node *node = weir_node_find(run->target->name);
    struct weir_edge *edge;

    if (!node || seed.plan.faults)
        return;
    edge = life_attach(node, "reader", WEIR_PERM_CONSISTENT_READ);
    check_copy(edge, run->cancelled, history_tick());
    weir_root_detach(edge, -1);
}

/* Lets go of what hangs and sees it go. */
static weir_co_fn void release(struct run *run)
{
    int64_t deadline = weir_sim_now() + CANCEL_LIMIT_NS;

    seed.totals.limbo += weir_graph_limbo_count();
    seed.totals.stuck_released += weir_sim_file_stuck(run->target->file);
    weir_sim_file_release(run->target->file, pick(2) ? 0 : -EIO);
    if (run->target->data)
        weir_sim_file_release(run->target->data, pick(2) ? 0 : -EIO);
    while (weir_graph_limbo_count()) {
        CHECK(weir_sim_now() < deadline, "what hung has returned, but %u nodes are in limbo",
              weir_graph_limbo_count());
        weir_co_sleep(1000000);
    }
}

static weir_co_fn void conclude(struct run *run, struct weir_job *job)
{
    bool pivoted = seed.edges[0]->node == weir_node_find(run->target->name);
    const char *leaving = pivoted ? run->source : run->target->name;
    WEIR_AUTO_ERROR err = NULL;
    int ret = job->result;

    CHECK(!ret || run->forced || job->cancelled || seed.plan.faults || ret == -ENOSPC, "a mirror failed: %s",
          job->error ? weir_error_text(job->error) : strerror(-ret));
    CHECK(pivoted == (!ret && !run->soft), "a mirror that %s: %s", pivoted ? "pivoted" : "did not pivot",
          ret ? strerror(-ret) : "success");
    seed.totals.mirrors_pivoted += pivoted;
    seed.totals.mirrors_soft_cancelled += run->soft && !ret;
    seed.totals.mirrors_cancelled += ret == -ECANCELED;
    seed.totals.mirrors_failed += ret && ret != -ECANCELED;
    CHECK(!weir_job_dismiss(job, &err), "dismiss: %s", weir_error_text(err));
    if (pivoted)
        seed.current = (unsigned)(run->target - seed.images);
    else if (!ret && run->soft)
        judge_copy(run);
    ret = weir_node_del(leaving, &err);
    CHECK(!ret, "blockdev-del after a mirror: %s", weir_error_text(err));
    if (run->stuck)
        release(run);
}

static weir_co_fn bool mirror_once(struct image *target)
{
    struct run run = { .target = target };
    struct weir_job *job;

    memcpy(run.source, seed.images[seed.current].name, sizeof(run.source));
    seed.mirroring = true;
    seed.synced = false;
    if (!image_open(target)) {
        seed.mirroring = false;
        return false;
    }
    if (!start(&run)) {
        (void)!weir_node_del(target->name, NULL);
        seed.mirroring = false;
        return false;
    }
    job = job_now();
    CHECK(job, "there is no job");
    end(&run, job);
    conclude(&run, job);
    seed.mirroring = seed.cancelling = false;
    seed.calm_ns = weir_sim_now() + CALM_NS;
    return true;
}

weir_co_fn void operator_mirrors(void *arg)
{
    for (unsigned i = 1; i <= seed.plan.mirrors && !seed.ending; i++) {
        sleep_some(5000000);
        while ((seed.resizing || seed.editing) && !seed.ending)
            sleep_some(1000000);
        if (seed.resizing || seed.editing || !mirror_once(&seed.images[i]))
            break;
    }
    seed.operators_running--;
}

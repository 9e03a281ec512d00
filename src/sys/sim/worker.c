/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The pool of workers. A call waits for its latency, then for a worker; a new one is started while the limit
 * allows it and none is idle. A worker that is stuck in a file keeps its place.
 */
#include "sys/sim/world.h"
#include <stdio.h>

/* A call on its way to a worker. */
struct sim_work {
    struct weir_sys_work *work;
    uint64_t serial;
    struct sim_event event;
    TAILQ_ENTRY(sim_work) link;
};

static void worker_run(void *arg)
{
    struct sim_world *world = sim_world;

    for (;;) {
        struct sim_work *item = TAILQ_FIRST(&world->works);
        struct weir_sys_work *work;

        if (!item) {
            world->idle[world->idle_count++] = world->current;
            sim_block();
            continue;
        }
        TAILQ_REMOVE(&world->works, item, link);
        work = item->work;
        sim_trace("work", item->serial, 0, 0);
        free(item);
        work->run(work);
        sim_preempt();
        work->done(work);
    }
}

static void ready(struct sim_event *event)
{
    struct sim_world *world = sim_world;
    struct sim_work *item = weir_container_of(event, struct sim_work, event);
    char name[16];

    TAILQ_REMOVE(&world->works_waiting, item, link);
    TAILQ_INSERT_TAIL(&world->works, item, link);
    if (world->idle_count) {
        sim_wake(world->idle[--world->idle_count]);
    } else if (world->workers < world->profile.workers) {
        world->workers++;
        world->stats.workers_max = WEIR_MAX(world->stats.workers_max, world->workers);
        (void)snprintf(name, sizeof(name), "worker %u", world->workers % 1000);
        sim_thread_new(name, worker_run, NULL)->service = true;
    }
}

void sim_work(struct weir_sys_work *work)
{
    struct sim_work *item = weir_new(struct sim_work);

    item->work = work;
    item->serial = ++sim_world->stats.works;
    TAILQ_INSERT_TAIL(&sim_world->works_waiting, item, link);
    sim_event_at(&item->event, sim_world->now + sim_latency(SIM_SCHEDULE, &sim_world->profile.work), ready);
    sim_preempt();
}

static void drop(struct sim_works *works)
{
    struct sim_work *item;

    while ((item = TAILQ_FIRST(works))) {
        TAILQ_REMOVE(works, item, link);
        sim_event_cancel(&item->event);
        free(item);
    }
}

void sim_works_drop(void)
{
    drop(&sim_world->works);
    drop(&sim_world->works_waiting);
    sim_world->workers = 0;
    sim_world->idle_count = 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The queue of events: a binary heap by time, then by the order in which they were queued.
 */
#include "sys/sim/world.h"

static bool before(const struct sim_event *a, const struct sim_event *b)
{
    return a->time != b->time ? a->time < b->time : a->serial < b->serial;
}

static void put(unsigned place, struct sim_event *event)
{
    sim_world->events[place] = event;
    event->place = place;
}

static void sift_up(unsigned place, struct sim_event *event)
{
    while (place > 1 && before(event, sim_world->events[place / 2])) {
        put(place, sim_world->events[place / 2]);
        place /= 2;
    }
    put(place, event);
}

static void sift_down(unsigned place, struct sim_event *event)
{
    struct sim_world *world = sim_world;

    for (;;) {
        unsigned child = 2 * place;

        if (child < world->event_count && before(world->events[child + 1], world->events[child]))
            child++;
        if (child > world->event_count || !before(world->events[child], event))
            break;
        put(place, world->events[child]);
        place = child;
    }
    put(place, event);
}

void sim_event_at(struct sim_event *event, int64_t time, void (*fire)(struct sim_event *event))
{
    struct sim_world *world = sim_world;

    WEIR_ASSERT(!event->place);
    if (world->event_count + 1 >= world->event_room) {
        world->event_room = 2 * world->event_room + 64;
        world->events = weir_realloc(world->events, world->event_room * sizeof(world->events[0]));
    }
    event->time = WEIR_MAX(time, world->now);
    event->serial = world->event_serial++;
    event->fire = fire;
    sift_up(++world->event_count, event);
}

void sim_event_cancel(struct sim_event *event)
{
    struct sim_world *world = sim_world;
    unsigned place = event->place;
    struct sim_event *last;

    if (!place)
        return;
    WEIR_ASSERT(world->events[place] == event);
    event->place = 0;
    last = world->events[world->event_count--];
    if (last == event)
        return;
    if (place > 1 && before(last, world->events[place / 2]))
        sift_up(place, last);
    else
        sift_down(place, last);
}

struct sim_event *sim_event_first(void)
{
    return sim_world->event_count ? sim_world->events[1] : NULL;
}

void sim_event_fire(void)
{
    struct sim_world *world = sim_world;
    struct sim_event *event = world->events[1];

    world->now = event->time;
    world->idle_polls = 0;
    world->stats.events++;
    sim_event_cancel(event);
    event->fire(event);
}

void sim_events_drop(void)
{
    for (unsigned i = 1; i <= sim_world->event_count; i++)
        sim_world->events[i]->place = 0;
    sim_world->event_count = 0;
}

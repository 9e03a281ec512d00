/* SPDX-License-Identifier: BSD-2-Clause */
/* Events in one pool, a chain for each sector. The memory lives outside of the program's static variables, so that
 * a power cut leaves it alone. */
#include "history.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct event {
    uint64_t value, begin, end;
    bool certain, durable;
    int next; /* older; -1: none */
};

struct history {
    uint64_t now;
    int count;
    int newest[HISTORY_SECTORS_MAX];
    struct event events[HISTORY_EVENTS_MAX];
};

static struct history *history __attribute__((section("weir_sim_kept")));

void history_alloc(void)
{
    void *memory = mmap(NULL, sizeof(*history), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    WEIR_ASSERT(memory != MAP_FAILED);
    history = memory;
}

void history_reset(void)
{
    history->now = 1;
    history->count = 0;
    memset(history->newest, 0xff, sizeof(history->newest));
}

uint64_t history_now(void)
{
    return history->now;
}

uint64_t history_tick(void)
{
    return ++history->now;
}

int history_begin(uint64_t sector, uint64_t value)
{
    struct event *event = &history->events[history->count];

    WEIR_ASSERT(sector < HISTORY_SECTORS_MAX && history->count < (int)HISTORY_EVENTS_MAX);
    *event = (struct event){ value, history->now, 0, false, false, history->newest[sector] };
    history->newest[sector] = history->count;
    return history->count++;
}

void history_end(int event, bool certain, bool durable)
{
    history->events[event].end = history->now;
    history->events[event].certain = certain;
    history->events[event].durable = durable;
}

static bool superseded(uint64_t sector, const struct event *event, uint64_t from, bool cut)
{
    for (int i = history->newest[sector]; event->end && i >= 0; i = history->events[i].next) {
        const struct event *later = &history->events[i];

        if (later->certain && later->begin > event->end && (later->end < from || (cut && later->durable)))
            return true;
    }
    return false;
}

static bool possible(uint64_t sector, uint64_t value, uint64_t from, uint64_t to, bool cut)
{
    for (int i = history->newest[sector]; i >= 0; i = history->events[i].next) {
        const struct event *event = &history->events[i];

        if (event->value == value && event->begin <= to && !superseded(sector, event, from, cut))
            return true;
    }
    return false;
}

bool history_allowed(uint64_t sector, uint64_t value, uint64_t from, uint64_t to)
{
    return possible(sector, value, from, to, false);
}

bool history_survives(uint64_t sector, uint64_t value, uint64_t flushed)
{
    return possible(sector, value, flushed, history->now, true);
}

/* The change that made it so; NULL where there are several. */
static const struct event *only_source(uint64_t sector, uint64_t value)
{
    const struct event *found = NULL;

    for (int i = history->newest[sector]; i >= 0; i = history->events[i].next) {
        if (history->events[i].value != value)
            continue;
        if (found)
            return NULL;
        found = &history->events[i];
    }
    return found;
}

void history_narrow(uint64_t sector, uint64_t value, uint64_t *low, uint64_t *high)
{
    const struct event *source = only_source(sector, value);

    if (!source)
        return;
    *low = WEIR_MAX(*low, source->begin);
    for (int i = history->newest[sector]; source->end && i >= 0; i = history->events[i].next) {
        const struct event *later = &history->events[i];

        if (later->certain && later->begin > source->end)
            *high = WEIR_MIN(*high, later->end);
    }
}

void history_settle(uint64_t sector, uint64_t value)
{
    int event;

    history->newest[sector] = -1;
    event = history_begin(sector, value);
    history_tick();
    history_end(event, true, true);
}

void history_show(uint64_t sector)
{
    for (int i = history->newest[sector]; i >= 0; i = history->events[i].next) {
        const struct event *event = &history->events[i];

        (void)fprintf(stderr, "    %#llx [%llu, %llu]%s%s\n", (unsigned long long)event->value,
                      (unsigned long long)event->begin, (unsigned long long)event->end,
                      event->certain ? " certain" : "", event->durable ? " durable" : "");
    }
}

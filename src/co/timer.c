/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Timers of a loop: a binary heap of pointers to the callers' timers, each of which knows its place in it.
 *
 * Invariant: no timer is earlier than its parent at (index - 1) / 2, and timers[t->heap_index] == t.
 */
#include "co/internal.h"
#include "base/alloc.h"

static void place(struct weir_loop *loop, struct weir_timer *timer, unsigned index)
{
    loop->timers[index] = timer;
    timer->heap_index = index;
}

static void sift_up(struct weir_loop *loop, struct weir_timer *timer, unsigned index)
{
    while (index > 0) {
        unsigned parent = (index - 1) / 2;

        if (loop->timers[parent]->deadline_ns <= timer->deadline_ns)
            break;
        place(loop, loop->timers[parent], index);
        index = parent;
    }
    place(loop, timer, index);
}

static void sift_down(struct weir_loop *loop, struct weir_timer *timer, unsigned index)
{
    for (;;) {
        unsigned child = 2 * index + 1;

        if (child >= loop->timer_count)
            break;
        if (child + 1 < loop->timer_count &&
            loop->timers[child + 1]->deadline_ns < loop->timers[child]->deadline_ns)
            child++;
        if (timer->deadline_ns <= loop->timers[child]->deadline_ns)
            break;
        place(loop, loop->timers[child], index);
        index = child;
    }
    place(loop, timer, index);
}

void weir_timer_arm(struct weir_timer *timer, int64_t deadline_ns)
{
    struct weir_loop *loop = weir_loop_self();

    WEIR_ASSERT(loop);
    weir_timer_cancel(timer);
    if (loop->timer_count == loop->timer_capacity) {
        loop->timer_capacity = loop->timer_capacity ? 2 * loop->timer_capacity : 16;
        loop->timers = weir_realloc(loop->timers, loop->timer_capacity * sizeof(struct weir_timer *));
    }
    timer->loop = loop;
    timer->deadline_ns = deadline_ns;
    sift_up(loop, timer, loop->timer_count++);
}

void weir_timer_cancel(struct weir_timer *timer)
{
    struct weir_loop *loop = timer->loop;
    struct weir_timer *last;
    unsigned index;

    if (!loop)
        return;
    WEIR_ASSERT(loop == weir_loop_self());
    index = timer->heap_index;
    timer->loop = NULL;
    last = loop->timers[--loop->timer_count];
    if (last == timer)
        return;
    /* The last one fills the hole; it may belong further up or further down. */
    sift_up(loop, last, index);
    sift_down(loop, last, last->heap_index);
}

void weir_timers_run(struct weir_loop *loop)
{
    /* A timer that arms itself again in the past waits for the next turn like everybody. */
    for (unsigned left = loop->timer_count; left > 0 && loop->timer_count > 0; left--) {
        struct weir_timer *timer = loop->timers[0];

        if (timer->deadline_ns > loop->now_ns)
            break;
        weir_timer_cancel(timer);
        timer->run(timer);
    }
}

int64_t weir_timers_next(const struct weir_loop *loop)
{
    if (!loop->timer_count)
        return -1;
    return WEIR_MAX(loop->timers[0]->deadline_ns, (int64_t)0);
}

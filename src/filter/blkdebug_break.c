/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Breakpoints of blkdebug.
 *
 * A breakpoint belongs to whoever sets it until it holds somebody; from then on to the one who is held, who frees it
 * when he is let go.
 */
#include "base/alloc.h"
#include "filter/blkdebug_internal.h"
#include <string.h>

static void (*hold_listener)(const char *tag, bool held);

void weir_blkdebug_on_hold(void (*listener)(const char *tag, bool held))
{
    hold_listener = listener;
}

static void tell(const struct blkdebug_break *point, bool held)
{
    if (hold_listener)
        hold_listener(point->tag, held);
}

void blkdebug_breaks_init(struct blkdebug_breaks *breaks)
{
    TAILQ_INIT(&breaks->list);
    weir_co_queue_init(&breaks->arrived);
}

static void free_break(struct blkdebug_breaks *breaks, struct blkdebug_break *point)
{
    TAILQ_REMOVE(&breaks->list, point, link);
    free(point->tag);
    free(point);
}

void blkdebug_breaks_done(struct blkdebug_breaks *breaks)
{
    struct blkdebug_break *point;

    while ((point = TAILQ_FIRST(&breaks->list)))
        free_break(breaks, point);
}

static void resume(struct blkdebug_break *point)
{
    tell(point, false);
    point->resumed = true;
    weir_co_queue_wake_all(&point->held_queue);
}

void blkdebug_breaks_hold(struct blkdebug_breaks *breaks, enum weir_event event, struct weir_mutex *mutex)
{
    struct blkdebug_break *point;

    if (breaks->over)
        return;
    TAILQ_FOREACH (point, &breaks->list, link) {
        if (point->event == event && !point->held)
            break;
    }
    if (!point)
        return;
    point->held = true;
    tell(point, true);
    weir_co_queue_wake_all(&breaks->arrived);
    while (!point->resumed)
        weir_co_queue_wait(&point->held_queue, mutex);
    free_break(breaks, point);
}

void blkdebug_breaks_let_go(struct blkdebug_breaks *breaks)
{
    struct blkdebug_break *point;

    breaks->over = true;
    TAILQ_FOREACH (point, &breaks->list, link) {
        if (point->held && !point->resumed)
            resume(point);
    }
    weir_co_queue_wake_all(&breaks->arrived);
}

/* ---- for the I/O tool and tests ---- */

struct weir_node *weir_blkdebug_find(struct weir_node *node)
{
    struct weir_mutex *mutex;

    while (node && !blkdebug_breaks_of(node, &mutex)) {
        struct weir_edge *below = weir_node_primary(node);

        if (!below)
            below = weir_node_filtered(node);
        node = below ? below->node : NULL;
    }
    return node;
}

int weir_blkdebug_break(struct weir_node *node, const char *event, const char *tag)
{
    enum weir_event number = weir_event_find(event);
    struct blkdebug_break *point;
    struct weir_mutex *mutex;
    struct blkdebug_breaks *breaks = blkdebug_breaks_of(node, &mutex);

    if (number == WEIR_EVENT_COUNT)
        return -ENOENT;
    point = weir_new(struct blkdebug_break);
    point->tag = weir_strdup(tag);
    point->event = number;
    weir_co_queue_init(&point->held_queue);
    WEIR_SCOPE_LOCK(mutex);
    TAILQ_INSERT_HEAD(&breaks->list, point, link);
    return 0;
}

/* Any that is not on its way out: *ret_held says whether one holds somebody. */
static bool has_tag(const struct blkdebug_breaks *breaks, const char *tag, bool *ret_held)
{
    const struct blkdebug_break *point;
    bool found = false;

    *ret_held = false;
    TAILQ_FOREACH (point, &breaks->list, link) {
        if (point->resumed || strcmp(point->tag, tag) != 0)
            continue;
        found = true;
        *ret_held |= point->held;
    }
    return found;
}

int weir_blkdebug_wait(struct weir_node *node, const char *tag, int64_t deadline_ns)
{
    struct weir_mutex *mutex;
    struct blkdebug_breaks *breaks = blkdebug_breaks_of(node, &mutex);
    bool found, held;
    int ret = 0;

    weir_mutex_lock(mutex);
    while ((found = has_tag(breaks, tag, &held)) && !held && !ret && !breaks->over)
        ret = weir_co_queue_wait_until(&breaks->arrived, mutex, deadline_ns);
    weir_mutex_unlock(mutex);
    if (held)
        return 0;
    return found && ret ? ret : -ENOENT;
}

int weir_blkdebug_resume(struct weir_node *node, const char *tag)
{
    struct blkdebug_break *point;
    struct weir_mutex *mutex;
    struct blkdebug_breaks *breaks = blkdebug_breaks_of(node, &mutex);
    WEIR_SCOPE_LOCK(mutex);

    TAILQ_FOREACH (point, &breaks->list, link) {
        if (point->held && !point->resumed && !strcmp(point->tag, tag)) {
            resume(point);
            return 0;
        }
    }
    return -ENOENT;
}

int weir_blkdebug_remove(struct weir_node *node, const char *tag)
{
    struct blkdebug_break *point, *next;
    struct weir_mutex *mutex;
    struct blkdebug_breaks *breaks = blkdebug_breaks_of(node, &mutex);
    int ret = -ENOENT;
    WEIR_SCOPE_LOCK(mutex);

    for (point = TAILQ_FIRST(&breaks->list); point; point = next) {
        next = TAILQ_NEXT(point, link);
        if (point->resumed || strcmp(point->tag, tag) != 0)
            continue;
        if (point->held) {
            resume(point);
            continue;
        }
        free_break(breaks, point);
        ret = 0;
    }
    weir_co_queue_wake_all(&breaks->arrived);
    return ret;
}

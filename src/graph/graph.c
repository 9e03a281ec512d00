/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph's state, its lock, start and end.
 */
#include "graph/graph.h"
#include "graph/internal.h"
#include "sys/sys.h"
#include <string.h>

struct weir_graph weir_graph;

void weir_graph_init(const struct weir_graph_hooks *hooks)
{
    memset(&weir_graph, 0, sizeof(weir_graph));
    if (hooks)
        weir_graph.hooks = *hooks;
    TAILQ_INIT(&weir_graph.nodes);
    TAILQ_INIT(&weir_graph.leaving);
    TAILQ_INIT(&weir_graph.drains);
    TAILQ_INIT(&weir_graph.orphans);
    weir_co_mutex_init(&weir_graph.lock);
    weir_mutex_init(&weir_graph.rest_mutex);
    weir_co_queue_init(&weir_graph.rest_queue);
}

/* ---- lock ---- */

void weir_graph_assert(void)
{
    weir_co_assert();
    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
}

bool weir_graph_locked_here(void)
{
    struct weir_co *self = weir_co_self();

    return self && weir_graph.lock.owner == self;
}

bool weir_graph_enter(void)
{
    weir_graph_assert();
    if (weir_graph_locked_here())
        return false;
    weir_co_mutex_lock(&weir_graph.lock);
    return true;
}

void weir_graph_leave(bool taken)
{
    if (taken)
        weir_co_mutex_unlock(&weir_graph.lock);
}

void weir_graph_lock(void)
{
    weir_graph_assert();
    WEIR_ASSERT(!weir_graph_locked_here());
    weir_co_mutex_lock(&weir_graph.lock);
}

void weir_graph_unlock(void)
{
    WEIR_ASSERT(weir_graph_locked_here());
    weir_co_mutex_unlock(&weir_graph.lock);
}

/* ---- coming to rest ---- */

void weir_graph_rested(void)
{
    WEIR_SCOPE_LOCK(&weir_graph.rest_mutex);

    weir_co_queue_wake_all(&weir_graph.rest_queue);
}

int weir_graph_wait(bool (*done)(void *arg), void *arg, int64_t deadline_ns)
{
    int ret = 0;

    weir_graph_assert();
    weir_mutex_lock(&weir_graph.rest_mutex);
    while (!done(arg)) {
        if (ret == -ETIMEDOUT)
            break;
        ret = weir_co_queue_wait_until(&weir_graph.rest_queue, &weir_graph.rest_mutex, deadline_ns);
    }
    if (ret == -ETIMEDOUT && done(arg))
        ret = 0;
    weir_mutex_unlock(&weir_graph.rest_mutex);
    return ret;
}

/* ---- end ---- */

/* Takes the names of all nodes away that only the user holds, roots first. */
static void give_up_all(void)
{
    struct weir_node *node = TAILQ_FIRST(&weir_graph.nodes);

    while (node) {
        if (!node->user_added) {
            node = TAILQ_NEXT(node, in_graph);
            continue;
        }
        weir_node_ref(node);
        node->user_added = false;
        weir_node_unref(node);
        weir_node_check_unused(node);
        weir_node_unref(node);
        /* That may have taken others out of the list. */
        node = TAILQ_FIRST(&weir_graph.nodes);
    }
}

static bool no_node_left(void *arg)
{
    return TAILQ_EMPTY(&weir_graph.nodes) && TAILQ_EMPTY(&weir_graph.leaving) &&
           TAILQ_EMPTY(&weir_graph.orphans);
}

void weir_graph_done(int64_t limit_ns)
{
    int64_t deadline = weir_sys->clock_ns() + limit_ns;
    bool taken = weir_graph_enter();

    give_up_all();
    weir_graph_leave(taken);
    if (weir_graph_wait(no_node_left, NULL, deadline) < 0)
        return; /* what is stuck still uses the registry */
    weir_co_mutex_done(&weir_graph.lock);
    weir_mutex_done(&weir_graph.rest_mutex);
}

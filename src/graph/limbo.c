/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How nodes go: deletion, limbo, closing.
 *
 * A node is used by its user (blockdev-add), by root edges, and by parent nodes that are used themselves. When
 * the last use ends it leaves the registry, and its name is free. From then on it only waits for its references:
 * edges of parents that are leaving too, and requests that were left behind (limbo). The last reference closes it
 * in a coroutine of its own on the control loop, whose end gives its children up.
 */
#include "graph/internal.h"
#include "sys/sys.h"

/* Whether a root user or a node that is in use itself has an edge to it. */
static bool in_use(const struct weir_node *node)
{
    const struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (!edge->parent || !edge->parent->in_limbo)
            return true;
    }
    return false;
}

void weir_node_leave(struct weir_node *node)
{
    struct weir_edge *edge;

    weir_node_unlink(node);
    node->in_limbo = true;
    TAILQ_INSERT_TAIL(&weir_graph.leaving, node, in_graph);
    if (node->graph->opened && node->driver->let_go)
        node->driver->let_go(node);
    TAILQ_FOREACH (edge, &node->children, in_parent)
        weir_node_check_unused(edge->node);
}

void weir_node_check_unused(struct weir_node *node)
{
    if (!node->in_limbo && !node->graph->opening && !node->user_added && !in_use(node))
        weir_node_leave(node);
}

static void let_all_go(const struct weir_nodes *nodes)
{
    struct weir_node *node;

    TAILQ_FOREACH (node, nodes, in_graph) {
        if (node->graph->opened && !node->graph->closing && node->driver->let_go)
            node->driver->let_go(node);
    }
}

void weir_graph_let_go(void)
{
    let_all_go(&weir_graph.nodes);
    let_all_go(&weir_graph.leaving);
}

/* Whether something other than a node on its way out keeps @node. */
static bool is_stuck(const struct weir_node *node)
{
    const struct weir_edge *edge;
    unsigned edges = 0;

    if (node->graph->closing)
        return false;
    TAILQ_FOREACH (edge, &node->parents, in_node) {
        edges++;
        if (edge->parent && is_stuck(edge->parent))
            return true;
    }
    return atomic_load_explicit(&node->refs, memory_order_relaxed) > edges;
}

unsigned weir_graph_limbo_count(void)
{
    const struct weir_node *node;
    unsigned count = 0;

    TAILQ_FOREACH (node, &weir_graph.leaving, in_graph)
        count += is_stuck(node);
    return count;
}

struct weir_node *weir_graph_limbo_next(struct weir_node *node)
{
    do
        node = node ? TAILQ_NEXT(node, in_graph) : TAILQ_FIRST(&weir_graph.leaving);
    while (node && !is_stuck(node));
    return node;
}

/* ---- closing ---- */

static weir_co_fn void close_node(void *arg)
{
    struct weir_node *node = arg;
    bool taken;

    if (node->graph->opened) {
        /* Nobody is left who could be told about a failure. */
        if (weir_graph.hooks.node_settle)
            (void)weir_graph.hooks.node_settle(node);
        if (node->driver->close)
            node->driver->close(node);
    }
    taken = weir_graph_enter();
    weir_node_detach_children(node);
    weir_graph_leave(taken);
    /* Nothing waits from here on, so no walk under the lock meets a node that is gone. */
    TAILQ_REMOVE(&weir_graph.leaving, node, in_graph);
    weir_node_free(node);
    weir_graph_rested();
}

static void start_close(struct weir_node *node)
{
    node->graph->closing = true;
    node->graph->close_number = weir_graph.close_number++;
    if (!node->in_limbo)
        weir_node_leave(node);
    weir_co_start(weir_loop_control(), close_node, node);
}

static void call_close(struct weir_call *call)
{
    struct weir_node_graph *own = weir_container_of(call, struct weir_node_graph, close_call);

    start_close(own->node);
}

struct weir_node *weir_node_ref(struct weir_node *node)
{
    unsigned old = atomic_fetch_add_explicit(&node->refs, 1, memory_order_relaxed);

    WEIR_ASSERT(old);
    return node;
}

void weir_node_unref(struct weir_node *node)
{
    if (!node || atomic_fetch_sub_explicit(&node->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (weir_loop_self() == weir_loop_control()) {
        start_close(node);
        return;
    }
    node->graph->close_call.run = call_close;
    weir_loop_call(weir_loop_control(), &node->graph->close_call);
}

uint64_t weir_graph_close_mark(void)
{
    return weir_graph.close_number;
}

static bool all_closed(void *arg)
{
    const uint64_t *mark = arg;
    const struct weir_node *node;

    TAILQ_FOREACH (node, &weir_graph.leaving, in_graph) {
        if (node->graph->closing && node->graph->close_number >= *mark)
            return false;
    }
    return true;
}

void weir_graph_wait_closed(uint64_t mark, int64_t limit_ns)
{
    WEIR_ASSERT(!weir_graph_locked_here());
    /* What takes longer is closed all the same, later. */
    (void)weir_graph_wait(all_closed, &mark, limit_ns < 0 ? -1 : weir_sys->clock_ns() + limit_ns);
}

void weir_node_give_up(struct weir_node *node)
{
    uint64_t mark = weir_graph_close_mark();

    weir_node_check_unused(node);
    weir_node_unref(node);
    weir_graph_wait_closed(mark, WEIR_OPEN_LIMIT_NS);
}

/* ---- blockdev-del ---- */

int weir_node_del(const char *name, struct weir_error **err)
{
    bool taken = weir_graph_enter();
    uint64_t mark = weir_graph_close_mark();
    struct weir_node *node = weir_node_find(name);
    int ret = 0;

    if (!node) {
        ret = weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'", name);
    } else if (!node->user_added) {
        ret = weir_error_set(err, -EPERM, "Node %s is not owned by the monitor", name);
    } else if (in_use(node)) {
        ret = weir_error_set(err, -EBUSY, "Node %s is in use", name);
    } else {
        node->user_added = false;
        weir_node_leave(node);
        weir_node_unref(node);
    }
    weir_graph_leave(taken);
    /* So that whoever gets the reply finds the file closed and unlocked. */
    if (!ret && taken)
        weir_graph_wait_closed(mark, WEIR_OPEN_LIMIT_NS);
    return ret;
}

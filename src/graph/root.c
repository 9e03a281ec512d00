/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Root edges: where exports, jobs and tools hold on to the graph.
 */
#include "base/alloc.h"
#include "graph/graph.h"
#include "graph/internal.h"
#include "sys/sys.h"

int weir_root_attach(struct weir_node *node, const char *name, unsigned perm, unsigned shared,
                     const struct weir_root_ops *ops, void *root, struct weir_edge **ret_edge,
                     struct weir_error **err)
{
    bool taken = weir_graph_enter();
    struct weir_edge *edge;
    int ret;

    *ret_edge = NULL;
    if (node->in_limbo) {
        weir_graph_leave(taken);
        return weir_error_set(err, -ENOENT, "Node '%s' is being removed", node->name);
    }
    edge = weir_edge_new(NULL, node, name, 0);
    edge->perm = perm;
    edge->shared = shared;
    edge->root_ops = ops;
    edge->root = root;
    edge->gate = weir_gate_new();
    weir_edge_link(edge, NULL, NULL);
    ret = weir_perm_refresh(err);
    if (ret < 0) {
        weir_edge_unlink(edge);
        weir_edge_drop(edge);
    } else {
        weir_drain_extend();
        *ret_edge = edge;
    }
    weir_graph_leave(taken);
    return ret;
}

int weir_root_set_perm(struct weir_edge *edge, unsigned perm, unsigned shared, struct weir_error **err)
{
    bool taken = weir_graph_enter();
    struct weir_tran *tran = weir_tran_new();
    int ret;

    weir_tran_set_perm(tran, edge, perm, shared);
    ret = weir_tran_finish(tran, err);
    weir_graph_leave(taken);
    return ret;
}

/* ---- detach ---- */

static bool gate_idle(void *arg)
{
    return weir_gate_idle(arg);
}

/* An edge that was given up lives until the last request that is inside has left. */
static weir_co_fn void wait_orphan(void *arg)
{
    struct weir_orphan *orphan = arg;

    (void)weir_graph_wait(gate_idle, orphan->edge->gate, -1); /* has no limit */
    TAILQ_REMOVE(&weir_graph.orphans, orphan, link);
    weir_drain_forget(orphan->edge);
    weir_edge_unref(orphan->edge);
    free(orphan);
    weir_graph_rested();
}

static void make_orphan(struct weir_edge *edge)
{
    struct weir_orphan *orphan = weir_new(struct weir_orphan);

    orphan->edge = weir_edge_ref(edge);
    edge->root_ops = NULL; /* its user is gone */
    TAILQ_INSERT_TAIL(&weir_graph.orphans, orphan, link);
    weir_co_start(weir_loop_control(), wait_orphan, orphan);
}

void weir_root_detach(struct weir_edge *edge, int64_t limit_ns)
{
    int64_t deadline = limit_ns < 0 ? -1 : weir_sys->clock_ns() + limit_ns;
    uint64_t mark;
    bool taken, idle;

    weir_graph_assert();
    WEIR_ASSERT(!edge->parent && edge->attached);
    weir_gate_watch(edge->gate);
    idle = weir_graph_wait(gate_idle, edge->gate, deadline) == 0;
    taken = weir_graph_enter();
    mark = weir_graph_close_mark();
    weir_edge_unlink(edge); /* first: who enters when the gate opens again finds it detached */
    weir_drain_forget(edge);
    if (!idle)
        make_orphan(edge);
    weir_edge_drop(edge);
    weir_perm_refresh_less();
    weir_graph_leave(taken);
    if (taken)
        weir_graph_wait_closed(mark,
                               limit_ns < 0 || limit_ns > WEIR_OPEN_LIMIT_NS ? WEIR_OPEN_LIMIT_NS : limit_ns);
}

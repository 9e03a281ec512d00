/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Drain: stop what enters the graph above some nodes, wait until it is through, keep it stopped.
 *
 * The gates to close are those of all root edges from which a drained node can be reached. Their requests may be
 * held up in any node below these edges, so all of these are told to let go. What was stopped is recorded, as the
 * graph may change before the drain ends: exactly that is let go on. While a drain is active, whatever newly
 * reaches a drained node is stopped as well. Root edges that were given up with requests inside count: the graph below
 * a request must not change, whoever waits for its answer. So do requests that a parent left behind (io/async.h), in
 * drains of the nodes that they are in: not in a drain of the source of a mirror whose target hangs.
 */
#include "base/alloc.h"
#include "graph/internal.h"
#include "sys/sys.h"

struct weir_drain_record {
    bool cancelled; /* whoever waits for it gives up */
    struct weir_node *targets[WEIR_DRAIN_NODES_MAX];
    unsigned target_count;
    struct weir_edge **edges; /* gates closed; taken out by weir_drain_forget() */
    unsigned edge_count;
    struct weir_node **nodes; /* told; referenced */
    unsigned node_count;
    TAILQ_ENTRY(weir_drain_record) link;
};

/* ---- what to stop ---- */

static bool has_edge(const struct weir_drain_record *record, const struct weir_edge *edge)
{
    for (unsigned i = 0; i < record->edge_count; i++) {
        if (record->edges[i] == edge)
            return true;
    }
    return false;
}

static void stop_edge(struct weir_drain_record *record, struct weir_edge *edge)
{
    if (has_edge(record, edge))
        return;
    record->edges = weir_realloc(record->edges, (record->edge_count + 1) * sizeof(*record->edges));
    record->edges[record->edge_count++] = edge;
    if (edge->root_ops && edge->root_ops->drain_begin)
        edge->root_ops->drain_begin(edge);
    weir_gate_close(edge->gate);
}

static bool has_node(const struct weir_drain_record *record, const struct weir_node *node)
{
    for (unsigned i = 0; i < record->node_count; i++) {
        if (record->nodes[i] == node)
            return true;
    }
    return false;
}

static void tell_node(struct weir_drain_record *record, struct weir_node *node)
{
    if (!node->graph->opened || node->graph->closing || has_node(record, node))
        return;
    record->nodes = weir_realloc(record->nodes, (record->node_count + 1) * sizeof(*record->nodes));
    record->nodes[record->node_count++] = weir_node_ref(node);
    node->drained++;
    if (node->driver->drain_begin)
        node->driver->drain_begin(node);
}

static void tell_below(struct weir_drain_record *record, struct weir_node *node, unsigned mark)
{
    struct weir_edge *edge;

    if (node->graph->mark == mark)
        return;
    node->graph->mark = mark;
    tell_node(record, node);
    TAILQ_FOREACH (edge, &node->children, in_parent)
        tell_below(record, edge->node, mark);
}

/* Nodes above may work in the background also while nobody uses them. */
static void tell_above(struct weir_drain_record *record, struct weir_node *node, unsigned mark)
{
    struct weir_edge *edge;

    if (node->graph->mark == mark)
        return;
    node->graph->mark = mark;
    tell_node(record, node);
    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent)
            tell_above(record, edge->parent, mark);
    }
}

/* Closes the gates above @node. */
static void stop_above(struct weir_drain_record *record, struct weir_node *node, unsigned mark)
{
    struct weir_edge *edge;

    if (node->graph->mark == mark)
        return;
    node->graph->mark = mark;
    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent)
            stop_above(record, edge->parent, mark);
        else
            stop_edge(record, edge);
    }
}

static void stop_all(struct weir_drain_record *record)
{
    unsigned mark = weir_graph_new_mark();
    const struct weir_orphan *orphan;

    for (unsigned i = 0; i < record->target_count; i++)
        stop_above(record, record->targets[i], mark);
    TAILQ_FOREACH (orphan, &weir_graph.orphans, link) {
        if (orphan->edge->node->graph->mark == mark)
            stop_edge(record, orphan->edge);
    }
    mark = weir_graph_new_mark();
    for (unsigned i = 0; i < record->edge_count; i++)
        tell_below(record, record->edges[i]->node, mark);
    for (unsigned i = 0; i < record->target_count; i++)
        tell_below(record, record->targets[i], mark);
    mark = weir_graph_new_mark();
    for (unsigned i = 0; i < record->target_count; i++)
        tell_above(record, record->targets[i], mark);
}

void weir_drain_extend(void)
{
    struct weir_drain_record *record;

    TAILQ_FOREACH (record, &weir_graph.drains, link)
        stop_all(record);
}

void weir_drain_forget(struct weir_edge *edge)
{
    struct weir_drain_record *record;

    TAILQ_FOREACH (record, &weir_graph.drains, link) {
        for (unsigned i = 0; i < record->edge_count; i++) {
            if (record->edges[i] != edge)
                continue;
            for (unsigned j = i + 1; j < record->edge_count; j++)
                record->edges[j - 1] = record->edges[j];
            record->edge_count--;
            /* Whoever still holds the edge must not wait at its gate for good. */
            weir_gate_open(edge->gate);
            break;
        }
    }
}

/* ---- end ---- */

static void let_go_on(struct weir_drain_record *record)
{
    TAILQ_REMOVE(&weir_graph.drains, record, link);
    for (unsigned i = record->node_count; i-- > 0;) {
        struct weir_node *node = record->nodes[i];

        WEIR_ASSERT(node->drained);
        node->drained--;
        if (node->driver->drain_end)
            node->driver->drain_end(node);
    }
    for (unsigned i = record->edge_count; i-- > 0;) {
        struct weir_edge *edge = record->edges[i];

        weir_gate_open(edge->gate);
        if (edge->root_ops && edge->root_ops->drain_end)
            edge->root_ops->drain_end(edge);
    }
    for (unsigned i = 0; i < record->node_count; i++)
        weir_node_unref(record->nodes[i]);
    for (unsigned i = 0; i < record->target_count; i++)
        weir_node_unref(record->targets[i]);
    free(record->edges);
    free(record->nodes);
    free(record);
}

/* ---- background work of nodes ---- */

bool weir_node_background_begin(struct weir_node *node)
{
    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
    if (node->drained || node->graph->closing)
        return false;
    weir_node_ref(node);
    node->background++;
    return true;
}

void weir_node_background_end(struct weir_node *node)
{
    WEIR_ASSERT(weir_loop_self() == weir_loop_control() && node->background);
    if (!--node->background && node->drained)
        weir_graph_rested();
    weir_node_unref(node);
}

/* ---- waiting ---- */

/* Requests that their parents gave up, inside the node or inside one that leads to it. */
static bool has_left_behind(const struct weir_node *node)
{
    const struct weir_edge *edge;

    if (atomic_load(&node->left_behind))
        return true;
    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent && has_left_behind(edge->parent))
            return true;
    }
    return false;
}

void weir_node_request_returned(struct weir_node *node)
{
    /* Nobody but drains looks at it; they do so again whenever something has come to rest. */
    if (atomic_fetch_sub(&node->left_behind, 1) == 1)
        weir_graph_rested();
}

static bool all_at_rest(void *arg)
{
    const struct weir_drain_record *record = arg;

    if (record->cancelled)
        return true;
    for (unsigned i = 0; i < record->target_count; i++) {
        if (has_left_behind(record->targets[i]))
            return false;
    }
    for (unsigned i = 0; i < record->node_count; i++) {
        if (record->nodes[i]->background)
            return false;
    }
    for (unsigned i = 0; i < record->edge_count; i++) {
        if (!weir_gate_empty(record->edges[i]->gate))
            return false;
    }
    return true;
}

/* "write of 4096 bytes at offset 0"; a new string. */
static char *describe_op(const struct weir_gate_op *op)
{
    static const char *const names[WEIR_OP_COUNT] = { "read", "write", "zero", "discard", "flush", "status" };

    if (op->op == WEIR_OP_FLUSH)
        return weir_strdup("flush");
    return weir_strdup_printf("%s of %llu bytes at offset %llu", names[op->op],
                              (unsigned long long)op->length, (unsigned long long)op->offset);
}

/* The request that holds the drain up; false when there is none that can be named. */
static bool find_oldest(const struct weir_drain_record *record, struct weir_gate_op *ret_op)
{
    bool found = false;

    for (unsigned i = 0; i < record->edge_count; i++) {
        struct weir_gate_op op;

        if (!weir_gate_oldest(record->edges[i]->gate, &op))
            continue;
        if (!found || op.start_ns < ret_op->start_ns)
            *ret_op = op;
        found = true;
    }
    return found;
}

static int report_timeout(const struct weir_drain_record *record, int64_t limit_ns, struct weir_error **err)
{
    const char *name = record->targets[0]->name;
    double limit = (double)limit_ns / 1e9;
    struct weir_gate_op oldest;

    if (!find_oldest(record, &oldest)) {
        for (unsigned i = 0; i < record->target_count; i++) {
            if (has_left_behind(record->targets[i]))
                return weir_error_set(err, -ETIMEDOUT,
                                      "drain of node '%s' gave up after %g s: a request that was left behind "
                                      "has not returned from node '%s'",
                                      name, limit, record->targets[i]->name);
        }
        return weir_error_set(err, -ETIMEDOUT,
                              "drain of node '%s' gave up after %g s: a node writes its tables back", name,
                              limit);
    }
    weir_autofree char *what = describe_op(&oldest);
    weir_autofree char *who = weir_edge_describe_parent(oldest.edge);

    return weir_error_set(
        err, -ETIMEDOUT,
        "drain of node '%s' gave up after %g s: oldest request: %s by %s has been in flight for "
        "%.1f s",
        name, limit, what, who, (double)(weir_sys->clock_ns() - oldest.start_ns) / 1e9);
}

int weir_drain_begin(struct weir_drain *drain, struct weir_node *const *nodes, unsigned count,
                     int64_t limit_ns, struct weir_error **err)
{
    struct weir_drain_record *record = weir_new(struct weir_drain_record);
    int64_t deadline = limit_ns < 0 ? -1 : weir_sys->clock_ns() + limit_ns;
    int ret;

    WEIR_ASSERT(weir_graph_locked_here());
    WEIR_ASSERT(count >= 1 && count <= WEIR_DRAIN_NODES_MAX);
    *drain = (struct weir_drain){ .record = record };
    record->target_count = count;
    for (unsigned i = 0; i < count; i++)
        record->targets[i] = weir_node_ref(nodes[i]);
    TAILQ_INSERT_TAIL(&weir_graph.drains, record, link);
    stop_all(record);
    ret = weir_graph_wait(all_at_rest, record, deadline);
    if (record->cancelled)
        ret = weir_error_set(err, -ECANCELED, "drain of node '%s' was given up", record->targets[0]->name);
    else if (ret < 0)
        ret = report_timeout(record, limit_ns, err);
    if (ret < 0) {
        let_go_on(record);
        drain->record = NULL;
        return ret;
    }
    drain->active = true;
    return 0;
}

void weir_drain_cancel(struct weir_drain *drain)
{
    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
    if (!drain->record || drain->active)
        return;
    drain->record->cancelled = true;
    weir_graph_rested();
}

void weir_drain_end(struct weir_drain *drain)
{
    WEIR_ASSERT(drain->active && weir_loop_self() == weir_loop_control());
    drain->active = false;
    let_go_on(weir_steal(&drain->record));
}

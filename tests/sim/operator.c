/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The operator: drains and snapshots at random times. On the control loop.
 */
#include "seed.h"

#include "base/alloc.h"
#include "filter/mirror_top.h"
#include "graph/gate.h"
#include "io/io.h"
#include "io/node_io.h"
#include <string.h>

/* A drain takes no longer than the slowest request and what it waits for. */
#define DRAIN_LIMIT_NS (5 * 1000000000LL)

/*
 * Requests that a cancelled mirror has left behind are nobody's: a drain does not wait for them. Until they are
 * through nothing can be said about rest.
 */
static bool has_rest(void)
{
    struct weir_node *top = seed.edges[0]->node;
    bool let_go = top->driver == &weir_driver_mirror_top && atomic_load(&weir_mirror_top_target(top)->broken);

    return !let_go && !seed.cancelling && weir_sim_now() >= seed.calm_ns;
}

static void assert_locks_free(void)
{
    struct weir_node *node = NULL;

    while ((node = weir_graph_next(node)))
        CHECK(!node->drained || weir_range_table_empty(node->io->ranges),
              "a range of node '%s' is locked in a drained section", node->name);
}

static uint64_t sum_of_requests(void)
{
    struct weir_node *node = NULL;
    uint64_t sum = 0;

    while ((node = weir_graph_next(node))) {
        struct weir_stats stats;

        if (!node->drained)
            continue;
        weir_node_stats(node, &stats);
        for (unsigned op = 0; op < WEIR_OP_COUNT; op++)
            sum += stats.op[op].operations + stats.op[op].failed;
    }
    return sum;
}

weir_co_fn void operator_assert_rest(void)
{
    uint64_t requests = sum_of_requests();

    if (has_rest())
        assert_locks_free();
    weir_co_sleep(1 + (int64_t)pick(500000));
    if (!has_rest())
        return;
    CHECK(requests == sum_of_requests(), "a request has passed a drained node");
    assert_locks_free();
}

weir_co_fn void operator_drain_once(void)
{
    struct weir_drain drain = { 0 };
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *node;
    int ret;

    weir_graph_lock();
    node = seed.edges[0]->node;
    ret = weir_drain_begin(&drain, &node, 1, DRAIN_LIMIT_NS, &err);
    CHECK(!ret, "%s", weir_error_text(err));
    if (!ret) {
        operator_assert_rest();
        mirrors_compare_drained();
        seed.totals.drains++;
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
}

weir_co_fn void operator_drains(void *arg)
{
    for (unsigned i = 0; i < seed.plan.drains && !seed.ending; i++) {
        weir_co_sleep((int64_t)pick(8000000));
        operator_drain_once();
    }
    seed.operators_running--;
}

/* ---- snapshots ---- */

static weir_co_fn int create(struct weir_node *node)
{
    enum snapshot_state before = seed.snapshot;
    int ret;

    seed.snapshot = SNAPSHOT_MAYBE;
    seed.snapshot_known = before == SNAPSHOT_ABSENT; /* else one that was not deleted durably may come back */
    seed.snapshot_from = history_tick();
    seed.snapshot_to = 0;
    ret = simfmt_snapshot_create(node);
    seed.snapshot_to = history_tick();
    if (!ret)
        seed.snapshot = SNAPSHOT_PRESENT;
    /* A try that failed early leaves a part of the table, and no flag, or one for a table that is whole. */
    if (ret && !simfmt_has_snapshot(node))
        seed.snapshot = before;
    seed.totals.snapshots += !ret;
    return ret;
}

static weir_co_fn int delete (struct weir_node *node)
{
    int ret;

    seed.snapshot = SNAPSHOT_MAYBE;
    ret = simfmt_snapshot_delete(node);
    if (!ret)
        seed.snapshot = SNAPSHOT_ABSENT;
    else
        seed.snapshot_known = false; /* a later try takes it apart before its flag is gone for good */
    seed.totals.snapshots_deleted += !ret;
    return ret;
}

static weir_co_fn void snapshot_once(struct weir_edge *edge)
{
    struct weir_gate_op op = { .op = WEIR_OP_FLUSH };
    struct weir_node *node;
    int ret = 0;

    weir_gate_enter(edge, &op);
    node = weir_node_skip_filters(edge->node);
    life_may_cut(CUT_AT_SNAPSHOT);
    if (node->driver == &weir_driver_simfmt && seed.current == 0)
        ret = simfmt_has_snapshot(node) ? delete (node) : create(node);
    weir_gate_leave(&op);
    CHECK(!ret || seed.plan.faults, "a snapshot operation failed: %s", strerror(-ret));
}

weir_co_fn void operator_snapshots(void *arg)
{
    struct weir_edge *edge =
        life_attach(seed.edges[0]->node, "operator", WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE);

    for (unsigned i = 0; i < seed.plan.snapshots && !seed.ending; i++) {
        weir_co_sleep((int64_t)pick(8000000));
        snapshot_once(edge);
    }
    weir_root_detach(edge, -1);
    seed.operators_running--;
}

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

/* ---- changes of size ---- */

static uint64_t tail_stamp(uint64_t sector)
{
    return ((uint64_t)1 << 40) + 2 * sector;
}

static weir_co_fn int tail_io(struct weir_edge *edge, enum weir_op op, uint64_t offset, uint8_t *bytes,
                              uint64_t length)
{
    struct iovec iov = { bytes, length };
    struct weir_request request = weir_request_make(op, offset, length, &iov, 1, 0);

    return weir_root_io(edge, &request);
}

/* Nobody but the operator knows what lies behind the guests' disk: it is zero, then what was written last. */
static weir_co_fn void use_tail(struct weir_edge *edge, uint64_t end)
{
    uint64_t start = weir_align_up(seed.plan.size, SECTOR), length = end - start;
    uint8_t *bytes = weir_try_alloc(length, 4096);
    int ret = tail_io(edge, WEIR_OP_READ, start, bytes, length);

    for (uint64_t i = 0; i < length && !ret; i++)
        CHECK(!bytes[i], "byte %llu of a disk that has grown is %u", (unsigned long long)(start + i),
              bytes[i]);
    for (uint64_t i = 0; i < length && !ret && pick(4); i += SECTOR)
        sector_fill(bytes + i, tail_stamp(i / SECTOR));
    if (!ret)
        ret = tail_io(edge, WEIR_OP_WRITE, start, bytes, length);
    if (!ret)
        ret = tail_io(edge, WEIR_OP_READ, start, bytes, length);
    for (uint64_t i = 0, value; i < length && !ret; i += SECTOR)
        CHECK(sector_value(bytes + i, 0, SECTOR, &value) && (!value || value == tail_stamp(i / SECTOR)),
              "sector %llu of a disk that has grown is wrong", (unsigned long long)((start + i) / SECTOR));
    CHECK(!ret || seed.plan.enospc || seed.plan.faults, "behind the guests' disk: %s", strerror(-ret));
    free(bytes);
}

/* Grows, uses what is new, and goes back, maybe in steps. */
static weir_co_fn void resize_once(struct weir_edge *edge)
{
    uint64_t size = seed.plan.size, start = weir_align_up(size, SECTOR);
    uint64_t end = start + (1 + pick(pick(3) ? 64 : 1200)) * SECTOR;
    WEIR_AUTO_ERROR err = NULL;
    int ret = weir_node_resize(edge, end, &err);

    life_may_cut(CUT_AT_RESIZE);
    CHECK(!ret || seed.plan.enospc || seed.plan.faults, "growing: %s", weir_error_text(err));
    if (!ret && pick(4))
        use_tail(edge, end);
    weir_error_free(weir_steal(&err));
    while (weir_node_size(edge->node) != size) {
        uint64_t now = weir_node_size(edge->node);

        CHECK(now > size, "a disk of %llu bytes has %llu", (unsigned long long)size, (unsigned long long)now);
        ret = weir_node_resize(
            edge, now > start && pick(2) ? start + pick((now - start) / SECTOR) * SECTOR : size, &err);
        CHECK(!ret || seed.plan.enospc || seed.plan.faults, "shrinking: %s", weir_error_text(err));
        if (ret)
            return;
        seed.totals.resizes++;
        life_may_cut(CUT_AT_RESIZE);
    }
}

weir_co_fn void operator_resizes(void *arg)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE | WEIR_PERM_RESIZE;

    for (unsigned i = 0; i < seed.plan.resizes && !seed.ending; i++) {
        struct weir_node *node;
        struct weir_edge *edge;

        weir_co_sleep((int64_t)pick(8000000));
        node = seed.edges[0]->node;
        /* A job keeps the size of its nodes as it is, also what is left of one. */
        if (seed.mirroring || seed.editing || weir_sim_now() < seed.calm_ns ||
            seed.images[seed.current].kind != IMAGE_QCOW2)
            continue;
        if (seed.resizing) /* a fault kept it from going back: what lies behind is not known any more */
            break;
        seed.resizing = true;
        edge = life_attach(node, "resizer", perm);
        resize_once(edge);
        seed.resizing = weir_node_size(node) != seed.plan.size;
        weir_root_detach(edge, -1);
    }
    seed.operators_running--;
}

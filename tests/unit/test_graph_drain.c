/* SPDX-License-Identifier: BSD-2-Clause */
/* Gates: counting, closing, admission. Drain: what it stops, its limit, nesting. */
#include "graph_fake.h"
#include "sys/sys.h"
#include "unit.h"

#define MS 1000000LL

static weir_co_fn int drain_begin(struct weir_drain *drain, struct weir_node *node, int64_t limit_ns,
                                  struct weir_error **err)
{
    int ret;

    ret = weir_drain_begin(drain, &node, 1, limit_ns, err);
    return ret;
}

/* ---- one guest request that enters and leaves when told ---- */

struct guest {
    struct weir_edge *edge;
    uint64_t offset, length;
    enum weir_op op;
    struct weir_gate_op gate_op;
    bool inside, left;
};

static weir_co_fn void guest_run(void *arg)
{
    struct guest *guest = arg;

    guest->gate_op.op = guest->op;
    guest->gate_op.offset = guest->offset;
    guest->gate_op.length = guest->length;
    weir_gate_enter(guest->edge, &guest->gate_op);
    guest->inside = true;
}

static void guest_start(struct guest *guest, struct weir_edge *edge, uint64_t offset, uint64_t length)
{
    *guest = (struct guest){ .edge = edge, .offset = offset, .length = length, .op = WEIR_OP_WRITE };
    weir_co_run(guest_run, guest);
}

static weir_co_fn void guest_leave(struct guest *guest)
{
    WEIR_ASSERT(guest->inside && !guest->left);
    guest->left = true;
    weir_gate_leave(&guest->gate_op);
    weir_co_pause(); /* who was let in runs */
}

static weir_co_fn struct weir_edge *edge_on_leaf(void)
{
    return fake_root(fake_add("{'driver':'leaf','node-name':'n'}"), "e", R | W, ALL);
}

/* ---- gates ---- */

weir_co_fn GRAPH_TEST(admission_in_order)
{
    struct weir_edge *edge = edge_on_leaf();
    struct guest guests[5];

    weir_gate_set_limits(edge, 2, 1000);
    for (unsigned i = 0; i < 5; i++)
        guest_start(&guests[i], edge, 0, i == 2 ? 900 : 100);
    WEIR_ASSERT(guests[0].inside && guests[1].inside && !guests[2].inside);
    guest_leave(&guests[0]);
    WEIR_ASSERT(guests[2].inside && !guests[3].inside); /* 100 + 900 */
    guest_leave(&guests[1]);
    WEIR_ASSERT(guests[3].inside && !guests[4].inside);
    weir_gate_set_limits(edge, 3, 0);
    weir_co_pause();
    WEIR_ASSERT(!guests[4].inside); /* no bytes left */
    weir_gate_set_limits(edge, 0, 1100);
    weir_co_pause();
    WEIR_ASSERT(guests[4].inside);
    for (unsigned i = 2; i < 5; i++)
        guest_leave(&guests[i]);
    fake_root_end(edge);
}

/* Larger than the limit: alone. Nobody small overtakes it. */
weir_co_fn GRAPH_TEST(admission_of_giants)
{
    struct weir_edge *edge = edge_on_leaf();
    struct guest small, giant, after;

    weir_gate_set_limits(edge, 10, 1000);
    guest_start(&small, edge, 0, 10);
    guest_start(&giant, edge, 0, 5000);
    guest_start(&after, edge, 0, 10);
    WEIR_ASSERT(small.inside && !giant.inside && !after.inside);
    guest_leave(&small);
    WEIR_ASSERT(giant.inside && !after.inside);
    guest_leave(&giant);
    WEIR_ASSERT(after.inside);
    guest_leave(&after);
    fake_root_end(edge);
}

weir_co_fn GRAPH_TEST(closed_gate)
{
    struct weir_edge *edge = edge_on_leaf();
    struct weir_drain drain, nested;
    struct guest guest;

    WEIR_ASSERT(weir_gate_try_enter(edge) && !weir_gate_closing(edge));
    weir_gate_try_leave(edge);
    weir_graph_lock();
    WEIR_ASSERT(!drain_begin(&drain, edge->node, 0, NULL) && drain.active && edge->node->drained == 1);
    WEIR_ASSERT(!drain_begin(&nested, edge->node, 0, NULL) && edge->node->drained == 2);
    WEIR_ASSERT(!weir_gate_try_enter(edge) && weir_gate_closing(edge));
    guest_start(&guest, edge, 0, 10);
    weir_drain_end(&nested);
    weir_co_pause();
    WEIR_ASSERT(!guest.inside && !weir_gate_try_enter(edge));
    weir_drain_end(&drain);
    weir_co_pause();
    WEIR_ASSERT(guest.inside && !edge->node->drained);
    weir_graph_unlock();
    guest_leave(&guest);
    fake_root_end(edge);
    expect_log("open n, stop e, drain n, stop e, drain n, resume n, go e, resume n, go e");
}

/* ---- what is stopped ---- */

/*
 *   a    b      c
 *   |    |      |
 *   fa   fmt   other        drain of base: a and b, not c
 *     \  |  \
 *      base  leaf of fmt
 */
weir_co_fn GRAPH_TEST(above_and_below)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *fa = fake_add("{'driver':'filter','node-name':'fa','file':'base'}");
    struct weir_node *fmt =
        fake_add("{'driver':'format','node-name':'fmt','file':{'driver':'leaf','node-name':'l'},"
                 "'backing':'base'}");
    struct weir_node *other = fake_add("{'driver':'leaf','node-name':'other'}");
    struct weir_edge *a = fake_root(fa, "a", R, ALL), *b = fake_root(fmt, "b", R, ALL);
    struct weir_edge *c = fake_root(other, "c", R, ALL);
    struct weir_drain drain;

    fake_log();
    weir_graph_lock();
    WEIR_ASSERT(!drain_begin(&drain, base, 0, NULL));
    expect_log("stop a, stop b, drain fa, drain base, drain fmt, drain l");
    WEIR_ASSERT(!weir_gate_try_enter(a) && !weir_gate_try_enter(b) && weir_gate_try_enter(c));
    weir_gate_try_leave(c);
    WEIR_ASSERT(base->drained == 1 && fmt->drained == 1 && !other->drained);
    weir_drain_end(&drain);
    expect_log("resume l, resume fmt, resume base, resume fa, go b, go a");
    weir_graph_unlock();
    fake_root_end(a);
    fake_root_end(b);
    fake_root_end(c);
}

weir_co_fn GRAPH_TEST(two_nodes_at_once)
{
    struct weir_node *nodes[2];
    struct weir_edge *a, *b;
    struct weir_drain drain;

    nodes[0] = fake_add("{'driver':'leaf','node-name':'x'}");
    nodes[1] = fake_add("{'driver':'leaf','node-name':'y'}");
    a = fake_root(nodes[0], "a", R, ALL);
    b = fake_root(nodes[1], "b", R, ALL);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, nodes, 2, 0, NULL));
    WEIR_ASSERT(!weir_gate_try_enter(a) && !weir_gate_try_enter(b));
    weir_drain_end(&drain);
    weir_graph_unlock();
    fake_root_end(a);
    fake_root_end(b);
}

/* Who attaches inside a drained section is stopped too, who detaches is forgotten. */
weir_co_fn GRAPH_TEST(changes_inside)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");
    struct weir_edge *gone = fake_root(node, "gone", R, ALL), *late;
    struct weir_drain drain;

    fake_log();
    weir_graph_lock();
    WEIR_ASSERT(!drain_begin(&drain, node, 0, NULL));
    late = fake_root(node, "late", R, ALL);
    weir_root_detach(gone, -1);
    WEIR_ASSERT(!weir_gate_try_enter(late));
    weir_drain_end(&drain);
    WEIR_ASSERT(weir_gate_try_enter(late));
    weir_gate_try_leave(late);
    weir_graph_unlock();
    fake_root_end(late);
    expect_log("stop gone, drain n, stop late, resume n, go late");
}

/* ---- waiting, and the limit ---- */

struct drainer {
    struct weir_node *node;
    int result;
};

static weir_co_fn void drainer_run(void *arg)
{
    struct drainer *drainer = arg;
    struct weir_drain drain;

    weir_graph_lock();
    drainer->result = drain_begin(&drain, drainer->node, -1, NULL);
    weir_drain_end(&drain);
    weir_graph_unlock();
}

weir_co_fn GRAPH_TEST(waits_for_requests)
{
    struct weir_edge *edge = edge_on_leaf();
    struct drainer drainer = { edge->node, 1 };
    struct guest guest, waiting;

    weir_gate_set_limits(edge, 1, 0);
    guest_start(&guest, edge, 0, 10);
    guest_start(&waiting, edge, 0, 10); /* for admission: no drain waits for it */
    weir_co_run(drainer_run, &drainer);
    weir_co_pause();
    WEIR_ASSERT(drainer.result == 1 && !waiting.inside);
    guest_leave(&guest);
    while (drainer.result)
        weir_co_pause();
    weir_co_pause();
    WEIR_ASSERT(waiting.inside);
    guest_leave(&waiting);
    fake_root_end(edge);
}

weir_co_fn GRAPH_TEST(gives_up)
{
    struct weir_edge *edge = edge_on_leaf();
    struct guest old, young;
    struct weir_error *err = NULL;
    struct weir_drain drain;

    guest_start(&old, edge, 512, 4096);
    guest_start(&young, edge, 0, 1);
    old.gate_op.start_ns -= 12300 * MS; /* nobody wants to wait for it */
    weir_graph_lock();
    expect_failure(
        drain_begin(&drain, edge->node, 20 * MS, &err), -ETIMEDOUT, &err,
        "drain of node 'n' gave up after 0.02 s: oldest request: write of 4096 bytes at offset 512 by block "
        "export 'e' has been in flight for 12.3 s");
    WEIR_ASSERT(!drain.active && !edge->node->drained);
    WEIR_ASSERT(weir_gate_try_enter(edge)); /* open again */
    weir_gate_try_leave(edge);
    weir_graph_unlock();
    guest_leave(&old);
    guest_leave(&young);
    fake_root_end(edge);
}

weir_co_fn GRAPH_TEST(flush_has_no_range)
{
    struct weir_edge *edge = edge_on_leaf();
    struct guest guest = { .edge = edge, .op = WEIR_OP_FLUSH };
    struct weir_error *err = NULL;
    struct weir_drain drain;

    weir_co_run(guest_run, &guest);
    guest.gate_op.start_ns -= 1000 * MS;
    weir_graph_lock();
    expect_failure(
        drain_begin(&drain, edge->node, 0, &err), -ETIMEDOUT, &err,
        "drain of node 'n' gave up after 0 s: oldest request: flush by block export 'e' has been in flight "
        "for 1.0 s");
    weir_graph_unlock();
    guest_leave(&guest);
    fake_root_end(edge);
}

weir_co_fn GRAPH_TEST(background_work)
{
    struct weir_edge *edge = edge_on_leaf();
    struct drainer drainer = { edge->node, 1 };
    struct weir_error *err = NULL;
    struct weir_drain drain;

    WEIR_ASSERT(weir_node_background_begin(edge->node));
    weir_graph_lock();
    expect_failure(drain_begin(&drain, edge->node, 0, &err), -ETIMEDOUT, &err,
                   "drain of node 'n' gave up after 0 s: a node writes its tables back");
    weir_graph_unlock();
    weir_co_run(drainer_run, &drainer);
    weir_co_pause();
    WEIR_ASSERT(drainer.result == 1 && !weir_node_background_begin(edge->node));
    weir_node_background_end(edge->node);
    while (drainer.result)
        weir_co_pause();
    WEIR_ASSERT(weir_node_background_begin(edge->node));
    weir_node_background_end(edge->node);
    fake_root_end(edge);
}

/* ---- several loops ---- */

#define LOOPS 3
#define ROUNDS 3000
#define GUESTS 4

struct storm {
    struct weir_edge *edge;
    struct weir_loop *loop;
    atomic_uint *inside;  /* requests inside, all loops */
    atomic_bool *drained; /* nobody may be */
    struct weir_mutex *mutex;
    struct weir_co_queue *queue;
    unsigned *running;
};

static weir_co_fn void storm_step(struct storm *storm, unsigned i)
{
    if (i % 3 && weir_gate_try_enter(storm->edge)) {
        WEIR_ASSERT(!atomic_load(storm->drained));
        weir_gate_try_leave(storm->edge);
        return;
    }
    struct weir_gate_op op = { .op = WEIR_OP_READ, .length = 1 + i % 1000 };

    weir_gate_enter(storm->edge, &op);
    WEIR_ASSERT(!atomic_load(storm->drained));
    atomic_fetch_add(storm->inside, 1);
    if (i % 5 == 0)
        weir_co_pause();
    WEIR_ASSERT(!atomic_load(storm->drained));
    atomic_fetch_sub(storm->inside, 1);
    weir_gate_leave(&op);
}

static weir_co_fn void storm_run(void *arg)
{
    struct storm *storm = arg;

    for (unsigned i = 0; i < ROUNDS; i++)
        storm_step(storm, i);
    weir_mutex_lock(storm->mutex);
    --*storm->running;
    weir_co_queue_wake_all(storm->queue);
    weir_mutex_unlock(storm->mutex);
}

static bool storm_goes_on(struct storm *storm)
{
    WEIR_SCOPE_LOCK(storm->mutex);

    return *storm->running > 0;
}

/* Guests of three loops at one gate, drained over and over: nobody is inside in a drained section. */
weir_co_fn GRAPH_TEST(loops_and_drains)
{
    struct weir_edge *edge = edge_on_leaf();
    struct weir_loop *loops[LOOPS];
    struct storm storms[LOOPS];
    struct weir_mutex mutex;
    struct weir_co_queue queue;
    unsigned running = LOOPS * GUESTS, drains = 0;
    atomic_uint inside = 0;
    atomic_bool drained = false;

    weir_mutex_init(&mutex);
    weir_co_queue_init(&queue);
    weir_gate_set_limits(edge, 6, 2500);
    for (unsigned i = 0; i < LOOPS; i++) {
        loops[i] = new_loop("storm");
        storms[i] = (struct storm){ edge, loops[i], &inside, &drained, &mutex, &queue, &running };
        for (unsigned j = 0; j < GUESTS; j++)
            weir_co_start(loops[i], storm_run, &storms[i]);
    }
    while (storm_goes_on(&storms[0])) {
        struct weir_drain drain;

        weir_graph_lock();
        WEIR_ASSERT(!drain_begin(&drain, edge->node, 10000 * MS, NULL));
        WEIR_ASSERT(!atomic_load(&inside));
        atomic_store(&drained, true);
        weir_co_pause();
        WEIR_ASSERT(!atomic_load(&inside));
        atomic_store(&drained, false);
        weir_drain_end(&drain);
        weir_graph_unlock();
        drains++;
        weir_co_pause();
    }
    WEIR_ASSERT(drains > 1);
    for (unsigned i = 0; i < LOOPS; i++)
        weir_loop_free(loops[i]);
    fake_root_end(edge);
    weir_mutex_done(&mutex);
    fake_log();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(admission_in_order), cmocka_unit_test(admission_of_giants),
        cmocka_unit_test(closed_gate),        cmocka_unit_test(above_and_below),
        cmocka_unit_test(two_nodes_at_once),  cmocka_unit_test(changes_inside),
        cmocka_unit_test(waits_for_requests), cmocka_unit_test(gives_up),
        cmocka_unit_test(flush_has_no_range), cmocka_unit_test(background_work),
        cmocka_unit_test(loops_and_drains),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

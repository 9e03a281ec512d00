/* SPDX-License-Identifier: BSD-2-Clause */
/* How nodes and root edges go while requests are still out there. */
#include "graph_fake.h"
#include "sys/sys.h"
#include "unit.h"

#define MS 1000000LL

/* A request that was left behind: what io/async.c holds. */
struct left_behind {
    struct weir_edge *edge;
    struct weir_node *node;
};

static struct left_behind leave_behind(struct weir_edge *edge)
{
    return (struct left_behind){ weir_edge_ref(edge), weir_node_ref(edge->node) };
}

static void comes_back(struct left_behind *request)
{
    weir_node_unref(request->node);
    weir_edge_unref(request->edge);
}

static void comes_back_elsewhere(void *arg)
{
    comes_back(arg);
}

static weir_co_fn void wait_for_open_nodes(unsigned count)
{
    while (fake_open_nodes() != count)
        weir_co_pause();
}

/* The name is free, the node open, until the request returns: here on another loop. */
weir_co_fn GRAPH_TEST(node_in_limbo)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");
    struct weir_edge *root = fake_root(node, "r", R | W, R);
    struct left_behind request = leave_behind(root);
    struct weir_loop *loop = new_loop("other");
    struct weir_node *again;

    fake_root_end(root);
    WEIR_ASSERT(!node->in_limbo && !weir_graph_limbo_count()); /* the user still holds it */
    fake_del("n");
    WEIR_ASSERT(node->in_limbo && weir_graph_limbo_count() == 1 && !weir_node_find("n"));
    again = fake_add("{'driver':'leaf','node-name':'n'}");
    WEIR_ASSERT(again != node && weir_node_find("n") == again && fake_open_nodes() == 2);
    weir_co_start(loop, comes_back_elsewhere, &request);
    wait_for_open_nodes(1);
    weir_loop_free(loop);
    WEIR_ASSERT(!weir_graph_limbo_count());
    expect_log("open n, open n, close n");
}

/* What lies below a node in limbo goes with it, but only what nobody else uses; names are free at once. */
weir_co_fn GRAPH_TEST(tree_in_limbo)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *top =
        fake_add("{'driver':'format','node-name':'top','file':{'driver':'leaf','node-name':'f'},"
                 "'backing':'base'}");
    struct weir_node *file = weir_node_find("f");
    struct weir_edge *root = fake_root(top, "r", R | W, R);
    struct left_behind request = leave_behind(root);

    fake_log();
    fake_root_end(root);
    fake_del("top");
    WEIR_ASSERT(!weir_node_find("f") && file->in_limbo && !base->in_limbo && weir_graph_limbo_count() == 2);
    /* The stuck node does not keep the user from deleting what he added. */
    fake_del("base");
    WEIR_ASSERT(weir_graph_limbo_count() == 3 && !weir_graph_next(NULL));
    expect_log("");
    comes_back(&request);
    wait_for_open_nodes(0);
    expect_log("close top, close f, close base");
}

/* A write that was left behind may still happen: what it was allowed counts until it returns. */
weir_co_fn GRAPH_TEST(permissions_of_left_behind)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");
    struct weir_edge *root = fake_root(node, "r", R | W, R | U), *second;
    struct left_behind request = leave_behind(root);
    struct weir_error *err = NULL;

    fake_root_end(root);
    WEIR_ASSERT(node->perm == (R | W) && fake_of(node)->perm == (R | W) && fake_of(node)->shared == (R | U));
    expect_failure(
        fake_root_error(node, "s", W, ALL, &err), -EPERM, &err,
        "Permission conflict on node 'n': permissions 'write' are both required by block export 's' (uses "
        "node "
        "'n' as 'root' child) and unshared by requests left behind (uses node 'n' as 'root' child).");
    comes_back(&request);
    while (fake_of(node)->perm)
        weir_co_pause();
    WEIR_ASSERT(node->perm == 0 && node->shared == ALL);
    second = fake_root(node, "s", W, ALL);
    fake_root_end(second);
}

weir_co_fn GRAPH_TEST(nothing_is_attached_to_limbo)
{
    struct weir_node *node = weir_node_ref(fake_add("{'driver':'leaf','node-name':'n'}"));
    struct weir_node *top = fake_add("{'driver':'filter','node-name':'f','file':{'driver':'leaf'}}");
    struct weir_error *err = NULL;
    struct weir_tran *tran;

    fake_del("n");
    expect_failure(fake_root_error(node, "e", R, ALL, &err), -ENOENT, &err, "Node 'n' is being removed");
    weir_graph_lock();
    tran = weir_tran_new();
    expect_failure(weir_tran_attach(tran, top, node, "backing", WEIR_ROLE_COW, NULL, &err), -ENOENT, &err,
                   "Node 'n' is being removed");
    expect_failure(weir_tran_replace(tran, fake_edge(top, "file"), node, &err), -ENOENT, &err,
                   "Node 'n' is being removed");
    weir_tran_abort(tran);
    weir_graph_unlock();
    weir_node_unref(node);
    wait_for_open_nodes(2);
}

/* Transactions leave the edges of a node in limbo alone. */
weir_co_fn GRAPH_TEST(limbo_is_not_rewired)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *other = fake_add("{'driver':'leaf','node-name':'other'}");
    struct weir_node *stuck = weir_node_ref(fake_add("{'driver':'filter','node-name':'s','file':'base'}"));
    struct weir_node *live = fake_add("{'driver':'filter','node-name':'l','file':'base'}");
    struct weir_tran *tran;

    fake_del("s");
    weir_graph_lock();
    tran = weir_tran_new();
    WEIR_ASSERT(!weir_tran_replace_parents(tran, base, other, NULL, NULL));
    WEIR_ASSERT(!weir_tran_finish(tran, NULL));
    weir_graph_unlock();
    WEIR_ASSERT(fake_edge(stuck, "file")->node == base && fake_edge(live, "file")->node == other);
    weir_node_unref(stuck);
    wait_for_open_nodes(3);
}

/* ---- root edges ---- */

struct guest {
    struct weir_edge *edge;
    struct weir_gate_op op;
    bool inside;
};

static weir_co_fn void guest_run(void *arg)
{
    struct guest *guest = arg;

    weir_gate_enter(guest->edge, &guest->op);
    guest->inside = true;
}

static weir_co_fn void detach_run(void *arg)
{
    struct guest *guest = arg;

    weir_root_detach(guest->edge, -1);
    guest->edge = NULL;
}

/* Detaching waits for those inside and for those who wait to enter. */
weir_co_fn GRAPH_TEST(detach_waits)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");
    struct guest first = { .edge = fake_root(node, "r", R, ALL) }, second = first, detacher = first;

    weir_gate_set_limits(first.edge, 1, 0);
    weir_co_run(guest_run, &first);
    weir_co_run(guest_run, &second);
    weir_co_run(detach_run, &detacher);
    WEIR_ASSERT(first.inside && !second.inside && detacher.edge);
    weir_gate_leave(&first.op);
    weir_co_pause();
    weir_co_pause();
    WEIR_ASSERT(second.inside && detacher.edge && !TAILQ_EMPTY(&node->parents));
    weir_gate_leave(&second.op);
    while (detacher.edge)
        weir_co_pause();
    WEIR_ASSERT(TAILQ_EMPTY(&node->parents));
}

/* Who waits before a closed gate is let in first. */
weir_co_fn GRAPH_TEST(detach_waits_for_drain)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");
    struct guest guest = { .edge = fake_root(node, "r", R, ALL) }, detacher = guest;
    struct weir_drain drain;

    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &node, 1, 0, NULL) == 0);
    weir_co_run(guest_run, &guest);
    weir_graph_unlock();
    weir_co_run(detach_run, &detacher);
    for (unsigned i = 0; i < 5; i++)
        weir_co_pause();
    WEIR_ASSERT(!guest.inside && detacher.edge && !TAILQ_EMPTY(&node->parents));
    weir_drain_end(&drain);
    while (!guest.inside)
        weir_co_pause();
    WEIR_ASSERT(detacher.edge);
    weir_gate_leave(&guest.op);
    while (detacher.edge)
        weir_co_pause();
}

weir_co_fn GRAPH_TEST(detach_gives_up)
{
    struct weir_node *node =
        fake_add("{'driver':'filter','node-name':'n','file':{'driver':'leaf','node-name':'f'}}");
    struct guest guest = { .edge = fake_root(node, "r", R | W, R) };
    int64_t start = weir_sys->clock_ns();
    struct weir_drain drain;

    weir_co_run(guest_run, &guest);
    weir_root_detach(guest.edge, 10 * MS);
    WEIR_ASSERT(weir_sys->clock_ns() - start < 5000 * MS && TAILQ_EMPTY(&node->parents));
    fake_del("n");
    WEIR_ASSERT(weir_graph_limbo_count() == 2 && fake_open_nodes() == 2 && !weir_node_find("f"));
    /* It no longer holds up a drain. */
    node = fake_add("{'driver':'leaf','node-name':'n'}");
    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &node, 1, 0, NULL) == 0);
    weir_drain_end(&drain);
    weir_graph_unlock();
    weir_gate_leave(&guest.op);
    wait_for_open_nodes(1);
    WEIR_ASSERT(!weir_graph_limbo_count());
}

/* Nobody waits for the answer, but the request is still on its way through what a drain is to protect. */
weir_co_fn GRAPH_TEST(drain_waits_for_given_up)
{
    struct weir_node *node =
        fake_add("{'driver':'filter','node-name':'n','file':{'driver':'leaf','node-name':'f'}}");
    struct weir_node *file = weir_node_find("f");
    struct guest guest = { .edge = fake_root(node, "r", R | W, R) };
    struct weir_edge *edge = weir_edge_ref(guest.edge);
    struct weir_error *err = NULL;
    struct weir_drain drain;

    weir_co_run(guest_run, &guest);
    weir_root_detach(guest.edge, 0);
    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &file, 1, 10 * MS, &err) == -ETIMEDOUT);
    WEIR_ASSERT(strstr(weir_error_text(err), "by requests left behind has been in flight"));
    weir_error_free(err);
    weir_gate_leave(&guest.op);
    WEIR_ASSERT(weir_drain_begin(&drain, &file, 1, -1, NULL) == 0);
    /* It was forgotten when it ended: whoever still has the edge does not stand before a closed gate. */
    while (!weir_gate_try_enter(edge))
        weir_co_pause();
    weir_gate_try_leave(edge);
    weir_drain_end(&drain);
    weir_graph_unlock();
    weir_edge_unref(edge);
}

/* ---- closing waits for work of the node's own ---- */

weir_co_fn GRAPH_TEST(background_keeps_open)
{
    struct weir_node *node = fake_add("{'driver':'leaf','node-name':'n'}");

    WEIR_ASSERT(weir_node_background_begin(node));
    fake_del("n");
    WEIR_ASSERT(fake_open_nodes() == 1 && weir_graph_limbo_count() == 1);
    weir_node_background_end(node);
    wait_for_open_nodes(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(node_in_limbo),
        cmocka_unit_test(tree_in_limbo),
        cmocka_unit_test(permissions_of_left_behind),
        cmocka_unit_test(nothing_is_attached_to_limbo),
        cmocka_unit_test(limbo_is_not_rewired),
        cmocka_unit_test(detach_waits),
        cmocka_unit_test(detach_waits_for_drain),
        cmocka_unit_test(detach_gives_up),
        cmocka_unit_test(drain_waits_for_given_up),
        cmocka_unit_test(background_keeps_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

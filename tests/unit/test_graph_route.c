/* SPDX-License-Identifier: BSD-2-Clause */
/* Where reads go: past filters that want none, to the first node that has to do with them. */
#include "graph/internal.h"
#include "graph_fake.h"
#include "unit.h"

#define LEADS(edge, to, count) \
    WEIR_ASSERT(atomic_load(&(edge)->read_to) == (to) && (edge)->passed_count == (count))

static weir_co_fn void move(struct weir_edge *edge, struct weir_node *to)
{
    struct weir_tran *tran;

    weir_graph_lock();
    tran = weir_tran_new();
    if (weir_tran_replace(tran, edge, to, NULL) || weir_tran_finish(tran, NULL))
        abort();
    weir_graph_unlock();
}

/* Filters come and go below and between; an edit that is undone leaves the way as it was. */
weir_co_fn GRAPH_TEST(past_filters)
{
    struct weir_node *fmt =
        fake_add("{'driver':'format','node-name':'f','file':{'driver':'leaf','node-name':'l'}}");
    struct weir_node *low = fake_add("{'driver':'filter','node-name':'low','file':'f'}");
    struct weir_node *high = fake_add("{'driver':'filter','node-name':'high','file':'low'}");
    struct weir_edge *root = fake_root(high, "r", R, ALL);
    struct weir_tran *tran;

    LEADS(root, fmt, 2);
    LEADS(fake_edge(high, "file"), fmt, 1);
    LEADS(fake_edge(fmt, "file"), weir_node_find("l"), 0);
    WEIR_ASSERT(weir_edge_passes(root, high) && weir_edge_passes(root, low) && weir_edge_passes(root, fmt));
    WEIR_ASSERT(!weir_edge_passes(root, weir_node_find("l")));
    move(root, low);
    LEADS(root, fmt, 1);
    move(root, fmt);
    LEADS(root, fmt, 0);
    move(root, high);
    weir_graph_lock();
    tran = weir_tran_new();
    if (weir_tran_replace(tran, fake_edge(high, "file"), fmt, NULL))
        abort();
    LEADS(root, fmt, 1);
    weir_tran_abort(tran);
    weir_graph_unlock();
    LEADS(root, fmt, 2);
    fake_root_end(root);
}

/* A node whose counters a job looks at is seen by every read that enters it. */
weir_co_fn GRAPH_TEST(not_past_what_counts)
{
    struct weir_node *leaf = fake_add("{'driver':'leaf','node-name':'l'}");
    struct weir_node *job = fake_add("{'driver':'filter','node-name':'j','file':'l'}");
    struct weir_node *top = fake_add("{'driver':'filter','node-name':'t','file':'j'}");
    struct weir_edge *root = fake_root(top, "r", R, ALL);

    LEADS(root, leaf, 2);
    job->counts = true;
    weir_graph_reroute();
    LEADS(root, top, 0);
    LEADS(fake_edge(top, "file"), job, 0);
    LEADS(fake_edge(job, "file"), leaf, 0);
    fake_root_end(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(past_filters),
                                        cmocka_unit_test(not_past_what_counts) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

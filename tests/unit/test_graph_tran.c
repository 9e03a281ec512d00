/* SPDX-License-Identifier: BSD-2-Clause */
/* Transactions: edits, what commit tells whom, and that abort leaves no trace. */
#include "graph_fake.h"
#include "unit.h"

/* Everything about the graph as text: edges of each node in order, with permissions. A new string. */
static char *picture(void)
{
    char *text = weir_strdup("");

    for (struct weir_node *node = weir_graph_next(NULL); node; node = weir_graph_next(node)) {
        struct weir_edge *edge;
        char *longer = weir_strdup_printf("%s%s(%u %u %u):", text, node->name, node->perm, node->shared,
                                          (unsigned)atomic_load(&node->refs));

        free(text);
        text = longer;
        TAILQ_FOREACH (edge, &node->children, in_parent) {
            longer = weir_strdup_printf("%s %s>%s(%u %u)", text, edge->name, edge->node->name, edge->perm,
                                        edge->shared);
            free(text);
            text = longer;
        }
        TAILQ_FOREACH (edge, &node->parents, in_node) {
            longer = weir_strdup_printf("%s <%s(%u %u)", text,
                                        edge->parent ? edge->parent->name : (const char *)edge->root,
                                        edge->perm, edge->shared);
            free(text);
            text = longer;
        }
        longer = weir_strdup_printf("%s\n", text);
        free(text);
        text = longer;
    }
    return text;
}

static weir_co_fn struct weir_node *inner(const char *name)
{
    struct weir_node *node;

    WEIR_ASSERT(weir_node_new_internal(&fake_inner, name, NULL, &node, NULL) == 0);
    return node;
}

/* ---- steps of the caller's own ---- */

static void step_commit(void *data)
{
    fake_log_add("commit", data);
}

static void step_abort(void *data)
{
    fake_log_add("abort", data);
}

static const struct weir_tran_ops step_ops = { .commit = step_commit, .abort = step_abort };

static void add_step(struct weir_tran *tran, const char *name)
{
    weir_tran_add(tran, &step_ops, weir_strdup(name));
}

weir_co_fn GRAPH_TEST(own_steps)
{
    struct weir_tran *tran;

    weir_graph_lock();
    tran = weir_tran_new();
    add_step(tran, "1");
    add_step(tran, "2");
    WEIR_ASSERT(weir_tran_finish(tran, NULL) == 0);
    tran = weir_tran_new();
    add_step(tran, "3");
    add_step(tran, "4");
    weir_tran_abort(tran);
    weir_graph_unlock();
    expect_log("commit 1, commit 2, abort 4, abort 3");
}

/* ---- a filter goes in and out ---- */

static weir_co_fn struct weir_edge *insert_filter(struct weir_node *filter, struct weir_node *source)
{
    struct weir_drain drain;
    struct weir_edge *edge;
    struct weir_tran *tran;

    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &source, 1, 0, NULL) == 0);
    tran = weir_tran_new();
    WEIR_ASSERT(!weir_tran_attach(tran, filter, source, "backing", WEIR_ROLE_FILTERED, &edge, NULL));
    WEIR_ASSERT(!weir_tran_replace_parents(tran, source, filter, NULL, NULL));
    WEIR_ASSERT(!weir_tran_finish(tran, NULL));
    weir_drain_end(&drain);
    weir_graph_unlock();
    return edge;
}

static weir_co_fn void remove_filter(struct weir_node *filter, struct weir_edge *edge,
                                     struct weir_node *instead)
{
    struct weir_drain drain;
    struct weir_tran *tran;

    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &filter, 1, 0, NULL) == 0);
    tran = weir_tran_new();
    WEIR_ASSERT(!weir_tran_replace_parents(tran, filter, instead, NULL, NULL));
    weir_tran_detach(tran, edge);
    WEIR_ASSERT(!weir_tran_finish(tran, NULL));
    weir_drain_end(&drain);
    weir_graph_unlock();
}

weir_co_fn GRAPH_TEST(filter_in_and_out)
{
    struct weir_node *source = fake_add("{'driver':'leaf','node-name':'src','size':4096,'align':512}");
    struct weir_node *target = fake_add("{'driver':'leaf','node-name':'dst','size':8192}");
    struct weir_node *raw = fake_add("{'driver':'filter','node-name':'raw','file':'src'}");
    struct weir_edge *guest = fake_root(source, "g", R, ALL), *writer = fake_root(raw, "w", R | W, R | W | U);
    struct weir_node *filter = inner("f");
    struct weir_edge *edge;

    fake_log();
    edge = insert_filter(filter, source);
    expect_log("stop w, stop g, drain raw, drain src, drain f, replaced g, "
               "resume f, resume src, resume raw, go g, go w");
    WEIR_ASSERT(guest->node == filter && fake_edge(raw, "file")->node == filter && edge->node == source);
    WEIR_ASSERT(filter->perm == (R | W) && edge->perm == (R | W) && edge->shared == (R | W | U));
    WEIR_ASSERT(weir_node_size(filter) == 4096 && filter->limits.request_align == 512);
    WEIR_ASSERT(fake_of(source)->perm == (R | W) && fake_of(target)->perm == 0);
    /* The pivot: parents go on with the target, whose size differs. */
    remove_filter(filter, edge, target);
    expect_log("stop w, stop g, drain raw, drain f, drain src, drain dst, resized w, replaced g, "
               "resume dst, resume src, resume f, resume raw, go g, go w");
    WEIR_ASSERT(guest->node == target && fake_edge(raw, "file")->node == target);
    WEIR_ASSERT(weir_node_size(raw) == 8192 && raw->limits.request_align == 1);
    WEIR_ASSERT(fake_of(source)->perm == 0 && fake_of(target)->perm == (R | W));
    WEIR_ASSERT(!weir_node_find("f") && fake_open_nodes() == 4);
    weir_node_unref(filter);
    fake_root_end(guest);
    fake_root_end(writer);
    fake_del("src");
    WEIR_ASSERT(weir_graph_limbo_count() == 0);
    fake_log();
}

/* ---- abort ---- */

weir_co_fn GRAPH_TEST(abort_leaves_no_trace)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *other = fake_add("{'driver':'leaf','node-name':'other'}");
    struct weir_node *top =
        fake_add("{'driver':'format','node-name':'top','file':{'driver':'leaf','node-name':'tf'},"
                 "'data-file':'other','backing':'base'}");
    struct weir_edge *roots[3];
    struct weir_tran *tran;
    char *before, *after;

    roots[0] = fake_root(base, "a", R, ALL);
    roots[1] = fake_root(top, "b", R | W, ALL);
    roots[2] = fake_root(base, "c", 0, ALL);
    fake_add("{'driver':'filter','node-name':'x','file':'base'}");
    before = picture();
    weir_graph_lock();
    tran = weir_tran_new();
    weir_tran_detach(tran, fake_edge(top, "data-file"));
    WEIR_ASSERT(!fake_edge(top, "data-file"));
    weir_tran_detach(tran, fake_edge(top, "backing"));
    WEIR_ASSERT(!weir_tran_attach(tran, top, other, "backing", WEIR_ROLE_COW, NULL, NULL));
    weir_tran_detach(tran, fake_edge(top, "file"));
    WEIR_ASSERT(!weir_tran_replace_parents(tran, base, other, weir_node_find("x"), NULL));
    WEIR_ASSERT(fake_edge(weir_node_find("x"), "file")->node == base && roots[0]->node == other);
    WEIR_ASSERT(!weir_tran_replace(tran, roots[1], base, NULL));
    weir_tran_set_perm(tran, roots[2], Z, 0);
    weir_tran_abort(tran);
    weir_graph_unlock();
    after = picture();
    WEIR_ASSERT(!strcmp(before, after));
    free(before);
    free(after);
    for (unsigned i = 0; i < 3; i++)
        fake_root_end(roots[i]);
    fake_log();
}

weir_co_fn GRAPH_TEST(conflict_leaves_no_trace)
{
    struct weir_node *file = fake_add("{'driver':'leaf','node-name':'file'}");
    struct weir_node *free_file = fake_add("{'driver':'leaf','node-name':'free'}");
    struct weir_node *raw = fake_add("{'driver':'filter','node-name':'raw','file':'free'}");
    struct weir_edge *writer = fake_root(raw, "w", R | W, ALL);
    struct weir_error *err = NULL;
    struct weir_tran *tran;
    char *before, *after;

    fake_add("{'driver':'format','node-name':'fmt','file':'file'}");
    before = picture();
    weir_graph_lock();
    tran = weir_tran_new();
    add_step(tran, "s");
    fake_log();
    WEIR_ASSERT(!weir_tran_replace(tran, fake_edge(raw, "file"), file, NULL));
    expect_failure(
        weir_tran_finish(tran, &err), -EPERM, &err,
        "Permission conflict on node 'file': permissions 'write' are both required by node 'raw' (uses "
        "node 'file' as 'file' child) and unshared by node 'fmt' (uses node 'file' as 'file' child).");
    weir_graph_unlock();
    expect_log("abort s");
    after = picture();
    WEIR_ASSERT(!strcmp(before, after) && fake_of(free_file)->perm == (R | W));
    free(before);
    free(after);
    fake_root_end(writer);
}

weir_co_fn GRAPH_TEST(refused_edits)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *mid = fake_add("{'driver':'filter','node-name':'mid','file':'base'}");
    struct weir_node *top = fake_add("{'driver':'filter','node-name':'top','file':'mid'}");
    struct weir_edge *root = fake_root(base, "r", R, ALL);
    struct weir_error *err = NULL;
    struct weir_tran *tran;
    char *before = picture(), *after;

    weir_graph_lock();
    tran = weir_tran_new();
    expect_failure(weir_tran_replace(tran, fake_edge(mid, "file"), top, &err), -ELOOP, &err,
                   "Making 'top' a child of 'mid' would create a cycle");
    expect_failure(weir_tran_attach(tran, mid, mid, "backing", WEIR_ROLE_COW, NULL, &err), -ELOOP, &err,
                   "Making 'mid' a child of 'mid' would create a cycle");
    /* Everything above base would point at what lies above it. */
    expect_failure(weir_tran_replace_parents(tran, base, top, NULL, &err), -ELOOP, &err,
                   "Making 'top' a child of 'mid' would create a cycle");
    fake_edge(top, "file")->frozen = 1;
    expect_failure(weir_tran_replace_parents(tran, mid, base, NULL, &err), -EPERM, &err,
                   "Cannot change 'file' link from 'top' to 'mid'");
    fake_edge(top, "file")->frozen = 0;
    /* A failed edit has undone itself: the transaction is as empty as it was. */
    WEIR_ASSERT(weir_tran_finish(tran, NULL) == 0);
    weir_graph_unlock();
    after = picture();
    WEIR_ASSERT(!strcmp(before, after));
    free(before);
    free(after);
    fake_root_end(root);
}

/* An inline child that a transaction cuts off is closed. */
weir_co_fn GRAPH_TEST(detached_inline_child)
{
    struct weir_node *top =
        fake_add("{'driver':'format','node-name':'t','file':{'driver':'leaf','node-name':'f'},"
                 "'backing':{'driver':'leaf','node-name':'b'}}");
    struct weir_tran *tran;

    fake_log();
    weir_graph_lock();
    tran = weir_tran_new();
    weir_tran_detach(tran, fake_edge(top, "backing"));
    WEIR_ASSERT(weir_node_find("b"));
    WEIR_ASSERT(weir_tran_finish(tran, NULL) == 0);
    WEIR_ASSERT(!weir_node_find("b"));
    weir_graph_unlock();
    while (fake_open_nodes() == 3)
        weir_co_pause();
    expect_log("close b");
}

weir_co_fn GRAPH_TEST(lock_is_kept_by_its_holder)
{
    struct weir_edge *root;

    weir_graph_lock();
    root = fake_root(fake_add("{'driver':'filter','node-name':'n','file':{'driver':'leaf'}}"), "r", R, ALL);
    WEIR_ASSERT(weir_root_set_perm(root, R | W, ALL, NULL) == 0);
    fake_root_end(root);
    fake_del("n");
    weir_graph_unlock();
    while (fake_open_nodes())
        weir_co_pause();
    fake_log();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_steps),
        cmocka_unit_test(filter_in_and_out),
        cmocka_unit_test(abort_leaves_no_trace),
        cmocka_unit_test(conflict_leaves_no_trace),
        cmocka_unit_test(refused_edits),
        cmocka_unit_test(detached_inline_child),
        cmocka_unit_test(lock_is_kept_by_its_holder),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

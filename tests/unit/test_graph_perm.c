/* SPDX-License-Identifier: BSD-2-Clause */
/* Permissions: the table of roles, conflicts, read-only nodes, drivers that refuse. */
#include "graph_fake.h"
#include "unit.h"

static void expect_edge(struct weir_node *node, const char *name, unsigned perm, unsigned shared)
{
    struct weir_edge *edge = fake_edge(node, name);

    WEIR_ASSERT(edge->perm == perm);
    WEIR_ASSERT(edge->shared == shared);
}

weir_co_fn GRAPH_TEST(names)
{
    char *text = weir_perm_names(ALL);

    WEIR_ASSERT(!strcmp(text, "consistent-read, write, write-unchanged, resize"));
    free(text);
    text = weir_perm_names(0);
    WEIR_ASSERT(!strcmp(text, ""));
    free(text);
    WEIR_ASSERT(!strcmp(weir_perm_name(3), "resize"));
}

/* A filter passes through what its parents take and share, whatever it is. */
weir_co_fn GRAPH_TEST(filter_row)
{
    struct weir_node *node = fake_add("{'driver':'filter','node-name':'f','file':{'driver':'leaf'}}");
    struct weir_edge *root;

    expect_edge(node, "file", 0, ALL);
    root = fake_root(node, "e", R, R | W | U);
    expect_edge(node, "file", R, R | W | U);
    WEIR_ASSERT(weir_root_set_perm(root, R | W | Z, R, NULL) == 0);
    expect_edge(node, "file", R | W | Z, R);
    WEIR_ASSERT(node->perm == (R | W | Z) && node->shared == R);
    fake_root_end(root);
    expect_edge(node, "file", 0, ALL);
    WEIR_ASSERT(node->perm == 0 && node->shared == ALL);
}

weir_co_fn GRAPH_TEST(shift_row)
{
    struct weir_node *node = fake_add("{'driver':'shift','node-name':'s','file':{'driver':'leaf'}}");
    struct weir_edge *root;

    expect_edge(node, "file", 0, R | W | U);
    root = fake_root(node, "e", R | W, R | W | U);
    expect_edge(node, "file", R | W, R | W | U);
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(format_rows)
{
    struct weir_node *node = fake_add("{'driver':'format','node-name':'q','file':{'driver':'leaf'},"
                                      "'backing':{'driver':'format','file':{'driver':'leaf'}}}");
    struct weir_node *backing = fake_edge(node, "backing")->node;
    struct weir_edge *root;

    expect_edge(node, "file", R | W | Z, R | U);
    expect_edge(node, "backing", 0, ALL);
    expect_edge(backing, "file", R, R | U);
    root = fake_root(node, "e", R, R | W | U);
    expect_edge(node, "backing", R, ALL);
    expect_edge(backing, "file", R, R | U);
    WEIR_ASSERT(weir_root_set_perm(root, R | W, R | W | U, NULL) == 0);
    expect_edge(node, "file", R | W | Z, R | U);
    expect_edge(node, "backing", R, ALL);
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(format_read_only)
{
    struct weir_node *node =
        fake_add("{'driver':'format','node-name':'q','read-only':true,'file':{'driver':'leaf'},"
                 "'data-file':{'driver':'leaf'}}");
    struct weir_edge *root;

    expect_edge(node, "file", R, R | U);
    expect_edge(node, "data-file", 0, R | W | U);
    root = fake_root(node, "e", R, ALL);
    expect_edge(node, "data-file", R, R | W | U);
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(data_file_row)
{
    struct weir_node *node = fake_add("{'driver':'format','node-name':'q','file':{'driver':'leaf'},"
                                      "'data-file':{'driver':'leaf'}}");
    struct weir_edge *root;

    expect_edge(node, "data-file", 0, R | W | U);
    root = fake_root(node, "e", R | W, R | W | U);
    expect_edge(node, "data-file", R | W | Z, R | W | U);
    /* Copy-on-read above: a format takes full write on its own file. */
    WEIR_ASSERT(weir_root_set_perm(root, R | U, R, NULL) == 0);
    expect_edge(node, "data-file", R | W | U | Z, R);
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(force_share)
{
    struct weir_node *node =
        fake_add("{'driver':'format','node-name':'q','read-only':true,'force-share':true,"
                 "'file':{'driver':'leaf'}}");

    expect_edge(node, "file", R, ALL);
}

weir_co_fn GRAPH_TEST(conflict_texts)
{
    struct weir_node *file = fake_add("{'driver':'leaf','node-name':'qf'}");
    struct weir_node *raw;
    struct weir_error *err = NULL;
    struct weir_edge *root;

    fake_add("{'driver':'format','node-name':'qq','file':'qf'}");
    raw = fake_add("{'driver':'filter','node-name':'rq','file':'qf'}");
    expect_failure(
        fake_root_error(file, "e6", R | W, R | W | U, &err), -EPERM, &err,
        "Permission conflict on node 'qf': permissions 'write' are both required by block export 'e6' "
        "(uses node 'qf' as 'root' child) and unshared by node 'qq' (uses node 'qf' as 'file' child).");
    expect_failure(
        fake_root_error(raw, "e7", R | W, R | W | U, &err), -EPERM, &err,
        "Permission conflict on node 'qf': permissions 'write' are both required by node 'rq' (uses node "
        "'qf' as 'file' child) and unshared by node 'qq' (uses node 'qf' as 'file' child).");
    expect_edge(raw, "file", 0, ALL);
    WEIR_ASSERT(TAILQ_EMPTY(&raw->parents) && raw->perm == 0 && file->perm == (R | W | Z));
    /* The other way round: the format's own write is not shared by a reader who came first. */
    fake_del("qq");
    root = fake_root(file, "e8", R, R);
    expect_add(
        -EPERM, "{'driver':'format','node-name':'qq','file':'qf'}",
        "Permission conflict on node 'qf': permissions 'write, resize' are both required by node 'qq' (uses "
        "node 'qf' as 'file' child) and unshared by block export 'e8' (uses node 'qf' as 'root' child).");
    WEIR_ASSERT(!weir_node_find("qq") && file->perm == R);
    fake_root_end(root);
}

/* A write is refused by who does not share write-unchanged. */
weir_co_fn GRAPH_TEST(write_implies_unchanged)
{
    struct weir_node *file = fake_add("{'driver':'leaf','node-name':'n'}");
    struct weir_edge *root = fake_root(file, "a", R, R | W);
    struct weir_error *err = NULL;

    expect_failure(
        fake_root_error(file, "b", W, ALL, &err), -EPERM, &err,
        "Permission conflict on node 'n': permissions 'write-unchanged' are both required by block export "
        "'b' (uses node 'n' as 'root' child) and unshared by block export 'a' (uses node 'n' as 'root' "
        "child).");
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(read_only_nodes)
{
    struct weir_node *raw, *file = fake_add("{'driver':'leaf','node-name':'ro','read-only':true}");
    struct weir_error *err = NULL;

    raw = fake_add("{'driver':'filter','node-name':'raw','file':'ro'}"); /* nobody writes yet */
    expect_failure(fake_root_error(raw, "e", R | W, ALL, &err), -EACCES, &err, "Block node is read-only");
    expect_failure(fake_root_error(raw, "e", U, ALL, &err), -EACCES, &err, "Block node is read-only");
    expect_add(-EACCES, "{'driver':'format','node-name':'q','file':'ro'}", "Block node is read-only");
    WEIR_ASSERT(file->perm == 0 && !raw->perm);
}

weir_co_fn GRAPH_TEST(auto_read_only)
{
    struct weir_node *raw = fake_add("{'driver':'filter','node-name':'raw',"
                                     "'file':{'driver':'leaf','auto-read-only':true,'node-name':'f'}}");
    struct weir_node *file = weir_node_find("f"), *asked;
    struct weir_edge *reader = fake_root(raw, "r", R, ALL), *writer;
    struct weir_error *err = NULL;

    WEIR_ASSERT(file->read_only && !file->read_only_asked && !raw->read_only);
    writer = fake_root(raw, "w", R | W, ALL);
    WEIR_ASSERT(!file->read_only);
    fake_root_end(writer);
    WEIR_ASSERT(file->read_only && fake_of(file)->perm == R);
    fake_root_end(reader);
    asked = fake_add("{'driver':'leaf','node-name':'g','read-only':true,'auto-read-only':true}");
    expect_failure(fake_root_error(asked, "w", W, ALL, &err), -EACCES, &err, "Block node is read-only");
}

/* The drivers hear of each change once, and of nothing else. */
weir_co_fn GRAPH_TEST(drivers_are_asked)
{
    struct weir_node *raw =
        fake_add("{'driver':'filter','node-name':'raw','file':{'driver':'leaf','node-name':'f'}}");
    struct fake *fake = fake_of(weir_node_find("f"));
    struct weir_edge *first, *second;

    WEIR_ASSERT(!fake->prepares);
    first = fake_root(raw, "a", R | W, R | U | W);
    WEIR_ASSERT(fake->prepares == 1 && fake->commits == 1 && fake->perm == (R | W) &&
                fake->shared == (R | U | W));
    second = fake_root(raw, "b", R, R | U | W);
    WEIR_ASSERT(fake->prepares == 1);
    fake_root_end(second);
    fake_root_end(first);
    WEIR_ASSERT(fake->prepares == 2 && fake->commits == 2 && fake->perm == 0 && fake->shared == ALL &&
                !fake->aborts);
}

/* One driver of several refuses: the others are told, and everything is as before. */
weir_co_fn GRAPH_TEST(driver_refuses)
{
    struct weir_node *top =
        fake_add("{'driver':'format','node-name':'q','file':{'driver':'leaf','node-name':'f'},"
                 "'data-file':{'driver':'leaf','node-name':'d'}}");
    struct fake *data = fake_of(weir_node_find("d")), *file = fake_of(weir_node_find("f"));
    struct weir_error *err = NULL;
    struct weir_edge *root;

    file->fail_prepare = data->fail_prepare = true;
    expect_failure(fake_root_error(top, "e", R | W, ALL, &err), -EAGAIN, &err,
                   "Failed to get \"write\" lock");
    expect_edge(top, "data-file", 0, R | W | U);
    WEIR_ASSERT(TAILQ_EMPTY(&top->parents) && top->perm == 0 && weir_node_find("d")->perm == 0);
    data->fail_prepare = file->fail_prepare = false;
    root = fake_root(top, "e", R | W, ALL);
    /* Taking less cannot fail, whatever the driver says. */
    data->fail_prepare = true;
    fake_root_end(root);
    WEIR_ASSERT(weir_node_find("d")->perm == 0 && data->perm == (R | W | Z));
    expect_add(-EAGAIN, "{'driver':'format','node-name':'z','file':{'driver':'leaf','fail-prepare':true}}",
               "Failed to get \"write\" lock");
    WEIR_ASSERT(!weir_node_find("z"));
}

weir_co_fn GRAPH_TEST(second_driver_refuses)
{
    struct weir_node *a = fake_add("{'driver':'leaf','node-name':'a'}");
    struct weir_node *b = fake_add("{'driver':'leaf','node-name':'b'}");
    struct weir_node *top =
        fake_add("{'driver':'format','node-name':'q','read-only':true,'file':'a','data-file':'b'}");
    struct weir_error *err = NULL;
    struct weir_edge *edges[2], *late;
    struct weir_tran *tran;

    edges[0] = fake_root(a, "ea", 0, ALL);
    edges[1] = fake_root(b, "eb", 0, ALL);
    late = fake_root(top, "et", 0, ALL);
    fake_of(b)->fail_prepare = true;
    fake_of(a)->commits = fake_of(a)->aborts = 0;
    weir_graph_lock();
    tran = weir_tran_new();
    weir_tran_set_perm(tran, edges[0], U, R | W | U);
    weir_tran_set_perm(tran, edges[1], R, ALL);
    expect_failure(weir_tran_finish(tran, &err), -EAGAIN, &err, "Failed to get \"write\" lock");
    weir_graph_unlock();
    WEIR_ASSERT(fake_of(a)->aborts == 1 && !fake_of(a)->commits && edges[0]->perm == 0 &&
                edges[0]->shared == ALL);
    WEIR_ASSERT(a->perm == R && b->perm == 0 && edges[1]->perm == 0);
    fake_of(b)->fail_prepare = false;
    fake_root_end(late);
    fake_root_end(edges[0]);
    fake_root_end(edges[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(filter_row),
        cmocka_unit_test(shift_row),
        cmocka_unit_test(format_rows),
        cmocka_unit_test(format_read_only),
        cmocka_unit_test(data_file_row),
        cmocka_unit_test(force_share),
        cmocka_unit_test(conflict_texts),
        cmocka_unit_test(write_implies_unchanged),
        cmocka_unit_test(read_only_nodes),
        cmocka_unit_test(auto_read_only),
        cmocka_unit_test(drivers_are_asked),
        cmocka_unit_test(driver_refuses),
        cmocka_unit_test(second_driver_refuses),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

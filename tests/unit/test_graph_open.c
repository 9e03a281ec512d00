/* SPDX-License-Identifier: BSD-2-Clause */
/* Names, options, children, deletion: texts as measured on qemu-storage-daemon. */
#include "graph_fake.h"
#include "unit.h"

weir_co_fn GRAPH_TEST(bad_names_and_options)
{
    expect_add(-EINVAL, "{'driver':'leaf'}", "'node-name' must be specified for the root node");
    expect_add(-EINVAL, "{'node-name':'x'}", "Parameter 'driver' is missing");
    expect_add(-EINVAL, "{'driver':5}", "Invalid parameter type for 'driver', expected: string");
    expect_add(-EINVAL, "{'driver':'xyz','node-name':'x'}", "Parameter 'driver' does not accept value 'xyz'");
    expect_add(-EINVAL, "{'driver':'inner','node-name':'x'}",
               "Parameter 'driver' does not accept value 'inner'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'1x'}", "Invalid node-name: '1x'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':''}", "Invalid node-name: ''");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'#x'}", "Invalid node-name: '#x'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'a b'}", "Invalid node-name: 'a b'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'a2345678901234567890123456789012'}",
               "Node name too long");
    fake_add("{'driver':'leaf','node-name':'a23456789012345678901234567-._1'}");
    fake_add("{'driver':'leaf','node-name':'n'}");
    expect_add(-EEXIST, "{'driver':'leaf','node-name':'n'}", "Duplicate nodes with node-name='n'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'x','read-only':1}",
               "Invalid parameter type for 'read-only', expected: boolean");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'x','discard':'no'}",
               "Parameter 'discard' does not accept value 'no'");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'x','force-share':true}",
               "force-share=on can only be used with read-only images");
    expect_add(-EINVAL, "{'driver':'leaf','node-name':'x','detect-zeroes':'unmap'}",
               "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap");
    WEIR_ASSERT(fake_open_nodes() == 2 && !weir_node_find("x"));
}

weir_co_fn GRAPH_TEST(bad_references)
{
    expect_add(-EINVAL, "{'driver':'filter','node-name':'r'}", "Parameter 'file' is missing");
    expect_add(-ENOENT, "{'driver':'filter','node-name':'r','file':'no'}",
               "Cannot find device='no' nor node-name='no'");
    expect_add(-ENOENT, "{'driver':'filter','node-name':'r','file':'r'}",
               "Cannot find device='r' nor node-name='r'");
    expect_add(-EINVAL, "{'driver':'filter','node-name':'r','file':7}",
               "Invalid parameter type for 'file', expected: BlockdevRef");
    expect_add(-EEXIST, "{'driver':'filter','node-name':'r','file':{'driver':'leaf','node-name':'r'}}",
               "Duplicate nodes with node-name='r'");
    expect_add(-EINVAL, "{'driver':'filter','node-name':'r','file':{'driver':'zzz'}}",
               "Parameter 'driver' does not accept value 'zzz'");
    WEIR_ASSERT(!weir_graph_next(NULL) && !fake_open_nodes());
}

weir_co_fn GRAPH_TEST(common_options)
{
    struct weir_node *node =
        fake_add("{'driver':'leaf','node-name':'n','discard':'unmap','detect-zeroes':'unmap',"
                 "'read-only':true,'force-share':true,"
                 "'cache':{'direct':true,'no-flush':true}}");
    struct weir_node *plain = fake_add("{'driver':'leaf','node-name':'p'}");

    WEIR_ASSERT(node->discard_unmap && node->detect_zeroes == WEIR_DETECT_ZEROES_UNMAP);
    WEIR_ASSERT(node->read_only && node->read_only_asked && node->force_share && node->user_added);
    WEIR_ASSERT(node->cache_direct && node->cache_no_flush && !node->auto_read_only);
    WEIR_ASSERT(!plain->discard_unmap && plain->detect_zeroes == WEIR_DETECT_ZEROES_OFF && !plain->read_only);
    WEIR_ASSERT(!plain->cache_direct && !plain->cache_no_flush && !plain->force_share);
    WEIR_ASSERT(weir_graph_next(NULL) == node && weir_graph_next(node) == plain && !weir_graph_next(plain));
    WEIR_ASSERT(json_is_true(json_object_get(node->options, "force-share")));
}

weir_co_fn GRAPH_TEST(inherited_options)
{
    struct weir_node *node =
        fake_add("{'driver':'format','node-name':'f','read-only':true,'force-share':true,"
                 "'cache':{'direct':true},"
                 "'file':{'driver':'leaf','cache':{'no-flush':true}}}");
    struct weir_node *file = fake_edge(node, "file")->node, *backing;

    WEIR_ASSERT(file->read_only_asked && file->force_share && file->discard_unmap && file->cache_direct);
    WEIR_ASSERT(file->cache_no_flush && !node->cache_no_flush && !file->user_added);
    node = fake_add("{'driver':'format','node-name':'g','auto-read-only':true,'detect-zeroes':'on',"
                    "'file':{'driver':'leaf','discard':'ignore'},'backing':{'driver':'leaf'}}");
    file = fake_edge(node, "file")->node;
    backing = fake_edge(node, "backing")->node;
    WEIR_ASSERT(!file->read_only_asked && file->auto_read_only && !file->discard_unmap &&
                !file->cache_direct);
    WEIR_ASSERT(file->detect_zeroes == WEIR_DETECT_ZEROES_OFF);
    WEIR_ASSERT(backing->read_only_asked && !backing->discard_unmap);
    /* Said by the user: not inherited. */
    node = fake_add("{'driver':'filter','node-name':'h','read-only':true,"
                    "'file':{'driver':'leaf','read-only':false}}");
    WEIR_ASSERT(!fake_edge(node, "file")->node->read_only);
}

weir_co_fn GRAPH_TEST(automatic_names)
{
    struct weir_node *a =
        fake_edge(fake_add("{'driver':'filter','node-name':'a','file':{'driver':'leaf'}}"), "file")->node;
    struct weir_node *b =
        fake_edge(fake_add("{'driver':'filter','node-name':'b','file':{'driver':'leaf'}}"), "file")->node;
    struct weir_node *inner;

    WEIR_ASSERT(!strcmp(a->name, "#block001") && !strcmp(b->name, "#block002"));
    WEIR_ASSERT(weir_node_find("#block002") == b);
    WEIR_ASSERT(weir_node_new_internal(&fake_inner, NULL, NULL, &inner, NULL) == 0);
    WEIR_ASSERT(!strcmp(inner->name, "#block003") && !inner->user_added);
    weir_node_unref(inner);
    WEIR_ASSERT(!weir_node_find("#block003"));
}

weir_co_fn GRAPH_TEST(deletion)
{
    struct weir_error *err = NULL;
    struct weir_edge *root;

    fake_add("{'driver':'leaf','node-name':'base'}");
    fake_add(
        "{'driver':'format','node-name':'f','file':{'driver':'leaf','node-name':'inl'},'backing':'base'}");
    expect_log("open base, open inl, open f");
    expect_failure(weir_node_del("no", &err), -ENOENT, &err, "Failed to find node with node-name='no'");
    expect_failure(weir_node_del("inl", &err), -EPERM, &err, "Node inl is not owned by the monitor");
    expect_failure(weir_node_del("base", &err), -EBUSY, &err, "Node base is in use");
    root = fake_root(weir_node_find("f"), "e", R, ALL);
    expect_failure(weir_node_del("f", &err), -EBUSY, &err, "Node f is in use");
    fake_root_end(root);
    fake_del("f");
    expect_log("close f, close inl"); /* before the reply */
    WEIR_ASSERT(!weir_node_find("inl") && !weir_node_find("f") && weir_node_find("base"));
    fake_add("{'driver':'leaf','node-name':'inl'}");
    fake_del("base");
    fake_del("inl");
    expect_log("open inl, close base, close inl");
}

/* A child in the middle fails: everything before it is undone, a referenced node stays. */
weir_co_fn GRAPH_TEST(all_or_nothing)
{
    fake_add("{'driver':'leaf','node-name':'base'}");
    expect_add(-EIO,
               "{'driver':'format','node-name':'f','file':{'driver':'filter','node-name':'g','file':'base'},"
               "'backing':{'driver':'leaf','node-name':'b','fail-open':true}}",
               "Could not open 'b'");
    expect_log("open base, open g, close g");
    WEIR_ASSERT(!weir_node_find("f") && !weir_node_find("g") && !weir_node_find("b"));
    WEIR_ASSERT(TAILQ_EMPTY(&weir_node_find("base")->parents));
    fake_del("base");
}

static weir_co_fn void add_held(void *arg)
{
    int *result = arg;
    struct weir_error *err = NULL;

    *result =
        fake_add_error("{'driver':'filter','node-name':'s','file':{'driver':'leaf','hold-open':true}}", &err);
    weir_error_free(err);
}

/* A leaf that hangs in open() holds up nobody; its name is taken. */
weir_co_fn GRAPH_TEST(slow_open)
{
    int result = 1;

    weir_co_run(add_held, &result);
    while (!fake_held())
        weir_co_pause();
    fake_add("{'driver':'leaf','node-name':'quick'}");
    WEIR_ASSERT(result == 1 && !weir_node_find("s") && weir_graph_next(NULL) == weir_node_find("quick"));
    expect_add(-EEXIST, "{'driver':'leaf','node-name':'s'}", "Duplicate nodes with node-name='s'");
    fake_del("quick");
    fake_release();
    while (result == 1)
        weir_co_pause();
    WEIR_ASSERT(!result && weir_node_find("s"));
    fake_del("s");
}

/* The text of @depth nodes on top of each other. */
static char *nested(unsigned depth)
{
    char *text = weir_strdup("{'driver':'leaf'}");

    for (unsigned i = 1; i < depth; i++) {
        char *outer = weir_strdup_printf("{'driver':'filter',%s'file':%s}",
                                         i == depth - 1 ? "'node-name':'top'," : "", text);

        free(text);
        text = outer;
    }
    return text;
}

weir_co_fn GRAPH_TEST(depth_is_limited)
{
    weir_autofree char *deep = nested(WEIR_GRAPH_DEPTH_MAX), *deeper = nested(WEIR_GRAPH_DEPTH_MAX + 1);

    expect_add(-EINVAL, deeper, "More than 64 nodes on top of each other");
    WEIR_ASSERT(!fake_open_nodes());
    fake_add(deep);
    WEIR_ASSERT(fake_open_nodes() == WEIR_GRAPH_DEPTH_MAX);
    expect_add(-EINVAL, "{'driver':'filter','node-name':'over','file':'top'}",
               "Making 'top' a child of 'over' would put more than 64 nodes on top of each other");
    fake_log();
}

weir_co_fn GRAPH_TEST(roles)
{
    struct weir_node *base = fake_add("{'driver':'leaf','node-name':'base'}");
    struct weir_node *under = fake_add("{'driver':'filter','node-name':'under','file':'base'}");
    struct weir_node *top = fake_add("{'driver':'format','node-name':'top','file':{'driver':'leaf'},"
                                     "'backing':'under'}");
    struct weir_node *over = fake_add("{'driver':'filter','node-name':'over','file':'top'}");

    WEIR_ASSERT(weir_node_filtered(over)->node == top && !weir_node_cow(over) && !weir_node_filtered(top));
    WEIR_ASSERT(weir_node_cow(top)->node == under && weir_node_primary(top) == fake_edge(top, "file"));
    WEIR_ASSERT(weir_node_skip_filters(over) == top && weir_node_skip_implicit(over) == over);
    over->implicit = true;
    WEIR_ASSERT(weir_node_skip_implicit(over) == top && weir_node_skip_filters(base) == base);
    WEIR_ASSERT(weir_node_backing_chain_next(over) == base && !weir_node_backing_chain_next(base));
}

/* Graphs of user nodes in any order of adding are taken apart at the end. */
weir_co_fn GRAPH_TEST(left_to_done)
{
    struct weir_node *node;

    fake_add("{'driver':'leaf','node-name':'a'}");
    fake_add("{'driver':'filter','node-name':'b','file':'a'}");
    fake_add("{'driver':'filter','node-name':'c','file':'a'}");
    fake_add("{'driver':'format','node-name':'d','file':'b','backing':{'driver':'filter','file':'c'}}");
    json_t *json = fake_json("{'driver':'leaf'}");
    WEIR_ASSERT(weir_node_add(json, false, &node, NULL) == 0);
    json_decref(json);
    weir_node_unref(node);
    WEIR_ASSERT(fake_open_nodes() >= 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_names_and_options), cmocka_unit_test(bad_references),
        cmocka_unit_test(common_options),        cmocka_unit_test(inherited_options),
        cmocka_unit_test(automatic_names),       cmocka_unit_test(deletion),
        cmocka_unit_test(all_or_nothing),        cmocka_unit_test(slow_open),
        cmocka_unit_test(depth_is_limited),      cmocka_unit_test(roles),
        cmocka_unit_test(left_to_done),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

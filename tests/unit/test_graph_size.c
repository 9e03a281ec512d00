/* SPDX-License-Identifier: BSD-2-Clause */
/* Sizes that follow, resizing, limits that merge, operations that are cared for. */
#include "base/iov.h"
#include "graph/internal.h"
#include "graph_fake.h"
#include "unit.h"

static void set_size(void *arg)
{
    weir_node_set_size(arg, 12345);
}

/* Filters mirror their child, wherever the size is set; formats do not. */
weir_co_fn GRAPH_TEST(sizes_follow)
{
    struct weir_node *leaf = fake_add("{'driver':'leaf','node-name':'l','size':1000}");
    struct weir_node *low = fake_add("{'driver':'filter','node-name':'low','file':'l'}");
    struct weir_node *high = fake_add("{'driver':'filter','node-name':'high','file':'low'}");
    struct weir_node *shift = fake_add("{'driver':'shift','node-name':'s','file':'l'}");
    struct weir_edge *root = fake_root(high, "r", R, ALL);
    struct weir_loop *loop = new_loop("other");

    fake_log();
    WEIR_ASSERT(weir_node_size(high) == 1000 && weir_node_size(shift) == 1000);
    weir_node_set_size(leaf, 2000);
    WEIR_ASSERT(weir_node_size(low) == 2000 && weir_node_size(high) == 2000 && weir_node_size(shift) == 1000);
    expect_log("resized r");
    weir_node_set_size(leaf, 2000);
    expect_log("");
    weir_co_start(loop, set_size, leaf);
    while (weir_node_size(high) != 12345)
        weir_co_pause();
    weir_loop_free(loop);
    expect_log("resized r");
    fake_root_end(root);
}

struct growing {
    struct weir_node *leaf, *filter;
    atomic_bool ended;
};

/* As writes beyond the end do: the lower node first. */
static void grow_both(void *arg)
{
    struct growing *growing = arg;

    for (uint64_t size = 512; size <= 1000000 * (uint64_t)512; size += 512) {
        weir_node_grow(growing->leaf, size);
        weir_node_grow(growing->filter, size);
        for (unsigned look = 0; look < 20; look++)
            WEIR_ASSERT(weir_node_size(growing->filter) >= size);
    }
    growing->ended = true;
}

/* A filter that follows on the control loop never takes back what it has grown to on another. */
weir_co_fn GRAPH_TEST(grow_while_following)
{
    struct growing growing = { .leaf = fake_add("{'driver':'leaf','node-name':'l','size':0}") };
    struct weir_loop *loop = new_loop("other");
    struct weir_edge *root;

    growing.filter = fake_add("{'driver':'filter','node-name':'f','file':'l'}");
    root = fake_root(growing.filter, "r", R, ALL);
    weir_co_start(loop, grow_both, &growing);
    while (!growing.ended) {
        for (unsigned i = 0; i < 100; i++)
            weir_node_follow_size(growing.filter);
        weir_co_pause();
    }
    weir_loop_free(loop);
    WEIR_ASSERT(weir_node_size(growing.filter) == 1000000 * (uint64_t)512);
    fake_root_end(root);
}

/* Through a filter that has no opinion; drained meanwhile. */
weir_co_fn GRAPH_TEST(resize)
{
    struct weir_node *top =
        fake_add("{'driver':'filter','node-name':'t','file':{'driver':'leaf','size':1000}}");
    struct weir_edge *root = fake_root(top, "r", Z, ALL);

    fake_log();
    WEIR_ASSERT(weir_node_resize(root, 5000, NULL) == 0);
    WEIR_ASSERT(weir_node_size(top) == 5000 && !top->drained);
    fake_root_end(root);
}

weir_co_fn GRAPH_TEST(resize_refused)
{
    struct weir_node *ro = fake_add("{'driver':'leaf','node-name':'ro','read-only':true}");
    struct weir_node *shift = fake_add("{'driver':'shift','node-name':'s','file':{'driver':'leaf'}}");
    struct weir_edge *a = fake_root(ro, "a", R, ALL), *b = fake_root(shift, "b", 0, ALL);
    struct weir_error *err = NULL;

    expect_failure(weir_node_resize(a, 1, &err), -EACCES, &err, "Image is read-only");
    expect_failure(weir_node_resize(b, 1, &err), -EPERM, &err,
                   "Node 's' may not be resized without the resize permission");
    WEIR_ASSERT(weir_root_set_perm(b, Z, ALL, NULL) == 0);
    expect_failure(weir_node_resize(b, 1, &err), -ENOTSUP, &err,
                   "Image format driver does not support resize");
    WEIR_ASSERT(!shift->drained);
    fake_root_end(a);
    fake_root_end(b);
}

weir_co_fn GRAPH_TEST(limits)
{
    struct weir_node *leaf = fake_add("{'driver':'leaf','node-name':'l','align':512,'max':65536}");
    struct weir_node *coarse = fake_add("{'driver':'leaf','node-name':'c','align':4096}");
    struct weir_node *fmt = fake_add("{'driver':'format','node-name':'f','file':'l','data-file':'c',"
                                     "'backing':{'driver':'leaf','align':8192}}");
    struct weir_node *top = fake_add("{'driver':'filter','node-name':'t','file':'f'}");

    WEIR_ASSERT(leaf->limits.request_align == 512 && leaf->limits.transfer_max == 65536);
    WEIR_ASSERT(leaf->limits.iov_max == WEIR_IOV_MAX && leaf->limits.memory_align == 1);
    /* The COW child's do not count: what is read from there is not the format's own. */
    WEIR_ASSERT(fmt->limits.request_align == 4096 && fmt->limits.transfer_max == 65536);
    WEIR_ASSERT(fmt->limits.write_flags == 1 && top->limits.request_align == 4096);
    json_object_set_new(coarse->options, "align", json_integer(1024));
    weir_node_refresh_limits(coarse);
    WEIR_ASSERT(coarse->limits.request_align == 1024 && top->limits.request_align == 1024);
}

weir_co_fn GRAPH_TEST(cares)
{
    struct weir_node *fmt =
        fake_add("{'driver':'format','node-name':'f','file':{'driver':'leaf','node-name':'l'}}");
    struct weir_node *top = fake_add("{'driver':'filter','node-name':'t','file':'f'}");

    WEIR_ASSERT(atomic_load(&weir_node_find("l")->cares) == (1u << WEIR_OP_COUNT) - 1);
    WEIR_ASSERT(atomic_load(&fmt->cares) == 0 && atomic_load(&top->cares) == WEIR_OP_BIT(WEIR_OP_WRITE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_follow), cmocka_unit_test(resize), cmocka_unit_test(resize_refused),
        cmocka_unit_test(limits),       cmocka_unit_test(cares),  cmocka_unit_test(grow_while_following),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

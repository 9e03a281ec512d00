/* SPDX-License-Identifier: BSD-2-Clause */
/* raw: the whole child, or a window onto it. */
#include "driver_world.h"

weir_co_fn DRIVER_TEST(whole)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add(
        "{'driver':'raw','node-name':'r','file':{'driver':'file','filename':'%s','node-name':'f'}}", file);
    struct weir_edge *edge = user(node, R | W | Z, ALL);

    WEIR_ASSERT(weir_node_size(node) == MIB && holds(edge, 0, MIB, 1));
    WEIR_ASSERT(weir_node_filtered(node) && !strcmp(weir_node_filtered(node)->name, "file"));
    WEIR_ASSERT(weir_node_primary(node) == weir_node_filtered(node));
    fill(edge, 12345, 777, 2);
    WEIR_ASSERT(holds(edge, 12345, 777, 2) && holds(edge, 12344, 1, 1) && holds(edge, 13122, 1, 1));
    WEIR_ASSERT(status_of(edge, 512, 512).file == weir_node_find("f") &&
                status_of(edge, 512, 512).file_offset == 512);
    WEIR_ASSERT(!weir_node_resize(edge, 2 * MIB, NULL));
    WEIR_ASSERT(weir_node_size(node) == 2 * MIB && file_size(file) == 2 * MIB);
    leave(edge);
    del("r");
}

weir_co_fn DRIVER_TEST(test_raw_offset_size)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add("{'driver':'raw','node-name':'r','offset':1000,'size':4096,"
                                 "'file':{'driver':'file','filename':'%s','node-name':'f'}}",
                                 file);
    struct weir_edge *edge = user(node, R | W | Z, ALL);
    WEIR_AUTO_ERROR err = NULL;
    struct weir_status status;
    char byte = 0;

    WEIR_ASSERT(weir_node_size(node) == 4096 && !weir_node_filtered(node));
    fill(edge, 0, 4096, 3);
    WEIR_ASSERT(holds(edge, 0, 4096, 3));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 4095, 2, &byte, 0) == -EINVAL);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 4096, 1, &byte, 0) == -ENOSPC);
    status = status_of(edge, 24, 4000);
    WEIR_ASSERT(status.data && status.length == 4000 && status.file_offset == 1024);
    WEIR_ASSERT(status.file == weir_node_find("f"));
    WEIR_ASSERT(weir_node_resize(edge, 8192, &err) < 0);
    WEIR_ASSERT(!strcmp(weir_error_text(err), "Cannot resize fixed-size raw disks"));
    leave(edge);
    edge = user(weir_node_find("f"), R, ALL);
    WEIR_ASSERT(holds(edge, 0, 1000, 1) && holds(edge, 1000, 4096, 3) && holds(edge, 5096, 10000, 1));
    leave(edge);
    del("r");
}

/* Without a size the window ends where the child ends, and grows with resize. */
weir_co_fn DRIVER_TEST(window_to_the_end)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node =
        add("{'driver':'raw','node-name':'r','offset':4096,'file':{'driver':'file','filename':'%s'}}", file);
    struct weir_edge *edge = user(node, R | W | Z, ALL);

    WEIR_ASSERT(weir_node_size(node) == MIB - 4096);
    WEIR_ASSERT(!weir_node_resize(edge, MIB, NULL));
    WEIR_ASSERT(weir_node_size(node) == MIB && file_size(file) == MIB + 4096);
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 4096, NULL, 0));
    WEIR_ASSERT(holds(edge, 0, 4096, 0) && holds(edge, 4096, 4096, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    leave(edge);
    del("r");
}

weir_co_fn DRIVER_TEST(errors)
{
    add("{'driver':'null-co','node-name':'n','size':1048576}");
    add_fails("Offset (1048577) cannot be greater than size of the containing file (1048576)",
              "{'driver':'raw','node-name':'r','offset':1048577,'file':'n'}");
    add_fails(
        "The sum of offset (512) and size (1048576) has to be smaller or equal to the actual size of the "
        "containing file (1048576)",
        "{'driver':'raw','node-name':'r','offset':512,'size':1048576,'file':'n'}");
    add_fails("Specified size is not multiple of 512",
              "{'driver':'raw','node-name':'r','size':1000,'file':'n'}");
    add_fails("Parameter 'file' is missing", "{'driver':'raw','node-name':'r'}");
    WEIR_ASSERT(!weir_node_size(add("{'driver':'raw','node-name':'r','offset':1048576,'file':'n'}")));
    del("r");
    del("n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole),
        cmocka_unit_test(test_raw_offset_size),
        cmocka_unit_test(window_to_the_end),
        cmocka_unit_test(errors),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

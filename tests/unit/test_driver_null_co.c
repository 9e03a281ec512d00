/* SPDX-License-Identifier: BSD-2-Clause */
/* null-co: size, zeroes or nothing, latency, status. */
#include "driver_world.h"

weir_co_fn DRIVER_TEST(test_null_co_size)
{
    WEIR_ASSERT(weir_node_size(add("{'driver':'null-co','node-name':'n'}")) == 1024u * MIB);
    WEIR_ASSERT(weir_node_size(add("{'driver':'null-co','node-name':'m','size':1000}")) == 1000);
    del("n");
    del("m");
}

weir_co_fn DRIVER_TEST(test_null_co)
{
    struct weir_edge *edge = user(add("{'driver':'null-co','node-name':'n'}"), R | W, ALL);
    char buffer[512];

    memset(buffer, 7, sizeof(buffer));
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 0, sizeof(buffer), buffer, 0) && buffer[0] == 7 && buffer[511] == 7);
    WEIR_ASSERT(status_of(edge, 0, MIB).data && !status_of(edge, 0, MIB).zero);
    WEIR_ASSERT(status_of(edge, 0, MIB).length == MIB);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 1024ull * MIB - 1, 2, buffer, 0) == -EINVAL);
    leave(edge);
    del("n");
}

weir_co_fn DRIVER_TEST(test_null_co_read_zeroes)
{
    struct weir_edge *edge = user(add("{'driver':'null-co','node-name':'n','read-zeroes':true}"), R | W, ALL);

    fill(edge, 1, 1000, 5);
    WEIR_ASSERT(holds(edge, 0, 4096, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, MIB, NULL, WEIR_REQUEST_NO_FALLBACK));
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, MIB, NULL, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    WEIR_ASSERT(!status_of(edge, 0, MIB).data && status_of(edge, 0, MIB).zero);
    leave(edge);
    del("n");
}

weir_co_fn DRIVER_TEST(test_null_co_latency)
{
    struct weir_edge *edge =
        user(add("{'driver':'null-co','node-name':'n','latency-ns':3000000}"), R | W, ALL);
    struct weir_request request = weir_request_make(WEIR_OP_READ, 0, 512, NULL, 0, 0);
    int64_t start = weir_sys->clock_ns();

    WEIR_ASSERT(weir_root_try(edge, &request) == -EAGAIN);
    fill(edge, 0, 512, 1);
    WEIR_ASSERT(weir_sys->clock_ns() - start >= 3000000);
    leave(edge);
    del("n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_null_co_size),
        cmocka_unit_test(test_null_co),
        cmocka_unit_test(test_null_co_read_zeroes),
        cmocka_unit_test(test_null_co_latency),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

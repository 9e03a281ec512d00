/* SPDX-License-Identifier: BSD-2-Clause */
/* The example of docs/howto-driver.md: it compiles, and does what it says. */
#include "ram.h"

extern const struct weir_driver weir_driver_fence;

static weir_co_fn struct weir_edge *disk(const char *more, const char *fence)
{
    ram_register();
    weir_driver_register(&weir_driver_fence);
    add("{'driver':'ram','node-name':'r','zero':true,'discard':'unmap'%s}", more);
    return user(add("{'driver':'fence','node-name':'f','file':'r','discard':'unmap'%s}", fence), R | W, ALL);
}

static weir_co_fn void end(struct weir_edge *edge)
{
    leave(edge);
    del("f");
    del("r");
}

/* Both ways of a request: at once, and as a coroutine. */
weir_co_fn DRIVER_TEST(keeps_changes_out)
{
    static const char *const more[] = { "", ",'try':true" };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(more); i++) {
        struct weir_edge *edge = disk(more[i], ",'offset':4096,'length':8192");
        char buffer[512] = { 1 };

        memset(ram_of("r")->data, 7, MIB);
        for (enum weir_op op = WEIR_OP_WRITE; op <= WEIR_OP_DISCARD; op++) {
            char *data = op == WEIR_OP_WRITE ? buffer : NULL;

            WEIR_ASSERT(io(edge, op, 4096 - 1, 512, data, 0) == -EPERM);
            WEIR_ASSERT(io(edge, op, 12288 - 512, 512, data, 0) == -EPERM);
            WEIR_ASSERT(!io(edge, op, 4096 - 512, 512, data, 0) && !io(edge, op, 12288, 512, data, 0));
        }
        WEIR_ASSERT(holds(edge, 4096, 8192, 7) && !io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
        end(edge);
    }
}

weir_co_fn DRIVER_TEST(without_a_fence)
{
    struct weir_edge *edge = disk("", "");

    WEIR_ASSERT(!atomic_load(&edge->node->cares));
    fill(edge, 0, 4096, 3);
    WEIR_ASSERT(holds(edge, 0, 4096, 3));
    end(edge);
}

weir_co_fn DRIVER_TEST(wrong_options)
{
    ram_register();
    weir_driver_register(&weir_driver_fence);
    add_fails("The fence of node 'f' is no range of bytes",
              "{'driver':'fence','node-name':'f','file':'r','offset':-1,'length':1}");
    add_fails("Parameter 'file' is missing", "{'driver':'fence','node-name':'f'}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_changes_out),
        cmocka_unit_test(without_a_fence),
        cmocka_unit_test(wrong_options),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

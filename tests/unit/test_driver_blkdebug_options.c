/* SPDX-License-Identifier: BSD-2-Clause */
/* blkdebug: its options, and the file of rules. */
#include "driver_world.h"
#include "io/stats.h"

#define ADD(options)                                                                                      \
    add("{'driver':'blkdebug','node-name':'d'," options "'image':{'driver':'null-co','read-zeroes':true," \
        "'node-name':'n','size':1048576}}")

/* ---- other limits ---- */

weir_co_fn DRIVER_TEST(test_blkdebug_limits)
{
    struct weir_node *node = ADD("'discard':'unmap','align':512,'max-transfer':4096,'opt-write-zero':8192,"
                                 "'max-write-zero':16384,'opt-discard':32768,'max-discard':65536,");
    const struct weir_limits *limits = &node->limits;
    struct weir_edge *edge = user(node, R | W, ALL), *below = TAILQ_FIRST(&node->children);
    struct weir_stats before, after;

    WEIR_ASSERT(limits->request_align == 512 && limits->transfer_max == 4096 && limits->zero_align == 8192);
    WEIR_ASSERT(limits->zero_max == 16384 && limits->discard_align == 32768 && limits->discard_max == 65536);
    weir_node_stats(below->node, &before);
    fill(edge, 0, 65536, 1);
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 4096, 131072, NULL, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 100, 300000, NULL, 0));
    weir_node_stats(below->node, &after);
    /* 16 pieces, and the head and the tail of the zeroes; 16 KiB from 8192 on; whole 32 KiB from 32768 on. */
    WEIR_ASSERT(after.op[WEIR_OP_WRITE].operations - before.op[WEIR_OP_WRITE].operations == 16 + 2);
    WEIR_ASSERT(after.op[WEIR_OP_ZERO].operations - before.op[WEIR_OP_ZERO].operations == 8);
    WEIR_ASSERT(after.op[WEIR_OP_DISCARD].operations - before.op[WEIR_OP_DISCARD].operations == 4);
    WEIR_ASSERT(after.op[WEIR_OP_DISCARD].bytes - before.op[WEIR_OP_DISCARD].bytes == 8 * 32768);
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_permissions)
{
    struct weir_node *node = add("{'driver':'null-co','node-name':'n'}");
    struct weir_edge *edge;

    add("{'driver':'blkdebug','node-name':'d','image':'n','take-child-perms':['write'],"
        "'unshare-child-perms':['resize','consistent-read']}");
    WEIR_ASSERT(node->perm == W && node->shared == (W | U));
    weir_error_free(user_fails(node, R, ALL));
    weir_error_free(user_fails(node, 0, R | Z));
    edge = user(node, W, W | U);
    leave(edge);
    del("d");
    edge = user(node, R | Z, ALL);
    leave(edge);
    del("n");
}

/* ---- the file of rules ---- */

/* What a write at the start gets. */
static weir_co_fn void expect(struct weir_edge *edge, int want)
{
    char buffer[512] = { 0 };

    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == want);
}

static const char *config(const char *text)
{
    const char *name = path("rules");
    FILE *file = fopen(name, "w");

    WEIR_ASSERT(file && fputs(text, file) >= 0 && !fclose(file));
    return name;
}

#define WITH_CONFIG "{'driver':'blkdebug','node-name':'d','config':'%s','image':'n'}"

weir_co_fn DRIVER_TEST(test_blkdebug_config)
{
    const char *name =
        config("# a comment\n\n[set-state]\nevent = \"write_aio\"\nstate=\"1\"\n new_state = 2 \n"
               "[inject-error \"name\"]\nevent = \"write_aio\"\nstate = \"2\"\n"
               "iotype = \"write\"\nerrno = \"28\"\nsector = \"0\"\nonce = \"on\"");
    struct weir_edge *edge;

    add("{'driver':'null-co','node-name':'n','size':1048576}");
    edge = user(add(WITH_CONFIG, name), R | W, ALL);
    expect(edge, 0);
    expect(edge, -ENOSPC);
    expect(edge, 0);
    leave(edge);
    del("d");
    del("n");
}

weir_co_fn DRIVER_TEST(config_errors)
{
    static const struct {
        const char *text, *error;
    } wrong[] = {
        { "[inject-error]\nevent = \"nope\"", "invalid parameter value: nope" },
        { "[inject-error]\nerrno = \"5\"", "Missing event name for rule" },
        { "[inject-error]\nevent = \"none\"\niotype = \"bar\"", "invalid parameter value: bar" },
        { "[inject-error]\nevent = \"none\"\nfoo = \"x\"", "Invalid parameter 'foo'" },
        { "[set-state]\nevent = \"none\"\nerrno = \"1\"", "Invalid parameter 'errno'" },
        { "[foo]\nevent = \"none\"", "There is no option group 'foo'" },
        { "event = \"none\"", "no group defined" },
        { "[inject-error]\nevent = \"none\"\njunk", "Could not parse 'junk' in blkdebug config file" },
    };

    add("{'driver':'null-co','node-name':'n'}");
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(wrong); i++)
        add_fails(wrong[i].error, WITH_CONFIG, config(wrong[i].text));
    add_fails("Could not read blkdebug config file: No such file or directory", WITH_CONFIG, "/nonexistent");
    del("n");
}

weir_co_fn DRIVER_TEST(errors)
{
    static const char *const wrong[] = { "align 1000",          "align 3000000000",
                                         "max-transfer 1000",   "max-transfer 4294967296",
                                         "opt-write-zero 1000", "opt-discard 256",
                                         "max-write-zero 1000", "max-discard 1000" };

    add("{'driver':'null-co','node-name':'n'}");
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(wrong); i++) {
        weir_autofree char *name = weir_strdup(wrong[i]), *text = NULL;
        char *value = strchr(name, ' ');

        *value++ = 0;
        text = weir_strdup_printf("Cannot meet constraints with %s", wrong[i]);
        add_fails(text, "{'driver':'blkdebug','node-name':'d','%s':%s,%s'image':'n'}", name, value,
                  strcmp(name, "align") ? "'align':512," : "");
    }
    add_fails("Cannot meet constraints with max-discard 12288",
              "{'driver':'blkdebug','node-name':'d','opt-discard':8192,'max-discard':12288,'image':'n'}");
    add_fails("Parameter 'image' is missing", "{'driver':'blkdebug','node-name':'d'}");
    del("n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blkdebug_limits),
        cmocka_unit_test(test_blkdebug_permissions),
        cmocka_unit_test(test_blkdebug_config),
        cmocka_unit_test(config_errors),
        cmocka_unit_test(errors),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

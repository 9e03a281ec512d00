/* SPDX-License-Identifier: BSD-2-Clause */
/* blkdebug: what is armed when, what fails, what is held, alignment. */
#include "filter/blkdebug.h"
#include "driver_world.h"

#define ADD(options)                                                                                      \
    add("{'driver':'blkdebug','node-name':'d'," options "'image':{'driver':'null-co','read-zeroes':true," \
        "'node-name':'n','size':1048576}}")
#define RULE(text) "'inject-error':[{" text "}],"

/* What each kind of request gets: 0 or an error, in this order. */
struct outcome {
    int read, write, zero, discard, flush;
};

static weir_co_fn void expect(struct weir_edge *edge, struct outcome want)
{
    char buffer[512] = { 0 };

    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 512, buffer, 0) == want.read);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == want.write);
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 0, 512, NULL, 0) == want.zero);
    WEIR_ASSERT(io(edge, WEIR_OP_DISCARD, 0, 512, NULL, 0) == want.discard);
    WEIR_ASSERT(io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0) == want.flush);
}

weir_co_fn DRIVER_TEST(no_rules)
{
    struct weir_node *node = ADD("");
    struct weir_edge *edge = user(node, R | W, ALL);

    WEIR_ASSERT(!(atomic_load(&node->cares) & WEIR_OP_BIT(WEIR_OP_STATUS)) && weir_node_size(node) == MIB);
    expect(edge, (struct outcome){ 0 });
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_inject_error)
{
    struct weir_edge *edge = user(ADD("'discard':'unmap'," RULE("'event':'none'")), R | W, ALL);

    expect(edge, (struct outcome){ -EIO, -EIO, -EIO, -EIO, -EIO });
    leave(edge);
    del("d");
}

/* An event arms its rule for all that follows, as measured; the request that raises it is the first. */
weir_co_fn DRIVER_TEST(test_blkdebug_events)
{
    struct weir_edge *edge = user(ADD("'discard':'unmap'," RULE("'event':'pwritev_zero'")), R | W, ALL);

    expect(edge, (struct outcome){ 0, 0, -EIO, -EIO, -EIO });
    expect(edge, (struct outcome){ -EIO, -EIO, -EIO, -EIO, -EIO });
    leave(edge);
    del("d");
    edge = user(ADD("'discard':'unmap'," RULE("'event':'pwritev_done'")), R | W, ALL);
    expect(edge, (struct outcome){ 0, 0, -EIO, -EIO, -EIO });
    leave(edge);
    del("d");
    edge = user(ADD("'discard':'unmap'," RULE("'event':'flush_to_disk','iotype':'read'")), R | W, ALL);
    expect(edge, (struct outcome){ 0 });
    expect(edge, (struct outcome){ .read = -EIO });
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_iotype)
{
    struct weir_edge *edge =
        user(ADD("'discard':'unmap'," RULE("'event':'none','iotype':'write','errno':28")), R | W, ALL);

    expect(edge, (struct outcome){ .write = -ENOSPC });
    leave(edge);
    del("d");
    edge = user(ADD("'discard':'unmap'," RULE("'event':'none','iotype':'write-zeroes'")), R | W, ALL);
    expect(edge, (struct outcome){ .zero = -EIO });
    leave(edge);
    del("d");
    edge = user(ADD("'discard':'unmap'," RULE("'event':'none','iotype':'discard'")), R | W, ALL);
    expect(edge, (struct outcome){ .discard = -EIO });
    leave(edge);
    del("d");
    edge = user(ADD(RULE("'event':'none','iotype':'flush','immediately':true")), R | W, ALL);
    expect(edge, (struct outcome){ .flush = -EIO });
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(block_status)
{
    struct weir_edge *edge =
        user(ADD(RULE("'event':'none','iotype':'block-status','once':true")), R | W, ALL);
    struct weir_status status;

    expect(edge, (struct outcome){ 0 });
    WEIR_ASSERT(weir_root_status(edge, 0, MIB, WEIR_REQUEST_DEEP, &status) == -EIO);
    WEIR_ASSERT(!weir_root_status(edge, 0, MIB, WEIR_REQUEST_DEEP, &status) && status.zero &&
                status.length == MIB);
    WEIR_ASSERT(status.file == weir_node_find("n"));
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_sector)
{
    struct weir_edge *edge = user(ADD(RULE("'event':'none','sector':1,'iotype':'read'},"
                                           "{'event':'read_aio','once':true,'sector':4,'errno':28")),
                                  R | W, ALL);
    char buffer[2048];

    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 0, 512, buffer, 0) && !io(edge, WEIR_OP_READ, 1024, 512, buffer, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 511, 2, buffer, 0) == -EIO);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 1023, 1, buffer, 0) == -EIO);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 2048, buffer, 0) == -EIO);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 2048, 512, buffer, 0) == -ENOSPC);
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 2048, 512, buffer, 0));
    leave(edge);
    del("d");
}

/* ---- holding ---- */

struct held {
    struct weir_edge *edge;
    enum weir_op op;
    int result;
    bool done;
};

static weir_co_fn void held_run(void *arg)
{
    struct held *held = arg;
    char buffer[512] = { 0 };

    held->result = io(held->edge, held->op, 0, 512, buffer, 0);
    held->done = true;
}

static weir_co_fn void start(struct held *held, struct weir_edge *edge, enum weir_op op)
{
    *held = (struct held){ .edge = edge, .op = op };
    weir_co_run(held_run, held);
}

static weir_co_fn void wait_done(struct held *held)
{
    while (!held->done)
        weir_co_pause();
}

/* The newest breakpoint that fits holds, each one request; others go their way. */
weir_co_fn DRIVER_TEST(hold_and_resume)
{
    struct weir_node *node = ADD("");
    struct weir_edge *edge = user(node, R | W, ALL);
    struct held one, two, three;

    WEIR_ASSERT(weir_blkdebug_find(node) == node && !weir_blkdebug_find(weir_node_find("n")));
    WEIR_ASSERT(weir_blkdebug_break(node, "no_event", "a") == -ENOENT);
    WEIR_ASSERT(!weir_blkdebug_break(node, "pwritev", "b"));
    WEIR_ASSERT(!weir_blkdebug_break(node, "write_aio", "a"));
    WEIR_ASSERT(weir_blkdebug_wait(node, "a", weir_sys->clock_ns() + 1000) == -ETIMEDOUT);
    WEIR_ASSERT(weir_blkdebug_resume(node, "a") == -ENOENT);
    start(&one, edge, WEIR_OP_WRITE);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "a", -1) && !one.done);
    start(&two, edge, WEIR_OP_WRITE);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "b", -1) && !two.done);
    start(&three, edge, WEIR_OP_WRITE);
    wait_done(&three);
    fill(edge, 4096, 512, 1);
    WEIR_ASSERT(holds(edge, 0, 512, 0) && !one.done && !two.done);
    WEIR_ASSERT(!weir_blkdebug_resume(node, "b"));
    wait_done(&two);
    WEIR_ASSERT(!one.done && weir_blkdebug_resume(node, "b") == -ENOENT);
    WEIR_ASSERT(!weir_blkdebug_resume(node, "a"));
    wait_done(&one);
    WEIR_ASSERT(!one.result && !two.result);
    WEIR_ASSERT(weir_blkdebug_wait(node, "a", -1) == -ENOENT);
    leave(edge);
    del("d");
}

/* One tag for several breakpoints; removing lets go who is held and forgets the others. */
weir_co_fn DRIVER_TEST(remove_breakpoints)
{
    struct weir_node *node = ADD("");
    struct weir_edge *edge = user(node, R | W, ALL);
    struct held held;

    WEIR_ASSERT(weir_blkdebug_remove(node, "a") == -ENOENT);
    WEIR_ASSERT(!weir_blkdebug_break(node, "read_aio", "a") && !weir_blkdebug_break(node, "read_aio", "a"));
    start(&held, edge, WEIR_OP_READ);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "a", -1));
    WEIR_ASSERT(!weir_blkdebug_remove(node, "a"));
    wait_done(&held);
    WEIR_ASSERT(!held.result && holds(edge, 0, 512, 0));
    WEIR_ASSERT(!weir_blkdebug_break(node, "read_aio", "a"));
    start(&held, edge, WEIR_OP_READ);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "a", -1));
    WEIR_ASSERT(weir_blkdebug_remove(node, "a") == -ENOENT); /* it held somebody: nothing to remove */
    wait_done(&held);
    leave(edge);
    del("d");
}

/* A drain waits for what is held, and says what that is. */
weir_co_fn DRIVER_TEST(drain_waits)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *node = ADD("");
    struct weir_edge *edge = user(node, R | W, ALL);
    struct weir_drain drain;
    struct held held;

    WEIR_ASSERT(!weir_blkdebug_break(node, "flush_to_disk", "a"));
    start(&held, edge, WEIR_OP_FLUSH);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "a", -1));
    weir_graph_lock();
    WEIR_ASSERT(weir_drain_begin(&drain, &node, 1, 20 * 1000000, &err) == -ETIMEDOUT);
    WEIR_ASSERT(strstr(weir_error_text(err), "flush") && !held.done);
    weir_graph_unlock();
    weir_graph_let_go();
    wait_done(&held);
    WEIR_ASSERT(!held.result);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, NULL));
    weir_drain_end(&drain);
    weir_graph_unlock();
    leave(edge);
    del("d");
}

/* The node goes with its last user, who was given up with a request inside: the request is let go. */
weir_co_fn DRIVER_TEST(deletion_lets_go)
{
    struct weir_node *node = ADD("");
    struct weir_edge *edge = user(node, R | W, ALL);
    struct held held;

    WEIR_ASSERT(!weir_blkdebug_break(node, "read_aio", "a"));
    start(&held, edge, WEIR_OP_READ);
    WEIR_ASSERT(!weir_blkdebug_wait(node, "a", -1));
    weir_root_detach(edge, 1000000);
    WEIR_ASSERT(!held.done);
    del("d");
    wait_done(&held);
    WEIR_ASSERT(!held.result);
}

weir_co_fn DRIVER_TEST(test_blkdebug_state)
{
    struct weir_edge *edge =
        user(ADD("'set-state':[{'event':'write_aio','state':1,'new_state':2},{'event':'write_aio','state':2,"
                 "'new_state':3}],'inject-error':[{'event':'write_aio','state':3,'iotype':'write','errno':28,"
                 "'once':true},{'event':'read_aio','state':2,'iotype':'read','once':true}],"),
             R | W, ALL);
    char buffer[512] = { 0 };

    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 0, 512, buffer, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 512, buffer, 0) == -EIO);
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 0, 512, buffer, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -ENOSPC);
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0));
    leave(edge);
    del("d");
}

/* "none" happens in state 1, at the opening; an armed rule does not care about the state any more. */
weir_co_fn DRIVER_TEST(state_of_the_opening)
{
    struct weir_edge *edge =
        user(ADD("'set-state':[{'event':'write_aio','new_state':2}]," RULE(
                 "'event':'none','state':2,'iotype':'read'},{'event':'write_aio','state':1,"
                 "'iotype':'flush'")),
             R | W, ALL);

    expect(edge, (struct outcome){ .flush = -EIO });
    expect(edge, (struct outcome){ .flush = -EIO });
    leave(edge);
    del("d");
}

/* The request waits before it fails, or goes on; a drain does not wait for that. */
weir_co_fn DRIVER_TEST(test_blkdebug_delay)
{
    struct weir_node *node = ADD(RULE("'event':'none','iotype':'read','delay-ns':20000000},"
                                      "{'event':'none','iotype':'write','errno':0,'delay-ns':20000000},"
                                      "{'event':'none','iotype':'flush','delay-ns':3600000000000"));
    struct weir_edge *edge = user(node, R | W, ALL);
    int64_t begin = weir_sys->clock_ns();
    struct weir_drain drain;
    struct held held;
    char buffer[512] = { 0 };

    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 512, buffer, 0) == -EIO);
    WEIR_ASSERT(weir_sys->clock_ns() - begin >= 20000000);
    begin = weir_sys->clock_ns();
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0));
    WEIR_ASSERT(weir_sys->clock_ns() - begin >= 20000000);
    start(&held, edge, WEIR_OP_FLUSH);
    WEIR_ASSERT(!held.done);
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, NULL));
    WEIR_ASSERT(held.done && held.result == -EIO);
    weir_drain_end(&drain);
    weir_graph_unlock();
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_once)
{
    struct weir_edge *edge =
        user(ADD("'discard':'unmap'," RULE("'event':'write_aio','once':true")), R | W, ALL);

    expect(edge, (struct outcome){ .write = -EIO });
    expect(edge, (struct outcome){ 0 });
    leave(edge);
    del("d");
}

/* An error that is given immediately is given before the request can be held. */
weir_co_fn DRIVER_TEST(test_blkdebug_immediately)
{
    struct weir_node *node = ADD(RULE("'event':'none','iotype':'read','immediately':true"));
    struct weir_edge *edge = user(node, R | W, ALL);
    struct held held;

    WEIR_ASSERT(!weir_blkdebug_break(node, "read_aio", "a"));
    start(&held, edge, WEIR_OP_READ);
    WEIR_ASSERT(held.done && held.result == -EIO);
    WEIR_ASSERT(!weir_blkdebug_remove(node, "a"));
    leave(edge);
    del("d");
    edge = user(node = ADD(RULE("'event':'none','iotype':'read'")), R | W, ALL);
    WEIR_ASSERT(!weir_blkdebug_break(node, "read_aio", "a"));
    start(&held, edge, WEIR_OP_READ);
    WEIR_ASSERT(!held.done && !weir_blkdebug_resume(node, "a"));
    wait_done(&held);
    WEIR_ASSERT(held.result == -EIO);
    leave(edge);
    del("d");
}

/* ---- alignment ---- */

/* The last block of a disk whose size is no multiple is not whole: nobody is asked for what lies behind the end. */
weir_co_fn DRIVER_TEST(test_blkdebug_align_at_the_end)
{
    struct weir_edge *edge = user(add("{'driver':'blkdebug','node-name':'d','align':4096,'image':{'driver':'"
                                      "raw','offset':512,'size':471552,"
                                      "'file':{'driver':'null-co','read-zeroes':true,'size':1048576}}}"),
                                  R | W, ALL);
    char buffer[4096] = { 1, 1 };

    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 471552 - 512, 512, buffer, 0) && !buffer[0]);
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 471552 - 4096, 4096, buffer, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 471552 - 512, 1024, buffer, 0) == -EINVAL);
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 471552 - 300, 300, buffer, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 471552 - 400, 300, buffer, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 471552 - 512, 512, NULL, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 471552 - 512, 1024, buffer, 0) == -ENOSPC);
    leave(edge);
    del("d");
}

weir_co_fn DRIVER_TEST(test_blkdebug_align)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add("{'driver':'blkdebug','node-name':'d','align':4096,"
                                 "'inject-error':[{'event':'none','sector':1}],"
                                 "'image':{'driver':'file','filename':'%s'}}",
                                 file);
    struct weir_edge *edge = user(node, R | W, ALL);
    char byte = 0;

    WEIR_ASSERT(node->limits.request_align == 4096);
    /* The whole block of 4 KiB is read, and with it sector 1. */
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 1, &byte, 0) == -EIO);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 4095, 1, &byte, 0) == -EIO);
    fill(edge, 5000, 10000, 2);
    WEIR_ASSERT(holds(edge, 4096, 904, 1) && holds(edge, 5000, 10000, 2) && holds(edge, 15000, 999, 1));
    leave(edge);
    del("d");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_rules),
        cmocka_unit_test(test_blkdebug_inject_error),
        cmocka_unit_test(test_blkdebug_events),
        cmocka_unit_test(test_blkdebug_iotype),
        cmocka_unit_test(block_status),
        cmocka_unit_test(test_blkdebug_sector),
        cmocka_unit_test(test_blkdebug_once),
        cmocka_unit_test(test_blkdebug_immediately),
        cmocka_unit_test(hold_and_resume),
        cmocka_unit_test(remove_breakpoints),
        cmocka_unit_test(drain_waits),
        cmocka_unit_test(deletion_lets_go),
        cmocka_unit_test(test_blkdebug_state),
        cmocka_unit_test(state_of_the_opening),
        cmocka_unit_test(test_blkdebug_delay),
        cmocka_unit_test(test_blkdebug_align),
        cmocka_unit_test(test_blkdebug_align_at_the_end),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

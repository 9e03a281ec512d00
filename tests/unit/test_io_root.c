/* SPDX-License-Identifier: BSD-2-Clause */
/* Where root users enter: bounds, permissions, batches, closed gates, statistics. */
#include "ram.h"

#include "graph/gate.h"
#include "io/stats.h"

static weir_co_fn struct weir_edge *disk(const char *more)
{
    ram_register();
    return user(add("{'driver':'ram','node-name':'r','discard':'unmap'%s}", more), R | W, ALL);
}

static weir_co_fn void end(struct weir_edge *edge)
{
    leave(edge);
    del("r");
}

/* ---- bounds and permissions ---- */

weir_co_fn DRIVER_TEST(bounds)
{
    struct weir_edge *edge = disk(",'zero':true");
    char bytes[512] = { 0 };

    WEIR_ASSERT(!io(edge, WEIR_OP_READ, MIB - 512, 512, bytes, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, MIB - 511, 512, bytes, 0) == -EINVAL);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, UINT64_MAX - 100, 512, bytes, 0) == -EINVAL);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, MIB - 511, 512, bytes, 0) == -ENOSPC);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, UINT64_MAX - 511, 512, bytes, 0) == -ENOSPC);
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, MIB, 1, NULL, 0) == -ENOSPC);
    WEIR_ASSERT(io(edge, WEIR_OP_DISCARD, 0, MIB + 1, NULL, 0) == -ENOSPC);
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 512, UINT64_MAX, NULL, 0) == -ENOSPC);
    WEIR_ASSERT(io(edge, WEIR_OP_DISCARD, 512, UINT64_MAX - 511, NULL, 0) == -ENOSPC);
    ram_expect(ram_of("r"), "read 1048064+512");
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, MIB, 0, NULL, 0) && !io(edge, WEIR_OP_WRITE, 5, 0, NULL, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, MIB + 1, 0, NULL, 0) == -EINVAL);
    ram_expect(ram_of("r"), "");
    end(edge);
}

weir_co_fn DRIVER_TEST(permissions)
{
    struct weir_edge *edge = disk(",'zero':true"), *reader, *copier;
    struct weir_node *fixed = add("{'driver':'ram','node-name':'fixed','read-only':true}");
    char byte = 0;

    reader = user(edge->node, R, ALL);
    copier = user(edge->node, R | U, ALL);
    WEIR_ASSERT(!io(reader, WEIR_OP_READ, 0, 1, &byte, 0));
    WEIR_ASSERT(io(reader, WEIR_OP_WRITE, 0, 1, &byte, 0) == -EPERM);
    WEIR_ASSERT(io(reader, WEIR_OP_WRITE, 0, 1, &byte, WEIR_REQUEST_UNCHANGED) == -EPERM);
    WEIR_ASSERT(io(reader, WEIR_OP_ZERO, 0, 1, NULL, 0) == -EPERM);
    WEIR_ASSERT(io(reader, WEIR_OP_DISCARD, 0, 1, NULL, 0) == -EPERM);
    WEIR_ASSERT(!io(reader, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    WEIR_ASSERT(io(copier, WEIR_OP_WRITE, 0, 1, &byte, 0) == -EPERM);
    WEIR_ASSERT(!io(copier, WEIR_OP_WRITE, 0, 1, &byte, WEIR_REQUEST_UNCHANGED));
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 1, &byte, WEIR_REQUEST_UNCHANGED));
    leave(reader);
    leave(copier);
    reader = user(fixed, R, ALL);
    WEIR_ASSERT(io(reader, WEIR_OP_WRITE, 0, 1, &byte, 0) == -EPERM);
    WEIR_ASSERT(io(reader, WEIR_OP_WRITE, 0, 0, NULL, 0) == -EPERM);
    leave(reader);
    del("fixed");
    end(edge);
}

/* ---- batches ---- */

enum { BATCH = 8 };

struct batch_request {
    struct weir_request request;
    struct iovec iov;
    unsigned answers;
    int result;
};

static struct batch {
    struct batch_request all[BATCH];
    struct weir_request *list[BATCH];
    char bytes[BATCH][512];
    unsigned answered;
} batch;

static void batch_done(struct weir_request *request, int result)
{
    struct batch_request *one = weir_container_of(request, struct batch_request, request);

    one->answers++;
    one->result = result;
    batch.answered++;
}

/* @count adjacent requests of 512 bytes from @offset on; request i is full of i + 1. */
static void batch_make(enum weir_op op, uint64_t offset, unsigned count)
{
    batch.answered = 0;
    for (unsigned i = 0; i < count; i++) {
        struct batch_request *one = &batch.all[i];

        memset(batch.bytes[i], op == WEIR_OP_WRITE ? (int)(i + 1) : 0, 512);
        one->iov = (struct iovec){ batch.bytes[i], 512 };
        one->request = weir_request_make(op, offset + (uint64_t)512 * i, 512, &one->iov, 1, 0);
        one->request.done = batch_done;
        one->answers = 0;
        one->result = 1;
        batch.list[i] = &one->request;
    }
}

static weir_co_fn void batch_wait(unsigned count)
{
    while (batch.answered < count)
        weir_co_pause();
    settle();
    for (unsigned i = 0; i < count; i++)
        WEIR_ASSERT(batch.all[i].answers == 1);
}

static uint64_t merged(struct weir_edge *edge, enum weir_op op)
{
    struct weir_stats stats;

    weir_edge_stats(edge, &stats);
    return stats.op[op].merged;
}

weir_co_fn DRIVER_TEST(batch_merges)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");

    batch_make(WEIR_OP_WRITE, 1024, BATCH);
    weir_root_batch(edge, batch.list, BATCH);
    batch_wait(BATCH);
    ram_expect(ram, "write 1024+4096");
    WEIR_ASSERT(merged(edge, WEIR_OP_WRITE) == BATCH - 1);
    for (unsigned i = 0; i < BATCH; i++)
        WEIR_ASSERT(!batch.all[i].result && holds(edge, 1024 + 512 * i, 512, (int)(i + 1)));
    (void)ram_log(ram);
    ram->can_try = true;
    batch_make(WEIR_OP_READ, 1024, BATCH);
    weir_root_batch(edge, batch.list, BATCH);
    WEIR_ASSERT(batch.answered == BATCH); /* at once */
    ram_expect(ram, "read 1024+4096");
    for (unsigned i = 0; i < BATCH; i++)
        WEIR_ASSERT(!batch.all[i].result && batch.bytes[i][0] == (char)(i + 1) &&
                    batch.bytes[i][511] == (char)(i + 1));
    end(edge);
}

weir_co_fn DRIVER_TEST(batch_does_not_merge)
{
    struct weir_edge *edge = disk(",'zero':true");
    struct ram *ram = ram_of("r");

    batch_make(WEIR_OP_WRITE, 0, 8);
    batch.all[1].request.flags = WEIR_REQUEST_BULK; /* another flag */
    batch.all[3].request.offset += 512;             /* a gap, and an overlap with the next */
    batch.all[5].request.op = WEIR_OP_READ;
    batch.all[6].request.length = 0;
    batch.all[7].request.op = WEIR_OP_FLUSH;
    weir_root_batch(edge, batch.list, 8);
    batch_wait(8);
    ram_expect(ram, "write 0+512, write 512+512, write 1024+512, write 2048+512, write 2048+512, "
                    "read 2560+512, flush");
    WEIR_ASSERT(!merged(edge, WEIR_OP_WRITE));
    end(edge);
}

/* Something below counts requests: it gets them as they were issued. */
weir_co_fn DRIVER_TEST(batch_apart)
{
    struct weir_edge *edge = disk(",'apart':true");

    batch_make(WEIR_OP_WRITE, 0, 2);
    weir_root_batch(edge, batch.list, 2);
    batch_wait(2);
    ram_expect(ram_of("r"), "write 0+512, write 512+512");
    end(edge);
}

/* One bad member must not take the others with it, at once or later. */
weir_co_fn DRIVER_TEST(batch_failing)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");

    for (unsigned at_once = 0; at_once < 2; at_once++) {
        ram->can_try = at_once;
        ram->bad_offset = 1024;
        ram->bad_length = 1;
        batch_make(WEIR_OP_WRITE, 0, 4);
        weir_root_batch(edge, batch.list, 4);
        batch_wait(4);
        ram_expect(ram, "write 0+2048, write 0+512, write 512+512, write 1024+512, write 1536+512");
        for (unsigned i = 0; i < 4; i++)
            WEIR_ASSERT(batch.all[i].result == (i == 2 ? -EIO : 0));
        ram->bad_length = 0;
    }
    /* The same where the run reaches beyond the end of the disk. */
    ram->can_try = false;
    batch_make(WEIR_OP_WRITE, MIB - 1024, 4);
    weir_root_batch(edge, batch.list, 4);
    batch_wait(4);
    ram_expect(ram, "write 1047552+512, write 1048064+512");
    for (unsigned i = 0; i < 4; i++)
        WEIR_ASSERT(batch.all[i].result == (i < 2 ? 0 : -ENOSPC));
    end(edge);
}

/* Whoever detaches waits for all members, also while they are issued again one by one. */
weir_co_fn DRIVER_TEST(batch_failing_while_detached)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");

    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    ram->fail_in[WEIR_OP_WRITE] = 1;
    batch_make(WEIR_OP_WRITE, 0, 4);
    weir_root_batch(edge, batch.list, 4);
    ram_wait_held(ram, 1);
    ram_release(ram);
    leave(edge);
    WEIR_ASSERT(batch.answered == 4);
    for (unsigned i = 0; i < 4; i++)
        WEIR_ASSERT(!batch.all[i].result);
    del("r");
}

/* ---- gates ---- */

struct drainer {
    struct weir_drain drain;
    struct weir_node *node;
    bool drained, over;
    bool go_on;
    int result;
    int64_t limit_ns;
};

static weir_co_fn void run_drainer(void *arg)
{
    struct drainer *drainer = arg;
    WEIR_AUTO_ERROR err = NULL;

    weir_graph_lock();
    drainer->result = weir_drain_begin(&drainer->drain, &drainer->node, 1, drainer->limit_ns, &err);
    if (!drainer->result) {
        drainer->drained = true;
        while (!drainer->go_on)
            weir_co_pause();
        weir_drain_end(&drainer->drain);
    }
    weir_graph_unlock();
    drainer->over = true;
}

weir_co_fn DRIVER_TEST(closed_gate)
{
    struct weir_edge *edge = disk(",'try':true");
    struct ram *ram = ram_of("r");
    struct drainer drainer = { .node = edge->node, .limit_ns = WEIR_DRAIN_LIMIT_NS };
    struct task inside, later;
    char bytes[512] = { 0 };
    struct iovec iov = { bytes, 512 };
    struct weir_request request = weir_request_make(WEIR_OP_READ, 0, 512, &iov, 1, 0);

    ram->can_try = false;
    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&inside, edge, WEIR_OP_WRITE, 0, 512, bytes);
    weir_co_run(run_drainer, &drainer);
    settle();
    WEIR_ASSERT(!drainer.drained); /* it waits for what is inside */
    ram->can_try = true;
    WEIR_ASSERT(weir_root_try(edge, &request) == -EAGAIN);
    ram_release(ram);
    WEIR_ASSERT(!task_wait(&inside));
    while (!drainer.drained)
        weir_co_pause();
    (void)ram_log(ram);
    WEIR_ASSERT(weir_root_try(edge, &request) == -EAGAIN);
    task_start(&later, edge, WEIR_OP_WRITE, 512, 512, bytes);
    batch_make(WEIR_OP_WRITE, 2048, 3);
    weir_root_batch(edge, batch.list, 3);
    settle();
    WEIR_ASSERT(!later.over && !batch.answered);
    ram_expect(ram, ""); /* nothing has got in */
    drainer.go_on = true;
    WEIR_ASSERT(!task_wait(&later));
    batch_wait(3);
    while (!drainer.over)
        weir_co_pause();
    /* Nothing was known about the graph behind the gate, so nothing was merged. */
    ram_expect(ram, "write 512+512, write 2048+512, write 2560+512, write 3072+512");
    WEIR_ASSERT(!weir_root_try(edge, &request));
    end(edge);
}

/* A drain that gives up lets everything go on. */
weir_co_fn DRIVER_TEST(drain_gives_up)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct drainer drainer = { .node = edge->node, .limit_ns = 1000000 };
    struct task inside, later;
    char bytes[512] = { 0 };

    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&inside, edge, WEIR_OP_WRITE, 0, 512, bytes);
    weir_co_run(run_drainer, &drainer);
    task_start(&later, edge, WEIR_OP_READ, 512, 512, bytes);
    while (!drainer.over)
        weir_co_sleep(1000000);
    WEIR_ASSERT(drainer.result == -ETIMEDOUT && !task_wait(&later));
    ram_release(ram);
    WEIR_ASSERT(!task_wait(&inside));
    end(edge);
}

/* A node that shrinks while a request waits at the gate: the new size counts. */
weir_co_fn DRIVER_TEST(size_behind_the_gate)
{
    struct weir_edge *edge = disk("");
    struct drainer drainer = { .node = edge->node, .limit_ns = WEIR_DRAIN_LIMIT_NS };
    struct task later;
    char bytes[512] = { 0 };

    weir_co_run(run_drainer, &drainer);
    while (!drainer.drained)
        weir_co_pause();
    task_start(&later, edge, WEIR_OP_WRITE, MIB - 512, 512, bytes);
    settle();
    weir_node_set_size(edge->node, MIB / 2);
    drainer.go_on = true;
    WEIR_ASSERT(task_wait(&later) == -ENOSPC);
    while (!drainer.over)
        weir_co_pause();
    end(edge);
}

/* Admission: with room for one, requests come one after the other, in order. */
weir_co_fn DRIVER_TEST(admission)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task tasks[3];
    char bytes[512] = { 0 };

    weir_gate_set_limits(edge, 1, 0);
    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    for (unsigned i = 0; i < 3; i++)
        task_start(&tasks[i], edge, WEIR_OP_WRITE, 512 * i, 512, bytes);
    for (unsigned i = 0; i < 3; i++) {
        ram_wait_held(ram, 1);
        settle();
        WEIR_ASSERT(ram->held == 1 && !tasks[i].over);
        ram_let_go(ram);
        WEIR_ASSERT(!task_wait(&tasks[i]));
    }
    ram_expect(ram, "write 0+512, write 512+512, write 1024+512");
    ram_release(ram);
    end(edge);
}

/* ---- statistics ---- */

weir_co_fn DRIVER_TEST(statistics)
{
    struct weir_edge *edge = disk(",'zero':true");
    struct weir_edge *other = user(edge->node, R, ALL);
    struct ram *ram = ram_of("r");
    struct weir_stats stats;
    char bytes[512] = { 0 };

    weir_edge_stats(edge, &stats);
    WEIR_ASSERT(!stats.idle_since_ns && !stats.op[WEIR_OP_READ].operations);
    for (unsigned at_once = 0; at_once < 2; at_once++) {
        ram->can_try = at_once;
        WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 4096, 512, bytes, 0));
        WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 1024, 100, bytes, 0));
        WEIR_ASSERT(!io(other, WEIR_OP_READ, 0, 512, bytes, 0));
        ram->fail_in[WEIR_OP_WRITE] = 1;
        WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 8192, 512, bytes, 0) == -EIO);
    }
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 512, NULL, 0) && !io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    weir_edge_stats(edge, &stats);
    WEIR_ASSERT(stats.op[WEIR_OP_WRITE].operations == 4 && stats.op[WEIR_OP_WRITE].bytes == 1224);
    WEIR_ASSERT(stats.op[WEIR_OP_WRITE].failed == 2 && stats.write_highest == 4096 + 512);
    WEIR_ASSERT(!stats.op[WEIR_OP_READ].operations && stats.op[WEIR_OP_ZERO].bytes == 512);
    WEIR_ASSERT(stats.op[WEIR_OP_FLUSH].operations == 1 && stats.idle_since_ns > 0);
    weir_node_stats(edge->node, &stats);
    WEIR_ASSERT(stats.op[WEIR_OP_WRITE].operations == 4 && stats.op[WEIR_OP_WRITE].failed == 2);
    WEIR_ASSERT(stats.op[WEIR_OP_READ].operations == 2 && stats.op[WEIR_OP_READ].bytes == 1024);
    leave(other);
    end(edge);
}

/* A request that has to wait shows the time that it took. */
weir_co_fn DRIVER_TEST(time_taken)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct weir_stats stats;
    struct task task;
    char bytes[512] = { 0 };

    ram->hold = WEIR_OP_BIT(WEIR_OP_READ);
    task_start(&task, edge, WEIR_OP_READ, 0, 512, bytes);
    weir_co_sleep(5000000);
    ram_release(ram);
    WEIR_ASSERT(!task_wait(&task));
    weir_edge_stats(edge, &stats);
    WEIR_ASSERT(stats.op[WEIR_OP_READ].total_ns >= 5000000);
    end(edge);
}

/* Statistics count what each node sees: the filter above sees the same, the split below is not counted twice. */
weir_co_fn DRIVER_TEST(statistics_of_layers)
{
    struct weir_node *top, *bottom;
    struct weir_edge *edge;
    struct weir_stats stats;
    char bytes[2048] = { 0 };

    ram_register();
    top = add("{'driver':'pass','node-name':'p','file':{'driver':'ram','node-name':'r','max':512}}");
    bottom = weir_node_find("r");
    edge = user(top, R | W, ALL);
    WEIR_ASSERT(!io(edge, WEIR_OP_READ, 0, 2048, bytes, 0));
    weir_node_stats(top, &stats);
    WEIR_ASSERT(stats.op[WEIR_OP_READ].operations == 1 && stats.op[WEIR_OP_READ].bytes == 2048);
    weir_node_stats(bottom, &stats);
    WEIR_ASSERT(stats.op[WEIR_OP_READ].operations == 1 && stats.op[WEIR_OP_READ].bytes == 2048);
    leave(edge);
    del("p");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds),
        cmocka_unit_test(permissions),
        cmocka_unit_test(batch_merges),
        cmocka_unit_test(batch_does_not_merge),
        cmocka_unit_test(batch_apart),
        cmocka_unit_test(batch_failing),
        cmocka_unit_test(batch_failing_while_detached),
        cmocka_unit_test(closed_gate),
        cmocka_unit_test(drain_gives_up),
        cmocka_unit_test(size_behind_the_gate),
        cmocka_unit_test(admission),
        cmocka_unit_test(statistics),
        cmocka_unit_test(time_taken),
        cmocka_unit_test(statistics_of_layers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

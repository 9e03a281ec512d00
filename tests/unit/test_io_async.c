/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests that their parent leaves behind: who owns what until they return. */
#include "ram.h"

#include "io/async.h"

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

static weir_co_fn void returned(struct weir_edge *edge)
{
    while (weir_edge_abandoned(edge))
        weir_co_pause();
}

static weir_co_fn int now(struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length,
                          void *buffer)
{
    struct task task;

    task_start_abandonable(&task, edge, op, offset, length, buffer, -1);
    return task_wait(&task);
}

weir_co_fn DRIVER_TEST(in_time)
{
    struct weir_edge *edge = disk(",'status':true");
    struct ram *ram = ram_of("r");
    struct weir_status status = { 0 };
    struct weir_request request = weir_request_make(WEIR_OP_STATUS, 512, 1024, NULL, 0, WEIR_REQUEST_DEEP);
    char out[700], in[700];

    memset(out, 7, sizeof(out));
    for (unsigned at_once = 0; at_once < 2; at_once++) {
        ram->can_try = at_once;
        WEIR_ASSERT(!now(edge, WEIR_OP_WRITE, 100, sizeof(out), out));
        memset(in, 0, sizeof(in));
        WEIR_ASSERT(!now(edge, WEIR_OP_READ, 100, sizeof(in), in) && !memcmp(in, out, sizeof(in)));
        ram->fail_in[WEIR_OP_READ] = 1;
        WEIR_ASSERT(now(edge, WEIR_OP_READ, 0, 512, in) == -EIO);
    }
    WEIR_ASSERT(!now(edge, WEIR_OP_FLUSH, 0, 0, NULL));
    ram->status = (struct weir_status){ .length = 512, .zero = true };
    request.status = &status;
    WEIR_ASSERT(!weir_io_abandonable(edge, &request, -1) && status.zero && status.length == 512);
    WEIR_ASSERT(!weir_edge_abandoned(edge));
    end(edge);
}

/* What was left behind writes what it was given, whatever its parent does with the memory since. */
weir_co_fn DRIVER_TEST(broken)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task write, read;
    char out[600], in[600];

    memset(out, 7, sizeof(out));
    memset(in, 9, sizeof(in));
    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_READ);
    task_start_abandonable(&write, edge, WEIR_OP_WRITE, 0, sizeof(out), out, -1);
    task_start_abandonable(&read, edge, WEIR_OP_READ, 4096, sizeof(in), in, -1);
    ram_wait_held(ram, 2);
    weir_edge_break(edge);
    WEIR_ASSERT(task_wait(&write) == -ECANCELED && task_wait(&read) == -ECANCELED);
    WEIR_ASSERT(weir_edge_abandoned(edge) == 2);
    memset(out, 1, sizeof(out));
    memset(in, 2, sizeof(in));
    WEIR_ASSERT(now(edge, WEIR_OP_WRITE, 8192, sizeof(out), out) == -ECANCELED && ram->held == 2);
    memset(ram->data + 4096, 5, 600);
    ram_release(ram);
    returned(edge);
    WEIR_ASSERT(ram->data[0] == 7 && ram->data[599] == 7);
    for (unsigned i = 0; i < sizeof(in); i++)
        WEIR_ASSERT(in[i] == 2); /* too late for the parent's buffer */
    end(edge);
}

weir_co_fn DRIVER_TEST(too_late)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task task;
    char in[512] = { 0 };

    ram->hold = WEIR_OP_BIT(WEIR_OP_READ);
    task_start_abandonable(&task, edge, WEIR_OP_READ, 0, 512, in, weir_sys->clock_ns() + 2000000);
    while (!task.over)
        weir_co_sleep(1000000);
    WEIR_ASSERT(task.result == -ETIMEDOUT && weir_edge_abandoned(edge) == 1);
    memset(ram->data, 5, 512);
    ram_release(ram);
    returned(edge);
    WEIR_ASSERT(!in[0] && !in[511]);
    /* A limit says nothing about the edge: the next request goes its way. */
    WEIR_ASSERT(!now(edge, WEIR_OP_READ, 0, 512, in) && in[0] == 5);
    end(edge);
}

/* A buffer with references is not copied, and not recycled either. */
weir_co_fn DRIVER_TEST(counted_buffer)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct weir_buffer *buffer = weir_buffer_new(65536), *other;
    struct task task;

    memset(buffer->data, 3, 65536);
    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task.request.buffer = NULL;
    task_start_abandonable(&task, edge, WEIR_OP_FLUSH, 0, 0, NULL, -1);
    WEIR_ASSERT(!task_wait(&task));
    task.edge = edge;
    task.over = false;
    task_start_abandonable(&task, edge, WEIR_OP_WRITE, 0, 65536, buffer->data,
                           weir_sys->clock_ns() + 2000000);
    while (!task.over)
        weir_co_sleep(1000000);
    WEIR_ASSERT(atomic_load(&buffer->refs) == 1); /* it was not said that it is counted */
    {
        struct iovec iov = { buffer->data, 65536 };
        struct weir_request request = weir_request_make(WEIR_OP_WRITE, 65536, 65536, &iov, 1, 0);

        request.buffer = buffer;
        WEIR_ASSERT(weir_io_abandonable(edge, &request, weir_sys->clock_ns() + 2000000) == -ETIMEDOUT);
    }
    WEIR_ASSERT(atomic_load(&buffer->refs) == 2 && weir_edge_abandoned(edge) == 2);
    weir_buffer_unref(buffer);
    other = weir_buffer_new(65536);
    WEIR_ASSERT(other != buffer);
    memset(other->data, 4, 65536);
    ram_release(ram);
    returned(edge);
    WEIR_ASSERT(ram->data[0] == 3 && ram->data[131071] == 3);
    weir_buffer_unref(other);
    end(edge);
}

/* The node is not closed before its last request has returned, though its user and its name are gone. */
weir_co_fn DRIVER_TEST(limbo)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task task;
    char out[512] = { 1 };

    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start_abandonable(&task, edge, WEIR_OP_WRITE, 0, 512, out, -1);
    ram_wait_held(ram, 1);
    weir_edge_break(edge);
    WEIR_ASSERT(task_wait(&task) == -ECANCELED);
    leave(edge);
    WEIR_ASSERT(!weir_graph_limbo_count());
    del("r");
    WEIR_ASSERT(weir_graph_limbo_count() == 1 && !weir_node_find("r") && ram->held == 1);
    ram_release(ram);
    while (weir_graph_limbo_count())
        weir_co_pause();
}

/* From another loop, as a job does it. */
struct elsewhere {
    struct weir_edge *edge;
    atomic_int result;
};

static weir_co_fn void run_elsewhere(void *arg)
{
    struct elsewhere *elsewhere = arg;
    char bytes[512] = { 0 };
    struct iovec iov = { bytes, 512 };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, 0, 512, &iov, 1, 0);

    atomic_store(&elsewhere->result, weir_io_abandonable(elsewhere->edge, &request, -1));
}

/* What its thread keeps for reuse goes with it. */
static weir_co_fn void trim(void *arg)
{
    (void)arg;
    weir_buffer_trim();
}

weir_co_fn DRIVER_TEST(broken_by_another_loop)
{
    struct weir_edge *edge;
    struct weir_loop *loop = new_loop("job");
    struct elsewhere elsewhere = { .result = 1 };

    edge = user(add("{'driver':'null-co','node-name':'r','latency-ns':50000000}"), R | W, ALL);
    elsewhere.edge = edge;
    weir_co_start(loop, run_elsewhere, &elsewhere);
    weir_co_sleep(2000000);
    weir_edge_break(edge);
    while (atomic_load(&elsewhere.result) == 1)
        weir_co_sleep(100000);
    WEIR_ASSERT(atomic_load(&elsewhere.result) == -ECANCELED);
    while (weir_edge_abandoned(edge))
        weir_co_sleep(1000000);
    leave(edge);
    weir_co_start(loop, trim, NULL);
    weir_loop_free(loop);
    del("r");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_time),        cmocka_unit_test(broken), cmocka_unit_test(too_late),
        cmocka_unit_test(counted_buffer), cmocka_unit_test(limbo),  cmocka_unit_test(broken_by_another_loop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real loop while the kernel takes nothing: operations and cancellations wait in order, those that wait can be
 * cancelled, and each ends once. The loop's source is compiled in with a submit call that refuses on demand.
 */
#include "sys_temp.h"
#include <liburing.h>

static bool refusing;

static int submit_or_refuse(struct io_uring *ring)
{
    return refusing ? -EBUSY : io_uring_submit(ring);
}
#define io_uring_submit submit_or_refuse
#include "../../src/sys/real_loop.c"

enum { COUNT = 300, SECONDS = 10 };

struct operation {
    struct weir_sys_io io;
    unsigned ended;
    int result;
};

static unsigned ended_total;

static void ended(struct weir_sys_io *io, int result)
{
    struct operation *operation = weir_container_of(io, struct operation, io);

    operation->ended++;
    operation->result = result;
    ended_total++;
    /* It is the caller's again: any use of it from now on is a fault. */
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(io->backend); i++)
        io->backend[i] = (void *)(uintptr_t)0x5a5a5a5a;
}

static struct weir_sys_loop *open_and_fill(struct operation *operations, int fd)
{
    struct weir_sys_loop *loop;

    assert_int_equal(weir_real_loop_open(&loop), 0);
    ended_total = 0;
    refusing = true;
    for (unsigned i = 0; i < COUNT; i++) {
        operations[i] = (struct operation){
            .io = { .op = WEIR_SYS_POLL, .fd = fd, .flags = POLLIN, .done = ended },
        };
        weir_real_loop_submit(loop, &operations[i].io);
    }
    assert_non_null(loop->overflow.first);
    return loop;
}

static void poll_until(struct weir_sys_loop *loop, unsigned total)
{
    int64_t end = weir_sys_real.clock_ns() + SECONDS * INT64_C(1000000000);

    while (ended_total < total && weir_sys_real.clock_ns() < end)
        weir_real_loop_poll(loop, end);
    assert_int_equal(ended_total, total);
}

/* A ready descriptor: all end; a kernel that goes on refusing outside of poll() does not hinder that. */
static void what_waits_goes_on(void **state)
{
    static struct operation operations[COUNT];
    struct weir_sys_loop *loop;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    loop = open_and_fill(operations, fds[0]);
    poll_until(loop, COUNT);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(operations[i].ended, 1);
        assert_int_equal(operations[i].result, POLLIN);
    }
    weir_real_loop_close(loop);
    close(fds[0]);
    close(fds[1]);
}

static void what_waits_is_cancelled(void **state)
{
    static struct operation operations[COUNT];
    struct weir_sys_loop *loop;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    loop = open_and_fill(operations, fds[0]);
    for (int i = COUNT - 1; i >= 0; i -= 3) { /* from the end: the last of a list, others from its middle */
        weir_real_loop_cancel(loop, &operations[i].io);
        weir_real_loop_cancel(loop, &operations[i].io);
    }
    assert_non_null(loop->cancels.first);
    assert_non_null(loop->ended.first);
    assert_int_equal(ended_total, 0);
    poll_until(loop, COUNT / 3);
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(operations[i].ended, i % 3 == 2);
        assert_int_equal(operations[i].result, i % 3 == 2 ? -ECANCELED : 0);
    }
    assert_int_equal(write(fds[1], "x", 1), 1);
    poll_until(loop, COUNT);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(operations[i].ended, 1);
    weir_real_loop_close(loop);
    close(fds[0]);
    close(fds[1]);
}

/* A cancellation that still waits when its operation ends is forgotten. */
static void too_late_to_cancel(void **state)
{
    static struct operation operations[COUNT];
    struct weir_sys_loop *loop;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    loop = open_and_fill(operations, fds[0]);
    for (unsigned i = 0; i < 100; i++)
        weir_real_loop_cancel(loop, &operations[i].io);
    assert_non_null(loop->cancels.first);
    poll_until(loop, COUNT);
    assert_null(loop->cancels.first);
    assert_null(loop->cancels.last);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(operations[i].result, POLLIN);
    weir_real_loop_close(loop);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_waits_goes_on),
        cmocka_unit_test(what_waits_is_cancelled),
        cmocka_unit_test(too_late_to_cancel),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

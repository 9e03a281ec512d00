/* SPDX-License-Identifier: BSD-2-Clause */
/* Waiting for the OS: calls on workers with and without a limit, operations of the loop. */
#include "co/internal.h"
#include "world.h"
#include "unit.h"
#include <errno.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- calls with a limit ---- */

struct stuck {
    sem_t go, released;
    bool was_released;
};

static int wait_stuck(void *arg)
{
    struct stuck *stuck = arg;

    while (sem_wait(&stuck->go) < 0)
        continue;
    return 5;
}

static void release_stuck(void *arg)
{
    struct stuck *stuck = arg;

    stuck->was_released = true;
    (void)sem_post(&stuck->released);
}

static void limited(void *arg) weir_co_fn;
static void limited(void *arg)
{
    struct stuck stuck = { 0 };
    int64_t deadline = weir_sys->clock_ns() + 3000000;
    int result;

    WEIR_ASSERT(sem_init(&stuck.go, 0, 0) == 0 && sem_init(&stuck.released, 0, 0) == 0);
    result = weir_co_work_until(wait_stuck, release_stuck, &stuck, deadline);
    WEIR_ASSERT(result == -ETIMEDOUT && weir_sys->clock_ns() >= deadline);
    WEIR_ASSERT(!stuck.was_released);
    (void)sem_post(&stuck.go);
    while (sem_wait(&stuck.released) < 0)
        continue;
    WEIR_ASSERT(stuck.was_released);

    /* In time, and without limit: the result, and no release. */
    stuck.was_released = false;
    (void)sem_post(&stuck.go);
    result =
        weir_co_work_until(wait_stuck, release_stuck, &stuck, weir_sys->clock_ns() + INT64_C(60000000000));
    WEIR_ASSERT(result == 5);
    (void)sem_post(&stuck.go);
    result = weir_co_work_until(wait_stuck, release_stuck, &stuck, -1);
    WEIR_ASSERT(result == 5 && !stuck.was_released);
    WEIR_ASSERT(sem_destroy(&stuck.go) == 0 && sem_destroy(&stuck.released) == 0);
}

static void abandons_a_stuck_call(void **state)
{
    run_world(limited, NULL);
}

static void cancel_it(void *arg) weir_co_fn;
static void cancel_it(void *arg)
{
    weir_co_cancel(arg);
}

static void cancelled(void *arg) weir_co_fn;
static void cancelled(void *arg)
{
    struct weir_co_cancel cancel = { 0 };
    struct stuck stuck = { 0 };
    int result;

    WEIR_ASSERT(sem_init(&stuck.go, 0, 0) == 0 && sem_init(&stuck.released, 0, 0) == 0);
    /* Nobody cancels: the result. */
    (void)sem_post(&stuck.go);
    result = weir_co_work_cancellable(wait_stuck, release_stuck, &stuck, -1, &cancel);
    WEIR_ASSERT(result == 5 && !cancel.co && !stuck.was_released);
    /* In the middle of the call, and before it. */
    for (unsigned i = 0; i < 2; i++) {
        if (!i)
            weir_co_start(weir_loop_control(), cancel_it, &cancel);
        result = weir_co_work_cancellable(wait_stuck, release_stuck, &stuck,
                                          weir_sys->clock_ns() + INT64_C(60000000000), &cancel);
        WEIR_ASSERT(result == -ECANCELED && !cancel.co && !stuck.was_released);
        (void)sem_post(&stuck.go);
        while (sem_wait(&stuck.released) < 0)
            continue;
        stuck.was_released = false;
    }
    WEIR_ASSERT(sem_destroy(&stuck.go) == 0 && sem_destroy(&stuck.released) == 0);
}

static void cancels_a_stuck_call(void **state)
{
    run_world(cancelled, NULL);
}

/* Limits that pass about when the call ends: either outcome, never both, never neither. */
#define RACES 400

struct racer {
    _Atomic int ran, released;
};

static int race_run(void *arg)
{
    struct racer *racer = arg;

    atomic_fetch_add(&racer->ran, 1);
    return 1;
}

static void race_release(void *arg)
{
    struct racer *racer = arg;

    atomic_fetch_add(&racer->released, 1);
}

static void race(void *arg) weir_co_fn;
static void race(void *arg)
{
    struct racer racer = { 0 };
    int in_time = 0, late = 0;

    for (int i = 0; i < RACES; i++) {
        int result = weir_co_work_until(race_run, race_release, &racer,
                                        weir_sys->clock_ns() + (int64_t)(i % 40) * 1000);

        WEIR_ASSERT(result == 1 || result == -ETIMEDOUT);
        if (result == 1)
            in_time++;
        else
            late++;
    }
    /* The late ones still end, and each gives back what it took. */
    while (atomic_load(&racer.released) < late)
        weir_co_sleep(100000);
    WEIR_ASSERT(atomic_load(&racer.ran) == RACES && atomic_load(&racer.released) == late);
    WEIR_ASSERT(in_time + late == RACES);
}

static void limit_races_with_the_end(void **state)
{
    run_world(race, NULL);
}

/* ---- operations ---- */

struct receiver {
    int fd;
    char buffer[16];
    int result;
    bool ended;
    struct weir_sys_io io;
    struct weir_co *waiter, *self;
};

static void receiving(void *arg) weir_co_fn;
static void receiving(void *arg)
{
    struct receiver *receiver = arg;
    struct iovec iov = { receiver->buffer, sizeof(receiver->buffer) };

    receiver->self = weir_co_self();
    receiver->io = (struct weir_sys_io){ .op = WEIR_SYS_RECV, .fd = receiver->fd, .iov = &iov, .iovcnt = 1 };
    receiver->result = weir_co_io(&receiver->io);
    receiver->ended = true;
    weir_co_wake(receiver->waiter);
}

static void await_receiver(const struct receiver *receiver) weir_co_fn;
static void await_receiver(const struct receiver *receiver)
{
    while (!receiver->ended)
        weir_co_yield();
}

static void operations(void *arg) weir_co_fn;
static void operations(void *arg)
{
    struct receiver receiver = { .waiter = weir_co_self() };
    struct iovec iov = { (void *)(uintptr_t) "hello", 5 };
    struct weir_sys_io send = { .op = WEIR_SYS_SEND, .iov = &iov, .iovcnt = 1 };
    int fds[2], result;

    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    receiver.fd = fds[0];
    send.fd = fds[1];
    weir_co_run(receiving, &receiver);
    weir_co_wake(receiver.self); /* a stray wake ends no operation */
    weir_co_pause();
    WEIR_ASSERT(!receiver.ended && weir_loop_self()->in_flight == 1);
    result = weir_co_io(&send);
    WEIR_ASSERT(result == 5);
    await_receiver(&receiver);
    WEIR_ASSERT(receiver.result == 5 && memcmp(receiver.buffer, "hello", 5) == 0);

    receiver.ended = false;
    weir_co_run(receiving, &receiver);
    weir_co_pause();
    weir_loop_cancel(&receiver.io);
    await_receiver(&receiver);
    WEIR_ASSERT(receiver.result == -ECANCELED);
    WEIR_ASSERT(weir_loop_self()->in_flight == 0);
    WEIR_ASSERT(close(fds[0]) == 0 && close(fds[1]) == 0);
}

static void waits_for_operations(void **state)
{
    run_world(operations, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(abandons_a_stuck_call),
        cmocka_unit_test(cancels_a_stuck_call),
        cmocka_unit_test(limit_races_with_the_end),
        cmocka_unit_test(waits_for_operations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

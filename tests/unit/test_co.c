/* SPDX-License-Identifier: BSD-2-Clause */
/* Coroutines: order, tokens, moves between loops, workers, operations, pooled stacks. */
#include "co/internal.h"
#include "world.h"
#include "unit.h"
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What happened, a letter each. */
struct log {
    char text[64];
    unsigned length;
};

static void note(struct log *log, char letter)
{
    WEIR_ASSERT(log->length + 1 < sizeof(log->text));
    log->text[log->length++] = letter;
    log->text[log->length] = 0;
}

static void check_log(const struct log *log, const char *expected)
{
    if (strcmp(log->text, expected) != 0)
        (void)fprintf(stderr, "happened: %s\nexpected: %s\n", log->text, expected);
    WEIR_ASSERT(strcmp(log->text, expected) == 0);
}

/* ---- order ---- */

struct actor {
    struct log *log;
    char letter;
    struct weir_co *self;
    unsigned rounds;
};

static void pausing(void *arg) weir_co_fn;
static void pausing(void *arg)
{
    struct actor *actor = arg;

    for (unsigned i = 0; i < actor->rounds; i++) {
        note(actor->log, actor->letter);
        weir_co_pause();
    }
}

static void order(void *arg) weir_co_fn;
static void order(void *arg)
{
    struct log log = { 0 };
    struct actor a = { &log, 'a', NULL, 3 }, b = { &log, 'b', NULL, 2 }, c = { &log, 'c', NULL, 1 };
    struct weir_co *self = weir_co_self();

    weir_co_start(weir_loop_self(), pausing, &a);
    weir_co_start(weir_loop_self(), pausing, &b);
    note(&log, '1');
    weir_co_run(pausing, &c);
    WEIR_ASSERT(weir_co_self() == self);
    WEIR_ASSERT(weir_co_alive() == 4);
    note(&log, '2');
    for (unsigned i = 0; i < 4; i++) {
        weir_co_pause();
        note(&log, '.');
    }
    check_log(&log, "1c2ab.ab.a..");
    WEIR_ASSERT(weir_co_alive() == 1);
}

static void runs_in_order(void **state)
{
    assert_null(weir_co_self());
    assert_null(weir_loop_self());
    run_world(order, NULL);
    assert_null(weir_loop_self());
}

/* ---- nested runs ---- */

static void nest(void *arg) weir_co_fn;
static void nest(void *arg)
{
    unsigned *depth = arg;
    struct weir_co *self = weir_co_self();

    if ((*depth)++ < 50)
        weir_co_run(nest, depth);
    WEIR_ASSERT(weir_co_self() == self);
    weir_co_pause();
    WEIR_ASSERT(weir_co_self() == self);
    (*depth)--;
}

static void nested(void *arg) weir_co_fn;
static void nested(void *arg)
{
    unsigned depth = 0;

    weir_co_run(nest, &depth);
    WEIR_ASSERT(depth == 51);
    while (depth > 0)
        weir_co_pause();
}

static void runs_nested(void **state)
{
    run_world(nested, NULL);
}

/* ---- tokens ---- */

static void token_keeper(void *arg) weir_co_fn;
static void token_keeper(void *arg)
{
    struct actor *actor = arg;

    actor->self = weir_co_self();
    weir_co_wake(actor->self);
    weir_co_wake(actor->self);
    weir_co_pause(); /* keeps the token */
    weir_co_yield(); /* takes it: the second wake was the same token */
    note(actor->log, 't');
    weir_co_yield();
    note(actor->log, 'u');
}

static void tokens(void *arg) weir_co_fn;
static void tokens(void *arg)
{
    struct log log = { 0 };
    struct actor actor = { .log = &log };

    weir_co_run(token_keeper, &actor);
    check_log(&log, "");
    for (unsigned i = 0; i < 5; i++)
        weir_co_pause();
    check_log(&log, "t");
    weir_co_wake(actor.self);
    weir_co_wake(actor.self);
    check_log(&log, "t"); /* a wake only queues */
    weir_co_pause();
    check_log(&log, "tu");
}

static void keeps_one_token(void **state)
{
    run_world(tokens, NULL);
}

/* ---- time ---- */

struct sleeper {
    struct log *log;
    char letter;
    int64_t deadline_ns;
};

static void sleeping(void *arg) weir_co_fn;
static void sleeping(void *arg)
{
    struct sleeper *sleeper = arg;

    weir_co_sleep_until(sleeper->deadline_ns);
    WEIR_ASSERT(weir_sys->clock_ns() >= sleeper->deadline_ns);
    note(sleeper->log, sleeper->letter);
}

static void sleeps(void *arg) weir_co_fn;
static void sleeps(void *arg)
{
    int64_t now = weir_sys->clock_ns();
    struct log log = { 0 };
    struct sleeper sleepers[] = {
        { &log, 'c', now + 3000000 }, { &log, 'a', now - 5 },       { &log, 'd', now + 4000000 },
        { &log, 'b', now + 2000000 }, { &log, 'e', now + 5000000 },
    };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(sleepers); i++)
        weir_co_run(sleeping, &sleepers[i]);
    /* A foreign wake does not shorten a sleep. */
    weir_co_wake(weir_co_self());
    weir_co_sleep(8000000);
    WEIR_ASSERT(weir_sys->clock_ns() >= now + 8000000);
    check_log(&log, "abcde");
}

static void sleeps_in_order(void **state)
{
    run_world(sleeps, NULL);
}

/* ---- pool ---- */

static uintptr_t stack_address(void)
{
    return (uintptr_t)__builtin_frame_address(0);
}

static void record_stack(void *arg) weir_co_fn;
static void record_stack(void *arg)
{
    *(uintptr_t *)arg = stack_address();
}

static void wait_for_go(void *arg) weir_co_fn;
static void wait_for_go(void *arg)
{
    bool *go = arg;

    while (!*go)
        weir_co_pause();
}

static void pool(void *arg) weir_co_fn;
static void pool(void *arg)
{
    const struct weir_loop *loop = weir_loop_self();
    uintptr_t first, next;
    bool go = false;

    weir_co_run(record_stack, &first);
    for (unsigned i = 0; i < 1000; i++) {
        weir_co_run(record_stack, &next);
        WEIR_ASSERT(next == first);
    }
    for (unsigned i = 0; i < WEIR_CO_POOL_MAX + 100; i++)
        weir_co_run(wait_for_go, &go);
    WEIR_ASSERT(loop->pooled == 0);
    WEIR_ASSERT(weir_co_alive() == WEIR_CO_POOL_MAX + 101);
    go = true;
    while (weir_co_alive() > 1)
        weir_co_pause();
    WEIR_ASSERT(loop->pooled == WEIR_CO_POOL_MAX);
}

static void pools_stacks(void **state)
{
    run_world(pool, NULL);
}

/* ---- moves ---- */

#define MOVERS 20
#define MOVES 300

struct mover {
    struct weir_loop **loops;
    unsigned count, number;
    unsigned *running;
    struct weir_co *waiter;
};

static void moving(void *arg) weir_co_fn;
static void moving(void *arg)
{
    struct mover *mover = arg;
    struct weir_co *self = weir_co_self();

    for (unsigned i = 0; i < MOVES; i++) {
        struct weir_loop *loop = mover->loops[(i * 7 + mover->number) % mover->count];

        weir_co_move(loop);
        WEIR_ASSERT(weir_loop_self() == loop && weir_co_self() == self);
        weir_co_move(loop); /* already there */
        if (i % 16 == 0)
            weir_co_pause();
        WEIR_ASSERT(weir_loop_self() == loop);
    }
    weir_co_move(weir_loop_control());
    --*mover->running;
    weir_co_wake(mover->waiter);
}

static void moves(void *arg) weir_co_fn;
static void moves(void *arg)
{
    struct weir_loop *loops[3] = { weir_loop_control(), new_loop("one"), new_loop("two") };
    struct mover movers[MOVERS];
    unsigned running = MOVERS;

    for (unsigned i = 0; i < MOVERS; i++) {
        movers[i] = (struct mover){ loops, 3, i, &running, weir_co_self() };
        weir_co_start(loops[i % 3], moving, &movers[i]);
    }
    while (running > 0)
        weir_co_yield();
    weir_loop_free(loops[1]);
    weir_loop_free(loops[2]);
    WEIR_ASSERT(weir_co_alive() == 1);
}

static void moves_between_loops(void **state)
{
    run_world(moves, NULL);
}

/* ---- wake storm: many wakers, one waiter; no wake may be lost ---- */

#define STORM_LOOPS 3
#define STORM_WAKERS 4
#define STORM_WAKES 5000

struct storm {
    struct weir_co *waiter;
    _Atomic unsigned wakes;
    _Atomic unsigned acknowledged;
};

static void storming(void *arg) weir_co_fn;
static void storming(void *arg)
{
    struct storm *storm = arg;

    for (unsigned i = 0; i < STORM_WAKES; i++) {
        atomic_fetch_add(&storm->wakes, 1);
        weir_co_wake(storm->waiter);
        if (i % 8 == 0)
            weir_co_pause();
    }
}

/* Wakes, and goes on only when the waiter has seen that very wake: a lost one hangs the test. */
static void handshaking(void *arg) weir_co_fn;
static void handshaking(void *arg)
{
    struct storm *storm = arg;

    for (unsigned i = 0; i < STORM_WAKES / 4; i++) {
        unsigned ticket = atomic_fetch_add(&storm->wakes, 1) + 1;

        weir_co_wake(storm->waiter);
        while (atomic_load(&storm->acknowledged) < ticket)
            weir_co_pause();
    }
}

static void storm(void *arg) weir_co_fn;
static void storm(void *arg)
{
    void (*waker)(void *arg) weir_co_fn = arg ? handshaking : storming;
    unsigned each = arg ? STORM_WAKES / 4 : STORM_WAKES;
    struct storm storm = { .waiter = weir_co_self() };
    struct weir_loop *loops[STORM_LOOPS];
    unsigned seen;

    for (unsigned i = 0; i < STORM_LOOPS; i++) {
        loops[i] = new_loop("storm");
        for (unsigned j = 0; j < STORM_WAKERS; j++)
            weir_co_start(loops[i], waker, &storm);
    }
    while ((seen = atomic_load(&storm.wakes)) < STORM_LOOPS * STORM_WAKERS * each) {
        atomic_store(&storm.acknowledged, seen);
        weir_co_yield();
    }
    atomic_store(&storm.acknowledged, seen);
    for (unsigned i = 0; i < STORM_LOOPS; i++)
        weir_loop_free(loops[i]);
}

static void survives_a_wake_storm(void **state)
{
    run_world(storm, NULL);
}

static void loses_no_wake(void **state)
{
    bool handshake = true;

    run_world(storm, &handshake);
}

/* ---- starting from elsewhere ---- */

#define STARTS 2000

struct starts {
    struct weir_loop *loop;
    _Atomic unsigned ran;
};

static void started(void *arg) weir_co_fn;
static void started(void *arg)
{
    struct starts *starts = arg;

    WEIR_ASSERT(weir_loop_self() == starts->loop);
    weir_co_pause();
    atomic_fetch_add(&starts->ran, 1);
}

static int start_many(void *arg)
{
    struct starts *starts = arg;

    WEIR_ASSERT(!weir_loop_self() && !weir_co_self());
    for (unsigned i = 0; i < STARTS; i++)
        weir_co_start(starts->loop, started, starts);
    return 17;
}

static void start_elsewhere(void *arg) weir_co_fn;
static void start_elsewhere(void *arg)
{
    struct starts there = { .loop = new_loop("there") }, here = { .loop = weir_loop_self() };
    int result;

    for (unsigned i = 0; i < STARTS; i++)
        weir_co_start(there.loop, started, &there);
    result = weir_co_work(start_many, &there);
    WEIR_ASSERT(result == 17);
    result = weir_co_work(start_many, &here);
    WEIR_ASSERT(result == 17);
    weir_loop_free(there.loop); /* only when all have run */
    WEIR_ASSERT(there.ran == 2 * STARTS);
    while (here.ran < STARTS)
        weir_co_pause();
}

static void starts_from_any_thread(void **state)
{
    run_world(start_elsewhere, NULL);
}

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
    struct weir_co *waiter;
};

static void receiving(void *arg) weir_co_fn;
static void receiving(void *arg)
{
    struct receiver *receiver = arg;
    struct iovec iov = { receiver->buffer, sizeof(receiver->buffer) };

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
        cmocka_unit_test(runs_in_order),
        cmocka_unit_test(runs_nested),
        cmocka_unit_test(keeps_one_token),
        cmocka_unit_test(sleeps_in_order),
        cmocka_unit_test(pools_stacks),
        cmocka_unit_test(moves_between_loops),
        cmocka_unit_test(survives_a_wake_storm),
        cmocka_unit_test(loses_no_wake),
        cmocka_unit_test(starts_from_any_thread),
        cmocka_unit_test(abandons_a_stuck_call),
        cmocka_unit_test(limit_races_with_the_end),
        cmocka_unit_test(waits_for_operations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

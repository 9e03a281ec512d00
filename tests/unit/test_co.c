/* SPDX-License-Identifier: BSD-2-Clause */
/* Coroutines: order, tokens, moves between loops, starts from everywhere, pooled stacks. */
#include "co/internal.h"
#include "world.h"
#include "unit.h"
#include <stdio.h>
#include <string.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_in_order),          cmocka_unit_test(runs_nested),
        cmocka_unit_test(keeps_one_token),        cmocka_unit_test(sleeps_in_order),
        cmocka_unit_test(pools_stacks),           cmocka_unit_test(moves_between_loops),
        cmocka_unit_test(survives_a_wake_storm),  cmocka_unit_test(loses_no_wake),
        cmocka_unit_test(starts_from_any_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

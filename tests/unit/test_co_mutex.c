/* SPDX-License-Identifier: BSD-2-Clause */
/* Mutexes, queues and groups of coroutines, on one loop (order) and on several (exclusion, nothing lost). */
#include "co/internal.h"
#include "world.h"
#include "unit.h"
#include <errno.h>
#include <stdatomic.h>

/* ---- order ---- */

struct turn {
    struct weir_co_mutex *mutex;
    unsigned number;
    unsigned *next;
};

static void take_turn(void *arg) weir_co_fn;
static void take_turn(void *arg)
{
    struct turn *turn = arg;

    weir_co_mutex_lock(turn->mutex);
    WEIR_ASSERT(*turn->next == turn->number);
    ++*turn->next;
    weir_co_pause(); /* may be held over a switch */
    weir_co_mutex_unlock(turn->mutex);
}

static void fair(void *arg) weir_co_fn;
static void fair(void *arg)
{
    struct weir_co_mutex mutex;
    struct turn turns[20];
    unsigned next = 0;

    weir_co_mutex_init(&mutex);
    weir_co_mutex_lock(&mutex);
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(turns); i++) {
        turns[i] = (struct turn){ &mutex, i, &next };
        weir_co_run(take_turn, &turns[i]);
    }
    WEIR_ASSERT(next == 0);
    weir_co_mutex_unlock(&mutex);
    /* Whoever comes now stands behind all others, though the owner has not run yet. */
    weir_co_mutex_lock(&mutex);
    WEIR_ASSERT(next == WEIR_ARRAY_SIZE(turns));
    weir_co_mutex_unlock(&mutex);
    weir_co_mutex_done(&mutex);
}

static void mutex_is_fair(void **state)
{
    run_world(fair, NULL);
}

/* ---- exclusion between loops ---- */

#define LOOPS 3
#define EACH 5
#define ROUNDS 400

struct shared {
    struct weir_co_mutex mutex;
    unsigned inside, total; /* guarded by the mutex; plain, so that TSan sees a hole in it */
};

static void contend(void *arg) weir_co_fn;
static void contend(void *arg)
{
    struct shared *shared = arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        weir_co_mutex_lock(&shared->mutex);
        WEIR_ASSERT(shared->inside++ == 0);
        if (i % 4 == 0)
            weir_co_pause();
        shared->total++;
        WEIR_ASSERT(--shared->inside == 0);
        weir_co_mutex_unlock(&shared->mutex);
        weir_co_wake(weir_co_self()); /* stray wakes must not let anybody in */
    }
}

static void exclude(void *arg) weir_co_fn;
static void exclude(void *arg)
{
    struct shared shared = { 0 };
    struct weir_loop *loops[LOOPS];

    weir_co_mutex_init(&shared.mutex);
    for (unsigned i = 0; i < LOOPS; i++) {
        loops[i] = new_loop("contend");
        for (unsigned j = 0; j < EACH; j++)
            weir_co_start(loops[i], contend, &shared);
    }
    contend(&shared);
    for (unsigned i = 0; i < LOOPS; i++)
        weir_loop_free(loops[i]);
    WEIR_ASSERT(shared.total == (LOOPS * EACH + 1) * ROUNDS);
    weir_co_mutex_done(&shared.mutex);
}

static void mutex_excludes_other_loops(void **state)
{
    run_world(exclude, NULL);
}

/* ---- queue ---- */

struct queueing {
    struct weir_co_queue *queue;
    struct weir_mutex *mutex;
    int64_t deadline_ns;
    unsigned number;
    unsigned *order; /* next place to leave */
    unsigned place;  /* 0: still waiting */
    int result;
    struct weir_co *self;
};

static void queueing(void *arg) weir_co_fn;
static void queueing(void *arg)
{
    struct queueing *self = arg;

    self->self = weir_co_self();
    WEIR_SCOPE_LOCK(self->mutex);
    self->result = weir_co_queue_wait_until(self->queue, self->mutex, self->deadline_ns);
    WEIR_ASSERT(weir_mutex_held() == 1);
    self->place = ++*self->order;
}

static void wake_queue(struct weir_co_queue *queue, struct weir_mutex *mutex, bool all)
{
    WEIR_SCOPE_LOCK(mutex);
    if (all)
        weir_co_queue_wake_all(queue);
    else
        WEIR_ASSERT(weir_co_queue_wake_one(queue));
}

static void queue_order(void *arg) weir_co_fn;
static void queue_order(void *arg)
{
    struct weir_co_queue queue;
    struct weir_mutex mutex;
    struct queueing waiting[6];
    unsigned order = 0;
    int64_t soon = weir_sys->clock_ns() + 3000000;

    weir_mutex_init(&mutex);
    weir_co_queue_init(&queue);
    for (unsigned i = 0; i < 6; i++) {
        waiting[i] = (struct queueing){ &queue, &mutex, i == 2 ? soon : -1, i, &order, 0, 1, NULL };
        weir_co_run(queueing, &waiting[i]);
    }
    /* Stray wakes let nobody out. */
    for (unsigned i = 0; i < 6; i++)
        weir_co_wake(waiting[i].self);
    weir_co_pause();
    WEIR_ASSERT(order == 0);
    wake_queue(&queue, &mutex, false);
    wake_queue(&queue, &mutex, false);
    weir_co_pause();
    WEIR_ASSERT(order == 2 && waiting[0].place == 1 && waiting[1].place == 2);
    /* The third gives up; the others do not notice. */
    while (!waiting[2].place)
        weir_co_sleep(500000);
    WEIR_ASSERT(waiting[2].result == -ETIMEDOUT && weir_sys->clock_ns() >= soon);
    WEIR_ASSERT(order == 3 && !weir_co_queue_empty(&queue));
    wake_queue(&queue, &mutex, true);
    WEIR_ASSERT(weir_co_queue_empty(&queue));
    weir_co_pause();
    for (unsigned i = 3; i < 6; i++)
        WEIR_ASSERT(waiting[i].place == i + 1 && waiting[i].result == 0);
    WEIR_ASSERT(!weir_co_queue_wake_one(&queue));
    weir_mutex_done(&mutex);
}

static void queue_is_first_in_first_out(void **state)
{
    run_world(queue_order, NULL);
}

/* A waiter that was woken and whose limit has passed too was woken: the wake is not lost for the next in line. */
static void pause_once(void *arg) weir_co_fn;
static void pause_once(void *arg)
{
    weir_co_pause();
}

static void woken_and_late(void *arg) weir_co_fn;
static void woken_and_late(void *arg)
{
    struct weir_co_queue queue;
    struct weir_mutex mutex;
    unsigned order = 0;
    struct queueing waiting = { &queue, &mutex, weir_sys->clock_ns() + 1000, 0, &order, 0, 1, NULL };

    weir_mutex_init(&mutex);
    weir_co_queue_init(&queue);
    weir_co_run(queueing, &waiting);
    /* More than fits into a turn stands before the waiter: its timer comes first. */
    for (unsigned i = 0; i < 2 * WEIR_LOOP_TURN_MAX; i++)
        weir_co_start(weir_loop_self(), pause_once, NULL);
    while (weir_sys->clock_ns() <= waiting.deadline_ns)
        continue;
    wake_queue(&queue, &mutex, false);
    while (weir_co_alive() > 1)
        weir_co_pause();
    WEIR_ASSERT(waiting.place == 1 && waiting.result == 0);
    weir_mutex_done(&mutex);
}

static void wake_beats_limit(void **state)
{
    run_world(woken_and_late, NULL);
}

/* ---- producer and consumer over loops: each wake_one lets exactly one through ---- */

#define ITEMS 5000

struct pipe {
    struct weir_mutex mutex;
    struct weir_co_queue queue;
    unsigned items, taken, consumers;
    bool ended;
};

static void consume(void *arg) weir_co_fn;
static void consume(void *arg)
{
    struct pipe *pipe = arg;
    int64_t limit_ns = 20000;
    WEIR_SCOPE_LOCK(&pipe->mutex);

    for (;;) {
        if (pipe->items > 0) {
            pipe->items--;
            pipe->taken++;
        } else if (pipe->ended) {
            break;
        } else {
            (void)weir_co_queue_wait_until(&pipe->queue, &pipe->mutex, weir_sys->clock_ns() + limit_ns);
            limit_ns += 1000;
        }
    }
    pipe->consumers--;
}

static void produce(void *arg) weir_co_fn;
static void produce(void *arg)
{
    struct pipe pipe = { .consumers = 2 * LOOPS };
    struct weir_loop *loops[LOOPS];

    weir_mutex_init(&pipe.mutex);
    weir_co_queue_init(&pipe.queue);
    for (unsigned i = 0; i < LOOPS; i++) {
        loops[i] = new_loop("consume");
        weir_co_start(loops[i], consume, &pipe);
        weir_co_start(loops[i], consume, &pipe);
    }
    for (unsigned i = 0; i < ITEMS; i++) {
        weir_mutex_lock(&pipe.mutex);
        pipe.items++;
        (void)weir_co_queue_wake_one(&pipe.queue);
        weir_mutex_unlock(&pipe.mutex);
    }
    weir_mutex_lock(&pipe.mutex);
    pipe.ended = true;
    weir_co_queue_wake_all(&pipe.queue);
    weir_mutex_unlock(&pipe.mutex);
    for (unsigned i = 0; i < LOOPS; i++)
        weir_loop_free(loops[i]);
    WEIR_ASSERT(pipe.taken == ITEMS && pipe.consumers == 0);
    weir_mutex_done(&pipe.mutex);
}

static void queue_works_between_loops(void **state)
{
    run_world(produce, NULL);
}

/* ---- group ---- */

struct member {
    unsigned *running, *most, *total;
    unsigned pauses;
};

static void member(void *arg) weir_co_fn;
static void member(void *arg)
{
    struct member *self = arg;

    ++*self->running;
    *self->most = WEIR_MAX(*self->most, *self->running);
    for (unsigned i = 0; i < self->pauses; i++)
        weir_co_pause();
    --*self->running;
    ++*self->total;
}

static void group_limit(void *arg) weir_co_fn;
static void group_limit(void *arg)
{
    struct member members[50];
    unsigned running = 0, most = 0, total = 0;
    struct weir_co_group group;

    weir_co_group_init(&group);
    weir_co_group_wait(&group, 0); /* nobody there */
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(members); i++) {
        members[i] = (struct member){ &running, &most, &total, i * 7 % 11 };
        weir_co_group_wait(&group, 7);
        weir_co_group_start(&group, member, &members[i]);
    }
    weir_co_group_wait(&group, 0);
    WEIR_ASSERT(running == 0 && most == 8 && total == WEIR_ARRAY_SIZE(members));
    weir_co_group_done(&group);
}

static void group_has_a_limit(void **state)
{
    run_world(group_limit, NULL);
}

static void wander(void *arg) weir_co_fn;
static void wander(void *arg)
{
    weir_co_move(arg);
    weir_co_pause();
}

/* Members that end on other loops; the group lives on this stack and is gone at once afterwards. */
static void group_over_loops(void *arg) weir_co_fn;
static void group_over_loops(void *arg)
{
    struct weir_loop *loops[2] = { new_loop("one"), new_loop("two") };

    for (unsigned i = 0; i < 300; i++) {
        struct weir_co_group group;

        weir_co_group_init(&group);
        for (unsigned j = 0; j < 4; j++)
            weir_co_group_start(&group, wander, loops[j % 2]);
        weir_co_group_wait(&group, 0);
        weir_co_group_done(&group);
    }
    weir_loop_free(loops[0]);
    weir_loop_free(loops[1]);
}

static void group_members_may_move(void **state)
{
    run_world(group_over_loops, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutex_is_fair),
        cmocka_unit_test(mutex_excludes_other_loops),
        cmocka_unit_test(queue_is_first_in_first_out),
        cmocka_unit_test(wake_beats_limit),
        cmocka_unit_test(queue_works_between_loops),
        cmocka_unit_test(group_has_a_limit),
        cmocka_unit_test(group_members_may_move),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

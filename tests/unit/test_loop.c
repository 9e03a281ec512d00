/* SPDX-License-Identifier: BSD-2-Clause */
/* Loops: timers, calls from all threads, life and end. */
#include "co/internal.h"
#include "world.h"
#include "unit.h"
#include "base/alloc.h"
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- timers ---- */

#define TIMERS 500

struct ticking {
    struct weir_timer timer;
    struct ticks *ticks;
    int64_t want; /* -1: must not run */
    bool ran;
};

struct ticks {
    struct ticking timers[TIMERS];
    int64_t last;
    unsigned ran, expected;
    struct weir_co *waiter;
    uint64_t random;
};

static uint64_t draw(struct ticks *ticks, uint64_t n)
{
    ticks->random ^= ticks->random << 13;
    ticks->random ^= ticks->random >> 7;
    ticks->random ^= ticks->random << 17;
    return ticks->random % n;
}

static void tick(struct weir_timer *timer)
{
    struct ticking *ticking = weir_container_of(timer, struct ticking, timer);
    struct ticks *ticks = ticking->ticks;

    WEIR_ASSERT(!timer->loop && !ticking->ran && ticking->want == timer->deadline_ns);
    WEIR_ASSERT(timer->deadline_ns >= ticks->last);
    WEIR_ASSERT(weir_loop_now(weir_loop_self()) >= timer->deadline_ns);
    ticks->last = timer->deadline_ns;
    ticking->ran = true;
    if (++ticks->ran == ticks->expected)
        weir_co_wake(ticks->waiter);
}

static void timers(void *arg) weir_co_fn;
static void timers(void *arg)
{
    struct ticks *ticks = weir_new(struct ticks);
    int64_t base = weir_sys->clock_ns() + 2000000;

    ticks->waiter = weir_co_self();
    ticks->random = 42;
    for (unsigned i = 0; i < TIMERS; i++) {
        ticks->timers[i] = (struct ticking){ .timer.run = tick, .ticks = ticks, .want = -1 };
        weir_timer_cancel(&ticks->timers[i].timer); /* not armed: nothing */
    }
    /* Arms, arms again and cancels; many deadlines are equal. */
    for (unsigned i = 0; i < 10 * TIMERS; i++) {
        struct ticking *ticking = &ticks->timers[draw(ticks, TIMERS)];

        if (draw(ticks, 3)) {
            ticking->want = base + (int64_t)draw(ticks, 300) * 10000;
            weir_timer_arm(&ticking->timer, ticking->want);
            WEIR_ASSERT(ticking->timer.loop == weir_loop_self());
        } else {
            ticking->want = -1;
            weir_timer_cancel(&ticking->timer);
            WEIR_ASSERT(!ticking->timer.loop);
        }
    }
    for (unsigned i = 0; i < TIMERS; i++)
        ticks->expected += ticks->timers[i].want >= 0;
    while (ticks->ran < ticks->expected)
        weir_co_yield();
    for (unsigned i = 0; i < TIMERS; i++)
        WEIR_ASSERT(ticks->timers[i].ran == (ticks->timers[i].want >= 0));
    free(ticks);
}

static void timers_run_in_order(void **state)
{
    run_world(timers, NULL);
}

struct again {
    struct weir_timer timer, other;
    unsigned runs;
    bool other_ran;
};

static void run_again(struct weir_timer *timer)
{
    struct again *again = weir_container_of(timer, struct again, timer);

    again->runs++;
    weir_timer_cancel(&again->other);
    weir_timer_arm(timer, 0); /* long past */
}

static void run_other(struct weir_timer *timer)
{
    weir_container_of(timer, struct again, other)->other_ran = true;
}

static void arm_in_the_past(void *arg) weir_co_fn;
static void arm_in_the_past(void *arg)
{
    struct again again = { .timer.run = run_again, .other.run = run_other };

    weir_timer_arm(&again.timer, 1);
    weir_timer_arm(&again.other, 2);
    /* A timer that is always due neither keeps coroutines from running nor is forgotten. */
    while (again.runs < 10)
        weir_co_pause();
    weir_timer_cancel(&again.timer);
    weir_co_pause();
    WEIR_ASSERT(again.runs >= 10 && !again.other_ran);
}

static void due_timers_starve_nobody(void **state)
{
    run_world(arm_in_the_past, NULL);
}

/* ---- calls ---- */

#define CALLERS 4
#define CALLS 3000

struct counted_call {
    struct weir_call call;
    struct calls *calls;
    unsigned caller, number;
};

struct calls {
    struct counted_call call[CALLERS][CALLS];
    unsigned seen[CALLERS];
    unsigned callers_left;
    struct weir_loop *loop;
    struct weir_co *waiter;
};

static void run_call(struct weir_call *call)
{
    struct counted_call *counted = weir_container_of(call, struct counted_call, call);
    struct calls *calls = counted->calls;

    WEIR_ASSERT(weir_loop_self() == calls->loop && !weir_co_self());
    WEIR_ASSERT(calls->seen[counted->caller] == counted->number);
    if (++calls->seen[counted->caller] == CALLS && --calls->callers_left == 0)
        weir_co_wake(calls->waiter);
}

static void *call_many(void *arg)
{
    struct counted_call *call = arg;

    for (unsigned i = 0; i < CALLS; i++)
        weir_loop_call(call[i].calls->loop, &call[i].call);
    return NULL;
}

static void calls_from_threads(void *arg) weir_co_fn;
static void calls_from_threads(void *arg)
{
    struct calls *calls = weir_new(struct calls);
    pthread_t threads[CALLERS];

    calls->loop = weir_loop_self();
    calls->waiter = weir_co_self();
    calls->callers_left = CALLERS;
    for (unsigned i = 0; i < CALLERS; i++)
        for (unsigned j = 0; j < CALLS; j++)
            calls->call[i][j] = (struct counted_call){ { .run = run_call }, calls, i, j };
    /* The last caller is the loop itself. */
    for (unsigned i = 0; i + 1 < CALLERS; i++)
        WEIR_ASSERT(pthread_create(&threads[i], NULL, call_many, calls->call[i]) == 0);
    (void)call_many(calls->call[CALLERS - 1]);
    while (calls->callers_left > 0)
        weir_co_yield();
    for (unsigned i = 0; i + 1 < CALLERS; i++)
        WEIR_ASSERT(pthread_join(threads[i], NULL) == 0);
    free(calls);
}

static void runs_each_call_once_in_order(void **state)
{
    run_world(calls_from_threads, NULL);
}

/* ---- completions are not starved by ready coroutines ---- */

struct busy {
    bool stop;
    unsigned turns;
};

static void busy(void *arg) weir_co_fn;
static void busy(void *arg)
{
    struct busy *self = arg;

    while (!self->stop) {
        self->turns++;
        weir_co_pause();
    }
}

static void completions(void *arg) weir_co_fn;
static void completions(void *arg)
{
    struct busy state = { 0 };
    char byte = 1;
    struct iovec iov = { &byte, 1 };
    struct weir_sys_io io = { .op = WEIR_SYS_RECV, .iov = &iov, .iovcnt = 1 };
    int fds[2], result;

    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    for (unsigned i = 0; i < 3 * WEIR_LOOP_TURN_MAX; i++)
        weir_co_run(busy, &state);
    WEIR_ASSERT(write(fds[1], &byte, 1) == 1);
    io.fd = fds[0];
    result = weir_co_io(&io);
    WEIR_ASSERT(result == 1);
    weir_co_sleep(1000);
    state.stop = true;
    while (weir_co_alive() > 1)
        weir_co_pause();
    WEIR_ASSERT(close(fds[0]) == 0 && close(fds[1]) == 0);
}

static void busy_coroutines_starve_nobody(void **state)
{
    run_world(completions, NULL);
}

/* ---- life of a loop ---- */

struct lasting {
    struct weir_loop *loop;
    struct weir_sys_io io;
    char byte;
    struct iovec iov;
    struct weir_timer timer;
    bool received, timer_ran, slept;
    int fds[2];
};

static void last_received(struct weir_sys_io *io, int result)
{
    struct lasting *lasting = weir_container_of(io, struct lasting, io);

    WEIR_ASSERT(result == 1 && weir_loop_self() == lasting->loop);
    WEIR_ASSERT(lasting->timer_ran && lasting->slept);
    lasting->received = true;
}

static void last_timer(struct weir_timer *timer)
{
    struct lasting *lasting = weir_container_of(timer, struct lasting, timer);

    lasting->timer_ran = true;
    WEIR_ASSERT(write(lasting->fds[1], "x", 1) == 1);
}

/* Leaves a timer and an operation behind, which the loop has to wait for. */
static void last_coroutine(void *arg) weir_co_fn;
static void last_coroutine(void *arg)
{
    struct lasting *lasting = arg;

    weir_co_sleep(1000000);
    lasting->slept = true;
    lasting->iov = (struct iovec){ &lasting->byte, 1 };
    lasting->io = (struct weir_sys_io){
        .op = WEIR_SYS_RECV, .fd = lasting->fds[0], .iov = &lasting->iov, .iovcnt = 1, .done = last_received
    };
    weir_loop_submit(&lasting->io);
    lasting->timer.run = last_timer;
    weir_timer_arm(&lasting->timer, weir_sys->clock_ns() + 1000000);
}

static void end_of_loop(void *arg) weir_co_fn;
static void end_of_loop(void *arg)
{
    struct lasting lasting = { .loop = new_loop("lasting-with-a-name-that-is-rather-long") };

    WEIR_ASSERT(strcmp(weir_loop_name(lasting.loop), "lasting-with-a-name-that-is-rather-long") == 0);
    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, lasting.fds) == 0);
    weir_co_start(lasting.loop, last_coroutine, &lasting);
    weir_loop_free(lasting.loop);
    WEIR_ASSERT(lasting.received);
    WEIR_ASSERT(close(lasting.fds[0]) == 0 && close(lasting.fds[1]) == 0);
}

static void loop_ends_when_nothing_is_left(void **state)
{
    run_world(end_of_loop, NULL);
}

/* A timer alone keeps a loop alive. */
struct lone_timer {
    struct weir_timer timer;
    bool ran;
};

static void run_lone(struct weir_timer *timer)
{
    weir_container_of(timer, struct lone_timer, timer)->ran = true;
}

static void arm_lone(void *arg) weir_co_fn;
static void arm_lone(void *arg)
{
    struct lone_timer *lone = arg;

    lone->timer.run = run_lone;
    weir_timer_arm(&lone->timer, weir_sys->clock_ns() + 2000000);
}

static void free_with_timer(void *arg) weir_co_fn;
static void free_with_timer(void *arg)
{
    struct lone_timer lone = { 0 };
    struct weir_loop *loop = new_loop("timer");

    weir_co_start(loop, arm_lone, &lone);
    weir_loop_free(loop);
    WEIR_ASSERT(lone.ran);
}

static void loop_waits_for_its_timers(void **state)
{
    run_world(free_with_timer, NULL);
}

/* A call that another thread queues while the loop's last coroutine runs is still taken. */
struct last_call {
    struct weir_call call;
    struct weir_loop *loop;
    sem_t go, queued;
    bool ran;
};

static void run_last_call(struct weir_call *call)
{
    weir_container_of(call, struct last_call, call)->ran = true;
}

static void *queue_last_call(void *arg)
{
    struct last_call *last = arg;

    while (sem_wait(&last->go) < 0)
        continue;
    weir_loop_call(last->loop, &last->call);
    (void)sem_post(&last->queued);
    return NULL;
}

/* Blocks its loop on purpose, so that the call cannot be taken before the coroutine has ended. */
static void end_with_call(void *arg) weir_co_fn;
static void end_with_call(void *arg)
{
    struct last_call *last = arg;

    while (!last->loop->stop)
        weir_co_pause();
    (void)sem_post(&last->go);
    while (sem_wait(&last->queued) < 0)
        continue;
}

static void free_with_call(void *arg) weir_co_fn;
static void free_with_call(void *arg)
{
    struct last_call last = { .call.run = run_last_call, .loop = new_loop("call") };
    pthread_t thread;

    WEIR_ASSERT(sem_init(&last.go, 0, 0) == 0 && sem_init(&last.queued, 0, 0) == 0);
    WEIR_ASSERT(pthread_create(&thread, NULL, queue_last_call, &last) == 0);
    weir_co_start(last.loop, end_with_call, &last);
    weir_loop_free(last.loop);
    WEIR_ASSERT(last.ran && pthread_join(thread, NULL) == 0);
    WEIR_ASSERT(sem_destroy(&last.go) == 0 && sem_destroy(&last.queued) == 0);
}

static void loop_takes_the_last_call(void **state)
{
    run_world(free_with_call, NULL);
}

/* ---- an operation may be submitted again from its own done() ---- */

#define REPEATS 5

struct repeating {
    struct weir_sys_io io;
    struct iovec iov;
    char byte;
    unsigned runs;
    struct weir_co *waiter;
};

static void repeat(struct weir_sys_io *io, int result)
{
    struct repeating *repeating = weir_container_of(io, struct repeating, io);

    WEIR_ASSERT(result == 1 && io->done == repeat);
    if (++repeating->runs < REPEATS)
        weir_loop_submit(io);
    else
        weir_co_wake(repeating->waiter);
}

static void submit_again(void *arg) weir_co_fn;
static void submit_again(void *arg)
{
    struct repeating repeating = { .waiter = weir_co_self() };
    int fds[2];

    WEIR_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    WEIR_ASSERT(write(fds[1], "abcde", REPEATS) == REPEATS);
    repeating.iov = (struct iovec){ &repeating.byte, 1 };
    repeating.io = (struct weir_sys_io){
        .op = WEIR_SYS_RECV, .fd = fds[0], .iov = &repeating.iov, .iovcnt = 1, .done = repeat
    };
    weir_loop_submit(&repeating.io);
    while (repeating.runs < REPEATS)
        weir_co_yield();
    WEIR_ASSERT(repeating.byte == 'e' && weir_loop_self()->in_flight == 0);
    WEIR_ASSERT(close(fds[0]) == 0 && close(fds[1]) == 0);
}

static void operations_may_be_submitted_again(void **state)
{
    run_world(submit_again, NULL);
}

static void all_loops(void *arg) weir_co_fn;
static void all_loops(void *arg)
{
    struct weir_loop *loops[WEIR_LOOPS_MAX] = { weir_loop_control() };
    struct weir_loop *none = NULL;
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    WEIR_ASSERT(weir_loop_index(loops[0]) == 0 && weir_loop_self() == loops[0]);
    for (unsigned i = 1; i < WEIR_LOOPS_MAX; i++) {
        loops[i] = new_loop("many");
        WEIR_ASSERT(weir_loop_index(loops[i]) == i);
    }
    ret = weir_loop_new("one-too-many", &none, &err);
    WEIR_ASSERT(ret == -EMFILE && err && !none);
    weir_loop_free(loops[5]);
    loops[5] = new_loop("again");
    WEIR_ASSERT(weir_loop_index(loops[5]) == 5);
    /* Stopped before it is freed, and again when its thread has ended: as good. */
    weir_loop_stop(loops[7]);
    while (!loops[7]->ended)
        weir_co_pause();
    weir_loop_stop(loops[7]);
    for (unsigned i = 1; i < WEIR_LOOPS_MAX; i++)
        weir_loop_free(loops[i]);
}

static void loops_have_a_limit(void **state)
{
    run_world(all_loops, NULL);
}

/* ---- the control loop may be left and entered again, and stopped by any thread ---- */

static void *stop_control(void *arg)
{
    weir_loop_stop(arg);
    return NULL;
}

static void control_stops_and_runs_again(void **state)
{
    assert_int_equal(weir_runtime_init(NULL), 0);
    for (unsigned i = 0; i < 50; i++) {
        pthread_t thread;

        assert_int_equal(pthread_create(&thread, NULL, stop_control, weir_loop_control()), 0);
        weir_runtime_run();
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    weir_runtime_done();
    assert_null(weir_loop_control());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_run_in_order),
        cmocka_unit_test(due_timers_starve_nobody),
        cmocka_unit_test(runs_each_call_once_in_order),
        cmocka_unit_test(busy_coroutines_starve_nobody),
        cmocka_unit_test(loop_ends_when_nothing_is_left),
        cmocka_unit_test(loop_waits_for_its_timers),
        cmocka_unit_test(loop_takes_the_last_call),
        cmocka_unit_test(operations_may_be_submitted_again),
        cmocka_unit_test(loops_have_a_limit),
        cmocka_unit_test(control_stops_and_runs_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Coroutines: a stack, a context and a main function that runs one job after the other, so that a pooled one
 * costs nothing but the switch.
 *
 * Waiting and waking. weir_co_yield() turns RUNNING into WAITING and leaves; weir_co_wake() puts NOTIFIED in place
 * of whatever it finds and queues the coroutine on its loop if that was WAITING: once, however many wake it. A
 * coroutine is entered by the thread of its loop only, and that thread is still busy leaving it when a wake comes
 * early: so it need not be parked before it says WAITING. Every wake is a read-modify-write, also one that comes
 * too late to matter: what its caller wrote before must be seen by the coroutine that the earlier one let go on.
 *
 * Moving. The coroutine leaves first; whoever entered it then queues it on the other loop. Nobody else knows where
 * it is meanwhile, and a wake finds it RUNNING.
 */
#include "co/internal.h"
#include "base/alloc.h"

/* One cache line each: written by the loop of that index only, read by all. */
static struct {
    _Alignas(64) _Atomic unsigned count;
} alive[WEIR_LOOPS_MAX];
/* On their way to another loop: counted nowhere else. */
static _Atomic unsigned in_transit;

static void co_enter(struct weir_co *co);

static void count_add(const struct weir_loop *loop, int change)
{
    _Atomic unsigned *count = &alive[loop->index].count;

    atomic_store_explicit(count, atomic_load_explicit(count, memory_order_relaxed) + (unsigned)change,
                          memory_order_relaxed);
}

unsigned weir_co_count(const struct weir_loop *loop)
{
    return atomic_load_explicit(&alive[loop->index].count, memory_order_relaxed);
}

unsigned weir_co_alive(void)
{
    unsigned sum = atomic_load(&in_transit);

    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++)
        sum += atomic_load_explicit(&alive[i].count, memory_order_relaxed);
    return sum;
}

/* ---- making and keeping ---- */

static void co_main(void *arg)
{
    struct weir_co *co = arg;

    while (!co->last) {
        co->run(co->arg);
        co->left = WEIR_CO_LEFT_ENDED;
        weir_context_switch(&co->context, co->back);
    }
    weir_context_exit(&co->context, co->back);
}

static void resume(struct weir_call *call)
{
    co_enter(weir_container_of(call, struct weir_co, call));
}

static struct weir_co *co_new(struct weir_loop *loop)
{
    struct weir_co *co = weir_new(struct weir_co);
    struct weir_stack stack;

    co->call.run = resume;
    weir_stack_new(&co->stack, WEIR_STACK_SIZE);
    /* Begins at one of 16 places, or the tops of all stacks would meet in the same few sets of the cache. */
    stack = co->stack;
    stack.size -= loop->stacks_made++ % 16 * 256;
    weir_context_init_stack(&co->context, &stack, co_main, co);
    return co;
}

/* Lets the main function end, which gives the sanitizers' share of the stack back too. */
static void co_delete(struct weir_loop *loop, struct weir_co *co)
{
    struct weir_co *caller = weir_co_self();

    co->last = true;
    co->back = caller ? &caller->context : &loop->context;
    weir_context_switch(co->back, &co->context);
    weir_context_done(&co->context);
    weir_stack_free(&co->stack);
    free(co);
}

static struct weir_co *co_take(struct weir_loop *loop, void (*run)(void *arg) weir_co_fn, void *arg)
{
    struct weir_co *co = SLIST_FIRST(&loop->pool);

    if (co) {
        SLIST_REMOVE_HEAD(&loop->pool, pool_link);
        loop->pooled--;
    } else {
        co = co_new(loop);
    }
    atomic_store_explicit(&co->state, WEIR_CO_RUNNING, memory_order_relaxed);
    co->loop = loop;
    co->run = run;
    co->arg = arg;
    count_add(loop, 1);
    return co;
}

static void co_give_back(struct weir_loop *loop, struct weir_co *co)
{
    count_add(loop, -1);
    if (loop->pooled >= WEIR_CO_POOL_MAX) {
        co_delete(loop, co);
        return;
    }
    SLIST_INSERT_HEAD(&loop->pool, co, pool_link);
    loop->pooled++;
}

void weir_co_pool_drain(struct weir_loop *loop)
{
    struct weir_co *co;

    while ((co = SLIST_FIRST(&loop->pool))) {
        SLIST_REMOVE_HEAD(&loop->pool, pool_link);
        loop->pooled--;
        co_delete(loop, co);
    }
}

/* ---- running ---- */

static void arrive(struct weir_call *call)
{
    struct weir_co *co = weir_container_of(call, struct weir_co, call);

    co->call.run = resume;
    count_add(co->loop, 1);
    atomic_fetch_sub(&in_transit, 1);
    co_enter(co);
}

static void depart(struct weir_loop *from, struct weir_co *co)
{
    atomic_fetch_add(&in_transit, 1);
    count_add(from, -1);
    co->call.run = arrive;
    weir_loop_call(co->loop, &co->call);
}

/* Runs @co until it leaves the processor. The caller may be a coroutine itself. */
static void co_enter(struct weir_co *co)
{
    struct weir_locals *locals = weir_locals();
    struct weir_loop *loop = locals->loop;
    struct weir_co *caller = locals->co;

    co->back = caller ? &caller->context : &loop->context;
    locals->co = co;
    weir_context_switch(co->back, &co->context);
    weir_locals()->co = caller;

    switch (co->left) {
    case WEIR_CO_LEFT_WAITING:
        break;
    case WEIR_CO_LEFT_PAUSED:
        STAILQ_INSERT_TAIL(&loop->ready, &co->call, link);
        break;
    case WEIR_CO_LEFT_MOVING:
        depart(loop, co);
        break;
    case WEIR_CO_LEFT_ENDED:
        co_give_back(loop, co);
        break;
    }
}

/* A start that another loop has yet to see. */
struct remote_start {
    struct weir_call call;
    void (*run)(void *arg) weir_co_fn;
    void *arg;
};

static void start_here(struct weir_call *call)
{
    struct remote_start *start = weir_container_of(call, struct remote_start, call);
    struct weir_co *co = co_take(weir_loop_self(), start->run, start->arg);

    atomic_fetch_sub(&in_transit, 1);
    free(start);
    co_enter(co);
}

void weir_co_start(struct weir_loop *loop, void (*run)(void *arg) weir_co_fn, void *arg)
{
    struct remote_start *start;

    if (loop == weir_loop_self()) {
        struct weir_co *co = co_take(loop, run, arg);

        STAILQ_INSERT_TAIL(&loop->ready, &co->call, link);
        return;
    }
    start = weir_new(struct remote_start);
    start->call.run = start_here;
    start->run = run;
    start->arg = arg;
    atomic_fetch_add(&in_transit, 1);
    weir_loop_call(loop, &start->call);
}

void weir_co_run(void (*run)(void *arg) weir_co_fn, void *arg)
{
    struct weir_loop *loop = weir_loop_self();

    WEIR_ASSERT(loop && weir_mutex_held() == 0);
    co_enter(co_take(loop, run, arg));
}

struct weir_co *weir_co_self(void)
{
    return weir_locals()->co;
}

void weir_co_assert(void)
{
    const struct weir_locals *locals = weir_locals();

    WEIR_ASSERT(locals->co && locals->mutexes_held == 0);
}

/* ---- leaving and coming back ---- */

static void leave(struct weir_co *co, enum weir_co_left left)
{
    co->left = left;
    weir_context_switch(&co->context, co->back);
}

void weir_co_yield(void)
{
    struct weir_co *co;
    unsigned state = WEIR_CO_RUNNING;

    weir_co_assert();
    co = weir_co_self();
    if (atomic_compare_exchange_strong_explicit(&co->state, &state, WEIR_CO_WAITING, memory_order_acq_rel,
                                                memory_order_relaxed))
        leave(co, WEIR_CO_LEFT_WAITING);
    /* Takes the token: NOTIFIED in both cases, from whoever woke us first or has woken us since. */
    state = atomic_exchange_explicit(&co->state, WEIR_CO_RUNNING, memory_order_acq_rel);
    WEIR_ASSERT(state == WEIR_CO_NOTIFIED);
}

void weir_co_wake(struct weir_co *co)
{
    unsigned state = atomic_exchange_explicit(&co->state, WEIR_CO_NOTIFIED, memory_order_acq_rel);

    if (state == WEIR_CO_WAITING)
        weir_loop_call(co->loop, &co->call);
}

void weir_co_pause(void)
{
    weir_co_assert();
    leave(weir_co_self(), WEIR_CO_LEFT_PAUSED);
}

void weir_co_move(struct weir_loop *loop)
{
    struct weir_co *co;

    weir_co_assert();
    co = weir_co_self();
    if (co->loop == loop)
        return;
    co->loop = loop;
    leave(co, WEIR_CO_LEFT_MOVING);
}

struct sleeper {
    struct weir_timer timer;
    struct weir_co *co;
    bool over;
};

static void sleep_over(struct weir_timer *timer)
{
    struct sleeper *sleeper = weir_container_of(timer, struct sleeper, timer);

    sleeper->over = true;
    weir_co_wake(sleeper->co);
}

void weir_co_sleep_until(int64_t deadline_ns)
{
    struct sleeper sleeper = { .timer.run = sleep_over };

    weir_co_assert();
    sleeper.co = weir_co_self();
    weir_timer_arm(&sleeper.timer, deadline_ns);
    while (!sleeper.over)
        weir_co_yield();
}

void weir_co_sleep(int64_t duration_ns)
{
    weir_co_sleep_until(weir_sys->clock_ns() + duration_ns);
}

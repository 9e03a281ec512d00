/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Simulated threads and who of them runs.
 *
 * A thread that waits looks for the next one itself and switches to it without a detour; the test's own context
 * gets control back only when the run is over. A thread may be left from inside a coroutine: its context then
 * points to that coroutine's stack. The stack of a thread that has ended is given back by whoever runs next.
 *
 * Time moves only here: in choose(), when nobody can run, and in slow_step(), where a preempted thread is slow.
 */
#include "sys/sim/world.h"
#include <string.h>

/* As many polls that find nothing must follow each other before time moves although threads could run. */
#define IDLE_POLLS_MAX 32

/* Stacks are kept for the next thread, over all worlds of the process. */
static WEIR_SIM_KEPT struct weir_stack stacks[64];
static WEIR_SIM_KEPT unsigned stack_count;

static void stack_take(struct weir_stack *ret_stack)
{
    if (stack_count)
        *ret_stack = stacks[--stack_count];
    else
        weir_stack_new(ret_stack, WEIR_STACK_SIZE);
}

static void stack_give(struct weir_stack *stack)
{
    if (stack_count < WEIR_ARRAY_SIZE(stacks))
        stacks[stack_count++] = *stack;
    else
        weir_stack_free(stack);
}

/* ---- who can run ---- */

static void runnable_add(struct sim_thread *thread)
{
    struct sim_world *world = sim_world;

    if (world->runnable_count == world->runnable_room) {
        world->runnable_room = 2 * world->runnable_room + 16;
        world->runnable = weir_realloc(world->runnable, world->runnable_room * sizeof(world->runnable[0]));
    }
    thread->place = world->runnable_count;
    world->runnable[world->runnable_count++] = thread;
    thread->state = SIM_RUNNABLE;
}

static void runnable_remove(struct sim_thread *thread, enum sim_thread_state state)
{
    struct sim_world *world = sim_world;
    struct sim_thread *last = world->runnable[--world->runnable_count];

    WEIR_ASSERT(thread->state == SIM_RUNNABLE);
    world->runnable[thread->place] = last;
    last->place = thread->place;
    thread->state = state;
}

void sim_wake(struct sim_thread *thread)
{
    if (thread->state != SIM_BLOCKED)
        return;
    sim_event_cancel(&thread->timer);
    runnable_add(thread);
}

static struct sim_thread *end_run(enum weir_sim_outcome outcome)
{
    sim_world->outcome = outcome;
    return NULL;
}

/* The thread to run next; NULL: the run is over. */
static struct sim_thread *choose(void)
{
    struct sim_world *world = sim_world;

    for (;;) {
        struct sim_event *event;

        if (world->stop)
            return end_run(WEIR_SIM_STOPPED);
        if (++world->stats.steps > world->step_limit || world->stats.events >= world->event_limit)
            return end_run(WEIR_SIM_TIMEOUT);
        if (world->runnable_count) {
            uint64_t pick = world->runnable_count > 1 ? sim_below(SIM_SCHEDULE, world->runnable_count) : 0;

            return world->runnable[pick];
        }
        event = sim_event_first();
        if (!event)
            return end_run(weir_sim_threads() ? WEIR_SIM_IDLE : WEIR_SIM_FINISHED);
        if (event->time > world->time_limit) {
            world->now = WEIR_MAX(world->now, world->time_limit);
            return end_run(WEIR_SIM_TIMEOUT);
        }
        sim_event_fire();
    }
}

/* ---- switching ---- */

static void thread_free(struct sim_thread *thread)
{
    TAILQ_REMOVE(&sim_world->threads, thread, link);
    free(thread);
}

/* What the side that was entered does first. */
static void arrived(void)
{
    struct sim_thread *ended = sim_world->ended;

    sim_world->ended = NULL;
    if (ended) {
        weir_context_done(&ended->context);
        stack_give(&ended->stack);
        if (ended->detached)
            thread_free(ended);
    }
}

static struct weir_context *enter(struct sim_thread *next)
{
    sim_world->current = next;
    weir_locals_set(next ? &next->locals : NULL);
    sim_world->stats.switches++;
    sim_trace("switch", next ? next->id : 0, (uint64_t)sim_world->now, 0);
    return next ? &next->context : &sim_world->test;
}

static void dispatch(void)
{
    struct sim_thread *self = sim_world->current, *next = choose();

    if (next == self)
        return;
    weir_context_switch(&self->context, enter(next));
    arrived();
}

static void thread_entry(void *arg)
{
    struct sim_thread *self = arg;

    arrived();
    self->run(self->arg);
    WEIR_ASSERT(self->locals.mutexes_held == 0);
    runnable_remove(self, SIM_ENDED);
    if (self->joiner)
        sim_wake(self->joiner);
    sim_world->ended = self;
    weir_context_exit(&self->context, enter(choose()));
}

struct sim_thread *sim_thread_new(const char *name, void (*run)(void *arg), void *arg)
{
    struct sim_thread *thread = weir_new(struct sim_thread);

    thread->id = ++sim_world->thread_serial;
    (void)strncpy(thread->name, name, sizeof(thread->name) - 1);
    thread->run = run;
    thread->arg = arg;
    stack_take(&thread->stack);
    weir_context_init_stack(&thread->context, &thread->stack, thread_entry, thread);
    TAILQ_INSERT_TAIL(&sim_world->threads, thread, link);
    runnable_add(thread);
    sim_trace("thread", thread->id, 0, 0);
    return thread;
}

void sim_threads_drop(void)
{
    struct sim_world *world = sim_world;
    struct sim_thread *thread;

    WEIR_ASSERT(!world->current);
    arrived();
    while ((thread = TAILQ_FIRST(&world->threads))) {
        if (thread->state != SIM_ENDED) {
            weir_context_done(&thread->context);
            stack_give(&thread->stack);
        }
        thread_free(thread);
    }
    world->runnable_count = 0;
}

/* ---- waiting ---- */

void sim_block(void)
{
    WEIR_ASSERT(sim_world->current);
    runnable_remove(sim_world->current, SIM_BLOCKED);
    dispatch();
}

static void timer_fired(struct sim_event *event)
{
    sim_wake(weir_container_of(event, struct sim_thread, timer));
}

bool sim_block_until(int64_t deadline)
{
    struct sim_thread *self = sim_world->current;

    if (deadline >= 0)
        sim_event_at(&self->timer, deadline, timer_fired);
    sim_block();
    return deadline < 0 || sim_world->now < deadline;
}

void sim_spend(int64_t duration_ns)
{
    int64_t deadline = sim_world->now + duration_ns;

    if (!sim_world->current)
        return;
    while (sim_world->now < deadline)
        (void)sim_block_until(deadline);
}

void sim_give_way(void)
{
    struct sim_world *world = sim_world;
    struct sim_event *event = sim_event_first();

    /* Threads that only look again and again must not stop time. */
    if (++world->idle_polls >= IDLE_POLLS_MAX && event && event->time <= world->time_limit)
        sim_event_fire();
    dispatch();
}

/* The thread is preempted, and maybe for so long that other things happen meanwhile. */
static void slow_step(void)
{
    struct sim_world *world = sim_world;
    uint32_t every = world->profile.preempt_every;

    world->preempt_left = every ? 1 + (uint32_t)sim_below(SIM_SCHEDULE, 2 * (uint64_t)every) : 1u << 20;
    if (!every) {
        sim_give_way();
        return;
    }
    world->stats.preemptions++;
    while (world->profile.overlap_ns && sim_below(SIM_SCHEDULE, 2)) {
        struct sim_event *event = sim_event_first();

        if (!event || event->time > world->now + world->profile.overlap_ns || event->time > world->time_limit)
            break;
        sim_event_fire();
    }
    dispatch();
}

void sim_preempt(void)
{
    struct sim_world *world = sim_world;

    if (!world || !world->current || --world->preempt_left)
        return;
    slow_step();
}

/* ---- the library's side ---- */

int sim_thread_start(const char *name, void (*run)(void *arg), void *arg, void **ret_thread)
{
    *ret_thread = sim_thread_new(name, run, arg);
    sim_preempt();
    return 0;
}

void sim_thread_join(void *handle)
{
    struct sim_thread *thread = handle;

    WEIR_ASSERT(!thread->joiner && !thread->detached);
    while (thread->state != SIM_ENDED) {
        thread->joiner = sim_world->current;
        sim_block();
    }
    thread_free(thread);
}

/* ---- the test's side ---- */

void weir_sim_spawn(const char *name, void (*run)(void *arg), void *arg)
{
    sim_thread_new(name, run, arg)->detached = true;
}

enum weir_sim_outcome weir_sim_run(const struct weir_sim_limits *limits)
{
    struct sim_world *world = sim_world;
    struct sim_thread *next;

    WEIR_ASSERT(!world->current);
    world->step_limit = limits->steps ? world->stats.steps + limits->steps : UINT64_MAX;
    world->event_limit = limits->events ? world->stats.events + limits->events : UINT64_MAX;
    world->time_limit = limits->time_ns ? world->now + limits->time_ns : INT64_MAX;
    world->stop = false;
    next = choose();
    if (next) {
        weir_context_init_thread(&world->test);
        weir_context_switch(&world->test, enter(next));
        arrived();
        weir_context_done(&world->test);
    }
    sim_trace("outcome", world->outcome, (uint64_t)world->now, 0);
    return world->outcome;
}

void weir_sim_stop(void)
{
    sim_world->stop = true;
}

const char *weir_sim_outcome_name(enum weir_sim_outcome outcome)
{
    static const char *const names[] = { "finished", "idle", "timeout", "stopped" };

    return names[outcome];
}

void weir_sim_sleep(int64_t duration_ns)
{
    sim_spend(duration_ns);
}

unsigned weir_sim_threads(void)
{
    struct sim_thread *thread;
    unsigned count = 0;

    TAILQ_FOREACH (thread, &sim_world->threads, link)
        count += thread->state != SIM_ENDED && !thread->service;
    return count;
}

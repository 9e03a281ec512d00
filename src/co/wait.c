/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What coroutines wait on: queues, mutexes, groups. All three are a few lines under a thread mutex and a list of
 * waiters that live on the stacks of those who wait.
 *
 * A waiter may look at itself only under the mutex. So whoever wakes it does so under the mutex: the coroutine
 * cannot return from its wait, let alone end, before the waker has done with it.
 */
#include "co/internal.h"
#include <errno.h>

/* ---- queue ---- */

void weir_co_queue_init(struct weir_co_queue *queue)
{
    TAILQ_INIT(&queue->waiters);
}

void weir_co_queue_wait(struct weir_co_queue *queue, struct weir_mutex *mutex)
{
    (void)weir_co_queue_wait_until(queue, mutex, -1);
}

struct timed_waiter {
    struct weir_co_waiter waiter;
    struct weir_timer timer;
    bool expired; /* own loop only */
};

static void wait_expired(struct weir_timer *timer)
{
    struct timed_waiter *timed = weir_container_of(timer, struct timed_waiter, timer);

    timed->expired = true;
    weir_co_wake(timed->waiter.co);
}

int weir_co_queue_wait_until(struct weir_co_queue *queue, struct weir_mutex *mutex, int64_t deadline_ns)
{
    struct timed_waiter timed = { .waiter.co = weir_co_self(), .timer.run = wait_expired };

    WEIR_ASSERT(timed.waiter.co);
    TAILQ_INSERT_TAIL(&queue->waiters, &timed.waiter, link);
    if (deadline_ns >= 0)
        weir_timer_arm(&timed.timer, deadline_ns);
    do {
        weir_mutex_unlock(mutex);
        weir_co_yield();
        weir_mutex_lock(mutex);
    } while (!timed.waiter.woken && !timed.expired);
    weir_timer_cancel(&timed.timer);
    if (timed.waiter.woken)
        return 0;
    TAILQ_REMOVE(&queue->waiters, &timed.waiter, link);
    return -ETIMEDOUT;
}

bool weir_co_queue_wake_one(struct weir_co_queue *queue)
{
    struct weir_co_waiter *waiter = TAILQ_FIRST(&queue->waiters);

    if (!waiter)
        return false;
    TAILQ_REMOVE(&queue->waiters, waiter, link);
    waiter->woken = true;
    weir_co_wake(waiter->co);
    return true;
}

void weir_co_queue_wake_all(struct weir_co_queue *queue)
{
    while (weir_co_queue_wake_one(queue))
        continue;
}

bool weir_co_queue_empty(const struct weir_co_queue *queue)
{
    return TAILQ_EMPTY(&queue->waiters);
}

/* ---- mutex: handed over to the first waiter, so that nobody overtakes ---- */

void weir_co_mutex_init(struct weir_co_mutex *mutex)
{
    weir_mutex_init(&mutex->lock);
    weir_co_queue_init(&mutex->queue);
    mutex->owner = NULL;
}

void weir_co_mutex_done(struct weir_co_mutex *mutex)
{
    WEIR_ASSERT(!mutex->owner && weir_co_queue_empty(&mutex->queue));
    weir_mutex_done(&mutex->lock);
}

void weir_co_mutex_lock(struct weir_co_mutex *mutex)
{
    struct weir_co *self;

    weir_co_assert();
    self = weir_co_self();
    WEIR_SCOPE_LOCK(&mutex->lock);
    WEIR_ASSERT(mutex->owner != self);
    if (!mutex->owner) {
        mutex->owner = self;
        return;
    }
    weir_co_queue_wait(&mutex->queue, &mutex->lock);
    WEIR_ASSERT(mutex->owner == self);
}

void weir_co_mutex_unlock(struct weir_co_mutex *mutex)
{
    const struct weir_co_waiter *next;

    WEIR_SCOPE_LOCK(&mutex->lock);
    WEIR_ASSERT(mutex->owner && mutex->owner == weir_co_self());
    next = TAILQ_FIRST(&mutex->queue.waiters);
    mutex->owner = next ? next->co : NULL;
    (void)weir_co_queue_wake_one(&mutex->queue);
}

/* ---- group ---- */

void weir_co_group_init(struct weir_co_group *group)
{
    weir_mutex_init(&group->lock);
    weir_co_queue_init(&group->queue);
    group->running = 0;
}

void weir_co_group_done(struct weir_co_group *group)
{
    WEIR_ASSERT(group->running == 0 && weir_co_queue_empty(&group->queue));
    weir_mutex_done(&group->lock);
}

/* Lies on the stack of weir_co_group_start(): copied before the member can wait. */
struct member {
    struct weir_co_group *group;
    void (*run)(void *arg) weir_co_fn;
    void *arg;
};

static void member_main(void *arg) weir_co_fn;
static void member_main(void *arg)
{
    struct member member = *(struct member *)arg;

    member.run(member.arg);
    WEIR_SCOPE_LOCK(&member.group->lock);
    member.group->running--;
    weir_co_queue_wake_all(&member.group->queue);
}

void weir_co_group_start(struct weir_co_group *group, void (*run)(void *arg) weir_co_fn, void *arg)
{
    struct member member = { group, run, arg };

    weir_mutex_lock(&group->lock);
    group->running++;
    weir_mutex_unlock(&group->lock);
    weir_co_run(member_main, &member);
}

void weir_co_group_wait(struct weir_co_group *group, unsigned left)
{
    weir_co_assert();
    WEIR_SCOPE_LOCK(&group->lock);
    while (group->running > left)
        weir_co_queue_wait(&group->queue, &group->lock);
}

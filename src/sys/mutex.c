/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Mutexes in both worlds.
 *
 * Real: a pthread mutex. Simulated: all simulated threads share one OS thread, so that a plain flag is the lock,
 * and every lock and unlock offers the scheduler a switch: orders in which critical sections can follow each
 * other are what the simulator is there to find. Both count the mutexes that the thread holds, for the assertion
 * that none is held over a coroutine switch.
 */
#include "sys/mutex.h"
#include "sys/context.h"
#include "sys/sys.h"

void weir_mutex_init(struct weir_mutex *mutex)
{
    WEIR_ASSERT(pthread_mutex_init(&mutex->lock, NULL) == 0);
    mutex->taken = false;
}

void weir_mutex_done(struct weir_mutex *mutex)
{
    WEIR_ASSERT(!mutex->taken);
    WEIR_ASSERT(pthread_mutex_destroy(&mutex->lock) == 0);
}

static void lock_simulated(struct weir_mutex *mutex)
{
    weir_sys->thread.preempt();
    while (mutex->taken)
        weir_sys->thread.preempt();
    mutex->taken = true;
}

void weir_mutex_lock(struct weir_mutex *mutex)
{
    if (weir_unlikely(weir_sys->simulated))
        lock_simulated(mutex);
    else
        WEIR_ASSERT(pthread_mutex_lock(&mutex->lock) == 0);
    weir_locals()->mutexes_held++;
}

void weir_mutex_unlock(struct weir_mutex *mutex)
{
    struct weir_locals *locals = weir_locals();

    WEIR_ASSERT(locals->mutexes_held > 0);
    locals->mutexes_held--;
    if (weir_unlikely(weir_sys->simulated)) {
        WEIR_ASSERT(mutex->taken);
        mutex->taken = false;
        weir_sys->thread.preempt();
    } else {
        WEIR_ASSERT(pthread_mutex_unlock(&mutex->lock) == 0);
    }
}

unsigned weir_mutex_held(void)
{
    return weir_locals()->mutexes_held;
}

unsigned weir_mutex_swap_held(unsigned held)
{
    struct weir_locals *locals = weir_locals();
    unsigned old = locals->mutexes_held;

    locals->mutexes_held = held;
    return old;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A thread mutex for critical sections of a few instructions. Never held over a coroutine switch: a per-thread
 * count of held mutexes is asserted to be zero there. In the simulator, lock and unlock are scheduling points,
 * and a thread that finds it taken gives the processor away.
 */
#ifndef WEIR_SYS_MUTEX_H
#define WEIR_SYS_MUTEX_H

#include "base/macros.h"
#include <pthread.h>

struct weir_mutex {
    pthread_mutex_t lock; /* real world */
    bool taken;           /* simulator */
};

void weir_mutex_init(struct weir_mutex *mutex);
void weir_mutex_done(struct weir_mutex *mutex);
void weir_mutex_lock(struct weir_mutex *mutex);
void weir_mutex_unlock(struct weir_mutex *mutex);
/* How many mutexes this thread holds. */
unsigned weir_mutex_held(void);
/* Sets this thread's count and returns the old one: the simulator gives each of its threads its own. */
unsigned weir_mutex_swap_held(unsigned held);

static inline void weir_mutex_unlockp(struct weir_mutex **mutex)
{
    if (*mutex)
        weir_mutex_unlock(*mutex);
}
/* Holds @m until the end of the block. */
#define WEIR_SCOPE_LOCK(m) WEIR_SCOPE_LOCK_AT(m, __COUNTER__)
#define WEIR_SCOPE_LOCK_AT(m, n) WEIR_SCOPE_LOCK_NAMED(m, n)
#define WEIR_SCOPE_LOCK_NAMED(m, n)                                                               \
    __attribute__((cleanup(weir_mutex_unlockp), unused)) struct weir_mutex *scope_lock_##n = (m); \
    weir_mutex_lock(scope_lock_##n)

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#include "sys/latch.h"

void weir_latch_init(struct weir_latch *latch)
{
    WEIR_ASSERT(pthread_mutex_init(&latch->lock, NULL) == 0);
    WEIR_ASSERT(pthread_cond_init(&latch->opened, NULL) == 0);
    latch->open = false;
}

void weir_latch_done(struct weir_latch *latch)
{
    WEIR_ASSERT(pthread_cond_destroy(&latch->opened) == 0);
    WEIR_ASSERT(pthread_mutex_destroy(&latch->lock) == 0);
}

/* Under the lock to its end: who waits cannot return, and free the latch, before this has done with it. */
void weir_latch_open(struct weir_latch *latch)
{
    WEIR_ASSERT(pthread_mutex_lock(&latch->lock) == 0);
    latch->open = true;
    WEIR_ASSERT(pthread_cond_broadcast(&latch->opened) == 0);
    WEIR_ASSERT(pthread_mutex_unlock(&latch->lock) == 0);
}

void weir_latch_wait(struct weir_latch *latch)
{
    WEIR_ASSERT(pthread_mutex_lock(&latch->lock) == 0);
    while (!latch->open)
        WEIR_ASSERT(pthread_cond_wait(&latch->opened, &latch->lock) == 0);
    WEIR_ASSERT(pthread_mutex_unlock(&latch->lock) == 0);
}

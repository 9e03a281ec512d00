/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A latch: a thread that is no loop waits once for something that another thread does. Real world only. Loops and
 * coroutines never use one: they have queues (co/co.h).
 */
#ifndef WEIR_SYS_LATCH_H
#define WEIR_SYS_LATCH_H

#include "base/macros.h"
#include <pthread.h>

struct weir_latch {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
};

void weir_latch_init(struct weir_latch *latch);
void weir_latch_done(struct weir_latch *latch);
/* Lets those who wait go on. Any thread; the latch may be gone as soon as it is open. */
void weir_latch_open(struct weir_latch *latch);
/* Blocks until it is open. */
void weir_latch_wait(struct weir_latch *latch);

#endif

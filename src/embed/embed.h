/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files behind the public headers (include/weir) share.
 *
 * This layer is where threads of the embedding program meet loops. Such a thread never touches the graph: it sends a
 * coroutine to the control loop and waits for it, or queues a request on the loop that does the I/O.
 */
#ifndef WEIR_EMBED_EMBED_H
#define WEIR_EMBED_EMBED_H

#include "co/loop.h"

/*
 * Runs @run(@arg) as a coroutine of the control loop and blocks until it has ended; returns its result. -ENODEV when
 * the library is not started, -EDEADLK on one of its own threads.
 */
int weir_embed_run(int (*run)(void *arg) weir_co_fn, void *arg);
/* The loop for I/O. */
struct weir_loop *weir_embed_loop(void);
/* How many devices are open. Control loop. */
void weir_embed_count(int change);

#endif

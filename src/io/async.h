/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Abandonable child requests.
 *
 * weir_io() cannot be left before it returns. A parent that must be able to walk away (a mirror's write to a
 * target that hangs, a copy with a time limit) uses this instead: the request owns references to its edge, node
 * and buffer and runs in a coroutine of its own; the parent stops waiting when the edge is *broken* or the limit
 * passes, and the rest of the request's life is nobody's burden: its node shows as limbo until the I/O returns.
 * Memory whose owner the request does not name (request->buffer) is copied; memory that it names is lent, also for
 * reads: after an answer that came too late it may still change, and the parent gives the buffer up.
 */
#ifndef WEIR_IO_ASYNC_H
#define WEIR_IO_ASYNC_H

#include "io/request.h"

struct weir_edge;

/*
 * Like weir_io(), and for STATUS like weir_io_status(). Returns -ECANCELED as soon as @edge is broken and
 * -ETIMEDOUT past @deadline_ns (-1: none) although the request goes on. Data that is read
 * arrives in a private buffer, unless request->buffer is set, and is copied out only when in time.
 */
int weir_io_abandonable(struct weir_edge *edge, struct weir_request *request,
                        int64_t deadline_ns) weir_co_fn weir_must_check;
/*
 * Marks @edge broken: everybody who waits in weir_io_abandonable() on it returns -ECANCELED soon, later
 * calls fail at once. Any thread.
 */
void weir_edge_break(struct weir_edge *edge);
/* How many requests on @edge were left behind and have not returned. Any thread. */
unsigned weir_edge_abandoned(const struct weir_edge *edge);

#endif

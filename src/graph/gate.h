/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The gate of a root edge: where requests enter the graph, are counted, and are stopped by a drain.
 *
 * Only root operations pass a gate. Each loop counts in a shard of its own (no shared cache line on the hot
 * path); a closed gate lets nothing new in, and is empty when all shards are at zero. Requests that must wait
 * are also listed in their shard, so that a drain that gives up can name the oldest one, and count against the
 * edge's admission limits in requests and bytes.
 */
#ifndef WEIR_GRAPH_GATE_H
#define WEIR_GRAPH_GATE_H

#include "graph/driver.h"
#include <sys/queue.h>

struct weir_edge;

/* One listed request. Lives with the request. */
struct weir_gate_op {
    struct weir_edge *edge;
    enum weir_op op;
    uint64_t offset, length; /* bytes */
    int64_t start_ns;
    unsigned loop_index;
    TAILQ_ENTRY(weir_gate_op) link;
};

/* How much may be inside one gate at a time. Defaults: 1024 requests, 128 MiB. 0: as it was. Any loop. */
void weir_gate_set_limits(struct weir_edge *edge, unsigned requests_max, uint64_t bytes_max);

/* Enters for something that is answered at once: true, or false when the gate is closed. Any loop. */
bool weir_gate_try_enter(struct weir_edge *edge);
void weir_gate_try_leave(struct weir_edge *edge); /* same loop */

/* Enters for a request that may wait; waits while the gate is closed or the limits are reached. Any loop. */
void weir_gate_enter(struct weir_edge *edge, struct weir_gate_op *op) weir_co_fn;
void weir_gate_leave(struct weir_gate_op *op); /* any loop */

/* Whether requests should come to a rest soon: long operations poll it at their safe points. Any loop. */
bool weir_gate_closing(const struct weir_edge *edge);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counters of nodes and root edges, kept per loop and summed when asked.
 */
#ifndef WEIR_IO_STATS_H
#define WEIR_IO_STATS_H

#include "graph/driver.h"

struct weir_node;
struct weir_edge;

struct weir_op_stats {
    uint64_t operations, bytes, failed, merged;
    uint64_t total_ns;
};
struct weir_stats {
    struct weir_op_stats op[WEIR_OP_COUNT];
    uint64_t write_highest; /* end of the highest write, bytes */
    int64_t idle_since_ns;  /* monotonic time of the last request, 0: never */
};

/* What has gone through the node / entered by the root edge so far. Control loop. */
void weir_node_stats(struct weir_node *node, struct weir_stats *ret_stats);
/* Of a node that no read passes unseen: a job's own filter. Any loop. */
void weir_node_own_stats(struct weir_node *node, struct weir_stats *ret_stats);
void weir_edge_stats(struct weir_edge *edge, struct weir_stats *ret_stats);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the core keeps with each node and edge. Private to io/ and meta/.
 */
#ifndef WEIR_IO_NODE_IO_H
#define WEIR_IO_NODE_IO_H

#include "co/co.h"
#include "graph/node.h"
#include "io/range_lock.h"
#include "io/request.h"
#include "io/stats.h"

/* Counters of one loop. Written by that loop only, read by anybody. */
struct weir_io_shard {
    _Alignas(64) _Atomic uint64_t changes; /* writes, zeroes, discards that have ended, also in failure */
    _Atomic uint64_t operations[WEIR_OP_COUNT], bytes[WEIR_OP_COUNT], failed[WEIR_OP_COUNT];
    _Atomic uint64_t total_ns[WEIR_OP_COUNT], merged[WEIR_OP_COUNT];
    _Atomic uint64_t write_highest;
    _Atomic int64_t last_ns;
};
struct weir_io_counters {
    _Atomic(struct weir_io_shard *) shards[WEIR_LOOPS_MAX];
};

struct weir_node_io {
    struct weir_range_table *ranges;
    struct weir_mutex monitor; /* law 5 */
    struct weir_io_counters counters;
    struct weir_stats past; /* that went past it by ways that are no more; control loop */
    /* flush of a leaf: one at a time; who comes meanwhile shares the next one */
    struct weir_mutex flush_mutex;
    struct weir_co_queue flush_queue;
    bool flush_running;
    uint64_t flushed_changes; /* sum of `changes` that the last good flush covered */
    int flush_error;          /* sticky: a leaf whose flush failed once never reports success again */
    /* status, formats that allocate: whether the file is asked for its holes */
    _Atomic enum weir_file_holes { WEIR_HOLES_UNKNOWN, WEIR_HOLES_FEW, WEIR_HOLES_MANY } file_holes;
};

/* An edge's share: counters of root users, and who waits for abandonable requests. */
struct weir_edge_io {
    struct weir_io_counters counters;
    struct weir_io_counters past; /* reads that pass nodes: what those and the last one have not counted */
    struct weir_stats told;       /* as much of it is in node->io->past; control loop */
    struct weir_mutex mutex;
    struct weir_co_queue waiters;
    atomic_uint abandoned;
};

struct weir_io_shard *weir_io_counters_here(struct weir_io_counters *counters);
void weir_io_counters_done(struct weir_io_counters *counters);
/* Counts one ended operation. @start_ns 0: took no time worth measuring. */
void weir_io_count(struct weir_io_counters *counters, enum weir_op op, uint64_t offset, uint64_t length,
                   int result, int64_t start_ns);
/* The same for a request that was answered without waiting: what every request of the hot path pays. */
void weir_io_count_at_once(struct weir_io_counters *counters, const struct weir_request *request, int result);
/* The way of @edge is about to change: nodes that it leads past remember what went there. */
void weir_io_edge_rerouted(struct weir_edge *edge);
/* Notes that a change of the node has ended, for write generations. Before the answer. */
void weir_io_changed(struct weir_node *node);
uint64_t weir_io_changes(struct weir_node *node);

/* ---- the paths of a request, by kind of node (all: request already inside @node) ---- */
int weir_leaf_io(struct weir_node *node, struct weir_request *request) weir_co_fn;
int weir_leaf_try(struct weir_node *node, struct weir_request *request);
int weir_mapped_io(struct weir_node *node, struct weir_request *request) weir_co_fn;
int weir_mapped_try(struct weir_node *node, struct weir_request *request);
int weir_mapped_change(struct weir_node *node, struct weir_request *request) weir_co_fn;
int weir_mapped_flush(struct weir_node *node) weir_co_fn;
/* Tables of @node and its backing chain, for a batch at @offsets that comes next. The graph must not change then. */
void weir_mapped_prefetch(struct weir_node *node, const uint64_t *offsets, unsigned count);
int weir_view_io(struct weir_node *node, struct weir_request *request) weir_co_fn;
int weir_view_try(struct weir_node *node, struct weir_request *request);

/* Whether @node allocates (a format with tables), as opposed to a shift or view. */
static inline bool weir_node_allocates(const struct weir_node *node)
{
    return node->driver->commit != NULL;
}
static inline bool weir_node_submits(const struct weir_node *node, enum weir_op op)
{
    return atomic_load_explicit(&node->cares, memory_order_relaxed) & WEIR_OP_BIT(op);
}
/*
 * Reads @length bytes of @edge at @offset into the vector; what lies beyond the end of the child reads as zero. @flags
 * of the request.
 */
int weir_io_read_short(struct weir_edge *edge, uint64_t offset, uint64_t length, const struct iovec *iov,
                       unsigned iovcnt, unsigned flags) weir_co_fn;

#endif

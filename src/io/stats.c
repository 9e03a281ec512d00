/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counters per loop: each is written by one loop only, so that counting costs no shared cache line.
 */
#include "io/stats.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include "io/node_io.h"
#include "sys/sys.h"

static __attribute__((noinline)) struct weir_io_shard *shard_new(struct weir_io_counters *counters,
                                                                 unsigned index)
{
    struct weir_io_shard *shard = weir_try_alloc(sizeof(*shard), _Alignof(struct weir_io_shard));

    WEIR_ASSERT(shard);
    __builtin_memset(shard, 0, sizeof(*shard));
    atomic_store_explicit(&counters->shards[index], shard, memory_order_release);
    return shard;
}

static inline struct weir_io_shard *shard_of(struct weir_io_counters *counters, const struct weir_loop *loop)
{
    unsigned index = weir_loop_index(loop);
    struct weir_io_shard *shard = atomic_load_explicit(&counters->shards[index], memory_order_acquire);

    return weir_likely(shard != NULL) ? shard : shard_new(counters, index);
}

struct weir_io_shard *weir_io_counters_here(struct weir_io_counters *counters)
{
    return shard_of(counters, weir_loop_self());
}

void weir_io_counters_done(struct weir_io_counters *counters)
{
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++)
        free(atomic_load(&counters->shards[i]));
}

/* Own loop's counter: no read-modify-write cycle on the bus. */
static void add(_Atomic uint64_t *counter, uint64_t value)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, now + value, memory_order_relaxed);
}

static inline void note_write(struct weir_io_shard *shard, uint64_t end)
{
    if (end > atomic_load_explicit(&shard->write_highest, memory_order_relaxed))
        atomic_store_explicit(&shard->write_highest, end, memory_order_relaxed);
}

/* Apart, so that what is answered at once does not pay for it. */
static __attribute__((noinline)) void add_time(struct weir_io_shard *shard, enum weir_op op, int64_t start_ns)
{
    add(&shard->total_ns[op], (uint64_t)WEIR_MAX(weir_sys->clock_ns() - start_ns, 0));
}

void weir_io_count(struct weir_io_counters *counters, enum weir_op op, uint64_t offset, uint64_t length,
                   int result, int64_t start_ns)
{
    const struct weir_loop *loop = weir_loop_self();
    struct weir_io_shard *shard = shard_of(counters, loop);

    if (weir_unlikely(result < 0)) {
        add(&shard->failed[op], 1);
        return;
    }
    atomic_store_explicit(&shard->last_ns, weir_loop_now(loop), memory_order_relaxed);
    add(&shard->operations[op], 1);
    add(&shard->bytes[op], length);
    if (op == WEIR_OP_WRITE || op == WEIR_OP_ZERO)
        note_write(shard, offset + length);
    if (start_ns)
        add_time(shard, op, start_ns);
}

void weir_io_count_at_once(struct weir_io_counters *counters, const struct weir_request *request, int result)
{
    const struct weir_loop *loop = weir_loop_self();
    struct weir_io_shard *shard = shard_of(counters, loop);
    enum weir_op op = request->op;

    if (weir_unlikely(result < 0)) {
        add(&shard->failed[op], 1);
        return;
    }
    add(&shard->operations[op], 1);
    add(&shard->bytes[op], request->length);
    if (op == WEIR_OP_WRITE || op == WEIR_OP_ZERO)
        note_write(shard, request->offset + request->length);
    atomic_store_explicit(&shard->last_ns, weir_loop_now(loop), memory_order_relaxed);
}

void weir_io_changed(struct weir_node *node)
{
    struct weir_io_shard *shard = weir_io_counters_here(&node->io->counters);
    uint64_t now = atomic_load_explicit(&shard->changes, memory_order_relaxed);

    /* Release: who sees the count also sees that the write has ended. */
    atomic_store_explicit(&shard->changes, now + 1, memory_order_release);
}

uint64_t weir_io_changes(struct weir_node *node)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        struct weir_io_shard *shard = atomic_load(&node->io->counters.shards[i]);
        if (shard)
            sum += atomic_load_explicit(&shard->changes, memory_order_acquire);
    }
    return sum;
}

static void sum_counters(struct weir_io_counters *counters, struct weir_stats *ret_stats)
{
    *ret_stats = (struct weir_stats){ 0 };
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        struct weir_io_shard *shard = atomic_load(&counters->shards[i]);
        if (!shard)
            continue;
        for (unsigned op = 0; op < WEIR_OP_COUNT; op++) {
            ret_stats->op[op].operations += atomic_load(&shard->operations[op]);
            ret_stats->op[op].bytes += atomic_load(&shard->bytes[op]);
            ret_stats->op[op].failed += atomic_load(&shard->failed[op]);
            ret_stats->op[op].merged += atomic_load(&shard->merged[op]);
            ret_stats->op[op].total_ns += atomic_load(&shard->total_ns[op]);
        }
        ret_stats->write_highest = WEIR_MAX(ret_stats->write_highest, atomic_load(&shard->write_highest));
        ret_stats->idle_since_ns = WEIR_MAX(ret_stats->idle_since_ns, atomic_load(&shard->last_ns));
    }
}

/* ---- reads that pass nodes ---- */

static void add_stats(struct weir_stats *to, const struct weir_stats *more, const struct weir_stats *without)
{
    const enum weir_op op = WEIR_OP_READ;

    to->op[op].operations += more->op[op].operations - without->op[op].operations;
    to->op[op].bytes += more->op[op].bytes - without->op[op].bytes;
    to->op[op].failed += more->op[op].failed - without->op[op].failed;
    to->op[op].total_ns += more->op[op].total_ns - without->op[op].total_ns;
    to->idle_since_ns = WEIR_MAX(to->idle_since_ns, more->idle_since_ns);
}

void weir_io_edge_rerouted(struct weir_edge *edge)
{
    struct weir_node *last = atomic_load_explicit(&edge->read_to, memory_order_relaxed);
    struct weir_stats now;

    if (!edge->passed_count)
        return;
    sum_counters(&edge->io->past, &now);
    for (unsigned i = 0; i < edge->passed_count; i++)
        add_stats(&edge->passed[i]->io->past, &now, &edge->io->told);
    add_stats(&last->io->past, &now, &edge->io->told);
    edge->io->told = now;
}

static void add_passing(struct weir_edge *edge, void *arg)
{
    struct weir_stats now;

    sum_counters(&edge->io->past, &now);
    add_stats(arg, &now, &edge->io->told);
}

void weir_node_stats(struct weir_node *node, struct weir_stats *ret_stats)
{
    static const struct weir_stats none;

    sum_counters(&node->io->counters, ret_stats);
    add_stats(ret_stats, &node->io->past, &none);
    weir_graph_each_passing(node, add_passing, ret_stats);
}

void weir_node_own_stats(struct weir_node *node, struct weir_stats *ret_stats)
{
    sum_counters(&node->io->counters, ret_stats);
}

void weir_edge_stats(struct weir_edge *edge, struct weir_stats *ret_stats)
{
    sum_counters(&edge->io->counters, ret_stats);
}

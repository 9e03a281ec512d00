/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Gates: counting, closing, admission.
 *
 * Each loop counts in its own shard. A shard is one atomic word: how many are inside, and the two flags of a
 * closer: CLOSED (nobody may enter) and WATCHED (who leaves must say so). As count and flags change together, no
 * order between variables matters, and the last thing that a leaving request does to a gate is to lower the
 * count: the gate may be freed as soon as all counts are zero.
 *
 * Requests that may wait are admitted in order of arrival, under the gate's mutex: limits, list of waiters and
 * closing are guarded by it. Waiters are not inside, so a drain does not wait for them; who detaches the edge does
 * (weir_gate_idle()).
 *
 * Lock order: gate, then shard.
 */
#include "graph/gate.h"
#include "base/alloc.h"
#include "graph/internal.h"
#include <string.h>

#define GATE_REQUESTS_MAX 1024
#define GATE_BYTES_MAX (128ull << 20)

#define SHARD_CLOSED 1u
#define SHARD_WATCHED 2u
#define SHARD_FLAGS 3u
#define SHARD_ONE 4u

struct gate_shard {
    _Alignas(64) _Atomic uint64_t state;
    struct weir_mutex mutex; /* ops */
    TAILQ_HEAD(, weir_gate_op) ops;
};

struct gate_waiter {
    struct weir_gate_op *op;
    struct weir_co *co;
    atomic_bool admitted;
    TAILQ_ENTRY(gate_waiter) link;
};

struct weir_gate {
    struct gate_shard shards[WEIR_LOOPS_MAX];
    struct weir_mutex mutex; /* what follows */
    unsigned closed;         /* nesting */
    bool watched;
    unsigned requests, requests_max;
    uint64_t bytes, bytes_max;
    TAILQ_HEAD(, gate_waiter) waiters;
};

struct weir_gate *weir_gate_new(void)
{
    struct weir_gate *gate = weir_try_alloc(sizeof(*gate), _Alignof(struct weir_gate));

    WEIR_ASSERT(gate);
    memset(gate, 0, sizeof(*gate));
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        weir_mutex_init(&gate->shards[i].mutex);
        TAILQ_INIT(&gate->shards[i].ops);
    }
    weir_mutex_init(&gate->mutex);
    gate->requests_max = GATE_REQUESTS_MAX;
    gate->bytes_max = GATE_BYTES_MAX;
    TAILQ_INIT(&gate->waiters);
    return gate;
}

void weir_gate_free(struct weir_gate *gate)
{
    if (!gate)
        return;
    WEIR_ASSERT(weir_gate_idle(gate));
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++)
        weir_mutex_done(&gate->shards[i].mutex);
    weir_mutex_done(&gate->mutex);
    free(gate);
}

static struct gate_shard *own_shard(struct weir_gate *gate)
{
    return &gate->shards[weir_loop_index(weir_loop_self())];
}

/* The last thing that a request does with a gate. */
static void leave_shard(struct gate_shard *shard)
{
    uint64_t old = atomic_fetch_sub_explicit(&shard->state, SHARD_ONE, memory_order_acq_rel);

    WEIR_ASSERT(old >= SHARD_ONE);
    if (weir_unlikely(old & SHARD_FLAGS))
        weir_graph_rested();
}

bool weir_gate_try_enter(struct weir_edge *edge)
{
    struct gate_shard *shard = own_shard(edge->gate);
    uint64_t old = atomic_fetch_add_explicit(&shard->state, SHARD_ONE, memory_order_acq_rel);

    if (weir_likely(!(old & SHARD_CLOSED)))
        return true;
    leave_shard(shard);
    return false;
}

void weir_gate_try_leave(struct weir_edge *edge)
{
    leave_shard(own_shard(edge->gate));
}

/* ---- admission; gate->mutex held ---- */

/* A request larger than the limit is let in alone. */
static bool fits(const struct weir_gate *gate, const struct weir_gate_op *op)
{
    if (gate->closed || gate->requests >= gate->requests_max)
        return false;
    return !gate->requests || (op->length <= gate->bytes_max && gate->bytes <= gate->bytes_max - op->length);
}

static void admit(struct weir_gate *gate, struct weir_gate_op *op)
{
    struct gate_shard *shard = &gate->shards[op->loop_index];

    gate->requests++;
    gate->bytes += op->length;
    op->start_ns = weir_loop_now(weir_loop_self());
    atomic_fetch_add_explicit(&shard->state, SHARD_ONE, memory_order_acq_rel);
    weir_mutex_lock(&shard->mutex);
    TAILQ_INSERT_TAIL(&shard->ops, op, link);
    weir_mutex_unlock(&shard->mutex);
}

static void admit_waiters(struct weir_gate *gate)
{
    struct gate_waiter *waiter;

    while ((waiter = TAILQ_FIRST(&gate->waiters)) && fits(gate, waiter->op)) {
        struct weir_co *co = waiter->co;

        TAILQ_REMOVE(&gate->waiters, waiter, link);
        admit(gate, waiter->op);
        /* The waiter looks with the mutex held, so it is not gone before the wake. */
        atomic_store_explicit(&waiter->admitted, true, memory_order_release);
        weir_co_wake(co);
    }
}

void weir_gate_enter(struct weir_edge *edge, struct weir_gate_op *op)
{
    struct weir_gate *gate = edge->gate;
    struct gate_waiter waiter = { .op = op, .co = weir_co_self() };

    weir_co_assert();
    op->edge = edge;
    op->loop_index = weir_loop_index(weir_loop_self());
    weir_mutex_lock(&gate->mutex);
    if (TAILQ_EMPTY(&gate->waiters) && fits(gate, op)) {
        admit(gate, op);
        weir_mutex_unlock(&gate->mutex);
        return;
    }
    TAILQ_INSERT_TAIL(&gate->waiters, &waiter, link);
    for (;;) {
        bool admitted = atomic_load_explicit(&waiter.admitted, memory_order_acquire);

        weir_mutex_unlock(&gate->mutex);
        if (admitted)
            break;
        weir_co_yield();
        weir_mutex_lock(&gate->mutex);
    }
}

void weir_gate_leave(struct weir_gate_op *op)
{
    struct weir_gate *gate = op->edge->gate;
    struct gate_shard *shard = &gate->shards[op->loop_index];

    weir_mutex_lock(&shard->mutex);
    TAILQ_REMOVE(&shard->ops, op, link);
    weir_mutex_unlock(&shard->mutex);
    weir_mutex_lock(&gate->mutex);
    gate->requests--;
    gate->bytes -= op->length;
    admit_waiters(gate);
    weir_mutex_unlock(&gate->mutex);
    leave_shard(shard);
}

void weir_gate_set_limits(struct weir_edge *edge, unsigned requests_max, uint64_t bytes_max)
{
    struct weir_gate *gate = edge->gate;
    WEIR_SCOPE_LOCK(&gate->mutex);

    if (requests_max)
        gate->requests_max = requests_max;
    if (bytes_max)
        gate->bytes_max = bytes_max;
    admit_waiters(gate);
}

/* ---- closing ---- */

static void set_flags(struct weir_gate *gate, uint64_t set, uint64_t clear)
{
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        if (set)
            atomic_fetch_or_explicit(&gate->shards[i].state, set, memory_order_acq_rel);
        if (clear)
            atomic_fetch_and_explicit(&gate->shards[i].state, ~clear, memory_order_acq_rel);
    }
}

void weir_gate_close(struct weir_gate *gate)
{
    WEIR_SCOPE_LOCK(&gate->mutex);

    if (!gate->closed++)
        set_flags(gate, SHARD_CLOSED, 0);
}

void weir_gate_open(struct weir_gate *gate)
{
    WEIR_SCOPE_LOCK(&gate->mutex);

    WEIR_ASSERT(gate->closed);
    if (--gate->closed)
        return;
    set_flags(gate, 0, SHARD_CLOSED);
    admit_waiters(gate);
}

void weir_gate_watch(struct weir_gate *gate)
{
    WEIR_SCOPE_LOCK(&gate->mutex);

    set_flags(gate, SHARD_WATCHED, 0);
}

bool weir_gate_empty(struct weir_gate *gate)
{
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        if (atomic_load_explicit(&gate->shards[i].state, memory_order_acquire) >= SHARD_ONE)
            return false;
    }
    return true;
}

bool weir_gate_idle(struct weir_gate *gate)
{
    WEIR_SCOPE_LOCK(&gate->mutex);

    return TAILQ_EMPTY(&gate->waiters) && weir_gate_empty(gate);
}

bool weir_gate_closing(const struct weir_edge *edge)
{
    const struct gate_shard *shard = &edge->gate->shards[weir_loop_index(weir_loop_self())];

    return atomic_load_explicit(&shard->state, memory_order_relaxed) & SHARD_CLOSED;
}

bool weir_gate_oldest(struct weir_gate *gate, struct weir_gate_op *ret_op)
{
    bool found = false;

    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        struct gate_shard *shard = &gate->shards[i];
        const struct weir_gate_op *op;
        WEIR_SCOPE_LOCK(&shard->mutex);

        TAILQ_FOREACH (op, &shard->ops, link) {
            if (!found || op->start_ns < ret_op->start_ns) {
                *ret_op = *op;
                found = true;
            }
        }
    }
    return found;
}

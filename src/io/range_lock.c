/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Range locks: pins in per-loop shards, everything else in one list.
 *
 * `queue` holds, in the order of arrival, every exclusive lock (granted or waiting) and every shared lock that met
 * an exclusive one. `contended` counts the exclusive ones in it. A pin is entered under its shard's mutex after
 * `contended` was seen to be zero there; an exclusive lock first raises `contended` and then looks into every
 * shard under that shard's mutex. So one of the two always sees the other. Lock order: table, then shard.
 */
#include "io/range_lock.h"

#include "base/alloc.h"
#include "base/law.h"
#include <errno.h>

TAILQ_HEAD(lock_list, weir_range_lock);

struct shard {
    _Alignas(64) struct weir_mutex mutex;
    struct lock_list pins;
};

struct weir_range_table {
    struct weir_mutex mutex;
    struct lock_list queue;
    atomic_uint contended;
    _Atomic(struct shard *) shards[WEIR_LOOPS_MAX];
};

struct weir_range_table *weir_range_table_new(void)
{
    struct weir_range_table *table = weir_new(struct weir_range_table);

    weir_mutex_init(&table->mutex);
    TAILQ_INIT(&table->queue);
    return table;
}

bool weir_range_table_empty(const struct weir_range_table *table)
{
    if (!TAILQ_EMPTY(&table->queue))
        return false;
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        const struct shard *shard = atomic_load(&table->shards[i]);
        if (shard && !TAILQ_EMPTY(&shard->pins))
            return false;
    }
    return true;
}

void weir_range_table_free(struct weir_range_table *table)
{
    if (!table)
        return;
    WEIR_ASSERT(weir_range_table_empty(table));
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        struct shard *shard = atomic_load(&table->shards[i]);
        if (shard) {
            weir_mutex_done(&shard->mutex);
            free(shard);
        }
    }
    weir_mutex_done(&table->mutex);
    free(table);
}

static struct shard *shard_get(struct weir_range_table *table, unsigned index)
{
    struct shard *shard = atomic_load_explicit(&table->shards[index], memory_order_acquire);

    if (weir_likely(shard != NULL))
        return shard;
    shard = weir_try_alloc(sizeof(*shard), _Alignof(struct shard));
    WEIR_ASSERT(shard);
    weir_mutex_init(&shard->mutex);
    TAILQ_INIT(&shard->pins);
    /* Only the loop itself makes its shard, so there is no race for the place. */
    atomic_store(&table->shards[index], shard);
    return shard;
}

static bool overlaps(const struct weir_range_lock *a, const struct weir_range_lock *b)
{
    return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

static bool pin_in_the_way(struct weir_range_table *table, const struct weir_range_lock *lock)
{
    for (unsigned i = 0; i < WEIR_LOOPS_MAX; i++) {
        /* In one order with `contended`: who does not see a new shard is seen by the first pin in it. */
        struct shard *shard = atomic_load(&table->shards[i]);
        const struct weir_range_lock *pin;

        if (!shard)
            continue;
        WEIR_SCOPE_LOCK(&shard->mutex);
        TAILQ_FOREACH (pin, &shard->pins, link) {
            if (overlaps(pin, lock))
                return true;
        }
    }
    return false;
}

/* Table mutex held. Waiting locks that came earlier count too: nobody overtakes. */
static bool can_grant(struct weir_range_table *table, const struct weir_range_lock *lock)
{
    const struct weir_range_lock *other;

    TAILQ_FOREACH (other, &table->queue, link) {
        if (other == lock)
            break;
        if ((other->exclusive || lock->exclusive) && overlaps(other, lock))
            return false;
    }
    return !lock->exclusive || !pin_in_the_way(table, lock);
}

static void grant_waiters(struct weir_range_table *table)
{
    struct weir_range_lock *lock, *next;

    for (lock = TAILQ_FIRST(&table->queue); lock; lock = next) {
        next = TAILQ_NEXT(lock, link);
        if (!atomic_load(&lock->granted) && can_grant(table, lock)) {
            /* The waiter looks with the mutex held, so that it is not gone before the wake. */
            atomic_store(&lock->granted, true);
            weir_co_wake(lock->waiter);
        }
    }
}

static void lock_init(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                      uint64_t length, bool exclusive)
{
    lock->table = table;
    lock->offset = offset;
    lock->length = length;
    lock->exclusive = exclusive;
    lock->pinned = false;
    lock->waiter = NULL;
    lock->loop_index = weir_loop_index(weir_loop_self());
    atomic_init(&lock->granted, false);
}

static bool try_pin(struct weir_range_table *table, struct weir_range_lock *lock)
{
    struct shard *shard = shard_get(table, lock->loop_index);

    WEIR_SCOPE_LOCK(&shard->mutex);
    if (atomic_load(&table->contended))
        return false;
    TAILQ_INSERT_TAIL(&shard->pins, lock, link);
    lock->pinned = true;
    atomic_store_explicit(&lock->granted, true, memory_order_relaxed);
    return true;
}

/* Takes @lock out of the queue; mutex held. Locks that came behind it may have waited because of it. */
static void dequeue(struct weir_range_table *table, struct weir_range_lock *lock)
{
    TAILQ_REMOVE(&table->queue, lock, link);
    if (lock->exclusive)
        atomic_fetch_sub(&table->contended, 1);
    lock->table = NULL;
    grant_waiters(table);
}

/* Enters @lock into the queue; returns whether it is granted at once. With @keep false it is taken out if not. */
static bool enqueue(struct weir_range_table *table, struct weir_range_lock *lock, bool keep)
{
    WEIR_SCOPE_LOCK(&table->mutex);
    TAILQ_INSERT_TAIL(&table->queue, lock, link);
    if (lock->exclusive)
        atomic_fetch_add(&table->contended, 1);
    if (can_grant(table, lock)) {
        atomic_store(&lock->granted, true);
        return true;
    }
    if (!keep)
        dequeue(table, lock);
    return false;
}

/*
 * Whether the wait is over: granted, or given up (then the table is NULL). Under the mutex: who grants has woken
 * us, and is done with us, before we return.
 */
static bool settled(struct weir_range_table *table, struct weir_range_lock *lock, const atomic_bool *stop)
{
    WEIR_SCOPE_LOCK(&table->mutex);
    if (atomic_load(&lock->granted))
        return true;
    if (!stop || !atomic_load(stop))
        return false;
    dequeue(table, lock);
    return true;
}

int weir_range_lock_unless(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                           uint64_t length, bool exclusive, const atomic_bool *stop)
{
    lock_init(table, lock, offset, length, exclusive);
    if (!exclusive && try_pin(table, lock))
        return 0;
    lock->waiter = weir_co_self();
    if (enqueue(table, lock, true))
        return 0;
    WEIR_LAW_COUNT(WEIR_LAW_COUNT_RANGE_WAITS);
    while (!settled(table, lock, stop))
        weir_co_yield();
    return lock->table ? 0 : -ECANCELED;
}

void weir_range_lock(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                     uint64_t length, bool exclusive)
{
    (void)!weir_range_lock_unless(table, lock, offset, length, exclusive, NULL);
}

void weir_range_table_wake(struct weir_range_table *table)
{
    const struct weir_range_lock *lock;
    WEIR_SCOPE_LOCK(&table->mutex);

    /* Who waits cannot leave before it has taken the mutex. */
    TAILQ_FOREACH (lock, &table->queue, link) {
        if (!atomic_load(&lock->granted))
            weir_co_wake(lock->waiter);
    }
}

bool weir_range_try_lock(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                         uint64_t length, bool exclusive)
{
    lock_init(table, lock, offset, length, exclusive);
    if (!exclusive && try_pin(table, lock))
        return true;
    return enqueue(table, lock, false);
}

void weir_range_unlock(struct weir_range_lock *lock)
{
    struct weir_range_table *table = lock->table;

    if (!table)
        return;
    lock->table = NULL;
    if (lock->pinned) {
        struct shard *shard = atomic_load(&table->shards[lock->loop_index]);

        weir_mutex_lock(&shard->mutex);
        TAILQ_REMOVE(&shard->pins, lock, link);
        weir_mutex_unlock(&shard->mutex);
        if (weir_likely(!atomic_load(&table->contended)))
            return;
        WEIR_SCOPE_LOCK(&table->mutex);
        grant_waiters(table);
        return;
    }
    WEIR_SCOPE_LOCK(&table->mutex);
    dequeue(table, lock);
}

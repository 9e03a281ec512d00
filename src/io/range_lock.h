/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The one range-lock service: shared and exclusive locks on byte ranges of a table (one per node).
 *
 * A shared lock (*pin*) is an entry in the calling loop's own shard: uncontended it writes no shared cache line.
 * An exclusive lock visits every shard that was ever used. Fair: nobody overtakes an earlier waiter whose
 * range overlaps. Rules (law 8): one acquisition per table and request, the whole range at once, never upgraded,
 * only downward along edges; admission and pool places are taken before.
 */
#ifndef WEIR_IO_RANGE_LOCK_H
#define WEIR_IO_RANGE_LOCK_H

#include "co/co.h"
#include <stdatomic.h>

struct weir_range_table;

struct weir_range_lock {
    struct weir_range_table *table; /* NULL: not held */
    uint64_t offset, length;        /* bytes */
    bool exclusive;
    bool pinned; /* entry of a loop's shard */
    atomic_bool granted;
    unsigned loop_index;
    struct weir_co *waiter;
    TAILQ_ENTRY(weir_range_lock) link;
};

struct weir_range_table *weir_range_table_new(void);
void weir_range_table_free(struct weir_range_table *table); /* must be empty */

/* Waits until no conflicting lock overlaps [@offset, @offset + @length). Any loop. */
void weir_range_lock(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                     uint64_t length, bool exclusive) weir_co_fn;
/*
 * The same, but stops waiting when *@stop is set: 0, or -ECANCELED and nothing is held. Whoever sets it calls
 * weir_range_table_wake() afterwards. For those who must not wait for a holder that hangs.
 */
int weir_range_lock_unless(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                           uint64_t length, bool exclusive, const atomic_bool *stop) weir_co_fn;
/* Makes everybody who waits look at its *stop. Any thread. */
void weir_range_table_wake(struct weir_range_table *table);
/* The same without waiting: whether it was granted. */
bool weir_range_try_lock(struct weir_range_table *table, struct weir_range_lock *lock, uint64_t offset,
                         uint64_t length, bool exclusive);
void weir_range_unlock(struct weir_range_lock *lock); /* not held: nothing. Any loop. */
bool weir_range_table_empty(const struct weir_range_table *table);

#endif

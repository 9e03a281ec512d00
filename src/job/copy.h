/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine: brings what a bitmap marks from a source edge to a target edge, in the background.
 *
 * Workers are coroutines of one loop. Each takes the next dirty area, enters the job's gate, locks the area
 * exclusively in the lock table that it shares with whoever writes both sides, clears the marks *before* it reads
 * (M3), copies, and marks again if anything failed (M6). How many work, and at what size, follows from what the guests
 * go through meanwhile (job/pace.h). What a guest waits for is copied by a coroutine of its own, at once
 * (weir_copy_now()).
 */
#ifndef WEIR_JOB_COPY_H
#define WEIR_JOB_COPY_H

#include "base/bitmap.h"
#include "graph/node.h"
#include "io/range_lock.h"
#include "io/transfer.h"
#include "job/pace.h"

struct weir_copy;

struct weir_copy_options {
    struct weir_loop *loop;        /* where the workers run */
    struct weir_edge *gate;        /* root edge of the job: each chunk is one request in it */
    struct weir_transfer transfer; /* edges below that gate */
    struct weir_range_table *ranges;
    struct weir_bitmap *bitmap;
    uint64_t speed;  /* bytes/s, 0 = unlimited */
    uint64_t memory; /* bytes under way at most; a granule always is */
    unsigned share;  /* percent of the time that it works at least, however long guests wait */
    bool direct;     /* requests reach the device: no cache of the host is between */
    /* What guests have gone through so far. Any loop. */
    void (*guests)(void *opaque, struct weir_pace_guests *ret_guests);
    /* Something has changed that weir_copy_state() shows. Any loop; must not wait. */
    void (*changed)(void *opaque);
    /*
     * How an area is taken through whose range is locked; 0, or the error, and whose it is. NULL: from one side of
     * the transfer to the other. Any loop.
     */
    int (*move)(void *opaque, uint64_t offset, uint64_t length, unsigned write_flags,
                struct weir_buffer *buffer, bool *ret_write) weir_co_fn;
    void *opaque;
};

struct weir_copy_state {
    bool idle;        /* nothing marked and nothing in flight at the moment of asking */
    bool caught_up;   /* it was idle at some moment since the start */
    int error;        /* first failure, 0: none; the workers rest until weir_copy_retry() */
    bool error_write; /* it was the target's */
    uint64_t copied;  /* bytes done so far, repeats included */
    uint64_t taken;   /* bytes under way, marked no more */
    /* The last pass over the disk left hardly less to do than the one before: guests are as fast as we. */
    bool falling_behind;
    unsigned workers;
};

struct weir_copy *weir_copy_new(const struct weir_copy_options *options);
void weir_copy_start(struct weir_copy *copy);
/* The bitmap has new marks. Any thread; cheap while the workers are busy. */
void weir_copy_kick(struct weir_copy *copy);
void weir_copy_set_speed(struct weir_copy *copy, uint64_t speed);
void weir_copy_set_paused(struct weir_copy *copy, bool paused);
/* Forgets the error and goes on: what failed is still marked. */
void weir_copy_retry(struct weir_copy *copy);
/* Notes a failure seen by somebody else (an active write). */
void weir_copy_note_error(struct weir_copy *copy, int error, bool write);
/*
 * Copies what is marked in the granules that [@offset, @offset + @length) touches, now: whatever the pace, the speed, a
 * pause or an error hold back. What is under way there is waited for. Below a root operation that cannot go on before:
 * it keeps the edges of the transfer in place, and holds no range of the same table. Any loop.
 *
 * 0: nothing is marked or under way there any more. The source's or (*ret_write) the target's error: it is marked
 * again. -ECANCELED: the copy is stopped. -ETIMEDOUT past @limit_ns (-1: none): it may still be writing; as it keeps
 * the range locked until that write is answered, a late one cannot land on newer data.
 */
int weir_copy_now(struct weir_copy *copy, uint64_t offset, uint64_t length, int64_t limit_ns,
                  bool *ret_write) weir_co_fn weir_must_check;
struct weir_copy_state weir_copy_state(struct weir_copy *copy);
/* Stops the workers and waits for them; break the edges first when the storage may hang. Calls stay harmless. */
void weir_copy_stop(struct weir_copy *copy) weir_co_fn;
void weir_copy_free(struct weir_copy *copy); /* stopped, or never started */

#endif

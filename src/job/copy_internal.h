/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the copy engine share: copy.c (workers and pace) and copy_now.c (what a guest waits for).
 */
#ifndef WEIR_JOB_COPY_INTERNAL_H
#define WEIR_JOB_COPY_INTERNAL_H

#include "co/co.h"
#include "job/copy.h"
#include <stdatomic.h>
#include <sys/queue.h>

/* A copy that somebody waits for, or has waited for: in the list until both he and the coroutine are done with it. */
struct copy_urgent {
    struct weir_copy *copy;
    uint64_t offset, length; /* whole granules */
    int64_t deadline_ns;     /* 0: none */
    atomic_bool stop;        /* it is not to wait for its range any longer */
    bool over, left;         /* copy->mutex: the coroutine has ended; nobody waits for it */
    bool write;              /* what it does now, or did at last, is the target's */
    bool counted;            /* among the requests that the target's node was left behind with */
    int result;
    TAILQ_ENTRY(copy_urgent) link;
};

struct weir_copy {
    struct weir_copy_options options;
    struct weir_mutex mutex;
    struct weir_co_queue spare; /* workers wait here that are not needed */
    struct weir_co_queue look;  /* the one that looks for new work */
    struct weir_co_queue turn;  /* those whose chunk has its turn later, by the rate limit */
    struct weir_co_queue ended; /* weir_copy_stop() waits here, and weir_copy_now() */
    struct weir_pace pace;
    unsigned workers, in_flight;
    unsigned blocked;     /* of those in flight: wait for a guest's request in their range */
    bool looking;         /* somebody waits in `look` */
    atomic_bool kickable; /* ... for a kick, however long that takes */
    int64_t rest_ns;      /* until when guests have their part of the time */
    uint64_t cursor;      /* where the next area is looked for */
    uint64_t left;        /* bytes that were marked when the last pass ended; before the first: all */
    bool caught_up;       /* nothing was marked, or in flight, at some moment */
    bool falling_behind;  /* hardly less was marked at the end of that pass than of the one before */
    atomic_bool stop;     /* set under the mutex */
    bool paused;
    int error;
    bool error_write;
    uint64_t copied;
    _Atomic uint64_t taken; /* bytes that were marked and are under way */
    TAILQ_HEAD(, copy_urgent) urgent;
    struct weir_transfer_seen seen; /* workers only */
    int64_t due_ns;                 /* rate limit: when the next chunk may start */
};

/*
 * Takes what is marked in an area through, whose range is locked. *ret_done says whether anything was: then @length is
 * counted as `taken`.
 */
int copy_transfer_area(struct weir_copy *copy, const struct weir_transfer *transfer, uint64_t offset,
                       uint64_t length, struct weir_buffer *buffer, struct weir_transfer_seen *seen,
                       bool *ret_done, bool *ret_write) weir_co_fn;
/* @length bytes are copied: under a speed, the next chunk's turn comes by so much later. Mutex held. */
void copy_charge(struct weir_copy *copy, uint64_t length);
/* None waits for its range any longer; weir_range_table_wake() follows. Mutex held. */
void copy_stop_urgent(struct weir_copy *copy);

#endif

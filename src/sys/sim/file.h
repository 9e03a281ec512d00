/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to the simulator's files: the file, and a request on it in any way of calling.
 */
#ifndef WEIR_SYS_SIM_FILE_H
#define WEIR_SYS_SIM_FILE_H

#include "sys/sim/disk.h"

/* What a request does. */
enum sim_action {
    SIM_READ,
    SIM_WRITE,
    SIM_FLUSH,
    SIM_FALLOCATE, /* flags: the mode */
    SIM_TRUNCATE,  /* offset: the new size */
    SIM_DISCARD,
    SIM_ZERO_OUT,
    SIM_CONTROL_CALL, /* only takes its time and may fail */
};

struct sim_request {
    struct weir_sim_file *file;
    struct sim_open *open; /* NULL for calls by name */
    enum sim_action action;
    unsigned flags; /* RWF_*, or the mode */
    const struct iovec *iov;
    unsigned iovcnt;
    uint64_t offset, length;

    /* What the seed decided. */
    int error;      /* the end's result; 0: success */
    uint64_t limit; /* bytes it moves at most */
    uint64_t first; /* bytes that take effect in a first step; 0: one step only */
    int64_t latency;
    bool stuck;
    uint64_t serial; /* flushes: what was complete when it began */

    uint64_t moved;
    struct sim_change *change;     /* NULL: changes nothing */
    TAILQ_ENTRY(sim_request) link; /* world->requests */

    /* While it is stuck. */
    void (*release)(struct sim_request *request);
    void *waiter;
    TAILQ_ENTRY(sim_request) stuck_link;
};

struct sim_bad_range {
    uint64_t offset, length;
    bool read, write;
};

struct sim_lock {
    struct sim_open *owner;
    enum weir_sys_lock kind;
    uint64_t start, end; /* end: first byte behind it */
    TAILQ_ENTRY(sim_lock) link;
};

struct weir_sim_file {
    unsigned id;
    char *name; /* NULL: unlinked */
    struct weir_sim_file_options options;
    struct sim_disk *disk;
    struct weir_sim_faults faults[WEIR_SIM_KINDS];
    unsigned own_faults; /* a bit for each kind that has its own */
    struct sim_bad_range *bad;
    unsigned bad_count;
    uint64_t budget;
    unsigned stick;
    TAILQ_HEAD(, sim_request) stuck;
    unsigned stuck_count;
    bool flush_broken;
    TAILQ_HEAD(, sim_lock) locks;
    TAILQ_ENTRY(weir_sim_file) link;
};

/* ---- file_request.c ---- */

/*
 * Checks a request, decides its fate and begins it. Returns 1, or its result when it has ended at once. @wait:
 * the call may take time (else: at once, but it may get stuck).
 */
int64_t sim_request_begin(struct sim_request *request);
/* Lets the bytes before @upto take effect. */
void sim_request_apply(struct sim_request *request, uint64_t upto);
/* Everything takes effect; returns the result. */
int64_t sim_request_finish(struct sim_request *request);
/* It ends here: what has not taken effect will not. */
void sim_request_abandon(struct sim_request *request);
/* Waits on the file until somebody releases it, then calls release(). */
void sim_request_stick(struct sim_request *request, void (*release)(struct sim_request *request),
                       void *waiter);
/* The current thread does it. @at_once: without a wait, unless it gets stuck. */
int64_t sim_request_call(struct sim_request *request, bool at_once);
/* Time, EIO and getting stuck for a call that is none of the above. */
int sim_file_control(struct weir_sim_file *file, struct sim_open *open);

/* ---- file_lock.c ---- */

void sim_locks_drop(struct weir_sim_file *file, const struct sim_open *owner); /* NULL: everybody's */

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the mirror job share: mirror.c (the run and the verbs), mirror_start.c, mirror_mark.c (what is to
 * be copied at first) and mirror_end.c (pivot, and taking the filter out).
 */
#ifndef WEIR_JOB_MIRROR_INTERNAL_H
#define WEIR_JOB_MIRROR_INTERNAL_H

#include "base/alloc.h"
#include "filter/mirror_top.h"
#include "graph/graph.h"
#include "job/copy.h"
#include "job/mirror.h"
#include "sys/sys.h"

/* How long letting go of a target that does not answer may take. */
#define MIRROR_LET_GO_NS (500 * 1000000LL)

/*
 * What the filter reaches. It outlives the job where the filter cannot be taken out at once (a source that hangs), so
 * it stands apart and is freed only after the filter is gone.
 */
struct mirror_parts {
    struct weir_node *source, *target, *top; /* references */
    struct weir_bitmap *bitmap;
    struct weir_bitmap *written; /* target-is-zero: where it may be zero no more; else NULL */
    struct weir_copy *copy;
    struct weir_mutex mutex;
    struct weir_job *job; /* NULL once the job has ended; mutex */
};

struct mirror {
    struct weir_job job;
    struct mirror_parts *parts;
    struct weir_edge *edge; /* our root edge, on top */
    enum weir_mirror_sync sync;
    enum weir_mirror_mode mode; /* at the start */
    enum weir_job_on_error on_source_error, on_target_error;
    struct weir_drain drain; /* of the pivot; a cancel ends the wait for it */
    char *replaces;          /* node that the target takes the place of; NULL: the source */
    bool marked;             /* what is to be copied at first is marked */
    bool complete_asked;
    bool pivoting; /* too late to cancel: the users are about to move, or have */
    bool pivoted;
    bool inserted; /* top stands between the source and its users */
    /* SYNC_ABOVE: COW links from the source down to the target; frozen; what is read-only again without a pivot. */
    unsigned depth;
    bool frozen;
    struct weir_writable writable;
};

static inline struct mirror *mirror_of(struct weir_job *job)
{
    return weir_container_of(job, struct mirror, job);
}

extern const struct weir_job_driver weir_mirror_driver, weir_commit_head_driver;

/* SYNC_ABOVE: the links of the chain may change again. Lock held. */
void mirror_thaw(struct mirror *mirror);

void mirror_parts_free(struct mirror_parts *parts);
/* Brings job->progress and job->total up to date. */
void mirror_update(struct weir_job *job);
/*
 * An I/O error @error of the source or (@write) the target: the policy decides. 0: try again, after a rest or once it
 * is resumed; else the job fails with it.
 */
int mirror_io_error(struct mirror *mirror, int error, bool write) weir_co_fn;
/* Looks at the state of the copy once, for as long as errors are ignored or resumed from. */
int mirror_settle_errors(struct mirror *mirror, struct weir_copy_state *ret_state) weir_co_fn;
/* Lets nobody wait for either side any more. */
void mirror_let_go(struct mirror *mirror);

/* Marks what sync=top begins with. 0, or -errno and the job has failed or is cancelled. */
int mirror_mark_top(struct mirror *mirror) weir_co_fn;

/*
 * The node @name, if the target may take its place: its readers see what those of @source see. The caller owns no
 * reference.
 */
int mirror_find_replaced(struct weir_node *source, const char *name, struct weir_node **ret_node,
                         struct weir_error **err);

int mirror_prepare(struct weir_job *job) weir_co_fn;
void mirror_clean(struct weir_job *job) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the commit job share: commit.c (run, end, verbs), commit_start.c and commit_base.c (the base, made
 * fit to be written to).
 */
#ifndef WEIR_JOB_COMMIT_INTERNAL_H
#define WEIR_JOB_COMMIT_INTERNAL_H

#include "graph/graph.h"
#include "job/commit.h"
#include "job/copy_job.h"
#include "sys/sys.h"

#define COMMIT_OVERLAYS_MAX 8

struct commit {
    struct weir_copy_job own;
    struct weir_node *top, *base;  /* references */
    unsigned depth;                /* COW links from the top down to the base */
    bool frozen;                   /* the links between them are */
    struct weir_writable writable; /* what had to be made writable of the base */
    char *backing_file;
    bool mask_protocol;
};

static inline struct commit *commit_of(struct weir_job *job)
{
    return weir_container_of(job, struct commit, own.job);
}

extern const struct weir_job_driver weir_commit_driver;

/* Makes @base writable, and as long as @size at least. On failure it is as it was, but for its size. */
int commit_base_take(struct weir_node *base, uint64_t size, struct weir_writable *ret_writable,
                     struct weir_error **err) weir_co_fn weir_must_check;
/* What was read-only is so again. Where it cannot be drained, or somebody writes to it, it stays writable. */
void commit_base_give_back(struct weir_node *base, struct weir_writable *writable) weir_co_fn;

#endif

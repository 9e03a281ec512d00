/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What jobs have in common that go over a disk once by the copy engine, below a filter of their own: stream and commit.
 * Control loop, unless said otherwise.
 */
#ifndef WEIR_JOB_COPY_JOB_H
#define WEIR_JOB_COPY_JOB_H

#include "base/bitmap.h"
#include "graph/graph.h"
#include "job/copy.h"
#include "job/job.h"

struct weir_copy_job {
    struct weir_job job;
    struct weir_node *filter; /* reference; NULL: it is out, or is being taken out */
    bool inserted;            /* the filter stands between the node and its users */
    struct weir_edge *edge;   /* root edge on the filter */
    struct weir_bitmap *bitmap;
    struct weir_range_table *ranges;
    struct weir_copy *copy;
    enum weir_job_on_error on_error;
    struct weir_node *source, *target; /* whose names errors say; borrowed */
};

static inline struct weir_copy_job *weir_copy_job_of(struct weir_job *job)
{
    return weir_container_of(job, struct weir_copy_job, job);
}

/* The root edge on own->filter. */
int weir_copy_job_attach(struct weir_copy_job *own, struct weir_error **err) weir_co_fn weir_must_check;
/* The bitmap, without marks, and the engine. @options: what differs (transfer, ranges, move, opaque). */
int weir_copy_job_make(struct weir_copy_job *own, const struct weir_copy_options *options,
                       struct weir_error **err) weir_must_check;
/* Takes back what was made of a job that has not started, and discards it. */
void weir_copy_job_unmake(struct weir_copy_job *own) weir_co_fn;

/*
 * Copies until nothing is marked. @look (NULL: nothing) is called whenever something has changed. 0, or the job has
 * failed or is cancelled.
 */
int weir_copy_job_run(struct weir_copy_job *own, void (*look)(struct weir_copy_job *own)) weir_co_fn;
/* "Could not read 'file': text"; returns @error. */
int weir_copy_job_fail(struct weir_copy_job *own, int error, bool write);
/* Stops the engine and leaves the filter's node. */
void weir_copy_job_leave(struct weir_copy_job *own) weir_co_fn;

/* Slots of struct weir_job_driver. */
void weir_copy_job_set_speed(struct weir_job *job, uint64_t speed);
void weir_copy_job_pause_changed(struct weir_job *job);
void weir_copy_job_update(struct weir_job *job);
void weir_copy_job_free(struct weir_job *job);

#endif

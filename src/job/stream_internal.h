/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the stream job share: stream.c (run, end, verbs) and stream_start.c.
 */
#ifndef WEIR_JOB_STREAM_INTERNAL_H
#define WEIR_JOB_STREAM_INTERNAL_H

#include "base/alloc.h"
#include "base/bitmap.h"
#include "graph/graph.h"
#include "job/copy.h"
#include "job/stream.h"
#include <stdatomic.h>

struct stream {
    struct weir_job job;
    /* References: the node below the filter, its first layer that is no filter, the lowest layer that goes. */
    struct weir_node *device, *top, *bottom;
    struct weir_node
        *base; /* reference: what the top stands on afterwards; NULL: whatever `bottom` stands on */
    struct weir_node *filter; /* reference; NULL: it is out */
    bool inserted;
    struct weir_edge *edge; /* root edge on the filter */
    struct weir_bitmap *bitmap;
    struct weir_range_table *ranges;
    struct weir_copy *copy;
    char *backing_file;
    bool mask_protocol;
    enum weir_job_on_error on_error;
    /* on-error=ignore: the first error that was passed over, and whose it was. Any loop. */
    atomic_int ignored;
    atomic_bool ignored_write;
};

static inline struct stream *stream_of(struct weir_job *job)
{
    return weir_container_of(job, struct stream, job);
}

extern const struct weir_job_driver weir_stream_driver;

#endif

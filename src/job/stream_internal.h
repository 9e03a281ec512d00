/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the stream job share: stream.c (run, end, verbs) and stream_start.c.
 */
#ifndef WEIR_JOB_STREAM_INTERNAL_H
#define WEIR_JOB_STREAM_INTERNAL_H

#include "job/copy_job.h"
#include "job/stream.h"
#include <stdatomic.h>

struct stream {
    struct weir_copy_job own;
    /* References: the node below the filter, its first layer that is no filter, the lowest layer that goes. */
    struct weir_node *device, *top, *bottom;
    struct weir_node
        *base; /* reference: what the top stands on afterwards; NULL: whatever `bottom` stands on */
    char *backing_file;
    bool mask_protocol;
    /* on-error=ignore: the first error that was passed over, and whose it was. Any loop. */
    atomic_int ignored;
    atomic_bool ignored_write;
    bool told; /* of that */
};

static inline struct stream *stream_of(struct weir_job *job)
{
    return weir_container_of(job, struct stream, own.job);
}

extern const struct weir_job_driver weir_stream_driver;

#endif

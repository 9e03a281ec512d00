/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The stream job: brings what a node reads from layers below it into the node, and then takes these layers out of its
 * chain.
 */
#ifndef WEIR_JOB_STREAM_H
#define WEIR_JOB_STREAM_H

#include "base/error.h"
#include "job/job.h"

/* Of @base, @base_node and @bottom one at most; none: the whole chain. Texts are borrowed for the call. */
struct weir_stream_options {
    const char *job_id;
    const char *device;           /* node name */
    const char *base;             /* file name of the layer that stays */
    const char *base_node;        /* node name of the same, or of a filter above it */
    const char *bottom;           /* node name of the lowest layer that goes */
    const char *backing_file;     /* what the image calls its backing file afterwards; NULL: by the node */
    const char *filter_node_name; /* NULL: automatic */
    bool mask_protocol;           /* a protocol is called "raw" in the image */
    uint64_t speed;               /* bytes/s, 0 = unlimited */
    enum weir_job_on_error on_error;
    bool auto_finalize, auto_dismiss;
};

/* block-stream: checks, puts a copy-on-read filter in, starts the job. On failure nothing has changed. Control loop. */
int weir_stream_start(const struct weir_stream_options *options,
                      struct weir_error **err) weir_co_fn weir_must_check;

#endif

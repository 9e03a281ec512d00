/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The commit job: brings what the layers of a chain hold down into one of them, and then takes these layers out.
 */
#ifndef WEIR_JOB_COMMIT_H
#define WEIR_JOB_COMMIT_H

#include "base/error.h"
#include "job/job.h"

/* Texts are borrowed for the call. */
struct weir_commit_options {
    const char *job_id;
    const char *device;           /* node name: the head of the chain */
    const char *base, *base_node; /* the layer that stays, by file or by node; neither: the lowest */
    const char *top, *top_node;   /* the highest layer that goes, by file or by node; neither: the device */
    const char *backing_file; /* what the layer above calls its backing file afterwards; NULL: by the node */
    const char *filter_node_name; /* NULL: automatic */
    bool mask_protocol;           /* a protocol is called "raw" in the image */
    uint64_t speed;               /* bytes/s, 0 = unlimited */
    enum weir_job_on_error on_error;
    bool auto_finalize, auto_dismiss;
};

/*
 * block-commit. Where nobody writes to the top and it is not the head, the job ends by itself; else it is a mirror to
 * the base, which gets ready and is completed. A base that is read-only is made writable, one that is smaller grows.
 * Control loop.
 */
int weir_commit_start(const struct weir_commit_options *options,
                      struct weir_error **err) weir_co_fn weir_must_check;

#endif

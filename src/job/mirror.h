/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The mirror job: copies a node to another while guests write, and lets its users move over (pivot).
 */
#ifndef WEIR_JOB_MIRROR_H
#define WEIR_JOB_MIRROR_H

#include "base/error.h"
#include "job/job.h"

enum weir_mirror_copy_mode { WEIR_MIRROR_COPY_BACKGROUND, WEIR_MIRROR_COPY_WRITE_BLOCKING };

struct weir_mirror_options {
    const char *job_id;
    const char *device, *target;  /* node names */
    const char *filter_node_name; /* NULL: automatic */
    uint64_t speed;               /* bytes/s, 0 = unlimited */
    uint64_t granularity;         /* bytes, 0 = 64 KiB */
    enum weir_mirror_copy_mode copy_mode;
    enum weir_job_on_error on_source_error, on_target_error;
    bool auto_finalize, auto_dismiss;
};

/* Whether every guest write reaches the target before it is answered, and nothing is left to copy. */
bool weir_mirror_actively_synced(struct weir_job *job);

/*
 * blockdev-mirror with sync=full: checks, inserts the filter and starts the job. On failure the graph is what it
 * was. What the job itself finds (different sizes) ends the job, not the command. Control loop.
 */
int weir_mirror_start(const struct weir_mirror_options *options,
                      struct weir_error **err) weir_co_fn weir_must_check;

#endif

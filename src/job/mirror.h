/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The mirror job: copies a node to another while guests write, and lets its users move over (pivot).
 */
#ifndef WEIR_JOB_MIRROR_H
#define WEIR_JOB_MIRROR_H

#include "base/error.h"
#include "job/job.h"

enum weir_mirror_copy_mode { WEIR_MIRROR_COPY_BACKGROUND, WEIR_MIRROR_COPY_WRITE_BLOCKING };

/* What a mirror begins with. */
enum weir_mirror_sync {
    WEIR_MIRROR_SYNC_FULL, /* the whole disk */
    WEIR_MIRROR_SYNC_TOP,  /* what the source holds itself, not its backing chain */
    WEIR_MIRROR_SYNC_NONE, /* nothing: only new writes */
    /* What the layers above the target hold, which is a layer of the source's own chain: the commit of a head. */
    WEIR_MIRROR_SYNC_ABOVE,
};

#define WEIR_MIRROR_MEMORY_DEFAULT ((uint64_t)16 << 20)

struct weir_mirror_options {
    const char *job_id;
    const char *device, *target;  /* node names */
    const char *filter_node_name; /* NULL: automatic */
    const char *replaces;         /* node that the target takes the place of; NULL: the source */
    enum weir_mirror_sync sync;
    uint64_t speed;       /* bytes/s, 0 = unlimited */
    uint64_t granularity; /* bytes, 0: by the target */
    uint64_t memory;      /* bytes that a copy may hold at a time, 0 = 16 MiB; one granule at least */
    unsigned share;      /* percent of the time that the copy works at least, 1 to 100, 0 = 20 (job/pace.h) */
    bool unmap;          /* zeroes may be given up on the target */
    bool target_is_zero; /* promised: all of the target reads as zero. With sync=full only */
    enum weir_mirror_copy_mode copy_mode;
    enum weir_job_on_error on_source_error, on_target_error;
    bool auto_finalize, auto_dismiss;
    /* SYNC_ABOVE: what was made writable for the job, which takes it over when it has started. */
    struct weir_writable *writable;
};

/*
 * Whether every guest write reaches the target before it is answered, and nothing is left to copy. Stays so until the
 * mode is changed, the target fails, or a guest's write or discard does.
 */
bool weir_mirror_actively_synced(struct weir_job *job);

/*
 * Whether it will get in sync if guests go on as they do: false in background mode when the last pass over the disk
 * left hardly less to copy (7/8, and more than a 64th of the disk) than the one before.
 */
bool weir_mirror_converges(struct weir_job *job);

/*
 * block-job-change: the mode of writes that come from now on, in both directions, also while it is paused or ready.
 * Refused once it is completing. Control loop.
 */
int weir_mirror_change(struct weir_job *job, enum weir_mirror_copy_mode copy_mode,
                       struct weir_error **err) weir_must_check;

/*
 * blockdev-mirror: checks, inserts the filter and starts the job. On failure the graph is what it
 * was. What the job itself finds (different sizes) ends the job, not the command. Control loop.
 */
int weir_mirror_start(const struct weir_mirror_options *options,
                      struct weir_error **err) weir_co_fn weir_must_check;

struct weir_drive_mirror_options {
    struct weir_mirror_options mirror; /* without a target */
    const char *target;                /* file name */
    const char *format;                /* driver; NULL: as the source, not with @existing */
    const char *node_name;             /* of the target; NULL: automatic */
    bool existing;                     /* use the file as it is; else it is made, and what is there is lost */
};
/*
 * drive-mirror: makes or opens the target and starts the mirror. A file that it made stays on failure. Control loop.
 */
int weir_drive_mirror_start(const struct weir_drive_mirror_options *options,
                            struct weir_error **err) weir_co_fn weir_must_check;

#endif

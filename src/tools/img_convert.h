/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img convert: what the command (img_convert.c) asks of the copy (img_convert_copy.c).
 */
#ifndef WEIR_TOOLS_IMG_CONVERT_H
#define WEIR_TOOLS_IMG_CONVERT_H

#include "co/co.h"
#include "tools/img.h"

#define CONVERT_WORKERS_MAX 16u

struct convert_source {
    const char *name;
    struct weir_edge *edge;
    uint64_t start, size; /* where it begins in the target */
};

struct waiting; /* see img_convert_copy.c */

struct convert {
    /* ---- given ---- */
    const struct img *img;
    struct convert_source *sources;
    unsigned source_count;
    const char *target_name;
    struct weir_edge *target;
    uint64_t size; /* of all sources together */
    uint64_t
        zero_from; /* from here on the target reads zero where nothing was written; UINT64_MAX: nowhere */
    uint64_t sparse_size; /* zeroes in a row that make a hole; 0: everything is written */
    uint64_t speed;       /* bytes/s, 0: unlimited */
    unsigned workers, write_flags;
    bool based;         /* the target has a backing file: what the source itself does not hold is left out */
    bool compressed;    /* whole clusters, in any order */
    bool out_of_order;  /* writes need not come one after the other */
    bool salvage;       /* what cannot be read becomes zero */
    bool salvage_quiet; /* without a word about it */
    struct img_progress progress;

    /* ---- the copy's own ---- */
    uint64_t unit;                    /* pieces begin and end at multiples of it */
    struct weir_co_mutex cursor_lock; /* guards the next four */
    uint64_t cursor, issued;          /* issued: pieces handed out so far */
    uint64_t status_end;              /* what `status` says holds up to here */
    struct weir_status status;
    struct weir_mutex mutex; /* guards what follows */
    struct weir_co_queue writer;
    unsigned reading;         /* workers that may bring another piece */
    uint64_t turn;            /* the piece that is written next, or now */
    struct waiting **waiting; /* what was read: piece n at n % workers */
    uint64_t done;            /* bytes */
    int64_t due_ns;
    bool failed;
};

/* Copies everything; 0, or 1 after a complaint. */
int convert_copy(struct convert *convert) weir_co_fn;

#endif

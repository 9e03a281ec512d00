/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The check of a qcow2 image's metadata, and its repair. Independent of the driver: it reads and writes the image by
 * the edges it is given, so whoever calls it has written back and drops every table of its own, and nothing else
 * changes the image meanwhile.
 *
 * What is repaired, and in which order so that a crash in between never makes it worse: counts too low are raised,
 * then copied flags are made to agree, then marks in the header are cleared, each durable before the next. Where the
 * refcount table itself is broken, or lacks a block, all counts are written anew behind the end of the file, and the
 * header is switched over to them at last. Reserved bits are cleared where the rest of the entry makes sense.
 *
 * What is not, because that would be a guess about data or might change something else: entries that point to no
 * cluster (unaligned, beyond the end of the file), clusters that are data and metadata at once, subclusters that are
 * both or have no cluster, external data that is not where the guest's offset is, tables of wrong sizes, snapshot
 * tables and bitmap directories that end too early. Where tables share clusters with each other, with guest data or
 * with the header, nothing is repaired at all (refcounts that do are moved away). While there is any entry that could
 * not be followed, nothing is freed: what looks leaked may be what that entry meant.
 */
#ifndef WEIR_FORMAT_QCOW2_CHECK_H
#define WEIR_FORMAT_QCOW2_CHECK_H

#include "format/qcow2/layout.h"
#include "graph/driver.h"

/* A file of more clusters is not checked (-EFBIG): 128 TiB with the usual 64 KiB. */
#define QCOW2_CHECK_CLUSTERS_MAX ((uint64_t)1 << 31)
/* The same for different L2 tables, and for areas of other metadata that do not touch. */
#define QCOW2_CHECK_L2_MAX ((size_t)4 << 20)
#define QCOW2_CHECK_REGIONS_MAX ((size_t)1 << 20)

struct qcow2_check_source {
    struct weir_edge *file;
    struct weir_edge *data; /* the external data file; same as file, or NULL, where there is none */
    const struct qcow2_header *header; /* as qcow2_header_parse() gave it */
    struct qcow2_header *ret_header;   /* may be NULL: the header as it is after a repair */
};

/*
 * Below a root operation, drained. @fix: enum weir_check_fix. @report gets a line, without its end, for each finding
 * and each repair; may be NULL. After a repair the result tells what a second look found. Negative: the check could
 * not be done (-EFBIG too large, -ENOMEM, I/O errors of writes); faults found are no such thing. Takes at most 256 MiB.
 */
int qcow2_check(const struct qcow2_check_source *source, unsigned fix, struct weir_check_result *ret_result,
                void (*report)(void *arg, const char *line), void *arg,
                struct weir_error **err) weir_co_fn weir_must_check;

#endif

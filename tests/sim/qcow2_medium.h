/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2 images on the simulated medium, by code of the tests' own: made, judged and read without the driver. Of the
 * library only the numbers and structs of format/qcow2/layout.h are used.
 *
 *   qcow2_make.c   a fresh image, content laid down before its first life, internal snapshots (node closed)
 *   qcow2_walk.c   the judgement: every cluster is counted as it is referenced
 *   qcow2_view.c   what a guest would read, of the active disk or of a snapshot
 *
 * What is written here is durable at once. Whatever is wrong ends in qcow2_medium_fail().
 */
#ifndef WEIR_TESTS_SIM_QCOW2_MEDIUM_H
#define WEIR_TESTS_SIM_QCOW2_MEDIUM_H

#include "format/qcow2/layout.h"
#include "sys/sim/sim.h"

/* Every program that links this says how it fails. */
_Noreturn void qcow2_medium_fail(const char *format, ...) weir_printf(1, 2);

/* An image: its file, and the file that holds the guest's data where that is another one (else NULL). */
struct qcow2_medium {
    struct weir_sim_file *file, *data;
};

struct qcow2_medium_params {
    uint64_t size; /* bytes of the guest's disk */
    unsigned version, cluster_bits, refcount_order;
    bool extended_l2, data_raw, lazy_refcounts, zstd, short_header;
    unsigned l1_spare; /* entries of the L1 table more than the size needs */
    uint64_t skip;     /* clusters that are counted although nothing uses them: leaks that are known */
};

/* An empty image that is durable. @medium->data: the data is external. */
void qcow2_medium_make(const struct qcow2_medium *medium, const struct qcow2_medium_params *params);

enum qcow2_lay {
    QCOW2_LAY_PLAIN,
    QCOW2_LAY_STORED, /* compressed; several share a host cluster where their counts allow it */
    QCOW2_LAY_ZERO,   /* version 3: reads as zero, without space */
    QCOW2_LAY_KEPT,   /* version 3: reads as zero, keeps a cluster whose content does not show */
};
/* Puts a cluster of the guest's down that was not mapped; @bytes: all of it. False: it does not compress. */
bool qcow2_medium_lay(const struct qcow2_medium *medium, uint64_t guest_cluster, const void *bytes,
                      enum qcow2_lay how);
/*
 * Takes an internal snapshot. False where the format cannot have one (external data) or a count would not fit: then
 * nothing has changed.
 */
bool qcow2_medium_snapshot(const struct qcow2_medium *medium);

struct qcow2_medium_report {
    uint64_t size; /* bytes of the guest's disk */
    uint64_t leaks /* references that are counted but do not exist */;
    uint64_t l2_tables, l2_owned; /* of the active disk; these alone refer to it */
    uint64_t data_clusters, stored_clusters, kept_zeroes, count_blocks;
    uint64_t count_table_offset, l1_offset;
    unsigned snapshots;
    bool dirty;
};
/*
 * Judges all metadata. A count lower than the references, a wrong COPIED flag, a pointer out of place, an overlap are
 * failures always; counts that are too high are added up in @ret_report. An image that is marked dirty (lazy counts)
 * is judged without its counts and flags.
 */
void qcow2_medium_walk(const struct qcow2_medium *medium, const char *where,
                       struct qcow2_medium_report *ret_report);

/* What lies behind: fills @out with @length bytes at @offset of the backing disk. */
typedef void qcow2_medium_backing(void *arg, uint64_t offset, uint64_t length, uint8_t *out);
/* Reads [@offset, @offset + @length) of the active disk (@view 0) or of the snapshot number @view - 1. */
void qcow2_medium_read(const struct qcow2_medium *medium, unsigned view, uint64_t offset, uint64_t length,
                       uint8_t *out, qcow2_medium_backing *backing, void *arg);

#endif

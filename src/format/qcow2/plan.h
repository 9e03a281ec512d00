/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layout of a new image, as arithmetic: where everything will be, and what the metadata in a range looks like.
 * Pure functions; any thread, nothing waits.
 *
 *   header | refcount table | refcount blocks | L1 table | L2 tables | data
 *
 * Every part is contiguous. L2 tables and data exist in mapped images only; with an external data file the data is
 * there, each cluster at its guest offset.
 */
#ifndef WEIR_FORMAT_QCOW2_PLAN_H
#define WEIR_FORMAT_QCOW2_PLAN_H

#include "base/error.h"
#include "format/qcow2/layout.h"

struct qcow2_plan {
    struct qcow2_header header;     /* as wanted, with the places of its tables */
    bool mapped;                    /* every cluster of the guest's disk has one on the host */
    uint64_t blocks_offset, blocks; /* refcount blocks */
    uint64_t l2_offset, l2_tables;
    uint64_t
        data_offset; /* where the metadata ends and the data begins; in the external file it begins at 0 */
    uint64_t end;    /* bytes of the image file; whole clusters */
};

/*
 * Plans an image of @header->size bytes with the features of @header; the places in it are not looked at. -EFBIG
 * for what the format cannot describe.
 */
int qcow2_plan_make(const struct qcow2_header *header, bool mapped, struct qcow2_plan *ret_plan,
                    struct weir_error **err) weir_must_check;
/*
 * The metadata in [@offset, @offset + @length), with zeroes where the header and the data are. Both are multiples of
 * 8 bytes; the range may be any other.
 */
void qcow2_plan_fill(const struct qcow2_plan *plan, uint64_t offset, uint64_t length, void *bytes);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bringing a range from one edge to another: what a copy, an active mirror and every later copying job do with the two
 * sides of theirs. All requests can be left behind (io/async.h). The caller holds whatever keeps others off the range.
 */
#ifndef WEIR_IO_TRANSFER_H
#define WEIR_IO_TRANSFER_H

#include "io/request.h"

struct weir_bitmap;
struct weir_edge;

struct weir_transfer {
    struct weir_edge *source, *target;
    /*
     * Where the target may hold something else than zeroes; NULL where nothing is known of it. A range without marks
     * is not zeroed again. Marks are set before data is written, and cleared when whole granules were zeroed.
     */
    struct weir_bitmap *written;
    bool unmap; /* zeroes may be given up on the target */
    /*
     * 0, or: reads and status are left behind past this moment, and no write begins, with -ETIMEDOUT. A write that has
     * begun is waited for.
     */
    int64_t deadline_ns;
    /* Advice that goes with reads and status, and with writes (WEIR_REQUEST_BULK, _APART). */
    unsigned read_flags, write_flags;
};

/* Where the source was seen to store data: read without asking again, which some file systems answer slowly. */
struct weir_transfer_seen {
    uint64_t offset, end;
    bool rough; /* holes may be among it */
};

/* Block status of the beginning of a range, of the whole chain below @edge. @flags: WEIR_REQUEST_BULK or none. */
int weir_transfer_look(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                       int64_t deadline_ns, struct weir_status *ret_status) weir_co_fn weir_must_check;
/*
 * Copies [@offset, @offset + @length), following what the source says about zeroes, as much as @buffer holds at a time.
 * *ret_write says whose a failure is: the target's, else the source's. @seen: of calls on one loop, or NULL.
 */
int weir_transfer_range(const struct weir_transfer *transfer, uint64_t offset, uint64_t length,
                        struct weir_buffer *buffer, struct weir_transfer_seen *seen,
                        bool *ret_write) weir_co_fn weir_must_check;
/* Performs a WRITE or ZERO on the target. */
int weir_transfer_write(const struct weir_transfer *transfer,
                        struct weir_request *request) weir_co_fn weir_must_check;

#endif

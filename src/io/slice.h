/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A part of an I/O vector, without allocation for the short vectors that nearly all requests have.
 */
#ifndef WEIR_IO_SLICE_H
#define WEIR_IO_SLICE_H

#include "base/alloc.h"
#include "base/iov.h"

#define WEIR_SLICE_INLINE 8

struct weir_slice {
    struct iovec few[WEIR_SLICE_INLINE];
    struct iovec *iov;
    unsigned count;
};

/* @slice shows [@offset, @offset + @length) of the vector until weir_slice_done(). */
static inline void weir_slice_init(struct weir_slice *slice, const struct iovec *iov, unsigned count,
                                   uint64_t offset, uint64_t length)
{
    slice->iov = count <= WEIR_SLICE_INLINE ? slice->few : weir_new_array(struct iovec, count);
    slice->count = weir_iov_slice(iov, count, offset, length, slice->iov);
}
static inline void weir_slice_done(struct weir_slice *slice)
{
    if (slice->iov != slice->few)
        free(slice->iov);
}

#endif

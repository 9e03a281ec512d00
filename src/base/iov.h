/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * I/O vectors: lengths, slices, fills. Plain functions on struct iovec arrays; nothing is owned.
 */
#ifndef WEIR_BASE_IOV_H
#define WEIR_BASE_IOV_H

#include "base/macros.h"
#include <sys/uio.h>

/* The most vector elements one request may have (Linux's own limit). */
#define WEIR_IOV_MAX 1024

/* Bytes in all elements. */
uint64_t weir_iov_length(const struct iovec *iov, unsigned count);
/*
 * Writes to @ret_iov the elements that cover [@offset, @offset + @length) of @iov and returns how many; never
 * more than @count. The range must lie inside the vector. @ret_iov has room for @count elements.
 */
unsigned weir_iov_slice(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length,
                        struct iovec *ret_iov);
/* Copies @length bytes between a flat buffer and the vector from @offset on. */
void weir_iov_from_buffer(const struct iovec *iov, unsigned count, uint64_t offset, const void *buffer,
                          uint64_t length);
void weir_iov_to_buffer(const struct iovec *iov, unsigned count, uint64_t offset, void *buffer,
                        uint64_t length);
/* Sets @length bytes of the vector from @offset on to @byte. */
void weir_iov_fill(const struct iovec *iov, unsigned count, uint64_t offset, int byte, uint64_t length);
/* Whether [@offset, @offset + @length) of the vector holds zeroes only. */
bool weir_iov_is_zero(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length);
/* Whether @length bytes at @buffer are zero. */
bool weir_buffer_is_zero(const void *buffer, size_t length);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * copy-on-read: what is read from further down a backing chain is stored in its top.
 *
 * The filter may stand anywhere above the format that allocates, also with other filters between. It writes with
 * WEIR_REQUEST_UNCHANGED: where the format has something of its own by then, that stays. So it needs no more than
 * the permission write-unchanged, and no lock against guests, whichever way their writes take.
 */
#ifndef WEIR_FILTER_COPY_ON_READ_H
#define WEIR_FILTER_COPY_ON_READ_H

#include "graph/node.h"
#include "io/buffer.h"

extern const struct weir_driver weir_driver_copy_on_read;

/*
 * Stores what [@offset, @offset + @length) reads from below the top (down to `bottom`), for nobody who waits for it. 0
 * or the first error; *ret_write: it was of a write. At most @buffer->size bytes are under way at a time. Below a root
 * operation.
 */
int weir_copy_on_read_fill(struct weir_node *node, uint64_t offset, uint64_t length, unsigned flags,
                           struct weir_buffer *buffer, bool *ret_write) weir_co_fn weir_must_check;

#endif

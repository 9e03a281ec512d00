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
 * For a job that has made the filter, with `bottom`: stores what [@offset, @offset + @length) reads from layers down to
 * it, and zeroes where one of them ends early, so that the top does without them. 0 or the first error; *ret_write: it
 * was of a write. At most @buffer->size bytes are under way at a time. Below a root operation. Any loop.
 */
int weir_copy_on_read_fill(struct weir_node *node, uint64_t offset, uint64_t length, unsigned write_flags,
                           struct weir_buffer *buffer, bool *ret_write) weir_co_fn weir_must_check;
/* Lets nobody wait for requests of weir_copy_on_read_fill() any more. Any thread. */
void weir_copy_on_read_let_go(struct weir_node *node);
/* The links down to `bottom` may change again. Lock held. */
void weir_copy_on_read_thaw(struct weir_node *node);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The core: request -> range lock -> map -> move -> commit.
 *
 * Root users (exports, jobs, tools) enter by weir_root_*(): through the gate of their edge, with admission, checks
 * against the size of the node, permissions and statistics. Filters, formats and the core itself go down by
 * weir_io() on their own child edges. Both return 0 or -errno (first error of a request wins; a request is
 * answered when all its pieces have ended). Errors: -EINVAL beyond the end (-ENOSPC for writes there), -EPERM
 * writes to read-only nodes or without the permission, -ENOTSUP ZERO with NO_FALLBACK, -ENOMEDIUM edge detached,
 * and what leaves return.
 *
 * What is ordered: requests that overlap in time may take effect in either order, per 512 bytes atomically for
 * what one child write covers; a request sees everything answered before it was issued. A flush makes everything
 * durable that was answered before the flush was issued.
 */
#ifndef WEIR_IO_IO_H
#define WEIR_IO_IO_H

#include "graph/node.h"
#include "io/request.h"

/* Registers the core with graph/. Once, before weir_graph_init() is used; see src/io/init.c. */
extern const struct weir_graph_hooks weir_io_hooks;

/* ---- for root users; any loop ---- */
int weir_root_io(struct weir_edge *edge, struct weir_request *request) weir_co_fn weir_must_check;
/*
 * Answers at once, without waiting: 0, -errno, or -EAGAIN when it would have to wait (nothing was done).
 * Needs no coroutine.
 */
int weir_root_try(struct weir_edge *edge, struct weir_request *request) weir_must_check;
/*
 * Issues many: answers at once what needs no waiting, starts a coroutine for each that does, merges neighbours
 * of the batch where that saves calls. done() of each comes exactly once. Needs no coroutine.
 */
void weir_root_batch(struct weir_edge *edge, struct weir_request *const *requests, unsigned count);

/* ---- for filters, formats, the core; below a root operation, any loop ---- */
int weir_io(struct weir_edge *edge, struct weir_request *request) weir_co_fn weir_must_check;
int weir_io_try(struct weir_edge *edge, struct weir_request *request) weir_must_check;
/* Lets others on this loop have their turn: in the middle of long work of the driver's own. */
void weir_io_pause(void) weir_co_fn;
/* Plain buffers. Reads are of tables and headers (WEIR_REQUEST_METADATA), a write says it by its @flags. */
int weir_io_read(struct weir_edge *edge, uint64_t offset, uint64_t length,
                 void *buffer) weir_co_fn weir_must_check;
int weir_io_write(struct weir_edge *edge, uint64_t offset, uint64_t length, const void *buffer,
                  unsigned flags) weir_co_fn weir_must_check;
int weir_io_flush(struct weir_edge *edge) weir_co_fn weir_must_check;
/*
 * What the first part of [@offset, @offset + @length) is, through filters and, with WEIR_REQUEST_DEEP among the
 * @flags, the backing chain; without it up to the first layer that can have data of its own. Below a root operation.
 */
int weir_io_status(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                   struct weir_status *ret_status) weir_co_fn weir_must_check;
/* The same for root users. */
int weir_root_status(struct weir_edge *edge, uint64_t offset, uint64_t length, unsigned flags,
                     struct weir_status *ret_status) weir_co_fn weir_must_check;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The steps that reads and changes of a mapped node share. Private to io/.
 */
#ifndef WEIR_IO_MAPPED_H
#define WEIR_IO_MAPPED_H

#include "base/law.h"
#include "io/meta_ops.h"
#include "io/node_io.h"

static inline const struct weir_meta_ops *weir_meta_ops_of(const struct weir_node *node)
{
    return node->meta ? ((const struct weir_meta_head *)node->meta)->ops : NULL;
}

/* Whether a read holds its range: what nobody may write to is not mapped anew, and needs no lock. */
static inline bool weir_node_pins_reads(const struct weir_node *node)
{
    return !node->read_only && WEIR_LAW(WEIR_LAW_PIN);
}

/* Runs map() inside the monitor; loads what it needs and asks again. */
int weir_map(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
             struct weir_extent *extent, struct weir_meta_pins *pins) weir_co_fn;
/* The same, once: WEIR_NEED is passed on. Tables found are pinned to @pins (may be NULL). */
int weir_map_once(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
                  struct weir_extent *extent, struct weir_need *need, struct weir_meta_pins *pins);
void weir_map_unpin(struct weir_node *node, struct weir_meta_pins *pins);
/* The same with ALLOCATE; waits for space that is on its way out of the quarantine. @stored: for encoded writes. */
int weir_map_allocate(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length,
                      unsigned flags, uint64_t stored, struct weir_extent *extent,
                      struct weir_meta_pins *pins) weir_co_fn;
/* What is pending becomes visible (@commit), or is taken back. */
void weir_map_end(struct weir_node *node, const struct weir_extent *extent, bool commit);

/*
 * Reads a range of @node into the vector from @skip on. The caller holds the range in the node's lock table, or
 * reads for the one who does.
 */
int weir_mapped_read_locked(struct weir_node *node, uint64_t offset, uint64_t length, const struct iovec *iov,
                            unsigned iovcnt, uint64_t skip) weir_co_fn;
/* A write of plain data. */
int weir_mapped_write(struct weir_node *node, uint64_t offset, uint64_t length, const struct iovec *iov,
                      unsigned iovcnt, unsigned flags) weir_co_fn;
/* Compression works on whole units; the last one may end where the node ends. */
bool weir_mapped_can_encode(const struct weir_node *node, const struct weir_request *request);
/* A write whose units are stored encoded where that makes them shorter, else plainly. */
int weir_mapped_write_encoded(struct weir_node *node, struct weir_request *request) weir_co_fn;

#endif

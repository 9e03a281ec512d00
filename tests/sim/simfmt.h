/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "simfmt": a small format of the tests' own that exercises every law of the core.
 *
 * One flat table of 8-byte entries, a backing child, 32-bit reference counts, one internal snapshot (a second
 * table), compressed units packed into shared host units. The data may be on a child of its own.
 *
 *   unit 0     header (512 bytes used)
 *   then       counts: 4 bytes for each host unit, in blocks of 512 bytes
 *   then       active table, snapshot table: 8 bytes for each guest unit, in blocks of 512 bytes
 *   then       data, in whole units (numbered from the start of the edge that holds them)
 *
 * Entry: bits 0-1 kind, bit 2 in place, bits 3-15 stored length, bits 16-63 byte offset on the data edge.
 */
#ifndef WEIR_TESTS_SIM_SIMFMT_H
#define WEIR_TESTS_SIM_SIMFMT_H

#include "graph/node.h"

#define SIMFMT_MAGIC 0x3174666d69736577ULL
#define SIMFMT_BLOCK 512u
#define SIMFMT_TABLE_ENTRIES (SIMFMT_BLOCK / 8)
#define SIMFMT_COUNT_ENTRIES (SIMFMT_BLOCK / 4)

enum simfmt_kind { SIMFMT_NONE, SIMFMT_ZERO, SIMFMT_PLAIN, SIMFMT_STORED };
#define SIMFMT_IN_PLACE 4u

/* On disk, little endian as the host is (the tests run on one machine). */
struct simfmt_header {
    uint64_t magic;
    uint64_t size;       /* bytes of the guest's disk */
    uint64_t unit;       /* bytes */
    uint64_t host_units; /* units that may be used on the data edge, metadata included */
    uint64_t first_unit; /* the first that may hold data */
    uint64_t counts_offset, table_offset, snapshot_offset;
    uint64_t snapshot; /* 1: the snapshot table is valid */
};
_Static_assert(sizeof(struct simfmt_header) <= SIMFMT_BLOCK, "the header is one block");

static inline enum simfmt_kind simfmt_kind(uint64_t entry)
{
    return (enum simfmt_kind)(entry & 3);
}
static inline uint64_t simfmt_offset(uint64_t entry)
{
    return entry >> 16;
}
static inline uint64_t simfmt_length(uint64_t entry)
{
    return entry >> 3 & 0x1fff;
}

/* Lays out an empty image: fills @ret_header and returns the bytes of metadata (to be written as zeroes after it). */
uint64_t simfmt_layout(uint64_t size, uint64_t unit, uint64_t host_units, bool data_edge,
                       struct simfmt_header *ret_header);

/* Options: file, data-file?, backing?, x-cache (bytes). No typed options: read from node->options. */
extern const struct weir_driver weir_driver_simfmt;

/* Takes / drops the snapshot. Any loop, below an admitted operation or with the node otherwise kept in place. */
int simfmt_snapshot_create(struct weir_node *node) weir_co_fn;
int simfmt_snapshot_delete(struct weir_node *node) weir_co_fn;
/* Called before the header is written for a snapshot. NULL: nothing. */
extern void (*simfmt_before_header)(void);
bool simfmt_has_snapshot(struct weir_node *node);

/* The compression of the format: what is a repetition of 8-byte words per 512 bytes shrinks. */
uint64_t simfmt_encode(struct weir_node *node, const void *in, uint64_t length, void *out);
int simfmt_decode_unit(uint64_t unit, const void *in, uint64_t stored, void *out);

/* What all nodes that were closed have done, in every life. */
struct simfmt_stats {
    uint64_t allocations, aborts, stored, in_place, shared, no_space;
    uint64_t loads, evictions, tables_written, released, rooms; /* their caches and quarantines */
};
extern struct simfmt_stats simfmt_totals;
/* The same of one open node, so far. Nobody else uses it meanwhile. */
void simfmt_stats(struct weir_node *node, struct simfmt_stats *ret_stats);

#endif

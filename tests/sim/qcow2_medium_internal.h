/* SPDX-License-Identifier: BSD-2-Clause */
/* What the three files of qcow2_medium.h share. */
#ifndef WEIR_TESTS_SIM_QCOW2_MEDIUM_INTERNAL_H
#define WEIR_TESTS_SIM_QCOW2_MEDIUM_INTERNAL_H

#include "qcow2_medium.h"

#define MEDIUM_CHECK(cond, ...) ((cond) ? (void)0 : qcow2_medium_fail(__VA_ARGS__))

/* The header in numbers, and what follows from it. */
struct medium_header {
    unsigned version, bits, order;
    bool extended, external, raw, dirty, zstd;
    uint64_t cluster, size, l1_offset, l1_size, table_offset, table_clusters, snapshots_offset;
    unsigned snapshots;
    uint64_t entry_size, l2_entries, block_entries;
};

struct medium_snapshot {
    uint64_t l1_offset, l1_size, size;
};

void medium_header_read(const struct qcow2_medium *medium, struct medium_header *ret_header);
uint64_t medium_word(struct weir_sim_file *file, uint64_t offset);
/* Entry @index of the snapshot table; *@at is where it starts and, afterwards, where the next one does. */
void medium_snapshot_read(const struct qcow2_medium *medium, const struct medium_header *header, uint64_t *at,
                          struct medium_snapshot *ret_snapshot);
uint64_t medium_count_get(const void *block, unsigned order, uint64_t index);
void medium_count_set(void *block, unsigned order, uint64_t index, uint64_t count);
/* Where a compressed cluster lies, up to the end of its last sector. */
void medium_stored_range(const struct medium_header *header, uint64_t entry, uint64_t *ret_offset,
                         uint64_t *ret_length);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef WEIR_TESTS_SIM_SIMFMT_INTERNAL_H
#define WEIR_TESTS_SIM_SIMFMT_INTERNAL_H

#include "simfmt.h"

/* The most units one extent allocates or clears: keeps the tables that one commit touches few. */
#define SIMFMT_RUN_MAX 4

struct simfmt {
    struct simfmt_header header;
    bool header_changed;
    struct weir_edge *file, *data;
    uint16_t *reserved, *dropped;  /* per host unit */
    uint64_t cursor;               /* where the search for free units begins */
    uint64_t pack_unit, pack_fill; /* the unit that takes compressed data; 0: none */
    struct simfmt_stats stats;
};

uint64_t simfmt_count_block(const struct simfmt *fmt, uint64_t unit);
/* Inside the monitor; NULL when not in memory. */
uint32_t *simfmt_find_count(struct weir_node *node, uint64_t unit);
void simfmt_drop(struct weir_node *node, uint64_t entry);

#endif

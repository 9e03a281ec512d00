/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers for a window of host clusters: how often each is referenced, or counted, and of which kind it is. A page of
 * clusters takes memory once one of them is touched: one byte each, two or four once a number needs them. At most
 * 136 MiB for a window of 2^25 clusters (2 TiB with the usual 64 KiB), 40 MiB where nothing is counted over 255.
 */
#ifndef WEIR_FORMAT_QCOW2_CHECK_COUNTS_H
#define WEIR_FORMAT_QCOW2_CHECK_COUNTS_H

#include "base/macros.h"
#include <stdbool.h>
#include <stdint.h>

#define QCOW2_COUNTS_PAGE ((uint64_t)1 << 16)
#define QCOW2_COUNTS_PAGES 512u
#define QCOW2_COUNTS_WINDOW (QCOW2_COUNTS_PAGE * QCOW2_COUNTS_PAGES)
#define QCOW2_COUNT_MANY UINT32_MAX /* that often or more */

struct qcow2_counts {
    uint64_t first; /* cluster */
    struct qcow2_counts_page {
        void *numbers;
        uint8_t *kinds; /* two bits each */
        unsigned width; /* bytes of a number */
    } pages[QCOW2_COUNTS_PAGES];
};

/* Forgets everything; the window begins at cluster @first. */
void qcow2_counts_reset(struct qcow2_counts *counts, uint64_t first);
static inline bool qcow2_counts_has(const struct qcow2_counts *counts, uint64_t cluster)
{
    return cluster >= counts->first && cluster - counts->first < QCOW2_COUNTS_WINDOW;
}
/* 0 for what was never touched. The cluster is inside of the window; so in all that follow. */
uint32_t qcow2_counts_get(const struct qcow2_counts *counts, uint64_t cluster);
/* Whether any cluster of the page of @cluster was touched. */
bool qcow2_counts_touched(const struct qcow2_counts *counts, uint64_t cluster);
/* False: no memory. */
bool qcow2_counts_set(struct qcow2_counts *counts, uint64_t cluster, uint32_t number) weir_must_check;
bool qcow2_counts_add(struct qcow2_counts *counts, uint64_t cluster, uint32_t number) weir_must_check;
unsigned qcow2_counts_kind(const struct qcow2_counts *counts, uint64_t cluster);
/* Only for a cluster that has been added. */
void qcow2_counts_set_kind(struct qcow2_counts *counts, uint64_t cluster, unsigned kind);

#endif

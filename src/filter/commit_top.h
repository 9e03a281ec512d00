/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * commit-top: stands above a layer while a job copies it into one further down. It passes everything on; its second
 * child is where the job writes.
 */
#ifndef WEIR_FILTER_COMMIT_TOP_H
#define WEIR_FILTER_COMMIT_TOP_H

#include "graph/node.h"

struct weir_commit_top_options {
    struct weir_node *top, *base;
};

extern const struct weir_driver weir_driver_commit_top;

struct weir_edge *weir_commit_top_source(struct weir_node *node);
struct weir_edge *weir_commit_top_target(struct weir_node *node);

#endif

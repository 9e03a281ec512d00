/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a reopening is made of, for the two files that share it.
 */
#ifndef WEIR_GRAPH_REOPEN_PLAN_H
#define WEIR_GRAPH_REOPEN_PLAN_H

#include "graph/internal.h"
#include "graph/reopen.h"

/* One node that gets other options. */
struct weir_reopen_entry {
    struct weir_node *node; /* reference */
    json_t *given;          /* its options as they were given: reference */
    struct weir_options options;
    bool heir;                 /* only what it inherits is something else */
    struct weir_reopening own; /* the driver's part */
    bool prepared;
    bool told;          /* driver->set_read_only() has been called for what it is to become */
    bool applied;       /* the node has its new common options; `old` is what it had */
    bool opens, closes; /* becomes writable, or read-only */
    struct weir_common old;
    bool old_read_only; /* as it behaved */
};

/* One child that becomes another one, comes or goes. */
struct weir_reopen_child {
    struct weir_node *parent;
    struct weir_node *child; /* reference; NULL: none any more */
    const char *name;        /* of the edge that there is, or will be; borrowed from the schema */
};

struct weir_reopen {
    struct weir_reopen_entry *entries; /* weir_reopen_edit() puts parents first */
    unsigned count;
    struct weir_reopen_child *children;
    unsigned child_count;
    struct weir_node **nodes; /* that are to be drained */
    unsigned node_count;
};

#endif

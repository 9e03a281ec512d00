/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the core asks of the table cache of a node. meta/ lies above io/, so the way up is this table.
 */
#ifndef WEIR_IO_META_OPS_H
#define WEIR_IO_META_OPS_H

#include "graph/driver.h"

#define WEIR_META_PINS_MAX 32

struct weir_meta_block;

/* The tables that one map needs in memory, until it has been used. */
struct weir_meta_pins {
    struct weir_meta_block *blocks[WEIR_META_PINS_MAX];
    unsigned count;
    uint64_t events; /* that came up in map (WEIR_EVENT_BIT), to be raised outside of the monitor */
};

struct weir_meta_ops {
    /* Reads the table that map() missed and pins it. Outside the monitor. */
    int (*load)(struct weir_node *node, const struct weir_need *need, struct weir_meta_pins *pins) weir_co_fn;
    /* Inside the monitor, around map(): tables that it finds are pinned too. @pins NULL ends it. */
    void (*collect)(struct weir_node *node, struct weir_meta_pins *pins);
    void (*unpin)(struct weir_node *node, struct weir_meta_pins *pins);
    /* Makes all metadata and the data it points to durable, then frees what was given up before. */
    int (*sync)(struct weir_node *node) weir_co_fn;
    /* After -ENOSPC of map: 0 = space may have come free, ask again; -ENOSPC = there is none to wait for. */
    int (*make_room)(struct weir_node *node) weir_co_fn;
    /* After a change, with no lock held: starts a sync of its own where the quarantine is large. */
    void (*changed)(struct weir_node *node) weir_co_fn;
};

/* First member of struct weir_meta. */
struct weir_meta_head {
    const struct weir_meta_ops *ops;
};

#endif

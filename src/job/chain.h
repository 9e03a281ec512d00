/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the jobs that change a backing chain share. Control loop.
 */
#ifndef WEIR_JOB_CHAIN_H
#define WEIR_JOB_CHAIN_H

#include "graph/graph.h"

/*
 * Steps of @tran, lock held, drained: @overlay stands on @base (NULL: on nothing), and its image says so, durably, by
 * the name @file (NULL: that of the node) and its format; with @mask_protocol a protocol is called "raw". Undone like
 * every other step.
 */
int weir_chain_set_backing(struct weir_tran *tran, struct weir_node *overlay, struct weir_node *base,
                           const char *file, bool mask_protocol,
                           struct weir_error **err) weir_co_fn weir_must_check;

/* The same without the link: the image of @overlay says that it stands on @base. */
int weir_chain_set_name(struct weir_tran *tran, struct weir_node *overlay, struct weir_node *base,
                        const char *file, bool mask_protocol,
                        struct weir_error **err) weir_co_fn weir_must_check;

/* The layer of the chain below @top whose file is called @file; NULL: there is none. */
struct weir_node *weir_chain_find_file(struct weir_node *top, const char *file);

#endif

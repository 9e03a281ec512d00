/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blockdev-reopen: nodes get other options while they are in use, all of them or none.
 *
 * In three steps, with the graph-change lock held from the first to the last: the plan finds what is to change and
 * refuses what cannot; the nodes that it names are drained by the caller; the edit makes the changes as steps of a
 * transaction, whose end keeps or undoes them. Control loop.
 */
#ifndef WEIR_GRAPH_REOPEN_H
#define WEIR_GRAPH_REOPEN_H

#include "graph/graph.h"

struct weir_reopen;

/*
 * Each of @options is an object of blockdev-add whose node-name says which node is meant; options that are not given go
 * back to their defaults, or to what the node inherits from the one it was made with. Nothing has changed on return.
 */
int weir_reopen_plan(json_t *const *options, size_t count, struct weir_reopen **ret_reopen,
                     struct weir_error **err) weir_must_check;
/* The nodes whose users must rest, borrowed from the plan. */
struct weir_node *const *weir_reopen_nodes(const struct weir_reopen *reopen, unsigned *ret_count);
/* Those nodes are drained. The plan must live until @tran has ended. */
int weir_reopen_edit(struct weir_reopen *reopen, struct weir_tran *tran,
                     struct weir_error **err) weir_co_fn weir_must_check;
void weir_reopen_free(struct weir_reopen *reopen); /* NULL is fine */

#endif

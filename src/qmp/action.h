/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changes of the graph that happen at one moment: the steps of `transaction`, and each of them as a command.
 *
 * All steps are opened first, one after the other, while guests go on: files are made and nodes added. Then all that
 * any of them concerns is drained once, all edits are made in one transaction of the graph, checked as a whole, and
 * kept or undone. On a failure the graph is what it was, and what was added is gone again. Control loop.
 */
#ifndef WEIR_QMP_ACTION_H
#define WEIR_QMP_ACTION_H

#include "graph/graph.h"

#define WEIR_ACTION_NODES_MAX 3

struct weir_action;

struct weir_action_kind {
    /* What takes time. NULL: nothing. What it leaves is for end(). */
    int (*open)(struct weir_action *action, struct weir_error **err) weir_co_fn;
    /* Lock held: finds the nodes whose users must rest. NULL: none. */
    int (*find)(struct weir_action *action, struct weir_error **err);
    /* Drained: the edits. NULL: none. */
    int (*edit)(struct weir_action *action, struct weir_tran *tran, struct weir_error **err) weir_co_fn;
    /* After the edits of all steps: whether the graph is as this one needs it. NULL: it does not matter. */
    int (*check)(struct weir_action *action, struct weir_error **err);
    /* Still drained, all has succeeded. NULL: nothing. Cannot fail. */
    void (*commit)(struct weir_action *action) weir_co_fn;
    /* Once for each step that was opened, in reverse order; @done: all has succeeded. NULL: nothing. */
    void (*end)(struct weir_action *action, bool done) weir_co_fn;
};

struct weir_action {
    const struct weir_action_kind *kind;
    const void *args;                               /* parsed arguments, borrowed */
    struct weir_node *nodes[WEIR_ACTION_NODES_MAX]; /* of find(); not NULL up to the first that is */
    struct weir_node *added;                        /* the step's own: a node that open() has added */
    struct weir_edge *edge;                         /* the step's own */
    struct weir_reopen *reopen;                     /* the step's own */
    struct weir_node *const *more; /* of find(): nodes beside those, borrowed from the step */
    unsigned more_count;
};

extern const struct weir_action_kind weir_action_abort, weir_action_add, weir_action_del, weir_action_replace,
    weir_action_reopen, weir_action_snapshot, weir_action_snapshot_sync;

int weir_actions_run(struct weir_action *actions, unsigned count,
                     struct weir_error **err) weir_co_fn weir_must_check;

#endif

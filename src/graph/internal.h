/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of graph/ share. Control loop only, except where said.
 *
 * A node is in exactly one of two lists: `nodes` (it has a name and users, or is being opened) or `leaving` (its
 * last user is gone; it waits for requests that were left behind, and is closed when its last reference goes).
 */
#ifndef WEIR_GRAPH_INTERNAL_H
#define WEIR_GRAPH_INTERNAL_H

#include "co/co.h"
#include "graph/gate.h"
#include "graph/graph.h"
#include <errno.h>

TAILQ_HEAD(weir_nodes, weir_node);
TAILQ_HEAD(weir_drain_records, weir_drain_record);

/* A detached edge on which requests were left behind: its permissions count until they are gone. */
struct weir_lingering {
    struct weir_edge *edge;
    struct weir_call call;
    TAILQ_ENTRY(weir_lingering) link;
};

/* A root edge that was given up while requests were inside. They still move through the graph: drains wait for them. */
struct weir_orphan {
    struct weir_edge *edge; /* reference */
    TAILQ_ENTRY(weir_orphan) link;
};
TAILQ_HEAD(weir_orphans, weir_orphan);

struct weir_node_graph {
    struct weir_node *node;
    TAILQ_HEAD(, weir_lingering) lingering;
    bool opening;                  /* driver->open() has not returned: reserved name, not to be found */
    bool opened;                   /* driver->close() is due */
    bool prepared;                 /* perm_prepare() has been called, commit or abort is due */
    unsigned level;                /* how deep it was nested in the options it came from */
    unsigned mark;                 /* of the walk that came by last */
    unsigned degree, depth;        /* scratch of weir_graph_order() */
    unsigned old_perm, old_shared; /* while permissions are computed: to go back to */
    json_t *given;                 /* options without what was inherited; NULL: made by a job */
    const struct weir_node *maker; /* it was defined inside the options of that one, which is still there */
    bool lent;                     /* a job has made it writable and will give it back (read_only.c) */
    bool reopening;                /* by a transaction that has not ended */
    bool turning;                  /* it is looked whether it can become read-only */
    bool closing;                  /* the last reference is gone */
    uint64_t close_number;         /* in the order in which nodes lost their last reference */
    struct weir_call close_call;
    struct weir_call size_call; /* tells the parents about a size set on another loop */
    atomic_bool size_called;
};

struct weir_graph {
    struct weir_graph_hooks hooks;
    struct weir_nodes nodes, leaving;
    struct weir_drain_records drains; /* active ones */
    struct weir_co_mutex lock;        /* the graph-change lock */
    unsigned mark;                    /* number of the last walk */
    unsigned auto_name;               /* last number given out */
    struct weir_orphans orphans;      /* root edges given up with requests inside */
    uint64_t close_number;            /* given to the next node that loses its last reference */
    /*
     * Something came to rest: a gate that is watched lost a request (any loop), a node was closed. Those who wait
     * look again. Never freed, so that a request that leaves touches nothing that could be gone.
     */
    struct weir_mutex rest_mutex;
    struct weir_co_queue rest_queue;
};
extern struct weir_graph weir_graph;

void weir_graph_rested(void); /* any loop */
/* Waits for weir_graph_rested() until @done(@arg): 0, or -ETIMEDOUT past @deadline_ns (-1: no limit). */
int weir_graph_wait(bool (*done)(void *arg), void *arg, int64_t deadline_ns) weir_co_fn;

/* Asserts control loop and coroutine. */
void weir_graph_assert(void);
bool weir_graph_locked_here(void);
/* Takes the lock unless the caller holds it; whether weir_graph_leave() is to give it back. */
bool weir_graph_enter(void) weir_co_fn;
void weir_graph_leave(bool taken);

/* ---- node.c ---- */
/* Checks and takes @name (NULL: makes one up). The node is `opening`, has one reference and is in the registry. */
int weir_node_alloc(const struct weir_driver *driver, const char *name, struct weir_node **ret_node,
                    struct weir_error **err) weir_must_check;
void weir_node_free(struct weir_node *node);   /* closed, out of all lists */
void weir_node_unlink(struct weir_node *node); /* out of the registry: its name is free */

/* ---- edge.c ---- */
/* Not attached yet; one reference. Takes a reference to @node. */
struct weir_edge *weir_edge_new(struct weir_node *parent, struct weir_node *node, const char *name,
                                unsigned role);
/* Puts it into the lists, before @in_parent / @in_node (NULL: at the end). */
void weir_edge_link(struct weir_edge *edge, struct weir_edge *in_parent, struct weir_edge *in_node);
void weir_edge_unlink(struct weir_edge *edge);
/*
 * Gives up an unlinked edge: drops its reference, and lets its node go when that was the last user. Whoever still
 * holds a reference is a request left behind.
 */
void weir_edge_drop(struct weir_edge *edge);

/* ---- route.c ---- */
/* Finds all routes anew. */
void weir_graph_reroute(void);
/* Whether reads by @edge pass @node, or end there after having passed others. */
bool weir_edge_passes(const struct weir_edge *edge, const struct weir_node *node);
/* An edge that is in no list leads to its node. */
void weir_edge_unroute(struct weir_edge *edge);

/* ---- walk.c ---- */
unsigned weir_graph_new_mark(void);
/*
 * All nodes, leaving ones included, parents before children: a new array of *ret_count nodes. NULL when the graph
 * has a loop. node->graph->depth counts the nodes on the longest way down to it, itself included.
 */
struct weir_node **weir_graph_order(unsigned *ret_count);
/* Refuses loops and graphs that are too deep. */
int weir_graph_check_shape(const struct weir_node *parent, const struct weir_node *child,
                           struct weir_error **err) weir_must_check;

/* ---- perm_check.c ---- */
/*
 * Brings permissions of the whole graph up to date with its present edges. On failure all is as before.
 * Lock held.
 */
int weir_perm_refresh(struct weir_error **err) weir_co_fn weir_must_check;
/* Whether that would succeed, as far as the graph alone can tell: nothing changes. Lock held. */
int weir_perm_try(struct weir_error **err) weir_must_check;
/* The same when edges only went: cannot fail, as drivers that cannot follow keep what they have. */
void weir_perm_refresh_less(void) weir_co_fn;

/* ---- options.c ---- */
struct weir_common {
    enum weir_detect_zeroes detect_zeroes;
    bool discard_unmap, read_only, auto_read_only, force_share;
    bool cache_direct, cache_no_flush;
};
struct weir_options {
    const struct weir_driver *driver;
    json_t *json; /* with what was inherited */
    void *typed;  /* driver->options, or NULL */
    char *node_name;
    struct weir_common common;
};
/*
 * Parses @json for a child in @role of a node that has @parent (NULL: top level), from which options that are not given
 * are inherited.
 */
int weir_options_parse(json_t *json, const struct weir_common *parent, unsigned role,
                       struct weir_options *ret_options, struct weir_error **err) weir_must_check;
/* What the node has been asked for. */
struct weir_common weir_node_common(const struct weir_node *node);
void weir_node_set_common(struct weir_node *node, const struct weir_common *common);
void weir_options_done(struct weir_options *options);

/* ---- open.c ---- */
/* Detaches all children; lock held. */
void weir_node_detach_children(struct weir_node *node) weir_co_fn;

/* ---- tran.c ---- */
/* The last step so far, for weir_tran_undo_to(). */
void *weir_tran_last(struct weir_tran *tran);
/* Undoes the steps after @last (NULL: all). */
void weir_tran_undo_to(struct weir_tran *tran, void *last);

/* ---- limbo.c ---- */
/* Takes @node out of the registry, and children that only such nodes use. Once. */
void weir_node_leave(struct weir_node *node);
/* Lets @node go if nobody uses it. The caller holds a reference. */
void weir_node_check_unused(struct weir_node *node);
/* Number for weir_graph_wait_closed(): nodes that lose their last reference from now on count. */
uint64_t weir_graph_close_mark(void);
/* Waits until all those are closed, or @limit_ns has passed. Not with the lock held. */
void weir_graph_wait_closed(uint64_t mark, int64_t limit_ns) weir_co_fn;

/* ---- drain.c ---- */
/* @edge is going: no drain shall open its gate any more. */
void weir_drain_forget(struct weir_edge *edge);
/* The graph has changed: stops what now reaches a drained node. */
void weir_drain_extend(void);

/* ---- gate.c ---- */
struct weir_gate *weir_gate_new(void);
void weir_gate_free(struct weir_gate *gate);
void weir_gate_close(struct weir_gate *gate); /* nests */
void weir_gate_open(struct weir_gate *gate);
bool weir_gate_empty(struct weir_gate *gate); /* nobody is inside */
/* From now on every request that leaves calls weir_graph_rested(). Nests with close. */
void weir_gate_watch(struct weir_gate *gate);
/* Nobody is inside or waits to enter. */
bool weir_gate_idle(struct weir_gate *gate);
/* Copies the request that has been inside longest; false when none is listed. */
bool weir_gate_oldest(struct weir_gate *gate, struct weir_gate_op *ret_op);

/* ---- limits.c ---- */
/* Asks the driver for limits and cares of a node just opened or changed, and refreshes its parents'. */
void weir_node_refresh(struct weir_node *node);

/* ---- resize.c ---- */
/* The size of @node is to follow its filtered child. */
void weir_node_follow_size(struct weir_node *node);
void weir_node_size_called(struct weir_call *call);

#endif

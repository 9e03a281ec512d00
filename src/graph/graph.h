/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph as a whole: registry, life of nodes and root edges, transactions, drain, limbo.
 *
 * Everything here runs on the control loop; what may wait is a coroutine. Functions that change the graph take
 * the graph-change lock themselves unless they say "lock held"; a coroutine that holds it already keeps it.
 */
#ifndef WEIR_GRAPH_GRAPH_H
#define WEIR_GRAPH_GRAPH_H

#include "graph/node.h"

/* How long a drain waits before it gives up, unless told otherwise. */
#define WEIR_DRAIN_LIMIT_NS (10 * 1000000000LL)
/* How long opening a file or taking its locks may take before the command fails. */
#define WEIR_OPEN_LIMIT_NS (10 * 1000000000LL)

/* ---- start and end ---- */
/* io/ gives these at start-up, so that graph/ needs nothing above it. */
struct weir_graph_hooks {
    void (*node_init)(struct weir_node *node); /* after allocation, before open */
    void (*node_done)(struct weir_node *node); /* after close */
    void (*edge_init)(struct weir_edge *edge); /* after allocation */
    void (*edge_done)(struct weir_edge *edge); /* before the memory goes; any loop */
    /* What reads pass is about to change; control loop, drained. */
    void (*edge_rerouted)(struct weir_edge *edge);
    /* Before close: flush, write back tables, free the quarantine. */
    int (*node_settle)(struct weir_node *node) weir_co_fn;
};
void weir_graph_init(const struct weir_graph_hooks *hooks);
/* Deletes all nodes (roots must be gone), giving up on stuck ones after @limit_ns; then frees the registry. */
void weir_graph_done(int64_t limit_ns) weir_co_fn;

/* ---- nodes ---- */
/*
 * Opens the node that @options (a blockdev-add argument object) describes, with its inline children. At top level
 * (@user) a node-name is mandatory, and the node is held by the user until weir_node_del(); otherwise the caller
 * owns the reference. All or nothing. @ret_node may be NULL with @user. Stuck opens fail after
 * WEIR_OPEN_LIMIT_NS, naming the file.
 */
int weir_node_add(json_t *options, bool user, struct weir_node **ret_node,
                  struct weir_error **err) weir_co_fn weir_must_check;
/* blockdev-del: refuses nodes in use and nodes that the user did not add. */
int weir_node_del(const char *name, struct weir_error **err) weir_co_fn weir_must_check;
/*
 * Gives back the reference of a node that was added without a user. Where nobody uses it, it is closed on return (or
 * WEIR_OPEN_LIMIT_NS later at most). Not with the lock held.
 */
void weir_node_give_up(struct weir_node *node) weir_co_fn;
/*
 * Makes a node of an internal driver (a job's filter) without options: the driver's open() gets @options
 * as its typed struct. @name NULL: an automatic name. The caller owns a reference.
 */
int weir_node_new_internal(const struct weir_driver *driver, const char *name, const void *options,
                           struct weir_node **ret_node, struct weir_error **err) weir_co_fn weir_must_check;

struct weir_node *weir_node_find(const char *name);
/* Like weir_node_find() with the error text that commands with `device` or `node-name` give. */
struct weir_node *weir_node_lookup(const char *device, const char *node_name, struct weir_error **err);
struct weir_node *weir_graph_next(struct weir_node *node); /* NULL: the first; in the order of creation */
/* Makes all nodes give up what only a person would end: before the program ends. */
void weir_graph_let_go(void);
/* Nodes whose last user is gone but whose I/O has not returned. */
unsigned weir_graph_limbo_count(void);
struct weir_node *weir_graph_limbo_next(struct weir_node *node); /* NULL: the first */

/* ---- what reads pass (graph/route.c) ---- */
/* Every edge whose reads pass @node, or end there after having passed others. */
void weir_graph_each_passing(const struct weir_node *node, void (*call)(struct weir_edge *edge, void *arg),
                             void *arg);

/* ---- backing chains; lock held where they change anything ---- */
/* The next link of the chain: the filtered child's, or the COW child's; NULL: the chain ends here. */
struct weir_edge *weir_chain_edge(const struct weir_node *node);
/* Whether @node is @top or somewhere below it in the chain. */
bool weir_chain_has(const struct weir_node *top, const struct weir_node *node);
/* The layer whose COW child is @node, maybe through filters; from @top on. NULL: none. */
struct weir_node *weir_chain_overlay(struct weir_node *top, const struct weir_node *node);
/* Freezes every link on the way from @top down to @bottom. Nests. */
int weir_chain_freeze(struct weir_node *top, struct weir_node *bottom,
                      struct weir_error **err) weir_must_check;
void weir_chain_unfreeze(struct weir_node *top, struct weir_node *bottom);
/* -EPERM with the text that names the link, if it is frozen. */
int weir_edge_check_thawed(const struct weir_edge *edge, struct weir_error **err) weir_must_check;

/* ---- read-only nodes made writable ---- */
struct weir_writable {
    struct weir_node *nodes[8]; /* referenced; children before parents */
    struct {
        bool asked, automatic;
    } was[8]; /* read_only_asked, auto_read_only */
    unsigned count, told;
};
/*
 * Makes a read-only node writable, with all that it stores its data in; what is writable already stays as it is. On
 * failure nothing has changed. Lock held, drained.
 */
int weir_node_make_writable(struct weir_node *node, struct weir_writable *ret_writable,
                            struct weir_error **err) weir_co_fn weir_must_check;
/* Makes just these read-only again: nobody may write to them any more. Lock held, drained. */
void weir_node_make_read_only(struct weir_writable *writable) weir_co_fn;
/* They stay writable. */
void weir_writable_done(struct weir_writable *writable);

/* ---- damaged images ---- */
/*
 * A driver has found the metadata of @node damaged (@text: what, static; @offset: where, bytes); @fatal: it takes no
 * more writes. Any loop, also inside the monitor; the listener is called on the control loop.
 */
void weir_node_damaged(struct weir_node *node, const char *text, uint64_t offset, bool fatal);
struct weir_damage {
    struct weir_node *node;
    const char *text;
    uint64_t offset;
    bool fatal;
};
void weir_graph_on_damage(void (*listener)(const struct weir_damage *damage));

/* ---- writes beyond a threshold ---- */
struct weir_excess {
    struct weir_node *node;
    uint64_t threshold, amount; /* bytes: how far beyond the write ended */
};
/* Any loop; the listener is called on the control loop. */
void weir_node_exceeded(struct weir_node *node, uint64_t threshold, uint64_t amount);
void weir_graph_on_excess(void (*listener)(const struct weir_excess *excess));

/* ---- children that should hold the same and do not (quorum, blkverify) ---- */
enum weir_dissent_kind {
    WEIR_DISSENT_CHILD,   /* @node, a child, has failed (@error) or was outvoted (@error 0) */
    WEIR_DISSENT_FAILURE, /* @node found no version with enough votes, or too few children that took a write */
    WEIR_DISSENT_MISMATCH, /* two children of @node differ where they must not */
};
struct weir_dissent {
    enum weir_dissent_kind kind;
    struct weir_node *node;
    enum weir_op op;
    int error;               /* -errno, or 0 */
    uint64_t offset, length; /* bytes of the request */
    int64_t at;              /* MISMATCH: the first byte that differs; -1: one failed and the other did not */
};
/* Any loop; the listener is called on the control loop. The struct is copied, the node referenced. */
void weir_node_dissent(const struct weir_dissent *dissent);
void weir_graph_on_dissent(void (*listener)(const struct weir_dissent *dissent));

/* ---- root edges ---- */
/*
 * Attaches a root user to @node with the permissions it needs and shares. Conflicts fail with a text that names
 * both users. The edge is NULL on failure.
 */
int weir_root_attach(struct weir_node *node, const char *name, unsigned perm, unsigned shared,
                     const struct weir_root_ops *ops, void *root, struct weir_edge **ret_edge,
                     struct weir_error **err) weir_co_fn weir_must_check;
/*
 * Waits until no request is inside and detaches. With @limit_ns >= 0 past that time the edge is abandoned:
 * it and its node go to limbo and the call returns.
 */
void weir_root_detach(struct weir_edge *edge, int64_t limit_ns) weir_co_fn;
int weir_root_set_perm(struct weir_edge *edge, unsigned perm, unsigned shared,
                       struct weir_error **err) weir_co_fn weir_must_check;

/* ---- the graph-change lock ---- */
void weir_graph_lock(void) weir_co_fn;
void weir_graph_unlock(void);

/* ---- drain ---- */
#define WEIR_DRAIN_NODES_MAX 64
struct weir_drain {
    bool active;
    struct weir_drain_record *record; /* what was stopped */
};
/*
 * Stops new root operations on everything that reaches one of the nodes (at most 64), tells drivers on the way to
 * release their own waits, and waits until nothing is in flight. Past @limit_ns: -ETIMEDOUT with a text that
 * names the oldest request and its holder; the gates are open again and nothing has changed. Lock held.
 */
int weir_drain_begin(struct weir_drain *drain, struct weir_node *const *nodes, unsigned count,
                     int64_t limit_ns, struct weir_error **err) weir_co_fn weir_must_check;
/* Makes a weir_drain_begin() on @drain that still waits give up at once, with -ECANCELED. Control loop. */
void weir_drain_cancel(struct weir_drain *drain);
/* Lets everything go on that weir_drain_begin() stopped. Root users attached meanwhile were stopped as well. */
void weir_drain_end(struct weir_drain *drain);

/*
 * Background work of a node's own (table write-back without a guest's flush): begin says no while the node is
 * drained, and once it closes; a drain waits for what has begun, and so does the node's end. Control loop.
 */
bool weir_node_background_begin(struct weir_node *node);
void weir_node_background_end(struct weir_node *node);
/* One of node->left_behind has returned. Any loop. */
void weir_node_request_returned(struct weir_node *node);

/* ---- transactions; lock held, nodes concerned drained ---- */
struct weir_tran;
struct weir_tran *weir_tran_new(void);
/*
 * Undo and finish work of one step. The permissions of the new graph hold when ready() is called, in order: the last
 * thing that may fail. Then commit runs in order, or abort in reverse order; then free() frees the data.
 */
struct weir_tran_ops {
    int (*ready)(void *data, struct weir_error **err) weir_co_fn;
    void (*commit)(void *data) weir_co_fn;
    void (*abort)(void *data) weir_co_fn;
};
void weir_tran_add(struct weir_tran *tran, const struct weir_tran_ops *ops, void *data);
/* Graph edits: take effect in memory at once, are undone by abort. */
int weir_tran_attach(struct weir_tran *tran, struct weir_node *parent, struct weir_node *child,
                     const char *name, unsigned role, struct weir_edge **ret_edge,
                     struct weir_error **err) weir_must_check;
void weir_tran_detach(struct weir_tran *tran, struct weir_edge *edge); /* not frozen */
/* The size of @node, also where word that something below has grown is still on its way. */
uint64_t weir_node_size_now(struct weir_node *node);
/*
 * Users of a disk do not expect it to change its size by a replacement; that of a backing file may, as it may where it
 * is named anew. Drained.
 */
int weir_edge_check_size(const struct weir_edge *edge, struct weir_node *node,
                         struct weir_error **err) weir_must_check;
/* Points @edge at another node. Refuses loops and frozen edges. */
int weir_tran_replace(struct weir_tran *tran, struct weir_edge *edge, struct weir_node *node,
                      struct weir_error **err) weir_must_check;
/* Every edge that points at @from (except those of @except and of @to itself) points at @to afterwards. */
int weir_tran_replace_parents(struct weir_tran *tran, struct weir_node *from, struct weir_node *to,
                              const struct weir_node *except, struct weir_error **err) weir_must_check;
/* Sets what a root edge takes and shares. */
void weir_tran_set_perm(struct weir_tran *tran, struct weir_edge *edge, unsigned perm, unsigned shared);
/*
 * Computes the permissions of the whole new graph and asks the drivers (OS locks); then commits, or undoes every
 * step and returns the conflict. Frees @tran in both cases.
 */
int weir_tran_finish(struct weir_tran *tran, struct weir_error **err) weir_co_fn weir_must_check;
void weir_tran_abort(struct weir_tran *tran) weir_co_fn;
/* The one where the steps have succeeded (@ret 0), else the other: @ret. */
int weir_tran_end(struct weir_tran *tran, int ret, struct weir_error **err) weir_co_fn weir_must_check;

/* The table of the specification for an edge of @role below a parent that is (not) a filter. */
void weir_perm_default(const struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                       unsigned shared, unsigned *ret_perm, unsigned *ret_shared);

/* Merges the children's limits and asks the driver again, upwards from @node. Drained, or before use. */
void weir_node_refresh_limits(struct weir_node *node);
/* Asks driver->cares again. Drained. */
void weir_node_refresh_cares(struct weir_node *node);
/*
 * Resizes: checks permission (resize on every edge is the caller's matter), calls the driver, tells parents.
 * Control loop.
 */
int weir_node_resize(struct weir_edge *edge, uint64_t size,
                     struct weir_error **err) weir_co_fn weir_must_check;
/*
 * The same for a driver that gives back, in perm_prepare() or close(), what it took while it had the permission: no
 * check, as the edge has already lost it on paper. The child still holds what it needs until the permissions are
 * committed. A failure leaves the size as it was.
 */
void weir_node_give_back(struct weir_edge *edge, uint64_t size) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Nodes and edges: the graph.
 *
 * A node is an instance of a driver; an edge is one user's typed hold on a node. Users are other nodes, or *root
 * users* (exports, jobs, tools), whose edges carry a gate (graph/gate.h) through which every request enters.
 *
 * Threads: the graph is read and changed on the control loop only, and changed only under the graph-change lock
 * (graph/graph.h) and, where requests could see it, inside a drained section. So the path of a request in
 * flight reads these structures without a lock. The fields are public to src/, but written by graph/ only, except
 * where said.
 */
#ifndef WEIR_GRAPH_NODE_H
#define WEIR_GRAPH_NODE_H

#include "base/error.h"
#include "graph/driver.h"
#include "graph/perm.h"
#include <jansson.h>
#include <stdatomic.h>
#include <sys/queue.h>

#define WEIR_NODE_NAME_MAX 31   /* bytes, without the end */
#define WEIR_GRAPH_DEPTH_MAX 64 /* nodes on top of each other */

struct weir_edge_io;
struct weir_gate;
struct weir_lingering;
struct weir_meta;
struct weir_node_graph;
struct weir_node_io;

enum weir_detect_zeroes { WEIR_DETECT_ZEROES_OFF, WEIR_DETECT_ZEROES_ON, WEIR_DETECT_ZEROES_UNMAP };

/* What a root user gives with its edge. Every member may be NULL. Control loop. */
struct weir_root_ops {
    const char *kind; /* "block-export", "block-job" or "block-backend" */
    /* Who is that, for errors: "block device 'x'", "block job 'm'". A new string. */
    char *(*describe)(struct weir_edge *edge);
    /* The gate is about to close / has opened again (a job shows itself as paused). Must not wait. */
    void (*drain_begin)(struct weir_edge *edge);
    void (*drain_end)(struct weir_edge *edge);
    /* edge->node is another one now, or its size has changed; still inside the drained section. */
    void (*replaced)(struct weir_edge *edge);
    void (*resized)(struct weir_edge *edge);
};

struct weir_edge {
    struct weir_node *node;   /* the child; referenced until the edge is freed, also when detached */
    struct weir_node *parent; /* NULL: a root user's edge */
    char *name;               /* "file", "backing", "root" ... */
    unsigned role;            /* enum weir_role */
    unsigned perm, shared;    /* enum weir_perm */
    unsigned frozen;          /* how many depend on it: not 0, it must not be replaced or detached */
    const struct weir_root_ops *root_ops;
    void *root;              /* the root user's own */
    struct weir_gate *gate;  /* root edges only */
    struct weir_edge_io *io; /* io/: counters, requests left behind */
    /* Set from any thread to make all who wait on this edge for abandonable requests stop waiting (io/async.h). */
    atomic_bool broken;
    atomic_uint refs;              /* requests in limbo hold one */
    atomic_bool attached;          /* in the lists of its node and parent; read on any loop */
    unsigned old_perm, old_shared; /* while permissions are computed: to go back to */
    /* Where reads go, past nodes that do nothing about them: `passed`, from the top (graph/route.c). */
    struct weir_node *_Atomic read_to;
    struct weir_node **passed;
    unsigned passed_count;
    struct weir_lingering *lingering; /* detached while requests were left behind on it */
    TAILQ_ENTRY(weir_edge) in_parent, in_node;
};
TAILQ_HEAD(weir_edges, weir_edge);

struct weir_node {
    char name[WEIR_NODE_NAME_MAX + 1];
    const struct weir_driver *driver;
    void *state;           /* driver->state_size bytes, zeroed */
    json_t *options;       /* as given, own reference */
    _Atomic uint64_t size; /* bytes */
    struct weir_limits limits;
    _Atomic unsigned cares; /* operations (WEIR_OP_BIT) that driver->submit wants */
    bool user_added;        /* by blockdev-add: may be deleted by name */
    bool read_only;         /* as it behaves now */
    bool read_only_asked, auto_read_only, force_share;
    bool discard_unmap; /* discard=unmap */
    bool cache_direct, cache_no_flush;
    bool implicit; /* made by a job, hidden from users */
    bool
        counts; /* a job looks at its counters: no read passes it, or others on the way to it (graph/route.c) */
    bool in_limbo; /* has no user any more: no name, only waits for its requests, or to be closed */
    enum weir_detect_zeroes detect_zeroes;
    /* The first write or zero that ends beyond it is told (weir_node_exceeded()), and it is 0 again: none. Any loop. */
    _Atomic uint64_t write_threshold;
    atomic_bool watches_writes; /* detect_zeroes or write_threshold may want a look at writes; any loop */
    unsigned perm, shared;      /* cumulative over all parents */
    struct weir_edges children; /* in the order they were attached */
    struct weir_edges parents;
    atomic_uint refs;
    unsigned drained;              /* nesting */
    unsigned background;           /* running background work; control loop */
    atomic_uint left_behind;       /* requests on edges to it that their parents gave up; any loop */
    struct weir_node_graph *graph; /* graph/'s own */
    struct weir_node_io *io;       /* io/: range locks, counters */
    struct weir_meta *meta;        /* meta/: tables; formats only */
    TAILQ_ENTRY(weir_node) in_graph;
};

/* ---- for drivers ---- */

static inline void *weir_node_state(struct weir_node *node)
{
    return node->state;
}
static inline uint64_t weir_node_size(const struct weir_node *node)
{
    return atomic_load_explicit(&node->size, memory_order_acquire);
}
/*
 * Drivers call it from open and resize, a growing file also from requests: any loop. Parents that mirror the size
 * (filters) follow and root users are told, on the control loop: at once when called there.
 */
void weir_node_set_size(struct weir_node *node, uint64_t size);
/* The same, but never smaller: a write has ended at @size. Any loop. */
void weir_node_grow(struct weir_node *node, uint64_t size);

/*
 * Attaches the child that @reference describes: a string names an existing node, an object defines an inline
 * child that is deleted with its parent. NULL @reference: -EINVAL "Parameter '@name' is missing". In open() only;
 * on failure of open() the core detaches what was attached.
 */
int weir_node_open_child(struct weir_node *node, json_t *reference, const char *name, unsigned role,
                         struct weir_edge **ret_edge, struct weir_error **err) weir_co_fn weir_must_check;

/* ---- helpers by role; NULL where there is none. They exist once: never look for a child by name. ---- */
struct weir_edge *weir_node_filtered(const struct weir_node *node);
struct weir_edge *weir_node_cow(const struct weir_node *node);
struct weir_edge *weir_node_primary(const struct weir_node *node);
/* The child that a user has named; drivers know theirs by role. NULL: none. */
struct weir_edge *weir_node_child(const struct weir_node *node, const char *name);
/* The name that a person knows the node by: its file's, or its own. Borrowed from a node. Control loop. */
const char *weir_node_file_name(struct weir_node *node);
/* Whether @node is no layer of its own: a filter, or raw over the whole of an image. */
bool weir_node_is_passed(const struct weir_node *node);
/* Down through filters (implicit ones only / all) to the first node that is not one. */
struct weir_node *weir_node_skip_implicit(struct weir_node *node);
struct weir_node *weir_node_skip_filters(struct weir_node *node);
/* Next in the backing chain: skip filters, then the COW child, then skip filters. */
struct weir_node *weir_node_backing_chain_next(struct weir_node *node);

/* References keep the memory, and for nodes the open driver, alive. Any thread. */
struct weir_node *weir_node_ref(struct weir_node *node);
void weir_node_unref(struct weir_node *node); /* the last one closes it, as a coroutine on the control loop */
struct weir_edge *weir_edge_ref(struct weir_edge *edge);
/* Whether requests still hold it beside its owner: detached now it would linger. Any thread. */
bool weir_edge_held(const struct weir_edge *edge);
void weir_edge_unref(struct weir_edge *edge);

/* Bytes; 0: none. Control loop. */
void weir_node_set_write_threshold(struct weir_node *node, uint64_t threshold);

/* "node 'x'", "block export 'e'" ... for messages; a new string. */
char *weir_edge_describe_parent(const struct weir_edge *edge);

#endif

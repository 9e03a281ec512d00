/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a driver is: one const table per driver, listed in src/graph/drivers.c.
 *
 * A *format*, shift or view answers only where things are (map and friends): plain functions in memory, run by
 * the core inside the node's monitor. A *protocol* (leaf) has submit(). A *filter* has submit() for the
 * operations it currently cares about and is skipped for all others. Slots that are absent mean: identity onto
 * the filtered child. The contract of each slot is DESIGN section 2; in short:
 *
 *  - map() never waits and never loads: it answers 0, -errno, or WEIR_NEED with *need filled, and is then called
 *    again once that table is in memory. READ changes nothing. WRITE without ALLOCATE answers what may be
 *    overwritten in place, or -EAGAIN. WRITE, ZERO and DISCARD with ALLOCATE run with the lock units held
 *    exclusively, may answer PENDING extents, and prepare (load, unshare, reserve) every table that commit()
 *    touches: commit() and abort() cannot fail. An extent never spans two tables.
 *  - Counts are raised in map or commit and lowered in release() only. commit() says what it gives up by
 *    weir_meta_give_up() (meta/meta.h).
 */
#ifndef WEIR_GRAPH_DRIVER_H
#define WEIR_GRAPH_DRIVER_H

#include "base/error.h"
#include "base/macros.h"
#include "graph/perm.h"

struct json_t;
struct weir_edge;
struct weir_node;
struct weir_request;
struct weir_schema_type;

enum weir_op {
    WEIR_OP_READ,
    WEIR_OP_WRITE,
    WEIR_OP_ZERO,
    WEIR_OP_DISCARD,
    WEIR_OP_FLUSH,
    WEIR_OP_STATUS, /* leaves only: fills request->status */
};
#define WEIR_OP_COUNT 6
#define WEIR_OP_BIT(op) (1u << (op))

/* Where the bytes of a range are, seen from one node. */
enum weir_where {
    WEIR_UNMAPPED, /* not here: ask the COW edge; zero if there is none */
    WEIR_ZEROED,   /* reads as zero, nothing stored (may keep its host space: preallocated zero) */
    WEIR_DATA,     /* at edge:child_offset, byte for byte */
    WEIR_ENCODED,  /* child_length stored bytes at edge:child_offset, read through decode() */
};

enum weir_extent_flags {
    WEIR_EXTENT_PENDING = 1 << 0, /* invisible to map() until commit() */
    WEIR_EXTENT_COMPRESSED = 1 << 1,
    WEIR_EXTENT_FRESH = 1 << 2, /* with PENDING: nobody has ever written there, the child reads zeroes */
};

struct weir_extent {
    enum weir_where where;
    unsigned flags;          /* enum weir_extent_flags */
    uint64_t offset, length; /* bytes of this node; contains the offset asked for */
    struct weir_edge *edge;  /* DATA, ENCODED: where the bytes are */
    uint64_t child_offset, child_length;
    uint64_t cookie; /* the driver's own */
};

enum weir_map_flags {
    WEIR_MAP_ALLOCATE = 1 << 0, /* the lock units are held exclusively: space may be reserved */
    WEIR_MAP_ENCODED = 1 << 1,  /* extent->child_length on entry is the stored length */
    WEIR_MAP_UNMAP = 1 << 2,    /* ZERO: giving up the space is welcome */
};

/* map() found a table missing: load it and ask again. */
#define WEIR_NEED 1
struct weir_need {
    struct weir_edge *edge;
    uint64_t offset, length;
    unsigned level; /* meta/meta.h: enum weir_meta_level */
};

/* A reference that commit gave up, handed to release() once the metadata that dropped it is durable. */
struct weir_freed {
    struct weir_edge *edge;
    uint64_t offset, length; /* bytes of edge; length 0: others still use the space */
    bool discard;            /* the child is told */
    bool fixed; /* the space is that of the same range of the node for good: see weir_meta_discard_later() */
    uint64_t cookie;
};

/* What requests a node takes. All sizes in bytes; the core splits, aligns and bounces accordingly. */
struct weir_limits {
    uint32_t request_align; /* power of two >= 1: reads and writes of this node's submit() are multiples */
    uint32_t memory_align;  /* power of two >= 1: address of each buffer element */
    uint64_t transfer_max;  /* longest read or write; 0 = none */
    uint64_t transfer_opt;  /* preferred size, 0 = unknown */
    uint64_t zero_align, zero_max;       /* 0 = request_align / none */
    uint64_t discard_align, discard_max; /* 0 = request_align / none */
    uint64_t lock_unit; /* formats that allocate: bytes, power of two: what a change of mapping locks */
    uint32_t iov_max;
    bool grows;           /* a write beyond the end makes it longer; else it fails with -ENOSPC */
    bool apart;           /* here or below each request counts by itself: neighbours are not merged */
    unsigned write_flags; /* request flags that submit(WRITE) honours itself: WEIR_REQUEST_FUA ... */
    unsigned zero_flags;  /* the same for ZERO: WEIR_REQUEST_MAY_UNMAP, NO_FALLBACK, FUA */
};

enum weir_driver_flags {
    WEIR_DRIVER_PROTOCOL = 1 << 0, /* a leaf, has its own storage */
    WEIR_DRIVER_FORMAT = 1 << 1,
    WEIR_DRIVER_FILTER = 1 << 2,   /* exactly one filtered child, no COW child */
    WEIR_DRIVER_INTERNAL = 1 << 3, /* made by jobs, not by blockdev-add */
    /* A leaf at the other end of a connection: a flush that failed may have met a cut line only; a later one counts. */
    WEIR_DRIVER_REMOTE = 1 << 4,
    WEIR_DRIVER_OWN_SIZE = 1 << 5, /* a filter whose size does not follow that of its child */
};

/* Capabilities that are not part of the data path. */
enum weir_check_fix {
    WEIR_CHECK_FIX_LEAKS = 1 << 0,  /* lower counts that are too high */
    WEIR_CHECK_FIX_ERRORS = 1 << 1, /* everything that can be repaired without a guess about data */
};
struct weir_check_result {
    uint64_t corruptions, leaks, check_errors; /* found; check_errors: what could not be read */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t image_end_offset; /* bytes: behind the last cluster in use */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters,
        compressed_clusters; /* of the guest's disk */
};
struct weir_check_ops {
    /*
     * Judges the metadata of @node, which is drained (nothing changes meanwhile). With @fix (enum weir_check_fix) the
     * node is writable and its only user waits. @report gets one line of text, without its end, for each fault found;
     * may be NULL. A negative return means that the check itself could not be done.
     */
    int (*check)(struct weir_node *node, unsigned fix, struct weir_check_result *ret_result,
                 void (*report)(void *arg, const char *line), void *arg, struct weir_error **err) weir_co_fn;
};
struct weir_create_ops {
    /* Makes a new image from the typed options of blockdev-create. */
    int (*create)(const void *options, struct weir_error **err) weir_co_fn;
    const struct weir_schema_type *options;
};

/* A driver's part in a reopening. */
struct weir_reopening {
    const void *options; /* typed, as for open() */
    bool writable;       /* the node takes writes until now */
    void *undo;          /* what prepare() leaves for commit() and abort(): memory that the core frees */
};
struct weir_reopen_ops {
    /* Names of own options that may change, NULL at the end. Children are the core's matter. */
    const char *const *options;
    /*
     * The new options hold from now on; common ones are set in the node, and children exchanged. On failure nothing has
     * changed. May be NULL, as commit and abort. Drained, control loop.
     */
    int (*prepare)(struct weir_node *node, struct weir_reopening *reopening,
                   struct weir_error **err) weir_co_fn;
    /* They stay / the old ones hold again (common ones are still the new ones). Cannot fail. */
    void (*commit)(struct weir_node *node, struct weir_reopening *reopening) weir_co_fn;
    void (*abort)(struct weir_node *node, struct weir_reopening *reopening) weir_co_fn;
    /* Whether the image says that it has a backing file. NULL: it never does. */
    bool (*names_backing)(struct weir_node *node);
};

/* Of nodes whose children are to hold the same as the node itself. */
struct weir_children_ops {
    /* Makes @child one more child of @node. Control loop, graph-change lock held, @node drained. */
    int (*add)(struct weir_node *node, struct weir_node *child, struct weir_error **err) weir_co_fn;
    /* Detaches one of them; the same. */
    int (*del)(struct weir_node *node, struct weir_edge *edge, struct weir_error **err) weir_co_fn;
};

struct weir_driver {
    const char *name;
    unsigned flags; /* enum weir_driver_flags */
    size_t state_size;
    /* Descriptor of the typed options struct (first member: struct weir_opts_node_common base). */
    const struct weir_schema_type *options;

    /* ---- life; control loop, coroutine ---- */
    /* Opens children (weir_node_open_child) and itself; on failure it leaves nothing behind. Sets the size. */
    int (*open)(struct weir_node *node, const void *options, struct weir_error **err) weir_co_fn;
    /* Called once after a successful open, with no request left; children are detached by the core afterwards. */
    void (*close)(struct weir_node *node) weir_co_fn;
    /* Fills in what differs from the merged limits of the children (already there on entry). */
    void (*limits)(struct weir_node *node, struct weir_limits *limits);
    /* Changes the size to @size bytes. Runs drained of writes beyond the smaller size. */
    int (*resize)(struct weir_node *node, uint64_t size, struct weir_error **err) weir_co_fn;

    /* ---- permissions; control loop ---- */
    /*
     * What this node takes on @edge, given what its own parents together take (@perm) and all share (@shared).
     * Absent: weir_perm_default() by the edge's role.
     */
    void (*child_perm)(struct weir_node *node, const struct weir_edge *edge, unsigned perm, unsigned shared,
                       unsigned *ret_perm, unsigned *ret_shared);
    /*
     * Takes OS locks or reopens for the new cumulative permissions; commit and abort cannot fail. A node with
     * auto_read_only whose node->read_only is set may be asked for WRITE: it becomes writable by commit. Requests of
     * other users of the node may be in flight: what they use (a descriptor) must outlive them. Limited in time by
     * the driver (WEIR_OPEN_LIMIT_NS). Not called again before commit or abort.
     */
    int (*perm_prepare)(struct weir_node *node, unsigned perm, unsigned shared,
                        struct weir_error **err) weir_co_fn;
    void (*perm_commit)(struct weir_node *node) weir_co_fn;
    void (*perm_abort)(struct weir_node *node) weir_co_fn;

    /* ---- where: in memory, inside the monitor ---- */
    int (*map)(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
               struct weir_extent *extent, struct weir_need *need);
    /* Advice: brings what map will look at for these offsets near the processor. Changes and loads nothing. */
    void (*prefetch)(struct weir_node *node, const uint64_t *offsets, unsigned count);
    void (*commit)(struct weir_node *node, const struct weir_extent *extent);
    void (*abort)(struct weir_node *node, const struct weir_extent *extent);
    /* Lowers the count. May ask for a table like map(); must not fail otherwise. */
    int (*release)(struct weir_node *node, const struct weir_freed *freed, struct weir_need *need);
    /* Puts what the driver holds outside its tables into them, before they are written back. */
    void (*sync)(struct weir_node *node);

    /* ---- what stored bytes mean: pure CPU, any thread ---- */
    int (*decode)(struct weir_node *node, const struct weir_extent *extent, const void *in, void *out);
    /* Stored length, or 0 when the data does not shrink. @out has room for @length bytes. */
    uint64_t (*encode)(struct weir_node *node, const void *in, uint64_t length, void *out);

    /* ---- how: leaves, and filters that must do something around a request ---- */
    /* The operations (WEIR_OP_BIT) that submit() wants now; for others the node is skipped. Absent: all that a
     * leaf can be asked, none for a node with map. Changes only while the node is drained. */
    unsigned (*cares)(struct weir_node *node);
    /* One aligned request within the limits. Any loop. 0 or -errno; -ENOTSUP for ZERO lets the core write zeroes. */
    int (*submit)(struct weir_node *node, struct weir_request *request) weir_co_fn;
    /* The same without waiting; -EAGAIN: nothing was done, use submit(). Any loop, no coroutine needed. */
    int (*try_submit)(struct weir_node *node, struct weir_request *request);

    /* ---- drain: release waits of the node's own (throttle queues, held requests); control loop ---- */
    void (*drain_begin)(struct weir_node *node);
    void (*drain_end)(struct weir_node *node);
    /*
     * Gives up waits that only a person would end (requests held at a breakpoint): the program ends, or the node has
     * lost its last user. Control loop.
     */
    void (*let_go)(struct weir_node *node);
    /* Something is about to happen above (enum weir_event, graph/event.h); may hold the caller. Any loop. */
    void (*event)(struct weir_node *node, unsigned event) weir_co_fn;

    /*
     * The node, opened read-only, is to take writes, or no more. A protocol: it may be opened for writing from now on,
     * once perm_prepare() asks (or is not any more). Others: what opening for writing does, as their children are
     * writable by now; or what closing does, as far as it is about writing. Drained. Going back cannot fail.
     */
    int (*set_read_only)(struct weir_node *node, bool read_only, struct weir_error **err) weir_co_fn;

    /* The file name a person would know the node by, or NULL; borrowed from the node. */
    const char *(*filename)(struct weir_node *node);
    /* Bytes taken on the host; -ENOTSUP where nobody can say. */
    int64_t (*allocated_size)(struct weir_node *node) weir_co_fn;
    /*
     * Adds what only the driver knows to an ImageInfo object: "format-specific", "dirty-flag", "backing-filename" ...
     * (names and types of QMP's ImageInfo). Control loop.
     */
    void (*describe)(struct weir_node *node, struct json_t *image);
    /*
     * Formats that can have a backing file: @name (NULL: none), of driver @format (NULL: not told), stands in the image
     * as its name from now on, durably. Nothing else changes. Drained, the node is writable.
     */
    int (*set_backing_name)(struct weir_node *node, const char *name, const char *format,
                            struct weir_error **err) weir_co_fn;
    const struct weir_create_ops *create;
    const struct weir_check_ops *check;
    const struct weir_children_ops *children; /* those that come and go while it runs */
    const struct weir_reopen_ops *reopen;     /* NULL: its options stay as they are */
};

/*
 * Makes an image: @options is the object of blockdev-create for driver @name, without "driver"; consumed. Control
 * loop; may take as long as the storage does.
 */
int weir_driver_create(const char *name, struct json_t *options,
                       struct weir_error **err) weir_co_fn weir_must_check;
/* The driver of that name, or NULL. */
const struct weir_driver *weir_driver_find(const char *name);
/* Adds a driver; one that is there already is left alone. Before any node exists. */
void weir_driver_register(const struct weir_driver *driver);
/* Registers all drivers of the library: the table in drivers.c, which tests of single layers do not link. */
void weir_drivers_register(void);

#endif

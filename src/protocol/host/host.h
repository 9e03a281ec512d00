/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the drivers `file` and `host_device` share: a file of the host as a leaf.
 *
 * Descriptors are counted objects, because calls that hang in a dead file system outlive whoever started
 * them. A node has one for reading, flushing and locks (`fd`), and one for changes (`write_fd`). They are
 * the same object, except with auto-read-only: there write_fd exists only while somebody has the permission
 * to write.
 *
 * Everything that may hang (open, close, stat, locks, truncate) runs on a worker and with a limit. Reads and
 * writes take the cheapest way that cannot block a loop for long; see io.c.
 *
 * Threads: open, close, permissions and resize on the control loop; requests on any loop.
 */
#ifndef WEIR_PROTOCOL_HOST_HOST_H
#define WEIR_PROTOCOL_HOST_HOST_H

#include "co/co.h"
#include "graph/node.h"
#include "sys/sys.h"
#include <stdatomic.h>

/* Calls of one node that sit on workers at a time: a dead file system must not take the whole pool. */
#define WEIR_HOST_CALLS_MAX 16

struct weir_host_fd {
    int fd;
    atomic_uint refs;
    /*
     * A call that changes locks is on a worker, maybe left behind: no other may start, it could undo this
     * one.
     */
    atomic_bool locking;
    /* The host has been asked how large the file is, and has not answered yet: it is not asked again. */
    atomic_bool asking;
};

enum weir_host_aio {
    WEIR_HOST_AIO_BEST,     /* inline, else the ring; workers for file systems that may hang */
    WEIR_HOST_AIO_THREADS,  /* inline, else workers */
    WEIR_HOST_AIO_IO_URING, /* the ring; inline only what cannot wait */
    WEIR_HOST_AIO_NATIVE,   /* the ring, O_DIRECT */
};

/* How the calling thread may try a transfer itself. */
enum weir_host_inline {
    WEIR_HOST_NOWAIT,  /* RWF_NOWAIT: never waits */
    WEIR_HOST_UNTRIED, /* as NOWAIT, but whether the file understands it is not known yet */
    WEIR_HOST_PLAIN,   /* a plain call: local file systems that lack NOWAIT */
    WEIR_HOST_NEVER,
};

/* One direction of a node's transfers. Relaxed atomics: a stale value costs time only. */
struct weir_host_direction {
    _Atomic int how;           /* enum weir_host_inline */
    _Atomic int64_t resume_ns; /* plain inline calls rest until then; 0: they do not */
};

/* Locks held: bit i of `held` is byte 100 + i, of `unshared` byte 200 + i. */
struct weir_host_locks {
    unsigned held, unshared;
};

struct weir_host_file {
    char *path;
    struct weir_host_fd *fd;
    enum weir_sys_file_type type;
    enum weir_host_aio aio;
    bool direct, no_flush, local;
    bool fd_writable; /* `fd` is open for writing too, whoever may */
    bool reserves;    /* space is cheaper in one piece before a long write than block by block during it */
    bool slow_holes;  /* tmpfs: see extent_nearby() in space.c */
    bool locking;
    uint32_t logical_block, memory_align, discard_granularity;
    uint64_t device, inode;
    /* The file was this long when it was opened, and nobody here has cut it: it is at least this long. Any loop. */
    _Atomic uint64_t length_min;
    struct weir_host_direction reading, writing;
    /* What the file system has refused once is not asked again. */
    atomic_bool no_punch, no_zero_range, no_extents, no_discard;

    bool dynamic; /* auto-read-only: write_fd comes and goes */
    struct weir_mutex write_mutex;
    struct weir_host_fd *write_fd; /* NULL: nobody may write; dynamic: write_mutex */

    struct weir_host_locks locks;
    struct weir_host_fd *keeper; /* holds the locks that `fd` could not get back (reopen.c); mostly NULL */
    bool locks_surplus; /* some that are in no list may be held: a call that dropped them was not possible */
    /* Between perm_prepare and commit or abort. */
    struct weir_host_locks next_locks;
    struct weir_host_fd *next_write_fd;
    bool next_writes;

    struct weir_mutex calls_mutex;
    struct weir_co_queue calls_queue;
    unsigned calls; /* on workers now */
};

struct weir_host_options {
    const char *driver;
    const char *path;
    enum weir_host_aio aio;
    bool locking;
    bool device; /* host_device: block or character devices; else regular files */
};

/* ---- open.c ---- */
int weir_host_open(struct weir_node *node, const struct weir_host_options *options,
                   struct weir_error **err) weir_co_fn weir_must_check;
void weir_host_close(struct weir_node *node) weir_co_fn;
/* A second descriptor of the same file, for a node whose first one is read-only. */
int weir_host_open_for_writing(struct weir_host_file *host, struct weir_host_fd **ret_fd,
                               struct weir_error **err) weir_co_fn weir_must_check;
/*
 * The file of @host, which need have no more than its path, device, inode, direct, local and aio, once more; sets how
 * it is read and written.
 */
int weir_host_open_again(struct weir_host_file *host, bool writable, struct weir_host_fd **ret_fd,
                         struct weir_error **err) weir_co_fn weir_must_check;
int weir_host_aio_error(struct weir_error **err);
void weir_host_limits(struct weir_node *node, struct weir_limits *limits);
const char *weir_host_filename(struct weir_node *node);
int64_t weir_host_allocated_size(struct weir_node *node) weir_co_fn;
int weir_host_resize(struct weir_node *node, uint64_t size, struct weir_error **err) weir_co_fn;

/* ---- fd.c ---- */
struct weir_host_fd *weir_host_fd_new(int fd);
struct weir_host_fd *weir_host_fd_ref(struct weir_host_fd *fd);
/* The last reference closes it, on a worker: closing may hang. Any thread. NULL is fine. */
void weir_host_fd_unref(struct weir_host_fd *fd);
/* The same, but waits (within WEIR_OPEN_LIMIT_NS) until it is closed and its locks are gone. */
void weir_host_fd_unref_wait(struct weir_host_fd *fd) weir_co_fn;
/* The descriptor for changes, or NULL; give it back with weir_host_write_put(). Any loop. */
struct weir_host_fd *weir_host_write_get(struct weir_host_file *host);
void weir_host_write_put(struct weir_host_file *host, struct weir_host_fd *fd);
/* Runs @run(@arg) on a worker, at most WEIR_HOST_CALLS_MAX of a node at a time. Any loop. */
int weir_host_call(struct weir_host_file *host, int (*run)(void *arg), void *arg) weir_co_fn;

/* ---- lock.c: permissions ---- */
int weir_host_perm_prepare(struct weir_node *node, unsigned perm, unsigned shared,
                           struct weir_error **err) weir_co_fn;
int weir_host_set_read_only(struct weir_node *node, bool read_only, struct weir_error **err) weir_co_fn;
void weir_host_perm_commit(struct weir_node *node) weir_co_fn;
void weir_host_perm_abort(struct weir_node *node) weir_co_fn;
/*
 * Takes the locks @want that @have lacks and tests the opposite ones of others. On failure nothing new is
 * held. On a worker. 0, -errno, or -EAGAIN with *ret_conflict (bit of the permission) and *ret_shared set.
 */
int weir_host_lock_take(int fd, const struct weir_host_locks *have, const struct weir_host_locks *want,
                        unsigned *ret_conflict, bool *ret_shared);
/* Gives back what @have has and @keep has not. On a worker. */
void weir_host_lock_drop(int fd, const struct weir_host_locks *have, const struct weir_host_locks *keep);
/* @fd, of the same file, gets the node's locks, too, without a look at others. -ETIMEDOUT: it will not have them. */
int weir_host_lock_too(struct weir_host_file *host, struct weir_host_fd *fd) weir_co_fn weir_must_check;
/* @fd, which is not the node's any more, lets go of what it has, now or when it is closed. */
void weir_host_unlock(struct weir_host_file *host, struct weir_host_fd *fd) weir_co_fn;
/* The error of a failed weir_host_lock_take(). */
int weir_host_lock_error(int ret, unsigned conflict, bool shared, const char *path, struct weir_error **err);

/* ---- reopen.c ---- */
extern const struct weir_reopen_ops weir_host_reopen_ops;

/* ---- io.c: requests ---- */
int weir_host_submit(struct weir_node *node, struct weir_request *request) weir_co_fn;
int weir_host_try_submit(struct weir_node *node, struct weir_request *request);
/* One call on the descriptor, by the ring or on a worker as the node's options say. */
int weir_host_do(struct weir_host_file *host, struct weir_sys_io *io) weir_co_fn;

/* ---- space.c: zero, discard, status ---- */
int weir_host_zero(struct weir_host_file *host, struct weir_request *request) weir_co_fn;
int weir_host_discard(struct weir_host_file *host, struct weir_request *request) weir_co_fn;
int weir_host_status(struct weir_node *node, struct weir_request *request) weir_co_fn;

/* ---- create.c ---- */
extern const struct weir_create_ops weir_host_create_ops;

#endif

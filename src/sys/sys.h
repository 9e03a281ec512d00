/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The only door to the operating system: time, randomness, threads, files, sockets.
 *
 * `weir_sys` points at one table. Two exist: weir_sys_real (io_uring, src/sys/real) and weir_sys_sim
 * (virtual time, a seeded scheduler and a disk model, src/sys/sim). The rest of the library compiles to the
 * same code for both. No code outside src/sys calls the OS for anything that can wait, fail or differ between
 * two runs. All calls return >= 0 or a negative errno.
 *
 * Threads: a *loop* is a thread (in the simulator: a simulated thread) with its own completion queue. A *worker*
 * runs blocking calls. Mutexes are held for a few instructions only and never over a coroutine switch.
 */
#ifndef WEIR_SYS_SYS_H
#define WEIR_SYS_SYS_H

#include "base/macros.h"
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct weir_sys_loop; /* the backend half of a loop: completion queue, sleeping, waking */

/* ---- asynchronous operations of a loop ---- */

enum weir_sys_op {
    WEIR_SYS_READ,      /* preadv2(fd, iov, iovcnt, offset, flags) */
    WEIR_SYS_WRITE,     /* pwritev2 likewise; flags may hold RWF_DSYNC */
    WEIR_SYS_FSYNC,     /* fdatasync(fd) */
    WEIR_SYS_FALLOCATE, /* fallocate(fd, flags, offset, length) */
    WEIR_SYS_RECV,      /* recvmsg into iov, flags = MSG_* */
    WEIR_SYS_SEND,      /* sendmsg from iov, flags = MSG_*; may be short */
    WEIR_SYS_ACCEPT,    /* accept4(fd); the result is a new descriptor, close-on-exec and non-blocking */
    WEIR_SYS_POLL,      /* poll(fd, flags = POLLIN...) once; the result is the revents */
};

/* Owned by the caller and must stay valid until done() was called. Not to be touched between. */
struct weir_sys_io {
    enum weir_sys_op op;
    int fd;
    unsigned flags;
    const struct iovec *iov;
    unsigned iovcnt;
    uint64_t offset, length; /* bytes; length for FALLOCATE only */
    /* Runs on the loop that submitted: @result is the byte count or another value >= 0, or -errno. */
    void (*done)(struct weir_sys_io *io, int result);
    /* private to the backend */
    void *backend[4];
    struct msghdr message;
    /* private to src/co, which puts itself between the backend and done() */
    void (*then)(struct weir_sys_io *io, int result);
    void *waiter;
};

struct weir_sys_loop_ops {
    /*
     * Any thread. The loop belongs to the first thread that calls submit() or poll(), for good. close() is for
     * any thread once that one has ended or has stopped using it; nothing may be in flight (asserted).
     */
    int (*open)(struct weir_sys_loop **ret_loop) weir_must_check;
    void (*close)(struct weir_sys_loop *loop);
    /* Queues one operation; it may be handed to the kernel only at the next poll(). Own loop only. Cannot fail. */
    void (*submit)(struct weir_sys_loop *loop, struct weir_sys_io *io);
    /* Asks for @io to end early (-ECANCELED); done() still comes exactly once. Own loop only. */
    void (*cancel)(struct weir_sys_loop *loop, struct weir_sys_io *io);
    /*
     * Hands queued operations over, waits until a completion, a kick or @deadline_ns (monotonic; -1 = no limit,
     * 0 = do not wait) and calls done() for what has ended: nothing else calls it. done() may submit and cancel,
     * but not poll. May return early for no reason. Own loop only.
     */
    void (*poll)(struct weir_sys_loop *loop, int64_t deadline_ns);
    /* Makes a poll() that sleeps, or the next one, return soon. Any thread. */
    void (*kick)(struct weir_sys_loop *loop);
};

/* ---- files: blocking calls, for workers and tools only, except where marked ---- */

enum weir_sys_file_type {
    WEIR_SYS_FILE_REGULAR,
    WEIR_SYS_FILE_BLOCK,
    WEIR_SYS_FILE_CHAR,
    WEIR_SYS_FILE_OTHER
};

struct weir_sys_stat {
    enum weir_sys_file_type type;
    uint64_t size;          /* bytes; for a block device its capacity */
    uint64_t allocated;     /* bytes the file takes on its file system; 0 for devices */
    uint64_t device, inode; /* which file this is */
    /* bytes: the smallest unit of O_DIRECT transfers (offset and length); 512 where the kernel does not say */
    uint32_t logical_block;
    /* bytes: alignment of buffers for O_DIRECT; 4096 where the kernel does not say */
    uint32_t memory_align;
    uint32_t discard_granularity; /* bytes, 0 = unknown or unsupported */
    uint64_t fs_magic;            /* statfs f_type */
    bool read_only;               /* a device that is write protected */
};

enum weir_sys_lock { WEIR_SYS_UNLOCK, WEIR_SYS_LOCK_SHARED, WEIR_SYS_LOCK_EXCLUSIVE };

struct weir_sys_file_ops {
    /* open(2), always close-on-exec. flags and mode as there. */
    int (*open)(const char *path, int flags, unsigned mode);
    void (*close)(int fd);
    int (*stat)(int fd, struct weir_sys_stat *ret_stat);
    int (*unlink)(const char *path);
    int (*truncate)(int fd, uint64_t size);
    int (*fallocate)(int fd, int mode, uint64_t offset,
                     uint64_t length); /* block devices too where the kernel can */
    int (*fsync)(int fd, bool data_only);
    ssize_t (*pread)(int fd, void *buffer, size_t length, uint64_t offset);
    ssize_t (*pwrite)(int fd, const void *buffer, size_t length, uint64_t offset);
    /*
     * On any thread: preadv2/pwritev2 at once. With RWF_NOWAIT in @flags it never waits (-EAGAIN; -EOPNOTSUPP where
     * the file cannot say). Without it the call may block for as long as the file system pleases.
     */
    ssize_t (*preadv)(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
    ssize_t (*pwritev)(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
    /*
     * What is at @offset: *ret_data says whether data or a hole, *ret_end where that ends (never beyond the end of
     * the file; @offset itself must be before it). -EOPNOTSUPP where the file system cannot tell. The end of data is
     * looked for no further than @most bytes away (0: anywhere), page by page: for file systems that take a time for
     * the next hole that grows with its distance, and let nobody write meanwhile.
     */
    int (*extent)(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end);
    int (*discard)(int fd, uint64_t offset, uint64_t length);  /* BLKDISCARD */
    int (*zero_out)(int fd, uint64_t offset, uint64_t length); /* BLKZEROOUT */
    /* Open-file-description locks. lock() does not wait: -EAGAIN on conflict. */
    int (*lock)(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
    /* Whether another description holds a lock that conflicts with @kind: 1, 0 or -errno. */
    int (*lock_test)(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
    int (*rename)(const char *from, const char *to);
};

/* ---- sockets ---- */

struct weir_sys_address {
    struct sockaddr_storage address;
    unsigned length; /* bytes of @address in use */
};

#define WEIR_SYS_CONNECT_LIMIT_S 10

struct weir_sys_net_ops {
    /*
     * A listening stream socket, non-blocking, close-on-exec. On a worker. @reuse: inet: SO_REUSEADDR; unix: a
     * socket file at which nobody listens any more is replaced.
     */
    int (*listen)(const struct sockaddr *address, unsigned address_length, int backlog, bool reuse);
    /*
     * connect(2) to a stream socket; blocks, at most for WEIR_SYS_CONNECT_LIMIT_S, then -ETIMEDOUT. The descriptor is
     * close-on-exec and blocking. On a worker.
     */
    int (*connect)(const struct sockaddr *address, unsigned address_length);
    /* Any thread, never wait: sendmsg/recvmsg with MSG_DONTWAIT | @flags (MSG_NOSIGNAL is always set). */
    ssize_t (*send_now)(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
    ssize_t (*recv_now)(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
    int (*shutdown)(int fd); /* both directions; pending operations end */
    void (*close)(int fd);
    int (*set_nodelay)(int fd, bool on);
    int (*set_nonblocking)(int fd);
    /*
     * Looks up stream addresses of @host (NULL or "": any address when @passive, else the local host) and @port (a
     * number or a service name), of @family (AF_INET, AF_INET6, AF_UNSPEC). Fills at most @count elements of
     * @ret_addresses and returns how many, in the order in which they should be tried. -ENOENT: no such host,
     * -EINVAL: no such port, -EAGAIN: the name server did not answer, -EAFNOSUPPORT: not in this family. Blocks
     * for as long as the name server pleases: on a worker.
     */
    int (*resolve)(const char *host, const char *port, int family, bool passive,
                   struct weir_sys_address *ret_addresses, unsigned count);
    /*
     * Writes the address of the other end (@peer) or of our own end to @text, for logs and for people:
     * "192.0.2.1:10809", "[::1]:10809", "unix:/path", "unix:pid=12,uid=0" (a client without a name). Any thread.
     */
    int (*name)(int fd, bool peer, char *text, size_t size);
    /* Whether @fd is a listening stream socket: 1, 0 or -errno (not a socket: 0). Any thread. */
    int (*is_listening)(int fd);
};

/* ---- threads ---- */

/* A blocking call for a worker. Owned by the caller until done() was called. */
struct weir_sys_work {
    void (*run)(struct weir_sys_work *work);  /* on a worker thread */
    void (*done)(struct weir_sys_work *work); /* on a worker thread too; usually a weir_loop_call() */
    void *backend[3];
};

struct weir_sys_thread_ops {
    /* Runs @run(@arg) on a new thread named @name (15 bytes at most). In the simulator: a simulated thread. */
    int (*start)(const char *name, void (*run)(void *arg), void *arg, void **ret_thread);
    void (*join)(void *thread);
    /*
     * Hands @work to the pool of workers. The pool grows up to its limit (64) as long as all workers are busy, so
     * that calls stuck in a dead file system do not stop the others; past the limit work queues.
     */
    void (*work)(struct weir_sys_work *work);
    /* A scheduling point: nothing in the real world, maybe another simulated thread in the simulator. */
    void (*preempt)(void);
};

/* ---- the process: for the main functions of programs; absent (all NULL) in the simulator ---- */

struct weir_sys_process_ops {
    /*
     * Blocks @signals in the calling thread (call it before any other thread starts: they inherit it) and returns
     * a non-blocking, close-on-exec descriptor from which WEIR_SYS_READ takes one struct signalfd_siginfo for
     * each. SIGPIPE among them is ignored instead.
     */
    int (*signal_fd)(const int *signals, unsigned count);
    /*
     * Forks before any thread was started and returns 0 in the child, which leads a session of its own; its
     * parent waits for daemonize_ready() and exits with that status, with 1 if the child ends without it.
     */
    int (*daemonize_begin)(void);
    /*
     * Ends the wait of the parent, once; nothing without daemonize_begin(). With status 0 the child goes to "/"
     * and its standard streams to /dev/null; otherwise it should now end.
     */
    void (*daemonize_ready)(int status);
    /*
     * Writes the process id to @path and holds a lock on that file; the descriptor is returned. -EAGAIN where
     * another process holds the lock. The process id is that of the caller: after daemonize_begin().
     */
    int (*pid_file_create)(const char *path);
    /* Removes the file and closes the descriptor. */
    void (*pid_file_remove)(const char *path, int fd);
    void (*exit_now)(int status) __attribute__((noreturn)); /* _exit(2): no handlers, no flushing of stdio */
    const char *(*getenv)(const char *name);                /* NULL where unset; main thread only */
    int (*pid)(void);
    /*
     * How many descriptors, from WEIR_SYS_PASSED_FD on, were handed to this process by $LISTEN_FDS (0 where
     * $LISTEN_PID names another one); makes them close-on-exec. Main thread, before others start and before
     * daemonize_begin(); removes the variables from the environment.
     */
    int (*passed_fds)(void);
    /* Sends @state ("READY=1", "STOPPING=1") to the service manager; 0 where there is none. */
    int (*notify)(const char *state);
    /* Writes @text to the standard error, whole lines, in one piece where the system can. Any thread. */
    void (*log_line)(const char *text, size_t length);
    /* Hands over what was printed to the standard output so far; a negative errno when it could not be written. */
    int (*flush_output)(void);
    /* Columns of the terminal that the standard output goes to, 80 where it does not know; 0: it is no terminal. */
    unsigned (*output_columns)(void);
    /* The absolute path of the working directory; -ERANGE where @size bytes do not hold it. */
    int (*working_directory)(char *path, size_t size);
    /*
     * The next line of the standard input without its end, to be freed: 1, 0 at the end of the input, or -errno. Blocks
     * for as long as the writer pleases: on a worker.
     */
    int (*read_line)(char **ret_line);
    /* Sends this process a signal: 0 or -errno. */
    int (*raise_signal)(int signal);
};
#define WEIR_SYS_PASSED_FD 3

struct weir_sys {
    const char *name;
    bool simulated;
    int64_t (*clock_ns)(void); /* monotonic */
    int64_t (*wall_ns)(void);  /* since the epoch */
    uint64_t (*random)(void);
    struct weir_sys_loop_ops loop;
    struct weir_sys_file_ops file;
    struct weir_sys_net_ops net;
    struct weir_sys_thread_ops thread;
    struct weir_sys_process_ops process;
};

extern const struct weir_sys weir_sys_real;
/* The world this process lives in. Set once, before anything else of the library is used; default: real. */
extern const struct weir_sys *weir_sys;

#endif

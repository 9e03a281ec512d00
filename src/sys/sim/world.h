/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to the simulator: the world, its threads, its events.
 *
 * Everything that lives as long as a world hangs off the one pointer `sim_world`. Nothing is locked: there is one
 * OS thread. "The current thread" is the simulated thread that runs, NULL when the test itself does.
 */
#ifndef WEIR_SYS_SIM_WORLD_H
#define WEIR_SYS_SIM_WORLD_H

#include "base/alloc.h"
#include "sys/context.h"
#include "sys/sim/sim.h"
#include <sys/queue.h>

/* Streams of random numbers, so that a new draw in one place does not change all others. */
enum sim_stream { SIM_SCHEDULE, SIM_DISK, SIM_FAULT, SIM_NET, SIM_LIBRARY, SIM_TEST, SIM_STREAMS };

struct sim_random {
    uint64_t state[4];
};
void sim_random_init(struct sim_random *random, uint64_t seed, uint64_t stream);
uint64_t sim_random_next(struct sim_random *random);
/* 0 .. n - 1; 0 for n = 0. */
uint64_t sim_random_below(struct sim_random *random, uint64_t n);

/* Something that happens at a time. Embedded in whatever it belongs to. */
struct sim_event {
    int64_t time;
    uint64_t serial; /* order among equal times */
    void (*fire)(struct sim_event *event);
    unsigned place; /* in the heap, from 1; 0: not queued */
};

enum sim_thread_state { SIM_RUNNABLE, SIM_BLOCKED, SIM_ENDED };

struct sim_thread {
    unsigned id;
    char name[16];
    void (*run)(void *arg);
    void *arg;
    enum sim_thread_state state;
    bool service;  /* a worker: the world may end without its end */
    bool detached; /* nobody joins it */
    bool has_loop;
    unsigned place;              /* in world->runnable */
    struct weir_context context; /* where it goes on: maybe on the stack of a coroutine */
    struct weir_stack stack;
    struct weir_locals locals;
    struct sim_event timer;
    struct sim_thread *joiner;
    TAILQ_ENTRY(sim_thread) link;
};
TAILQ_HEAD(sim_threads, sim_thread);

struct sim_io;
struct sim_open;
TAILQ_HEAD(sim_ios, sim_io);
TAILQ_HEAD(sim_files, weir_sim_file);
TAILQ_HEAD(sim_loops, weir_sys_loop);
TAILQ_HEAD(sim_works, sim_work);
TAILQ_HEAD(sim_listeners, sim_listener);
TAILQ_HEAD(sim_requests, sim_request);

struct sim_world {
    uint64_t seed;
    struct weir_sim_profile profile;
    struct sim_random random[SIM_STREAMS];
    uint64_t hash;
    void (*watch)(int64_t now, const char *what, uint64_t a, uint64_t b, uint64_t c);
    struct weir_sim_stats stats;

    int64_t now;
    struct sim_event **events; /* a heap, from index 1 */
    unsigned event_count, event_room;
    uint64_t event_serial;

    struct sim_threads threads;
    struct sim_thread *current;
    struct sim_thread *ended; /* has just ended; its stack is freed by whoever runs next */
    struct sim_thread **runnable;
    unsigned runnable_count, runnable_room;
    unsigned thread_serial;
    struct weir_context test; /* where weir_sim_run() goes on */
    uint32_t preempt_left;
    unsigned idle_polls; /* polls in a row that did not wait and found nothing */
    bool running, stop;
    enum weir_sim_outcome outcome;
    uint64_t step_limit, event_limit;
    int64_t time_limit;

    uint64_t io_serial; /* counts ends of changes: what a flush covers */
    uint64_t op_serial;
    struct sim_ios flying;
    struct sim_requests requests; /* of files, begun and not ended */
    struct sim_loops loops;
    unsigned loop_serial;
    struct sim_files files;
    unsigned file_serial;
    struct sim_open **descriptors;
    unsigned descriptor_room, descriptor_count, open_serial;

    struct sim_works works;         /* ready to be taken up */
    struct sim_works works_waiting; /* their latency runs */
    unsigned workers, idle_count;
    struct sim_thread *idle[64]; /* workers with nothing to do */

    struct sim_listeners listeners;
    unsigned connection_serial, port_serial;
    void **shift; /* weir_sim_heap_shift() */
    unsigned shift_count;
};

extern struct sim_world *sim_world;

/* ---- world.c ---- */

static inline uint64_t sim_below(enum sim_stream stream, uint64_t n)
{
    return sim_random_below(&sim_world->random[stream], n);
}
/* Draws nothing when the answer is certain. */
bool sim_chance(enum sim_stream stream, uint32_t ppm);
int64_t sim_latency(enum sim_stream stream, const struct weir_sim_latency *latency);
void sim_trace(const char *what, uint64_t a, uint64_t b, uint64_t c);
void sim_statics_restore(void);

/* ---- event.c ---- */

/* Queues @event at @time (not before now). It must not be queued already. */
void sim_event_at(struct sim_event *event, int64_t time, void (*fire)(struct sim_event *event));
void sim_event_cancel(struct sim_event *event); /* not queued: nothing */
/* NULL: none. */
struct sim_event *sim_event_first(void);
/* Advances time to the first event and fires it. */
void sim_event_fire(void);
void sim_events_drop(void);

/* ---- sched.c ---- */

struct sim_thread *sim_thread_new(const char *name, void (*run)(void *arg), void *arg);
/* The current thread waits until sim_wake(). */
void sim_block(void);
/* The same, at most until @deadline (-1: for ever); false when that has passed. */
bool sim_block_until(int64_t deadline);
void sim_wake(struct sim_thread *thread);
/* A scheduling point. */
void sim_preempt(void);
/* The current thread gives way to any thread that can run, itself included. */
void sim_give_way(void);
/* A call that takes time: the current thread sleeps. Nothing for the test itself. */
void sim_spend(int64_t duration_ns);
void sim_threads_drop(void);
int sim_thread_start(const char *name, void (*run)(void *arg), void *arg, void **ret_thread);
void sim_thread_join(void *handle);

/* ---- worker.c ---- */

void sim_work(struct weir_sys_work *work);
void sim_works_drop(void);

/* ---- loop.c ---- */

/* One operation of a loop. */
enum sim_io_state { SIM_IO_QUEUED, SIM_IO_FLYING, SIM_IO_DONE };
struct sim_io {
    struct weir_sys_io *io;
    struct weir_sys_loop *loop;
    uint64_t serial;
    enum sim_io_state state;
    int result;
    uint64_t moved;              /* bytes; sockets */
    struct sim_open *open;       /* a reference, from its start to its end */
    struct sim_request *request; /* files */
    struct sim_event event;
    void (*cancel)(struct sim_io *op); /* NULL: cannot be cancelled now */
    TAILQ_ENTRY(sim_io) link;          /* loop->queued or loop->done */
    TAILQ_ENTRY(sim_io) flying;        /* world->flying */
    TAILQ_ENTRY(sim_io) waiting;       /* net.c: on its socket */
    struct sim_ios *waiting_on;
};
/* It has ended: done() is called by the loop's next poll. */
void sim_io_end(struct sim_io *op, int result);
void sim_loops_drop(void);
int sim_loop_open(struct weir_sys_loop **ret_loop);
void sim_loop_close(struct weir_sys_loop *loop);
void sim_loop_submit(struct weir_sys_loop *loop, struct weir_sys_io *io);
void sim_loop_cancel(struct weir_sys_loop *loop, struct weir_sys_io *io);
void sim_loop_poll(struct weir_sys_loop *loop, int64_t deadline_ns);
void sim_loop_kick(struct weir_sys_loop *loop);

/* ---- descriptor.c ---- */

enum sim_open_type { SIM_OPEN_FILE, SIM_OPEN_LISTENER, SIM_OPEN_STREAM };
/* An open file description. */
struct sim_open {
    enum sim_open_type type;
    unsigned refs; /* the descriptor, and operations in flight */
    unsigned serial;
    struct weir_sim_file *file;
    int flags;
    struct sim_listener *listener;
    struct sim_end *end; /* of a connection */
};
struct sim_open *sim_open_new(enum sim_open_type type);
struct sim_open *sim_open_ref(struct sim_open *open);
void sim_open_unref(struct sim_open *open);
int sim_descriptor_new(struct sim_open *open); /* takes over the reference */
struct sim_open *sim_descriptor(int fd);       /* borrowed; NULL: no such descriptor */
void sim_descriptor_close(int fd);
void sim_descriptors_drop(void);

/* ---- file.c, file_ops.c, file_lock.c ---- */

void sim_file_io_start(struct sim_io *op);
void sim_file_forget(struct sim_open *open); /* the last reference is gone */
/* The end of a life. @survives: the kernel does (kill -9). */
void sim_files_cut(bool survives);
void sim_files_drop(void);
int sim_file_open(const char *path, int flags, unsigned mode);
void sim_file_close(int fd);
int sim_file_stat(int fd, struct weir_sys_stat *ret_stat);
int sim_file_unlink(const char *path);
int sim_file_truncate(int fd, uint64_t size);
int sim_file_fallocate(int fd, int mode, uint64_t offset, uint64_t length);
int sim_file_fsync(int fd, bool data_only);
ssize_t sim_file_pread(int fd, void *buffer, size_t length, uint64_t offset);
ssize_t sim_file_pwrite(int fd, const void *buffer, size_t length, uint64_t offset);
ssize_t sim_file_preadv(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
ssize_t sim_file_pwritev(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
int sim_file_extent(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end);
int sim_file_discard(int fd, uint64_t offset, uint64_t length);
int sim_file_zero_out(int fd, uint64_t offset, uint64_t length);
int sim_file_lock(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
int sim_file_lock_test(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
int sim_file_rename(const char *from, const char *to);

/* ---- net.c ---- */

void sim_net_io_start(struct sim_io *op);
void sim_net_forget(struct sim_open *open);
int sim_net_listen(const struct sockaddr *address, unsigned address_length, int backlog, bool reuse);
int sim_net_connect(const struct sockaddr *address, unsigned address_length);
ssize_t sim_net_send_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
ssize_t sim_net_recv_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
int sim_net_shutdown(int fd);
void sim_net_close(int fd);
int sim_net_set_nodelay(int fd, bool on);
int sim_net_set_nonblocking(int fd);
int sim_net_resolve(const char *host, const char *port, int family, bool passive,
                    struct weir_sys_address *ret_addresses, unsigned count);
int sim_net_name(int fd, bool peer, char *text, size_t size);
int sim_net_is_listening(int fd);

#endif

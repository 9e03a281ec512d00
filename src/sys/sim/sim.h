/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulated world: one OS thread, one seed, virtual time.
 *
 * A test makes a world (weir_sim_begin), puts files into it, starts the library's first thread in it
 * (weir_sim_spawn) and lets it run (weir_sim_run). Everything that could differ between two runs comes from the
 * seed: which thread runs, how long an operation takes and in which order operations end, which ones fail, what
 * a power cut leaves. No order depends on an address. Everything that happens is mixed into a hash, so that two
 * runs of one seed can be compared.
 *
 * Time stands still while threads run. It advances to the next event (an operation ends, a deadline passes) when
 * no thread can run, and sometimes at a scheduling point, as if the thread there had been slow (overlap_ns).
 *
 * A simulated thread runs until it waits in poll(), join() or a blocking call, or until the seed preempts it at a
 * scheduling point: a lock or unlock of a mutex, and most calls into weir_sys.
 *
 * Disk model: a file is a set of 512-byte sectors behind a volatile cache, which keeps for each sector every
 * version since the last flush that covered it. A successful fsync makes durable every change that had
 * *completed* when the fsync was *submitted*; changes in flight then, or later ones, stay uncertain. RWF_DSYNC
 * and O_DSYNC make the write's own range durable. Punched, zeroed and cut-off ranges and sizes are changes like
 * written data. A power cut leaves each sector, and the size, at its durable version or any later one. Creating,
 * renaming and removing names is durable at once.
 *
 * Memory: a power cut abandons everything the library had allocated. That memory is not given back; programs
 * that run many seeds fork a process for each seed or a batch of seeds, which also keeps a crash of one seed from
 * the others. sys/sim/heap.h counts live allocations where a life ends orderly, and keeps LeakSanitizer quiet about
 * those that are abandoned.
 *
 * All functions are for the test's own thread, between runs, except where "inside" says that simulated threads
 * may call them too.
 */
#ifndef WEIR_SYS_SIM_SIM_H
#define WEIR_SYS_SIM_SIM_H

#include "sys/sys.h"

extern const struct weir_sys weir_sys_sim;

/* Keeps a static variable of a test over a power cut; see weir_sim_statics_save(). */
#define WEIR_SIM_KEPT __attribute__((section("weir_sim_kept")))

/* ---- profile: how the world behaves ---- */

/* Probabilities are in parts per million. */
#define WEIR_SIM_ALWAYS 1000000u

/* An operation takes min + 0..2 x mean, or with spike_ppm: spike. */
struct weir_sim_latency {
    int64_t min_ns, mean_ns, spike_ns;
    uint32_t spike_ppm;
};

/* What an operation on a file is, for latencies and faults. */
enum weir_sim_kind {
    WEIR_SIM_READ,
    WEIR_SIM_WRITE,
    WEIR_SIM_FLUSH,
    WEIR_SIM_ALLOCATE, /* fallocate, discard, zero_out, truncate */
    WEIR_SIM_CONTROL,  /* open, close, stat, locks, extent, unlink, rename */
    WEIR_SIM_KINDS,
};
#define WEIR_SIM_DATA_KINDS ((1u << WEIR_SIM_CONTROL) - 1)
#define WEIR_SIM_ALL_KINDS ((1u << WEIR_SIM_KINDS) - 1)

struct weir_sim_faults {
    struct weir_sim_latency latency;
    uint32_t eio_ppm;   /* fails once; a write may have landed in part, see also flush_lose_ppm */
    uint32_t short_ppm; /* reads and writes: ends early with success */
    uint32_t stuck_ppm; /* does not return until weir_sim_file_release() */
};

struct weir_sim_profile {
    struct weir_sim_faults io[WEIR_SIM_KINDS]; /* of files, unless set for the file itself */
    struct weir_sim_latency work;              /* until a worker takes up a call */
    struct weir_sim_latency net;               /* until sent bytes arrive, connections included */
    unsigned workers;                          /* the most worker threads; 0: 64, as in the real world */
    uint32_t preempt_every; /* mean number of scheduling points between two preemptions; 0: never preempt */
    int64_t overlap_ns;     /* how far a preemption may move time; 0: not at all */
    uint32_t two_step_ppm;  /* a read or write takes effect in two parts at different times */
    uint32_t nowait_ppm;    /* RWF_NOWAIT succeeds */
    uint32_t cancel_ppm;    /* cancelling a file operation in flight ends it early */
    uint32_t
        flush_lose_ppm; /* a failed flush drops a changed sector group for good (else it stays pending) */
    bool short_whole;   /* short transfers end with a whole sector of the request, also without O_DIRECT */
    bool flush_sticky;  /* once a flush has failed, all flushes of that file do until it is opened anew */
    uint32_t net_split_ppm; /* a send or receive moves less than it could */
    uint32_t net_buffer;    /* bytes a connection holds in one direction; 0: 64 KiB */
};

/* A quick, faultless disk; reordering and preemption on. */
void weir_sim_profile_init(struct weir_sim_profile *ret_profile);
/*
 * The swarm: starts from weir_sim_profile_init() and draws preemption, latencies, NOWAIT and splitting from @seed.
 * No faults: those that a test allows it sets itself.
 */
void weir_sim_profile_random(struct weir_sim_profile *ret_profile, uint64_t seed);

/* ---- life of a world ---- */

/* Makes the world of @seed, at time 0 and empty. @profile is copied. Sets weir_sys to weir_sys_sim. */
void weir_sim_begin(uint64_t seed, const struct weir_sim_profile *profile);
/* Drops the world with everything in it. Threads that have not ended are abandoned. weir_sys stays. */
void weir_sim_end(void);
/* From now on, for files without settings of their own and for everything else. Inside too. */
void weir_sim_set_profile(const struct weir_sim_profile *profile);

/* Starts a simulated thread. */
void weir_sim_spawn(const char *name, void (*run)(void *arg), void *arg);

enum weir_sim_outcome {
    WEIR_SIM_FINISHED, /* every thread has ended; workers and what they had to do too */
    WEIR_SIM_IDLE,     /* threads are left, and none of them can ever run again by itself */
    WEIR_SIM_TIMEOUT,  /* a limit is reached */
    WEIR_SIM_STOPPED,  /* a thread called weir_sim_stop() */
};
/* Counted from the call of weir_sim_run(). 0: no limit. */
struct weir_sim_limits {
    uint64_t steps;  /* scheduling decisions */
    uint64_t events; /* operations ended, deadlines passed */
    int64_t time_ns; /* virtual time */
};
/* Lets the world run. May be called again afterwards: it goes on where it was. */
enum weir_sim_outcome weir_sim_run(const struct weir_sim_limits *limits) weir_must_check;
/* Makes weir_sim_run() return soon. Inside. */
void weir_sim_stop(void);
const char *weir_sim_outcome_name(enum weir_sim_outcome outcome);

/*
 * Cuts the power: threads stop where they are and are forgotten, descriptors, locks and connections are gone,
 * each file is left at a mix of versions as described above. Time goes on. Then a new life can be spawned.
 */
void weir_sim_power_cut(void);
/* As above, but the kernel survives (kill -9): operations in flight end, files keep what was written. */
void weir_sim_kill(void);

/*
 * Remembers all static variables of the program as they are now, and makes weir_sim_power_cut() and
 * weir_sim_kill() put them back, so that the library starts its next life as a fresh process would. Variables
 * declared WEIR_SIM_KEPT and those of shared libraries are left alone. Call it once, before the library is used.
 * False where it cannot be done: with sanitizers of clang, which live in the program's own variables.
 */
bool weir_sim_statics_save(void) weir_must_check;

/* ---- random numbers, hash, counters ---- */

/* 0 .. n - 1 from the world's seed, for the test. Inside too. */
uint64_t weir_sim_random(uint64_t n);
bool weir_sim_chance(uint32_t ppm);
/* Virtual ns since weir_sim_begin(). Inside too. */
int64_t weir_sim_now(void);
/* Sleeps; for simulated threads that are no loops (guests of a test). Inside only. */
void weir_sim_sleep(int64_t duration_ns);

/* Of everything that has happened. */
uint64_t weir_sim_hash(void);
/* Mixes something of the test's own into the hash. Inside too. */
void weir_sim_mix(uint64_t value);
/* Shows each thing that is mixed into the hash, in order: to find where two runs part. NULL: no more. */
void weir_sim_watch(void (*show)(int64_t now, const char *what, uint64_t a, uint64_t b, uint64_t c));
/* Disturbs the heap: what is allocated from now on lies in other places and in another order. Until _end(). */
void weir_sim_heap_shift(uint64_t seed);

struct weir_sim_stats {
    uint64_t steps;       /* scheduling decisions */
    uint64_t switches;    /* between threads */
    uint64_t preemptions; /* a thread had to give way at a scheduling point */
    uint64_t events;
    uint64_t operations; /* reads, writes, flushes, allocations ended, of any way of calling */
    uint64_t nowait_ok, nowait_again;
    uint64_t flushes, failed_flushes;
    uint64_t eio, enospc, short_io, stuck, released; /* faults that happened */
    uint64_t cancelled;
    uint64_t torn; /* operations that took effect in two steps */
    uint64_t power_cuts, kills;
    uint64_t cut_sectors;     /* sectors with more than one possible version at power cuts */
    uint64_t cut_old_sectors; /* of these: left at another version than the newest */
    uint64_t works, workers_max;
    uint64_t loop_blocked; /* a blocking call was made on a thread that has a loop */
    uint64_t connections, net_bytes;
};
const struct weir_sim_stats *weir_sim_stats(void);
/* Threads that have not ended, workers left out. */
unsigned weir_sim_threads(void);
/* Descriptors that are open: files and sockets. */
unsigned weir_sim_descriptors(void);

/* ---- files ---- */

struct weir_sim_file; /* lives until weir_sim_end(), also when its name is gone */

struct weir_sim_file_options {
    uint64_t size;                /* bytes */
    bool block;                   /* a block device: fixed size, BLKDISCARD, BLKZEROOUT */
    bool read_only;               /* opening for writing: -EACCES; block devices say so in stat too */
    uint32_t logical_block;       /* O_DIRECT: alignment of offset and length; 0: 512 */
    uint32_t memory_align;        /* O_DIRECT: alignment of buffers; 0: 512 */
    uint32_t discard_granularity; /* 0: none */
    bool discard_garbage;         /* what BLKDISCARD gives up reads as garbage, not zero */
    bool remote;                  /* on a file system whose calls may hang: stat says NFS */
    bool no_direct;               /* O_DIRECT: -EINVAL, as on old tmpfs */
    bool no_punch, no_zero_range; /* fallocate modes that answer -EOPNOTSUPP */
    bool no_nowait;               /* RWF_NOWAIT: -EOPNOTSUPP */
    bool no_extents;              /* extent(): -EOPNOTSUPP */
};
/* Makes a file that is durable and a hole throughout. @options may be NULL: an empty regular file. */
struct weir_sim_file *weir_sim_file_new(const char *name, const struct weir_sim_file_options *options);
/* The file that has this name now, or NULL. Inside too. */
struct weir_sim_file *weir_sim_file_find(const char *name);
uint64_t weir_sim_file_size(const struct weir_sim_file *file);
uint64_t weir_sim_file_allocated(const struct weir_sim_file *file);
/* Puts durable bytes there, growing a regular file. */
void weir_sim_file_put(struct weir_sim_file *file, uint64_t offset, const void *data, size_t length);
/* What a read would see now (zero beyond the end). Inside too. */
void weir_sim_file_peek(struct weir_sim_file *file, uint64_t offset, void *buffer, size_t length);
/* What is certainly on the medium: the oldest version that a power cut could leave. Inside too. */
void weir_sim_file_peek_durable(struct weir_sim_file *file, uint64_t offset, void *buffer, size_t length);
/* Whether a power cut now could leave @data (512 bytes) in the sector at @offset. Inside too. */
bool weir_sim_file_possible(struct weir_sim_file *file, uint64_t offset, const void *data);

/* ---- faults; inside too ---- */

/* Sets latency and faults of one kind of operation on this file. */
void weir_sim_file_faults(struct weir_sim_file *file, enum weir_sim_kind kind,
                          const struct weir_sim_faults *faults);
/* Reads and/or writes that touch the range fail with -EIO from now on. */
void weir_sim_file_bad_range(struct weir_sim_file *file, uint64_t offset, uint64_t length, bool read,
                             bool write);
/* The most bytes the file may take (4 KiB units), then -ENOSPC. UINT64_MAX: no limit. */
void weir_sim_file_budget(struct weir_sim_file *file, uint64_t bytes);
/* Every operation of the kinds in the mask (1 << WEIR_SIM_READ ...) that begins from now on gets stuck. */
void weir_sim_file_stick(struct weir_sim_file *file, unsigned kinds);
/* Ends all stuck operations with success, or with @error (a negative errno), and lets new ones pass. */
void weir_sim_file_release(struct weir_sim_file *file, int error);
/* Operations of this file that are stuck now. */
unsigned weir_sim_file_stuck(const struct weir_sim_file *file);
/* No faults any more: own settings, bad ranges, budget, sticking and failed flushes are dropped, stuck I/O ends. */
void weir_sim_file_heal(struct weir_sim_file *file);
/* The same for all files, and for the faults (not the latencies) of the profile. */
void weir_sim_heal(void);

/* ---- sockets ---- */

/* The connection of descriptor @fd moves no byte in either direction until @stalled is false. Inside too. */
void weir_sim_net_stall(int fd, bool stalled);

#endif

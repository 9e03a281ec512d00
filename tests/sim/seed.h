/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One seed: what it draws, its images, its guests, its totals. Private to the simulator's test program.
 *
 *   main.c      many seeds, one process each; totals, floors, laws
 *   life.c      one seed: a world, a life of the library in it, maybe a power cut and a second life
 *   plan.c      what a seed is: drawn before anything runs
 *   image.c     files and what is in them when the seed begins
 *   node.c      opening nodes on images
 *   guest.c     guests: queues of requests, each answer judged by an oracle
 *   operator.c  drains, snapshots and changes of size, at random times
 *   edits.c     filters that come and go
 *   mirrors.c   mirror jobs: both modes, every way to end, targets that fail or hang
 *   check.c     what is on the medium, by code of its own; what the library reads from it
 *   qcow2_*.c   qcow2 images on the medium; judging them in a seed
 *
 * Everything here survives a power cut, which resets the library's static variables (WEIR_SIM_KEPT).
 */
#ifndef WEIR_TESTS_SIM_SEED_H
#define WEIR_TESTS_SIM_SEED_H

#include "co/co.h"
#include "graph/graph.h"
#include "history.h"
#include "io/request.h"
#include "qcow2_medium.h"
#include "shadow.h"
#include "simfmt.h"
#include "sys/sim/sim.h"

#define SECTOR ((uint64_t)512)
#define LOOPS_MAX 3u
#define GUESTS_MAX 4u
#define QUEUES_MAX 8u
#define IMAGES_MAX 4u
#define REQUEST_MAX ((uint64_t)98304)
#define SNAPSHOTS_MAX 4u

/* ---- totals, summed over all seeds, and what 1,000 seeds must at least bring ---- */

#define TOTALS(X)                  \
    X(seeds, 1000)                 \
    X(requests, 400000)            \
    X(answered_at_once, 10000)     \
    X(merged, 10000)               \
    X(failed_requests, 5000)       \
    X(no_space, 3000)              \
    X(allocations, 60000)          \
    X(allocations_aborted, 300)    \
    X(stored_compressed, 8000)     \
    X(units_shared, 10000)         \
    X(table_loads, 20000)          \
    X(table_evictions, 15000)      \
    X(tables_written, 40000)       \
    X(space_released, 30000)       \
    X(rooms_made, 20000)           \
    X(range_lock_waits, 15000)     \
    X(drains, 1000)                \
    X(drained_comparisons, 60)     \
    X(snapshots, 300)              \
    X(snapshots_deleted, 200)      \
    X(power_cuts, 300)             \
    X(power_cuts_mirroring, 50)    \
    X(snapshots_after_cut, 30)     \
    X(disk_faults, 4000)           \
    X(failed_flushes, 12)          \
    X(mirrors, 300)                \
    X(mirrors_pivoted, 80)         \
    X(mirrors_soft_cancelled, 30)  \
    X(mirrors_cancelled, 60)       \
    X(mirrors_failed, 30)          \
    X(mirrors_seen_synced, 50)     \
    X(limbo, 12)                   \
    X(stuck_released, 10)          \
    X(second_lives, 300)           \
    X(run_twice, 9)                \
    X(qcow2_images, 500)           \
    X(qcow2_l2_tables, 1500)       \
    X(qcow2_l2_copied, 80)         \
    X(qcow2_data, 10000)           \
    X(qcow2_stored, 2000)          \
    X(qcow2_kept_zeroes, 100)      \
    X(qcow2_count_blocks, 100)     \
    X(qcow2_count_tables_moved, 2) \
    X(qcow2_snapshots, 90)         \
    X(qcow2_snapshots_kept, 150)   \
    X(qcow2_leaks_after_cut, 30)   \
    X(qcow2_dirty_after_cut, 10)   \
    X(qcow2_deep_chains, 25)       \
    X(resizes, 120)                \
    X(edits, 100)                  \
    X(edit_reads, 2000)            \
    X(reopenings, 60)              \
    X(l1_tables_moved, 5)

struct totals {
#define X(name, floor) uint64_t name;
    TOTALS(X)
#undef X
};

/* ---- the plan ---- */

enum request_kind {
    KIND_READ,
    KIND_WRITE,
    KIND_WRITE_FUA,
    KIND_WRITE_STORED,
    KIND_ZERO,
    KIND_ZERO_UNMAP,
    KIND_ZERO_QUICK,
    KIND_DISCARD,
    KIND_FLUSH,
    KIND_STATUS,
    KIND_BATCH,
    KINDS,
};

/* What a power cut comes after, by some events. */
enum cut_where {
    CUT_AT_REQUEST,
    CUT_AT_SNAPSHOT,
    CUT_AT_HEADER,
    CUT_AT_MIRROR,
    CUT_AT_RESIZE,
    CUT_AT_FLUSH,
    CUT_PLACES
};

struct plan {
    uint64_t size, unit;                      /* bytes of the disk, of an allocation unit of simfmt */
    uint64_t guest_unit;                      /* of what guests write as a whole */
    unsigned main_life;                       /* the one with all that may happen; those before are quiet */
    unsigned chain;                           /* layers behind an image that has a backing: 1 or 2 */
    bool offline_snapshots;                   /* qcow2: between lives */
    unsigned loops, guests, queues, requests; /* requests: of each queue */
    uint64_t zone;                            /* private bytes of each queue */
    uint32_t weight[KINDS], weight_sum;
    uint32_t shared_ppm, whole_units_ppm, hot_ppm, pause_ppm;
    unsigned gate_requests; /* 0: the default */
    unsigned drains, snapshots, mirrors, resizes, edits;
    bool faults, enospc, tight; /* errors of the disk may happen; ENOSPC may */
    bool exact;                 /* there is just as much space as the guests can use: it must be found */
    bool cut;
    enum cut_where cut_where;
    uint64_t cut_after; /* requests, snapshot operations or mirrors told to end */
    /* Windows of raw begin so far into a sector of the file, a multiple of 8: sectors of the disk may tear there. */
    uint64_t phase;
    uint64_t cut_events;
};

/* ---- images ---- */

enum image_kind { IMAGE_RAW, IMAGE_SIMFMT, IMAGE_QCOW2 };

/* What only a qcow2 image has. */
struct image_qcow2 {
    struct qcow2_medium_params params;
    unsigned lazy;                                    /* option lazy-refcounts: 0 absent, 1 on, 2 off */
    bool no_unref;                                    /* discard-no-unref */
    unsigned pass_request, pass_snapshot, pass_other; /* pass-discard-*: as lazy */
    unsigned laid;                                    /* clusters that hold something before the first life */
    uint64_t known_leaks;                             /* what a power cut or the making of it has left */
    uint64_t made_blocks, table_offset, l1_offset;    /* as it was made, or last seen */
    unsigned snapshots;
    uint64_t snapshot_hash[SNAPSHOTS_MAX];
};

struct image {
    char name[8]; /* of the top node */
    enum image_kind kind;
    bool data_file, backing, direct, data_direct, remote;
    bool window;            /* raw with offset and size */
    bool large_sectors;     /* O_DIRECT needs 4096 bytes */
    bool keeps_discards;    /* discard=ignore */
    unsigned detect_zeroes; /* 0: on, 1: unmap, else off */
    uint64_t window_offset;
    unsigned cache;
    struct simfmt_header header;
    struct image_qcow2 qcow2;
    struct weir_sim_file *file, *data;
    uint64_t leaked[4096]; /* references that a power cut left too many, by host unit */
};

/* ---- guests ---- */

struct queue {
    unsigned index;
    struct weir_edge *edge;
    struct shadow zone;
    unsigned left;
};

enum snapshot_state { SNAPSHOT_ABSENT, SNAPSHOT_PRESENT, SNAPSHOT_MAYBE };

struct seed {
    uint64_t number;
    struct plan plan;
    struct image images[IMAGES_MAX];
    unsigned current;                    /* the image that the guests use */
    struct weir_sim_file *base, *middle; /* backing files; middle: a qcow2 image between */
    uint64_t base_size;
    uint64_t initial_end; /* bytes of the disk from here on are zero when the seed begins */
    struct weir_loop *loops[LOOPS_MAX];
    struct weir_edge *edges[GUESTS_MAX];
    struct queue queues[QUEUES_MAX];
    uint64_t shared_sectors; /* [0, this) is the zone of all */
    uint64_t stamp, flushed;
    unsigned life, guests_running, operators_running;
    uint64_t cut_counts[CUT_PLACES];
    bool ending, mirroring;
    bool editing;    /* a filter stands where the guests' disk was, or beside them */
    bool resizing;   /* an operator holds the permission to resize, or the size is not the plan's */
    bool was_cut;    /* this life began with a power cut */
    bool synced;     /* the mirror was seen actively synced in the mode that it has now */
    bool cancelling; /* a mirror is being cancelled, and may leave requests behind; until calm_ns */
    int64_t calm_ns;

    enum snapshot_state snapshot;
    bool snapshot_known; /* its contents are: those of a moment in [from, to] */
    uint64_t snapshot_from, snapshot_to;

    struct totals totals;
    uint64_t hash; /* of everything that has happened */
};

extern struct seed seed;

/* Ends this seed as failed. Anywhere. */
_Noreturn void seed_fail(const char *format, ...) weir_printf(1, 2);
#define CHECK(cond, ...) ((cond) ? (void)0 : seed_fail(__VA_ARGS__))
/* Inside: 0 .. n - 1; n > 0. */
static inline uint64_t pick(uint64_t n)
{
    return weir_sim_random(n);
}

/* Evaluates each argument once. */
static inline uint64_t least(uint64_t one, uint64_t other)
{
    return one < other ? one : other;
}

/* plan.c */
void plan_draw(void);
/* Whether the disk that guests of this seed begin with is qcow2. Any time. */
bool plan_is_qcow2(uint64_t number);
void plan_profile(struct weir_sim_profile *profile);
void plan_faults(void);
/* Tells a person what was drawn. */
void plan_show(void);

/* image.c */
void image_make_all(void);
/* Fills what the images begin with, backing files too. */
void image_fill_all(void);
/* What a guest sees in a fresh image. */
uint64_t image_initial(uint64_t sector);
struct qcow2_medium image_medium(const struct image *image);
/* What lies behind an image with a backing; a qcow2_medium_backing. @arg: the image. */
void image_read_behind(void *arg, uint64_t offset, uint64_t length, uint8_t *out);
/* Between lives: may take an internal snapshot of the image that the guests use. */
void image_snapshot_offline(void);

/* node.c */
/* NULL: a fault of the disk got in the way. */
struct weir_node *image_open(const struct image *image) weir_co_fn;
/* Gives its node other options, or tries to. Nobody else changes the graph. */
void image_reopen(struct image *image) weir_co_fn;

/* Sectors hold a stamp; what a stamp looks like. Even ones compress. */
void sector_fill(uint8_t *bytes, uint64_t value);
/* The stamp that bytes [@from, @end) of a sector belong to; false: none. */
bool sector_value(const uint8_t *bytes, uint64_t from, uint64_t end, uint64_t *ret_value);

/* guest.c */
void guest_run(void *arg) weir_co_fn;
void guest_setup(void);

/* operator.c */
void operator_drains(void *arg) weir_co_fn;
void operator_drain_once(void) weir_co_fn;
void operator_snapshots(void *arg) weir_co_fn;
void operator_resizes(void *arg) weir_co_fn;
/* In a drained section: nothing moves. */
void operator_assert_rest(void) weir_co_fn;

/* edits.c */
void operator_edits(void *arg) weir_co_fn;

/* mirrors.c */
void operator_mirrors(void *arg) weir_co_fn;
/* With the guests drained: a mirror whose bitmap is clean has a target that equals its source. */
void mirrors_compare_drained(void) weir_co_fn;

/* check.c */
enum check_when { CHECK_AT_END, CHECK_AFTER_CUT };
/* Judges bytes of the disk that were observed between @from and @to, or (@cut) after a power cut. */
void check_bytes(uint64_t offset, uint64_t length, const uint8_t *bytes, uint64_t from, uint64_t to, bool cut,
                 const char *what);
/* Reads the whole disk by @edge, and its status, with nobody else around. @settle: takes it as known. */
void check_disk(struct weir_edge *edge, bool cut, bool settle) weir_co_fn;
/* A copy of the moment in [@from, @to]. */
void check_copy(struct weir_edge *edge, uint64_t from, uint64_t to) weir_co_fn;
void check_medium(struct image *image, enum check_when when, bool contents);

/* qcow2_check.c */
void check_qcow2(struct image *image, enum check_when when, bool contents);
uint64_t check_qcow2_hash(const struct image *image, unsigned view);

/* life.c */
/* Once in a process. */
void seed_run(uint64_t number, uint64_t heap_shift, bool show);
/* Something has happened after which the power may go. Inside. */
void life_may_cut(enum cut_where where);
struct weir_edge *life_attach(struct weir_node *node, const char *name, unsigned perm) weir_co_fn;

#endif

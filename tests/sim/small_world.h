/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A small qcow2 disk in a small world, for programs that go through all cases (short.c, nth_fault.c): nine
 * operations, each at its own place, chosen so that they meet each other's clusters; one request at a time.
 *
 *   cluster   0   1   2   3   4   5   6   7 | 8 ...
 *   at first  shared with a snapshot| own   | not allocated
 *
 * Every sector holds one byte, repeated: the number of what wrote it. The oracle knows for each sector the set of
 * numbers that it may hold now, and the set that a power cut (or I/O that fails for good) may leave.
 */
#ifndef WEIR_TESTS_SIM_SMALL_WORLD_H
#define WEIR_TESTS_SIM_SMALL_WORLD_H

#include "graph/graph.h"
#include "nth_io.h"
#include "qcow2_medium.h"

enum small_op {
    SMALL_ALLOCATE,  /* writes where nothing is */
    SMALL_OVERWRITE, /* own clusters, and beyond */
    SMALL_SHARED,    /* clusters that a snapshot has too */
    SMALL_STORED,    /* compressed */
    SMALL_ZERO,
    SMALL_DISCARD,
    SMALL_FLUSH,
    SMALL_GROW,
    SMALL_SHRINK,
    SMALL_OPS,
};
extern const char *const small_op_names[SMALL_OPS];

struct small_config {
    const char *name;
    struct qcow2_medium_params params;
    bool backing, lazy, no_unref;
};
extern const struct small_config small_configs[];
extern const unsigned small_config_count;

extern struct qcow2_medium small_medium;

/* A new world with the image in it, not open. */
void small_begin(const struct small_config *config, uint64_t seed);
void small_end(void);
/*
 * Lets a life of the library run @script on the control loop, until it ends (true) or the world is stopped (false).
 * The library's static variables begin anew.
 */
bool small_life(void (*script)(void) weir_co_fn);

/* ---- in a life ---- */
/* 0 or -errno. */
int small_open(void) weir_co_fn;
void small_close(void) weir_co_fn;
/* Tells the oracle and does it; number @step (0 ..) of the life. */
int small_do(enum small_op op, unsigned step) weir_co_fn;
/* Reads the whole disk through the library and judges it. -errno where reading fails. */
int small_read_all(void) weir_co_fn;

/* ---- judging the medium ---- */
/* After an orderly end (@cut false), or else. @leaks: how many are allowed. */
void small_check(bool cut, uint64_t leaks);
/* What was there after a power cut is what is there now. */
void small_settle(void);
/* Leaks at the last judgement. */
uint64_t small_leaks(void);

#endif

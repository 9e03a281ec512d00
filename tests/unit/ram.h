/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "ram": a leaf for the tests of the core and of the table cache. Its limits come from its options, and it asserts that
 * every request keeps to them. What it is asked for is kept as text; it can hold requests and fail them.
 *
 *   size, align, memory-align, iov-max, max            numbers, of struct weir_limits
 *   zero-align, zero-max, discard-align, discard-max
 *   fua, zero, unmap, quick, try, status, apart        booleans: what it can do itself
 *   tag                                                the log says which node, by its first letter
 * "pass" is a filter that never wants anything. Control loop only.
 */
#ifndef WEIR_TESTS_RAM_H
#define WEIR_TESTS_RAM_H

#include "driver_world.h"

struct ram {
    struct weir_node *node;
    char *data;
    struct weir_limits limits;
    bool can_try, can_zero, can_status;
    unsigned hold; /* operations (WEIR_OP_BIT) that wait for ram_release() */
    unsigned held;
    unsigned pauses;                 /* turns that every operation takes: others run meanwhile */
    unsigned fail_in[WEIR_OP_COUNT]; /* the n-th from now fails, 0: none */
    uint64_t bad_offset, bad_length; /* writes that touch it fail */
    int error;                       /* with this (-EIO) */
    struct weir_status status;       /* what STATUS answers, if length is not 0 */
    unsigned flushes;
    struct weir_mutex mutex;
    struct weir_co_queue queue;
};

/* Registers both drivers. */
void ram_register(void);
struct ram *ram_of(const char *node_name);
/* What was asked since the last call, as "write 0+512, flush". */
const char *ram_log(struct ram *ram);
void ram_expect(struct ram *ram, const char *text);
void ram_release(struct ram *ram); /* lets all go that are held, and holds nothing more */
void ram_let_go(struct ram *ram);  /* the same, but goes on holding */
weir_co_fn void ram_wait_held(struct ram *ram, unsigned count);

/* A root request in a coroutine of its own. */
struct task {
    struct weir_edge *edge;
    struct weir_request request;
    struct iovec iov;
    int64_t deadline_ns;
    bool over;
    int result;
};
void task_start(struct task *task, struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length,
                void *buffer);
/* The same by weir_io_abandonable(). */
void task_start_abandonable(struct task *task, struct weir_edge *edge, enum weir_op op, uint64_t offset,
                            uint64_t length, void *buffer, int64_t deadline_ns);
weir_co_fn int task_wait(struct task *task);
/* Lets everything that can go on do so. */
weir_co_fn void settle(void);

#endif

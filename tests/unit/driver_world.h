/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the tests of the drivers share: a graph with the core and all drivers in the real world, and short
 * spellings of what they do with it. JSON is written with single quotes. Inside of DRIVER_TEST use WEIR_ASSERT.
 */
#ifndef WEIR_TESTS_DRIVER_WORLD_H
#define WEIR_TESTS_DRIVER_WORLD_H

#include "base/alloc.h"
#include "graph/graph.h"
#include "io/io.h"
#include "unit.h"
#include "world.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define R WEIR_PERM_CONSISTENT_READ
#define W WEIR_PERM_WRITE
#define U WEIR_PERM_WRITE_UNCHANGED
#define Z WEIR_PERM_RESIZE
#define ALL WEIR_PERM_ALL

#define KIB 1024u
#define MIB (1024u * 1024u)

/* Runs @body as a coroutine of the control loop with a graph, which it leaves empty of root edges. */
void run_drivers(void (*body)(void *arg) weir_co_fn);
#define DRIVER_TEST(name)               \
    static void name##_body(void *arg); \
    static void name(void **state)      \
    {                                   \
        run_drivers(name##_body);       \
    }                                   \
    static void name##_body(void *arg)

/* Adds the node that the printf-like text describes; must succeed. */
weir_co_fn struct weir_node *add(const char *format, ...) weir_printf(1, 2);
/* Adding must fail with exactly @text. */
weir_co_fn void add_fails(const char *text, const char *format, ...) weir_printf(2, 3);
weir_co_fn void del(const char *name);
/* A root user; must succeed. Detached by leave(). */
weir_co_fn struct weir_edge *user(struct weir_node *node, unsigned perm, unsigned shared);
/* Attaching must fail; returns the error, which the caller frees. */
weir_co_fn struct weir_error *user_fails(struct weir_node *node, unsigned perm, unsigned shared);
weir_co_fn void leave(struct weir_edge *edge);

/* Requests of a root user with one flat buffer. */
weir_co_fn int io(struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length, void *buffer,
                  unsigned flags);
/* Writes @byte all over the range; must succeed. */
weir_co_fn void fill(struct weir_edge *edge, uint64_t offset, uint64_t length, int byte);
/* Whether the range holds @byte all over. */
weir_co_fn bool holds(struct weir_edge *edge, uint64_t offset, uint64_t length, int byte);
weir_co_fn struct weir_status status_of(struct weir_edge *edge, uint64_t offset, uint64_t length);

/* A path in a directory of the test's own; a static buffer, one of four in turn. */
const char *path(const char *name);
/* The same on tmpfs, or NULL where there is none. */
const char *path_shm(const char *name);
/* Makes a file of @size bytes, all of them @byte (-1: a hole). */
const char *make_file(const char *file, uint64_t size, int byte);
uint64_t allocated(const char *file);
uint64_t file_size(const char *file);
/* cmocka's group set-up and tear-down: make and remove the directories. */
int make_directories(void **state);
int remove_directories(void **state);

#endif

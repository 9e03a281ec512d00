/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fake drivers and helpers for the tests of the graph.
 *
 *   leaf    protocol; options: size, fail-open, hold-open (waits for fake_release()), fail-prepare
 *   filter  `file` is its filtered child
 *   format  `file` is data and metadata, `backing` the COW child, `data-file` data only; it allocates
 *   shift   `file` is data only
 *   inner   an internal filter without children of its own making
 * What their slots are called for is kept as text in the log. JSON is written with single quotes.
 */
#ifndef WEIR_TESTS_GRAPH_FAKE_H
#define WEIR_TESTS_GRAPH_FAKE_H

#include "base/alloc.h"
#include "graph/gate.h"
#include "graph/graph.h"
#include "world.h"
#include <errno.h>
#include <string.h>

struct fake {
    unsigned prepares, commits, aborts;
    unsigned perm, shared; /* committed */
    unsigned next_perm, next_shared;
    bool fail_prepare;
};

extern const struct weir_driver fake_inner;

/* Runs @body as a coroutine of the control loop with a graph, which must be left empty of root edges. */
void run_graph(void (*body)(void *arg) weir_co_fn);
#define GRAPH_TEST(name)                \
    static void name##_body(void *arg); \
    static void name(void **state)      \
    {                                   \
        run_graph(name##_body);         \
    }                                   \
    static void name##_body(void *arg)

/* The log so far, which is emptied. Valid until the next call. */
const char *fake_log(void);
void expect_log(const char *text);
void fake_log_add(const char *what, const char *name);
unsigned fake_open_nodes(void);
/* Lets leaves with hold-open go on. */
void fake_release(void);
unsigned fake_held(void);

json_t *fake_json(const char *text);
int fake_add_error(const char *text, struct weir_error **err) weir_co_fn;
struct weir_node *fake_add(const char *text) weir_co_fn; /* must succeed */
void fake_del(const char *name) weir_co_fn;              /* must succeed */
/* Ends a call that must have failed with @text; frees *err and leaves NULL there. */
void expect_failure(int ret, int expected, struct weir_error **err, const char *text);
#define expect_add(code, text, ...)                           \
    do {                                                      \
        struct weir_error *add_err = NULL;                    \
        int add_ret = fake_add_error(text, &add_err);         \
        expect_failure(add_ret, code, &add_err, __VA_ARGS__); \
    } while (0)

/* A root user called @name; its ops keep the log too. */
struct weir_edge *fake_root(struct weir_node *node, const char *name, unsigned perm,
                            unsigned shared) weir_co_fn;
int fake_root_error(struct weir_node *node, const char *name, unsigned perm, unsigned shared,
                    struct weir_error **err) weir_co_fn;
void fake_root_end(struct weir_edge *edge) weir_co_fn;
struct fake *fake_of(struct weir_node *node);
/* Only child edge of @node with that name, or NULL. */
struct weir_edge *fake_edge(struct weir_node *node, const char *name);

#define R WEIR_PERM_CONSISTENT_READ
#define W WEIR_PERM_WRITE
#define U WEIR_PERM_WRITE_UNCHANGED
#define Z WEIR_PERM_RESIZE
#define ALL WEIR_PERM_ALL

#endif

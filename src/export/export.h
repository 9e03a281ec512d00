/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports: nodes that are reachable from outside.
 *
 * An export holds a root edge on its node and follows it when a job pivots. Its clients are served by the loop of
 * its iothread, or by the default loop for data. Kinds of exports live in folders of their own and are known here by
 * a table (export/export_type.h). Everything here runs on the control loop.
 */
#ifndef WEIR_EXPORT_EXPORT_H
#define WEIR_EXPORT_EXPORT_H

#include "base/error.h"
#include "base/macros.h"

struct weir_edge;
struct weir_export;

/* How long the end of an export waits for requests in flight before it leaves them behind. */
#define WEIR_EXPORT_LIMIT_NS (10 * 1000000000LL)
/* How long the command that sends its clients away waits for that end before it goes on in the background. */
#define WEIR_EXPORT_PATIENCE_NS (1 * 1000000000LL)

/* The texts are borrowed for the time of the call. */
struct weir_export_options {
    const char *type; /* "nbd" */
    const char *id;
    const char *node_name;
    bool writable;
    bool writethrough;       /* every change is durable before it is answered */
    const char *iothread;    /* NULL: the default loop for data */
    const char *name;        /* nbd: NULL: the node name */
    const char *description; /* nbd: NULL: none */
};

enum weir_export_mode {
    WEIR_EXPORT_SAFE, /* fail when it has clients */
    WEIR_EXPORT_HARD, /* drop them */
};

int weir_export_add(const struct weir_export_options *options,
                    struct weir_error **err) weir_co_fn weir_must_check;
/*
 * Ends an export. One without clients is gone on return and its `deleted` callback has run, and so is one whose
 * clients leave within WEIR_EXPORT_PATIENCE_NS; otherwise the rest happens in the background, within
 * WEIR_EXPORT_LIMIT_NS.
 */
int weir_export_del(const char *id, enum weir_export_mode mode,
                    struct weir_error **err) weir_co_fn weir_must_check;
/* Ends all exports of @type (NULL: all) hard and waits until each is gone, @limit_ns at most for requests in flight. */
void weir_export_close_all(const char *type, int64_t limit_ns) weir_co_fn;

struct weir_export *weir_export_find(const char *id); /* NULL: none */
/* In the order of creation; NULL: the first. Ends with NULL. Valid until the caller waits. */
struct weir_export *weir_export_next(struct weir_export *at);

const char *weir_export_id(const struct weir_export *at);
const char *weir_export_type_name(const struct weir_export *at);
const char *weir_export_node_name(const struct weir_export *at); /* of the node that it shows now */
bool weir_export_shutting_down(const struct weir_export *at);
unsigned weir_export_clients(const struct weir_export *at);
struct weir_edge *weir_export_edge(const struct weir_export *at); /* for statistics (io/stats.h) */

/* Called when an export is gone and its id free again (BLOCK_EXPORT_DELETED). NULL: nobody. */
void weir_export_on_deleted(void (*deleted)(const char *id));
/*
 * Called with one line of text, without its end, for each thing that a person may want to know: clients that come and
 * go, the first failed request of a client. Any thread. NULL: nobody.
 */
void weir_export_on_log(void (*line)(const char *text));

#endif

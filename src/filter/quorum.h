/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quorum: several children that hold the same.
 *
 * Who is right. A write, zero, flush goes to all children and succeeds when at least `threshold` of them did it. A
 * read (pattern quorum) asks all and answers what at least `threshold` of them hold, block by block where no version of
 * the whole has that many; among versions with as many votes the one wins that more children hold which have missed
 * nothing there. Pattern fifo asks one after the other until
 * one answers. Whoever fails or is outvoted is reported (weir_node_dissent()).
 *
 * What a child has missed. When a write succeeds without a child, the range is marked in that child's bitmap, until a
 * later write to the child covers it. Marked ranges of a child are not read in pattern fifo, nor do they count in block
 * status: there nobody else would contradict. This lives as long as the node: who adds a child, or opens the node
 * anew, says that the children are equal.
 *
 * Who waits for whom. A request waits for all its children, but from the moment on when the threshold is reached no
 * longer than QUORUM_PATIENCE_NS: then the edges of the late ones are broken (io/async.h), their requests are left
 * behind, and they count as failed. Such a child is sent nothing more until all that was left behind has returned;
 * then it takes part again, with the marks of what it missed. So a child that hangs costs each guest one pause, no
 * memory that grows, and a drain waits no longer than that either. Without the threshold a guest waits, as it does
 * for a single disk.
 *
 * Order. Changes hold their range exclusively in a table of the node, reads share it: all children see overlapping
 * changes in the same order, and no read compares a child that has a change with one that does not have it yet.
 *
 * Discards must leave the same on all children. They become zeroes that give up the space, where every child can do
 * that at once, and are ignored elsewhere.
 */
#ifndef WEIR_FILTER_QUORUM_H
#define WEIR_FILTER_QUORUM_H

#include "co/co.h"
#include "graph/node.h"
#include "io/request.h"

#define QUORUM_CHILDREN_MAX 32u
#define QUORUM_PATIENCE_NS (5 * 1000000000LL)

struct weir_bitmap;
struct weir_range_table;

struct quorum_child {
    struct weir_edge *edge;
    struct weir_node *node; /* that the rest is about: edge->node may be another one after a drain */
    /* Under quorum->mutex: */
    struct weir_bitmap *missed; /* NULL: nothing */
    bool missed_all;            /* there was no memory for the bitmap */
    unsigned breaking;          /* requests that break the edge just now */
};

struct quorum {
    struct weir_node *node;
    struct quorum_child children[QUORUM_CHILDREN_MAX]; /* changes while drained */
    unsigned count, next_index, threshold;
    bool fifo, blkverify, rewrite;
    struct weir_range_table *ranges;
    struct weir_mutex mutex;
    int64_t patience_ns; /* QUORUM_PATIENCE_NS, but for tests */
};

/* ---- quorum_fan.c: one request to several children ---- */

struct quorum_answer {
    struct quorum_fan *fan;
    struct quorum_child *child;
    struct weir_request request;
    struct iovec iov;
    struct weir_buffer *buffer; /* READ: own */
    struct weir_status status;
    bool wanted; /* is to be asked */
    bool done;   /* fan->mutex */
    int result;  /* 0 or -errno once done */
    unsigned version;
};

struct quorum_fan {
    struct quorum *quorum;
    struct weir_mutex mutex;
    struct weir_co_queue queue;
    unsigned pending;
    /* Whether the children that are done are enough. fan->mutex held. */
    bool (*enough)(struct quorum_fan *fan);
    unsigned count;
    struct quorum_answer answers[];
};

/* A fan of all children, each with a copy of @request and wanted. */
struct quorum_fan *quorum_fan_new(struct quorum *quorum, const struct weir_request *request,
                                  bool (*enough)(struct quorum_fan *fan));
void quorum_fan_free(struct quorum_fan *fan);
/* Asks those that are wanted; returns when all have answered, or those that did are enough and patience is over. */
void quorum_fan_ask(struct quorum_fan *fan) weir_co_fn;
/* The same for one of them; past the patience it is given up if @others could answer instead. */
int quorum_fan_ask_one(struct quorum_fan *fan, unsigned index, bool others) weir_co_fn;
/* Tells who listens that the child has failed (-errno) or was outvoted (0). */
void quorum_report_child(const struct quorum_answer *answer, const struct weir_request *request, int error);
void quorum_report_failure(struct quorum *quorum, const struct weir_request *request);

/* What a child has missed; any loop, the range is held. */
void quorum_missed(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length);
void quorum_caught_up(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length);
bool quorum_has_missed(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length);

/* ---- quorum_read.c, quorum_change.c: the requests ---- */
int quorum_read(struct quorum *quorum, struct weir_request *request) weir_co_fn;
int quorum_status(struct quorum *quorum, struct weir_request *request) weir_co_fn;
int quorum_change(struct quorum *quorum, struct weir_request *request) weir_co_fn;
int quorum_flush(struct quorum *quorum, struct weir_request *request) weir_co_fn;

/* For tests: how long requests wait for late children. Before there are any. */
void quorum_set_patience(struct weir_node *node, int64_t patience_ns);

#endif

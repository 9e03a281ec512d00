/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mirror-top: the filter that a mirror job puts above its source.
 *
 * It forwards to the source (child "backing") and either marks what was changed (background) or writes the
 * same to the target (child "target") before it answers (write-blocking). Reads and flushes pass as if it
 * were not there. The rules M1 to M9 of docs/architecture.md live here and in job/copy.
 */
#ifndef WEIR_FILTER_MIRROR_TOP_H
#define WEIR_FILTER_MIRROR_TOP_H

#include "graph/node.h"

struct weir_bitmap;
struct weir_range_table;

enum weir_mirror_mode {
    WEIR_MIRROR_PASS,       /* only forward: the job is ending without the target */
    WEIR_MIRROR_BACKGROUND, /* mark after the write */
    WEIR_MIRROR_BLOCKING,   /* write both */
};

/* What the job gives at open. The bitmaps are the job's; they must outlive the node. */
struct weir_mirror_top_options {
    struct weir_node *source, *target;
    struct weir_bitmap *bitmap;
    struct weir_bitmap *written; /* as in io/transfer.h */
    bool unmap;
    bool below; /* the target is a layer of the source's own chain: its readers are the source's */
    enum weir_mirror_mode mode;
    /*
     * Something was marked (@ret 0), or bringing a write to the target failed with @ret, at the target (@write) or in
     * reading the source. Any loop; must not wait.
     */
    void (*notify)(void *opaque, int ret, bool write);
    void *opaque;
};

extern const struct weir_driver weir_driver_mirror_top;

/* A request sees one mode from its beginning to its end (rule M7), so no drain is needed. Any thread. */
void weir_mirror_top_set_mode(struct weir_node *node, enum weir_mirror_mode mode);
/* The mode is write-blocking, and so is that of every request under way. Any thread. */
bool weir_mirror_top_active(struct weir_node *node);
/*
 * Whether the filter refuses other writers of its source. Not before the source's users have moved to the filter:
 * set it in that transaction, before it is finished. Control loop.
 */
void weir_mirror_top_set_alone(struct weir_node *node, bool alone);
struct weir_edge *weir_mirror_top_source(struct weir_node *node);
struct weir_edge *weir_mirror_top_target(struct weir_node *node);
/* Writes, zeroes and discards of guests that are under way in the filter. Any thread. */
unsigned weir_mirror_top_in_flight(struct weir_node *node);
/* Where active writes and copies exclude each other (rule M2). */
struct weir_range_table *weir_mirror_top_ranges(struct weir_node *node);

#endif

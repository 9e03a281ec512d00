/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Breakpoints at a blkdebug node, for tests and the I/O tool.
 *
 * A breakpoint holds the next request that raises its event, under a tag. Several may have one tag. A drain waits for
 * what is held, up to its limit; the end of the program and the end of the node let it go.
 */
#ifndef WEIR_FILTER_BLKDEBUG_H
#define WEIR_FILTER_BLKDEBUG_H

#include "graph/driver.h"

struct weir_node;

/* The first blkdebug node from @node downwards, by what tools call "the file of"; NULL: none. Control loop. */
struct weir_node *weir_blkdebug_find(struct weir_node *node);

/* Sets a breakpoint; -ENOENT: there is no event of that name. The newest one that fits holds a request. Any loop. */
int weir_blkdebug_break(struct weir_node *node, const char *event, const char *tag) weir_must_check;
/*
 * Waits until a request is held under @tag; -ETIMEDOUT past @deadline_ns (-1: no limit), -ENOENT: no breakpoint has
 * that tag.
 */
int weir_blkdebug_wait(struct weir_node *node, const char *tag,
                       int64_t deadline_ns) weir_co_fn weir_must_check;
/* Lets one request go that is held under @tag; -ENOENT: there is none. Any loop. */
int weir_blkdebug_resume(struct weir_node *node, const char *tag) weir_must_check;
/*
 * Removes the breakpoints with @tag that hold nobody, and lets go who is held under it; -ENOENT: nothing was removed.
 * Any loop.
 */
int weir_blkdebug_remove(struct weir_node *node, const char *tag) weir_must_check;

/* Called when a request is held (@held) and when it goes on; any loop, with a mutex held. For the I/O tool; once. */
void weir_blkdebug_on_hold(void (*listener)(const char *tag, bool held));

#endif

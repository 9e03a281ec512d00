/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Holding requests at a blkdebug node, for tests and the I/O tool.
 *
 * Control loop, except where said. A drain lets every held request go.
 */
#ifndef WEIR_FILTER_BLKDEBUG_H
#define WEIR_FILTER_BLKDEBUG_H

#include "graph/driver.h"

struct weir_node;

/*
 * The next request of kind @op that arrives at @node is held, before it goes to the child, under the name
 * @tag. Tags of one node differ. The first call for a kind of request drains the node, which lets held
 * requests go.
 */
int weir_blkdebug_suspend(struct weir_node *node, enum weir_op op, const char *tag,
                          struct weir_error **err) weir_co_fn weir_must_check;
/*
 * Waits until a request is held under @tag; -ETIMEDOUT past @deadline_ns (-1: no limit), -ENOENT: no such
 * tag.
 */
int weir_blkdebug_wait(struct weir_node *node, const char *tag,
                       int64_t deadline_ns) weir_co_fn weir_must_check;
/* Lets it go, or, when nothing is held yet, forgets the tag. -ENOENT: no such tag. Any loop. */
int weir_blkdebug_resume(struct weir_node *node, const char *tag);

#endif

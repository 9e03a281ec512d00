/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The filter that a job puts between a node and its users: in, and out again. Control loop.
 */
#ifndef WEIR_JOB_FILTER_H
#define WEIR_JOB_FILTER_H

#include "graph/graph.h"

/* All users of @below use @filter afterwards, which has @below as its child. On failure nothing has changed. */
int weir_job_filter_insert(struct weir_node *below, struct weir_node *filter,
                           struct weir_error **err) weir_co_fn weir_must_check;
/*
 * The users of @filter use @below again; @filter has no children any more. Lock held, drained; steps of @tran.
 */
int weir_job_filter_take_out(struct weir_tran *tran, struct weir_node *filter, struct weir_node *below,
                             struct weir_error **err) weir_must_check;
/*
 * The same by itself, with a reference to it that is given up. Where requests hang it is tried again for as long as
 * it takes, in the background, with rests between: @filter only forwards then.
 */
void weir_job_filter_remove(struct weir_node *filter) weir_co_fn;

#endif

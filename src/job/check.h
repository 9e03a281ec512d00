/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The check job: judges the metadata of a node that may be in use.
 *
 * A node that is written to is first looked at while its guests go on: what is found clean then is clean. Only where
 * something is found - which may be nothing but the work of these guests - they are stopped for a second look, whose
 * word counts.
 */
#ifndef WEIR_JOB_CHECK_H
#define WEIR_JOB_CHECK_H

#include "base/error.h"
#include "graph/driver.h"

struct weir_job;

/* Finalized by itself, stays until it is dismissed. Control loop. */
int weir_check_start(const char *job_id, const char *node_name,
                     struct weir_error **err) weir_co_fn weir_must_check;
/* What a concluded check job has found, NULL for any other job; and the node's file and driver names. */
const struct weir_check_result *weir_check_result_of(struct weir_job *job, const char **ret_file,
                                                     const char **ret_format);

#endif

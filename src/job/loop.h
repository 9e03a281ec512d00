/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The loop on which jobs move data: apart from the control loop, which must stay responsive, and from the loops
 * of exports, whose guests must not wait for a copy's inline I/O.
 */
#ifndef WEIR_JOB_LOOP_H
#define WEIR_JOB_LOOP_H

#include "co/loop.h"

/* Started at first use. Control loop. */
int weir_job_loop(struct weir_loop **ret_loop, struct weir_error **err) weir_must_check;
/* Stops it; no job may be left, nor an abandoned request of one (it would wait for that). */
void weir_job_loop_done(void) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Shared by the files of the job system. Private to job/.
 */
#ifndef WEIR_JOB_INTERNAL_H
#define WEIR_JOB_INTERNAL_H

#include "job/job.h"
#include <errno.h>

/* Moves to @status (must be a legal transition) and tells. */
void weir_job_enter_status(struct weir_job *job, enum weir_job_status status);
int weir_job_accepts(const struct weir_job *job, enum weir_job_verb verb, struct weir_error **err);
void weir_job_tell(struct weir_job *job, enum weir_job_event event, const struct weir_job_error_info *info);
/* Recomputes `paused` from the reasons for it and shows it as a state. */
void weir_job_apply_pause(struct weir_job *job);
/* Takes a concluded job off the list, into the history. */
void weir_job_retire(struct weir_job *job);

#endif

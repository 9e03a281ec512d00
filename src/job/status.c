/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state machine as two tables: which state may follow which, and which verb is accepted where.
 */
#include "job/internal.h"

#define BIT(state) (1u << (state))

static const char *const status_names[WEIR_JOB_STATUS_COUNT] = {
    "undefined", "created", "running",  "paused",    "ready", "standby",
    "waiting",   "pending", "aborting", "concluded", "null",
};

static const char *const verb_names[] = {
    "cancel", "pause", "resume", "set-speed", "complete", "finalize", "dismiss", "change",
};

static const unsigned follows[WEIR_JOB_STATUS_COUNT] = {
    [WEIR_JOB_UNDEFINED] = BIT(WEIR_JOB_CREATED),
    [WEIR_JOB_CREATED] = BIT(WEIR_JOB_RUNNING) | BIT(WEIR_JOB_ABORTING) | BIT(WEIR_JOB_NULL),
    [WEIR_JOB_RUNNING] =
        BIT(WEIR_JOB_PAUSED) | BIT(WEIR_JOB_READY) | BIT(WEIR_JOB_WAITING) | BIT(WEIR_JOB_ABORTING),
    [WEIR_JOB_PAUSED] = BIT(WEIR_JOB_RUNNING),
    [WEIR_JOB_READY] = BIT(WEIR_JOB_STANDBY) | BIT(WEIR_JOB_WAITING) | BIT(WEIR_JOB_ABORTING),
    [WEIR_JOB_STANDBY] = BIT(WEIR_JOB_READY),
    [WEIR_JOB_WAITING] = BIT(WEIR_JOB_PENDING) | BIT(WEIR_JOB_ABORTING),
    [WEIR_JOB_PENDING] = BIT(WEIR_JOB_ABORTING) | BIT(WEIR_JOB_CONCLUDED),
    [WEIR_JOB_ABORTING] = BIT(WEIR_JOB_ABORTING) | BIT(WEIR_JOB_CONCLUDED),
    [WEIR_JOB_CONCLUDED] = BIT(WEIR_JOB_NULL),
    [WEIR_JOB_NULL] = 0,
};

#define ACTIVE                                                                                    \
    (BIT(WEIR_JOB_CREATED) | BIT(WEIR_JOB_RUNNING) | BIT(WEIR_JOB_PAUSED) | BIT(WEIR_JOB_READY) | \
     BIT(WEIR_JOB_STANDBY))

static const unsigned accepts[] = {
    [WEIR_JOB_CANCEL] = ACTIVE | BIT(WEIR_JOB_WAITING) | BIT(WEIR_JOB_PENDING),
    [WEIR_JOB_PAUSE] = ACTIVE,
    [WEIR_JOB_RESUME] = ACTIVE,
    [WEIR_JOB_SET_SPEED] = ACTIVE,
    [WEIR_JOB_COMPLETE] = BIT(WEIR_JOB_READY) | BIT(WEIR_JOB_STANDBY),
    [WEIR_JOB_FINALIZE] = BIT(WEIR_JOB_PENDING),
    [WEIR_JOB_DISMISS] = BIT(WEIR_JOB_CONCLUDED),
    [WEIR_JOB_CHANGE] = ACTIVE,
};

const char *weir_job_status_name(enum weir_job_status status)
{
    return status_names[status];
}

const char *weir_job_verb_name(enum weir_job_verb verb)
{
    return verb_names[verb];
}

void weir_job_enter_status(struct weir_job *job, enum weir_job_status status)
{
    WEIR_ASSERT(follows[job->status] & BIT(status));
    job->status = status;
    weir_job_tell(job, WEIR_JOB_EVENT_STATUS, NULL);
}

int weir_job_accepts(const struct weir_job *job, enum weir_job_verb verb, struct weir_error **err)
{
    bool ending = job->decided && job->status == WEIR_JOB_PENDING; /* has no state of its own */

    if ((accepts[verb] & BIT(job->status)) && !ending)
        return 0;
    return weir_error_set(err, -EPERM, "Job '%s' in state '%s' cannot accept command verb '%s'", job->id,
                          weir_job_status_name(job->status), weir_job_verb_name(verb));
}

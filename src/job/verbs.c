/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What an operator can say to a job.
 */
#include "job/internal.h"

int weir_job_cancel(struct weir_job *job, bool force, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_CANCEL, err);

    if (ret)
        return ret;
    if (!force && job->user_paused && job->driver->is_block_job)
        return weir_error_set(err, -EBUSY, "The block job for device '%s' is currently paused", job->id);
    if (!job->driver->cancel || job->driver->cancel(job, force)) {
        job->cancelled = true;
        job->force_cancelled |= force;
        job->user_paused = false;
        weir_job_apply_pause(job);
    } else {
        job->soft_cancelled = true;
    }
    weir_job_wake(job);
    return 0;
}

int weir_job_complete(struct weir_job *job, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_COMPLETE, err);

    if (ret)
        return ret;
    if (job->cancelled || job->soft_cancelled || !job->driver->complete)
        return weir_error_set(err, -EINVAL, "The active block job '%s' cannot be completed", job->id);
    ret = job->driver->complete(job, err);
    weir_job_wake(job);
    return ret;
}

int weir_job_pause(struct weir_job *job, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_PAUSE, err);

    if (ret)
        return ret;
    if (job->user_paused)
        return weir_error_set(err, -EBUSY, "Job is already paused");
    job->user_paused = true;
    weir_job_apply_pause(job);
    return 0;
}

int weir_job_resume(struct weir_job *job, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_RESUME, err);

    if (ret)
        return ret;
    if (!job->user_paused)
        return weir_error_set(err, -EINVAL, "Can't resume a job that was not paused");
    job->user_paused = false;
    job->io_status = WEIR_JOB_IO_OK;
    weir_job_apply_pause(job);
    return 0;
}

int weir_job_set_speed(struct weir_job *job, uint64_t speed, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_SET_SPEED, err);

    if (ret)
        return ret;
    job->speed = speed;
    if (job->driver->set_speed)
        job->driver->set_speed(job, speed);
    return 0;
}

int weir_job_finalize(struct weir_job *job, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_FINALIZE, err);

    if (ret)
        return ret;
    job->finalize_asked = true;
    weir_job_wake(job);
    return 0;
}

int weir_job_dismiss(struct weir_job *job, struct weir_error **err)
{
    int ret = weir_job_accepts(job, WEIR_JOB_DISMISS, err);

    if (ret)
        return ret;
    weir_job_retire(job);
    return 0;
}

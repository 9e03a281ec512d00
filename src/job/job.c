/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Registry, life and end of jobs.
 */
#include "job/job.h"

#include "base/alloc.h"
#include "job/internal.h"
#include "sys/sys.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

TAILQ_HEAD(job_list, weir_job);

static struct {
    struct job_list jobs;
    bool ready;
    struct weir_mutex mutex;    /* guards the wake queues */
    struct weir_co_queue ended; /* some job has concluded */
    bool closing;               /* no new jobs */
    weir_job_listener *listener;
    struct weir_job_result history[WEIR_JOB_HISTORY_MAX];
    unsigned history_count;
} registry;

static void registry_init(void)
{
    if (registry.ready)
        return;
    registry.ready = true;
    TAILQ_INIT(&registry.jobs);
    weir_mutex_init(&registry.mutex);
    weir_co_queue_init(&registry.ended);
}

void weir_job_set_listener(weir_job_listener *listener)
{
    registry.listener = listener;
}

void weir_job_tell(struct weir_job *job, enum weir_job_event event, const struct weir_job_error_info *info)
{
    if (registry.listener)
        registry.listener(job, event, info);
}

struct weir_job *weir_job_find(const char *id)
{
    struct weir_job *job;

    registry_init();
    TAILQ_FOREACH (job, &registry.jobs, link) {
        if (!strcmp(job->id, id))
            return job;
    }
    return NULL;
}

struct weir_job *weir_job_next(struct weir_job *job)
{
    registry_init();
    return job ? TAILQ_NEXT(job, link) : TAILQ_FIRST(&registry.jobs);
}

static bool id_wellformed(const char *id)
{
    if (!isalpha((unsigned char)*id))
        return false;
    for (; *id; id++) {
        if (!isalnum((unsigned char)*id) && !strchr("-._", *id))
            return false;
    }
    return true;
}

int weir_job_new(const struct weir_job_driver *driver, const struct weir_job_options *options,
                 struct weir_job **ret_job, struct weir_error **err)
{
    const char *id = options->id ? options->id : "";
    struct weir_job *job;

    registry_init();
    if (!id_wellformed(id))
        return weir_error_set(err, -EINVAL, "Invalid job ID '%s'", id);
    if (registry.closing)
        return weir_error_set(err, -ESHUTDOWN, "Job '%s' cannot start: all jobs are being ended", id);
    if (weir_job_find(id))
        return weir_error_set(err, -EEXIST, "Job ID '%s' already in use", id);
    job = weir_alloc(driver->size);
    job->driver = driver;
    job->id = weir_strdup(id);
    job->auto_finalize = options->auto_finalize;
    job->auto_dismiss = options->auto_dismiss;
    job->speed = options->speed;
    weir_co_queue_init(&job->wake);
    TAILQ_INSERT_TAIL(&registry.jobs, job, link);
    weir_job_enter_status(job, WEIR_JOB_CREATED);
    *ret_job = job;
    return 0;
}

static void job_free(struct weir_job *job)
{
    if (job->driver->free)
        job->driver->free(job);
    weir_error_free(job->error);
    free(job->id);
    free(job);
}

static void remember(struct weir_job *job)
{
    struct weir_job_result *slot;

    if (registry.history_count == WEIR_JOB_HISTORY_MAX) {
        free(registry.history[0].id);
        free(registry.history[0].type);
        free(registry.history[0].error);
        memmove(registry.history, registry.history + 1, sizeof(*slot) * --registry.history_count);
    }
    slot = &registry.history[registry.history_count++];
    *slot = (struct weir_job_result){
        .id = weir_strdup(job->id),
        .type = weir_strdup(job->driver->type),
        .result = job->result,
        .error = job->error ? weir_strdup(weir_error_text(job->error)) : NULL,
        .end_wall_ns = weir_sys->wall_ns(),
    };
}

unsigned weir_job_history_count(void)
{
    return registry.history_count;
}

const struct weir_job_result *weir_job_history(unsigned index)
{
    return index < registry.history_count ? &registry.history[index] : NULL;
}

void weir_job_done(void)
{
    WEIR_ASSERT(!registry.ready || TAILQ_EMPTY(&registry.jobs));
    for (unsigned i = 0; i < registry.history_count; i++) {
        free(registry.history[i].id);
        free(registry.history[i].type);
        free(registry.history[i].error);
    }
    if (registry.ready)
        weir_mutex_done(&registry.mutex);
    memset(&registry, 0, sizeof(registry));
}

void weir_job_retire(struct weir_job *job)
{
    weir_job_enter_status(job, WEIR_JOB_NULL);
    remember(job);
    TAILQ_REMOVE(&registry.jobs, job, link);
    job_free(job);
}

void weir_job_discard(struct weir_job *job)
{
    WEIR_ASSERT(job->status == WEIR_JOB_CREATED);
    job->status = WEIR_JOB_NULL;
    weir_job_tell(job, WEIR_JOB_EVENT_STATUS, NULL);
    TAILQ_REMOVE(&registry.jobs, job, link);
    job_free(job);
}

/* ---- waiting and waking ---- */

void weir_job_wait(struct weir_job *job, int64_t deadline_ns)
{
    int ret = 0;

    weir_mutex_lock(&registry.mutex);
    /* The flag keeps a wake that came between the caller's look at its condition and this wait. */
    while (!job->woken && !ret)
        ret = weir_co_queue_wait_until(&job->wake, &registry.mutex, deadline_ns);
    job->woken = false;
    weir_mutex_unlock(&registry.mutex);
}

void weir_job_wake(struct weir_job *job)
{
    WEIR_SCOPE_LOCK(&registry.mutex);
    job->woken = true;
    weir_co_queue_wake_all(&job->wake);
}

int weir_job_fail(struct weir_job *job, int ret, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!job->error)
        (void)weir_error_set(&job->error, ret, "%s", text);
    return ret;
}

int weir_job_io_error(struct weir_job *job, enum weir_job_on_error policy, int ret, bool write)
{
    bool stop = policy == WEIR_JOB_ON_ERROR_STOP || (policy == WEIR_JOB_ON_ERROR_ENOSPC && ret == -ENOSPC);
    bool ignore = policy == WEIR_JOB_ON_ERROR_IGNORE;
    struct weir_job_error_info info = { write, stop ? "stop" : ignore ? "ignore" : "report" };

    weir_job_tell(job, WEIR_JOB_EVENT_ERROR, &info);
    if (stop) {
        job->io_status = ret == -ENOSPC ? WEIR_JOB_IO_NOSPACE : WEIR_JOB_IO_FAILED;
        job->user_paused = true;
        weir_job_apply_pause(job);
    }
    return stop || ignore ? 0 : ret;
}

/* ---- states that the run passes ---- */

void weir_job_apply_pause(struct weir_job *job)
{
    bool paused = job->user_paused || job->drain_paused;

    if (paused == job->paused)
        return;
    job->paused = paused;
    if (job->driver->pause_changed)
        job->driver->pause_changed(job);
    if (paused && job->status == WEIR_JOB_RUNNING)
        weir_job_enter_status(job, WEIR_JOB_PAUSED);
    else if (paused && job->status == WEIR_JOB_READY)
        weir_job_enter_status(job, WEIR_JOB_STANDBY);
    else if (!paused && job->status == WEIR_JOB_PAUSED)
        weir_job_enter_status(job, WEIR_JOB_RUNNING);
    else if (!paused && job->status == WEIR_JOB_STANDBY)
        weir_job_enter_status(job, WEIR_JOB_READY);
    weir_job_wake(job);
}

void weir_job_drain(struct weir_job *job, bool begin)
{
    if (begin)
        job->drain_paused++;
    else
        job->drain_paused--;
    weir_job_apply_pause(job);
}

void weir_job_set_ready(struct weir_job *job)
{
    WEIR_ASSERT(job->status == WEIR_JOB_RUNNING || job->status == WEIR_JOB_PAUSED);
    if (job->status == WEIR_JOB_PAUSED)
        weir_job_enter_status(job, WEIR_JOB_RUNNING);
    weir_job_enter_status(job, WEIR_JOB_READY);
    if (job->driver->update)
        job->driver->update(job);
    if (job->driver->is_block_job)
        weir_job_tell(job, WEIR_JOB_EVENT_READY, NULL);
    if (job->paused)
        weir_job_enter_status(job, WEIR_JOB_STANDBY);
}

/* Leaves the paused states: the end of a job does not wait for a resume it can do without. */
static void unpause_status(struct weir_job *job)
{
    if (job->status == WEIR_JOB_PAUSED)
        weir_job_enter_status(job, WEIR_JOB_RUNNING);
    else if (job->status == WEIR_JOB_STANDBY)
        weir_job_enter_status(job, WEIR_JOB_READY);
}

static void set_result(struct weir_job *job, int ret)
{
    if (job->cancelled && !job->decided && !job->error)
        ret = -ECANCELED;
    if (ret && !job->error && !job->cancelled)
        (void)weir_error_set_errno(&job->error, ret, "Job '%s' failed", job->id);
    job->result = ret;
}

static void tell_end(struct weir_job *job)
{
    if (job->driver->update)
        job->driver->update(job);
    if (!job->driver->is_block_job)
        return;
    weir_job_tell(job, job->result == -ECANCELED ? WEIR_JOB_EVENT_CANCELLED : WEIR_JOB_EVENT_COMPLETED, NULL);
}

/* Everything after run(): wait for finalize, the lasting change, the end. */
static weir_co_fn void conclude(struct weir_job *job, int ret)
{
    unpause_status(job);
    if (!ret && !job->cancelled) {
        weir_job_enter_status(job, WEIR_JOB_WAITING);
        weir_job_enter_status(job, WEIR_JOB_PENDING);
        if (!job->auto_finalize) {
            if (job->driver->is_block_job)
                weir_job_tell(job, WEIR_JOB_EVENT_PENDING, NULL);
            while (!job->finalize_asked && !job->cancelled)
                weir_job_wait(job, -1);
        }
        if (!job->cancelled && job->driver->prepare)
            ret = job->driver->prepare(job);
        else if (job->cancelled)
            ret = -ECANCELED;
        job->decided = !ret;
    }
    set_result(job, ret);
    if (job->result)
        weir_job_enter_status(job, WEIR_JOB_ABORTING);
    if (job->driver->clean)
        job->driver->clean(job);
    tell_end(job);
    job->busy = false;
    weir_job_enter_status(job, WEIR_JOB_CONCLUDED);
    if (job->auto_dismiss)
        weir_job_retire(job);
    weir_mutex_lock(&registry.mutex);
    weir_co_queue_wake_all(&registry.ended);
    weir_mutex_unlock(&registry.mutex);
}

static weir_co_fn void job_main(void *arg)
{
    struct weir_job *job = arg;
    int ret = job->cancelled ? -ECANCELED : job->driver->run(job);

    conclude(job, ret);
}

void weir_job_start(struct weir_job *job)
{
    WEIR_ASSERT(job->status == WEIR_JOB_CREATED && !job->started);
    job->started = true;
    job->busy = true;
    weir_job_enter_status(job, WEIR_JOB_RUNNING);
    if (job->paused)
        weir_job_enter_status(job, WEIR_JOB_PAUSED);
    weir_co_start(weir_loop_control(), job_main, job);
}

bool weir_job_cancel_all(int64_t limit_ns)
{
    int64_t deadline = weir_sys->clock_ns() + limit_ns;
    struct weir_job *job, *next;
    int ret = 0;

    registry.closing = true;
    for (job = weir_job_next(NULL); job; job = next) {
        next = weir_job_next(job);
        job->auto_dismiss = true;
        if (job->status == WEIR_JOB_CONCLUDED)
            weir_job_retire(job);
        else
            (void)!weir_job_cancel(job, true, NULL);
    }
    weir_mutex_lock(&registry.mutex);
    while (!TAILQ_EMPTY(&registry.jobs) && !ret)
        ret = weir_co_queue_wait_until(&registry.ended, &registry.mutex, deadline);
    weir_mutex_unlock(&registry.mutex);
    registry.closing = false;
    return TAILQ_EMPTY(&registry.jobs);
}

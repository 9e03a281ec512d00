/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Jobs: long operations with the states, verbs and events of QMP.
 *
 * A job's control part runs as a coroutine on the control loop; what it moves may run on other loops. Everything
 * here is called on the control loop. State is plain data; transitions go through one table.
 *
 * Life: weir_job_new() registers it (created), weir_job_start() runs driver->run(). When that returns, the job goes
 * to waiting, then pending (at once finalized with auto_finalize), where driver->prepare() makes the lasting change
 * - it may fail - and then commit() or abort() and clean() end it: concluded, and with auto_dismiss null and
 * gone. Results of dismissed jobs stay in a bounded history.
 */
#ifndef WEIR_JOB_JOB_H
#define WEIR_JOB_JOB_H

#include "base/error.h"
#include "co/co.h"

enum weir_job_status {
    WEIR_JOB_UNDEFINED,
    WEIR_JOB_CREATED,
    WEIR_JOB_RUNNING,
    WEIR_JOB_PAUSED,
    WEIR_JOB_READY,
    WEIR_JOB_STANDBY,
    WEIR_JOB_WAITING,
    WEIR_JOB_PENDING,
    WEIR_JOB_ABORTING,
    WEIR_JOB_CONCLUDED,
    WEIR_JOB_NULL,
};
#define WEIR_JOB_STATUS_COUNT 11

enum weir_job_verb {
    WEIR_JOB_CANCEL,
    WEIR_JOB_PAUSE,
    WEIR_JOB_RESUME,
    WEIR_JOB_SET_SPEED,
    WEIR_JOB_COMPLETE,
    WEIR_JOB_FINALIZE,
    WEIR_JOB_DISMISS,
    WEIR_JOB_CHANGE,
};

/* How many results of dismissed jobs are kept. */
#define WEIR_JOB_HISTORY_MAX 64

/* What a job does about an I/O error of its own; the names are QMP's. */
enum weir_job_on_error {
    WEIR_JOB_ON_ERROR_REPORT,
    WEIR_JOB_ON_ERROR_IGNORE,
    WEIR_JOB_ON_ERROR_ENOSPC, /* stop for ENOSPC, else report */
    WEIR_JOB_ON_ERROR_STOP,
    WEIR_JOB_ON_ERROR_AUTO, /* as report */
};
enum weir_job_io_status { WEIR_JOB_IO_OK, WEIR_JOB_IO_FAILED, WEIR_JOB_IO_NOSPACE };

struct weir_job;

struct weir_job_driver {
    const char *type;  /* "mirror", "create" */
    bool is_block_job; /* listed by query-block-jobs, sends BLOCK_JOB_* events */
    size_t size;       /* of the whole job struct, whose first member is struct weir_job */
    /* The work. 0 or -errno with job->error set; looks at job->cancelled at its safe points. */
    int (*run)(struct weir_job *job) weir_co_fn;
    /* The lasting change; 0 or -errno with job->error set. */
    int (*prepare)(struct weir_job *job) weir_co_fn;
    /* Undoes what run() set up; after success and after failure. Cannot fail, bounded in time. */
    void (*clean)(struct weir_job *job) weir_co_fn;
    /* job-complete in ready; run() is expected to return soon. */
    int (*complete)(struct weir_job *job, struct weir_error **err);
    /* Cancel was asked for: @force as in block-job-cancel. Returns whether the job is to be treated as failed
     * (true), or goes on to a good end without its last step (false: soft cancel). */
    bool (*cancel)(struct weir_job *job, bool force);
    void (*set_speed)(struct weir_job *job, uint64_t speed);
    /* Pause state has changed: job->paused. */
    void (*pause_changed)(struct weir_job *job);
    /* Brings progress up to date before it is looked at. */
    void (*update)(struct weir_job *job);
    void (*free)(struct weir_job *job);
};

struct weir_job {
    const struct weir_job_driver *driver;
    char *id;
    enum weir_job_status status;
    bool auto_finalize, auto_dismiss;
    bool cancelled, force_cancelled; /* cancelled: will end as cancelled */
    bool soft_cancelled;             /* will end well without its last step */
    bool user_paused;
    unsigned drain_paused; /* nesting of drained sections around it */
    bool paused;           /* any of the two */
    bool busy;             /* run() or a later step is executing */
    bool started, finalize_asked;
    bool decided;   /* prepare() has made its lasting change: it is too late for a cancel */
    uint64_t speed; /* bytes/s, 0 = unlimited */
    uint64_t progress, total;
    enum weir_job_io_status io_status; /* set when an error stopped it, cleared by resume */
    int result;
    struct weir_error *error;
    struct weir_co_queue wake; /* run() and the steps after it wait here, one coroutine at a time */
    bool woken;
    TAILQ_ENTRY(weir_job) link;
};

/* What the outside is told, in order. Called on the control loop; must not wait. */
enum weir_job_event {
    WEIR_JOB_EVENT_STATUS,    /* JOB_STATUS_CHANGE */
    WEIR_JOB_EVENT_READY,     /* BLOCK_JOB_READY */
    WEIR_JOB_EVENT_PENDING,   /* BLOCK_JOB_PENDING */
    WEIR_JOB_EVENT_COMPLETED, /* BLOCK_JOB_COMPLETED, error in job->error */
    WEIR_JOB_EVENT_CANCELLED, /* BLOCK_JOB_CANCELLED */
    WEIR_JOB_EVENT_ERROR,     /* BLOCK_JOB_ERROR: see io_error_* */
};
struct weir_job_error_info {
    bool write;         /* operation: write, else read */
    const char *action; /* "report" */
};
typedef void weir_job_listener(struct weir_job *job, enum weir_job_event event,
                               const struct weir_job_error_info *info);
void weir_job_set_listener(weir_job_listener *listener);

struct weir_job_options {
    const char *id;
    bool auto_finalize, auto_dismiss;
    uint64_t speed;
};
/* Checks the id (form, not in use) and registers the job. */
int weir_job_new(const struct weir_job_driver *driver, const struct weir_job_options *options,
                 struct weir_job **ret_job, struct weir_error **err) weir_must_check;
/* Takes back a job that was never started (its set-up failed). Emits aborting, concluded, null. */
void weir_job_discard(struct weir_job *job);
void weir_job_start(struct weir_job *job);

struct weir_job *weir_job_find(const char *id);
struct weir_job *weir_job_next(struct weir_job *job); /* NULL: the first */
const char *weir_job_status_name(enum weir_job_status status);
const char *weir_job_verb_name(enum weir_job_verb verb);

/* ---- verbs; errors in the words of the specification ---- */
int weir_job_cancel(struct weir_job *job, bool force, struct weir_error **err) weir_must_check;
int weir_job_complete(struct weir_job *job, struct weir_error **err) weir_must_check;
int weir_job_pause(struct weir_job *job, struct weir_error **err) weir_must_check;
int weir_job_resume(struct weir_job *job, struct weir_error **err) weir_must_check;
int weir_job_set_speed(struct weir_job *job, uint64_t speed, struct weir_error **err) weir_must_check;
int weir_job_finalize(struct weir_job *job, struct weir_error **err) weir_must_check;
int weir_job_dismiss(struct weir_job *job, struct weir_error **err) weir_must_check;
/* Force-cancels every job and waits until all have ended or @limit_ns has passed; whether all have. */
bool weir_job_cancel_all(int64_t limit_ns) weir_co_fn;

/* ---- for job drivers ---- */
void weir_job_set_ready(struct weir_job *job); /* once */
/* Waits for weir_job_wake() or a change of cancelled, paused, status; up to @deadline_ns (-1: no limit). */
void weir_job_wait(struct weir_job *job, int64_t deadline_ns) weir_co_fn;
void weir_job_wake(struct weir_job *job); /* any thread, while the job lives */
/* Sets job->error unless there is one, and returns @ret. */
int weir_job_fail(struct weir_job *job, int ret, const char *format, ...) weir_printf(3, 4);
/*
 * An I/O error @ret of the job's own: tells it and does what the policy says. Returns @ret (report: the job fails)
 * or 0 (ignore, stop: the caller tries again once the job is not paused).
 */
int weir_job_io_error(struct weir_job *job, enum weir_job_on_error policy, int ret, bool write);
/* A drained section around the job begins or ends: shown as a pause. */
void weir_job_drain(struct weir_job *job, bool begin);

/* ---- results of dismissed jobs, newest last ---- */
struct weir_job_result {
    char *id, *type;
    int result;
    char *error; /* NULL: success */
    int64_t end_wall_ns;
};
unsigned weir_job_history_count(void);
const struct weir_job_result *weir_job_history(unsigned index);
void weir_job_done(void); /* frees the history; no job may be left */

#endif

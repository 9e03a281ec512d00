/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Following a job: weir ctl watch, and the waiting of the other commands.
 *
 * How far it is comes from queries, how it ends from events: a job that is dismissed by itself is in no query after
 * its end. An answer of the daemon comes behind the events of what it already shows. So events are taken first, then
 * the jobs are asked for, and a job that neither of the two tells about is gone without a trace.
 */
#include "tools/ctl.h"

#include "sys/sys.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Events come by themselves: this is for what they do not tell. */
#define QUIET_PERIOD_NS (1000 * 1000000LL)

/* What was seen of the job so far. */
struct seen {
    bool ended;     /* concluded or gone */
    bool aborting;  /* failed or cancelled; for jobs that have no event with the reason */
    bool completed; /* BLOCK_JOB_COMPLETED without an error */
    bool ready;
    bool stopped; /* for an error that was told: several requests may fail at once */
    bool changed; /* its state, by an event: there was life in it */
};

/* ---- events ---- */

static void see_status(struct seen *seen, const char *status)
{
    if (!strcmp(status, "concluded") || !strcmp(status, "null"))
        seen->ended = true;
    else if (!strcmp(status, "aborting"))
        seen->aborting = true;
    else if (!strcmp(status, "ready"))
        seen->ready = true;
    if (!strcmp(status, "running") || !strcmp(status, "ready"))
        seen->stopped = false;
    seen->changed = true;
}

static void see_event(struct ctl *ctl, struct ctl_follow *follow, struct seen *seen,
                      struct ctl_progress *progress, const json_t *event)
{
    const char *name = ctl_member_text(event, "event");
    const json_t *data = json_object_get(event, "data"), *error = json_object_get(data, "error");

    if (strcmp(ctl_member_text(data, "id"), follow->job) != 0 &&
        strcmp(ctl_member_text(data, "device"), follow->job) != 0)
        return;
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        see_status(seen, ctl_member_text(data, "status"));
    } else if (!strcmp(name, "BLOCK_JOB_CANCELLED")) {
        follow->outcome = CTL_OUTCOME_CANCELLED;
    } else if (!strcmp(name, "BLOCK_JOB_COMPLETED")) {
        follow->outcome = error ? CTL_OUTCOME_FAILED : CTL_OUTCOME_GOOD;
        free(follow->reason);
        follow->reason = error ? weir_strdup(ctl_member_text(data, "error")) : NULL;
    } else if (!strcmp(name, "BLOCK_JOB_ERROR") && progress && !seen->stopped &&
               !strcmp(ctl_member_text(data, "action"), "stop")) {
        weir_autofree char *call = ctl_invocation(ctl);

        seen->stopped = true;
        ctl_progress_note(progress, "%s: a %s failed, and the job stops; '%s resume %s' lets it try again",
                          follow->job, ctl_member_text(data, "operation"), call, follow->job);
    }
}

static void see_events(struct ctl *ctl, struct ctl_follow *follow, struct seen *seen,
                       struct ctl_progress *progress)
{
    while (ctl_has_events(ctl)) {
        json_t *event = ctl_take_event(ctl);

        see_event(ctl, follow, seen, progress, event);
        json_decref(event);
    }
}

/* ---- the end ---- */

/* Of a job that has ended. @job: what is left of it, or NULL. Events know best. */
static void judge(struct ctl_follow *follow, const struct seen *seen, const json_t *job)
{
    const char *error = ctl_member_text(job, "error");

    if (follow->outcome)
        return;
    if (*error) {
        follow->outcome = CTL_OUTCOME_FAILED;
        follow->reason = weir_strdup(error);
    } else if (seen->aborting) {
        follow->outcome = job ? CTL_OUTCOME_CANCELLED : CTL_OUTCOME_FAILED;
    } else if (!job && !seen->changed) {
        follow->outcome = CTL_OUTCOME_FAILED;
        follow->reason = weir_strdup("it went before this could be seen");
    } else if (!seen->changed &&
               ctl_member_number(job, "current-progress") < ctl_member_number(job, "total-progress")) {
        follow->outcome = CTL_OUTCOME_CANCELLED; /* it lay there already, unfinished and without an error */
    } else {
        follow->outcome = CTL_OUTCOME_GOOD;
    }
}

static bool is_reached(const struct ctl_follow *follow, const struct seen *seen, const json_t *job)
{
    switch (follow->until) {
    case CTL_UNTIL_END:
        return false;
    case CTL_UNTIL_READY:
        return seen->ready || ctl_job_is_ready(job);
    case CTL_UNTIL_SYNCED:
        return ctl_job_is_ready(job) && ctl_member_true(job, "actively-synced");
    }
    return false;
}

/* One look; sets the outcome when it is known. *ret_again: what was seen is older than the end. */
static weir_co_fn int look_once(struct ctl *ctl, struct ctl_follow *follow, struct seen *seen,
                                struct ctl_progress *progress, bool *ret_again, struct weir_error **err)
{
    json_t *jobs, *job;
    bool is_over;
    int ret = ctl_query_jobs(ctl, &jobs, err);

    if (ret)
        return ret;
    see_events(ctl, follow, seen, progress);
    job = ctl_find(jobs, "id", follow->job);
    is_over = !job || !strcmp(ctl_member_text(job, "status"), "concluded");
    seen->ended = seen->ended || is_over;
    *ret_again = seen->ended && !is_over && !follow->outcome;
    if (job && progress)
        ctl_progress_show(progress, job);
    if (is_over)
        judge(follow, seen, job);
    else if (!seen->ended && !follow->outcome && is_reached(follow, seen, job))
        follow->outcome = CTL_OUTCOME_REACHED;
    json_decref(jobs);
    return 0;
}

static weir_co_fn int look(struct ctl *ctl, struct ctl_follow *follow, struct seen *seen,
                           struct ctl_progress *progress, struct weir_error **err)
{
    bool again = true;
    int ret = 0;

    see_events(ctl, follow, seen, progress);
    while (!ret && again && !(seen->ended && follow->outcome))
        ret = look_once(ctl, follow, seen, progress, &again, err);
    return ret;
}

weir_co_fn int ctl_follow_job(struct ctl *ctl, struct ctl_follow *follow, struct weir_error **err)
{
    struct ctl_progress *progress = follow->quiet ? NULL : ctl_progress_new(follow->job);
    struct seen seen = { .changed = follow->own };
    int ret = 0;

    follow->outcome = CTL_OUTCOME_NONE;
    for (;;) {
        ret = look(ctl, follow, &seen, progress, err);
        /* The events of the end come before it: until then an outcome is not the last word. */
        if (ret || (follow->outcome && (seen.ended || follow->outcome == CTL_OUTCOME_REACHED)))
            break;
        if (ctl->interrupted && !follow->quiet) {
            follow->outcome = CTL_OUTCOME_INTERRUPTED;
            break;
        }
        ctl_wait(ctl, weir_sys->clock_ns() + (progress ? ctl_progress_period(progress) : QUIET_PERIOD_NS));
    }
    ctl_progress_free(progress);
    return ret;
}

int ctl_tell_outcome(const struct ctl *ctl, const struct ctl_follow *follow, enum ctl_outcome good)
{
    weir_autofree char *reason = ctl_clean(follow->reason ? follow->reason : "no reason is known");
    weir_autofree char *call = ctl_invocation(ctl);

    switch (follow->outcome) {
    case CTL_OUTCOME_GOOD:
        printf("%s: completed\n", follow->job);
        return 0;
    case CTL_OUTCOME_REACHED:
        printf("%s: %s\n", follow->job, follow->until == CTL_UNTIL_SYNCED ? "actively synced" : "ready");
        return 0;
    case CTL_OUTCOME_CANCELLED:
        if (good == CTL_OUTCOME_CANCELLED) {
            printf("%s: cancelled\n", follow->job);
            return 0;
        }
        ctl_complain(ctl, "job '%s' was cancelled", follow->job);
        return 1;
    case CTL_OUTCOME_INTERRUPTED:
        ctl_complain(ctl, "the job '%s' goes on without being watched ('%s watch %s')", follow->job, call,
                     follow->job);
        return CTL_STATUS_INTERRUPTED;
    default:
        ctl_complain(ctl, "job '%s' failed: %s", follow->job, reason);
        return 1;
    }
}

/* ---- the command ---- */

struct arguments {
    enum ctl_until until;
    const char *job; /* NULL: the only one */
};

/* -1 to go on, or the exit status. */
static int parse(struct ctl *ctl, int argc, char **argv, struct arguments *arguments)
{
    static const char *const states[] = { "end", "ready", "synced" };
    static const char *const one[] = { "JOB", NULL };
    static const struct option longs[] = { { "until", required_argument, NULL, 'u' }, CTL_LONG_OPTIONS };
    int c;

    while ((c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs)) != -1) {
        unsigned state = 0;

        if (c != 'u')
            return c == 'h' ? 0 : 1;
        while (state < WEIR_ARRAY_SIZE(states) && strcmp(states[state], optarg) != 0)
            state++;
        if (state == WEIR_ARRAY_SIZE(states))
            return ctl_usage(ctl, "--until %s: end, ready or synced is wanted", optarg);
        arguments->until = (enum ctl_until)state;
    }
    if (optind < argc)
        arguments->job = argv[optind];
    return optind < argc ? ctl_arguments(ctl, argc, argv, one) : -1;
}

/* The id of the job that is meant, a new text. */
static weir_co_fn int choose(struct ctl *ctl, const char *wanted, char **ret_id, struct weir_error **err)
{
    weir_autofree char *names = NULL;
    json_t *jobs;
    size_t count;
    int ret = ctl_query_jobs(ctl, &jobs, err);

    if (ret)
        return ret;
    count = json_array_size(jobs);
    names = ctl_names(jobs, "id");
    if (wanted && ctl_find(jobs, "id", wanted))
        *ret_id = weir_strdup(wanted);
    else if (!count)
        ret = wanted ? weir_error_set(err, -ENOENT, "there is no job '%s', and no other one", wanted)
                     : weir_error_set(err, -ENOENT, "there are no jobs");
    else if (wanted)
        ret = weir_error_set(err, -ENOENT, "there is no job '%s'; jobs: %s", wanted, names);
    else if (count > 1)
        ret = weir_error_set(err, -EINVAL, "there are several jobs, say which one: %s", names);
    else
        *ret_id = weir_strdup(ctl_member_text(json_array_get(jobs, 0), "id"));
    json_decref(jobs);
    return ret;
}

weir_co_fn int ctl_watch(struct ctl *ctl, int argc, char **argv)
{
    struct arguments arguments = { .until = CTL_UNTIL_END };
    struct ctl_follow follow = { 0 };
    struct weir_error *err = NULL;
    weir_autofree char *id = NULL;
    int status = parse(ctl, argc, argv, &arguments);

    if (status >= 0)
        return status;
    if (ctl_connect(ctl, &err) || choose(ctl, arguments.job, &id, &err))
        return ctl_fail(ctl, err);
    ctl->patient = true;
    follow.job = id;
    follow.until = arguments.until;
    if (ctl_follow_job(ctl, &follow, &err)) {
        weir_error_prefix(&err, "how the job '%s' goes on is not known: ", id);
        return ctl_fail(ctl, err);
    }
    status = ctl_tell_outcome(ctl, &follow, CTL_OUTCOME_GOOD);
    free(follow.reason);
    return status;
}

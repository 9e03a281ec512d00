/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl complete, cancel, pause and resume: one command of QMP each. Those that end a job can wait for it: on the
 * same connection, so that the end cannot be missed.
 */
#include "tools/ctl.h"

#include <stdio.h>
#include <string.h>

static const char *const job_argument[] = { "JOB", NULL };

struct arguments {
    const char *job;
    bool force, wait;
};

/* -1 to go on, or the exit status. */
static int parse(struct ctl *ctl, int argc, char **argv, const struct option *longs,
                 struct arguments *arguments)
{
    int c, status;

    while ((c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs)) != -1) {
        if (c == 'f')
            arguments->force = true;
        else if (c == 'w')
            arguments->wait = true;
        else
            return c == 'h' ? 0 : 1;
    }
    status = ctl_arguments(ctl, argc, argv, job_argument);
    if (status < 0)
        arguments->job = argv[optind];
    return status;
}

/* After the command that ends it. */
static weir_co_fn int await_end(struct ctl *ctl, const struct arguments *arguments, enum ctl_outcome good)
{
    struct ctl_follow follow = { .job = arguments->job, .until = CTL_UNTIL_END, .own = true };
    struct weir_error *err = NULL;
    int status;

    ctl->patient = true;
    if (ctl_follow_job(ctl, &follow, &err))
        return ctl_fail(ctl, err);
    status = ctl_tell_outcome(ctl, &follow, good);
    free(follow.reason);
    return status;
}

static weir_co_fn int plain_verb(struct ctl *ctl, int argc, char **argv, const char *command)
{
    struct weir_error *err = NULL;
    int status = ctl_no_options(ctl, argc, argv, job_argument);

    if (status >= 0)
        return status;
    if (ctl_connect(ctl, &err))
        return ctl_fail(ctl, err);
    if (ctl_call(ctl, command, json_pack("{s:s}", "id", argv[optind]), NULL, &err)) {
        weir_error_prefix(&err, "%s '%s': ", ctl->command->name, argv[optind]);
        return ctl_fail(ctl, err);
    }
    return 0;
}

weir_co_fn int ctl_pause(struct ctl *ctl, int argc, char **argv)
{
    return plain_verb(ctl, argc, argv, "job-pause");
}

weir_co_fn int ctl_resume(struct ctl *ctl, int argc, char **argv)
{
    return plain_verb(ctl, argc, argv, "job-resume");
}

/* A mirror that is ready ends well without force, by the command for jobs that move data; others do not know it. */
static weir_co_fn int cancel(struct ctl *ctl, const struct arguments *arguments, struct weir_error **err)
{
    json_t *block_jobs;
    bool moves_data;
    int ret = ctl_call(ctl, "query-block-jobs", NULL, &block_jobs, err);

    if (ret)
        return ret;
    moves_data = ctl_find(block_jobs, "device", arguments->job);
    json_decref(block_jobs);
    if (!moves_data)
        return ctl_call(ctl, "job-cancel", json_pack("{s:s}", "id", arguments->job), NULL, err);
    return ctl_call(ctl, "block-job-cancel",
                    json_pack("{s:s, s:b}", "device", arguments->job, "force", arguments->force), NULL, err);
}

static weir_co_fn int complete(struct ctl *ctl, const struct arguments *arguments, struct weir_error **err)
{
    return ctl_call(ctl, "job-complete", json_pack("{s:s}", "id", arguments->job), NULL, err);
}

/* A command that ends a job: @ask sends it to the daemon. @good is what the end should be. */
static weir_co_fn int ending(struct ctl *ctl, int argc, char **argv, const struct option *longs,
                             int (*ask)(struct ctl *, const struct arguments *, struct weir_error **)
                                 weir_co_fn,
                             enum ctl_outcome good)
{
    struct arguments arguments = { 0 };
    struct weir_error *err = NULL;
    int status = parse(ctl, argc, argv, longs, &arguments);

    if (status >= 0)
        return status;
    if (ctl_connect(ctl, &err))
        return ctl_fail(ctl, err);
    if (ask(ctl, &arguments, &err)) {
        weir_error_prefix(&err, "%s '%s': ", ctl->command->name, arguments.job);
        return ctl_fail(ctl, err);
    }
    return arguments.wait ? await_end(ctl, &arguments, good) : 0;
}

weir_co_fn int ctl_complete(struct ctl *ctl, int argc, char **argv)
{
    static const struct option longs[] = { { "wait", no_argument, NULL, 'w' }, CTL_LONG_OPTIONS };

    return ending(ctl, argc, argv, longs, complete, CTL_OUTCOME_GOOD);
}

weir_co_fn int ctl_cancel(struct ctl *ctl, int argc, char **argv)
{
    static const struct option longs[] = { { "force", no_argument, NULL, 'f' },
                                           { "wait", no_argument, NULL, 'w' },
                                           CTL_LONG_OPTIONS };

    return ending(ctl, argc, argv, longs, cancel, CTL_OUTCOME_CANCELLED);
}

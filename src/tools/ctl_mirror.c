/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl mirror: makes the target, starts the job, waits until it is ready, and completes it where that was asked.
 *
 * Until the job runs everything that was made here is taken back when a step fails, and also when the job fails. A job
 * that runs is never touched: who presses Ctrl-C stops waiting, no more.
 */
#include "tools/ctl.h"

#include "base/schema_text.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

struct mirror {
    const char *source;
    struct ctl_target target;
    bool active, pivot, no_wait;
    uint64_t speed;
    const char *wanted_id; /* NULL: made up */
    char *job;
};

/* ---- the command line ---- */

enum { OPT_ACTIVE = 256, OPT_CREATE, OPT_FORMAT, OPT_JOB, OPT_NO_WAIT, OPT_PIVOT, OPT_SPEED };

static bool *find_switch(struct mirror *mirror, int c)
{
    switch (c) {
    case OPT_ACTIVE:
        return &mirror->active;
    case OPT_CREATE:
        return &mirror->target.create;
    case OPT_NO_WAIT:
        return &mirror->no_wait;
    case OPT_PIVOT:
        return &mirror->pivot;
    default:
        return NULL;
    }
}

/* -1 to go on, or the exit status. */
static int take_option(struct ctl *ctl, int c, struct mirror *mirror)
{
    bool *on = find_switch(mirror, c);

    if (on) {
        *on = true;
        return -1;
    }
    switch (c) {
    case OPT_FORMAT:
        mirror->target.format = optarg;
        mirror->target.format_given = true;
        if (strcmp(optarg, "raw") != 0 && strcmp(optarg, "qcow2") != 0)
            return ctl_usage(ctl, "--format %s: raw or qcow2 is wanted", optarg);
        return -1;
    case OPT_JOB:
        mirror->wanted_id = optarg;
        return -1;
    case OPT_SPEED:
        if (!weir_text_to_size(optarg, &mirror->speed) || mirror->speed > INT64_MAX)
            return ctl_usage(ctl, "--speed %s: bytes a second are wanted, with a suffix k, M, G or T",
                             optarg);
        return -1;
    default:
        return c == 'h' ? 0 : 1;
    }
}

static int parse(struct ctl *ctl, int argc, char **argv, struct mirror *mirror)
{
    static const char *const both[] = { "SRC", "TARGET", NULL };
    static const struct option longs[] = {
        { "active", no_argument, NULL, OPT_ACTIVE },       { "create", no_argument, NULL, OPT_CREATE },
        { "format", required_argument, NULL, OPT_FORMAT }, { "job", required_argument, NULL, OPT_JOB },
        { "no-wait", no_argument, NULL, OPT_NO_WAIT },     { "pivot", no_argument, NULL, OPT_PIVOT },
        { "speed", required_argument, NULL, OPT_SPEED },   CTL_LONG_OPTIONS
    };
    int c, status = -1;

    while (status < 0 && (c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs)) != -1)
        status = take_option(ctl, c, mirror);
    if (status < 0)
        status = ctl_arguments(ctl, argc, argv, both);
    if (status < 0 && mirror->no_wait && mirror->pivot)
        return ctl_usage(ctl,
                         "--no-wait and --pivot exclude each other: somebody has to wait for the moment");
    if (status < 0) {
        mirror->source = argv[optind];
        mirror->target.given = argv[optind + 1];
    }
    return status;
}

/* ---- the steps ---- */

static weir_co_fn int prepare(struct ctl *ctl, struct mirror *mirror, struct weir_error **err)
{
    json_t *nodes, *jobs = NULL;
    const json_t *source;
    weir_autofree char *names = NULL, *id = NULL;
    int ret = ctl_call(ctl, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &nodes, err);

    if (ret)
        return ret;
    source = ctl_find(nodes, "node-name", mirror->source);
    names = ctl_names(nodes, "node-name");
    if (!source)
        ret = weir_error_set(err, -ENOENT, "there is no node '%s' to copy; nodes: %s", mirror->source,
                             *names ? names : "none");
    if (!ret)
        ret = ctl_query_jobs(ctl, &jobs, err);
    if (!ret) {
        id = weir_strdup_printf("mirror-%s", mirror->source);
        mirror->job = mirror->wanted_id ? weir_strdup(mirror->wanted_id) : ctl_free_name(id, jobs, "id");
        ret = ctl_target_open(ctl, &mirror->target, nodes,
                              ctl_member_number(json_object_get(source, "image"), "virtual-size"), err);
    }
    json_decref(jobs);
    json_decref(nodes);
    return ret;
}

static weir_co_fn int begin(struct ctl *ctl, struct mirror *mirror, struct weir_error **err)
{
    json_t *arguments =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I}", "job-id", mirror->job, "device", mirror->source, "target",
                  mirror->target.node, "sync", "full", "copy-mode",
                  mirror->active ? "write-blocking" : "background", "speed", (json_int_t)mirror->speed);
    int ret;

    if (ctl->interrupted) {
        json_decref(arguments);
        return weir_error_set(err, -EINTR, "interrupted before the start");
    }
    ctl_drop_events(ctl);
    ret = ctl_call(ctl, "blockdev-mirror", arguments, NULL, err);
    if (ret)
        weir_error_prefix(err, "start the mirror: ");
    else
        printf("job '%s' copies '%s' to '%s'\n", mirror->job, mirror->source, mirror->target.node);
    return ret;
}

static void tell_next(const struct ctl *ctl, const struct mirror *mirror, bool ready)
{
    weir_autofree char *call = ctl_invocation(ctl);

    if (ready)
        printf("'%s' is kept equal to '%s' from now on. What can be done next:\n", mirror->target.node,
               mirror->source);
    else
        printf("What can be done next:\n  %s watch --until ready %s\n", call, mirror->job);
    printf("  %s complete %s    users of '%s' then use '%s'\n", call, mirror->job, mirror->source,
           mirror->target.node);
    printf("  %s cancel %s      '%s' stays as it is then, '%s' stays in use\n", call, mirror->job,
           mirror->target.node, mirror->source);
}

/* Follows the job; the exit status, or -1 when what was waited for has come. */
static weir_co_fn int await(struct ctl *ctl, struct mirror *mirror, enum ctl_until until)
{
    struct ctl_follow follow = { .job = mirror->job, .until = until, .own = true };
    struct weir_error *err = NULL;
    bool good;
    int status;

    if (ctl_follow_job(ctl, &follow, &err)) {
        weir_error_prefix(&err, "how the job '%s' goes on is not known: ", mirror->job);
        return ctl_fail(ctl, err);
    }
    good = follow.outcome == (until == CTL_UNTIL_END ? CTL_OUTCOME_GOOD : CTL_OUTCOME_REACHED);
    status = ctl_tell_outcome(ctl, &follow, CTL_OUTCOME_GOOD);
    /* A job that is gone has let go of the target. When somebody else completed it meanwhile the target is in use. */
    if (follow.outcome == CTL_OUTCOME_FAILED || follow.outcome == CTL_OUTCOME_CANCELLED)
        ctl_target_undo(ctl, &mirror->target);
    free(follow.reason);
    return good ? -1 : status;
}

static weir_co_fn int pivot(struct ctl *ctl, struct mirror *mirror)
{
    struct weir_error *err = NULL;
    int status;

    if (ctl_call(ctl, "job-complete", json_pack("{s:s}", "id", mirror->job), NULL, &err)) {
        weir_error_prefix(&err, "complete the job '%s', which goes on: ", mirror->job);
        return ctl_fail(ctl, err);
    }
    status = await(ctl, mirror, CTL_UNTIL_END);
    if (status >= 0)
        return status;
    printf("users of '%s' use '%s' now\n", mirror->source, mirror->target.node);
    return 0;
}

static weir_co_fn int run(struct ctl *ctl, struct mirror *mirror)
{
    struct weir_error *err = NULL;
    int status = -1;

    if (ctl_connect(ctl, &err))
        return ctl_fail(ctl, err);
    ctl->patient = true;
    if (prepare(ctl, mirror, &err) || begin(ctl, mirror, &err)) {
        status = ctl_fail(ctl, err);
        ctl_target_undo(ctl, &mirror->target);
        return ctl->interrupted ? CTL_STATUS_INTERRUPTED : status;
    }
    if (!mirror->no_wait)
        status = await(ctl, mirror, CTL_UNTIL_READY);
    if (status >= 0)
        return status;
    if (mirror->pivot)
        return pivot(ctl, mirror);
    tell_next(ctl, mirror, !mirror->no_wait);
    return 0;
}

weir_co_fn int ctl_mirror(struct ctl *ctl, int argc, char **argv)
{
    struct mirror mirror = { .target = { .format = "raw" } };
    int status = parse(ctl, argc, argv, &mirror);

    if (status < 0)
        status = run(ctl, &mirror);
    ctl_target_free(&mirror.target);
    free(mirror.job);
    return status;
}

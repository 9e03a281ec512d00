/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl jobs, and what the other commands ask about jobs.
 *
 * Two commands of QMP know about jobs: one knows them all, the other more about those that move data. They are asked
 * one after the other, so a job may be in one answer only; the first one counts.
 */
#include "tools/ctl.h"

#include <stdio.h>
#include <string.h>

weir_co_fn int ctl_query_jobs(struct ctl *ctl, json_t **ret_jobs, struct weir_error **err)
{
    json_t *jobs, *block_jobs = NULL;
    int ret = ctl_call(ctl, "query-jobs", NULL, &jobs, err);

    if (ret)
        return ret;
    ret = ctl_call(ctl, "query-block-jobs", NULL, &block_jobs, err);
    if (ret) {
        json_decref(jobs);
        return ret;
    }
    for (size_t i = 0; i < json_array_size(jobs); i++) {
        json_t *job = json_array_get(jobs, i);
        json_t *block_job = ctl_find(block_jobs, "device", ctl_member_text(job, "id"));

        if (block_job)
            json_object_update_missing(job, block_job);
    }
    json_decref(block_jobs);
    *ret_jobs = jobs;
    return 0;
}

bool ctl_job_is_ready(const json_t *job)
{
    const char *status = ctl_member_text(job, "status");

    return !strcmp(status, "ready") || !strcmp(status, "standby");
}

char *ctl_names(const json_t *array, const char *name)
{
    struct ctl_buffer buffer = { NULL, 0 };

    ctl_add(&buffer, "%s", "");
    for (size_t i = 0; i < json_array_size(array); i++) {
        const char *text = ctl_member_text(json_array_get(array, i), name);

        if (*text && *text != '#') /* names that the daemon made up mean nothing to people */
            ctl_add(&buffer, "%s%s", buffer.length ? ", " : "", text);
    }
    return buffer.text;
}

/* ---- the table ---- */

static void add_row(struct ctl_table *table, const json_t *job)
{
    uint64_t done = ctl_member_number(job, "current-progress"),
             total = ctl_member_number(job, "total-progress");
    const json_t *speed = json_object_get(job, "speed"), *synced = json_object_get(job, "actively-synced");
    const char *error = ctl_member_text(job, "error");
    char text[32], whole[32];

    ctl_table_add(table, "%s", ctl_member_text(job, "id"));
    ctl_table_add(table, "%s", ctl_member_text(job, "type"));
    ctl_table_add(table, "%s", ctl_member_text(job, "status"));
    /* Cut, not rounded: 100 % is when nothing is left. */
    ctl_table_add(table, "%.1f %%",
                  total ? (double)(uint64_t)((double)done * 1000 / (double)total) / 10 : 0.0);
    ctl_size_text(done, text);
    ctl_size_text(total, whole);
    ctl_table_add(table, "%s / %s", text, whole);
    ctl_size_text(ctl_member_number(job, "speed"), text);
    ctl_table_add(table, json_integer_value(speed) ? "%s/s" : "-", text);
    ctl_table_add(table, "%s",
                  synced ? (json_is_true(synced)    ? "active"
                            : ctl_job_is_ready(job) ? "yes"
                                                    : "no")
                         : "-");
    ctl_table_add(table, "%s", *error ? error : "-");
}

static void print_table(const json_t *jobs)
{
    static const char *const titles[] = { "ID",           "TYPE",  "STATUS",  "PROGRESS",
                                          "DONE / TOTAL", "LIMIT", "IN SYNC", "ERROR" };
    struct ctl_table table = { .columns = WEIR_ARRAY_SIZE(titles) };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(titles); i++)
        ctl_table_add(&table, "%s", titles[i]);
    for (size_t i = 0; i < json_array_size(jobs); i++)
        add_row(&table, json_array_get(jobs, i));
    ctl_table_print(&table);
}

/* -1 to go on, or the exit status. */
static int parse(struct ctl *ctl, int argc, char **argv, bool *ret_json)
{
    static const struct option longs[] = { { "json", no_argument, NULL, 'j' }, CTL_LONG_OPTIONS };
    int c;

    while ((c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs)) != -1) {
        if (c != 'j')
            return c == 'h' ? 0 : 1;
        *ret_json = true;
    }
    if (optind < argc)
        return ctl_usage(ctl, "jobs: unexpected argument '%s'", argv[optind]);
    return -1;
}

weir_co_fn int ctl_jobs(struct ctl *ctl, int argc, char **argv)
{
    struct weir_error *err = NULL;
    weir_autofree char *text = NULL;
    bool json = false;
    json_t *jobs;
    int status = parse(ctl, argc, argv, &json);

    if (status >= 0)
        return status;
    if (ctl_connect(ctl, &err) || ctl_query_jobs(ctl, &jobs, &err))
        return ctl_fail(ctl, err);
    if (json) {
        text = json_dumps(jobs, JSON_INDENT(4));
        printf("%s\n", text ? text : "[]");
    } else if (!json_array_size(jobs)) {
        printf("no jobs\n");
    } else {
        print_table(jobs);
    }
    json_decref(jobs);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/check.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include "job/job.h"

#include <errno.h>

struct check {
    struct weir_job job;
    struct weir_edge *edge;
    struct weir_check_result result;
    char *file;
    const char *format;
    bool done;
};

static char *describe(struct weir_edge *edge)
{
    const struct check *check = edge->root;

    return weir_strdup_printf("block job '%s'", check->job.id);
}

static const struct weir_root_ops root_ops = { .kind = "block-job", .describe = describe };

static bool found(const struct weir_check_result *result)
{
    return result->corruptions || result->leaks || result->check_errors;
}

/* Beside the guests. False: something was found, or a drain is on. */
static weir_co_fn bool look_beside(struct check *check)
{
    struct weir_node *node = check->edge->node;
    struct weir_error *err = NULL;
    int ret;

    if (!weir_node_background_begin(node))
        return false;
    ret = node->driver->check->check(node, 0, &check->result, NULL, NULL, &err);
    weir_node_background_end(node);
    weir_error_free(err);
    return !ret && !found(&check->result);
}

/* With the guests stopped. */
static weir_co_fn int look_alone(struct check *check)
{
    struct weir_node *node = check->edge->node;
    struct weir_drain drain;
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, &check->job.error);
    if (!ret) {
        ret = node->driver->check->check(node, 0, &check->result, NULL, NULL, &check->job.error);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

static weir_co_fn int check_run(struct weir_job *job)
{
    struct check *check = weir_container_of(job, struct check, job);
    int ret = 0;

    job->total = 1;
    if (!look_beside(check) && !job->cancelled)
        ret = look_alone(check);
    if (job->cancelled)
        return -ECANCELED;
    check->done = !ret;
    job->progress = !ret;
    return ret;
}

static weir_co_fn void check_clean(struct weir_job *job)
{
    struct check *check = weir_container_of(job, struct check, job);

    weir_root_detach(weir_steal(&check->edge), WEIR_DRAIN_LIMIT_NS);
}

static void check_free(struct weir_job *job)
{
    free(weir_container_of(job, struct check, job)->file);
}

static const struct weir_job_driver check_driver = {
    .type = "check",
    .size = sizeof(struct check),
    .run = check_run,
    .clean = check_clean,
    .free = check_free,
};

const struct weir_check_result *weir_check_result_of(struct weir_job *job, const char **ret_file,
                                                     const char **ret_format)
{
    const struct check *check = weir_container_of(job, struct check, job);

    if (job->driver != &check_driver || !check->done)
        return NULL;
    *ret_file = check->file;
    *ret_format = check->format;
    return &check->result;
}

int weir_check_start(const char *job_id, const char *node_name, struct weir_error **err)
{
    struct weir_job_options options = { .id = job_id, .auto_finalize = true };
    struct weir_node *node = weir_node_lookup(NULL, node_name, err);
    struct weir_job *job;
    struct check *check;
    int ret;

    if (!node)
        return -ENODEV;
    if (!node->driver->check)
        return weir_error_set(err, -ENOTSUP, "Driver '%s' does not support checks", node->driver->name);
    ret = weir_job_new(&check_driver, &options, &job, err);
    if (ret)
        return ret;
    check = weir_container_of(job, struct check, job);
    check->file = weir_strdup(weir_node_file_name(node));
    check->format = node->driver->name;
    ret = weir_root_attach(node, "root", WEIR_PERM_CONSISTENT_READ, WEIR_PERM_ALL, &root_ops, check,
                           &check->edge, err);
    if (ret)
        weir_job_discard(job);
    else
        weir_job_start(job);
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/create.h"

#include "base/alloc.h"
#include "base/schema.h"
#include "graph/driver.h"
#include "job/job.h"
#include <errno.h>

struct create {
    struct weir_job job;
    const struct weir_create_ops *ops;
    void *options; /* parsed: ops->options->size bytes */
};

static weir_co_fn int create_run(struct weir_job *job)
{
    struct create *create = weir_container_of(job, struct create, job);
    int ret = create->ops->create(create->options, &job->error);

    job->total = 1;
    job->progress = ret ? 0 : 1;
    return ret;
}

static void create_free(struct weir_job *job)
{
    struct create *create = weir_container_of(job, struct create, job);

    if (create->options)
        weir_schema_free(create->ops->options, create->options);
    free(create->options);
}

static const struct weir_job_driver create_driver = {
    .type = "create",
    .size = sizeof(struct create),
    .run = create_run,
    .free = create_free,
};

int weir_create_start(const char *job_id, const char *driver_name, json_t *options, struct weir_error **err)
{
    const struct weir_driver *driver = weir_driver_find(driver_name);
    struct weir_job_options job_options = { .id = job_id, .auto_finalize = true };
    struct weir_job *job;
    struct create *create;
    json_t *own;
    int ret;

    if (!driver || !driver->create)
        return weir_error_set(err, -ENOTSUP, "Driver '%s' does not support blockdev-create", driver_name);
    ret = weir_job_new(&create_driver, &job_options, &job, err);
    if (ret)
        return ret;
    create = weir_container_of(job, struct create, job);
    create->ops = driver->create;
    create->options = weir_alloc(driver->create->options->size);
    own = json_copy(options);
    json_object_del(own, "driver");
    ret = weir_schema_parse(driver->create->options, own, WEIR_SCHEMA_JSON, create->options, err);
    json_decref(own);
    if (ret) {
        free(weir_steal(&create->options));
        weir_job_discard(job);
        return ret;
    }
    weir_job_start(job);
    return 0;
}

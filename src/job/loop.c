/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/loop.h"

static struct weir_loop *job_loop;

int weir_job_loop(struct weir_loop **ret_loop, struct weir_error **err)
{
    int ret = job_loop ? 0 : weir_loop_new("jobs", &job_loop, err);

    if (!ret)
        *ret_loop = job_loop;
    return ret;
}

void weir_job_loop_done(void)
{
    struct weir_loop *loop = weir_steal(&job_loop);

    if (loop)
        weir_loop_free(loop);
}

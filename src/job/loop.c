/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/loop.h"

#include "co/co.h"
#include "io/buffer.h"

static struct weir_loop *job_loop;

int weir_job_loop(struct weir_loop **ret_loop, struct weir_error **err)
{
    int ret = job_loop ? 0 : weir_loop_new("jobs", &job_loop, err);

    if (!ret)
        *ret_loop = job_loop;
    return ret;
}

/* What the thread keeps for reuse would be lost with it. */
static weir_co_fn void give_back(void *arg)
{
    weir_buffer_trim();
}

void weir_job_loop_done(void)
{
    struct weir_loop *loop = weir_steal(&job_loop);

    if (!loop)
        return;
    weir_co_start(loop, give_back, NULL);
    weir_loop_free(loop);
}

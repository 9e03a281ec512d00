/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a mirror with sync=top begins with: what the source itself holds, not what it shows of its backing chain; and
 * what the commit of a head does: what the layers above the target hold.
 *
 * It is looked up while guests write, after the filter is in: what they change meanwhile is marked, or brought over, by
 * the filter, and a mark too many is only a copy too many.
 */
#include "base/bitmap.h"
#include "graph/gate.h"
#include "io/async.h"
#include "job/job.h"
#include "job/mirror_internal.h"
#include <errno.h>

#define LOOK_MAX ((uint64_t)1 << 30)

static weir_co_fn int look(struct mirror *mirror, uint64_t offset, uint64_t length,
                           struct weir_status *ret_status)
{
    struct weir_gate_op op = { .op = WEIR_OP_STATUS, .offset = offset, .length = length };
    struct weir_request request =
        weir_request_make(WEIR_OP_STATUS, offset, length, NULL, 0, mirror->depth ? WEIR_REQUEST_DEEP : 0);
    int ret;

    request.status = ret_status;
    weir_gate_enter(mirror->edge, &op);
    ret = weir_io_abandonable(weir_mirror_top_source(mirror->parts->top), &request, -1);
    weir_gate_leave(&op);
    return ret;
}

weir_co_fn int mirror_mark_top(struct mirror *mirror)
{
    uint64_t size = weir_bitmap_size(mirror->parts->bitmap), offset = 0;
    struct weir_job *job = &mirror->job;

    while (offset < size) {
        uint64_t length = WEIR_MIN(size - offset, LOOK_MAX);
        struct weir_status status;
        int ret;

        while (job->paused && !job->cancelled)
            weir_job_wait(job, -1);
        if (job->cancelled)
            return -ECANCELED;
        ret = look(mirror, offset, length, &status);
        if (ret) {
            ret = job->cancelled ? -ECANCELED : mirror_io_error(mirror, ret, false);
            if (ret)
                return ret;
            continue;
        }
        length = WEIR_MIN(length, status.length);
        /* Where a layer above the target ends early it shows zeroes, which the target may not have. */
        if (mirror->depth ? status.depth < mirror->depth : status.allocated)
            weir_bitmap_set(mirror->parts->bitmap, offset, length);
        offset += length;
    }
    return 0;
}

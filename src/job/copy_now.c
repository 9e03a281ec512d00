/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Copies that a guest's request waits for, within a limit.
 *
 * Each runs in a coroutine of its own, so that its caller can be let go. What is then still under way is a write to
 * the target at most: reads are left behind, and no write begins after the limit. The coroutine keeps the range locked
 * until that write is answered, and counts among what the target was left behind with, so that a drain of the target
 * waits for it and a drain of the source does not.
 */
#include "job/copy_internal.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include "sys/sys.h"
#include <errno.h>

/* Taken at a time. */
#define URGENT_MAX ((uint64_t)1 << 20)

/* The marked areas of the locked range, one after the other. */
static weir_co_fn int copy_marked(struct copy_urgent *urgent, struct weir_buffer *buffer,
                                  uint64_t *ret_copied)
{
    struct weir_copy *copy = urgent->copy;
    struct weir_transfer transfer = copy->options.transfer;
    uint64_t granularity = weir_bitmap_granularity(copy->options.bitmap);
    uint64_t most = WEIR_MAX(weir_align_down(buffer->size, granularity), granularity);
    uint64_t end = urgent->offset + urgent->length, offset = urgent->offset, length;
    int ret = 0;

    transfer.deadline_ns = urgent->deadline_ns;
    while (!ret && weir_bitmap_next_area(copy->options.bitmap, offset, most, &offset, &length) &&
           offset < end) {
        bool done;

        length = WEIR_MIN(length, end - offset);
        ret = copy_transfer_area(copy, &transfer, offset, length, buffer, NULL, &done, &urgent->write);
        if (done)
            atomic_fetch_sub(&copy->taken, length);
        if (done && !ret)
            *ret_copied += length;
        offset += length;
        if (offset >= end)
            break;
    }
    return ret;
}

/* Both are done with it; mutex held. */
static void forget(struct copy_urgent *urgent)
{
    struct weir_copy *copy = urgent->copy;

    TAILQ_REMOVE(&copy->urgent, urgent, link);
    weir_co_queue_wake_all(&copy->ended);
    weir_co_queue_wake_all(&copy->look); /* who waits for nothing to be under way looks again */
    free(urgent);
}

static weir_co_fn void urgent_run(void *arg)
{
    struct copy_urgent *urgent = arg;
    struct weir_copy *copy = urgent->copy;
    struct weir_node *target = copy->options.transfer.target->node;
    struct weir_buffer *buffer = weir_buffer_new(WEIR_MIN(urgent->length, URGENT_MAX));
    struct weir_range_lock lock = { 0 };
    uint64_t copied = 0;
    bool counted;
    int ret = -ENOMEM;

    weir_node_ref(target);
    if (buffer)
        ret = weir_range_lock_unless(copy->options.ranges, &lock, urgent->offset, urgent->length, true,
                                     &urgent->stop);
    if (!ret)
        ret = copy_marked(urgent, buffer, &copied);
    weir_range_unlock(&lock);
    weir_buffer_unref(buffer);
    weir_mutex_lock(&copy->mutex);
    copy->copied += copied;
    copy_charge(copy, copied);
    urgent->result = ret;
    urgent->over = true;
    counted = urgent->counted;
    if (urgent->left)
        forget(urgent);
    else
        weir_co_queue_wake_all(&copy->ended);
    weir_mutex_unlock(&copy->mutex);
    if (counted)
        weir_node_request_returned(target);
    weir_node_unref(target);
}

void copy_stop_urgent(struct weir_copy *copy)
{
    struct copy_urgent *urgent;

    TAILQ_FOREACH (urgent, &copy->urgent, link)
        atomic_store(&urgent->stop, true);
}

/* The caller goes. Mutex held. */
static void leave_behind(struct copy_urgent *urgent)
{
    urgent->left = true;
    atomic_store(&urgent->stop, true);
    if (urgent->write) {
        urgent->counted = true;
        atomic_fetch_add(&urgent->copy->options.transfer.target->node->left_behind, 1);
    }
    weir_range_table_wake(urgent->copy->options.ranges);
}

/* Waits for its end, or for the limit. */
static weir_co_fn int urgent_wait(struct copy_urgent *urgent, bool *ret_write)
{
    struct weir_copy *copy = urgent->copy;
    int64_t deadline = urgent->deadline_ns ? urgent->deadline_ns : -1;
    int ret = 0;

    weir_mutex_lock(&copy->mutex);
    while (!urgent->over && !ret)
        ret = weir_co_queue_wait_until(&copy->ended, &copy->mutex, deadline);
    *ret_write = urgent->write;
    if (urgent->over) {
        ret = copy->stop && urgent->result ? -ECANCELED : urgent->result;
        forget(urgent);
        weir_mutex_unlock(&copy->mutex);
        return ret;
    }
    leave_behind(urgent);
    weir_mutex_unlock(&copy->mutex);
    return ret;
}

int weir_copy_now(struct weir_copy *copy, uint64_t offset, uint64_t length, int64_t limit_ns, bool *ret_write)
{
    uint64_t granularity = weir_bitmap_granularity(copy->options.bitmap);
    uint64_t size = weir_bitmap_size(copy->options.bitmap);
    struct copy_urgent *urgent = weir_new(struct copy_urgent);

    WEIR_ASSERT(length && offset < size && length <= size - offset);
    urgent->copy = copy;
    urgent->offset = weir_align_down(offset, granularity);
    urgent->length = WEIR_MIN(weir_align_up(offset + length, granularity), size) - urgent->offset;
    urgent->deadline_ns = limit_ns < 0 ? 0 : weir_sys->clock_ns() + limit_ns;
    *ret_write = false;
    weir_mutex_lock(&copy->mutex);
    if (copy->stop) {
        weir_mutex_unlock(&copy->mutex);
        free(urgent);
        return -ECANCELED;
    }
    TAILQ_INSERT_TAIL(&copy->urgent, urgent, link);
    weir_mutex_unlock(&copy->mutex);
    weir_co_run(urgent_run, urgent);
    return urgent_wait(urgent, ret_write);
}

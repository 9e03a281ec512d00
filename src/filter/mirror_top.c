/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * mirror-top.
 *
 * Invariant: in a drained section every sector that differs between source and target lies in a marked
 * granule. While requests run, a differing sector is marked, or under the lock of who will mark it, or in a
 * background-mode write that was not yet answered.
 *
 *  - background: write the source, then mark, also when the write failed - a part may have landed (M5). No
 *    lock: the guest never waits for a copy.
 *  - write-blocking: hold exactly the request's bytes exclusively (M2), clear the granules that lie wholly
 *    inside *before* writing (M3, M4), write source and target at once, mark everything again if either
 *    failed (M6). The guest gets the source's result.
 *  - write-blocking, where the source alone decides what it will read as (a discard; a fast zero that it may refuse):
 *    the source first, then the target is brought to the same.
 */
#include "filter/mirror_top.h"

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/iov.h"
#include "base/law.h"
#include "co/co.h"
#include "io/async.h"
#include "io/io.h"
#include "io/range_lock.h"
#include "io/transfer.h"
#include <errno.h>

/* Data that is brought over while the guest waits. More of it is left to the job. */
#define BRING_MAX ((uint64_t)4 << 20)
#define BRING_CHUNK ((uint64_t)1 << 20)

struct mirror_top {
    struct weir_transfer transfer;
    struct weir_bitmap *bitmap;
    struct weir_range_table *ranges;
    _Atomic int mode;
    _Atomic unsigned lagging; /* background-mode requests that have not marked yet */
    _Atomic unsigned in_flight;
    void (*notify)(void *opaque, int ret, bool write);
    void *opaque;
    bool alone; /* no other writer below; control loop */
    bool below; /* the target is a layer of the source's chain */
};

void weir_mirror_top_set_alone(struct weir_node *node, bool alone)
{
    ((struct mirror_top *)node->state)->alone = alone;
}

struct weir_edge *weir_mirror_top_source(struct weir_node *node)
{
    return ((struct mirror_top *)node->state)->transfer.source;
}

struct weir_edge *weir_mirror_top_target(struct weir_node *node)
{
    return ((struct mirror_top *)node->state)->transfer.target;
}

struct weir_range_table *weir_mirror_top_ranges(struct weir_node *node)
{
    return ((struct mirror_top *)node->state)->ranges;
}

void weir_mirror_top_set_mode(struct weir_node *node, enum weir_mirror_mode mode)
{
    atomic_store(&((struct mirror_top *)node->state)->mode, (int)mode);
}

bool weir_mirror_top_active(struct weir_node *node)
{
    struct mirror_top *top = node->state;

    return atomic_load(&top->mode) == WEIR_MIRROR_BLOCKING && !atomic_load(&top->lagging);
}

unsigned weir_mirror_top_in_flight(struct weir_node *node)
{
    return atomic_load_explicit(&((struct mirror_top *)node->state)->in_flight, memory_order_relaxed);
}

static void mark(struct mirror_top *top, const struct weir_request *request, int ret, bool write)
{
    weir_bitmap_set(top->bitmap, request->offset, request->length);
    top->notify(top->opaque, ret, write);
}

/* What the law leaves to a later copy is not cleared: the rest of a granule that is only touched (M4). */
static void clear(struct mirror_top *top, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;

    if (!WEIR_LAW(WEIR_LAW_INNER)) {
        uint64_t granularity = weir_bitmap_granularity(top->bitmap);

        offset = weir_align_down(offset, granularity);
        end = WEIR_MIN(weir_align_up(end, granularity), weir_bitmap_size(top->bitmap));
    }
    weir_bitmap_clear_inner(top->bitmap, offset, end - offset);
}

/* Its caller has counted it as lagging. */
static weir_co_fn int write_background(struct mirror_top *top, struct weir_request *request)
{
    int ret = weir_io(top->transfer.source, request);

    if (WEIR_LAW(WEIR_LAW_MODE) || atomic_load(&top->mode) != WEIR_MIRROR_BLOCKING)
        mark(top, request, 0, false);
    atomic_fetch_sub(&top->lagging, 1);
    return ret;
}

struct target_write {
    struct mirror_top *top;
    struct weir_request request;
    int result;
};

static weir_co_fn void write_target(void *arg)
{
    struct target_write *write = arg;

    write->result = weir_transfer_write(&write->top->transfer, &write->request);
}

/*
 * Durability of the target is made at the pivot; what the guest asks for is promised by the source. So is "fast or
 * not at all": the target may take the slow way.
 */
static struct weir_request for_target(const struct weir_request *request)
{
    struct weir_request copy = *request;

    copy.flags &= ~(unsigned)(WEIR_REQUEST_FUA | WEIR_REQUEST_NO_FALLBACK);
    return copy;
}

/* Both sides at once; the caller holds the range. Returns the source's result, *ret_target the target's. */
static weir_co_fn int write_both(struct mirror_top *top, struct weir_request *request, int *ret_target)
{
    struct target_write write = { top, for_target(request), 0 };
    struct weir_co_group group;
    int ret;

    weir_co_group_init(&group);
    weir_co_group_start(&group, write_target, &write);
    ret = weir_io(top->transfer.source, request);
    weir_co_group_wait(&group, 0);
    weir_co_group_done(&group);
    *ret_target = write.result;
    return ret;
}

static weir_co_fn int write_active(struct mirror_top *top, struct weir_request *request)
{
    struct weir_range_lock lock = { 0 };
    int target = 0, ret;

    weir_range_lock(top->ranges, &lock, request->offset, request->length, true);
    clear(top, request->offset, request->length);
    ret = write_both(top, request, &target);
    if ((ret || target) && WEIR_LAW(WEIR_LAW_REMARK))
        weir_bitmap_set(top->bitmap, request->offset, request->length);
    weir_range_unlock(&lock);
    if (ret || target)
        top->notify(top->opaque, target, true);
    return ret;
}

/* Makes the target read as the source does; the caller holds the range. 0, or -errno and the rest is to be marked. */
static weir_co_fn int bring_over(struct mirror_top *top, const struct weir_request *request,
                                 struct weir_buffer *buffer, bool *ret_write)
{
    uint64_t offset = request->offset, length = request->length, data = 0;
    int ret = 0;

    *ret_write = false;
    while (length && !ret) {
        struct weir_status status;
        uint64_t piece;

        ret = weir_transfer_look(top->transfer.source, offset, length, 0, 0, &status);
        if (ret)
            break;
        piece = WEIR_MIN(status.length, length);
        if (!status.zero) {
            piece = WEIR_MIN(piece, buffer->size);
            data += piece;
        }
        if (data > BRING_MAX)
            return -EAGAIN;
        ret = weir_transfer_range(&top->transfer, offset, piece, buffer, NULL, ret_write);
        offset += piece;
        length -= piece;
    }
    return ret;
}

/*
 * The source first, for it alone decides what it will read as: after a discard, and after a fast zero that it refuses,
 * maybe in the middle.
 */
static weir_co_fn int change_in_turn(struct mirror_top *top, struct weir_request *request)
{
    struct weir_buffer *buffer = weir_buffer_new(WEIR_MIN(request->length, BRING_CHUNK));
    struct weir_request copy = for_target(request);
    struct weir_range_lock lock = { 0 };
    bool write = true;
    int target, ret;

    if (!buffer)
        return -ENOMEM;
    weir_range_lock(top->ranges, &lock, request->offset, request->length, true);
    clear(top, request->offset, request->length);
    ret = weir_io(top->transfer.source, request);
    if (request->op == WEIR_OP_ZERO && !ret)
        target = weir_transfer_write(&top->transfer, &copy);
    else
        target = bring_over(top, request, buffer, &write);
    if (target)
        mark(top, request, target == -EAGAIN ? 0 : target, write);
    weir_range_unlock(&lock);
    weir_buffer_unref(buffer);
    return ret;
}

/* Who writes twice needs bytes that stay: a guest may change its buffer meanwhile. */
static weir_co_fn int write_active_stable(struct mirror_top *top, struct weir_request *request)
{
    struct weir_request stable = *request;
    struct weir_buffer *copy;
    struct iovec iov;
    int ret;

    if (request->op != WEIR_OP_WRITE || !(request->flags & WEIR_REQUEST_UNSTABLE))
        return write_active(top, request);
    copy = weir_buffer_new(request->length);
    if (!copy)
        return -ENOMEM;
    weir_iov_to_buffer(request->iov, request->iovcnt, 0, copy->data, request->length);
    iov = (struct iovec){ copy->data, request->length };
    stable.iov = &iov;
    stable.iovcnt = 1;
    stable.buffer = copy;
    stable.flags &= ~(unsigned)WEIR_REQUEST_UNSTABLE;
    ret = write_active(top, &stable);
    weir_buffer_unref(copy);
    return ret;
}

/*
 * The mode of a request, once and for all of it (M7). What goes the background way is counted before it is sure to:
 * who has switched the mode and sees nobody lag knows that every later request is an active one.
 */
static int enter(struct mirror_top *top)
{
    int mode = atomic_load(&top->mode);

    if (mode != WEIR_MIRROR_BACKGROUND)
        return mode;
    atomic_fetch_add(&top->lagging, 1);
    mode = atomic_load(&top->mode);
    if (mode != WEIR_MIRROR_BACKGROUND)
        atomic_fetch_sub(&top->lagging, 1);
    return mode;
}

static weir_co_fn int change_by_mode(struct mirror_top *top, struct weir_request *request)
{
    int mode;

    /* Nothing changes for readers of the source; and it may be late, with old data that the target would take. */
    if (request->flags & WEIR_REQUEST_UNCHANGED)
        return weir_io(top->transfer.source, request);
    /* A source that ignores discards stays as it is, and so does the target. */
    if (request->op == WEIR_OP_DISCARD && !top->transfer.source->node->discard_unmap)
        return weir_io(top->transfer.source, request);
    mode = enter(top);
    if (mode == WEIR_MIRROR_PASS)
        return weir_io(top->transfer.source, request);
    if (mode == WEIR_MIRROR_BACKGROUND)
        return write_background(top, request);
    if (request->op == WEIR_OP_DISCARD ||
        (request->op == WEIR_OP_ZERO && request->flags & WEIR_REQUEST_NO_FALLBACK))
        return change_in_turn(top, request);
    return write_active_stable(top, request);
}

static weir_co_fn int mirror_top_submit(struct weir_node *node, struct weir_request *request)
{
    struct mirror_top *top = node->state;
    int ret;

    atomic_fetch_add_explicit(&top->in_flight, 1, memory_order_relaxed);
    ret = change_by_mode(top, request);
    atomic_fetch_sub_explicit(&top->in_flight, 1, memory_order_relaxed);
    return ret;
}

static unsigned mirror_top_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | WEIR_OP_BIT(WEIR_OP_DISCARD);
}

static void mirror_top_limits(struct weir_node *node, struct weir_limits *limits)
{
    /* Any request may come: each child aligns for itself. */
    weir_limits_take_all(limits);
}

static void mirror_top_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                  unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    if (edge->role & WEIR_ROLE_FILTERED) {
        *ret_perm = perm | WEIR_PERM_CONSISTENT_READ;
        *ret_shared = shared | WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED;
        /* A writer that uses the source directly would pass the mirror by: its writes would be lost at the pivot. */
        if (((struct mirror_top *)node->state)->alone)
            *ret_shared &= ~(unsigned)WEIR_PERM_WRITE;
    } else {
        *ret_perm = WEIR_PERM_WRITE;
        *ret_shared = WEIR_PERM_WRITE_UNCHANGED;
        if (((struct mirror_top *)node->state)->below)
            *ret_shared |= WEIR_PERM_CONSISTENT_READ;
    }
    *ret_shared &= ~(unsigned)WEIR_PERM_RESIZE;
}

static weir_co_fn int mirror_top_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_mirror_top_options *given = options;
    struct mirror_top *top = node->state;
    json_t *name;
    int ret;

    top->bitmap = given->bitmap;
    top->transfer.written = given->written;
    top->transfer.unmap = given->unmap;
    top->below = given->below;
    top->notify = given->notify;
    top->opaque = given->opaque;
    atomic_init(&top->mode, (int)given->mode);
    name = json_string(given->source->name);
    ret = weir_node_open_child(node, name, "backing", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                               &top->transfer.source, err);
    json_decref(name);
    if (ret)
        return ret;
    name = json_string(given->target->name);
    ret = weir_node_open_child(node, name, "target", WEIR_ROLE_DATA, &top->transfer.target, err);
    json_decref(name);
    if (ret)
        return ret;
    top->ranges = weir_range_table_new();
    weir_node_set_size(node, weir_node_size(given->source));
    return 0;
}

static weir_co_fn void mirror_top_close(struct weir_node *node)
{
    weir_range_table_free(((struct mirror_top *)node->state)->ranges);
}

const struct weir_driver weir_driver_mirror_top = {
    .name = "mirror_top",
    .flags = WEIR_DRIVER_FILTER | WEIR_DRIVER_INTERNAL,
    .state_size = sizeof(struct mirror_top),
    .open = mirror_top_open,
    .close = mirror_top_close,
    .limits = mirror_top_limits,
    .child_perm = mirror_top_child_perm,
    .cares = mirror_top_cares,
    .submit = mirror_top_submit,
};

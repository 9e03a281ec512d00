/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quorum: one request to several children, and what each of them has missed.
 */
#include "filter/quorum.h"

#include "base/alloc.h"
#include "base/bitmap.h"
#include "graph/graph.h"
#include "io/async.h"
#include "sys/sys.h"

#define MISSED_GRANULARITY 65536u

struct quorum_fan *quorum_fan_new(struct quorum *quorum, const struct weir_request *request,
                                  bool (*enough)(struct quorum_fan *fan))
{
    struct quorum_fan *fan = weir_alloc(sizeof(*fan) + quorum->count * sizeof(struct quorum_answer));

    fan->quorum = quorum;
    fan->enough = enough;
    fan->count = quorum->count;
    weir_mutex_init(&fan->mutex);
    weir_co_queue_init(&fan->queue);
    for (unsigned i = 0; i < fan->count; i++) {
        fan->answers[i].fan = fan;
        fan->answers[i].child = &quorum->children[i];
        fan->answers[i].request = *request;
        fan->answers[i].request.status = &fan->answers[i].status;
        fan->answers[i].wanted = true;
    }
    return fan;
}

void quorum_fan_free(struct quorum_fan *fan)
{
    for (unsigned i = 0; i < fan->count; i++)
        weir_buffer_unref(fan->answers[i].buffer);
    weir_mutex_done(&fan->mutex);
    free(fan);
}

/* ---- asking ---- */

/*
 * A child that was given up takes part again once it has returned everything and nobody is about to give it up; or once
 * the edge leads to another node.
 */
static void try_again(struct quorum *quorum, struct quorum_child *child)
{
    if (!atomic_load_explicit(&child->edge->broken, memory_order_relaxed))
        return;
    WEIR_SCOPE_LOCK(&quorum->mutex);
    if (!child->breaking && !atomic_load(&child->edge->node->left_behind))
        atomic_store(&child->edge->broken, false);
}

/* While they are counted nobody mends the edge, so that all who wait on it for this one see that it is broken. */
static void give_up(struct quorum *quorum, struct quorum_child *child)
{
    WEIR_SCOPE_LOCK(&quorum->mutex);
    child->breaking++;
    weir_edge_break(child->edge);
}

static void given_up(struct quorum *quorum, struct quorum_child *child)
{
    WEIR_SCOPE_LOCK(&quorum->mutex);
    child->breaking--;
}

static weir_co_fn void ask(void *arg)
{
    struct quorum_answer *answer = arg;
    struct quorum_fan *fan = answer->fan;
    int ret;

    try_again(fan->quorum, answer->child);
    ret = weir_io_abandonable(answer->child->edge, &answer->request, -1);
    weir_mutex_lock(&fan->mutex);
    answer->result = ret == -ECANCELED ? -ETIMEDOUT : ret;
    answer->done = true;
    fan->pending--;
    weir_co_queue_wake_all(&fan->queue);
    weir_mutex_unlock(&fan->mutex);
}

/* Mutex held. */
static unsigned succeeded(const struct quorum_fan *fan)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fan->count; i++)
        count += fan->answers[i].done && !fan->answers[i].result;
    return count;
}

/*
 * Returns which are late: bits of answers. Patience begins when so many have succeeded that they may be enough: what
 * all of them take long for is no reason to give one up.
 */
static weir_co_fn uint32_t wait_for_answers(struct quorum_fan *fan)
{
    int64_t deadline = -1;
    bool over = false;
    uint32_t late = 0;

    weir_mutex_lock(&fan->mutex);
    while (fan->pending && !(over && fan->enough(fan))) {
        if (!over && deadline < 0 && succeeded(fan) >= fan->quorum->threshold)
            deadline = weir_sys->clock_ns() + fan->quorum->patience_ns;
        if (weir_co_queue_wait_until(&fan->queue, &fan->mutex, over ? -1 : deadline) == -ETIMEDOUT)
            over = true;
    }
    for (unsigned i = 0; i < fan->count; i++) {
        if (fan->answers[i].wanted && !fan->answers[i].done)
            late |= 1u << i;
    }
    weir_mutex_unlock(&fan->mutex);
    return late;
}

void quorum_fan_ask(struct quorum_fan *fan)
{
    struct weir_co_group group;
    uint32_t late;

    for (unsigned i = 0; i < fan->count; i++) {
        fan->answers[i].done &= !fan->answers[i].wanted;
        fan->pending += fan->answers[i].wanted;
    }
    weir_co_group_init(&group);
    for (unsigned i = 0; i < fan->count; i++) {
        if (fan->answers[i].wanted)
            weir_co_group_start(&group, ask, &fan->answers[i]);
    }
    late = wait_for_answers(fan);
    for (unsigned i = 0; i < fan->count; i++) {
        if (late & (1u << i))
            give_up(fan->quorum, fan->answers[i].child);
    }
    weir_co_group_wait(&group, 0);
    weir_co_group_done(&group);
    for (unsigned i = 0; i < fan->count; i++) {
        if (late & (1u << i))
            given_up(fan->quorum, fan->answers[i].child);
    }
}

int quorum_fan_ask_one(struct quorum_fan *fan, unsigned index, bool others)
{
    struct quorum_answer *answer = &fan->answers[index];
    struct quorum *quorum = fan->quorum;
    int ret;

    try_again(quorum, answer->child);
    ret = weir_io_abandonable(answer->child->edge, &answer->request,
                              others ? weir_sys->clock_ns() + quorum->patience_ns : -1);
    if (ret == -ETIMEDOUT && weir_edge_abandoned(answer->child->edge)) {
        give_up(quorum, answer->child);
        given_up(quorum, answer->child);
    }
    answer->result = ret == -ECANCELED ? -ETIMEDOUT : ret;
    return answer->result;
}

/* ---- reports ---- */

void quorum_report_child(const struct quorum_answer *answer, const struct weir_request *request, int error)
{
    struct weir_dissent dissent = {
        .kind = WEIR_DISSENT_CHILD,
        .node = answer->child->edge->node,
        .op = request->op,
        .error = error,
        .offset = request->offset,
        .length = request->length,
    };

    weir_node_dissent(&dissent);
}

void quorum_report_failure(struct quorum *quorum, const struct weir_request *request)
{
    struct weir_dissent dissent = {
        .kind = WEIR_DISSENT_FAILURE,
        .node = quorum->node,
        .op = request->op,
        .offset = request->offset,
        .length = request->length,
    };

    weir_node_dissent(&dissent);
}

/* ---- what a child has missed ---- */

/* A bitmap for at least @size bytes, with the marks of the old one. Mutex held. */
static void make_room(struct quorum_child *child, uint64_t size)
{
    struct weir_bitmap *bitmap, *old = child->missed;
    uint64_t at = 0, length;

    if (child->missed_all || (old && weir_bitmap_size(old) >= size))
        return;
    bitmap = weir_bitmap_new(size, MISSED_GRANULARITY);
    if (!bitmap) {
        child->missed_all = true;
        return;
    }
    while (old && weir_bitmap_next_area(old, at, weir_align_up(size, MISSED_GRANULARITY), &at, &length)) {
        weir_bitmap_set(bitmap, at, length);
        at += length;
    }
    weir_bitmap_free(old);
    child->missed = bitmap;
}

void quorum_missed(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length)
{
    uint64_t size = WEIR_MAX(weir_node_size(quorum->node), offset + length);
    WEIR_SCOPE_LOCK(&quorum->mutex);

    /* Twice as much where the node grows, so that it does not cost a copy each time. */
    make_room(child, child->missed && weir_bitmap_size(child->missed) < size ? 2 * size : size);
    if (!child->missed_all)
        weir_bitmap_set(child->missed, offset, length);
}

/* The part of a range that the bitmap covers. */
static uint64_t covered(const struct quorum_child *child, uint64_t offset, uint64_t length)
{
    uint64_t size = child->missed ? weir_bitmap_size(child->missed) : 0;

    return offset >= size ? 0 : WEIR_MIN(length, size - offset);
}

void quorum_caught_up(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length)
{
    WEIR_SCOPE_LOCK(&quorum->mutex);
    length = covered(child, offset, length);
    if (length)
        weir_bitmap_clear_inner(child->missed, offset, length);
}

bool quorum_has_missed(struct quorum *quorum, struct quorum_child *child, uint64_t offset, uint64_t length)
{
    WEIR_SCOPE_LOCK(&quorum->mutex);
    length = covered(child, offset, length);
    return child->missed_all || (length && weir_bitmap_any(child->missed, offset, length));
}

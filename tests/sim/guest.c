/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guests: queues of requests of every kind, length and alignment, by every way in.
 *
 * A queue works in the zone of all, in whole sectors with stamps, and byte by byte in a zone of its own that lies
 * between those of others, so that neighbours meet in sectors and units.
 */
#include "seed.h"

#include "base/alloc.h"
#include "graph/gate.h"
#include "io/io.h"
#include <string.h>

#define BATCH_MAX 6u

struct op {
    struct weir_request request;
    struct iovec iov[4];
    struct queue *queue;
    enum request_kind kind;
    bool own; /* in the queue's own zone */
    uint64_t from;
    void *memory;
    uint8_t *bytes;
    int *events;
    struct weir_co *waiter; /* of a batch */
    unsigned *waiting;
};

/* ---- making one ---- */

static const struct {
    enum weir_op op;
    unsigned flags;
} kinds[KINDS] = {
    [KIND_READ] = { WEIR_OP_READ, 0 },
    [KIND_WRITE] = { WEIR_OP_WRITE, 0 },
    [KIND_WRITE_FUA] = { WEIR_OP_WRITE, WEIR_REQUEST_FUA },
    [KIND_WRITE_STORED] = { WEIR_OP_WRITE, WEIR_REQUEST_COMPRESSED },
    [KIND_ZERO] = { WEIR_OP_ZERO, 0 },
    [KIND_ZERO_UNMAP] = { WEIR_OP_ZERO, WEIR_REQUEST_MAY_UNMAP },
    [KIND_ZERO_QUICK] = { WEIR_OP_ZERO, WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK },
    [KIND_DISCARD] = { WEIR_OP_DISCARD, 0 },
    [KIND_FLUSH] = { WEIR_OP_FLUSH, 0 },
    [KIND_STATUS] = { WEIR_OP_STATUS, 0 },
};

static enum request_kind draw_kind(void)
{
    uint32_t at = (uint32_t)pick(seed.plan.weight_sum);
    unsigned kind = 0;

    while (at >= seed.plan.weight[kind])
        at -= seed.plan.weight[kind++];
    return (enum request_kind)kind;
}

/* Whole units of the zone of all. */
static void draw_units(uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t unit = seed.plan.guest_unit, units = seed.shared_sectors * SECTOR / unit;
    uint64_t hot = pick(1000000) < seed.plan.hot_ppm ? WEIR_MIN(units, 12u) : units;
    uint64_t at = pick(hot);

    *ret_offset = at * unit;
    *ret_length = least(1 + pick(4), units - at) * unit;
}

static void draw_range(const struct queue *queue, enum request_kind kind, bool own, uint64_t *ret_offset,
                       uint64_t *ret_length)
{
    uint64_t end = seed.shared_sectors, at, count;

    if (own) {
        at = pick(queue->zone.length);
        *ret_offset = queue->zone.offset + at;
        *ret_length = 1 + pick(least(queue->zone.length - at, pick(3) ? 600u : SHADOW_BYTES_MAX));
    } else if (kind == KIND_WRITE_STORED || pick(1000000) < seed.plan.whole_units_ppm) {
        draw_units(ret_offset, ret_length);
    } else {
        if (pick(1000000) < seed.plan.hot_ppm)
            end = WEIR_MIN(end, 12 * seed.plan.guest_unit / SECTOR);
        at = pick(end);
        count = 1 + pick(pick(4) ? 12 : 40);
        *ret_offset = at * SECTOR;
        *ret_length = WEIR_MIN(count, end - at) * SECTOR;
    }
}

/* Some pieces of the buffer, at any length. */
static unsigned cut_vector(struct iovec *iov, uint8_t *bytes, uint64_t length)
{
    unsigned want = pick(3) ? 1 : 1 + (unsigned)pick(4), count = 0;

    while (length && count + 1 < want) {
        uint64_t piece = 1 + pick(length);

        iov[count++] = (struct iovec){ bytes, piece };
        bytes += piece;
        length -= piece;
    }
    if (length)
        iov[count++] = (struct iovec){ bytes, length };
    return count;
}

static void fill_bytes(struct op *op)
{
    uint64_t length = op->request.length, value;

    if (op->request.op != WEIR_OP_WRITE) {
        memset(op->bytes, 0xee, length);
    } else if (op->own) {
        bool zero = pick(10) == 0;

        value = pick(64);
        for (uint64_t i = 0; i < length; i++)
            op->bytes[i] = zero ? 0 : (uint8_t)((value + i / 3) % 64);
    } else {
        /* Even stamps compress: stored units are made of those alone. */
        value = ((uint64_t)1 << 20) + (seed.stamp += 2);
        value |= op->kind == KIND_WRITE_STORED ? pick(4) == 0 : pick(2);
        for (uint64_t i = 0; i < length; i += SECTOR)
            sector_fill(op->bytes + i, value);
    }
}

/* Whether the request is in the queue's own zone is given; the range may be too (@length not 0). */
static struct op *op_new(struct queue *queue, enum request_kind kind, bool own, uint64_t offset,
                         uint64_t length)
{
    struct op *op = weir_new(struct op);

    op->queue = queue;
    op->kind = kind;
    op->own = own;
    if (!length && kind != KIND_FLUSH)
        draw_range(queue, kind, own, &offset, &length);
    op->request = weir_request_make(kinds[kind].op, offset, length, NULL, 0, kinds[kind].flags);
    if (op->request.op == WEIR_OP_READ || op->request.op == WEIR_OP_WRITE) {
        uint64_t skip = pick(2) ? 0 : pick(600);

        op->memory = weir_try_alloc(length + 600, 4096);
        WEIR_ASSERT(op->memory);
        op->bytes = (uint8_t *)op->memory + skip;
        fill_bytes(op);
        op->request.iov = op->iov;
        op->request.iovcnt = cut_vector(op->iov, op->bytes, length);
        if (kind == KIND_WRITE && pick(8) == 0)
            op->request.flags |= WEIR_REQUEST_UNSTABLE;
    }
    return op;
}

/* ---- judging it ---- */

static bool is_change(const struct op *op)
{
    return op->request.op == WEIR_OP_WRITE || op->request.op == WEIR_OP_ZERO ||
           op->request.op == WEIR_OP_DISCARD;
}

static const uint8_t *new_bytes(const struct op *op)
{
    return op->request.op == WEIR_OP_WRITE ? op->bytes : NULL;
}

static void op_begin(struct op *op)
{
    const struct weir_request *request = &op->request;
    uint64_t first = request->offset / SECTOR, count = request->length / SECTOR, value = 0;

    op->from = history_tick();
    if (op->kind == KIND_FLUSH)
        life_may_cut(CUT_AT_FLUSH);
    if (!is_change(op))
        return;
    if (op->own) {
        shadow_begin(&op->queue->zone, request->offset, request->length, new_bytes(op));
        return;
    }
    if (new_bytes(op))
        memcpy(&value, op->bytes, sizeof(value));
    op->events = weir_new_array(int, count);
    for (uint64_t i = 0; i < count; i++)
        op->events[i] = history_begin(first + i, value);
}

static void end_change(struct op *op, int result)
{
    const struct weir_request *request = &op->request;
    bool certain = !result && request->op != WEIR_OP_DISCARD,
         durable = certain && (request->flags & WEIR_REQUEST_FUA);

    if (op->own) {
        shadow_end(&op->queue->zone, request->offset, request->length, new_bytes(op), certain, durable);
        return;
    }
    for (uint64_t i = 0; i < request->length / SECTOR; i++)
        history_end(op->events[i], certain, durable);
}

static void check_result(const struct op *op, int result)
{
    static const char *const names[] = { "read", "write", "zero", "discard", "flush", "status" };

    if (!result || (result == -ENOTSUP && (op->request.flags & WEIR_REQUEST_NO_FALLBACK)))
        return;
    seed.totals.failed_requests++;
    if (result == -ENOSPC)
        seed.totals.no_space++;
    CHECK(seed.plan.faults || (result == -ENOSPC && (seed.plan.enospc || seed.life > seed.plan.main_life)),
          "%s of %llu bytes at %llu failed: %s", names[op->request.op],
          (unsigned long long)op->request.length, (unsigned long long)op->request.offset, strerror(-result));
}

static void op_end(struct op *op, int result)
{
    uint64_t to = history_tick();

    if (is_change(op))
        end_change(op, result);
    else if (op->request.op == WEIR_OP_READ && !result)
        check_bytes(op->request.offset, op->request.length, op->bytes, op->from, to, false, "a read");
    if (op->kind == KIND_FLUSH && !result) {
        seed.flushed = WEIR_MAX(seed.flushed, op->from);
        shadow_flushed(&op->queue->zone);
    }
    check_result(op, result);
    free(op->events);
    free(op->memory);
    free(op);
    weir_sim_mix((uint64_t)(unsigned)-result);
    seed.totals.requests++;
    life_may_cut(CUT_AT_REQUEST);
}

/* ---- ways in ---- */

static weir_co_fn void run_one(struct queue *queue, enum request_kind kind, bool own)
{
    struct op *op = op_new(queue, kind, own, 0, 0);
    int result = -EAGAIN;

    op_begin(op);
    if (pick(2))
        result = weir_root_try(queue->edge, &op->request);
    if (result == -EAGAIN)
        result = weir_root_io(queue->edge, &op->request);
    else
        seed.totals.answered_at_once++;
    op_end(op, result);
}

static weir_co_fn void run_status(struct queue *queue, bool own)
{
    struct op *op = op_new(queue, KIND_STATUS, own, 0, 0);
    uint64_t offset = op->request.offset;
    struct weir_status status = { 0 };
    int ret;

    op_begin(op);
    ret = weir_root_status(queue->edge, offset, op->request.length,
                           (pick(4) ? WEIR_REQUEST_DEEP : 0) | (pick(4) ? 0 : WEIR_REQUEST_BULK), &status);
    if (!ret) {
        CHECK(status.length && status.length <= op->request.length, "status of length %llu, asked for %llu",
              (unsigned long long)status.length, (unsigned long long)op->request.length);
        if (status.zero) {
            uint8_t *zeroes = weir_alloc(status.length);

            check_bytes(offset, status.length, zeroes, op->from, history_tick(), false,
                        "status, which says zero,");
            free(zeroes);
        }
    }
    op_end(op, ret);
}

static void batch_done(struct weir_request *request, int result)
{
    struct op *op = weir_container_of(request, struct op, request);
    struct weir_co *waiter = op->waiter;

    (*op->waiting)--;
    op_end(op, result);
    weir_co_wake(waiter);
}

/* Neighbours that continue each other, mostly. */
static weir_co_fn void run_batch(struct queue *queue, bool own)
{
    enum request_kind kind = pick(2) ? KIND_READ : KIND_WRITE;
    struct weir_request *requests[BATCH_MAX];
    unsigned count = 0, waiting, want = 2 + (unsigned)pick(BATCH_MAX - 1);
    uint64_t offset, length,
        end = own ? queue->zone.offset + queue->zone.length : seed.shared_sectors * SECTOR;

    draw_range(queue, kind, own, &offset, &length);
    while (count < want && offset < end) {
        struct op *op;

        length = least(own ? 1 + pick(700) : (1 + pick(9)) * SECTOR, end - offset);
        op = op_new(queue, kind, own, offset, length);
        op->waiter = weir_co_self();
        op->waiting = &waiting;
        op->request.done = batch_done;
        requests[count++] = &op->request;
        offset += length + (pick(8) ? 0 : own ? pick(100) : SECTOR);
    }
    waiting = count;
    for (unsigned i = 0; i < count; i++)
        op_begin(weir_container_of(requests[i], struct op, request));
    weir_root_batch(queue->edge, requests, count);
    while (waiting)
        weir_co_yield();
}

static weir_co_fn void step(struct queue *queue)
{
    enum request_kind kind = draw_kind();
    bool own = kind != KIND_WRITE_STORED && pick(1000000) >= seed.plan.shared_ppm;

    if (kind == KIND_BATCH)
        run_batch(queue, own);
    else if (kind == KIND_STATUS)
        run_status(queue, own);
    else
        run_one(queue, kind, own);
    if (pick(1000000) < seed.plan.pause_ppm)
        weir_co_sleep((int64_t)pick(400000));
}

weir_co_fn void guest_run(void *arg)
{
    struct queue *queue = arg;

    for (; queue->left; queue->left--)
        step(queue);
    __atomic_fetch_sub(&seed.guests_running, 1, __ATOMIC_SEQ_CST);
}

void guest_setup(void)
{
    const struct plan *plan = &seed.plan;
    uint64_t at = plan->size;

    for (unsigned i = 0; i < plan->queues; i++) {
        seed.queues[i].index = i;
        at -= plan->zone;
        shadow_init(&seed.queues[i].zone, at, plan->zone);
    }
    seed.shared_sectors = at / SECTOR;
}

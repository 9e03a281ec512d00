/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine's workers and their pace.
 */
#include "job/copy.h"

#include "base/alloc.h"
#include "base/law.h"
#include "co/co.h"
#include "graph/gate.h"
#include "sys/sys.h"
#include <errno.h>

/* Idle guests: a few large chunks in flight. Busy guests: one small one, so that a write waits for little. */
#define WORKERS 4u
#define WORKERS_BUSY 1u
#define CHUNK ((uint64_t)1 << 20)
#define CHUNK_BUSY ((uint64_t)64 << 10)
/* Guests count as busy for so long after a request. */
#define BUSY_NS (20 * 1000000LL)

struct weir_copy {
    struct weir_copy_options options;
    struct weir_mutex mutex;
    struct weir_co_queue work;  /* workers wait here */
    struct weir_co_queue ended; /* weir_copy_stop() waits here */
    unsigned workers, in_flight;
    atomic_uint resting; /* workers that wait for marks */
    uint64_t cursor;     /* where the next area is looked for */
    uint64_t left;       /* bytes that were marked when the last pass ended; before the first: all */
    bool falling_behind; /* no less was marked at the end of that pass than at the end of the one before */
    atomic_bool stop;    /* set under the mutex */
    bool paused;
    int error;
    bool error_write;
    uint64_t copied;
    _Atomic uint64_t taken;         /* bytes that were marked and are under way */
    struct weir_transfer_seen seen; /* workers only */
    int64_t due_ns;                 /* rate limit: when the next chunk may start */
};

struct weir_copy *weir_copy_new(const struct weir_copy_options *options)
{
    struct weir_copy *copy = weir_new(struct weir_copy);

    copy->options = *options;
    copy->left = weir_bitmap_size(options->bitmap);
    weir_mutex_init(&copy->mutex);
    weir_co_queue_init(&copy->work);
    weir_co_queue_init(&copy->ended);
    return copy;
}

static bool guests_busy(struct weir_copy *copy)
{
    int64_t last = 0;

    (void)copy->options.guests(copy->options.opaque, &last);
    return last && weir_sys->clock_ns() - last < BUSY_NS;
}

/* ---- one area ---- */

/* 0, or the error of the copy; *ret_done says whether there was anything to do. */
static weir_co_fn int copy_area(struct weir_copy *copy, uint64_t offset, uint64_t length, bool *ret_done,
                                bool *ret_write)
{
    struct weir_gate_op op = { .op = WEIR_OP_READ, .offset = offset, .length = length };
    struct weir_buffer *buffer = weir_buffer_new(length); /* before the lock: nobody waits for memory in it */
    struct weir_range_lock lock = { 0 };
    int ret = 0;

    *ret_done = *ret_write = false;
    if (!buffer)
        return -ENOMEM;
    weir_gate_enter(copy->options.gate, &op);
    /* A guest whose write hangs in the source holds its range: that must not keep us from stopping. */
    if (WEIR_LAW(WEIR_LAW_COPY))
        ret = weir_range_lock_unless(copy->options.ranges, &lock, offset, length, true, &copy->stop);
    if (!ret && weir_bitmap_any(copy->options.bitmap, offset, length)) {
        *ret_done = true;
        atomic_fetch_add(&copy->taken, length);
        weir_bitmap_clear_inner(copy->options.bitmap, offset, length);
        ret = weir_transfer_range(&copy->options.transfer, offset, length, buffer, &copy->seen, ret_write);
        if (ret)
            weir_bitmap_set(copy->options.bitmap, offset, length);
    }
    weir_range_unlock(&lock);
    weir_gate_leave(&op);
    weir_buffer_unref(buffer);
    return ret;
}

/* ---- the workers ---- */

/* The cursor is at the end of the disk: what guests have marked meanwhile is the work of the next pass. */
static void end_pass(struct weir_copy *copy)
{
    uint64_t left = weir_bitmap_count(copy->options.bitmap);

    copy->falling_behind = left && left >= copy->left;
    copy->left = left ? left : weir_bitmap_size(copy->options.bitmap); /* nothing: it has caught up */
    copy->cursor = 0;
}

/* The next area for a worker; mutex held. */
static bool next_area(struct weir_copy *copy, bool busy, uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t granularity = weir_bitmap_granularity(copy->options.bitmap);
    uint64_t most = WEIR_MAX(weir_align_down(copy->options.memory, granularity), granularity);
    uint64_t chunk = WEIR_MIN(WEIR_MAX(busy ? CHUNK_BUSY : CHUNK, granularity), most);
    uint64_t workers = WEIR_MIN(most / chunk, busy ? WORKERS_BUSY : WORKERS);

    if (copy->stop || copy->paused || copy->error || copy->in_flight >= workers)
        return false;
    if (!weir_bitmap_next_area(copy->options.bitmap, copy->cursor, chunk, ret_offset, ret_length)) {
        end_pass(copy);
        if (!weir_bitmap_next_area(copy->options.bitmap, 0, chunk, ret_offset, ret_length))
            return false;
    }
    copy->cursor = *ret_offset + *ret_length;
    return true;
}

/* Waits for the turn of a chunk of @length bytes under the rate limit; mutex held. False: it is not to start. */
static weir_co_fn bool pace(struct weir_copy *copy, uint64_t length)
{
    /* What is due is looked at anew after each wait: another speed counts at once. */
    while (!copy->stop && !copy->paused && copy->options.speed && weir_sys->clock_ns() < copy->due_ns)
        (void)!weir_co_queue_wait_until(&copy->work, &copy->mutex, copy->due_ns);
    if (copy->stop || copy->paused)
        return false;
    if (copy->options.speed)
        copy->due_ns = WEIR_MAX(copy->due_ns, weir_sys->clock_ns()) +
                       (int64_t)((double)length * 1e9 / (double)copy->options.speed);
    return true;
}

/* Rests until there may be something to do. Mutex held. */
static weir_co_fn void rest(struct weir_copy *copy, bool busy)
{
    int64_t deadline = busy && !copy->paused && !copy->error ? weir_sys->clock_ns() + BUSY_NS : -1;

    atomic_fetch_add(&copy->resting, 1);
    if (!copy->in_flight) {
        weir_mutex_unlock(&copy->mutex);
        copy->options.changed(copy->options.opaque);
        weir_mutex_lock(&copy->mutex);
    }
    /* A mark that came before `resting` was raised is seen here; one that comes later kicks. */
    if (!copy->stop &&
        (copy->paused || copy->error || copy->in_flight || !weir_bitmap_count(copy->options.bitmap)))
        (void)!weir_co_queue_wait_until(&copy->work, &copy->mutex, deadline);
    atomic_fetch_sub(&copy->resting, 1);
}

/* Takes one area through; mutex held. */
static weir_co_fn void work_area(struct weir_copy *copy, uint64_t offset, uint64_t length)
{
    bool done = false, write = false;
    int ret = 0;

    copy->in_flight++;
    if (pace(copy, length)) {
        weir_mutex_unlock(&copy->mutex);
        ret = copy_area(copy, offset, length, &done, &write);
        weir_mutex_lock(&copy->mutex);
    }
    copy->in_flight--;
    if (done)
        atomic_fetch_sub(&copy->taken, length);
    if (ret && !copy->error && !copy->stop) {
        copy->error = ret;
        copy->error_write = write;
    } else if (!ret && done) {
        copy->copied += length;
    }
    weir_co_queue_wake_all(&copy->work);
}

static weir_co_fn void worker_run(void *arg)
{
    struct weir_copy *copy = arg;
    uint64_t offset, length;

    weir_mutex_lock(&copy->mutex);
    while (!copy->stop) {
        bool busy = guests_busy(copy);

        if (next_area(copy, busy, &offset, &length))
            work_area(copy, offset, length);
        else
            rest(copy, busy);
    }
    copy->workers--;
    weir_co_queue_wake_all(&copy->ended);
    weir_mutex_unlock(&copy->mutex);
}

void weir_copy_start(struct weir_copy *copy)
{
    copy->workers = WORKERS;
    for (unsigned i = 0; i < WORKERS; i++)
        weir_co_start(copy->options.loop, worker_run, copy);
}

void weir_copy_kick(struct weir_copy *copy)
{
    if (!atomic_load(&copy->resting))
        return;
    WEIR_SCOPE_LOCK(&copy->mutex);
    weir_co_queue_wake_all(&copy->work);
}

void weir_copy_set_speed(struct weir_copy *copy, uint64_t speed)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->options.speed = speed;
    copy->due_ns = 0;
    weir_co_queue_wake_all(&copy->work);
}

void weir_copy_set_paused(struct weir_copy *copy, bool paused)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->paused = paused;
    weir_co_queue_wake_all(&copy->work);
}

void weir_copy_retry(struct weir_copy *copy)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->error = 0;
    weir_co_queue_wake_all(&copy->work);
}

void weir_copy_note_error(struct weir_copy *copy, int error, bool write)
{
    weir_mutex_lock(&copy->mutex);
    if (!copy->error) {
        copy->error = error;
        copy->error_write = write;
    }
    weir_mutex_unlock(&copy->mutex);
    copy->options.changed(copy->options.opaque);
}

struct weir_copy_state weir_copy_state(struct weir_copy *copy)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    return (struct weir_copy_state){
        .idle = !copy->in_flight && !weir_bitmap_count(copy->options.bitmap),
        .error = copy->error,
        .error_write = copy->error_write,
        .copied = copy->copied,
        .taken = atomic_load(&copy->taken),
        .falling_behind = copy->falling_behind,
        .workers = copy->workers,
    };
}

void weir_copy_stop(struct weir_copy *copy)
{
    weir_mutex_lock(&copy->mutex);
    copy->stop = true;
    weir_co_queue_wake_all(&copy->work);
    weir_mutex_unlock(&copy->mutex);
    weir_range_table_wake(copy->options.ranges);
    weir_mutex_lock(&copy->mutex);
    while (copy->workers)
        weir_co_queue_wait(&copy->ended, &copy->mutex);
    weir_mutex_unlock(&copy->mutex);
}

void weir_copy_free(struct weir_copy *copy)
{
    if (!copy)
        return;
    WEIR_ASSERT(!copy->workers);
    weir_mutex_done(&copy->mutex);
    free(copy);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy engine's workers and their pace.
 */
#include "job/copy_internal.h"

#include "base/alloc.h"
#include "base/law.h"
#include "graph/gate.h"
#include "sys/sys.h"
#include <errno.h>

/* So much left to copy is never little. */
#define LITTLE ((uint64_t)64 << 20)

struct weir_copy *weir_copy_new(const struct weir_copy_options *options)
{
    struct weir_copy *copy = weir_new(struct weir_copy);

    copy->options = *options;
    copy->left = weir_bitmap_size(options->bitmap);
    weir_pace_init(&copy->pace, options->share, options->direct);
    weir_mutex_init(&copy->mutex);
    weir_co_queue_init(&copy->spare);
    weir_co_queue_init(&copy->look);
    weir_co_queue_init(&copy->turn);
    weir_co_queue_init(&copy->ended);
    TAILQ_INIT(&copy->urgent);
    return copy;
}

/* Something has changed that every worker should know of; mutex held. */
static void wake(struct weir_copy *copy)
{
    weir_co_queue_wake_all(&copy->spare);
    weir_co_queue_wake_all(&copy->look);
    weir_co_queue_wake_all(&copy->turn);
}

/* What the copy may do now; mutex held. */
static struct weir_pace_limits limits_now(struct weir_copy *copy)
{
    struct weir_pace_guests guests;

    copy->options.guests(copy->options.opaque, &guests);
    return weir_pace_look(&copy->pace, weir_sys->clock_ns(), &guests);
}

/* ---- one area ---- */

/*
 * A guest whose write hangs in the source holds its range: that keeps us neither from stopping nor from copying what is
 * elsewhere.
 */
static weir_co_fn int lock_range(struct weir_copy *copy, struct weir_range_lock *lock, uint64_t offset,
                                 uint64_t length)
{
    int ret;

    if (weir_range_try_lock(copy->options.ranges, lock, offset, length, true))
        return 0;
    weir_mutex_lock(&copy->mutex);
    copy->blocked++;
    weir_co_queue_wake_one(&copy->spare);
    weir_mutex_unlock(&copy->mutex);
    ret = weir_range_lock_unless(copy->options.ranges, lock, offset, length, true, &copy->stop);
    weir_mutex_lock(&copy->mutex);
    copy->blocked--;
    weir_mutex_unlock(&copy->mutex);
    return ret;
}

int copy_transfer_area(struct weir_copy *copy, const struct weir_transfer *transfer, uint64_t offset,
                       uint64_t length, struct weir_buffer *buffer, struct weir_transfer_seen *seen,
                       bool *ret_done, bool *ret_write)
{
    int ret;

    *ret_done = *ret_write = false;
    if (!weir_bitmap_any(copy->options.bitmap, offset, length))
        return 0;
    *ret_done = true;
    atomic_fetch_add(&copy->taken, length);
    weir_bitmap_clear_inner(copy->options.bitmap, offset, length);
    if (copy->options.move)
        ret = copy->options.move(copy->options.opaque, offset, length, transfer->write_flags, buffer,
                                 ret_write);
    else
        ret = weir_transfer_range(transfer, offset, length, buffer, seen, ret_write);
    if (ret)
        weir_bitmap_set(copy->options.bitmap, offset, length);
    return ret;
}

/* 0, or the error of the copy; *ret_done says whether there was anything to do. */
static weir_co_fn int copy_area(struct weir_copy *copy, bool apart, uint64_t offset, uint64_t length,
                                bool *ret_done, bool *ret_write)
{
    struct weir_transfer transfer = copy->options.transfer;
    struct weir_gate_op op = { .op = WEIR_OP_READ, .offset = offset, .length = length };
    struct weir_buffer *buffer = weir_buffer_new(length); /* before the lock: nobody waits for memory in it */
    struct weir_range_lock lock = { 0 };
    int ret = 0;

    transfer.read_flags = WEIR_REQUEST_BULK;
    transfer.write_flags = apart ? WEIR_REQUEST_APART : 0;
    *ret_done = *ret_write = false;
    if (!buffer)
        return -ENOMEM;
    weir_gate_enter(copy->options.gate, &op);
    if (WEIR_LAW(WEIR_LAW_COPY))
        ret = lock_range(copy, &lock, offset, length);
    if (!ret)
        ret = copy_transfer_area(copy, &transfer, offset, length, buffer, &copy->seen, ret_done, ret_write);
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

    /*
     * What hardly shrinks would do so for ever: that is not catching up. Of very little it cannot be told, as it
     * comes and goes with each request.
     */
    copy->falling_behind = left > WEIR_MIN(weir_bitmap_size(copy->options.bitmap) / 64, LITTLE) &&
                           left >= copy->left - copy->left / 8;
    copy->left = left ? left : weir_bitmap_size(copy->options.bitmap); /* nothing: it has caught up */
    copy->cursor = 0;
}

/* The next area for a worker; mutex held. */
static bool next_area(struct weir_copy *copy, const struct weir_pace_limits *limits, uint64_t *ret_offset,
                      uint64_t *ret_length)
{
    uint64_t granularity = weir_bitmap_granularity(copy->options.bitmap);
    uint64_t most = WEIR_MAX(weir_align_down(copy->options.memory, granularity), granularity);
    uint64_t chunk = WEIR_MIN(WEIR_MAX(limits->chunk, granularity), most);
    uint64_t workers = WEIR_MIN(most / chunk, limits->workers);

    if (copy->stop || copy->paused || copy->error || copy->in_flight - copy->blocked >= workers)
        return false;
    if (limits->share < 100 && weir_sys->clock_ns() < copy->rest_ns)
        return false;
    if (!weir_bitmap_next_area(copy->options.bitmap, copy->cursor, chunk, ret_offset, ret_length)) {
        end_pass(copy);
        if (!weir_bitmap_next_area(copy->options.bitmap, 0, chunk, ret_offset, ret_length))
            return false;
    }
    copy->cursor = *ret_offset + *ret_length;
    copy->in_flight++;
    if (copy->in_flight - copy->blocked < workers)
        weir_co_queue_wake_one(&copy->spare);
    return true;
}

void copy_charge(struct weir_copy *copy, uint64_t length)
{
    if (!copy->options.speed)
        return;
    copy->due_ns = WEIR_MAX(copy->due_ns, weir_sys->clock_ns()) +
                   (int64_t)((double)length * 1e9 / (double)copy->options.speed);
}

/* Waits for the turn of a chunk of @length bytes under the rate limit; mutex held. False: it is not to start. */
static weir_co_fn bool await_turn(struct weir_copy *copy, uint64_t length)
{
    /* What is due is looked at anew after each wait: another speed counts at once. */
    while (!copy->stop && !copy->paused && copy->options.speed && weir_sys->clock_ns() < copy->due_ns)
        (void)!weir_co_queue_wait_until(&copy->turn, &copy->mutex, copy->due_ns);
    if (copy->stop || copy->paused)
        return false;
    copy_charge(copy, length);
    return true;
}

/*
 * Waits for new work, on behalf of all workers. While guests are busy it looks from time to time: what they mark
 * gathers meanwhile, and they need not wake anybody. Mutex held.
 */
static weir_co_fn void await_work(struct weir_copy *copy)
{
    int64_t deadline = copy->pace.busy ? weir_sys->clock_ns() + WEIR_PACE_BUSY_NS : -1;

    copy->looking = true;
    if (deadline < 0)
        atomic_store(&copy->kickable, true);
    /* A mark that came before `kickable` was set is seen here; one that comes later kicks. */
    if (deadline >= 0 || !weir_bitmap_count(copy->options.bitmap))
        (void)!weir_co_queue_wait_until(&copy->look, &copy->mutex, deadline);
    atomic_store(&copy->kickable, false);
    copy->looking = false;
}

/* Rests until there may be something to do. Mutex held. */
static weir_co_fn void rest(struct weir_copy *copy)
{
    if (!copy->in_flight && TAILQ_EMPTY(&copy->urgent)) {
        /* Only now: where guests go on writing it is over before anybody else could look. */
        copy->caught_up |= !copy->error && !weir_bitmap_count(copy->options.bitmap);
        weir_mutex_unlock(&copy->mutex);
        copy->options.changed(copy->options.opaque);
        weir_mutex_lock(&copy->mutex);
    }
    if (copy->stop)
        return;
    if (copy->paused || copy->error)
        weir_co_queue_wait(&copy->spare, &copy->mutex);
    else if (copy->pace.busy && copy->rest_ns > weir_sys->clock_ns())
        (void)!weir_co_queue_wait_until(&copy->turn, &copy->mutex, copy->rest_ns); /* it was our chunk */
    else if (!copy->looking &&
             (copy->pace.busy || !copy->in_flight || !weir_bitmap_count(copy->options.bitmap)))
        await_work(copy);
    else
        weir_co_queue_wait(&copy->spare, &copy->mutex); /* who works goes on, and wakes more if need be */
}

/* Takes one area through; mutex held. */
static weir_co_fn void work_area(struct weir_copy *copy, const struct weir_pace_limits *limits,
                                 uint64_t offset, uint64_t length)
{
    bool done = false, write = false;
    int ret = 0;

    if (await_turn(copy, length)) {
        int64_t begun = weir_sys->clock_ns(), now;

        weir_mutex_unlock(&copy->mutex);
        ret = copy_area(copy, limits->apart, offset, length, &done, &write);
        weir_mutex_lock(&copy->mutex);
        now = weir_sys->clock_ns();
        copy->rest_ns = now + weir_pace_rest(limits, now - begun);
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
}

static weir_co_fn void worker_run(void *arg)
{
    struct weir_copy *copy = arg;
    uint64_t offset, length;

    weir_mutex_lock(&copy->mutex);
    while (!copy->stop) {
        struct weir_pace_limits limits = limits_now(copy);

        if (next_area(copy, &limits, &offset, &length)) {
            work_area(copy, &limits, offset, length);
            /* What is answered at once never waits: completions that others hold ranges for must have their turn. */
            weir_mutex_unlock(&copy->mutex);
            weir_co_pause();
            weir_mutex_lock(&copy->mutex);
        } else {
            rest(copy);
        }
    }
    copy->workers--;
    weir_co_queue_wake_all(&copy->ended);
    weir_mutex_unlock(&copy->mutex);
}

void weir_copy_start(struct weir_copy *copy)
{
    copy->workers = WEIR_PACE_WORKERS_MAX;
    for (unsigned i = 0; i < WEIR_PACE_WORKERS_MAX; i++)
        weir_co_start(copy->options.loop, worker_run, copy);
}

void weir_copy_kick(struct weir_copy *copy)
{
    if (!atomic_load(&copy->kickable))
        return;
    WEIR_SCOPE_LOCK(&copy->mutex);
    weir_co_queue_wake_all(&copy->look);
}

void weir_copy_set_speed(struct weir_copy *copy, uint64_t speed)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->options.speed = speed;
    copy->due_ns = 0;
    wake(copy);
}

void weir_copy_set_paused(struct weir_copy *copy, bool paused)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->paused = paused;
    wake(copy);
}

void weir_copy_retry(struct weir_copy *copy)
{
    WEIR_SCOPE_LOCK(&copy->mutex);
    copy->error = 0;
    wake(copy);
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
        .idle = !copy->in_flight && TAILQ_EMPTY(&copy->urgent) && !weir_bitmap_count(copy->options.bitmap),
        .caught_up = copy->caught_up,
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
    wake(copy);
    copy_stop_urgent(copy);
    weir_mutex_unlock(&copy->mutex);
    weir_range_table_wake(copy->options.ranges);
    weir_mutex_lock(&copy->mutex);
    while (copy->workers || !TAILQ_EMPTY(&copy->urgent))
        weir_co_queue_wait(&copy->ended, &copy->mutex);
    weir_mutex_unlock(&copy->mutex);
}

void weir_copy_free(struct weir_copy *copy)
{
    if (!copy)
        return;
    WEIR_ASSERT(!copy->workers && TAILQ_EMPTY(&copy->urgent));
    weir_mutex_done(&copy->mutex);
    free(copy);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy of weir img convert.
 *
 * A cursor cuts the disk into pieces by the block status of the sources: data, zero, or nothing that the target would
 * need. Pieces end at multiples of the unit that the target allocates in, so that no unit is written twice. Several
 * coroutines take pieces and read them. Unless told otherwise another one, on a loop of its own, looks for zeroes and
 * writes, in the order of the disk: turn n belongs to piece n, and every piece takes its turn, also one that failed.
 */
#include "tools/img_convert.h"

#include "base/iov.h"
#include "io/buffer.h"
#include "sys/sys.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CHUNK ((uint64_t)2 << 20)
/* A longer stretch of zeroes is several requests, so that others get a turn. */
#define ZERO_CHUNK ((uint64_t)1 << 30)
#define SECTOR ((uint64_t)512)

enum what { NOTHING, ZERO, DATA };

struct piece {
    enum what what;
    uint64_t offset, length;
    uint64_t number; /* its turn */
};

/* A piece that was read; its worker waits. */
struct waiting {
    const struct piece *piece;
    struct weir_buffer *buffer;
    struct weir_co_queue owner;
    bool written;
};

/* The first failure is told, the others are its company. */
static void fail(struct convert *convert, const char *what, uint64_t offset, const char *name, int error)
{
    bool first;

    weir_mutex_lock(&convert->mutex);
    first = !convert->failed;
    convert->failed = true;
    if (first)
        img_complain(convert->img, "%s: error while %s %" PRIu64 ": %s", name, what, offset,
                     strerror(-error));
    weir_mutex_unlock(&convert->mutex);
}

static bool has_failed(struct convert *convert)
{
    WEIR_SCOPE_LOCK(&convert->mutex);
    return convert->failed;
}

/* ---- the cursor ---- */

static const struct convert_source *source_at(const struct convert *convert, uint64_t offset)
{
    const struct convert_source *source = convert->sources;

    while (offset - source->start >= source->size)
        source++;
    return source;
}

/* What the source says about the cursor. */
static weir_co_fn int look(struct convert *convert)
{
    const struct convert_source *source = source_at(convert, convert->cursor);
    uint64_t offset = convert->cursor - source->start;
    int ret;

    if (convert->cursor < convert->status_end)
        return 0;
    ret = weir_root_status(source->edge, offset, source->size - offset,
                           WEIR_REQUEST_BULK | (convert->based ? 0 : WEIR_REQUEST_DEEP), &convert->status);
    if (ret == -EIO && convert->salvage) {
        /* Where nobody knows, the read will say. */
        convert->status = (struct weir_status){ .data = true,
                                                .allocated = true,
                                                .length = WEIR_MIN(convert->unit, source->size - offset) };
        ret = 0;
    }
    if (ret)
        fail(convert, "reading block status at offset", convert->cursor, source->name, ret);
    else
        convert->status_end = convert->cursor + convert->status.length;
    return ret;
}

static enum what judge(const struct convert *convert)
{
    if (convert->based && !convert->status.allocated)
        return NOTHING;
    if (convert->status.zero && convert->sparse_size)
        return convert->cursor >= convert->zero_from ? NOTHING : ZERO;
    return DATA;
}

/*
 * The next piece; cursor_lock held. False at the end. A stretch that does not fill a unit makes the whole unit data:
 * reading it gives what is there, zeroes included.
 */
static weir_co_fn bool next_piece(struct convert *convert, struct piece *piece)
{
    uint64_t left = convert->size - convert->cursor, end;

    if (!left || has_failed(convert) || look(convert))
        return false;
    piece->what = judge(convert);
    piece->offset = convert->cursor;
    piece->number = convert->issued++;
    end = WEIR_MIN(convert->status_end, convert->size);
    if (piece->what != DATA && end < convert->size)
        end = weir_align_down(end, convert->unit);
    if (piece->what != DATA && end > convert->cursor) {
        left = WEIR_MIN(end - convert->cursor, ZERO_CHUNK);
    } else {
        piece->what = DATA;
        end = WEIR_MAX(end, convert->cursor + 1);
        left = WEIR_MIN(left, weir_align_up(end, convert->unit) - convert->cursor);
        left = WEIR_MIN(left, convert->compressed ? convert->unit : CHUNK);
    }
    piece->length = left;
    convert->cursor += left;
    return true;
}

/* ---- reading ---- */

/* Sector by sector: what cannot be read becomes zero. */
static weir_co_fn void salvage(struct convert *convert, const struct convert_source *source, uint64_t offset,
                               uint64_t length, struct weir_buffer *buffer, uint64_t skip)
{
    for (uint64_t at = 0; at < length; at += SECTOR) {
        uint64_t part = WEIR_MIN(SECTOR, length - at);
        int ret = img_read(source->edge, offset + at, part, buffer, skip + at);

        if (!ret)
            continue;
        memset((char *)buffer->data + skip + at, 0, part);
        if (!convert->salvage_quiet)
            img_complain(convert->img, "warning: error while reading offset %" PRIu64 ": %s",
                         source->start + offset + at, strerror(-ret));
    }
}

/* A piece may begin in one source and end in another. */
static weir_co_fn int read_piece(struct convert *convert, const struct piece *piece,
                                 struct weir_buffer *buffer)
{
    uint64_t done = 0;

    while (done < piece->length) {
        const struct convert_source *source = source_at(convert, piece->offset + done);
        uint64_t offset = piece->offset + done - source->start;
        uint64_t length = WEIR_MIN(piece->length - done, source->size - offset);
        int ret = img_read(source->edge, offset, length, buffer, done);

        if (ret && convert->salvage) {
            salvage(convert, source, offset, length, buffer, done);
        } else if (ret) {
            fail(convert, "reading at byte", piece->offset + done, source->name, ret);
            return ret;
        }
        done += length;
    }
    return 0;
}

/* ---- writing ---- */

static weir_co_fn int write_data(struct convert *convert, uint64_t offset, uint64_t length,
                                 struct weir_buffer *buffer, uint64_t skip)
{
    unsigned flags = convert->write_flags | (convert->compressed ? WEIR_REQUEST_COMPRESSED : 0) |
                     (offset >= convert->zero_from ? WEIR_REQUEST_BULK : 0);
    struct iovec iov = { (char *)buffer->data + skip, length };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, offset, length, &iov, 1, flags);

    request.buffer = buffer;
    return weir_root_io(convert->target, &request);
}

/* Where the target reads zero already, with nothing stored, nothing is written. */
static weir_co_fn int write_zeroes(struct convert *convert, uint64_t offset, uint64_t length)
{
    while (length) {
        struct weir_status status = { .length = length };
        struct weir_request request;
        int ret;

        if (offset >= convert->zero_from)
            return 0;
        ret =
            weir_root_status(convert->target, offset, length, WEIR_REQUEST_DEEP | WEIR_REQUEST_BULK, &status);
        if (ret)
            return ret;
        if (!status.zero || status.data) {
            request = weir_request_make(WEIR_OP_ZERO, offset, status.length, NULL, 0,
                                        convert->write_flags | WEIR_REQUEST_MAY_UNMAP);
            ret = weir_root_io(convert->target, &request);
            if (ret)
                return ret;
        }
        offset += status.length;
        length -= status.length;
    }
    return 0;
}

/* Bytes from @at on that are all zero, or all not, in steps of @step. */
static uint64_t run_length(const char *data, uint64_t length, uint64_t step, bool *ret_zero)
{
    uint64_t at = WEIR_MIN(step, length);
    bool zero = weir_buffer_is_zero(data, at);

    while (at < length && weir_buffer_is_zero(data + at, WEIR_MIN(step, length - at)) == zero)
        at += WEIR_MIN(step, length - at);
    *ret_zero = zero;
    return at;
}

static weir_co_fn int write_piece(struct convert *convert, const struct piece *piece,
                                  struct weir_buffer *buffer)
{
    uint64_t done = 0;
    int ret = 0;

    if (piece->what == NOTHING)
        return 0;
    if (piece->what == ZERO)
        return write_zeroes(convert, piece->offset, piece->length);
    while (done < piece->length && !ret) {
        uint64_t length = piece->length - done;
        bool zero = false;

        if (convert->sparse_size)
            length = run_length((char *)buffer->data + done, length, convert->unit, &zero);
        ret = zero ? write_zeroes(convert, piece->offset + done, length)
                   : write_data(convert, piece->offset + done, length, buffer, done);
        done += length;
    }
    return ret;
}

/* ---- the workers ---- */

/* Waits for when the rate limit lets the piece begin. */
static weir_co_fn void pace(struct convert *convert, const struct piece *piece)
{
    int64_t start;

    if (!convert->speed)
        return;
    weir_mutex_lock(&convert->mutex);
    start = WEIR_MAX(convert->due_ns, weir_sys->clock_ns());
    convert->due_ns = start + (int64_t)((double)piece->length * 1e9 / (double)convert->speed);
    weir_mutex_unlock(&convert->mutex);
    weir_co_sleep_until(start);
}

/* ---- whose turn it is ---- */

/* Writes what was read, unless something has failed already; the piece is done either way. */
static weir_co_fn void put_piece(struct convert *convert, const struct piece *piece,
                                 struct weir_buffer *buffer)
{
    int ret;

    if (has_failed(convert))
        return;
    ret = write_piece(convert, piece, buffer);
    if (ret)
        fail(convert, "writing at byte", piece->offset, convert->target_name, ret);
}

/* mutex held. */
static void count(struct convert *convert, uint64_t length)
{
    convert->done += length;
    if (!convert->failed)
        img_progress_set(&convert->progress, convert->done, convert->size);
}

static bool in_turn(const struct convert *convert)
{
    return !convert->out_of_order && !convert->compressed;
}

/* The piece that must be written next, if it is here; mutex held. */
static struct waiting *next_waiting(const struct convert *convert)
{
    struct waiting *waiting = convert->waiting[convert->turn % convert->workers];

    return waiting && waiting->piece->number == convert->turn ? waiting : NULL;
}

/* Hands the piece in, and comes back when it has been written. */
static weir_co_fn void wait_written(struct convert *convert, const struct piece *piece,
                                    struct weir_buffer *buffer)
{
    struct waiting mine = { .piece = piece, .buffer = buffer };

    weir_co_queue_init(&mine.owner);
    weir_mutex_lock(&convert->mutex);
    convert->waiting[piece->number % convert->workers] = &mine;
    weir_co_queue_wake_all(&convert->writer);
    while (!mine.written)
        weir_co_queue_wait(&mine.owner, &convert->mutex);
    weir_mutex_unlock(&convert->mutex);
}

/* Writes the pieces one after the other, until no worker is left to bring one. */
static weir_co_fn void write_in_turn(void *arg)
{
    struct convert *convert = arg;
    struct waiting *next;

    weir_mutex_lock(&convert->mutex);
    while ((next = next_waiting(convert)) || convert->reading) {
        if (!next) {
            weir_co_queue_wait(&convert->writer, &convert->mutex);
            continue;
        }
        weir_mutex_unlock(&convert->mutex);
        put_piece(convert, next->piece, next->buffer);
        weir_mutex_lock(&convert->mutex);
        count(convert, next->piece->length);
        convert->waiting[convert->turn++ % convert->workers] = NULL;
        next->written = true;
        weir_co_queue_wake_all(&next->owner);
    }
    weir_mutex_unlock(&convert->mutex);
}

static weir_co_fn void copy_piece(struct convert *convert, const struct piece *piece,
                                  struct weir_buffer *buffer)
{
    if (piece->what == DATA) {
        pace(convert, piece);
        (void)read_piece(convert, piece, buffer); /* a failure is told, and then nothing more is written */
    }
    if (in_turn(convert)) {
        wait_written(convert, piece, buffer);
        return;
    }
    put_piece(convert, piece, buffer);
    WEIR_SCOPE_LOCK(&convert->mutex);
    count(convert, piece->length);
}

static weir_co_fn void copy_pieces(struct convert *convert)
{
    uint64_t length = convert->compressed ? convert->unit : CHUNK;
    struct weir_buffer *buffer = weir_buffer_new(WEIR_MIN(length, weir_align_up(convert->size, SECTOR)));

    if (!buffer) {
        fail(convert, "reading at byte", 0, convert->sources[0].name, -ENOMEM);
        return;
    }
    for (;;) {
        struct piece piece;
        bool more;

        weir_co_mutex_lock(&convert->cursor_lock);
        more = next_piece(convert, &piece);
        weir_co_mutex_unlock(&convert->cursor_lock);
        if (!more)
            break;
        copy_piece(convert, &piece, buffer);
    }
    weir_buffer_unref(buffer);
}

static weir_co_fn void worker(void *arg)
{
    struct convert *convert = arg;

    copy_pieces(convert);
    WEIR_SCOPE_LOCK(&convert->mutex);
    if (!--convert->reading)
        weir_co_queue_wake_all(&convert->writer);
}

/* ---- all of it ---- */

static weir_co_fn void flush(struct convert *convert)
{
    struct weir_request request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    int ret = weir_root_io(convert->target, &request);

    if (ret)
        fail(convert, "flushing after byte", convert->size, convert->target_name, ret);
}

/* The unit: what the target allocates in, and not less than the zeroes that make a hole. */
static uint64_t unit_of(const struct convert *convert)
{
    uint64_t unit = WEIR_MAX(convert->target->node->limits.lock_unit, SECTOR), sparse = SECTOR;

    while (sparse * 2 <= convert->sparse_size)
        sparse *= 2;
    if (convert->compressed)
        return unit;
    return WEIR_MIN(WEIR_MAX(unit, sparse), CHUNK);
}

int convert_copy(struct convert *convert)
{
    unsigned workers = convert->size > CHUNK ? convert->workers : 1;
    weir_autofree struct waiting **waiting = weir_new_array(struct waiting *, workers);
    struct weir_error *err = NULL;

    convert->unit = unit_of(convert);
    convert->waiting = waiting;
    convert->workers = convert->reading = workers;
    weir_co_queue_init(&convert->writer);
    weir_co_mutex_init(&convert->cursor_lock);
    weir_mutex_init(&convert->mutex);
    img_progress_set(&convert->progress, 0, 100);
    if (img_workers(workers, worker, in_turn(convert) ? write_in_turn : NULL, convert, &err)) {
        img_fail(convert->img, err, "%s", convert->target_name);
        convert->failed = true;
    }
    if (!convert->failed)
        flush(convert);
    if (!convert->failed)
        img_progress_set(&convert->progress, convert->size, convert->size);
    img_progress_end(&convert->progress);
    weir_mutex_done(&convert->mutex);
    weir_co_mutex_done(&convert->cursor_lock);
    return convert->failed ? 1 : 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img compare: whether two images read the same.
 *
 * A cursor walks over both by their block status: what both know to be zero is passed over, what one knows to be zero
 * is read from the other only. Several coroutines read the pieces that are left. The first finding stops the cursor; as
 * pieces were handed out in order, the finding with the lowest offset of those that then come in is the answer, the
 * same one every time.
 */
#include "tools/img.h"

#include "base/iov.h"
#include "co/co.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define WORKERS 4u
#define CHUNK ((uint64_t)2 << 20)
#define SECTOR ((uint64_t)512)

enum { SAME = 0, DIFFERENT = 1, OPEN_FAILED = 2, STATUS_FAILED = 3, READ_FAILED = 4, STRICTLY_DIFFERENT };

struct side {
    const char *name;
    struct weir_edge *edge;
    uint64_t size;
    struct weir_status status;
    uint64_t status_end; /* what `status` says holds up to here */
};

struct compare {
    const struct img *img;
    struct side sides[2];
    uint64_t size; /* of the larger one */
    bool strict;
    struct weir_co_mutex cursor_lock; /* guards the cursor and the sides' status */
    uint64_t cursor;
    struct weir_mutex mutex; /* guards what follows */
    uint64_t found_at;       /* UINT64_MAX: nothing found */
    int verdict, error;
    unsigned failed_side;
    uint64_t done; /* bytes, for the progress */
    struct img_progress progress;
};

struct piece {
    uint64_t offset, length;
    unsigned read; /* bit 0, 1: this side must be read; the other one is zero */
};

static void found(struct compare *compare, uint64_t offset, int verdict, int error, unsigned side)
{
    WEIR_SCOPE_LOCK(&compare->mutex);
    if (offset >= compare->found_at)
        return;
    compare->found_at = offset;
    compare->verdict = verdict;
    compare->error = error;
    compare->failed_side = side;
}

static bool anything_found(struct compare *compare)
{
    WEIR_SCOPE_LOCK(&compare->mutex);
    return compare->found_at != UINT64_MAX;
}

static void note_done(struct compare *compare, uint64_t length)
{
    WEIR_SCOPE_LOCK(&compare->mutex);
    compare->done += length;
    img_progress_set(&compare->progress, compare->done, compare->size);
}

/* ---- the cursor ---- */

/* What the side is at the cursor; beyond its end it is zero. */
static weir_co_fn int look(struct compare *compare, unsigned which)
{
    struct side *side = &compare->sides[which];
    int ret;

    if (compare->cursor < side->status_end)
        return 0;
    if (compare->cursor >= side->size) {
        side->status = (struct weir_status){ .zero = true };
        side->status_end = UINT64_MAX;
        return 0;
    }
    ret = weir_root_status(side->edge, compare->cursor, side->size - compare->cursor,
                           WEIR_REQUEST_DEEP | WEIR_REQUEST_BULK, &side->status);
    if (ret)
        found(compare, compare->cursor, STATUS_FAILED, ret, which);
    else
        side->status_end = compare->cursor + side->status.length;
    return ret;
}

/* The last extents of two images match only when they begin at the same place. */
static bool same_allocation(const struct compare *compare)
{
    const struct side *one = &compare->sides[0], *other = &compare->sides[1];

    return one->status.data == other->status.data && one->status.zero == other->status.zero &&
           one->status.allocated == other->status.allocated && !one->status.file == !other->status.file &&
           (one->status_end < one->size) == (other->status_end < other->size);
}

/* The next piece to read; cursor_lock held. False: there is none. */
static weir_co_fn bool next_piece(struct compare *compare, struct piece *piece)
{
    while (compare->cursor < compare->size && !anything_found(compare)) {
        uint64_t end = compare->size, offset = compare->cursor;

        if (look(compare, 0) || look(compare, 1))
            return false;
        if (compare->strict && !same_allocation(compare)) {
            found(compare, offset, STRICTLY_DIFFERENT, 0, 0);
            return false;
        }
        end = WEIR_MIN(end, compare->sides[0].status_end);
        end = WEIR_MIN(end, compare->sides[1].status_end);
        piece->read = (compare->sides[0].status.zero ? 0u : 1u) | (compare->sides[1].status.zero ? 0u : 2u);
        piece->offset = offset;
        piece->length = piece->read ? WEIR_MIN(end - offset, CHUNK) : end - offset;
        compare->cursor = offset + piece->length;
        if (piece->read)
            return true;
        note_done(compare, piece->length);
    }
    return false;
}

/* ---- the pieces ---- */

/* Bytes in front of the first sector that differs; @other NULL: from zero. @length: all are the same. */
static uint64_t same_bytes(const char *one, const char *other, uint64_t length)
{
    for (uint64_t at = 0; at < length; at += SECTOR) {
        uint64_t part = WEIR_MIN(SECTOR, length - at);

        if (other ? memcmp(one + at, other + at, part) != 0 : !weir_buffer_is_zero(one + at, part))
            return at;
    }
    return length;
}

static bool all_same(const char *one, const char *other, uint64_t length)
{
    return other ? !memcmp(one, other, length) : weir_buffer_is_zero(one, length);
}

static weir_co_fn void compare_piece(struct compare *compare, const struct piece *piece,
                                     struct weir_buffer *const buffers[2])
{
    const char *one, *other;

    for (unsigned side = 0; side < 2; side++) {
        int ret = 0;

        if (piece->read & 1u << side)
            ret = img_read(compare->sides[side].edge, piece->offset, piece->length, buffers[side], 0);
        if (ret) {
            found(compare, piece->offset, READ_FAILED, ret, side);
            return;
        }
    }
    one = buffers[piece->read == 2]->data;
    other = piece->read == 3 ? buffers[1]->data : NULL;
    if (all_same(one, other, piece->length))
        note_done(compare, piece->length);
    else
        found(compare, piece->offset + same_bytes(one, other, piece->length), DIFFERENT, 0, 0);
}

static weir_co_fn void worker(void *arg)
{
    struct compare *compare = arg;
    uint64_t length = WEIR_MAX(WEIR_MIN(CHUNK, compare->size), SECTOR);
    struct weir_buffer *buffers[2] = { weir_buffer_new(length), weir_buffer_new(length) };

    if (!buffers[0] || !buffers[1]) {
        found(compare, 0, READ_FAILED, -ENOMEM, 0);
    } else {
        for (;;) {
            struct piece piece;
            bool more;

            weir_co_mutex_lock(&compare->cursor_lock);
            more = next_piece(compare, &piece);
            weir_co_mutex_unlock(&compare->cursor_lock);
            if (!more)
                break;
            compare_piece(compare, &piece, buffers);
        }
    }
    weir_buffer_unref(buffers[0]);
    weir_buffer_unref(buffers[1]);
}

/* ---- the command ---- */

/* That one is longer is worth a word only when what both have is the same. */
static void tell(const struct compare *compare, bool quiet)
{
    const struct side *side = &compare->sides[compare->failed_side];

    if (!quiet && compare->sides[0].size != compare->sides[1].size &&
        compare->found_at >= WEIR_MIN(compare->sides[0].size, compare->sides[1].size))
        printf("Warning: Image size mismatch!\n");
    switch (compare->verdict) {
    case SAME:
        if (!quiet)
            printf("Images are identical.\n");
        break;
    case DIFFERENT:
        if (!quiet)
            printf("Content mismatch at offset %" PRIu64 "!\n", compare->found_at);
        break;
    case STRICTLY_DIFFERENT:
        if (!quiet)
            printf("Strict mode: Offset %" PRIu64 " block status mismatch!\n", compare->found_at);
        break;
    case STATUS_FAILED:
        img_complain(compare->img, "Sector allocation test failed for %s", side->name);
        break;
    default:
        img_complain(compare->img, "Error while reading offset %" PRIu64 " of %s: %s", compare->found_at,
                     side->name, strerror(-compare->error));
    }
}

static weir_co_fn int compare_images(struct compare *compare, bool quiet)
{
    unsigned workers = compare->size > CHUNK ? WORKERS : 1;
    struct weir_error *err = NULL;
    int ret;

    for (unsigned i = 0; i < 2; i++)
        compare->sides[i].size = weir_node_size(compare->sides[i].edge->node);
    compare->size = WEIR_MAX(compare->sides[0].size, compare->sides[1].size);
    compare->found_at = UINT64_MAX;
    if (compare->strict && compare->sides[0].size != compare->sides[1].size) {
        if (!quiet)
            printf("Strict mode: Image size mismatch!\n");
        return DIFFERENT;
    }
    weir_co_mutex_init(&compare->cursor_lock);
    weir_mutex_init(&compare->mutex);
    img_progress_set(&compare->progress, 0, 100);
    ret = img_workers(workers, worker, NULL, compare, &err);
    weir_mutex_done(&compare->mutex);
    weir_co_mutex_done(&compare->cursor_lock);
    if (ret) {
        img_fail(compare->img, err, "%s", "");
        return READ_FAILED;
    }
    tell(compare, quiet);
    img_progress_end(&compare->progress);
    return compare->verdict == STRICTLY_DIFFERENT ? DIFFERENT : compare->verdict;
}

struct arguments {
    struct img_common common;
    const char *second_format, *cache;
    bool strict;
};

/* -1 to go on, or the exit status. */
static int parse(struct img *img, int argc, char **argv, struct arguments *arguments)
{
    static const struct option longs[] = {
        { "help", no_argument, NULL, 'h' },
        { "object", required_argument, NULL, IMG_OPT_OBJECT },
        { "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
        { "force-share", no_argument, NULL, 'U' },
        { NULL, 0, NULL, 0 },
    };
    struct img_open *how = &arguments->common.how;
    int c, status = -1;

    while (status < 0 && (c = img_getopt(img, argc, argv, ":hf:F:T:pqsU", longs)) != -1) {
        if (c == 'F')
            arguments->second_format = optarg;
        else if (c == 'T')
            arguments->cache = optarg;
        else if (c == 's')
            arguments->strict = true;
        else
            status = img_common_option(img, c, &arguments->common);
    }
    if (status < 0 && optind != argc - 2)
        status = img_usage(img, "Expecting two image file names");
    if (status >= 0)
        return status;
    if (img_common_check(img, how->options, how->format ? how->format : arguments->second_format) >= 0)
        return OPEN_FAILED;
    if (!img_cache_parse(arguments->cache, &how->cache)) {
        img_complain(img, "Invalid source cache option: %s", arguments->cache);
        return OPEN_FAILED;
    }
    return -1;
}

int img_compare(struct img *img, int argc, char **argv)
{
    struct arguments arguments = { .cache = "writeback" };
    int status = parse(img, argc, argv, &arguments);
    struct compare compare = { .img = img, .strict = arguments.strict };

    if (status >= 0)
        return status;
    compare.progress.on = arguments.common.progress && !arguments.common.quiet;
    for (unsigned i = 0; i < 2 && status < 0; i++) {
        struct img_open how = arguments.common.how;
        struct weir_error *err = NULL;

        how.format = i ? arguments.second_format : how.format;
        compare.sides[i].name = argv[optind + (int)i];
        if (img_open(compare.sides[i].name, &how, &compare.sides[i].edge, &err)) {
            img_fail(img, err, "Could not open '%s'", compare.sides[i].name);
            status = OPEN_FAILED;
        }
    }
    if (status < 0)
        status = compare_images(&compare, arguments.common.quiet);
    img_close(compare.sides[0].edge);
    img_close(compare.sides[1].edge);
    return status;
}

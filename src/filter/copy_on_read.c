/* SPDX-License-Identifier: BSD-2-Clause */
#include "filter/copy_on_read.h"

#include "base/iov.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/async.h"
#include "io/io.h"
#include "io/slice.h"
#include <errno.h>
#include <limits.h>

/* Copied at a time, at most: what a guest waits for is cut into such pieces. */
#define CHUNK ((uint64_t)1 << 20)

struct copy_on_read {
    struct weir_edge *file;
    struct weir_node *bottom; /* the links down to it are frozen; NULL: none was named */
    unsigned depth_max;       /* how far down the chain data is copied from: COW links below the top */
};

/* Whether what @status tells of comes from a layer below the top that is to be copied. */
static bool wanted(const struct copy_on_read *cor, const struct weir_status *status)
{
    return status->depth && status->depth <= cor->depth_max;
}

/* The request that stores @length bytes that have been read into @buffer. */
static struct weir_request store_request(uint64_t offset, uint64_t length, unsigned write_flags,
                                         struct weir_buffer *buffer, struct iovec *iov)
{
    struct weir_request request =
        weir_request_make(WEIR_OP_WRITE, offset, length, iov, 1, write_flags | WEIR_REQUEST_UNCHANGED);

    *iov = (struct iovec){ buffer->data, length };
    request.buffer = buffer;
    if (weir_iov_is_zero(iov, 1, 0, length))
        return weir_request_make(WEIR_OP_ZERO, offset, length, NULL, 0,
                                 WEIR_REQUEST_UNCHANGED | WEIR_REQUEST_MAY_UNMAP);
    return request;
}

/* ---- reads ---- */

static weir_co_fn int read_plainly(struct copy_on_read *cor, const struct weir_request *request,
                                   uint64_t done, uint64_t length)
{
    struct weir_request piece = *request;
    struct weir_slice slice;
    int ret;

    if (length == request->length)
        return weir_io(cor->file, &piece);
    weir_slice_init(&slice, request->iov, request->iovcnt, done, length);
    piece.offset += done;
    piece.length = length;
    piece.iov = slice.iov;
    piece.iovcnt = slice.count;
    ret = weir_io(cor->file, &piece);
    weir_slice_done(&slice);
    return ret;
}

/*
 * A guest's buffer may change once it has its data, so it is not what is stored. That storing fails is no fault of the
 * read: the guest gets its data, and the next read tries again.
 */
static weir_co_fn int read_copying(struct copy_on_read *cor, const struct weir_request *request,
                                   uint64_t done, uint64_t length)
{
    struct weir_buffer *buffer = weir_buffer_new(length);
    int ret;

    if (!buffer)
        return read_plainly(cor, request, done, length);
    ret = weir_io_read(cor->file, request->offset + done, length, buffer->data);
    if (!ret) {
        struct iovec iov;
        struct weir_request store = store_request(request->offset + done, length, 0, buffer, &iov);

        weir_iov_from_buffer(request->iov, request->iovcnt, done, buffer->data, length);
        (void)!weir_io(cor->file, &store);
    }
    weir_buffer_unref(buffer);
    return ret;
}

static weir_co_fn int copy_on_read_submit(struct weir_node *node, struct weir_request *request)
{
    struct copy_on_read *cor = weir_node_state(node);
    int ret = 0;

    for (uint64_t done = 0, piece; done < request->length && !ret; done += piece) {
        struct weir_status status;

        piece = request->length - done;
        ret = weir_io_status(cor->file, request->offset + done, piece, WEIR_REQUEST_DEEP | WEIR_REQUEST_ROUGH,
                             &status);
        if (ret)
            break;
        piece = WEIR_MIN(piece, status.length);
        if (wanted(cor, &status)) {
            piece = WEIR_MIN(piece, CHUNK);
            ret = read_copying(cor, request, done, piece);
        } else {
            ret = read_plainly(cor, request, done, piece);
        }
    }
    return ret;
}

/* ---- for a job ---- */

/* Also what a layer that ends early shows as zeroes: without it the layer below would be seen. */
static bool fill_wanted(const struct copy_on_read *cor, const struct weir_status *status)
{
    return status->allocated ? wanted(cor, status) : status->depth <= cor->depth_max;
}

/* All requests can be left behind: what is stored late is stored only where nothing is mapped yet. */
static weir_co_fn int fill_piece(struct copy_on_read *cor, uint64_t offset, uint64_t length,
                                 unsigned write_flags, struct weir_buffer *buffer, bool *ret_write)
{
    struct iovec iov = { buffer->data, length };
    struct weir_request request = weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, WEIR_REQUEST_BULK);
    int ret;

    *ret_write = false;
    request.buffer = buffer;
    ret = weir_io_abandonable(cor->file, &request, -1);
    if (ret)
        return ret;
    *ret_write = true;
    request = store_request(offset, length, write_flags, buffer, &iov);
    return weir_io_abandonable(cor->file, &request, -1);
}

int weir_copy_on_read_fill(struct weir_node *node, uint64_t offset, uint64_t length, unsigned write_flags,
                           struct weir_buffer *buffer, bool *ret_write)
{
    struct copy_on_read *cor = weir_node_state(node);
    int ret = 0;

    *ret_write = false;
    while (length && !ret) {
        struct weir_status status = { .length = 0 };
        struct weir_request request =
            weir_request_make(WEIR_OP_STATUS, offset, length, NULL, 0,
                              WEIR_REQUEST_DEEP | WEIR_REQUEST_ROUGH | WEIR_REQUEST_BULK);
        uint64_t piece;

        request.status = &status;
        ret = weir_io_abandonable(cor->file, &request, -1);
        if (ret)
            break;
        piece = WEIR_MIN(length, status.length);
        if (fill_wanted(cor, &status)) {
            piece = WEIR_MIN(piece, buffer->size);
            ret = fill_piece(cor, offset, piece, write_flags, buffer, ret_write);
        }
        offset += piece;
        length -= piece;
    }
    return ret;
}

void weir_copy_on_read_let_go(struct weir_node *node)
{
    weir_edge_break(((struct copy_on_read *)weir_node_state(node))->file);
}

void weir_copy_on_read_thaw(struct weir_node *node)
{
    struct copy_on_read *cor = weir_node_state(node);

    if (cor->bottom)
        weir_chain_unfreeze(node, cor->bottom);
    cor->bottom = NULL;
}

/* ---- life ---- */

static unsigned copy_on_read_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_READ);
}

/* Any request may come: the child aligns for itself. */
static void copy_on_read_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->request_align = limits->memory_align = 1;
    limits->transfer_max = 0;
    limits->iov_max = WEIR_IOV_MAX;
}

static void copy_on_read_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                    unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    *ret_perm = perm | WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED;
    *ret_shared = (shared | WEIR_PERM_WRITE_UNCHANGED) & ~(unsigned)WEIR_PERM_RESIZE;
}

/* Finds `bottom` below the filter, freezes the way to it, and counts how deep it lies. */
static int freeze_to_bottom(struct weir_node *node, const char *name, struct weir_error **err)
{
    struct copy_on_read *cor = weir_node_state(node);
    struct weir_node *bottom = weir_node_find(name), *at = weir_node_skip_filters(cor->file->node);
    int ret;

    if (!bottom)
        return weir_error_set(err, -ENOENT, "Bottom node '%s' not found", name);
    if (weir_node_is_passed(bottom))
        return weir_error_set(err, -EINVAL, "Bottom node '%s' is a filter", name);
    for (cor->depth_max = 0; at && at != bottom; cor->depth_max++)
        at = weir_node_backing_chain_next(at);
    if (!at)
        return weir_error_set(err, -EINVAL, "Bottom node '%s' is not in the backing chain of '%s'", name,
                              cor->file->node->name);
    ret = weir_chain_freeze(node, bottom, err);
    if (!ret)
        cor->bottom = bottom;
    return ret;
}

static weir_co_fn int open_with(struct weir_node *node, json_t *file, const char *bottom,
                                struct weir_error **err)
{
    struct copy_on_read *cor = weir_node_state(node);
    int ret;

    ret = weir_node_open_child(node, file, "file", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &cor->file, err);
    if (ret < 0)
        return ret;
    cor->depth_max = UINT_MAX;
    if (bottom)
        ret = freeze_to_bottom(node, bottom, err);
    if (!ret)
        weir_node_set_size(node, weir_node_size(cor->file->node));
    return ret;
}

static weir_co_fn int copy_on_read_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_copy_on_read *opts = options;

    return open_with(node, opts->file, opts->bottom, err);
}

static weir_co_fn void copy_on_read_close(struct weir_node *node)
{
    weir_copy_on_read_thaw(node);
}

const struct weir_driver weir_driver_copy_on_read = {
    .name = "copy-on-read",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct copy_on_read),
    .options = &weir_schema_opts_copy_on_read,
    .open = copy_on_read_open,
    .close = copy_on_read_close,
    .limits = copy_on_read_limits,
    .child_perm = copy_on_read_child_perm,
    .cares = copy_on_read_cares,
    .submit = copy_on_read_submit,
};

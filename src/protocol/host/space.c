/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Space of a file node: zero, discard, where the data is.
 *
 * Zero, regular file: with MAY_UNMAP a hole is punched; without it the space must stay, so ZERO_RANGE, or
 * where the file system lacks that (tmpfs) a hole that is filled again. Block device: PUNCH_HOLE makes the
 * device zero by itself or refuses; ZERO_RANGE may write zeroes, which is no answer to NO_FALLBACK. What is
 * refused once as unsupported is not tried again; -ENOTSUP lets the core write zeroes.
 */
#include "protocol/host/host.h"

#include "io/request.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

static weir_co_fn int allocate(struct weir_host_file *host, int fd, unsigned mode,
                               const struct weir_request *request)
{
    struct weir_sys_io io = {
        .op = WEIR_SYS_FALLOCATE,
        .fd = fd,
        .flags = mode,
        .offset = request->offset,
        .length = request->length,
    };
    int ret = weir_host_do(host, &io);

    /* Older file systems and devices say that they do not know a mode in several ways. */
    return ret == -EOPNOTSUPP || ret == -ENOSYS || ret == -ENODEV || ret == -ENOTTY ? -ENOTSUP : ret;
}

/* One mode, unless it was refused before. */
static weir_co_fn int allocate_known(struct weir_host_file *host, int fd, unsigned mode,
                                     const struct weir_request *request, atomic_bool *refused)
{
    int ret;

    if (atomic_load_explicit(refused, memory_order_relaxed))
        return -ENOTSUP;
    ret = allocate(host, fd, mode, request);
    if (ret == -ENOTSUP)
        atomic_store_explicit(refused, true, memory_order_relaxed);
    return ret;
}

static weir_co_fn int punch(struct weir_host_file *host, int fd, const struct weir_request *request)
{
    return allocate_known(host, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request, &host->no_punch);
}

static weir_co_fn int zero_regular(struct weir_host_file *host, int fd, const struct weir_request *request)
{
    int ret = -ENOTSUP;

    if (request->flags & WEIR_REQUEST_MAY_UNMAP)
        ret = punch(host, fd, request);
    if (ret == -ENOTSUP)
        ret = allocate_known(host, fd, FALLOC_FL_ZERO_RANGE, request, &host->no_zero_range);
    if (ret == -ENOTSUP && !(request->flags & WEIR_REQUEST_MAY_UNMAP)) {
        ret = punch(host, fd, request);
        if (!ret)
            ret = allocate(host, fd, 0, request);
    }
    return ret;
}

static weir_co_fn int zero_device(struct weir_host_file *host, int fd, const struct weir_request *request)
{
    int ret = -ENOTSUP;

    if (request->flags & WEIR_REQUEST_MAY_UNMAP)
        ret = punch(host, fd, request);
    if (ret == -ENOTSUP && !(request->flags & WEIR_REQUEST_NO_FALLBACK))
        ret = allocate_known(host, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, request,
                             &host->no_zero_range);
    return ret;
}

int weir_host_zero(struct weir_host_file *host, struct weir_request *request)
{
    struct weir_host_fd *fd = weir_host_write_get(host);
    int ret;

    if (!fd)
        return -EPERM;
    ret = host->type == WEIR_SYS_FILE_REGULAR ? zero_regular(host, fd->fd, request)
                                              : zero_device(host, fd->fd, request);
    weir_host_write_put(host, fd);
    return ret;
}

/* ---- discard ---- */

/* Data that is looked for page by page, at a time: bytes. */
#define PAGE_BY_PAGE_MAX ((uint64_t)1 << 20)

struct range_call {
    int fd;
    uint64_t offset, length;
    uint64_t most; /* extent: as in weir_sys */
    bool data;     /* extent: what is there */
    uint64_t end;  /* extent: up to where */
    bool rough;    /* extent: only its beginning was looked at */
};

static int discard_run(void *arg)
{
    struct range_call *call = arg;

    return weir_sys->file.discard(call->fd, call->offset, call->length);
}

static weir_co_fn int discard_device(struct weir_host_file *host, int fd, const struct weir_request *request)
{
    struct range_call call = { .fd = fd, .offset = request->offset, .length = request->length };
    int ret;

    if (atomic_load_explicit(&host->no_discard, memory_order_relaxed))
        return -ENOTSUP;
    ret = weir_host_call(host, discard_run, &call);
    if (ret == -EOPNOTSUPP || ret == -ENOTTY) {
        atomic_store_explicit(&host->no_discard, true, memory_order_relaxed);
        return -ENOTSUP;
    }
    return ret;
}

int weir_host_discard(struct weir_host_file *host, struct weir_request *request)
{
    struct weir_host_fd *fd = weir_host_write_get(host);
    int ret;

    if (!fd)
        return -EPERM;
    ret = host->type == WEIR_SYS_FILE_REGULAR ? punch(host, fd->fd, request)
                                              : discard_device(host, fd->fd, request);
    weir_host_write_put(host, fd);
    return ret;
}

/* ---- status ---- */

static int extent_run(void *arg)
{
    struct range_call *call = arg;

    return weir_sys->file.extent(call->fd, call->offset, call->most, &call->data, &call->end);
}

/*
 * tmpfs walks all pages up to the next hole under the lock that writes take: guests would wait for tens of milliseconds
 * in each GiB. Of data it is asked page by page, which never waits, or just for the beginning.
 */
static int extent_nearby(struct range_call *call, bool rough)
{
    uint64_t most = WEIR_MIN(call->length, PAGE_BY_PAGE_MAX);
    int ret;

    call->most = rough ? 1 : most;
    ret = extent_run(call);
    call->rough = !ret && call->data && rough;
    if (call->rough)
        call->end = call->offset + most;
    return ret;
}

static weir_co_fn int find_extent(struct weir_host_file *host, struct range_call *call, unsigned flags)
{
    if (host->slow_holes)
        return extent_nearby(call, flags & WEIR_REQUEST_ROUGH);
    return host->local && (flags & WEIR_REQUEST_BULK) ? extent_run(call)
                                                      : weir_host_call(host, extent_run, call);
}

/*
 * Past the end of the file (it may end inside the last sector, or have been cut by others) there is a hole.
 */
int weir_host_status(struct weir_node *node, struct weir_request *request)
{
    struct weir_host_file *host = weir_node_state(node);
    struct range_call call = { .fd = host->fd->fd, .offset = request->offset, .length = request->length };
    struct weir_status *status = request->status;
    int ret = -EOPNOTSUPP;

    *status = (struct weir_status){
        .length = request->length,
        .data = true,
        .allocated = true,
        .file = node,
        .file_offset = request->offset,
    };
    if (host->type == WEIR_SYS_FILE_REGULAR && !atomic_load_explicit(&host->no_extents, memory_order_relaxed))
        ret = find_extent(host, &call, request->flags);
    if (ret == -EOPNOTSUPP || ret == -EINVAL) {
        atomic_store_explicit(&host->no_extents, true, memory_order_relaxed);
        return 0;
    }
    if (ret < 0 && ret != -ENXIO)
        return ret;
    if (ret == -ENXIO || call.end <= request->offset) {
        status->data = false;
        status->zero = true;
        return 0;
    }
    status->data = call.data;
    status->zero = !call.data;
    status->rough = call.rough;
    status->length = WEIR_MIN(request->length, call.end - request->offset);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reads, writes and flushes of a file node.
 *
 * A transfer first tries the cheapest way, on the calling loop itself:
 *  - NOWAIT: preadv2 with RWF_NOWAIT, where the file understands it; what is not in memory goes to the ring.
 *  - PLAIN: a call that may wait, on local file systems that lack NOWAIT for this direction (buffered
 *    writes on ext4, all of tmpfs): the ring would hand these to a kernel thread, several times as dear. A
 *    call that takes too long sends the following ones to the ring for a while, in proportion to what it
 *    cost, at most a second. (Not the writes of a bulk copy: its loop serves nobody else.)
 *  - NEVER: O_DIRECT, and files whose calls may hang: network and user-space file systems, devices.
 * Whatever is left goes to the ring, or to a worker (aio=threads, and files that may hang: a stuck call
 * there takes a place of the file's own bound, not one of the ring's few kernel threads, which fsync of
 * others needs).
 *
 * Which way works for writes (UNTRIED) is found out by the first write: there is no harmless probe.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "base/iov.h"
#include "io/request.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>

/* A plain inline call may take this long, and so much more for each MiB. */
#define PLAIN_LIMIT_NS 2000000
#define PLAIN_LIMIT_NS_PER_MIB 1000000
/* How long plain calls rest after a slow one: this many times what it took, at most a second. */
#define REST_FACTOR 25
#define REST_MAX_NS 1000000000

/* A bulk write of this length has its space reserved first. */
#define RESERVE_MIN ((uint64_t)256 << 10)

/* What is left of a transfer. */
struct rest {
    const struct iovec *iov;
    unsigned iovcnt;
    uint64_t offset, length;
    bool bulk;
};

static inline struct rest whole_of(const struct weir_request *request)
{
    return (struct rest){
        .iov = request->iov,
        .iovcnt = request->iovcnt,
        .offset = request->offset,
        .length = request->length,
        .bulk = request->flags & WEIR_REQUEST_BULK,
    };
}

/* ---- inline ---- */

static bool resting(struct weir_host_direction *direction)
{
    int64_t until = atomic_load_explicit(&direction->resume_ns, memory_order_relaxed);

    if (weir_likely(!until))
        return false;
    if (weir_sys->clock_ns() < until)
        return true;
    atomic_store_explicit(&direction->resume_ns, 0, memory_order_relaxed);
    return false;
}

static ssize_t transfer_now(int fd, bool write, const struct rest *rest, int flags)
{
    return write ? weir_sys->file.pwritev(fd, rest->iov, rest->iovcnt, rest->offset, flags)
                 : weir_sys->file.preadv(fd, rest->iov, rest->iovcnt, rest->offset, flags);
}

static ssize_t transfer_plain(struct weir_host_file *host, struct weir_host_direction *direction, int fd,
                              bool write, const struct rest *rest)
{
    int64_t limit = PLAIN_LIMIT_NS + (int64_t)(rest->length >> 20) * PLAIN_LIMIT_NS_PER_MIB;
    int64_t start = weir_sys->clock_ns(), end;
    ssize_t moved;

    /* A third off the write's cost on ext4, which else reserves block by block. If it fails the write says why. */
    if (write && rest->bulk && host->reserves && rest->length >= RESERVE_MIN)
        (void)weir_sys->file.fallocate(fd, FALLOC_FL_KEEP_SIZE, rest->offset, rest->length);
    moved = transfer_now(fd, write, rest, 0);
    end = weir_sys->clock_ns();
    if (weir_unlikely(end - start > limit && !rest->bulk)) {
        int64_t pause = WEIR_MIN((end - start) * REST_FACTOR, (int64_t)REST_MAX_NS);

        atomic_store_explicit(&direction->resume_ns, end + pause, memory_order_relaxed);
    }
    return moved;
}

/* Bytes moved, -EAGAIN where this way is closed now, or -errno. */
static ssize_t transfer_inline(struct weir_host_file *host, struct weir_host_direction *direction, int fd,
                               bool write, const struct rest *rest)
{
    int how = atomic_load_explicit(&direction->how, memory_order_relaxed);
    ssize_t moved;

    if (how == WEIR_HOST_NOWAIT || how == WEIR_HOST_UNTRIED) {
        moved = transfer_now(fd, write, rest, RWF_NOWAIT);
        if (weir_likely(moved != -EOPNOTSUPP && how == WEIR_HOST_NOWAIT))
            return moved;
        if (moved != -EOPNOTSUPP)
            how = WEIR_HOST_NOWAIT;
        else
            how = host->local && host->aio != WEIR_HOST_AIO_IO_URING ? WEIR_HOST_PLAIN : WEIR_HOST_NEVER;
        atomic_store_explicit(&direction->how, how, memory_order_relaxed);
        if (how == WEIR_HOST_NOWAIT)
            return moved;
    }
    if (how != WEIR_HOST_PLAIN || (!rest->bulk && resting(direction)))
        return -EAGAIN;
    return transfer_plain(host, direction, fd, write, rest);
}

/* ---- ring or worker ---- */

static int io_on_worker(void *arg)
{
    struct weir_sys_io *io = arg;

    switch (io->op) {
    case WEIR_SYS_READ:
        return (int)weir_sys->file.preadv(io->fd, io->iov, io->iovcnt, io->offset, (int)io->flags);
    case WEIR_SYS_WRITE:
        return (int)weir_sys->file.pwritev(io->fd, io->iov, io->iovcnt, io->offset, (int)io->flags);
    case WEIR_SYS_FSYNC:
        return weir_sys->file.fsync(io->fd, true);
    case WEIR_SYS_FALLOCATE:
        return weir_sys->file.fallocate(io->fd, (int)io->flags, io->offset, io->length);
    default:
        return -EINVAL;
    }
}

int weir_host_do(struct weir_host_file *host, struct weir_sys_io *io)
{
    bool workers = host->aio == WEIR_HOST_AIO_THREADS ||
                   (host->aio == WEIR_HOST_AIO_BEST && host->type == WEIR_SYS_FILE_REGULAR && !host->local);
    int ret;

    do
        ret = workers ? weir_host_call(host, io_on_worker, io) : weir_co_io(io);
    while (ret == -EINTR);
    /* The ring may refuse what it cannot do without waiting. */
    return ret == -EAGAIN && !workers ? weir_host_call(host, io_on_worker, io) : ret;
}

static weir_co_fn int transfer_queued(struct weir_host_file *host, int fd, bool write,
                                      const struct rest *rest, unsigned flags)
{
    struct weir_sys_io io = {
        .op = write ? WEIR_SYS_WRITE : WEIR_SYS_READ,
        .fd = fd,
        .flags = flags,
        .iov = rest->iov,
        .iovcnt = rest->iovcnt,
        .offset = rest->offset,
    };

    return weir_host_do(host, &io);
}

/* ---- whole transfers ---- */

/*
 * A read ended at the end of the file, @done bytes into the request. What lies beyond it is zero; but when the file
 * was longer before, somebody else has cut it short, and the guest must not take zeroes for its data.
 */
static int check_end(const struct weir_host_file *host, const struct weir_request *request, uint64_t done)
{
    uint64_t end = WEIR_MIN(request->offset + request->length, atomic_load(&host->length_min));

    return request->op == WEIR_OP_READ && request->offset + done < end ? -ESTALE : 0;
}

/*
 * What a transfer that moved less than it should leaves to be done; 0 when nothing is. A read that ended at
 * the end of the file is complete: the rest is zero. (See check_end().)
 */
static uint64_t advance(struct weir_host_file *host, const struct weir_request *request, uint64_t done,
                        bool at_end, struct iovec *iov, struct rest *rest)
{
    uint64_t left = request->length - done;

    if (request->op == WEIR_OP_READ && left && (at_end || (host->direct && done % host->logical_block))) {
        weir_iov_fill(request->iov, request->iovcnt, done, 0, left);
        return 0;
    }
    if (left) {
        rest->iov = iov;
        rest->iovcnt = weir_iov_slice(request->iov, request->iovcnt, done, left, iov);
        rest->offset = request->offset + done;
        rest->length = left;
        rest->bulk = false;
    }
    return left;
}

/* The tail of a short transfer, on a slow path. */
static __attribute__((noinline)) weir_co_fn int finish(struct weir_host_file *host, int fd,
                                                       struct weir_request *request, uint64_t done,
                                                       unsigned flags)
{
    weir_autofree struct iovec *iov = weir_new_array(struct iovec, request->iovcnt);
    bool write = request->op == WEIR_OP_WRITE;
    struct rest rest;
    int ret = 1;

    while (advance(host, request, done, !ret, iov, &rest)) {
        ret = transfer_queued(host, fd, write, &rest, flags);
        if (ret < 0)
            return ret;
        if (!ret && write)
            return -EIO;
        done += (unsigned)ret;
    }
    return check_end(host, request, done);
}

static weir_co_fn int transfer(struct weir_host_file *host, struct weir_request *request, int fd,
                               unsigned flags)
{
    bool write = request->op == WEIR_OP_WRITE;
    struct weir_host_direction *direction = write ? &host->writing : &host->reading;
    struct rest whole = whole_of(request);
    int how = atomic_load_explicit(&direction->how, memory_order_relaxed);
    ssize_t moved = -EAGAIN;

    /* NOWAIT was tried before, or the ring does it: here only what the ring would do badly, or might. */
    if (!flags && !(request->flags & WEIR_REQUEST_APART) &&
        (how == WEIR_HOST_PLAIN || how == WEIR_HOST_UNTRIED))
        moved = transfer_inline(host, direction, fd, write, &whole);
    if (moved == -EAGAIN)
        moved = transfer_queued(host, fd, write, &whole, flags);
    if (weir_likely(moved == (ssize_t)request->length))
        return 0;
    if (moved < 0)
        return (int)moved;
    if (!moved && write)
        return -EIO;
    if (!moved) {
        weir_iov_fill(request->iov, request->iovcnt, 0, 0, request->length);
        return check_end(host, request, 0);
    }
    return finish(host, fd, request, (uint64_t)moved, flags);
}

static weir_co_fn int host_write(struct weir_host_file *host, struct weir_request *request)
{
    struct weir_host_fd *fd = weir_host_write_get(host);
    bool durable = (request->flags & WEIR_REQUEST_FUA) && !host->no_flush;
    int ret;

    if (!fd)
        return -EPERM;
    ret = transfer(host, request, fd->fd, durable ? RWF_DSYNC : 0);
    weir_host_write_put(host, fd);
    return ret;
}

static weir_co_fn int host_flush(struct weir_host_file *host)
{
    struct weir_sys_io io = { .op = WEIR_SYS_FSYNC, .fd = host->fd->fd };

    return host->no_flush ? 0 : weir_host_do(host, &io);
}

int weir_host_submit(struct weir_node *node, struct weir_request *request)
{
    struct weir_host_file *host = weir_node_state(node);

    switch (request->op) {
    case WEIR_OP_READ:
        return transfer(host, request, host->fd->fd, 0);
    case WEIR_OP_WRITE:
        return host_write(host, request);
    case WEIR_OP_ZERO:
        return weir_host_zero(host, request);
    case WEIR_OP_DISCARD:
        return weir_host_discard(host, request);
    case WEIR_OP_FLUSH:
        return host_flush(host);
    case WEIR_OP_STATUS:
        return weir_host_status(node, request);
    }
    return -ENOTSUP;
}

/* ---- without waiting ---- */

/*
 * A transfer that stopped in the middle has done nothing that doing all of it again would not repeat:
 * -EAGAIN. At the end of the file a second read says so.
 */
static __attribute__((noinline)) int try_finish(struct weir_host_file *host, struct weir_request *request,
                                                int fd, uint64_t done)
{
    weir_autofree struct iovec *iov = weir_new_array(struct iovec, request->iovcnt);
    struct rest rest;
    ssize_t moved = 1;

    while (advance(host, request, done, !moved, iov, &rest)) {
        moved = transfer_inline(host, &host->reading, fd, false, &rest);
        if (moved < 0)
            return (int)moved;
        done += (uint64_t)moved;
    }
    return check_end(host, request, done);
}

static int try_read(struct weir_host_file *host, struct weir_request *request)
{
    struct rest whole = whole_of(request);
    ssize_t moved = transfer_inline(host, &host->reading, host->fd->fd, false, &whole);

    if (weir_likely(moved == (ssize_t)request->length))
        return 0;
    if (moved < 0)
        return (int)moved;
    return try_finish(host, request, host->fd->fd, (uint64_t)moved);
}

static int try_write(struct weir_host_file *host, struct weir_request *request)
{
    struct rest whole = whole_of(request);
    struct weir_host_fd *fd;
    ssize_t moved;

    if (request->flags & WEIR_REQUEST_APART || ((request->flags & WEIR_REQUEST_FUA) && !host->no_flush))
        return -EAGAIN;
    fd = weir_host_write_get(host);
    if (!fd)
        return -EPERM;
    moved = transfer_inline(host, &host->writing, fd->fd, true, &whole);
    weir_host_write_put(host, fd);
    if (weir_likely(moved == (ssize_t)request->length))
        return 0;
    return moved < 0 ? (int)moved : -EAGAIN;
}

int weir_host_try_submit(struct weir_node *node, struct weir_request *request)
{
    struct weir_host_file *host = weir_node_state(node);

    switch (request->op) {
    case WEIR_OP_READ:
        return try_read(host, request);
    case WEIR_OP_WRITE:
        return try_write(host, request);
    default:
        return -EAGAIN;
    }
}

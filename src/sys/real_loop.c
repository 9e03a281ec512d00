/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A loop's completion queue: one io_uring.
 *
 * Idea: a system call costs more than all of our own work on a request. Operations are written to the submission
 * ring and handed over by the next poll(), in the same system call that waits; a poll() that need not wait and
 * has nothing to hand over makes none, unless the kernel asks for it by a flag in the ring (deferred task work,
 * overflown completions).
 *
 * The ring is made disabled by open() (so that errors show there) and enabled by the first thread that submits or
 * polls: that one is its single issuer. Kernels without those set-up flags get a plainer ring.
 *
 * Where the submission ring is full even after handing it over, operations wait in `overflow` in order, and
 * cancellations in `cancels`; poll() does not sleep while one of these lists has members. An operation that is
 * cancelled while it waits there goes to `ended`. The lists are linked through weir_sys_io.backend.
 *
 * Waking: kick() sets `kicked` and, only where the loop has announced that it sleeps, writes to an eventfd on
 * which a multishot poll request stands (never read: every write makes an edge). The loop stores `sleeping`, then
 * loads `kicked`; the kicker exchanges `kicked`, then loads `sleeping`; all sequentially consistent, so that at
 * least one of them sees the other. Nothing here locks.
 */
#include "sys/real.h"
#include "base/alloc.h"
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SQ_ENTRIES 256
#define CQ_ENTRIES 4096
#define BATCH 64
#define TRANSFER_MAX 0x7ffff000 /* bytes; the kernel's own limit of one transfer */

/* user_data of requests that are not a struct weir_sys_io */
enum { TAG_KICK = 1, TAG_CANCEL = 2 };
/* What weir_sys_io.backend holds */
enum { LINK_WAIT, LINK_CANCEL, STATE };
/* backend[STATE] */
enum { STATE_WAITING = 1, STATE_CANCELLING = 2 };

struct fifo {
    struct weir_sys_io *first, *last;
    unsigned link; /* LINK_... */
};

struct weir_sys_loop {
    struct io_uring ring;
    int kick_fd;
    bool enabled;
    pthread_t owner;         /* once enabled */
    unsigned registered_bit; /* of ring.int_flags: the ring's descriptor is registered with the owner */
    unsigned in_flight;      /* operations between submit() and done() */
    struct fifo overflow, cancels, ended;
    _Alignas(64) atomic_bool kicked; /* written by others: not beside what the owner writes */
    atomic_bool sleeping;
};

static void fifo_push(struct fifo *fifo, struct weir_sys_io *io)
{
    io->backend[fifo->link] = NULL;
    if (fifo->last)
        fifo->last->backend[fifo->link] = io;
    else
        fifo->first = io;
    fifo->last = io;
}

static void fifo_remove(struct fifo *fifo, struct weir_sys_io *io)
{
    struct weir_sys_io *previous = NULL;

    for (struct weir_sys_io *at = fifo->first; at != io; at = at->backend[fifo->link]) {
        WEIR_ASSERT(at);
        previous = at;
    }
    if (previous)
        previous->backend[fifo->link] = io->backend[fifo->link];
    else
        fifo->first = io->backend[fifo->link];
    if (fifo->last == io)
        fifo->last = previous;
}

static struct weir_sys_io *fifo_pop(struct fifo *fifo)
{
    struct weir_sys_io *io = fifo->first;

    if (io)
        fifo_remove(fifo, io);
    return io;
}

static bool has_state(const struct weir_sys_io *io, uintptr_t state)
{
    return (uintptr_t)io->backend[STATE] & state;
}

static void set_state(struct weir_sys_io *io, uintptr_t state)
{
    io->backend[STATE] = (void *)state;
}

/* ---- opening and closing ---- */

static int open_ring(struct io_uring *ring)
{
    static const unsigned choices[] = {
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
            IORING_SETUP_TASKRUN_FLAG,
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int ret = -EINVAL;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(choices) && ret == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = choices[i] | IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
            .cq_entries = CQ_ENTRIES,
        };
        ret = io_uring_queue_init_params(SQ_ENTRIES, ring, &params);
    }
    return ret;
}

int weir_real_loop_open(struct weir_sys_loop **ret_loop)
{
    /* Waiting with a timeout in one call; no completion is ever dropped; multishot poll came with the third. */
    const unsigned needed = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_RSRC_TAGS;
    struct weir_sys_loop *loop = weir_try_alloc(sizeof(*loop), _Alignof(struct weir_sys_loop));
    int ret;

    if (!loop)
        return -ENOMEM;
    *loop = (struct weir_sys_loop){
        .overflow.link = LINK_WAIT,
        .cancels.link = LINK_CANCEL,
        .ended.link = LINK_WAIT,
    };
    loop->kick_fd = eventfd(0, EFD_CLOEXEC);
    if (loop->kick_fd < 0) {
        ret = -errno;
        goto fail_alloc;
    }
    ret = open_ring(&loop->ring);
    if (ret < 0)
        goto fail_eventfd;
    if ((loop->ring.features & needed) != needed) {
        ret = -ENOSYS;
        goto fail_ring;
    }
    *ret_loop = loop;
    return 0;

fail_ring:
    io_uring_queue_exit(&loop->ring);
fail_eventfd:
    (void)close(loop->kick_fd); /* nothing was written to it */
fail_alloc:
    free(loop);
    return ret;
}

void weir_real_loop_close(struct weir_sys_loop *loop)
{
    WEIR_ASSERT(loop->in_flight == 0);
    if (loop->enabled && !pthread_equal(loop->owner, pthread_self())) {
        /*
         * The registration belongs to the owner and has gone, or goes, with it. Here the same index may stand for
         * another ring of this thread, which liburing would unregister.
         */
        loop->ring.int_flags &= ~loop->registered_bit;
        loop->ring.enter_ring_fd = loop->ring.ring_fd;
    }
    io_uring_queue_exit(&loop->ring);
    (void)close(loop->kick_fd); /* an eventfd has nothing to write back */
    free(loop);
}

/* ---- submission ---- */

/* Hands over what the submission ring holds. What the kernel does not take now stays for the next time. */
static void check_enter(int ret)
{
    WEIR_ASSERT(ret >= 0 || ret == -EAGAIN || ret == -EBUSY || ret == -EINTR || ret == -ETIME ||
                ret == -ENOMEM);
}

static struct io_uring_sqe *get_sqe(struct weir_sys_loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

    if (weir_likely(sqe))
        return sqe;
    check_enter(io_uring_submit(&loop->ring));
    return io_uring_get_sqe(&loop->ring);
}

static void arm_kick(struct weir_sys_loop *loop)
{
    struct io_uring_sqe *sqe = get_sqe(loop);

    /* At the start and after a completion was taken; only a kernel without memory leaves the ring full then. */
    WEIR_ASSERT(sqe);
    io_uring_prep_poll_multishot(sqe, loop->kick_fd, POLLIN);
    io_uring_sqe_set_data64(sqe, TAG_KICK);
}

static void enable(struct weir_sys_loop *loop)
{
    unsigned flags_before;

    /* liburing 2.3 declares io_uring_enable_rings(), but its shared object does not have it. */
    WEIR_ASSERT(io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) == 0);
    loop->owner = pthread_self();
    loop->enabled = true;
    /* The default of 50 us would make every short wait a long one. */
    (void)prctl(PR_SET_TIMERSLACK, 1000);
    flags_before = loop->ring.int_flags;
    /* Saves the look-up of the descriptor in every call; where the kernel cannot, nothing is lost. */
    (void)io_uring_register_ring_fd(&loop->ring);
    loop->registered_bit = loop->ring.int_flags & ~flags_before;
    arm_kick(loop);
}

static void prepare_transfer(struct io_uring_sqe *sqe, struct weir_sys_io *io)
{
    const struct iovec *iov = io->iov;
    bool flat = io->iovcnt == 1 && iov->iov_len <= TRANSFER_MAX;

    /* The flat forms spare the kernel the import of a vector. */
    if (io->op == WEIR_SYS_READ && flat)
        io_uring_prep_read(sqe, io->fd, iov->iov_base, (unsigned)iov->iov_len, io->offset);
    else if (io->op == WEIR_SYS_READ)
        io_uring_prep_readv(sqe, io->fd, iov, io->iovcnt, io->offset);
    else if (flat)
        io_uring_prep_write(sqe, io->fd, iov->iov_base, (unsigned)iov->iov_len, io->offset);
    else
        io_uring_prep_writev(sqe, io->fd, iov, io->iovcnt, io->offset);
    sqe->rw_flags = (int)io->flags;
}

static void prepare_message(struct io_uring_sqe *sqe, struct weir_sys_io *io)
{
    const struct iovec *iov = io->iov;
    bool flat = io->iovcnt == 1 && iov->iov_len <= TRANSFER_MAX;

    if (io->op == WEIR_SYS_RECV && flat) {
        io_uring_prep_recv(sqe, io->fd, iov->iov_base, iov->iov_len, (int)io->flags);
        return;
    }
    if (flat) {
        io_uring_prep_send(sqe, io->fd, iov->iov_base, iov->iov_len, (int)(io->flags | MSG_NOSIGNAL));
        return;
    }
    io->message = (struct msghdr){ .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = io->iovcnt };
    if (io->op == WEIR_SYS_RECV)
        io_uring_prep_recvmsg(sqe, io->fd, &io->message, io->flags);
    else
        io_uring_prep_sendmsg(sqe, io->fd, &io->message, io->flags | MSG_NOSIGNAL);
}

static void prepare(struct io_uring_sqe *sqe, struct weir_sys_io *io)
{
    switch (io->op) {
    case WEIR_SYS_READ:
    case WEIR_SYS_WRITE:
        prepare_transfer(sqe, io);
        break;
    case WEIR_SYS_RECV:
    case WEIR_SYS_SEND:
        prepare_message(sqe, io);
        break;
    case WEIR_SYS_FSYNC:
        io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
        break;
    case WEIR_SYS_FALLOCATE:
        io_uring_prep_fallocate(sqe, io->fd, (int)io->flags, (off_t)io->offset, (off_t)io->length);
        break;
    case WEIR_SYS_ACCEPT:
        io_uring_prep_accept(sqe, io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        break;
    case WEIR_SYS_POLL:
        io_uring_prep_poll_add(sqe, io->fd, io->flags);
        break;
    }
    io_uring_sqe_set_data(sqe, io);
}

void weir_real_loop_submit(struct weir_sys_loop *loop, struct weir_sys_io *io)
{
    struct io_uring_sqe *sqe = NULL;

    if (weir_unlikely(!loop->enabled))
        enable(loop);
    loop->in_flight++;
    set_state(io, 0);
    if (weir_likely(!loop->overflow.first))
        sqe = get_sqe(loop);
    if (weir_likely(sqe)) {
        prepare(sqe, io);
    } else {
        set_state(io, STATE_WAITING);
        fifo_push(&loop->overflow, io);
    }
}

static void prepare_cancel(struct io_uring_sqe *sqe, struct weir_sys_io *io)
{
    io_uring_prep_cancel64(sqe, (uintptr_t)io, 0);
    io_uring_sqe_set_data64(sqe, TAG_CANCEL);
}

void weir_real_loop_cancel(struct weir_sys_loop *loop, struct weir_sys_io *io)
{
    struct io_uring_sqe *sqe;

    if (has_state(io, STATE_CANCELLING))
        return;
    if (has_state(io, STATE_WAITING)) {
        fifo_remove(&loop->overflow, io);
        set_state(io, STATE_CANCELLING);
        fifo_push(&loop->ended, io);
        return;
    }
    sqe = get_sqe(loop);
    if (sqe) {
        prepare_cancel(sqe, io);
    } else {
        set_state(io, STATE_CANCELLING);
        fifo_push(&loop->cancels, io);
    }
}

/* Moves what waits into the submission ring, as far as the kernel takes it. */
static void refill(struct weir_sys_loop *loop)
{
    struct io_uring_sqe *sqe;

    while (loop->overflow.first && (sqe = get_sqe(loop))) {
        struct weir_sys_io *io = fifo_pop(&loop->overflow);

        set_state(io, 0);
        prepare(sqe, io);
    }
    while (loop->cancels.first && (sqe = get_sqe(loop))) {
        struct weir_sys_io *io = fifo_pop(&loop->cancels);

        set_state(io, 0);
        prepare_cancel(sqe, io);
    }
}

/* ---- waiting ---- */

/* Hands over and takes what is there; without a system call where there is nothing to do. */
static void enter_now(struct weir_sys_loop *loop)
{
    unsigned flags = IO_URING_READ_ONCE(*loop->ring.sq.kflags);

    if (io_uring_sq_ready(&loop->ring) > 0)
        check_enter(io_uring_submit_and_get_events(&loop->ring));
    else if (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        check_enter(io_uring_get_events(&loop->ring));
}

static void enter_and_sleep(struct weir_sys_loop *loop, int64_t deadline_ns)
{
    struct __kernel_timespec timeout, *limit = NULL;
    struct io_uring_cqe *cqe;

    if (deadline_ns >= 0) {
        int64_t left = deadline_ns - weir_sys_real.clock_ns();

        if (left <= 0) {
            enter_now(loop);
            return;
        }
        timeout = (struct __kernel_timespec){ .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };
        limit = &timeout;
    }
    atomic_store(&loop->sleeping, true);
    if (atomic_load(&loop->kicked))
        enter_now(loop);
    else
        check_enter(io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, limit, NULL));
    atomic_store_explicit(&loop->sleeping, false, memory_order_relaxed);
}

static void finish(struct weir_sys_loop *loop, struct weir_sys_io *io, int result)
{
    if (weir_unlikely(has_state(io, STATE_CANCELLING)))
        fifo_remove(&loop->cancels, io);
    loop->in_flight--;
    io->done(io, result);
}

static void dispatch(struct weir_sys_loop *loop, const struct io_uring_cqe *cqe)
{
    if (weir_likely(cqe->user_data > TAG_CANCEL))
        finish(loop, (struct weir_sys_io *)(uintptr_t)cqe->user_data, cqe->res);
    else if (cqe->user_data == TAG_KICK && !(cqe->flags & IORING_CQE_F_MORE)) {
        WEIR_ASSERT(cqe->res >= 0);
        arm_kick(loop);
    }
}

/* Copies completions out of the ring, so that done() may submit, which can make the kernel add others. */
static unsigned reap(struct weir_sys_loop *loop, struct io_uring_cqe *batch)
{
    unsigned head, count = 0;
    struct io_uring_cqe *cqe;

    io_uring_for_each_cqe(&loop->ring, head, cqe)
    {
        batch[count++] = *cqe;
        if (count == BATCH)
            break;
    }
    io_uring_cq_advance(&loop->ring, count);
    return count;
}

static void finish_cancelled(struct weir_sys_loop *loop)
{
    struct weir_sys_io *last = loop->ended.last, *io;

    do {
        io = fifo_pop(&loop->ended);
        set_state(io, 0);
        finish(loop, io, -ECANCELED);
    } while (io != last);
}

void weir_real_loop_poll(struct weir_sys_loop *loop, int64_t deadline_ns)
{
    struct io_uring_cqe batch[BATCH];
    unsigned count, total = 0;

    if (weir_unlikely(!loop->enabled))
        enable(loop);
    if (weir_unlikely(loop->overflow.first || loop->cancels.first))
        refill(loop);
    if (deadline_ns == 0 || io_uring_cq_ready(&loop->ring) > 0 || loop->overflow.first ||
        loop->cancels.first || loop->ended.first)
        enter_now(loop);
    else
        enter_and_sleep(loop, deadline_ns);

    if (weir_unlikely(loop->ended.first))
        finish_cancelled(loop);
    do {
        count = reap(loop, batch);
        for (unsigned i = 0; i < count; i++)
            dispatch(loop, &batch[i]);
        total += count;
    } while (count == BATCH && total < CQ_ENTRIES);

    /* The exchange, unlike a store, makes what the kickers did before visible to the caller. */
    if (atomic_load_explicit(&loop->kicked, memory_order_relaxed))
        (void)atomic_exchange(&loop->kicked, false);
}

void weir_real_loop_kick(struct weir_sys_loop *loop)
{
    uint64_t one = 1;

    if (atomic_exchange(&loop->kicked, true))
        return;
    if (!atomic_load(&loop->sleeping))
        return;
    WEIR_ASSERT(WEIR_REAL_RETRY(write(loop->kick_fd, &one, sizeof(one))) == sizeof(one));
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A request: one operation on a range of a node.
 *
 * The issuer owns the struct and keeps it, the vector and the buffers valid until the request has been
 * answered (the call returned, or done() ran). Lower layers never change a field other than `status`; pieces that
 * the core makes are requests of their own.
 */
#ifndef WEIR_IO_REQUEST_H
#define WEIR_IO_REQUEST_H

#include "base/iov.h"
#include "graph/driver.h"
#include <errno.h>
#include "io/buffer.h"
#include <sys/queue.h>
#include <sys/uio.h>

enum weir_request_flags {
    WEIR_REQUEST_FUA = 1 << 0,         /* answered only when durable */
    WEIR_REQUEST_MAY_UNMAP = 1 << 1,   /* ZERO: giving up the space is welcome */
    WEIR_REQUEST_NO_FALLBACK = 1 << 2, /* ZERO: -ENOTSUP rather than write zeroes (NBD's FAST_ZERO) */
    WEIR_REQUEST_COMPRESSED = 1 << 3,  /* WRITE: store compressed where that saves space */
    /*
     * WRITE, ZERO: what readers see there already. A format that allocates stores it where nothing is mapped, and where
     * something is that is as good or newer; so it may be late. A leaf whose limits do not list the flag does nothing.
     */
    WEIR_REQUEST_UNCHANGED = 1 << 4,
    WEIR_REQUEST_UNSTABLE = 1 << 5, /* the buffer may change while it is written: copy before use twice */
    /* Advice, of a copy by a loop that serves no guest. WRITE: to where nothing is stored yet. STATUS: need not wait
     * for a worker. */
    WEIR_REQUEST_BULK = 1 << 6,
    WEIR_REQUEST_DEEP = 1 << 7, /* STATUS: of the backing chain, not of the first layer */
    /* Advice. WRITE: the loop has other work that can be done meanwhile, so that a kernel's thread had better write. */
    WEIR_REQUEST_APART = 1 << 8,
    /* Advice. STATUS: holes that take long to tell from data may be called data. */
    WEIR_REQUEST_ROUGH = 1 << 9,
    WEIR_REQUEST_METADATA = 1 << 10, /* tables and headers of a format, not the data of a guest */
};

/* What STATUS answers for the beginning of a range. */
struct weir_status {
    uint64_t length;        /* bytes from the request's offset for which this holds, > 0 */
    bool data;              /* bytes are stored */
    bool zero;              /* reads as zero */
    bool allocated;         /* in this node or its filtered children, not further down the backing chain */
    unsigned depth;         /* COW layers down to where it comes from */
    struct weir_node *file; /* the leaf that holds it plainly, at file_offset; NULL: nowhere plainly */
    uint64_t file_offset;
    bool compressed;
    bool rough; /* data, but maybe not all of it (WEIR_REQUEST_ROUGH) */
};

struct weir_request {
    enum weir_op op;
    unsigned flags;          /* enum weir_request_flags */
    uint64_t offset, length; /* bytes; any alignment */
    const struct iovec *iov; /* READ, WRITE: @length bytes in all */
    unsigned iovcnt;
    struct weir_buffer
        *buffer; /* owner of the memory behind iov, or NULL: then whoever must outlive copies it */
    struct weir_status *status; /* STATUS */
    /* weir_root_batch() only: called once, on the loop that issued, maybe before the batch call returns. */
    void (*done)(struct weir_request *request, int result);
    STAILQ_ENTRY(weir_request) link; /* free for the issuer until done() */
};

/* Of a filter that any request may come to, as each of its children aligns for itself. */
static inline void weir_limits_take_all(struct weir_limits *limits)
{
    limits->request_align = limits->memory_align = 1;
    limits->transfer_max = limits->zero_align = limits->zero_max = 0;
    limits->discard_align = limits->discard_max = 0;
    limits->iov_max = WEIR_IOV_MAX;
    limits->write_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

/* A request for @length bytes behind @iov. The vector is borrowed. */
static inline struct weir_request weir_request_make(enum weir_op op, uint64_t offset, uint64_t length,
                                                    const struct iovec *iov, unsigned iovcnt, unsigned flags)
{
    return (struct weir_request){
        .op = op,
        .flags = flags,
        .offset = offset,
        .length = length,
        .iov = iov,
        .iovcnt = iovcnt,
    };
}

#endif

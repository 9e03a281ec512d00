/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A write whose bytes stay as they are, for filters that use them twice. Any loop; nothing waits.
 */
#ifndef WEIR_IO_STABLE_H
#define WEIR_IO_STABLE_H

#include "base/iov.h"
#include "io/request.h"

struct weir_stable {
    struct weir_request request; /* to be used instead */
    struct iovec iov;
    struct weir_buffer *buffer; /* NULL: nothing was copied */
};

/*
 * Copies the data of a WRITE that is UNSTABLE or, with @counted, whose memory has no owner that can be referenced.
 * Other requests are taken as they are. -ENOMEM: nothing is held; weir_stable_done() may be called all the same.
 */
static inline weir_must_check int weir_stable_init(struct weir_stable *stable,
                                                   const struct weir_request *request, bool counted)
{
    stable->request = *request;
    stable->buffer = NULL;
    if (request->op != WEIR_OP_WRITE ||
        (!(request->flags & WEIR_REQUEST_UNSTABLE) && (request->buffer || !counted)))
        return 0;
    stable->buffer = weir_buffer_new(request->length);
    if (!stable->buffer)
        return -ENOMEM;
    weir_iov_to_buffer(request->iov, request->iovcnt, 0, stable->buffer->data, request->length);
    stable->iov = (struct iovec){ stable->buffer->data, request->length };
    stable->request.iov = &stable->iov;
    stable->request.iovcnt = 1;
    stable->request.buffer = stable->buffer;
    stable->request.flags &= ~(unsigned)WEIR_REQUEST_UNSTABLE;
    return 0;
}
static inline void weir_stable_done(struct weir_stable *stable)
{
    weir_buffer_unref(stable->buffer);
}

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing in the driver's stored form (compression): unit by unit, encoded before any lock is taken.
 */
#include "io/mapped.h"

#include "base/iov.h"
#include "base/law.h"
#include "graph/event.h"
#include "io/io.h"

struct encode_work {
    struct weir_node *node;
    const void *in;
    uint64_t length, stored;
    void *out;
};

static int run_encode(void *arg)
{
    struct encode_work *work = arg;

    work->stored = work->node->driver->encode(work->node, work->in, work->length, work->out);
    return 0;
}

/* Whether any of the locked unit is mapped, up to the end of the node: 0, 1 or -errno. */
static weir_co_fn int is_mapped(struct weir_node *node, uint64_t offset, uint64_t length)
{
    uint64_t end = WEIR_MIN(offset + length, weir_node_size(node));
    struct weir_meta_pins pins = { .count = 0 };
    struct weir_extent extent = { 0 };
    int ret = weir_map(node, WEIR_OP_READ, offset, end - offset, 0, &extent, &pins);

    weir_map_unpin(node, &pins);
    return ret ? ret : extent.where != WEIR_UNMAPPED || extent.offset + extent.length < end;
}

/* One whole unit whose stored form is ready. 0, -errno, or 1: part of it is mapped, where data is unchanged. */
static weir_co_fn int write_stored(struct weir_node *node, uint64_t offset, unsigned flags,
                                   const struct encode_work *work)
{
    struct weir_range_lock lock = { 0 };
    struct weir_meta_pins pins = { .count = 0 };
    struct weir_extent extent;
    int ret;

    if (WEIR_LAW(WEIR_LAW_EXCLUSIVE))
        weir_range_lock(node->io->ranges, &lock, offset, work->length, true);
    ret = offset < weir_node_size(node) ? 0 : -EINVAL;
    if (!ret && (flags & WEIR_REQUEST_UNCHANGED))
        ret = is_mapped(node, offset, work->length);
    if (!ret)
        ret = weir_map_allocate(node, WEIR_OP_WRITE, offset, work->length, WEIR_MAP_ENCODED, work->stored,
                                &extent, &pins);
    if (!ret) {
        if (!WEIR_LAW(WEIR_LAW_PENDING))
            weir_map_end(node, &extent, true);
        weir_event(extent.edge, WEIR_EVENT_WRITE_COMPRESSED);
        ret = weir_io_write(extent.edge, extent.child_offset, work->stored, work->out, 0);
        weir_event(extent.edge, WEIR_EVENT_L2_UPDATE_COMPRESSED);
        if (WEIR_LAW(WEIR_LAW_PENDING))
            weir_map_end(node, &extent, !ret);
    }
    weir_map_unpin(node, &pins);
    weir_range_unlock(&lock);
    return ret;
}

int weir_mapped_write_encoded(struct weir_node *node, struct weir_request *request)
{
    uint64_t unit = node->limits.lock_unit;
    struct weir_buffer *plain = weir_buffer_new(unit), *out = weir_buffer_new(unit);
    int ret = plain && out ? 0 : -ENOMEM;

    for (uint64_t done = 0; done < request->length && ret >= 0; done += unit) {
        uint64_t length = WEIR_MIN(unit, request->length - done);
        struct encode_work work = { node, NULL, unit, 0, NULL };

        work.in = plain->data;
        work.out = out->data;
        weir_iov_to_buffer(request->iov, request->iovcnt, done, plain->data, length);
        __builtin_memset((char *)plain->data + length, 0, unit - length);
        ret = weir_co_work(run_encode, &work);
        if (!ret && work.stored)
            ret = write_stored(node, request->offset + done, request->flags, &work);
        if (ret == 1 || (!ret && !work.stored)) {
            struct iovec iov = { plain->data, length };

            ret = weir_mapped_write(node, request->offset + done, length, &iov, 1,
                                    request->flags & WEIR_REQUEST_UNCHANGED);
        }
    }
    weir_buffer_unref(plain);
    weir_buffer_unref(out);
    return ret;
}

bool weir_mapped_can_encode(const struct weir_node *node, const struct weir_request *request)
{
    uint64_t unit = node->limits.lock_unit, end = request->offset + request->length;

    return (request->flags & WEIR_REQUEST_COMPRESSED) && node->driver->encode && unit &&
           !(request->offset % unit) && (!(end % unit) || end == weir_node_size(node));
}

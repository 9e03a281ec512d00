/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the check say, read and write. Reads and writes wait. */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include "io/io.h"
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static weir_printf(2, 0) void say(struct qcow2_checker *c, const char *format, va_list args)
{
    char line[512];

    if (!c->report || c->silent)
        return;
    (void)vsnprintf(line, sizeof(line), format, args);
    c->report(c->arg, line);
}

void qcow2_note(struct qcow2_checker *c, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(c, format, args);
    va_end(args);
}

void qcow2_fault(struct qcow2_checker *c, const char *format, ...)
{
    va_list args;

    if (c->silent)
        return;
    c->r.corruptions++;
    va_start(args, format);
    say(c, format, args);
    va_end(args);
}

void qcow2_unread(struct qcow2_checker *c, int error, const char *what, uint64_t offset)
{
    c->incomplete = true;
    if (c->silent)
        return;
    c->r.check_errors++;
    qcow2_note(c, "ERROR %s at offset 0x%" PRIx64 " could not be read: %s", what, offset, strerror(-error));
}

void qcow2_lost(struct qcow2_checker *c, uint64_t offset, uint64_t length)
{
    uint64_t first = offset >> c->h.cluster_bits;
    uint64_t last = (offset + WEIR_MAX(length, (uint64_t)1) - 1) >> c->h.cluster_bits;

    c->incomplete = true;
    first = WEIR_MAX(first, c->file_clusters);
    if (last >= first && (!c->lost_cluster || first < c->lost_cluster))
        c->lost_cluster = first;
}

void qcow2_fixed(struct qcow2_checker *c)
{
    c->r.corruptions_fixed++;
}

weir_co_fn int qcow2_check_read(struct qcow2_checker *c, uint64_t offset, uint64_t length, void *buffer)
{
    uint64_t size = weir_node_size(c->file->node);
    uint64_t inside = offset >= size ? 0 : WEIR_MIN(length, size - offset);

    memset((char *)buffer + inside, 0, length - inside);
    return inside ? weir_io_read(c->file, offset, inside, buffer) : 0;
}

weir_co_fn int qcow2_check_write(struct qcow2_checker *c, uint64_t offset, uint64_t length,
                                 const void *buffer)
{
    c->changed = true;
    return weir_io_write(c->file, offset, length, buffer, WEIR_REQUEST_METADATA);
}

int qcow2_check_room(void *array_pointer, size_t *room, size_t count, size_t size, size_t max)
{
    size_t more = WEIR_MIN(*room ? *room * 2 : 64, max);
    void *array, *old;

    if (count < *room)
        return 0;
    if (count >= max)
        return -EFBIG;
    array = weir_try_alloc(more * size, 16);
    if (!array)
        return -ENOMEM;
    memcpy(&old, array_pointer, sizeof(old));
    if (count)
        memcpy(array, old, count * size);
    free(old);
    memcpy(array_pointer, &array, sizeof(array));
    *room = more;
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The list of persistent bitmaps: read at open, to describe them and to refuse what would invalidate them.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "io/io.h"

#include <errno.h>
#include <string.h>

/* One entry of the directory at @at; returns its length, or -EINVAL. */
static int64_t take_one(const uint8_t *at, uint64_t left, struct qcow2_bitmap *bitmap)
{
    struct qcow2_disk_bitmap disk;
    uint64_t name_at, length;

    if (left < sizeof(disk))
        return -EINVAL;
    memcpy(&disk, at, sizeof(disk));
    name_at = sizeof(disk) + (uint64_t)be32toh(disk.extra_size);
    length = weir_align_up(name_at + be16toh(disk.name_size), 8);
    if (length > left || disk.granularity_bits > 31)
        return -EINVAL;
    bitmap->flags = be32toh(disk.flags);
    bitmap->granularity = (uint64_t)1 << disk.granularity_bits;
    bitmap->name = weir_alloc((size_t)be16toh(disk.name_size) + 1);
    memcpy(bitmap->name, at + name_at, be16toh(disk.name_size));
    return (int64_t)length;
}

int qcow2_bitmaps_load(struct weir_node *node, const struct qcow2_extension_at *extension,
                       struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_disk_bitmaps disk;
    weir_autofree uint8_t *directory = NULL;
    uint64_t at = 0, size;
    uint32_t count;
    int ret;

    if (extension->length != sizeof(disk))
        return weir_error_set(err, -EINVAL, "bitmaps_ext: Invalid extension length");
    memcpy(&disk, extension->data, sizeof(disk));
    count = be32toh(disk.nb_bitmaps);
    size = be64toh(disk.directory_size);
    q->bitmap_directory = be64toh(disk.directory_offset);
    if (!count || count > QCOW2_BITMAPS_MAX || size > QCOW2_BITMAP_DIRECTORY_MAX || !size ||
        (q->bitmap_directory & (qcow2_cluster_size(&q->header) - 1)) ||
        q->bitmap_directory > weir_node_size(q->file->node) ||
        size > weir_node_size(q->file->node) - q->bitmap_directory)
        return weir_error_set(err, -EINVAL, "bitmaps_ext: Invalid bitmap directory");
    directory = weir_try_alloc(size, 8);
    if (!directory)
        return weir_error_set_errno(err, -ENOMEM, "bitmaps_ext");
    ret = weir_io_read(q->file, q->bitmap_directory, size, directory);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not read the bitmap directory");
    q->bitmap_directory_bytes = size;
    q->bitmaps = weir_new_array(struct qcow2_bitmap, count);
    for (uint32_t i = 0; i < count; i++) {
        int64_t length = take_one(directory + at, size - at, &q->bitmaps[i]);

        if (length < 0)
            return weir_error_set(err, -EINVAL, "bitmaps_ext: Invalid bitmap directory");
        at += (uint64_t)length;
        q->bitmap_count++;
    }
    return 0;
}

void qcow2_bitmaps_free(struct qcow2 *q)
{
    for (uint32_t i = 0; i < q->bitmap_count; i++)
        free(q->bitmaps[i].name);
    free(weir_steal(&q->bitmaps));
    q->bitmap_count = 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The list of internal snapshots: read at open, to describe them and to guard their tables.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "io/io.h"

#include <errno.h>
#include <string.h>

/* Reads from the table, whose end is not known before it was read. */
struct reader {
    struct weir_edge *edge;
    uint64_t begin, at;
};

static weir_co_fn int read_bytes(struct reader *reader, void *out, uint64_t length)
{
    int ret;

    if (reader->at - reader->begin + length > QCOW2_SNAPSHOT_TABLE_MAX)
        return -EFBIG;
    if (reader->at + length > weir_node_size(reader->edge->node))
        return -EINVAL;
    ret = length ? weir_io_read(reader->edge, reader->at, length, out) : 0;
    reader->at += length;
    return ret;
}

static weir_co_fn int read_text(struct reader *reader, uint16_t length, char **ret_text)
{
    *ret_text = weir_alloc((size_t)length + 1);
    return read_bytes(reader, *ret_text, length);
}

static void take_extra(struct qcow2_snapshot *snapshot, const uint8_t *extra, uint32_t length)
{
    uint64_t words[3] = { 0 };

    memcpy(words, extra, WEIR_MIN(length, (uint32_t)sizeof(words)));
    if (length >= 8)
        snapshot->vm_state_size = be64toh(words[0]);
    snapshot->has_disk_size = length >= 16;
    snapshot->disk_size = be64toh(words[1]);
    snapshot->has_icount = length >= 24 && words[2] != UINT64_MAX;
    snapshot->icount = be64toh(words[2]);
}

static weir_co_fn int read_one(struct reader *reader, const struct qcow2_header *h,
                               struct qcow2_snapshot *snapshot)
{
    struct qcow2_disk_snapshot disk;
    uint8_t extra[QCOW2_SNAPSHOT_EXTRA_MAX];
    uint32_t extra_size;
    int ret = read_bytes(reader, &disk, sizeof(disk));

    if (ret)
        return ret;
    extra_size = be32toh(disk.extra_size);
    if (extra_size > sizeof(extra))
        return -EFBIG;
    *snapshot = (struct qcow2_snapshot){
        .l1_offset = be64toh(disk.l1_table_offset),
        .l1_size = be32toh(disk.l1_size),
        .date_s = be32toh(disk.date_s),
        .date_ns = be32toh(disk.date_ns),
        .vm_clock_ns = be64toh(disk.vm_clock_ns),
        .vm_state_size = be32toh(disk.vm_state_size),
    };
    if (snapshot->l1_size > QCOW2_L1_BYTES_MAX / 8 || (snapshot->l1_offset & (qcow2_cluster_size(h) - 1)))
        return -EINVAL;
    ret = read_bytes(reader, extra, extra_size);
    if (!ret)
        take_extra(snapshot, extra, extra_size);
    if (!ret)
        ret = read_text(reader, be16toh(disk.id_size), &snapshot->id);
    if (!ret)
        ret = read_text(reader, be16toh(disk.name_size), &snapshot->name);
    reader->at = reader->begin + weir_align_up(reader->at - reader->begin, 8);
    return ret;
}

int qcow2_snapshots_load(struct weir_node *node, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct reader reader = { q->file, q->header.snapshots_offset, q->header.snapshots_offset };
    uint32_t count = q->header.snapshot_count;

    if (!count)
        return 0;
    q->snapshots = weir_new_array(struct qcow2_snapshot, count);
    for (uint32_t i = 0; i < count; i++) {
        int ret = read_one(&reader, &q->header, &q->snapshots[i]);

        if (ret)
            return weir_error_set_errno(err, ret, "Could not read snapshots");
    }
    q->snapshot_bytes = reader.at - reader.begin;
    return 0;
}

void qcow2_snapshots_free(struct qcow2 *q)
{
    for (uint32_t i = 0; q->snapshots && i < q->header.snapshot_count; i++) {
        free(q->snapshots[i].id);
        free(q->snapshots[i].name);
    }
    free(weir_steal(&q->snapshots));
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The snapshot table: entries of different lengths behind each other. Read through a small window, as nothing says how
 * long it is.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define WINDOW ((uint64_t)64 << 10)
#define EXTRA_SIZE_V3 16u /* version 3: both sizes must be there */

struct reader {
    struct qcow2_checker *c;
    char *bytes;
    uint64_t start, end; /* what of the file is in @bytes */
};

/* Brings @length bytes at @offset into memory; they end inside of the file. */
static weir_co_fn int bring(struct reader *reader, uint64_t offset, uint64_t length, const void **ret_bytes)
{
    struct qcow2_checker *c = reader->c;
    int ret;

    if (!qcow2_inside(c, offset, length)) {
        qcow2_fault(c, "ERROR snapshot table exceeds the end of the file at offset 0x%" PRIx64, offset);
        qcow2_lost(c, offset, length);
        return -EINVAL;
    }
    if (offset < reader->start || offset + length > reader->end) {
        reader->start = reader->end = offset;
        ret = qcow2_check_read(c, offset, WINDOW, reader->bytes);
        if (ret) {
            qcow2_unread(c, ret, "snapshot table", offset);
            return ret;
        }
        reader->end = offset + WINDOW;
    }
    *ret_bytes = reader->bytes + (offset - reader->start);
    return 0;
}

static void judge_size(struct qcow2_checker *c, uint32_t index, uint32_t l1_size, uint64_t disk_size)
{
    uint64_t per_l1 = qcow2_l2_entries(&c->h) << c->h.cluster_bits;

    if (disk_size / per_l1 + !!(disk_size % per_l1) > l1_size)
        qcow2_fault(c,
                    "ERROR snapshot %" PRIu32 ": L1 table of %" PRIu32
                    " entries is too small for a disk of %" PRIu64 " bytes",
                    index + 1, l1_size, disk_size);
}

/* 0; 1: the entry is broken, and so is all behind it. */
static weir_co_fn int judge(struct reader *reader, uint32_t index, uint64_t *at)
{
    struct qcow2_checker *c = reader->c;
    struct qcow2_table table = { 0, 0, index, QCOW2_TABLE_SNAPSHOT };
    struct qcow2_disk_snapshot disk;
    const void *bytes;
    uint32_t extra;

    if (bring(reader, *at, sizeof(disk), &bytes))
        return 1;
    memcpy(&disk, bytes, sizeof(disk));
    extra = be32toh(disk.extra_size);
    table.offset = be64toh(disk.l1_table_offset);
    table.entries = be32toh(disk.l1_size);
    if (extra > QCOW2_SNAPSHOT_EXTRA_MAX) {
        qcow2_fault(c, "ERROR snapshot %" PRIu32 ": %" PRIu32 " bytes of extra data are too many", index + 1,
                    extra);
        return 1;
    }
    if (c->h.version >= 3 && extra < EXTRA_SIZE_V3)
        qcow2_fault(c, "ERROR snapshot %" PRIu32 " is incomplete: %" PRIu32 " bytes of extra data", index + 1,
                    extra);
    if (extra >= EXTRA_SIZE_V3) {
        uint64_t sizes[2];

        if (bring(reader, *at + sizeof(disk), sizeof(sizes), &bytes))
            return 1;
        memcpy(sizes, bytes, sizeof(sizes));
        judge_size(c, index, table.entries, be64toh(sizes[1]));
    }
    *at += weir_align_up(sizeof(disk) + extra + be16toh(disk.id_size) + be16toh(disk.name_size), 8);
    if ((uint64_t)table.entries * 8 > QCOW2_L1_BYTES_MAX) {
        qcow2_fault(c, "ERROR snapshot %" PRIu32 ": L1 table of %" PRIu32 " entries is too large", index + 1,
                    table.entries);
        c->incomplete = true;
        return 0;
    }
    return table.entries ? qcow2_add_table(c, &table) : 0;
}

int qcow2_find_snapshots(struct qcow2_checker *c)
{
    weir_autofree char *bytes = weir_try_alloc(WINDOW, 4096);
    struct reader reader = { c, bytes, 0, 0 };
    uint64_t at = c->h.snapshots_offset;
    int ret = bytes ? 0 : -ENOMEM;

    if (!c->h.snapshot_count)
        return 0;
    if (qcow2_has_data_file(&c->h))
        qcow2_fault(c, "ERROR snapshots in an image with an external data file");
    for (uint32_t i = 0; i < c->h.snapshot_count && !ret; i++) {
        ret = judge(&reader, i, &at);
        if (at - c->h.snapshots_offset > QCOW2_SNAPSHOT_TABLE_MAX) {
            qcow2_fault(c, "ERROR snapshot table is too large");
            ret = 1;
        }
    }
    if (ret < 0)
        return ret;
    if (ret)
        c->incomplete = true;
    ret = 0;
    /* The last entry's padding may be behind the end of the file. */
    at = WEIR_MIN(at, WEIR_MAX(qcow2_file_end(c), c->h.snapshots_offset));
    (void)qcow2_add_region(c, c->h.snapshots_offset, at - c->h.snapshots_offset, QCOW2_KIND_META,
                           "snapshot table", &ret);
    return ret;
}

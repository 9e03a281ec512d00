/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The qcow2 driver's table of slots. See qcow2.h for who does what.
 */
#include "format/qcow2/qcow2.h"

#include "format/qcow2/check.h"
#include "format/qcow2/codec.h"
#include "format/qcow2/create.h"
#include "gen/schema.h"

#include <errno.h>

static void qcow2_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct qcow2 *q = node->state;

    limits->request_align = 1;
    limits->memory_align = 1;
    limits->transfer_max = 0;
    limits->grows = false;
    limits->lock_unit = qcow2_cluster_size(&q->header);
    limits->zero_align = (uint64_t)1 << qcow2_sub_bits(&q->header);
    limits->discard_align = limits->lock_unit;
    limits->zero_max = limits->discard_max = 0;
}

static int qcow2_map(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length,
                     unsigned flags, struct weir_extent *extent, struct weir_need *need)
{
    const struct qcow2 *q = node->state;
    uint64_t stored = extent->child_length, *table;
    int ret;

    if (op == WEIR_OP_READ)
        return qcow2_map_read(node, offset, length, extent, need);
    if (q->failed)
        return -EIO;
    if (!(flags & WEIR_MAP_ALLOCATE)) {
        ret = qcow2_l2_find(node, offset, &table, need);
        if (ret)
            return ret;
        return table ? qcow2_map_in_place(node, table, offset, length, extent) : -EAGAIN;
    }
    switch (op) {
    case WEIR_OP_WRITE:
        return flags & WEIR_MAP_ENCODED ? qcow2_map_stored(node, offset, stored, extent, need)
                                        : qcow2_map_write(node, offset, length, extent, need);
    case WEIR_OP_ZERO:
        return qcow2_map_zero(node, offset, length, flags & WEIR_MAP_UNMAP, extent, need);
    case WEIR_OP_DISCARD:
        return qcow2_map_discard(node, offset, length, extent, need);
    default:
        return -EINVAL;
    }
}

static int qcow2_decode_slot(struct weir_node *node, const struct weir_extent *extent, const void *in,
                             void *out)
{
    const struct qcow2 *q = node->state;

    return qcow2_decode(q->header.compression, in, extent->child_length, out, extent->length);
}

/* Images with a data file of their own have nowhere to put compressed clusters: they are written plainly. */
static uint64_t qcow2_encode_slot(struct weir_node *node, const void *in, uint64_t length, void *out)
{
    const struct qcow2 *q = node->state;

    return qcow2_data_apart(q) ? 0 : qcow2_encode(q->header.compression, in, length, out, length);
}

static weir_co_fn int qcow2_check_slot(struct weir_node *node, unsigned fix,
                                       struct weir_check_result *ret_result,
                                       void (*report)(void *arg, const char *line), void *arg,
                                       struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_header header = q->header;
    struct qcow2_check_source source = {
        .file = q->file, .data = q->data, .header = &header, .ret_header = fix ? &q->header : NULL
    };
    /* Twice: the first one frees what was given up, the second writes the lower counts. */
    int ret = node->read_only ? 0 : weir_meta_sync_all(node);

    if (!ret && !node->read_only)
        ret = weir_meta_sync_all(node);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not write back the tables");
    ret = qcow2_check(&source, fix, ret_result, report, arg, err);
    /* What is in memory is not what is on disk any more: nothing is written until the image is opened again. */
    if (fix)
        q->failed = true;
    return ret;
}

static const struct weir_check_ops qcow2_check_ops = { .check = qcow2_check_slot };

const struct weir_driver weir_driver_qcow2 = {
    .name = "qcow2",
    .flags = WEIR_DRIVER_FORMAT,
    .state_size = sizeof(struct qcow2),
    .options = &weir_schema_opts_qcow2,
    .open = qcow2_open,
    .close = qcow2_close,
    .limits = qcow2_limits,
    .resize = qcow2_resize,
    .map = qcow2_map,
    .prefetch = qcow2_prefetch,
    .commit = qcow2_commit,
    .abort = qcow2_abort,
    .release = qcow2_release,
    .decode = qcow2_decode_slot,
    .encode = qcow2_encode_slot,
    .describe = qcow2_describe,
    .set_read_only = qcow2_set_read_only,
    .set_backing_name = qcow2_set_backing_name,
    .create = &qcow2_create_ops,
    .check = &qcow2_check_ops,
    .reopen = &qcow2_reopen_ops,
};

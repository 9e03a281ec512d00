/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What people are told about an image: members of QMP's ImageInfo.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "graph/filename.h"

static json_t *snapshots(const struct qcow2 *q)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < q->header.snapshot_count; i++) {
        const struct qcow2_snapshot *s = &q->snapshots[i];
        json_t *one =
            json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "id", s->id, "name", s->name, "vm-state-size",
                      (json_int_t)s->vm_state_size, "date-sec", (json_int_t)s->date_s, "date-nsec",
                      (json_int_t)s->date_ns, "vm-clock-sec", (json_int_t)(s->vm_clock_ns / 1000000000),
                      "vm-clock-nsec", (json_int_t)(s->vm_clock_ns % 1000000000));

        if (!one) /* the name is no text that JSON could hold */
            continue;
        if (s->has_icount)
            json_object_set_new(one, "icount", json_integer((json_int_t)s->icount));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *bitmaps(const struct qcow2 *q)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < q->bitmap_count; i++) {
        const struct qcow2_bitmap *bitmap = &q->bitmaps[i];
        json_t *flags = json_array(), *one;

        if (bitmap->flags & QCOW2_BITMAP_IN_USE)
            json_array_append_new(flags, json_string("in-use"));
        if (bitmap->flags & QCOW2_BITMAP_AUTO)
            json_array_append_new(flags, json_string("auto"));
        one = json_pack("{s:s, s:I, s:o}", "name", bitmap->name, "granularity",
                        (json_int_t)bitmap->granularity, "flags", flags);
        if (one)
            json_array_append_new(list, one);
    }
    return list;
}

static json_t *specific(const struct qcow2 *q)
{
    const struct qcow2_header *h = &q->header;
    bool v3 = h->version >= 3;
    json_t *data = json_pack("{s:s, s:s, s:i}", "compat", v3 ? "1.1" : "0.10", "compression-type",
                             h->compression == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib", "refcount-bits",
                             1 << h->refcount_order);

    if (v3) {
        json_object_set_new(data, "lazy-refcounts",
                            json_boolean(h->compatible & QCOW2_COMPAT_LAZY_REFCOUNTS));
        json_object_set_new(data, "corrupt", json_boolean(h->incompatible & QCOW2_INCOMPAT_CORRUPT));
        json_object_set_new(data, "extended-l2", json_boolean(qcow2_extended_l2(h)));
        if (q->bitmap_count)
            json_object_set_new(data, "bitmaps", bitmaps(q));
        if (qcow2_has_data_file(h)) {
            if (q->data_file_name)
                json_object_set_new(data, "data-file", json_string(q->data_file_name));
            json_object_set_new(data, "data-file-raw", json_boolean(qcow2_data_file_raw(h)));
        }
    }
    return data;
}

void qcow2_describe(struct weir_node *node, json_t *image)
{
    const struct qcow2 *q = node->state;

    json_object_set_new(image, "dirty-flag", json_boolean(q->header.incompatible & QCOW2_INCOMPAT_DIRTY));
    json_object_set_new(image, "format-specific",
                        json_pack("{s:s, s:o}", "type", "qcow2", "data", specific(q)));
    if (q->header.snapshot_count)
        json_object_set_new(image, "snapshots", snapshots(q));
    if (!q->backing_name)
        return;
    json_object_set_new(image, "backing-filename", json_string(q->backing_name));
    {
        weir_autofree char *full = weir_filename_resolve(q->backing_name, weir_node_file_name(node));

        json_object_set_new(image, "full-backing-filename", json_string(full));
    }
    if (q->backing_format)
        json_object_set_new(image, "backing-filename-format", json_string(q->backing_format));
}

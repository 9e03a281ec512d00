/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Another name of a backing file in the header of an open image.
 *
 * The first sector (header, and the format of the backing file, which comes first among the extensions) is what makes
 * the change: it is written last, alone, and after a flush of what lies behind it. For that the new name gets a place
 * that the old one does not use, and the extensions keep theirs; where they cannot, all goes in one write.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "io/io.h"
#include <string.h>

struct first_cluster {
    uint8_t *old, *new;
    size_t room;  /* bytes of both */
    size_t at;    /* end of the new extensions */
    bool shifted; /* an extension has another place than before */
};

static int put_extension(struct first_cluster *first, uint32_t type, const void *data, size_t length)
{
    uint32_t words[2] = { htobe32(type), htobe32((uint32_t)length) };
    size_t left = first->room - first->at, padded = weir_align_up(length, 8);

    if (left < sizeof(words) || padded > left - sizeof(words))
        return -ENOSPC;
    memcpy(first->new + first->at, words, sizeof(words));
    if (length)
        memcpy(first->new + first->at + sizeof(words), data, length);
    first->at += sizeof(words) + padded;
    return 0;
}

/* The format of the backing file first, then all the others as they are. */
static int put_extensions(struct qcow2 *q, struct first_cluster *first, const char *format)
{
    struct qcow2_extension_at extension;
    size_t at = 0, place = q->header.header_length;
    int ret = format ? put_extension(first, QCOW2_EXT_BACKING_FORMAT, format, strlen(format)) : 0;

    while (!ret && (ret = qcow2_extension_next(&q->header, first->old, first->room, &at, &extension)) > 0) {
        if (extension.type == QCOW2_EXT_BACKING_FORMAT) {
            place = at;
            ret = 0;
            continue;
        }
        first->shifted |= first->at != place;
        ret = put_extension(first, extension.type, extension.data, extension.length);
        place = at;
    }
    return ret ? ret : put_extension(first, QCOW2_EXT_END, NULL, 0);
}

/* Behind the extensions, and behind the old name where there is room. */
static int put_name(struct qcow2 *q, struct first_cluster *first, const char *name, uint64_t *ret_offset)
{
    size_t length = strlen(name), old_end = q->header.backing_offset + q->header.backing_size;

    if (length > QCOW2_BACKING_NAME_MAX)
        return -EINVAL;
    *ret_offset = first->at;
    if (first->at < old_end && old_end <= first->room && length <= first->room - old_end)
        *ret_offset = old_end;
    if (length > first->room - *ret_offset)
        return -ENOSPC;
    memcpy(first->new + *ret_offset, name, length);
    return 0;
}

/* Until the first sector says otherwise the old name counts; where it cannot stay in its place, all is one write. */
static void keep_old_name(struct qcow2 *q, struct first_cluster *first, uint64_t offset, size_t length)
{
    uint64_t old = q->header.backing_offset, old_end = old + q->header.backing_size;

    if (!old || old_end > first->room)
        return;
    if (old < first->at || (old < offset + length && offset < old_end))
        first->shifted = true;
    else
        memcpy(first->new + old, first->old + old, q->header.backing_size);
}

static int compose(struct qcow2 *q, struct first_cluster *first, struct qcow2_header *header,
                   const char *name, const char *format)
{
    uint64_t offset = 0;
    int ret;

    first->at = header->header_length;
    memcpy(first->new, first->old, first->at); /* with what of the header we do not know */
    ret = put_extensions(q, first, format);
    if (!ret && name)
        ret = put_name(q, first, name, &offset);
    if (!ret)
        keep_old_name(q, first, offset, name ? strlen(name) : 0);
    header->backing_offset = offset;
    header->backing_size = name ? (uint32_t)strlen(name) : 0;
    if (!ret)
        qcow2_header_write(header, first->new);
    return ret;
}

static weir_co_fn int write_first(struct weir_node *node, const struct first_cluster *first)
{
    struct qcow2 *q = node->state;
    int ret = 0;

    if (first->shifted || first->room <= QCOW2_HEADER_MAX) {
        ret = weir_io_write(q->file, 0, first->room, first->new, 0);
    } else {
        ret = weir_io_write(q->file, QCOW2_HEADER_MAX, first->room - QCOW2_HEADER_MAX,
                            first->new + QCOW2_HEADER_MAX, 0);
        if (!ret)
            ret = weir_io_flush(q->file);
        if (!ret)
            ret = weir_io_write(q->file, 0, QCOW2_HEADER_MAX, first->new, 0);
    }
    return ret ? ret : weir_io_flush(q->file);
}

static char *copy_text(const char *text)
{
    return text ? weir_strdup(text) : NULL;
}

/* Only so much of the cluster is ever used: large ones need not be written whole. */
#define FIRST_MAX ((size_t)65536)

static weir_co_fn int change(struct weir_node *node, struct first_cluster *first, const char *name,
                             const char *format)
{
    struct qcow2 *q = node->state;
    struct qcow2_header header = q->header;
    int ret;

    first->room = WEIR_MIN(qcow2_cluster_size(&q->header), FIRST_MAX);
    first->old = weir_try_alloc(first->room, 8);
    first->new = weir_try_alloc(first->room, 8);
    if (!first->old || !first->new)
        return -ENOMEM;
    memset(first->new, 0, first->room);
    ret = weir_meta_sync_all(node); /* what is to be written of the header is on disk then */
    if (!ret)
        ret = weir_io_read(q->file, 0, first->room, first->old);
    if (!ret)
        ret = compose(q, first, &header, name, format);
    if (!ret)
        ret = write_first(node, first);
    if (ret)
        return ret;
    q->header = header;
    memcpy(q->header_bytes, first->new, sizeof(q->header_bytes));
    free(q->backing_name);
    free(q->backing_format);
    q->backing_name = copy_text(name);
    q->backing_format = copy_text(format);
    return 0;
}

int qcow2_set_backing_name(struct weir_node *node, const char *name, const char *format,
                           struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct first_cluster first = { 0 };
    int ret = q->failed ? -EIO : change(node, &first, name, name ? format : NULL);

    free(first.old);
    free(first.new);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not change the backing file of node '%s' to '%s'",
                                    node->name, name ? name : "");
    return 0;
}

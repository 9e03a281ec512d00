/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The first cluster of an image. The table of feature names lets programs that do not know a feature name it in
 * their errors; small clusters have no room to waste and go without.
 */
#include "format/qcow2/compose.h"

#include <errno.h>
#include <string.h>

#define FEATURE_NAMES_CLUSTER_BITS_MIN 13u

enum { FEATURE_INCOMPATIBLE, FEATURE_COMPATIBLE, FEATURE_AUTOCLEAR };
struct feature_name {
    uint8_t type, bit;
    char name[46];
} __attribute__((packed));
_Static_assert(sizeof(struct feature_name) == 48, "as in the specification");

static const struct feature_name feature_names[] = {
    { FEATURE_INCOMPATIBLE, 0, "dirty bit" },
    { FEATURE_INCOMPATIBLE, 1, "corrupt bit" },
    { FEATURE_INCOMPATIBLE, 2, "external data file" },
    { FEATURE_INCOMPATIBLE, 3, "compression type" },
    { FEATURE_INCOMPATIBLE, 4, "extended L2 entries" },
    { FEATURE_COMPATIBLE, 0, "lazy refcounts" },
    { FEATURE_AUTOCLEAR, 0, "bitmaps" },
    { FEATURE_AUTOCLEAR, 1, "raw external data" },
};

struct cursor {
    uint8_t *bytes;
    size_t at, room;
};

static int add_extension(struct cursor *cursor, uint32_t type, const void *data, size_t length)
{
    uint32_t words[2] = { htobe32(type), htobe32((uint32_t)length) };
    size_t left = cursor->room - cursor->at;

    if (left < sizeof(words) || length > left - sizeof(words) ||
        weir_align_up(length, 8) > left - sizeof(words))
        return -ENOSPC;
    memcpy(cursor->bytes + cursor->at, words, sizeof(words));
    if (length)
        memcpy(cursor->bytes + cursor->at + sizeof(words), data, length);
    cursor->at += sizeof(words) + weir_align_up(length, 8);
    return 0;
}

static int add_text(struct cursor *cursor, uint32_t type, const char *text)
{
    return text ? add_extension(cursor, type, text, strlen(text)) : 0;
}

static int add_extensions(const struct qcow2_header *h, const struct qcow2_texts *texts,
                          struct cursor *cursor)
{
    int ret = add_text(cursor, QCOW2_EXT_BACKING_FORMAT, texts->backing_format);

    if (!ret)
        ret = add_text(cursor, QCOW2_EXT_DATA_FILE, texts->data_file);
    if (!ret && h->version >= 3 && h->cluster_bits >= FEATURE_NAMES_CLUSTER_BITS_MIN)
        ret = add_extension(cursor, QCOW2_EXT_FEATURE_NAMES, feature_names, sizeof(feature_names));
    return ret ? ret : add_extension(cursor, QCOW2_EXT_END, NULL, 0);
}

int qcow2_compose(struct qcow2_header *header, const struct qcow2_texts *texts, uint8_t *bytes)
{
    struct cursor cursor = { bytes, header->header_length, qcow2_cluster_size(header) };
    size_t length = texts->backing ? strlen(texts->backing) : 0;
    int ret;

    if (length > QCOW2_BACKING_NAME_MAX)
        return -EINVAL;
    memset(bytes, 0, cursor.room);
    ret = add_extensions(header, texts, &cursor);
    if (ret)
        return ret;
    if (length > cursor.room - cursor.at)
        return -ENOSPC;
    header->backing_offset = length ? cursor.at : 0;
    header->backing_size = (uint32_t)length;
    if (length)
        memcpy(bytes + cursor.at, texts->backing, length);
    qcow2_header_write(header, bytes);
    return 0;
}

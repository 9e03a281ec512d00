/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading and writing what stands on disk. Image content is never trusted: every field is checked against the
 * specification and the limits of layout.h before anybody computes with it.
 */
#include "format/qcow2/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* ---- the header ---- */

static void from_disk(const struct qcow2_disk_header *disk, struct qcow2_header *h)
{
    *h = (struct qcow2_header){
        .version = be32toh(disk->version),
        .cluster_bits = be32toh(disk->cluster_bits),
        .size = be64toh(disk->size),
        .l1_offset = be64toh(disk->l1_table_offset),
        .refcount_table_offset = be64toh(disk->refcount_table_offset),
        .snapshots_offset = be64toh(disk->snapshots_offset),
        .l1_size = be32toh(disk->l1_size),
        .refcount_table_clusters = be32toh(disk->refcount_table_clusters),
        .snapshot_count = be32toh(disk->nb_snapshots),
        .crypt_method = be32toh(disk->crypt_method),
        .backing_offset = be64toh(disk->backing_file_offset),
        .backing_size = be32toh(disk->backing_file_size),
        .refcount_order = 4,
        .header_length = QCOW2_HEADER_SIZE_V2,
    };
}

static int check_version_3(const struct qcow2_disk_header *disk, struct qcow2_header *h,
                           struct weir_error **err)
{
    h->incompatible = be64toh(disk->incompatible_features);
    h->compatible = be64toh(disk->compatible_features);
    h->autoclear = be64toh(disk->autoclear_features);
    h->refcount_order = be32toh(disk->refcount_order);
    h->header_length = be32toh(disk->header_length);
    if (h->header_length < QCOW2_HEADER_SIZE_V3)
        return weir_error_set(err, -EINVAL, "qcow2 header too short");
    if (h->header_length > qcow2_cluster_size(h) || h->header_length % 8)
        return weir_error_set(err, -EINVAL, "qcow2 header exceeds cluster size");
    if (h->refcount_order > 6)
        return weir_error_set(err, -EINVAL, "Reference count entry width too large; may not exceed 64 bits");
    if (h->header_length > QCOW2_HEADER_SIZE_V3 && disk->compression_type)
        h->compression = (enum qcow2_compression)disk->compression_type;
    return 0;
}

static int check_compression(const struct qcow2_header *h, struct weir_error **err)
{
    bool needs_bit = h->compression != QCOW2_COMPRESSION_ZLIB;

    if (h->compression > QCOW2_COMPRESSION_ZSTD)
        return weir_error_set(err, -ENOTSUP, "Unknown compression type %u", h->compression);
    if (needs_bit != !!(h->incompatible & QCOW2_INCOMPAT_COMPRESSION))
        return weir_error_set(err, -EINVAL,
                              "qcow2: compression type and incompatible feature bit 3 disagree");
    return 0;
}

/* A table of @bytes at @offset: aligned, and inside of what a file can hold. */
static int check_table(const struct qcow2_header *h, const char *what, uint64_t offset, uint64_t bytes,
                       uint64_t max, struct weir_error **err)
{
    if (bytes > max)
        return weir_error_set(err, -EFBIG, "%s too large", what);
    if (offset & (qcow2_cluster_size(h) - 1))
        return weir_error_set(err, -EINVAL, "%s offset invalid", what);
    if (offset > INT64_MAX - bytes)
        return weir_error_set(err, -EINVAL, "%s offset invalid", what);
    return 0;
}

static int check_tables(const struct qcow2_header *h, struct weir_error **err)
{
    uint64_t per_l1 = qcow2_l2_entries(h) << h->cluster_bits;
    uint64_t needed = h->size / per_l1 + !!(h->size % per_l1);
    int ret =
        check_table(h, "Active L1 table", h->l1_offset, h->l1_size * (uint64_t)8, QCOW2_L1_BYTES_MAX, err);

    if (ret)
        return ret;
    if (h->size > INT64_MAX || h->l1_size < needed)
        return weir_error_set(err, -EINVAL, "L1 table is too small");
    if (!h->refcount_table_clusters)
        return weir_error_set(err, -EINVAL, "Image does not contain a reference count table");
    ret = check_table(h, "Reference count table", h->refcount_table_offset,
                      (uint64_t)h->refcount_table_clusters << h->cluster_bits, QCOW2_REFCOUNT_TABLE_BYTES_MAX,
                      err);
    if (ret)
        return ret;
    if (h->snapshot_count > QCOW2_SNAPSHOTS_MAX)
        return weir_error_set(err, -EFBIG, "Snapshot table too large");
    return h->snapshot_count ? check_table(h, "Snapshot table", h->snapshots_offset, 0, 0, err) : 0;
}

int qcow2_header_parse(const void *bytes, size_t length, struct qcow2_header *ret_header,
                       struct weir_error **err)
{
    struct qcow2_disk_header disk = { 0 };
    struct qcow2_header h;
    int ret = 0;

    memcpy(&disk, bytes, WEIR_MIN(length, sizeof(disk)));
    if (length < QCOW2_HEADER_SIZE_V2 || be32toh(disk.magic) != QCOW2_MAGIC)
        return weir_error_set(err, -EINVAL, "Image is not in qcow2 format");
    from_disk(&disk, &h);
    if (h.version != 2 && h.version != 3)
        return weir_error_set(err, -ENOTSUP, "Unsupported qcow2 version %u", h.version);
    if (h.version == 3 && length < QCOW2_HEADER_SIZE_V3)
        return weir_error_set(err, -EINVAL, "qcow2 header too short");
    if (h.cluster_bits < QCOW2_CLUSTER_BITS_MIN || h.cluster_bits > QCOW2_CLUSTER_BITS_MAX)
        return weir_error_set(err, -EINVAL, "Unsupported cluster size: 2^%u", h.cluster_bits);
    if (h.version == 3)
        ret = check_version_3(&disk, &h, err);
    if (!ret)
        ret = check_compression(&h, err);
    if (ret)
        return ret;
    if (qcow2_extended_l2(&h) && h.cluster_bits < 14)
        return weir_error_set(err, -EINVAL, "Extended L2 entries need clusters of at least 16384 bytes");
    if (h.backing_offset) {
        if (h.backing_offset > qcow2_cluster_size(&h) || h.backing_size > QCOW2_BACKING_NAME_MAX ||
            h.backing_size > qcow2_cluster_size(&h) - h.backing_offset)
            return weir_error_set(err, -EINVAL, "Invalid backing file offset");
    } else {
        h.backing_size = 0;
    }
    ret = check_tables(&h, err);
    if (!ret)
        *ret_header = h;
    return ret;
}

void qcow2_header_write(const struct qcow2_header *h, void *bytes)
{
    struct qcow2_disk_header disk = {
        .magic = htobe32(QCOW2_MAGIC),
        .version = htobe32(h->version),
        .backing_file_offset = htobe64(h->backing_offset),
        .backing_file_size = htobe32(h->backing_size),
        .cluster_bits = htobe32(h->cluster_bits),
        .size = htobe64(h->size),
        .crypt_method = htobe32(h->crypt_method),
        .l1_size = htobe32(h->l1_size),
        .l1_table_offset = htobe64(h->l1_offset),
        .refcount_table_offset = htobe64(h->refcount_table_offset),
        .refcount_table_clusters = htobe32(h->refcount_table_clusters),
        .nb_snapshots = htobe32(h->snapshot_count),
        .snapshots_offset = htobe64(h->snapshots_offset),
        .incompatible_features = htobe64(h->incompatible),
        .compatible_features = htobe64(h->compatible),
        .autoclear_features = htobe64(h->autoclear),
        .refcount_order = htobe32(h->refcount_order),
        .header_length = htobe32(h->header_length),
        .compression_type = (uint8_t)h->compression,
    };

    memcpy(bytes, &disk, h->version == 2 ? QCOW2_HEADER_SIZE_V2 : WEIR_MIN(h->header_length, sizeof(disk)));
}

/* ---- extensions ---- */

int qcow2_extension_next(const struct qcow2_header *header, const uint8_t *bytes, size_t length, size_t *at,
                         struct qcow2_extension_at *ret_extension)
{
    size_t end = header->backing_offset ? WEIR_MIN(length, (size_t)header->backing_offset) : length;
    uint32_t words[2];

    if (!*at)
        *at = header->header_length;
    if (*at > end || end - *at < sizeof(words))
        return 0; /* the list may simply end with its room */
    memcpy(words, bytes + *at, sizeof(words));
    *ret_extension =
        (struct qcow2_extension_at){ be32toh(words[0]), be32toh(words[1]), bytes + *at + sizeof(words) };
    if (ret_extension->type == QCOW2_EXT_END)
        return 0;
    *at += sizeof(words);
    if (ret_extension->length > end - *at)
        return -EINVAL;
    *at = WEIR_MIN(*at + weir_align_up(ret_extension->length, 8), end);
    return 1;
}

/* ---- reference counts ---- */

uint64_t qcow2_refcount_get(const void *block, unsigned order, uint64_t index)
{
    const uint8_t *bytes = block;

    switch (order) {
    case 3:
        return bytes[index];
    case 4:
        return be16toh(((const uint16_t *)block)[index]);
    case 5:
        return be32toh(((const uint32_t *)block)[index]);
    case 6:
        return be64toh(((const uint64_t *)block)[index]);
    default: { /* several in a byte, the first in the lowest bits */
        unsigned bits = 1u << order, per_byte = 8 / bits;

        return bytes[index / per_byte] >> index % per_byte * bits & ((1u << bits) - 1);
    }
    }
}

void qcow2_refcount_set(void *block, unsigned order, uint64_t index, uint64_t count)
{
    uint8_t *bytes = block;

    switch (order) {
    case 3:
        bytes[index] = (uint8_t)count;
        break;
    case 4:
        ((uint16_t *)block)[index] = htobe16((uint16_t)count);
        break;
    case 5:
        ((uint32_t *)block)[index] = htobe32((uint32_t)count);
        break;
    case 6:
        ((uint64_t *)block)[index] = htobe64(count);
        break;
    default: {
        unsigned bits = 1u << order, per_byte = 8 / bits, shift = (unsigned)(index % per_byte) * bits;
        unsigned mask = ((1u << bits) - 1) << shift;
        uint8_t *byte = &bytes[index / per_byte];

        *byte = (uint8_t)((*byte & ~mask) | ((unsigned)count << shift & mask));
    }
    }
}

/* ---- compressed clusters ---- */

void qcow2_compressed_get(uint64_t entry, unsigned cluster_bits, uint64_t *ret_offset, uint64_t *ret_length)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t sectors = (entry & (QCOW2_COMPRESSED - 1)) >> x;

    *ret_offset = entry & (((uint64_t)1 << x) - 1);
    *ret_length = (sectors + 1) * 512 - (*ret_offset & 511);
}

uint64_t qcow2_compressed_make(uint64_t offset, uint64_t length, unsigned cluster_bits)
{
    unsigned x = 62 - (cluster_bits - 8);
    uint64_t sectors = (offset + length - 1) / 512 - offset / 512;

    return QCOW2_COMPRESSED | sectors << x | offset;
}

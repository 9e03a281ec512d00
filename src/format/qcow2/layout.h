/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layout of a qcow2 image (public specification "qcow2", docs/interop of the QEMU project), and its header as
 * C. All numbers on disk are big endian. Pure functions on bytes; any thread.
 *
 *   header | refcount table -> refcount blocks | L1 table -> L2 tables -> data, in clusters of a power of two
 */
#ifndef WEIR_FORMAT_QCOW2_LAYOUT_H
#define WEIR_FORMAT_QCOW2_LAYOUT_H

#include "base/error.h"
#include "base/macros.h"
#include <endian.h>

#define QCOW2_MAGIC 0x514649fbu
#define QCOW2_CLUSTER_BITS_MIN 9u
#define QCOW2_CLUSTER_BITS_MAX 21u
#define QCOW2_HEADER_SIZE_V2 72u
#define QCOW2_HEADER_SIZE_V3 104u
#define QCOW2_HEADER_MAX 512u /* what is read of the fixed part; the smallest cluster */
#define QCOW2_BACKING_NAME_MAX 1023u
#define QCOW2_L1_BYTES_MAX ((uint64_t)32 << 20)
#define QCOW2_REFCOUNT_TABLE_BYTES_MAX ((uint64_t)8 << 20)
#define QCOW2_SNAPSHOTS_MAX 65536u
#define QCOW2_SNAPSHOT_EXTRA_MAX 1024u
#define QCOW2_SNAPSHOT_TABLE_MAX ((uint64_t)64 << 20)
#define QCOW2_BITMAPS_MAX 65535u
#define QCOW2_BITMAP_DIRECTORY_MAX ((uint64_t)64 << 20)
#define QCOW2_SUBCLUSTERS 32u

enum qcow2_incompatible {
    QCOW2_INCOMPAT_DIRTY = 1 << 0,
    QCOW2_INCOMPAT_CORRUPT = 1 << 1,
    QCOW2_INCOMPAT_DATA_FILE = 1 << 2,
    QCOW2_INCOMPAT_COMPRESSION = 1 << 3,
    QCOW2_INCOMPAT_EXTENDED_L2 = 1 << 4,
    QCOW2_INCOMPAT_KNOWN = (1 << 5) - 1,
};
enum qcow2_compatible { QCOW2_COMPAT_LAZY_REFCOUNTS = 1 << 0 };
enum qcow2_autoclear {
    QCOW2_AUTOCLEAR_BITMAPS = 1 << 0,
    QCOW2_AUTOCLEAR_DATA_FILE_RAW = 1 << 1,
    QCOW2_AUTOCLEAR_KNOWN = (1 << 2) - 1,
};
enum qcow2_extension {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXT_BITMAPS = 0x23852875,
    QCOW2_EXT_ENCRYPTION = 0x0537be77,
    QCOW2_EXT_DATA_FILE = 0x44415441,
};
enum qcow2_compression { QCOW2_COMPRESSION_ZLIB, QCOW2_COMPRESSION_ZSTD };

/* The fixed part of the header, as it stands on disk (bytes 0 to 111). */
struct qcow2_disk_header {
    uint32_t magic, version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size, cluster_bits;
    uint64_t size;                  /* bytes of the guest's disk */
    uint32_t crypt_method, l1_size; /* l1_size: entries */
    uint64_t l1_table_offset, refcount_table_offset;
    uint32_t refcount_table_clusters, nb_snapshots;
    uint64_t snapshots_offset;
    /* version 3 */
    uint64_t incompatible_features, compatible_features, autoclear_features;
    uint32_t refcount_order, header_length;
    uint8_t compression_type, padding[7];
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_disk_header) == 112, "as in the specification");

/* One entry of the snapshot table; extra data, id, name and padding to 8 bytes follow. */
struct qcow2_disk_snapshot {
    uint64_t l1_table_offset;
    uint32_t l1_size;
    uint16_t id_size, name_size;
    uint32_t date_s, date_ns;
    uint64_t vm_clock_ns;
    uint32_t vm_state_size, extra_size;
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_disk_snapshot) == 40, "as in the specification");

/* The bitmaps extension, and one entry of the directory; extra data, name and padding to 8 bytes follow the entry. */
struct qcow2_disk_bitmaps {
    uint32_t nb_bitmaps, reserved;
    uint64_t directory_size, directory_offset;
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_disk_bitmaps) == 24, "as in the specification");
struct qcow2_disk_bitmap {
    uint64_t table_offset;
    uint32_t table_size, flags; /* table_size: entries */
    uint8_t type, granularity_bits;
    uint16_t name_size;
    uint32_t extra_size;
} __attribute__((packed));
_Static_assert(sizeof(struct qcow2_disk_bitmap) == 24, "as in the specification");
enum qcow2_bitmap_flags {
    QCOW2_BITMAP_IN_USE = 1 << 0,
    QCOW2_BITMAP_AUTO = 1 << 1,
    QCOW2_BITMAP_EXTRA_OK = 1 << 2
};

/* ---- table entries (in the host's byte order) ---- */
#define QCOW2_COPIED ((uint64_t)1 << 63) /* L1, L2: the reference count is exactly one */
#define QCOW2_COMPRESSED ((uint64_t)1 << 62)
#define QCOW2_ZERO ((uint64_t)1 << 0) /* L2, version 3, standard entries */
#define QCOW2_OFFSET_MASK ((uint64_t)0x00fffffffffffe00)
#define QCOW2_REFCOUNT_OFFSET_MASK ((uint64_t)0xfffffffffffffe00)
#define QCOW2_L1_RESERVED ((uint64_t)0x7f000000000001ff)
#define QCOW2_L2_RESERVED ((uint64_t)0x3f000000000001fe)
/* The second word of an extended entry. */
#define QCOW2_SUB_ALLOCATED(i) ((uint64_t)1 << (i))
#define QCOW2_SUB_ZERO(i) ((uint64_t)1 << ((i) + 32))

/* What all of the code asks of a header; checked by qcow2_header_parse(). */
struct qcow2_header {
    unsigned version, cluster_bits, refcount_order;
    uint64_t size;
    uint64_t l1_offset, refcount_table_offset, snapshots_offset;
    uint32_t l1_size, refcount_table_clusters, snapshot_count, crypt_method;
    uint64_t incompatible, compatible, autoclear;
    uint32_t header_length;
    enum qcow2_compression compression;
    uint64_t backing_offset;
    uint32_t backing_size; /* bytes, without an end */
};

static inline uint64_t qcow2_cluster_size(const struct qcow2_header *h)
{
    return (uint64_t)1 << h->cluster_bits;
}
static inline bool qcow2_extended_l2(const struct qcow2_header *h)
{
    return h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
}
static inline bool qcow2_has_data_file(const struct qcow2_header *h)
{
    return h->incompatible & QCOW2_INCOMPAT_DATA_FILE;
}
static inline bool qcow2_data_file_raw(const struct qcow2_header *h)
{
    return h->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}
/* Bytes of one L2 entry, and guest clusters that one L2 table maps. */
static inline uint64_t qcow2_l2_entry_size(const struct qcow2_header *h)
{
    return qcow2_extended_l2(h) ? 16 : 8;
}
static inline uint64_t qcow2_l2_entries(const struct qcow2_header *h)
{
    return qcow2_cluster_size(h) / qcow2_l2_entry_size(h);
}
/* Host clusters that one refcount block counts. */
static inline uint64_t qcow2_block_entries(const struct qcow2_header *h)
{
    return qcow2_cluster_size(h) * 8 >> h->refcount_order;
}
static inline uint64_t qcow2_refcount_max(const struct qcow2_header *h)
{
    return h->refcount_order == 6 ? UINT64_MAX : ((uint64_t)1 << (1u << h->refcount_order)) - 1;
}
static inline uint64_t qcow2_clusters(const struct qcow2_header *h, uint64_t bytes)
{
    return (bytes >> h->cluster_bits) + !!(bytes & (qcow2_cluster_size(h) - 1));
}

/*
 * Checks the first @length bytes of an image (at least QCOW2_HEADER_MAX, or the whole file) and fills @ret_header.
 * Only the form is judged: versions, sizes, alignments, limits; features that are unknown, a data file or encryption
 * are left to the caller. -EINVAL for what is no qcow2 image or a broken one, -ENOTSUP for an unknown version.
 */
int qcow2_header_parse(const void *bytes, size_t length, struct qcow2_header *ret_header,
                       struct weir_error **err) weir_must_check;
/* Writes the fixed part: QCOW2_HEADER_SIZE_V2 bytes, or 112 for version 3. Extensions are not touched. */
void qcow2_header_write(const struct qcow2_header *header, void *bytes);

/* Walks the extensions in the header's first cluster. @at begins 0; false at the end. -> *ret_type, data, length. */
struct qcow2_extension_at {
    uint32_t type, length;
    const uint8_t *data;
};
/* @bytes: the first cluster. Returns 1 with an extension, 0 at the end, -EINVAL for a broken list. */
int qcow2_extension_next(const struct qcow2_header *header, const uint8_t *bytes, size_t length, size_t *at,
                         struct qcow2_extension_at *ret_extension);

/* Count number @index of a refcount block. */
uint64_t qcow2_refcount_get(const void *block, unsigned refcount_order, uint64_t index);
void qcow2_refcount_set(void *block, unsigned refcount_order, uint64_t index, uint64_t count);

/* Where a compressed cluster is stored: bytes; the length counts whole 512-byte sectors and may be too long. */
void qcow2_compressed_get(uint64_t entry, unsigned cluster_bits, uint64_t *ret_offset, uint64_t *ret_length);
/* The entry for @length bytes stored at @offset. */
uint64_t qcow2_compressed_make(uint64_t offset, uint64_t length, unsigned cluster_bits);

#endif

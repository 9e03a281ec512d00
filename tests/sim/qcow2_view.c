/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading qcow2 images on the medium: their header, and what a guest would see.
 */
#include "qcow2_medium_internal.h"

#include "base/alloc.h"
#include <libdeflate.h>
#include <string.h>
#include <zstd.h>

/* ---- numbers ---- */

uint64_t medium_word(struct weir_sim_file *file, uint64_t offset)
{
    uint64_t word;

    weir_sim_file_peek(file, offset, &word, sizeof(word));
    return be64toh(word);
}

uint64_t medium_count_get(const void *block, unsigned order, uint64_t index)
{
    const uint8_t *bytes = block;
    unsigned bits = 1u << order;
    uint64_t count = 0;

    if (bits < 8)
        return bytes[index * bits / 8] >> index * bits % 8 & ((1u << bits) - 1);
    for (unsigned i = 0; i < bits / 8; i++)
        count = count << 8 | bytes[index * (bits / 8) + i];
    return count;
}

void medium_count_set(void *block, unsigned order, uint64_t index, uint64_t count)
{
    uint8_t *bytes = block;
    unsigned bits = 1u << order;

    if (bits < 8) {
        uint8_t *byte = &bytes[index * bits / 8];
        unsigned shift = (unsigned)(index * bits % 8), mask = ((1u << bits) - 1) << shift;

        *byte = (uint8_t)((*byte & ~mask) | (unsigned)count << shift);
        return;
    }
    for (unsigned i = bits / 8; i--; count >>= 8)
        bytes[index * (bits / 8) + i] = (uint8_t)count;
}

void medium_stored_range(const struct medium_header *header, uint64_t entry, uint64_t *ret_offset,
                         uint64_t *ret_length)
{
    unsigned x = 62 - (header->bits - 8);
    uint64_t offset = entry & (((uint64_t)1 << x) - 1), sectors = entry << 2 >> 2 >> x;

    *ret_offset = offset;
    *ret_length = (offset / 512 + sectors + 1) * 512 - offset;
}

/* ---- header and snapshot table ---- */

static void check_features(const struct qcow2_disk_header *disk, struct medium_header *h)
{
    uint64_t incompatible = be64toh(disk->incompatible_features),
             autoclear = be64toh(disk->autoclear_features);

    MEDIUM_CHECK(!(incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN) &&
                     !(incompatible & QCOW2_INCOMPAT_CORRUPT) &&
                     !(autoclear & ~(uint64_t)QCOW2_AUTOCLEAR_KNOWN),
                 "the header has features %#llx and %#llx", (unsigned long long)incompatible,
                 (unsigned long long)autoclear);
    h->order = be32toh(disk->refcount_order);
    h->dirty = incompatible & QCOW2_INCOMPAT_DIRTY;
    h->external = incompatible & QCOW2_INCOMPAT_DATA_FILE;
    h->extended = incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
    h->zstd = incompatible & QCOW2_INCOMPAT_COMPRESSION;
    h->raw = autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

void medium_header_read(const struct qcow2_medium *medium, struct medium_header *h)
{
    struct qcow2_disk_header disk;

    weir_sim_file_peek(medium->file, 0, &disk, sizeof(disk));
    *h = (struct medium_header){
        .version = be32toh(disk.version),
        .bits = be32toh(disk.cluster_bits),
        .order = 4,
        .size = be64toh(disk.size),
        .l1_offset = be64toh(disk.l1_table_offset),
        .l1_size = be32toh(disk.l1_size),
        .table_offset = be64toh(disk.refcount_table_offset),
        .table_clusters = be32toh(disk.refcount_table_clusters),
        .snapshots_offset = be64toh(disk.snapshots_offset),
        .snapshots = be32toh(disk.nb_snapshots),
    };
    MEDIUM_CHECK(be32toh(disk.magic) == QCOW2_MAGIC && (h->version == 2 || h->version == 3) && h->bits >= 9 &&
                     h->bits <= 21 && !disk.crypt_method,
                 "the header is broken: version %u, clusters of 2^%u", h->version, h->bits);
    if (h->version == 3)
        check_features(&disk, h);
    MEDIUM_CHECK(h->order <= 6 && h->external == !!medium->data, "the header is broken: counts of 2^%u bits",
                 h->order);
    h->cluster = (uint64_t)1 << h->bits;
    h->entry_size = h->extended ? 16 : 8;
    h->l2_entries = h->cluster / h->entry_size;
    h->block_entries = h->cluster * 8 >> h->order;
}

void medium_snapshot_read(const struct qcow2_medium *medium, const struct medium_header *h, uint64_t *at,
                          struct medium_snapshot *ret_snapshot)
{
    struct qcow2_disk_snapshot disk;
    uint64_t extra[2] = { 0, htobe64(h->size) };

    weir_sim_file_peek(medium->file, *at, &disk, sizeof(disk));
    if (be32toh(disk.extra_size) >= sizeof(extra))
        weir_sim_file_peek(medium->file, *at + sizeof(disk), extra, sizeof(extra));
    ret_snapshot->l1_offset = be64toh(disk.l1_table_offset);
    ret_snapshot->l1_size = be32toh(disk.l1_size);
    ret_snapshot->size = be64toh(extra[1]);
    *at += weir_align_up(
        sizeof(disk) + be32toh(disk.extra_size) + be16toh(disk.id_size) + be16toh(disk.name_size), 8);
}

/* ---- what a guest sees ---- */

struct view {
    const struct qcow2_medium *medium;
    struct medium_header header;
    uint64_t l1_offset, l1_size;
    qcow2_medium_backing *backing;
    void *arg;
    uint8_t *cluster; /* one, for what has to be decoded */
    struct libdeflate_decompressor *inflate;
};

static void view_init(struct view *view, unsigned number)
{
    struct medium_snapshot snapshot = { 0 };
    uint64_t at;

    medium_header_read(view->medium, &view->header);
    view->l1_offset = view->header.l1_offset;
    view->l1_size = view->header.l1_size;
    at = view->header.snapshots_offset;
    MEDIUM_CHECK(number <= view->header.snapshots, "there is no snapshot %u", number);
    for (unsigned i = 0; i < number; i++)
        medium_snapshot_read(view->medium, &view->header, &at, &snapshot);
    if (number) {
        view->l1_offset = snapshot.l1_offset;
        view->l1_size = snapshot.l1_size;
    }
    view->cluster = weir_alloc(view->header.cluster);
    view->inflate = libdeflate_alloc_decompressor();
    WEIR_ASSERT(view->inflate);
}

static void view_done(struct view *view)
{
    libdeflate_free_decompressor(view->inflate);
    free(view->cluster);
}

static bool inflate_cluster(struct view *view, const uint8_t *stored, uint64_t length)
{
    uint64_t cluster = view->header.cluster;
    size_t in, out, frame;

    if (!view->header.zstd)
        return libdeflate_deflate_decompress_ex(view->inflate, stored, length, view->cluster, cluster, &in,
                                                &out) == LIBDEFLATE_SUCCESS &&
               out == cluster;
    frame = ZSTD_findFrameCompressedSize(stored, length);
    return !ZSTD_isError(frame) && ZSTD_decompress(view->cluster, cluster, stored, frame) == cluster;
}

static void read_stored(struct view *view, uint64_t entry, uint64_t in, uint64_t length, uint8_t *out)
{
    uint64_t offset, stored_length;
    uint8_t *stored;

    medium_stored_range(&view->header, entry, &offset, &stored_length);
    stored = weir_alloc(stored_length);
    weir_sim_file_peek(view->medium->file, offset, stored, stored_length);
    MEDIUM_CHECK(inflate_cluster(view, stored, stored_length),
                 "the compressed cluster at %#llx of %llu bytes cannot be decoded",
                 (unsigned long long)offset, (unsigned long long)stored_length);
    free(stored);
    memcpy(out, view->cluster + in, length);
}

static void read_plain(struct view *view, uint64_t offset, uint64_t length, uint8_t *out)
{
    weir_sim_file_peek(view->medium->data ? view->medium->data : view->medium->file, offset, out, length);
}

/* @in: of the cluster; @at: of the disk. */
static void read_subclusters(struct view *view, const uint64_t *entry, uint64_t at, uint64_t length,
                             uint8_t *out)
{
    uint64_t sub = view->header.cluster / QCOW2_SUBCLUSTERS, cluster = view->header.cluster;

    for (uint64_t done = 0, piece; done < length; done += piece) {
        uint64_t in = (at + done) % cluster, i = in / sub;

        piece = WEIR_MIN(length - done, sub - in % sub);
        if (entry[1] & QCOW2_SUB_ALLOCATED(i))
            read_plain(view, (entry[0] & QCOW2_OFFSET_MASK) + in, piece, out + done);
        else if (entry[1] & QCOW2_SUB_ZERO(i))
            memset(out + done, 0, piece);
        else
            view->backing(view->arg, at + done, piece, out + done);
    }
}

/* [@at, @at + @length) lies in one cluster. */
static void read_piece(struct view *view, uint64_t at, uint64_t length, uint8_t *out)
{
    const struct medium_header *h = &view->header;
    uint64_t index = at / h->cluster, in = at % h->cluster, l1 = 0, entry[2] = { 0 };

    if (index / h->l2_entries < view->l1_size)
        l1 = medium_word(view->medium->file, view->l1_offset + index / h->l2_entries * 8) & QCOW2_OFFSET_MASK;
    for (uint64_t i = 0; l1 && i < h->entry_size / 8; i++)
        entry[i] = medium_word(view->medium->file, l1 + index % h->l2_entries * h->entry_size + i * 8);
    if (entry[0] & QCOW2_COMPRESSED)
        read_stored(view, entry[0], in, length, out);
    else if (h->extended)
        read_subclusters(view, entry, at, length, out);
    else if (entry[0] & QCOW2_ZERO)
        memset(out, 0, length);
    else if (entry[0] & (h->external ? QCOW2_OFFSET_MASK | QCOW2_COPIED : QCOW2_OFFSET_MASK))
        read_plain(view, (entry[0] & QCOW2_OFFSET_MASK) + in, length, out);
    else
        view->backing(view->arg, at, length, out);
}

void qcow2_medium_read(const struct qcow2_medium *medium, unsigned number, uint64_t offset, uint64_t length,
                       uint8_t *out, qcow2_medium_backing *backing, void *arg)
{
    struct view view = { .medium = medium, .backing = backing, .arg = arg };

    view_init(&view, number);
    for (uint64_t done = 0, piece; done < length; done += piece) {
        uint64_t at = offset + done;

        piece = WEIR_MIN(length - done, view.header.cluster - at % view.header.cluster);
        read_piece(&view, at, piece, out + done);
    }
    view_done(&view);
}

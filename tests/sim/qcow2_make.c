/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making and changing qcow2 images on the medium while nobody has them open. All that is written is durable.
 *
 * Space is taken from the end of the image, whatever is free in front of it.
 */
#include "qcow2_medium_internal.h"

#include "base/alloc.h"
#include <libdeflate.h>
#include <string.h>
#include <zstd.h>

struct edit {
    const struct qcow2_medium *medium;
    struct medium_header header;
    uint64_t end; /* clusters; all from here on are unused */
};

static void put_word(const struct edit *edit, uint64_t offset, uint64_t value)
{
    uint64_t word = htobe64(value);

    weir_sim_file_put(edit->medium->file, offset, &word, sizeof(word));
}

/* The header's numbers that editing changes. */
static void put_header(const struct edit *edit)
{
    const struct medium_header *h = &edit->header;
    struct qcow2_disk_header disk;

    weir_sim_file_peek(edit->medium->file, 0, &disk, sizeof(disk));
    disk.refcount_table_offset = htobe64(h->table_offset);
    disk.refcount_table_clusters = htobe32((uint32_t)h->table_clusters);
    disk.l1_table_offset = htobe64(h->l1_offset);
    disk.l1_size = htobe32((uint32_t)h->l1_size);
    disk.snapshots_offset = htobe64(h->snapshots_offset);
    disk.nb_snapshots = htobe32(h->snapshots);
    weir_sim_file_put(edit->medium->file, 0, &disk, sizeof(disk));
}

static void clear(const struct edit *edit, uint64_t cluster, uint64_t count)
{
    uint8_t *zeroes = weir_alloc(edit->header.cluster);

    for (uint64_t i = 0; i < count; i++)
        weir_sim_file_put(edit->medium->file, (cluster + i) * edit->header.cluster, zeroes,
                          edit->header.cluster);
    free(zeroes);
}

/* ---- counts ---- */

static void change_count(struct edit *edit, uint64_t cluster, int by);

/* The table is full: one of twice the size, the old one is free. */
static void grow_table(struct edit *edit, uint64_t index)
{
    struct medium_header *h = &edit->header;
    uint64_t old_offset = h->table_offset, old_clusters = h->table_clusters, clusters = old_clusters;
    uint64_t start = edit->end;

    while (index >= clusters * h->cluster / 8)
        clusters *= 2;
    edit->end += clusters;
    clear(edit, start, clusters);
    for (uint64_t i = 0; i < old_clusters * h->cluster / 8; i++)
        put_word(edit, start * h->cluster + i * 8, medium_word(edit->medium->file, old_offset + i * 8));
    h->table_offset = start * h->cluster;
    h->table_clusters = clusters;
    for (uint64_t i = 0; i < clusters; i++)
        change_count(edit, start + i, 1);
    for (uint64_t i = 0; i < old_clusters; i++)
        change_count(edit, old_offset / h->cluster + i, -1);
    put_header(edit);
}

/* The block that counts @cluster; made where there is none. */
static uint64_t block_of(struct edit *edit, uint64_t cluster)
{
    const struct medium_header *h = &edit->header;
    uint64_t index = cluster / h->block_entries, block;

    if (index >= h->table_clusters * h->cluster / 8)
        grow_table(edit, index);
    block = medium_word(edit->medium->file, h->table_offset + index * 8);
    if (!block) {
        uint64_t at = edit->end++;

        clear(edit, at, 1);
        block = at * h->cluster;
        put_word(edit, h->table_offset + index * 8, block);
        change_count(edit, at, 1);
    }
    return block;
}

static uint64_t count_of(struct edit *edit, uint64_t cluster)
{
    uint8_t bytes[8];
    unsigned order = edit->header.order;
    uint64_t index = cluster % edit->header.block_entries, first = index << order >> 3;

    weir_sim_file_peek(edit->medium->file, block_of(edit, cluster) + first, bytes,
                       WEIR_MAX(1u << order >> 3, 1u));
    return medium_count_get(bytes, order, order < 3 ? index % (8u >> order) : 0);
}

static void change_count(struct edit *edit, uint64_t cluster, int by)
{
    unsigned order = edit->header.order, size = WEIR_MAX(1u << order >> 3, 1u);
    uint64_t index = cluster % edit->header.block_entries, first = index << order >> 3;
    uint64_t at = order < 3 ? index % (8u >> order) : 0, block = block_of(edit, cluster);
    uint8_t bytes[8];

    weir_sim_file_peek(edit->medium->file, block + first, bytes, size);
    medium_count_set(bytes, order, at, medium_count_get(bytes, order, at) + (uint64_t)(int64_t)by);
    weir_sim_file_put(edit->medium->file, block + first, bytes, size);
}

/*
 * @count adjacent clusters that are counted once; zeroed. Behind the end of the file a power cut may have left counts
 * of clusters that were never written: these are passed over, as a count of one bit cannot be raised.
 */
static uint64_t take(struct edit *edit, uint64_t count)
{
    uint64_t start = edit->end;

    for (uint64_t i = 0; i < count; i++) {
        if (count_of(edit, start + i)) {
            start += i + 1;
            i = (uint64_t)-1;
        }
    }
    edit->end = start + count;
    clear(edit, start, count);
    for (uint64_t i = 0; i < count; i++)
        change_count(edit, start + i, 1);
    return start;
}

static uint64_t clusters_of(const struct edit *edit, uint64_t bytes)
{
    return (bytes + edit->header.cluster - 1) / edit->header.cluster;
}

static uint64_t count_max(const struct edit *edit)
{
    return edit->header.order == 6 ? UINT64_MAX : ((uint64_t)1 << (1u << edit->header.order)) - 1;
}

static struct edit edit_open(const struct qcow2_medium *medium)
{
    struct edit edit = { .medium = medium };
    uint64_t blocks;

    medium_header_read(medium, &edit.header);
    edit.end = clusters_of(&edit, weir_sim_file_size(medium->file));
    /* Clusters may be counted that no byte was written to yet. */
    blocks = edit.header.table_clusters * edit.header.cluster / 8;
    while (edit.end / edit.header.block_entries < blocks &&
           medium_word(medium->file, edit.header.table_offset + edit.end / edit.header.block_entries * 8) &&
           count_of(&edit, edit.end))
        edit.end++;
    return edit;
}

/* ---- a fresh one ---- */

static void put_new_header(const struct qcow2_medium *medium, const struct qcow2_medium_params *params)
{
    struct qcow2_disk_header disk = {
        .magic = htobe32(QCOW2_MAGIC),
        .version = htobe32(params->version),
        .cluster_bits = htobe32(params->cluster_bits),
        .size = htobe64(params->size),
        .refcount_table_offset = htobe64((uint64_t)1 << params->cluster_bits),
        .refcount_table_clusters = htobe32(1),
    };
    uint64_t incompatible = 0;

    WEIR_ASSERT(params->version == 3 ||
                (params->refcount_order == 4 && !params->extended_l2 && !medium->data));
    if (params->version == 3) {
        incompatible |= medium->data ? QCOW2_INCOMPAT_DATA_FILE : 0;
        incompatible |= params->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0;
        incompatible |= params->zstd ? QCOW2_INCOMPAT_COMPRESSION : 0;
        disk.incompatible_features = htobe64(incompatible);
        disk.compatible_features = htobe64(params->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0);
        disk.autoclear_features = htobe64(params->data_raw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0);
        disk.refcount_order = htobe32(params->refcount_order);
        disk.header_length =
            htobe32(params->short_header && !params->zstd ? QCOW2_HEADER_SIZE_V3 : (uint32_t)sizeof(disk));
        disk.compression_type = params->zstd;
    }
    weir_sim_file_put(medium->file, 0, &disk, sizeof(disk));
}

void qcow2_medium_make(const struct qcow2_medium *medium, const struct qcow2_medium_params *params)
{
    struct edit edit = { .medium = medium };
    uint64_t per_l1, start;

    put_new_header(medium, params);
    medium_header_read(medium, &edit.header);
    clear(&edit, 1, 1);
    edit.end = 2;
    change_count(&edit, 0, 1);
    change_count(&edit, 1, 1);
    for (uint64_t i = 0; i < params->skip; i++)
        change_count(&edit, edit.end++, 1);
    per_l1 = edit.header.l2_entries * edit.header.cluster;
    edit.header.l1_size = (params->size + per_l1 - 1) / per_l1 + params->l1_spare;
    start = take(&edit, WEIR_MAX(clusters_of(&edit, edit.header.l1_size * 8), 1u));
    edit.header.l1_offset = start * edit.header.cluster;
    put_header(&edit);
}

/* ---- content ---- */

/* A snapshot shares the table: what it refers to stays counted for both. */
static uint64_t copy_l2(struct edit *edit, uint64_t slot, uint64_t old)
{
    uint64_t size = edit->header.cluster, copy = take(edit, 1) * size;
    uint8_t *bytes = weir_alloc(size);

    weir_sim_file_peek(edit->medium->file, old, bytes, size);
    weir_sim_file_put(edit->medium->file, copy, bytes, size);
    free(bytes);
    put_word(edit, slot, copy | QCOW2_COPIED);
    change_count(edit, old / size, -1);
    return copy;
}

static uint64_t l2_of(struct edit *edit, uint64_t guest_cluster)
{
    const struct medium_header *h = &edit->header;
    uint64_t slot = h->l1_offset + guest_cluster / h->l2_entries * 8;
    uint64_t entry = medium_word(edit->medium->file, slot);

    WEIR_ASSERT(guest_cluster / h->l2_entries < h->l1_size);
    if (!entry) {
        entry = take(edit, 1) * h->cluster | QCOW2_COPIED;
        put_word(edit, slot, entry);
    }
    return entry & QCOW2_COPIED ? entry & QCOW2_OFFSET_MASK : copy_l2(edit, slot, entry & QCOW2_OFFSET_MASK);
}

static uint64_t shrink(const struct edit *edit, const void *bytes, uint8_t *out)
{
    uint64_t cluster = edit->header.cluster, length;
    struct libdeflate_compressor *deflate;

    if (edit->header.zstd) {
        length = ZSTD_compress(out, cluster - 1, bytes, cluster, 1);
        return ZSTD_isError(length) ? 0 : length;
    }
    deflate = libdeflate_alloc_compressor(1);
    WEIR_ASSERT(deflate);
    length = libdeflate_deflate_compress(deflate, bytes, cluster, out, cluster - 1);
    libdeflate_free_compressor(deflate);
    return length;
}

/* Stored clusters follow each other at any byte, over the edges of host clusters, where their counts allow it. */
static uint64_t place_stored(struct edit *edit, const uint8_t *stored, uint64_t length)
{
    uint64_t cluster = edit->header.cluster, offset = weir_sim_file_size(edit->medium->file);
    uint64_t last = edit->end - 1, x = 62 - (edit->header.bits - 8);

    /* A file that ends inside of a cluster ends with stored ones: nothing else does. */
    if (offset % cluster && count_of(edit, last) < count_max(edit))
        change_count(edit, last, 1);
    else
        offset = edit->end * cluster;
    while (edit->end * cluster < offset + length)
        change_count(edit, edit->end++, 1);
    weir_sim_file_put(edit->medium->file, offset, stored, length);
    return QCOW2_COMPRESSED | ((offset + length - 1) / 512 - offset / 512) << x | offset;
}

/* The entry for a cluster with a place of its own. */
static uint64_t place_plain(struct edit *edit, uint64_t guest_cluster, const void *bytes)
{
    uint64_t offset;

    if (edit->medium->data) {
        offset = guest_cluster * edit->header.cluster;
        weir_sim_file_put(edit->medium->data, offset, bytes, edit->header.cluster);
    } else {
        offset = take(edit, 1) * edit->header.cluster;
        weir_sim_file_put(edit->medium->file, offset, bytes, edit->header.cluster);
    }
    return offset | QCOW2_COPIED;
}

bool qcow2_medium_lay(const struct qcow2_medium *medium, uint64_t guest_cluster, const void *bytes,
                      enum qcow2_lay how)
{
    struct edit edit = edit_open(medium);
    const struct medium_header *h = &edit.header;
    uint64_t slot = l2_of(&edit, guest_cluster) + guest_cluster % h->l2_entries * h->entry_size;
    uint64_t entry = 0, sub = how == QCOW2_LAY_PLAIN ? UINT32_MAX : 0, length;
    uint8_t *stored;

    WEIR_ASSERT(!medium_word(medium->file, slot));
    if (how == QCOW2_LAY_STORED) {
        stored = weir_alloc(h->cluster);
        length = shrink(&edit, bytes, stored);
        if (length)
            entry = place_stored(&edit, stored, length);
        free(stored);
        if (!length)
            return false;
    } else if (how != QCOW2_LAY_ZERO) {
        entry = place_plain(&edit, guest_cluster, bytes);
    }
    if (how == QCOW2_LAY_ZERO || how == QCOW2_LAY_KEPT) {
        WEIR_ASSERT(h->version == 3);
        entry |= h->extended ? 0 : QCOW2_ZERO;
        sub = (uint64_t)UINT32_MAX << 32;
    }
    put_word(&edit, slot, entry);
    if (h->extended)
        put_word(&edit, slot + 8, sub);
    return true;
}

/* ---- snapshots ---- */

/* Calls @each for every cluster that the active L1 table refers to, and clears the flag of each entry if asked. */
static bool each_reference(struct edit *edit, bool unflag, bool (*each)(struct edit *edit, uint64_t cluster))
{
    const struct medium_header *h = &edit->header;

    for (uint64_t i = 0; i < h->l1_size; i++) {
        uint64_t slot = h->l1_offset + i * 8, l1 = medium_word(edit->medium->file, slot);
        uint64_t l2 = l1 & QCOW2_OFFSET_MASK;

        if (!l2)
            continue;
        if (!each(edit, l2 / h->cluster))
            return false;
        if (unflag)
            put_word(edit, slot, l1 & ~QCOW2_COPIED);
        for (uint64_t j = 0; j < h->l2_entries; j++) {
            uint64_t entry = medium_word(edit->medium->file, l2 + j * h->entry_size);
            uint64_t offset = entry & QCOW2_OFFSET_MASK, length = h->cluster;

            if (entry & QCOW2_COMPRESSED)
                medium_stored_range(h, entry, &offset, &length);
            for (uint64_t c = offset / h->cluster; offset && c <= (offset + length - 1) / h->cluster; c++) {
                if (!each(edit, c))
                    return false;
            }
            if (unflag && entry & QCOW2_COPIED)
                put_word(edit, l2 + j * h->entry_size, entry & ~QCOW2_COPIED);
        }
    }
    return true;
}

/* How many counts were raised before one could not be: these are lowered again. */
static uint64_t raised;

static bool raise_one(struct edit *edit, uint64_t cluster)
{
    if (count_of(edit, cluster) == count_max(edit))
        return false;
    change_count(edit, cluster, 1);
    raised++;
    return true;
}

static bool lower_one(struct edit *edit, uint64_t cluster)
{
    if (!raised)
        return false;
    change_count(edit, cluster, -1);
    raised--;
    return true;
}

static bool leave_it(struct edit *edit, uint64_t cluster)
{
    return true;
}

/* A new table with one entry more; the old one is free. */
static void put_table(struct edit *edit, uint64_t l1_offset)
{
    struct medium_header *h = &edit->header;
    struct medium_snapshot ignored;
    uint64_t old = h->snapshots_offset, end = old, start;
    char id[8] = { 0 };
    struct {
        struct qcow2_disk_snapshot disk;
        uint64_t extra[2];
        char id[8];
    } __attribute__((packed)) entry = {
        .disk = { .l1_table_offset = htobe64(l1_offset),
                  .l1_size = htobe32((uint32_t)h->l1_size),
                  .id_size = htobe16(1),
                  .name_size = htobe16(2),
                  .date_s = htobe32(1),
                  .extra_size = htobe32(16) },
        .extra = { 0, htobe64(h->size) },
    };
    uint8_t *bytes;

    for (unsigned i = 0; i < h->snapshots; i++)
        medium_snapshot_read(edit->medium, h, &end, &ignored);
    id[0] = (char)('1' + h->snapshots); /* an id, and a name behind it */
    id[1] = 's';
    id[2] = id[0];
    memcpy(entry.id, id, sizeof(id));
    bytes = weir_alloc(end - old + sizeof(entry));
    weir_sim_file_peek(edit->medium->file, old, bytes, end - old);
    memcpy(bytes + (end - old), &entry, sizeof(entry));
    start = take(edit, clusters_of(edit, end - old + sizeof(entry)));
    weir_sim_file_put(edit->medium->file, start * h->cluster, bytes, end - old + sizeof(entry));
    free(bytes);
    h->snapshots_offset = start * h->cluster;
    h->snapshots++;
    put_header(edit);
    for (uint64_t i = 0; i < clusters_of(edit, end - old); i++)
        change_count(edit, old / h->cluster + i, -1);
}

bool qcow2_medium_snapshot(const struct qcow2_medium *medium)
{
    struct edit edit = edit_open(medium);
    const struct medium_header *h = &edit.header;
    uint64_t copy;

    if (h->external || h->dirty || h->snapshots == 9)
        return false;
    raised = 0;
    if (!each_reference(&edit, false, raise_one)) {
        (void)each_reference(&edit, false, lower_one);
        return false;
    }
    (void)each_reference(&edit, true, leave_it);
    copy = take(&edit, WEIR_MAX(clusters_of(&edit, h->l1_size * 8), 1u));
    for (uint64_t i = 0; i < h->l1_size; i++)
        put_word(&edit, copy * h->cluster + i * 8, medium_word(medium->file, h->l1_offset + i * 8));
    put_table(&edit, copy * h->cluster);
    return true;
}

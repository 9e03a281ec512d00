/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What extensions of the header refer to: bitmaps (directory, tables, data) and the key material of LUKS. Bitmaps of
 * an image whose autoclear bit is not set are lost, and what they took is leaked.
 */
#include "format/qcow2/check_state.h"

#include "base/alloc.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define NAME_MAX_BYTES 1023u
#define GRANULARITY_BITS_MAX 63u
#define TYPE_DIRTY 1u
#define PIECE ((uint64_t)1 << 20)
/* Table entries. */
#define ALL_ONES ((uint64_t)1)
#define RESERVED ((uint64_t)0xff000000000001fe)

/* ---- tables ---- */

static int judge_entry(struct qcow2_checker *c, const struct qcow2_table *table, uint64_t index,
                       uint64_t *disk, bool *dirty)
{
    uint64_t entry = be64toh(*disk), offset = entry & QCOW2_OFFSET_MASK, wrong = entry & RESERVED;
    int ret = 0;

    if (offset)
        wrong |= entry & ALL_ONES;
    if (wrong) {
        bool sound = qcow2_aligned(c, offset) && qcow2_inside(c, offset, qcow2_cluster_size(&c->h));

        qcow2_fault(c,
                    "ERROR table of bitmap %" PRIu32 ": entry %" PRIu64 " has reserved bits set: %016" PRIx64,
                    table->index + 1, index, entry);
        if (sound && qcow2_may_correct(c)) {
            qcow2_note(c, "Repairing table of bitmap %" PRIu32 ": entry %" PRIu64 ": reserved bits cleared",
                       table->index + 1, index);
            *disk = htobe64(entry & ~wrong);
            *dirty = true;
            qcow2_fixed(c);
        }
    }
    if (!offset)
        return 0;
    if (qcow2_aligned(c, offset)) {
        (void)qcow2_add_region(c, offset, qcow2_cluster_size(&c->h), QCOW2_KIND_META, "bitmap data", &ret);
        return ret;
    }
    qcow2_fault(c,
                "ERROR table of bitmap %" PRIu32 ": entry %" PRIu64 ": offset 0x%" PRIx64
                " is not aligned to clusters",
                table->index + 1, index, offset);
    c->incomplete = true;
    return 0;
}

int qcow2_follow_bitmap(struct qcow2_checker *c, const struct qcow2_table *table)
{
    uint64_t bytes = (uint64_t)table->entries * 8;
    weir_autofree uint64_t *piece = weir_try_alloc(WEIR_MIN(bytes, PIECE), 4096);

    if (!piece)
        return -ENOMEM;
    for (uint64_t at = 0; at < bytes; at += PIECE) {
        uint64_t length = WEIR_MIN(bytes - at, PIECE);
        int ret = qcow2_check_read(c, table->offset + at, length, piece);
        bool dirty = false;

        if (ret) {
            qcow2_unread(c, ret, "bitmap table", table->offset + at);
            continue;
        }
        for (uint64_t i = 0; i < length / 8 && !ret; i++)
            ret = judge_entry(c, table, at / 8 + i, &piece[i], &dirty);
        if (!ret && dirty)
            ret = qcow2_check_write(c, table->offset + at, length, piece);
        if (ret)
            return ret;
    }
    return 0;
}

/* ---- the directory ---- */

static uint64_t table_entries(const struct qcow2_checker *c, unsigned granularity_bits)
{
    uint64_t granularity = (uint64_t)1 << granularity_bits;
    uint64_t bits = c->h.size / granularity + !!(c->h.size % granularity);

    return qcow2_clusters(&c->h, bits / 8 + !!(bits % 8));
}

static void judge_fields(struct qcow2_checker *c, uint32_t index, const struct qcow2_disk_bitmap *disk)
{
    uint32_t flags = be32toh(disk->flags), entries = be32toh(disk->table_size);
    const uint32_t known = QCOW2_BITMAP_IN_USE | QCOW2_BITMAP_AUTO | QCOW2_BITMAP_EXTRA_OK;

    if (flags & ~known)
        qcow2_fault(c, "ERROR bitmap %" PRIu32 " has reserved flags set: 0x%" PRIx32, index + 1, flags);
    if (disk->type != TYPE_DIRTY)
        qcow2_fault(c, "ERROR bitmap %" PRIu32 " is of unknown type %u", index + 1, disk->type);
    if (!disk->name_size || be16toh(disk->name_size) > NAME_MAX_BYTES)
        qcow2_fault(c, "ERROR bitmap %" PRIu32 " has a name of %u bytes", index + 1,
                    be16toh(disk->name_size));
    if (disk->granularity_bits > GRANULARITY_BITS_MAX)
        qcow2_fault(c, "ERROR bitmap %" PRIu32 " has granularity 2^%u", index + 1, disk->granularity_bits);
    else if (!(flags & QCOW2_BITMAP_IN_USE) && entries != table_entries(c, disk->granularity_bits))
        qcow2_fault(c, "ERROR bitmap %" PRIu32 ": table of %" PRIu32 " entries does not fit the disk's size",
                    index + 1, entries);
}

/* Returns the length of the entry, 0 where it does not end in the directory, or -errno. */
static int64_t judge_bitmap(struct qcow2_checker *c, uint32_t index, const char *bytes, uint64_t room)
{
    struct qcow2_table table = { 0, 0, index, QCOW2_TABLE_BITMAP };
    struct qcow2_disk_bitmap disk;
    uint64_t length;
    int ret;

    if (room < sizeof(disk))
        return 0;
    memcpy(&disk, bytes, sizeof(disk));
    length = weir_align_up(sizeof(disk) + (uint64_t)be32toh(disk.extra_size) + be16toh(disk.name_size), 8);
    if (length > room)
        return 0;
    judge_fields(c, index, &disk);
    table.offset = be64toh(disk.table_offset);
    table.entries = be32toh(disk.table_size);
    ret = table.entries ? qcow2_add_table(c, &table) : 0;
    return ret ? ret : (int64_t)length;
}

static weir_co_fn int read_directory(struct qcow2_checker *c, uint64_t offset, uint64_t size, uint32_t count)
{
    weir_autofree char *bytes = weir_try_alloc(size, 4096);
    uint64_t at = 0;
    int ret;

    if (!bytes)
        return -ENOMEM;
    ret = qcow2_check_read(c, offset, size, bytes);
    if (ret) {
        qcow2_unread(c, ret, "bitmap directory", offset);
        return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        int64_t length = judge_bitmap(c, i, bytes + at, size - at);

        if (length < 0)
            return (int)length;
        if (!length) {
            qcow2_fault(c, "ERROR bitmap %" PRIu32 " exceeds the directory of %" PRIu64 " bytes", i + 1,
                        size);
            c->incomplete = true;
            return 0;
        }
        at += (uint64_t)length;
    }
    if (at != size)
        qcow2_fault(c, "ERROR bitmap directory has %" PRIu64 " bytes behind its last entry", size - at);
    return 0;
}

static weir_co_fn int find_bitmaps(struct qcow2_checker *c, const struct qcow2_extension_at *extension)
{
    struct qcow2_disk_bitmaps disk;
    uint64_t offset, size;
    uint32_t count;
    int ret = 0;

    if (extension->length < sizeof(disk)) {
        qcow2_fault(c, "ERROR bitmaps extension is too short");
        c->incomplete = true;
        return 0;
    }
    memcpy(&disk, extension->data, sizeof(disk));
    offset = be64toh(disk.directory_offset);
    size = be64toh(disk.directory_size);
    count = be32toh(disk.nb_bitmaps);
    if (disk.reserved)
        qcow2_fault(c, "ERROR bitmaps extension has reserved bits set");
    if (!count || count > QCOW2_BITMAPS_MAX || size > QCOW2_BITMAP_DIRECTORY_MAX ||
        !qcow2_aligned(c, offset)) {
        qcow2_fault(c,
                    "ERROR bitmaps extension is broken: %" PRIu32
                    " bitmaps in a directory at offset 0x%" PRIx64 " of %" PRIu64 " bytes",
                    count, offset, size);
        c->incomplete = true;
        return 0;
    }
    if (!qcow2_add_region(c, offset, size, QCOW2_KIND_META, "bitmap directory", &ret))
        return ret;
    return read_directory(c, offset, size, count);
}

/* ---- all extensions ---- */

static int find_keys(struct qcow2_checker *c, const struct qcow2_extension_at *extension)
{
    uint64_t words[2];
    int ret = 0;

    if (extension->length < sizeof(words)) {
        qcow2_fault(c, "ERROR encryption extension is too short");
        c->incomplete = true;
        return 0;
    }
    memcpy(words, extension->data, sizeof(words));
    if (qcow2_aligned(c, be64toh(words[0]))) {
        (void)qcow2_add_region(c, be64toh(words[0]), be64toh(words[1]), QCOW2_KIND_META, "encryption header",
                               &ret);
        return ret;
    }
    qcow2_fault(c, "ERROR encryption header at offset 0x%" PRIx64 " is not aligned to clusters",
                be64toh(words[0]));
    c->incomplete = true;
    return 0;
}

int qcow2_find_extensions(struct qcow2_checker *c)
{
    uint64_t length = qcow2_cluster_size(&c->h);
    weir_autofree uint8_t *bytes = weir_try_alloc(length, 4096);
    struct qcow2_extension_at extension;
    bool bitmaps = false, keys = false;
    size_t at = 0;
    int ret, more;

    if (!bytes)
        return -ENOMEM;
    ret = qcow2_check_read(c, 0, length, bytes);
    if (ret) {
        qcow2_unread(c, ret, "header", 0);
        return 0;
    }
    while ((more = qcow2_extension_next(&c->h, bytes, length, &at, &extension)) > 0 && !ret) {
        bool is_bitmaps = extension.type == QCOW2_EXT_BITMAPS,
             is_keys = extension.type == QCOW2_EXT_ENCRYPTION;

        if ((is_bitmaps && bitmaps) || (is_keys && keys))
            qcow2_fault(c, "ERROR header extension 0x%08" PRIx32 " is there twice", extension.type);
        else if (is_bitmaps && c->h.autoclear & QCOW2_AUTOCLEAR_BITMAPS)
            ret = find_bitmaps(c, &extension);
        else if (is_keys)
            ret = find_keys(c, &extension);
        bitmaps |= is_bitmaps;
        keys |= is_keys;
    }
    if (more < 0) {
        qcow2_fault(c, "ERROR header extensions exceed their room");
        c->incomplete = true;
    }
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The layout of new images: each planned image is made in memory and read the way a reader does it. Every cluster of
 * the file must have exactly one user and a count of one, and every cluster of the disk must be where it should.
 */
#include "format/qcow2/compose.h"
#include "format/qcow2/plan.h"

#include "base/alloc.h"
#include "unit.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 1000 /* a multiple of 8 that no table's length is a multiple of */

static uint64_t word(const uint8_t *image, uint64_t offset)
{
    uint64_t value;

    memcpy(&value, image + offset, sizeof(value));
    return be64toh(value);
}

struct reading {
    const struct qcow2_plan *plan;
    const uint8_t *image; /* metadata only */
    uint8_t *users;       /* of each cluster of the file */
};

static void use(const struct reading *reading, uint64_t offset, uint64_t clusters)
{
    unsigned bits = reading->plan->header.cluster_bits;

    assert_int_equal(offset & (((uint64_t)1 << bits) - 1), 0);
    for (uint64_t i = 0; i < clusters; i++) {
        assert_true(offset + (i << bits) < reading->plan->end);
        reading->users[(offset >> bits) + i]++;
    }
}

static void read_l2_entry(const struct reading *reading, const struct qcow2_header *h, uint64_t at,
                          uint64_t guest_cluster)
{
    uint64_t entry = word(reading->image, at);

    if (guest_cluster << h->cluster_bits >= h->size) {
        assert_int_equal(entry, 0);
        if (qcow2_extended_l2(h))
            assert_int_equal(word(reading->image, at + 8), 0);
        return;
    }
    assert_int_equal(entry & ~QCOW2_OFFSET_MASK, QCOW2_COPIED);
    if (qcow2_extended_l2(h))
        assert_int_equal(word(reading->image, at + 8), qcow2_data_file_raw(h) ? 0xffffffff : 0);
    if (qcow2_has_data_file(h))
        assert_int_equal(entry & QCOW2_OFFSET_MASK, guest_cluster << h->cluster_bits);
    else
        use(reading, entry & QCOW2_OFFSET_MASK, 1);
}

static void read_map(const struct reading *reading, const struct qcow2_header *h)
{
    uint64_t guest_cluster = 0, previous = 0;

    for (uint64_t i = 0; i < h->l1_size; i++) {
        uint64_t entry = word(reading->image, h->l1_offset + i * 8);

        if (!reading->plan->mapped) {
            assert_int_equal(entry, 0);
            continue;
        }
        assert_int_equal(entry & ~QCOW2_OFFSET_MASK, QCOW2_COPIED);
        entry &= QCOW2_OFFSET_MASK;
        use(reading, entry, 1);
        for (uint64_t j = 0; j < qcow2_l2_entries(h); j++) {
            uint64_t at = entry + j * qcow2_l2_entry_size(h), now = word(reading->image, at);

            read_l2_entry(reading, h, at, guest_cluster);
            if (now && previous) /* contiguous on the host */
                assert_int_equal(now, previous + qcow2_cluster_size(h));
            previous = now;
            guest_cluster++;
        }
    }
    assert_true(!reading->plan->mapped || guest_cluster << h->cluster_bits >= h->size);
}

static void read_counts(const struct reading *reading, const struct qcow2_header *h)
{
    uint64_t entries = (uint64_t)h->refcount_table_clusters << h->cluster_bits >> 3, clusters = 0;

    for (uint64_t i = 0; i < entries; i++) {
        uint64_t block = word(reading->image, h->refcount_table_offset + i * 8);

        if (block)
            use(reading, block, 1);
    }
    for (uint64_t i = 0; i < entries; i++) {
        uint64_t block = word(reading->image, h->refcount_table_offset + i * 8);

        for (uint64_t j = 0; block && j < qcow2_block_entries(h); j++) {
            uint64_t cluster = i * qcow2_block_entries(h) + j;
            uint64_t count = qcow2_refcount_get(reading->image + block, h->refcount_order, j);

            if (cluster << h->cluster_bits < reading->plan->end) {
                assert_int_equal(reading->users[cluster], 1);
                assert_int_equal(count, 1);
                clusters++;
            } else {
                assert_int_equal(count, 0);
            }
        }
    }
    assert_int_equal(clusters << h->cluster_bits, reading->plan->end);
}

static void check_plan(const struct qcow2_header *wanted, bool mapped)
{
    struct qcow2_plan plan;
    struct qcow2_header h;
    struct reading reading = { .plan = &plan };
    weir_autofree uint8_t *image = NULL, *again = NULL, *users = NULL;

    assert_int_equal(qcow2_plan_make(wanted, mapped, &plan, NULL), 0);
    assert_true(plan.end >= plan.data_offset);
    image = weir_alloc(plan.data_offset);
    again = weir_alloc(plan.data_offset);
    users = weir_alloc(plan.end >> plan.header.cluster_bits);
    reading.image = image;
    reading.users = users;
    /* At once and in pieces it is the same. */
    qcow2_plan_fill(&plan, 0, plan.data_offset, image);
    for (uint64_t at = 0; at < plan.data_offset; at += CHUNK)
        qcow2_plan_fill(&plan, at, WEIR_MIN(plan.data_offset - at, CHUNK), again + at);
    assert_memory_equal(image, again, plan.data_offset);
    for (uint64_t i = 0; i < qcow2_cluster_size(&plan.header); i++)
        assert_int_equal(image[i], 0); /* no header yet */
    assert_int_equal(qcow2_compose(&plan.header, &(struct qcow2_texts){ 0 }, image), 0);
    assert_int_equal(qcow2_header_parse(image, plan.data_offset, &h, NULL), 0);
    use(&reading, 0, 1);
    use(&reading, h.refcount_table_offset, h.refcount_table_clusters);
    use(&reading, h.l1_offset, qcow2_clusters(&h, h.l1_size * (uint64_t)8));
    read_map(&reading, &h);
    read_counts(&reading, &h);
}

static struct qcow2_header wanted(uint64_t size, unsigned cluster_bits, unsigned order)
{
    return (struct qcow2_header){ .version = 3,
                                  .size = size,
                                  .cluster_bits = cluster_bits,
                                  .refcount_order = order,
                                  .header_length = sizeof(struct qcow2_disk_header) };
}

static void empty_images(void **state)
{
    const uint64_t sizes[] = { 0, 512, 1 << 20, 5000 * 512, (uint64_t)3 << 30, (uint64_t)100 << 30 };

    for (unsigned bits = QCOW2_CLUSTER_BITS_MIN; bits <= QCOW2_CLUSTER_BITS_MAX; bits += 3) {
        for (unsigned order = 0; order <= 6; order++) {
            for (unsigned i = 0; i < WEIR_ARRAY_SIZE(sizes); i++) {
                struct qcow2_header h = wanted(sizes[i], bits, order);

                check_plan(&h, false);
            }
        }
    }
}

static void mapped_images(void **state)
{
    for (unsigned bits = QCOW2_CLUSTER_BITS_MIN; bits <= 18; bits += 3) {
        /* Disks of up to some thousand clusters, with and without a rest in the last one. */
        for (uint64_t clusters = 0; clusters < 9000; clusters = clusters * 7 / 2 + 1) {
            for (unsigned order = 0; order <= 6; order += 2) {
                struct qcow2_header h = wanted((clusters << bits) + 512, bits, order);

                check_plan(&h, true);
                h.size -= 512;
                check_plan(&h, true);
            }
        }
    }
}

static void features(void **state)
{
    const uint64_t size = ((uint64_t)700 << 16) + 4096;
    struct qcow2_header h = wanted(size, 16, 4);

    h.incompatible = QCOW2_INCOMPAT_EXTENDED_L2;
    check_plan(&h, false);
    check_plan(&h, true);
    h.cluster_bits = 14;
    check_plan(&h, true);
    h.incompatible = QCOW2_INCOMPAT_DATA_FILE;
    check_plan(&h, true);
    h.incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
    check_plan(&h, true);
    h.autoclear = QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    check_plan(&h, true);
}

/* Around each size at which another refcount block, or another cluster of their table, becomes necessary. */
static void counts_count_themselves(void **state)
{
    struct qcow2_plan plan, before = { 0 };
    unsigned more_blocks = 0, more_table = 0;

    for (uint64_t clusters = 1; clusters < 5000; clusters++) {
        struct qcow2_header h = wanted(clusters << 9, 9, 6);

        assert_int_equal(qcow2_plan_make(&h, true, &plan, NULL), 0);
        if (clusters > 1) {
            bool blocks = plan.blocks > before.blocks;
            bool table = plan.header.refcount_table_clusters > before.header.refcount_table_clusters;

            assert_in_range(plan.blocks - before.blocks, 0, 1);
            more_blocks += blocks;
            more_table += table;
            if (blocks || table)
                check_plan(&h, true);
        }
        /* Not one more than needed. */
        assert_true((plan.blocks - 1) * qcow2_block_entries(&h) < plan.end >> 9);
        before = plan;
    }
    assert_true(more_blocks > 70 && more_table);
}

static void fails(uint64_t size, unsigned bits, bool mapped, int ret, const char *text)
{
    struct qcow2_header h = wanted(size, bits, 4);
    struct qcow2_plan plan;
    WEIR_AUTO_ERROR error = NULL;

    assert_int_equal(qcow2_plan_make(&h, mapped, &plan, &error), ret);
    assert_string_equal(weir_error_text(error), text);
}

static void limits(void **state)
{
    const char *const l1 = "Could not resize image: Failed to grow the L1 table: File too large";
    const char *const counts =
        "Could not resize image: Cannot count references to so many clusters: File too large";
    struct qcow2_plan plan;
    struct qcow2_header h = wanted((uint64_t)128 << 30, 9, 4);

    assert_int_equal(qcow2_plan_make(&h, false, &plan, NULL), 0);
    assert_int_equal(plan.header.l1_size * (uint64_t)8, QCOW2_L1_BYTES_MAX);
    fails(((uint64_t)128 << 30) + 512, 9, false, -EFBIG, l1);
    fails((uint64_t)128 << 30, 9, true, -EFBIG, counts);
    h = wanted((uint64_t)1 << 61, 21, 4);
    assert_int_equal(qcow2_plan_make(&h, false, &plan, NULL), 0);
    fails(((uint64_t)1 << 61) + 512, 21, false, -EFBIG, l1);
    fails((uint64_t)1 << 56, 21, true, -EFBIG, counts);
    fails((uint64_t)1 << 57, 21, true, -EFBIG, "Could not resize image: Cannot preallocate: File too large");
    fails((uint64_t)INT64_MAX - 511, 21, false, -EIO,
          "Could not resize image: offset(9223372036854775296) exceeds maximum(9223372035781033984)");
    fails((uint64_t)1 << 63, 21, false, -EINVAL, "Could not resize image: Image size cannot be negative");
}

/* ---- the first cluster ---- */

static void composed_header(void **state)
{
    const struct qcow2_texts texts = { "base.img", "raw", "data.bin" };
    struct qcow2_header h = wanted(1 << 20, 16, 4), read;
    weir_autofree uint8_t *bytes = weir_alloc(65536);
    struct qcow2_extension_at ext;
    size_t at = 0;

    h.refcount_table_offset = 65536;
    h.refcount_table_clusters = h.l1_size = 1;
    h.l1_offset = 3 << 16;
    memset(bytes, 0xff, 65536);
    assert_int_equal(qcow2_compose(&h, &texts, bytes), 0);
    assert_int_equal(qcow2_header_parse(bytes, 65536, &read, NULL), 0);
    assert_int_equal(read.backing_size, 8);
    assert_memory_equal(bytes + read.backing_offset, "base.img", 8);
    assert_int_equal(qcow2_extension_next(&read, bytes, 65536, &at, &ext), 1);
    assert_int_equal(ext.type, QCOW2_EXT_BACKING_FORMAT);
    assert_int_equal(ext.length, 3);
    assert_memory_equal(ext.data, "raw", 3);
    assert_int_equal(qcow2_extension_next(&read, bytes, 65536, &at, &ext), 1);
    assert_int_equal(ext.type, QCOW2_EXT_DATA_FILE);
    assert_memory_equal(ext.data, "data.bin", 8);
    assert_int_equal(qcow2_extension_next(&read, bytes, 65536, &at, &ext), 1);
    assert_int_equal(ext.type, QCOW2_EXT_FEATURE_NAMES);
    assert_int_equal(ext.length, 8 * 48);
    assert_int_equal(qcow2_extension_next(&read, bytes, 65536, &at, &ext), 0);
}

/* The header of a small cluster has room for 376 bytes besides header and end: not one more, and none outside. */
static void composed_header_room(void **state)
{
    weir_autofree uint8_t *bytes = weir_alloc(512);
    char name[QCOW2_BACKING_NAME_MAX + 2];

    for (size_t length = 1; length <= QCOW2_BACKING_NAME_MAX + 1; length++) {
        struct qcow2_header h = wanted(512, 9, 4);
        const struct qcow2_texts texts = { name, "raw", NULL };
        int expected = length > QCOW2_BACKING_NAME_MAX ? -EINVAL : length > 512 - 112 - 16 - 8 ? -ENOSPC : 0;

        memset(name, 'n', length);
        name[length] = '\0';
        assert_int_equal(qcow2_compose(&h, &texts, bytes), expected);
        if (!expected)
            assert_memory_equal(bytes + h.backing_offset, name, length);
    }
    for (size_t length = 1; length < 600; length++) {
        struct qcow2_header h = wanted(512, 9, 4);
        const struct qcow2_texts texts = { NULL, NULL, name };

        memset(name, 'n', length);
        name[length] = '\0';
        assert_int_equal(qcow2_compose(&h, &texts, bytes), length > 512 - 112 - 8 - 8 ? -ENOSPC : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_images),
        cmocka_unit_test(mapped_images),
        cmocka_unit_test(features),
        cmocka_unit_test(counts_count_themselves),
        cmocka_unit_test(limits),
        cmocka_unit_test(composed_header),
        cmocka_unit_test(composed_header_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

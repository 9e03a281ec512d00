/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Judging the qcow2 images of a seed on the medium, and counting what the run has reached.
 *
 * Counts that are too high (leaks) are allowed where a power cut or faults of the disk came in between, and only
 * those that were there before are allowed after an orderly end. What a snapshot shows never changes.
 */
#include "seed.h"

#include "base/alloc.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static uint8_t *read_view(const struct image *image, unsigned view)
{
    struct qcow2_medium medium = image_medium(image);
    uint8_t *bytes = weir_alloc(seed.plan.size);

    qcow2_medium_read(&medium, view, 0, seed.plan.size, bytes, image_read_behind, (void *)(uintptr_t)image);
    return bytes;
}

uint64_t check_qcow2_hash(const struct image *image, unsigned view)
{
    uint8_t *bytes = read_view(image, view);
    uint64_t hash = 0x9e3779b97f4a7c15ull, word = 0;

    for (uint64_t at = 0; at < seed.plan.size; at += 8) {
        memcpy(&word, bytes + at, WEIR_MIN(seed.plan.size - at, 8u));
        hash = (hash ^ word) * 0xff51afd7ed558ccdull;
        hash ^= hash >> 32;
    }
    free(bytes);
    return hash;
}

static void check_snapshots(const struct image *image, const struct qcow2_medium_report *report,
                            const char *where)
{
    CHECK(report->snapshots == image->qcow2.snapshots, "%s: image %s has %u snapshots instead of %u", where,
          image->name, report->snapshots, image->qcow2.snapshots);
    for (unsigned i = 0; i < report->snapshots; i++)
        CHECK(check_qcow2_hash(image, i + 1) == image->qcow2.snapshot_hash[i],
              "%s: snapshot %u of image %s has changed", where, i + 1, image->name);
    seed.totals.qcow2_snapshots_kept += report->snapshots;
}

static void check_leaks(struct image *image, const struct qcow2_medium_report *report, bool cut,
                        const char *where)
{
    struct image_qcow2 *q = &image->qcow2;

    if (cut) {
        seed.totals.qcow2_leaks_after_cut += report->leaks > q->known_leaks;
        seed.totals.qcow2_dirty_after_cut += report->dirty;
        q->known_leaks = WEIR_MAX(report->leaks, q->known_leaks);
        return;
    }
    CHECK(!report->dirty || seed.plan.faults, "%s: image %s is marked dirty", where, image->name);
    CHECK(report->leaks <= q->known_leaks || seed.plan.faults, "%s: image %s has %llu leaks instead of %llu",
          where, image->name, (unsigned long long)report->leaks, (unsigned long long)q->known_leaks);
    q->known_leaks = WEIR_MAX(report->leaks, q->known_leaks);
}

static void check_content(const struct image *image, bool cut, const char *where)
{
    uint64_t now = history_tick(), from = cut ? seed.flushed : now;
    uint8_t *bytes = read_view(image, 0);

    check_bytes(0, seed.plan.size, bytes, from, now, cut, where);
    if (image->qcow2.params.data_raw) {
        weir_sim_file_peek(image->data, 0, bytes, seed.plan.size);
        check_bytes(0, seed.plan.size, bytes, from, now, cut, "external raw data");
    }
    free(bytes);
}

static void count_up(struct image *image, const struct qcow2_medium_report *report)
{
    struct image_qcow2 *q = &image->qcow2;

    seed.totals.qcow2_images++;
    seed.totals.qcow2_l2_tables += report->l2_tables;
    seed.totals.qcow2_l2_copied += report->snapshots ? report->l2_owned : 0;
    seed.totals.qcow2_data += report->data_clusters;
    seed.totals.qcow2_stored += report->stored_clusters;
    seed.totals.qcow2_kept_zeroes += report->kept_zeroes;
    if (report->count_blocks > q->made_blocks)
        seed.totals.qcow2_count_blocks += report->count_blocks - q->made_blocks;
    seed.totals.qcow2_count_tables_moved += report->count_table_offset != q->table_offset;
    seed.totals.l1_tables_moved += report->l1_offset != q->l1_offset;
    q->made_blocks = report->count_blocks;
    q->table_offset = report->count_table_offset;
    q->l1_offset = report->l1_offset;
}

void check_qcow2(struct image *image, enum check_when when, bool contents)
{
    struct qcow2_medium medium = image_medium(image);
    struct qcow2_medium_report report;
    bool cut = when == CHECK_AFTER_CUT;
    const char *where = cut ? "the medium after the power cut" : "the medium at the end";

    qcow2_medium_walk(&medium, where, &report);
    CHECK(report.size == seed.plan.size || (seed.plan.resizes && report.size > seed.plan.size &&
                                            (cut || seed.was_cut || seed.plan.faults)),
          "%s: image %s has %llu bytes", where, image->name, (unsigned long long)report.size);
    check_leaks(image, &report, cut, where);
    if (contents)
        check_content(image, cut, where);
    check_snapshots(image, &report, where);
    count_up(image, &report);
}

_Noreturn void qcow2_medium_fail(const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    seed_fail("%s", text);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Judging what is there: bytes against the oracles, and simfmt images on the medium, by code of its own.
 *
 * On the medium, always: no pointer leads anywhere but to data; every unit's count is at least the number of its
 * references; what may be overwritten in place has one reference and a count of one; the snapshot holds the
 * moment of its creation. After an orderly end counts equal references, save what an earlier power cut leaked.
 */
#include "seed.h"

#include "base/alloc.h"
#include "io/io.h"
#include <stdio.h>
#include <string.h>

/* ---- bytes ---- */

static void show_words(const uint8_t *bytes)
{
    uint64_t word, last = 1;

    for (unsigned i = 0; i < SECTOR / 8; i++) {
        memcpy(&word, bytes + 8 * i, 8);
        if (!i || word != last)
            (void)fprintf(stderr, "    word %u: %#llx\n", i, (unsigned long long)word);
        last = word;
    }
}

/* Where the sector may be torn: the end of its first part. */
static uint64_t seam(void)
{
    return seed.plan.phase ? SECTOR - seed.plan.phase : SECTOR;
}

static void wrong_sector(uint64_t sector, const uint8_t *bytes, uint64_t from, uint64_t to, const char *what)
{
    uint64_t value;

    if (!sector_value(bytes, 0, SECTOR, &value)) {
        show_words(bytes);
        history_show(sector);
        seed_fail("%s shows a torn sector %llu", what, (unsigned long long)sector);
    }
    (void)fprintf(stderr, "sector %llu: %#llx in [%llu, %llu], but:\n", (unsigned long long)sector,
                  (unsigned long long)value, (unsigned long long)from, (unsigned long long)to);
    history_show(sector);
    seed_fail("%s shows a value that cannot be in sector %llu", what, (unsigned long long)sector);
}

static bool part_allowed(uint64_t sector, const uint8_t *bytes, uint64_t start, uint64_t end, uint64_t from,
                         uint64_t to, bool cut)
{
    uint64_t value;

    return start == end ||
           (sector_value(bytes, start, end, &value) &&
            (cut ? history_survives(sector, value, from) : history_allowed(sector, value, from, to)));
}

static void check_sectors(uint64_t first, uint64_t count, const uint8_t *bytes, uint64_t from, uint64_t to,
                          bool cut, const char *what)
{
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *at = bytes + i * SECTOR;

        if (!part_allowed(first + i, at, 0, seam(), from, to, cut) ||
            !part_allowed(first + i, at, seam(), SECTOR, from, to, cut))
            wrong_sector(first + i, at, from, to, what);
    }
}

/* A copy of a moment in [@from, @to]: every sector for itself, and one moment for all. */
static void check_moment(const uint8_t *bytes, uint64_t from, uint64_t to, const char *what)
{
    uint64_t low = from, high = to, value;

    check_sectors(0, seed.shared_sectors, bytes, from, to, false, what);
    for (uint64_t s = 0; s < seed.shared_sectors; s++) {
        if (sector_value(bytes + s * SECTOR, 0, SECTOR, &value))
            history_narrow(s, value, &low, &high);
        CHECK(low <= high, "%s is not of one moment: sector %llu is of another than those before", what,
              (unsigned long long)s);
    }
}

static void check_zone(const struct shadow *zone, uint64_t offset, uint64_t length, const uint8_t *bytes,
                       bool cut, const char *what)
{
    uint64_t bad = shadow_check(zone, offset, length, bytes, cut);

    if (bad < length)
        seed_fail("%s shows %u in byte %llu, which may hold the set %#llx", what, bytes[bad],
                  (unsigned long long)(offset + bad),
                  (unsigned long long)(cut ? zone->cut : zone->now)[offset + bad - zone->offset]);
}

void check_bytes(uint64_t offset, uint64_t length, const uint8_t *bytes, uint64_t from, uint64_t to, bool cut,
                 const char *what)
{
    uint64_t end = offset + length, shared = seed.shared_sectors * SECTOR;

    if (offset < shared)
        check_sectors(offset / SECTOR, (WEIR_MIN(end, shared) - offset) / SECTOR, bytes, from, to, cut, what);
    for (unsigned q = 0; q < seed.plan.queues; q++) {
        const struct shadow *zone = &seed.queues[q].zone;
        uint64_t start = WEIR_MAX(offset, zone->offset), stop = WEIR_MIN(end, zone->offset + zone->length);

        if (start < stop)
            check_zone(zone, start, stop - start, bytes + (start - offset), cut, what);
    }
}

static void settle_bytes(const uint8_t *bytes)
{
    uint64_t one, other;

    seed.snapshot_known = false; /* the history begins anew */
    for (uint64_t s = 0; s < seed.shared_sectors; s++) {
        (void)sector_value(bytes + s * SECTOR, 0, seam(), &one);
        history_settle(s, one);
        if (seam() == SECTOR || sector_value(bytes + s * SECTOR, 0, SECTOR, &one))
            continue;
        (void)sector_value(bytes + s * SECTOR, seam(), SECTOR, &other);
        history_end(history_begin(s, other), false, false);
    }
    for (unsigned q = 0; q < seed.plan.queues; q++) {
        struct shadow *zone = &seed.queues[q].zone;

        shadow_settle(zone, zone->offset, zone->length, bytes + zone->offset);
    }
}

/* ---- by the library ---- */

static weir_co_fn uint8_t *read_disk(struct weir_edge *edge, const char *what)
{
    uint8_t *bytes = weir_try_alloc(seed.plan.size, 4096);

    WEIR_ASSERT(bytes);
    for (uint64_t at = 0, length; at < seed.plan.size; at += length) {
        struct iovec iov;
        struct weir_request request;
        int ret;

        length = least(seed.plan.size - at, 1 + pick(200000));
        iov = (struct iovec){ bytes + at, length };
        request = weir_request_make(WEIR_OP_READ, at, length, &iov, 1, 0);
        ret = weir_root_io(edge, &request);
        CHECK(!ret, "%s: reading %llu bytes at %llu: %s", what, (unsigned long long)length,
              (unsigned long long)at, strerror(-ret));
    }
    return bytes;
}

/* What status says to be zero is. */
static weir_co_fn void check_status(struct weir_edge *edge, const uint8_t *bytes)
{
    for (uint64_t at = 0; at < seed.plan.size;) {
        struct weir_status status = { 0 };
        int ret = weir_root_status(edge, at, seed.plan.size - at, WEIR_REQUEST_DEEP, &status);

        CHECK(!ret && status.length, "status at %llu: %s", (unsigned long long)at, strerror(-ret));
        for (uint64_t i = 0; status.zero && i < status.length; i++)
            CHECK(!bytes[at + i], "status says zero, but byte %llu is %u", (unsigned long long)(at + i),
                  bytes[at + i]);
        at += status.length;
    }
}

weir_co_fn void check_disk(struct weir_edge *edge, bool cut, bool settle)
{
    uint8_t *bytes = read_disk(edge, cut ? "after the power cut" : "at the end");
    uint64_t now = history_tick();

    check_bytes(0, seed.plan.size, bytes, cut ? seed.flushed : now, now, cut,
                cut ? "the disk after the power cut" : "the disk at the end");
    check_status(edge, bytes);
    if (settle)
        settle_bytes(bytes);
    free(bytes);
}

weir_co_fn void check_copy(struct weir_edge *edge, uint64_t from, uint64_t to)
{
    uint8_t *bytes = read_disk(edge, "a copy");

    /* Bytes of own zones may be of any moment in between: only the sectors are judged. */
    check_moment(bytes, from, to, "a copy");
    free(bytes);
}

/* ---- simfmt on the medium ---- */

struct medium {
    struct image *image;
    struct simfmt_header header; /* as read */
    uint8_t *meta;               /* everything in front of the data */
    uint32_t *pointers;          /* by host unit */
    const char *where;
};

static uint64_t table_entry(const struct medium *medium, uint64_t table, uint64_t index)
{
    uint64_t entry;

    memcpy(&entry, medium->meta + table + index * 8, 8);
    return entry;
}

static uint32_t count_of(const struct medium *medium, uint64_t unit)
{
    uint32_t count;

    memcpy(&count, medium->meta + medium->header.counts_offset + unit * 4, 4);
    return count;
}

static void point(struct medium *medium, uint64_t entry)
{
    uint64_t unit = simfmt_offset(entry) / medium->header.unit,
             in = simfmt_offset(entry) % medium->header.unit;
    bool stored = simfmt_kind(entry) == SIMFMT_STORED;
    uint64_t length = stored ? simfmt_length(entry) : medium->header.unit;

    CHECK(unit >= medium->header.first_unit && unit < medium->header.host_units &&
              in + length <= medium->header.unit && (stored ? length == medium->header.unit / 64 : !in),
          "%s: wild pointer %#llx", medium->where, (unsigned long long)entry);
    medium->pointers[unit]++;
}

static uint64_t guest_units(const struct medium *medium)
{
    return (medium->header.size + medium->header.unit - 1) / medium->header.unit;
}

static void count_pointers(struct medium *medium)
{
    for (uint64_t i = 0; i < guest_units(medium); i++) {
        uint64_t active = table_entry(medium, medium->header.table_offset, i);
        uint64_t saved = table_entry(medium, medium->header.snapshot_offset, i);

        if (simfmt_kind(active) >= SIMFMT_PLAIN)
            point(medium, active);
        /* Also where the header does not say that there is a snapshot: they stay counted. */
        if (simfmt_kind(saved) >= SIMFMT_PLAIN)
            point(medium, saved);
    }
}

static void check_counts(struct medium *medium, bool exact)
{
    for (uint64_t u = medium->header.first_unit; u < medium->header.host_units; u++) {
        uint64_t count = count_of(medium, u), pointers = medium->pointers[u];

        CHECK(count >= pointers, "%s: unit %llu has %llu references but a count of %llu", medium->where,
              (unsigned long long)u, (unsigned long long)pointers, (unsigned long long)count);
        CHECK(!exact || count == pointers + medium->image->leaked[u],
              "%s: unit %llu has %llu references, %llu leaked, but a count of %llu", medium->where,
              (unsigned long long)u, (unsigned long long)pointers,
              (unsigned long long)medium->image->leaked[u], (unsigned long long)count);
        if (!exact)
            medium->image->leaked[u] = count - pointers;
    }
    for (uint64_t i = 0; i < guest_units(medium); i++) {
        uint64_t entry = table_entry(medium, medium->header.table_offset, i);
        uint64_t u = simfmt_offset(entry) / medium->header.unit;

        if (simfmt_kind(entry) == SIMFMT_PLAIN && (entry & SIMFMT_IN_PLACE))
            CHECK(medium->pointers[u] == 1 && count_of(medium, u) == 1,
                  "%s: unit %llu may be overwritten in place but has %u references and a count of %u",
                  medium->where, (unsigned long long)u, medium->pointers[u], count_of(medium, u));
    }
}

static void read_unit(const struct medium *medium, uint64_t entry, uint64_t index, uint8_t *out)
{
    uint64_t unit = medium->header.unit;
    struct weir_sim_file *data = medium->image->data_file ? medium->image->data : medium->image->file;
    uint8_t packed[256];

    memset(out, 0, unit);
    switch (simfmt_kind(entry)) {
    case SIMFMT_NONE:
        image_read_behind(medium->image, index * unit, unit, out);
        break;
    case SIMFMT_ZERO:
        break;
    case SIMFMT_PLAIN:
        weir_sim_file_peek(data, simfmt_offset(entry), out, unit);
        break;
    case SIMFMT_STORED:
        weir_sim_file_peek(data, simfmt_offset(entry), packed, simfmt_length(entry));
        CHECK(!simfmt_decode_unit(unit, packed, simfmt_length(entry), out), "%s: cannot decode",
              medium->where);
        break;
    }
}

static uint8_t *read_view(const struct medium *medium, uint64_t table)
{
    uint8_t *bytes = weir_alloc(guest_units(medium) * medium->header.unit);

    for (uint64_t i = 0; i < guest_units(medium); i++)
        read_unit(medium, table_entry(medium, table, i), i, bytes + i * medium->header.unit);
    return bytes;
}

static void check_views(const struct medium *medium, bool cut)
{
    uint8_t *bytes = read_view(medium, medium->header.table_offset);
    uint64_t now = history_tick();

    check_bytes(0, seed.plan.size, bytes, cut ? seed.flushed : now, now, cut, medium->where);
    free(bytes);
}

static void check_snapshot(const struct medium *medium, bool cut)
{
    bool there = medium->header.snapshot;
    uint8_t *bytes;

    CHECK(medium->header.snapshot <= 1, "%s: the header is broken", medium->where);
    CHECK(!there || seed.snapshot != SNAPSHOT_ABSENT, "%s: there is a snapshot that was deleted",
          medium->where);
    CHECK(there || seed.snapshot != SNAPSHOT_PRESENT, "%s: a durable snapshot is gone", medium->where);
    if (there && seed.snapshot_known) {
        bytes = read_view(medium, medium->header.snapshot_offset);
        check_moment(bytes, seed.snapshot_from, seed.snapshot_to ? seed.snapshot_to : history_now(),
                     "the snapshot");
        free(bytes);
        seed.totals.snapshots_after_cut += cut;
    }
    if (cut) /* what is there now stays */
        seed.snapshot = there ? SNAPSHOT_PRESENT : SNAPSHOT_ABSENT;
}

void check_medium(struct image *image, enum check_when when, bool contents)
{
    struct medium medium = { .image = image };
    bool cut = when == CHECK_AFTER_CUT, first = image == &seed.images[0];

    if (image->kind == IMAGE_QCOW2)
        check_qcow2(image, when, contents);
    if (image->kind != IMAGE_SIMFMT)
        return;
    medium.where = cut ? "the medium after the power cut" : "the medium at the end";
    medium.meta = weir_alloc(image->header.snapshot_offset * 2);
    medium.pointers = weir_new_array(uint32_t, image->header.host_units);
    weir_sim_file_peek(image->file, 0, medium.meta, image->header.snapshot_offset * 2);
    memcpy(&medium.header, medium.meta, sizeof(medium.header));
    CHECK(medium.header.snapshot <= 1 && (image->header.snapshot = medium.header.snapshot, true) &&
              !memcmp(&medium.header, &image->header, sizeof(medium.header)),
          "%s: the header is broken", medium.where);
    count_pointers(&medium);
    check_counts(&medium, !cut);
    if (contents)
        check_views(&medium, cut);
    if (first && contents)
        check_snapshot(&medium, cut);
    free(medium.meta);
    free(medium.pointers);
}

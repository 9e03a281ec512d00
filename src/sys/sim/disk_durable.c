/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading the disk model, and what becomes durable: flushes, flushes that fail, power cuts.
 */
#include "sys/sim/disk.h"
#include "sys/sim/disk_page.h"
#include <string.h>

/* ---- the whole ---- */

struct sim_disk *sim_disk_new(uint64_t size)
{
    struct sim_disk *disk = weir_new(struct sim_disk);

    disk->size = disk->base_size = size;
    TAILQ_INIT(&disk->dirty);
    return disk;
}

void sim_disk_free(struct sim_disk *disk)
{
    struct sim_chunk *chunk, *next;

    sim_disk_settle_all(disk);
    HASH_ITER (hh, disk->chunks, chunk, next) {
        HASH_DEL(disk->chunks, chunk);
        for (unsigned i = 0; i < SIM_CHUNK_PAGES; i++) {
            if (chunk->page[i])
                free(chunk->page[i]->data);
            free(chunk->page[i]);
        }
        free(chunk);
    }
    free(disk->sizes);
    free(disk);
}

uint64_t sim_disk_size(const struct sim_disk *disk)
{
    return disk->size;
}

uint64_t sim_disk_allocated(const struct sim_disk *disk)
{
    return disk->allocated;
}

/* ---- the size ---- */

static void drop_sizes(struct sim_disk *disk, unsigned count)
{
    if (!count)
        return;
    for (unsigned i = 0; i < count; i++)
        sim_change_unref(disk->sizes[i].change);
    disk->size_count -= count;
    memmove(disk->sizes, disk->sizes + count, disk->size_count * sizeof(disk->sizes[0]));
}

void sim_disk_set_size(struct sim_disk *disk, struct sim_change *change, uint64_t size)
{
    if (disk->size_count == disk->size_room) {
        disk->size_room = 2 * disk->size_room + 8;
        disk->sizes = weir_realloc(disk->sizes, disk->size_room * sizeof(disk->sizes[0]));
    }
    change->refs++;
    disk->sizes[disk->size_count++] = (struct sim_size){ .size = size, .change = change };
    disk->size = size;
}

void sim_disk_settle_size(struct sim_disk *disk)
{
    drop_sizes(disk, disk->size_count);
    disk->base_size = disk->size;
}

static bool is_done(const struct sim_change *change, uint64_t serial)
{
    return change->done && change->done <= serial;
}

/* ---- reading ---- */

static void read_pages(struct sim_disk *disk, uint64_t offset, char *buffer, uint64_t length, bool durable)
{
    while (length) {
        size_t part = (size_t)WEIR_MIN(SIM_PAGE - offset % SIM_PAGE, length);
        const struct sim_page *page = sim_page_find(disk, offset / SIM_PAGE);
        const uint8_t *data = !page ? NULL : durable && page->dirty ? page->base : page->data;

        if (data)
            memcpy(buffer, data + offset % SIM_PAGE, part);
        else
            memset(buffer, 0, part);
        buffer += part;
        offset += part;
        length -= part;
    }
}

void sim_disk_read(struct sim_disk *disk, uint64_t offset, void *buffer, uint64_t length)
{
    read_pages(disk, offset, buffer, length, false);
}

void sim_disk_read_durable(struct sim_disk *disk, uint64_t offset, void *buffer, uint64_t length)
{
    read_pages(disk, offset, buffer, length, true);
}

uint64_t sim_disk_fits(struct sim_disk *disk, uint64_t offset, uint64_t length, uint64_t room)
{
    uint64_t at = offset, end = offset + length;

    while (at < end) {
        const struct sim_page *page = sim_page_find(disk, at / SIM_PAGE);

        if (!page || !page->allocated) {
            if (room < SIM_PAGE)
                return at - offset;
            room -= SIM_PAGE;
        }
        at = weir_align_down(at, SIM_PAGE) + SIM_PAGE;
    }
    return length;
}

uint64_t sim_disk_next_chunk(struct sim_disk *disk, uint64_t index)
{
    struct sim_chunk *chunk, *next;
    uint64_t best = UINT64_MAX;

    HASH_ITER (hh, disk->chunks, chunk, next) {
        if (chunk->index > index && chunk->index < best)
            best = chunk->index;
    }
    return best;
}

static uint64_t chunk_bits(struct sim_disk *disk, uint64_t index)
{
    struct sim_chunk *chunk;

    HASH_FIND(hh, disk->chunks, &index, sizeof(index), chunk);
    return chunk ? chunk->allocated : 0;
}

bool sim_disk_extent(struct sim_disk *disk, uint64_t offset, uint64_t *ret_end)
{
    uint64_t page = offset / SIM_PAGE, pages = (disk->size + SIM_PAGE - 1) / SIM_PAGE;
    bool data = (chunk_bits(disk, page / SIM_CHUNK_PAGES) >> (page % SIM_CHUNK_PAGES)) & 1;

    while (page < pages) {
        uint64_t bits = chunk_bits(disk, page / SIM_CHUNK_PAGES), other = data ? ~bits : bits;

        other &= ~0ull << (page % SIM_CHUNK_PAGES);
        page = weir_align_down(page, SIM_CHUNK_PAGES);
        if (other) {
            page += (unsigned)__builtin_ctzll(other);
            break;
        }
        page += SIM_CHUNK_PAGES;
        if (!data && !chunk_bits(disk, page / SIM_CHUNK_PAGES)) {
            uint64_t next = sim_disk_next_chunk(disk, page / SIM_CHUNK_PAGES);

            page = next == UINT64_MAX ? pages : next * SIM_CHUNK_PAGES;
        }
    }
    *ret_end = WEIR_MIN(page * SIM_PAGE, disk->size);
    return data;
}

/* ---- flushes ---- */

static bool settles_done(const struct sim_version *version, const void *arg)
{
    return !version->lost && is_done(version->change, *(const uint64_t *)arg);
}

void sim_disk_flush(struct sim_disk *disk, uint64_t serial)
{
    struct sim_page *page = TAILQ_FIRST(&disk->dirty);

    while (page) {
        struct sim_page *next = TAILQ_NEXT(page, link);

        sim_page_settle(disk, page, settles_done, &serial);
        page = next;
    }
    for (unsigned i = disk->size_count; i > 0; i--) {
        if (!disk->sizes[i - 1].lost && is_done(disk->sizes[i - 1].change, serial)) {
            disk->base_size = disk->sizes[i - 1].size;
            drop_sizes(disk, i);
            break;
        }
    }
}

static bool settles_change(const struct sim_version *version, const void *arg)
{
    return version->change == arg;
}

void sim_disk_settle(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length)
{
    uint64_t end = (offset + length + SIM_PAGE - 1) / SIM_PAGE;

    for (uint64_t index = offset / SIM_PAGE; index < end; index++) {
        struct sim_page *page = sim_page_find(disk, index);

        if (page && page->dirty)
            sim_page_settle(disk, page, settles_change, change);
    }
    for (unsigned i = disk->size_count; i > 0; i--) {
        if (disk->sizes[i - 1].change == change) {
            disk->base_size = disk->sizes[i - 1].size;
            drop_sizes(disk, i);
            break;
        }
    }
}

void sim_disk_lose(struct sim_disk *disk, uint64_t serial, uint32_t ppm)
{
    struct sim_page *page;

    TAILQ_FOREACH (page, &disk->dirty, link) {
        if (!sim_chance(SIM_FAULT, ppm))
            continue;
        for (struct sim_version *version = page->versions; version; version = version->next)
            version->lost |= is_done(version->change, serial);
    }
    for (unsigned i = 0; i < disk->size_count; i++)
        if (is_done(disk->sizes[i].change, serial) && sim_chance(SIM_FAULT, ppm))
            disk->sizes[i].lost = true;
}

/* ---- power cuts ---- */

/* How a power cut chooses; drawn for each cut, so that whole-file outcomes are likely as well. */
enum cut_mode { CUT_SECTORS, CUT_OLDEST, CUT_NEWEST, CUT_CHANGES, CUT_MODES };

static bool change_survives(struct sim_change *change)
{
    if (!change->fate)
        change->fate = sim_below(SIM_DISK, 2) ? SIM_CHANGE_KEPT : SIM_CHANGE_LOST;
    return change->fate == SIM_CHANGE_KEPT;
}

/* The version of a sector to leave; NULL: the base. */
static const struct sim_version *pick(const struct sim_page *page, unsigned bit, enum cut_mode mode)
{
    const struct sim_version *chosen = NULL;
    uint64_t count = 1;

    for (const struct sim_version *version = page->versions; version; version = version->next) {
        if (!(version->mask & bit))
            continue;
        if (mode == CUT_NEWEST || (mode == CUT_CHANGES && change_survives(version->change)))
            return version;
        /* Each candidate, the base included, is as likely as any other. */
        if (mode == CUT_SECTORS && sim_below(SIM_DISK, ++count) == 0)
            chosen = version;
    }
    return chosen;
}

static void cut_page(struct sim_disk *disk, struct sim_page *page, enum cut_mode mode, uint64_t *uncertain,
                     uint64_t *old)
{
    uint8_t *data = weir_alloc(SIM_PAGE);
    bool allocated = false, zero = true;

    for (unsigned sector = 0; sector < SIM_PAGE / SIM_SECTOR; sector++) {
        unsigned bit = 1u << sector;
        const struct sim_version *version = page->versions, *chosen = pick(page, bit, mode);
        const uint8_t *bytes = page->base ? page->base + sector * SIM_SECTOR : NULL;

        while (version && !(version->mask & bit))
            version = version->next;
        *uncertain += version != NULL;
        *old += chosen != version;
        allocated |= chosen ? chosen->allocated : page->base_allocated;
        if (chosen)
            bytes = chosen->zero ? NULL : sim_version_sector(chosen, sector);
        if (bytes)
            memcpy(data + sector * SIM_SECTOR, bytes, SIM_SECTOR);
        zero &= !bytes;
    }
    if (zero) {
        free(data);
        data = NULL;
    }
    WEIR_ASSERT(allocated || zero);
    sim_page_become(disk, page, data, allocated);
}

static void cut_size(struct sim_disk *disk, enum cut_mode mode)
{
    uint64_t size = disk->base_size;

    if (mode == CUT_NEWEST)
        size = disk->size;
    for (unsigned i = 0; i < disk->size_count; i++) {
        if ((mode == CUT_SECTORS && sim_below(SIM_DISK, i + 2) == 0) ||
            (mode == CUT_CHANGES && change_survives(disk->sizes[i].change)))
            size = disk->sizes[i].size;
    }
    disk->size = size;
    sim_disk_settle_size(disk);
}

/* What was beyond the end that the cut left is gone. */
static void trim(struct sim_disk *disk)
{
    struct sim_change *change = sim_change_new();
    uint64_t end = disk->size;

    for (uint64_t chunk = end / SIM_PAGE / SIM_CHUNK_PAGES; chunk != UINT64_MAX;
         chunk = sim_disk_next_chunk(disk, chunk)) {
        uint64_t from = WEIR_MAX(end, chunk * SIM_CHUNK_PAGES * SIM_PAGE);

        sim_disk_zero(disk, change, from, (chunk + 1) * SIM_CHUNK_PAGES * SIM_PAGE - from, false);
    }
    sim_change_forget(change);
    sim_disk_settle_all(disk);
}

void sim_disk_cut(struct sim_disk *disk, uint64_t *uncertain, uint64_t *old)
{
    enum cut_mode mode = sim_below(SIM_DISK, 2) ? CUT_SECTORS : (enum cut_mode)sim_below(SIM_DISK, CUT_MODES);
    bool resized = disk->size_count > 0;

    cut_size(disk, mode);
    while (!TAILQ_EMPTY(&disk->dirty))
        cut_page(disk, TAILQ_FIRST(&disk->dirty), mode, uncertain, old);
    if (resized)
        trim(disk);
}

bool sim_disk_possible(struct sim_disk *disk, uint64_t offset, const void *data)
{
    static const uint8_t zeroes[SIM_SECTOR];
    const struct sim_page *page = sim_page_find(disk, offset / SIM_PAGE);
    unsigned sector = (unsigned)(offset % SIM_PAGE / SIM_SECTOR);
    const uint8_t *durable = !page ? NULL : page->dirty ? page->base : page->data;

    if (memcmp(durable ? durable + sector * SIM_SECTOR : zeroes, data, SIM_SECTOR) == 0)
        return true;
    for (const struct sim_version *version = page ? page->versions : NULL; version; version = version->next)
        if ((version->mask & (1u << sector)) &&
            memcmp(sim_version_sector(version, sector), data, SIM_SECTOR) == 0)
            return true;
    return false;
}

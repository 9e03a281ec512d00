/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pages and versions. A page that has no version in doubt is clean: its bytes are durable. The first change makes
 * it dirty: its bytes become the base and it gets a copy. Each version holds the sectors that its change touched,
 * as they were after it; the newest comes first. Settling a version copies its sectors to the base and takes the
 * same sectors out of all older ones.
 *
 * A clean page without space is a hole and has no structure. Dirty pages are in a list in the order in which they
 * got dirty, so that nothing depends on addresses.
 */
#include "sys/sim/disk.h"
#include "sys/sim/disk_page.h"
#include <string.h>

/* More versions than this of one page: the oldest is taken as durable (which a disk may always do). */
#define VERSIONS_MAX 48

/* ---- changes ---- */

struct sim_change *sim_change_new(void)
{
    struct sim_change *change = weir_new(struct sim_change);

    change->refs = 1;
    return change;
}

void sim_change_unref(struct sim_change *change)
{
    if (--change->refs == 0)
        free(change);
}

void sim_change_complete(struct sim_change *change, uint64_t serial)
{
    change->done = serial;
    sim_change_unref(change);
}

void sim_change_forget(struct sim_change *change)
{
    sim_change_unref(change);
}

/* ---- pages ---- */

static struct sim_chunk *chunk_find(struct sim_disk *disk, uint64_t index)
{
    struct sim_chunk *chunk = disk->last;

    if (chunk && chunk->index == index)
        return chunk;
    HASH_FIND(hh, disk->chunks, &index, sizeof(index), chunk);
    if (chunk)
        disk->last = chunk;
    return chunk;
}

struct sim_page *sim_page_find(struct sim_disk *disk, uint64_t index)
{
    struct sim_chunk *chunk = chunk_find(disk, index / SIM_CHUNK_PAGES);

    return chunk ? chunk->page[index % SIM_CHUNK_PAGES] : NULL;
}

static struct sim_page *page_get(struct sim_disk *disk, uint64_t index)
{
    uint64_t chunk_index = index / SIM_CHUNK_PAGES;
    struct sim_chunk *chunk = chunk_find(disk, chunk_index);
    struct sim_page *page;

    if (!chunk) {
        chunk = weir_new(struct sim_chunk);
        chunk->index = chunk_index;
        HASH_ADD(hh, disk->chunks, index, sizeof(chunk->index), chunk);
        disk->last = chunk;
    }
    page = chunk->page[index % SIM_CHUNK_PAGES];
    if (!page) {
        page = weir_new(struct sim_page);
        page->index = index;
        page->chunk = chunk;
        chunk->page[index % SIM_CHUNK_PAGES] = page;
        chunk->pages++;
    }
    return page;
}

static void page_free(struct sim_disk *disk, struct sim_page *page)
{
    struct sim_chunk *chunk = page->chunk;

    chunk->page[page->index % SIM_CHUNK_PAGES] = NULL;
    if (--chunk->pages == 0) {
        if (disk->last == chunk)
            disk->last = NULL;
        HASH_DEL(disk->chunks, chunk);
        free(chunk);
    }
    free(page->data);
    free(page);
}

static void set_allocated(struct sim_disk *disk, struct sim_page *page, bool allocated)
{
    uint64_t bit = 1ull << (page->index % SIM_CHUNK_PAGES);

    if (page->allocated == allocated)
        return;
    page->allocated = allocated;
    page->chunk->allocated ^= bit;
    if (allocated)
        disk->allocated += SIM_PAGE;
    else
        disk->allocated -= SIM_PAGE;
}

static void page_dirty(struct sim_disk *disk, struct sim_page *page)
{
    if (page->dirty)
        return;
    page->dirty = true;
    page->base = page->data;
    page->base_allocated = page->allocated;
    page->data = NULL;
    if (page->base) {
        page->data = malloc(SIM_PAGE);
        WEIR_ASSERT(page->data);
        memcpy(page->data, page->base, SIM_PAGE);
    }
    TAILQ_INSERT_TAIL(&disk->dirty, page, link);
}

/* No version is in doubt any more: what is there now is durable. May free the page. */
static void page_clean(struct sim_disk *disk, struct sim_page *page)
{
    free(page->base);
    page->base = NULL;
    page->dirty = false;
    TAILQ_REMOVE(&disk->dirty, page, link);
    if (!page->allocated)
        page_free(disk, page);
}

/* ---- versions ---- */

const uint8_t *sim_version_sector(const struct sim_version *version, unsigned sector)
{
    static const uint8_t zeroes[SIM_SECTOR];

    return version->zero ? zeroes : version->data + (sector - version->first) * SIM_SECTOR;
}

static void version_free(struct sim_version *version)
{
    sim_change_unref(version->change);
    free(version);
}

/* Remembers the sectors of @mask as they are now. */
static void version_add(struct sim_disk *disk, struct sim_page *page, struct sim_change *change,
                        unsigned mask)
{
    unsigned first = (unsigned)__builtin_ctz(mask), last = 31 - (unsigned)__builtin_clz(mask);
    size_t bytes = page->data ? (last - first + 1) * SIM_SECTOR : 0;
    struct sim_version *version = malloc(sizeof(*version) + bytes);

    WEIR_ASSERT(version);
    *version = (struct sim_version){ .change = change,
                                     .mask = (uint8_t)mask,
                                     .first = (uint8_t)first,
                                     .zero = !page->data,
                                     .allocated = page->allocated };
    change->refs++;
    if (bytes)
        memcpy(version->data, page->data + first * SIM_SECTOR, bytes);
    version->next = page->versions;
    page->versions = version;
    if (++page->version_count > VERSIONS_MAX)
        sim_page_settle_oldest(disk, page);
}

static void to_base(struct sim_page *page, const struct sim_version *version, unsigned mask)
{
    page->base_allocated |= version->allocated;
    if (mask == 0xff) {
        page->base_allocated = version->allocated;
        if (version->zero)
            free(weir_steal(&page->base)); /* a hole has no bytes */
    }
    if (version->zero && !page->base)
        return;
    if (!page->base)
        page->base = weir_alloc(SIM_PAGE);
    for (unsigned sector = 0; sector < SIM_PAGE / SIM_SECTOR; sector++)
        if (mask & (1u << sector))
            memcpy(page->base + sector * SIM_SECTOR, sim_version_sector(version, sector), SIM_SECTOR);
}

void sim_page_settle(struct sim_disk *disk, struct sim_page *page, sim_settles *settles, const void *arg)
{
    struct sim_version **link = &page->versions, *version;
    unsigned covered = 0;

    while ((version = *link)) {
        version->mask &= (uint8_t)~covered;
        if (version->mask && settles(version, arg)) {
            covered |= version->mask;
            to_base(page, version, version->mask);
            version->mask = 0;
        }
        if (version->mask) {
            link = &version->next;
            continue;
        }
        *link = version->next;
        page->version_count--;
        version_free(version);
    }
    if (!page->versions)
        page_clean(disk, page);
}

static bool settles_one(const struct sim_version *version, const void *arg)
{
    return version == arg;
}

void sim_page_settle_oldest(struct sim_disk *disk, struct sim_page *page)
{
    struct sim_version *oldest = page->versions;

    while (oldest->next)
        oldest = oldest->next;
    sim_page_settle(disk, page, settles_one, oldest);
}

void sim_page_become(struct sim_disk *disk, struct sim_page *page, uint8_t *data, bool allocated)
{
    struct sim_version *version;

    while ((version = page->versions)) {
        page->versions = version->next;
        version_free(version);
    }
    page->version_count = 0;
    free(page->data);
    page->data = data;
    set_allocated(disk, page, allocated);
    if (page->dirty)
        page_clean(disk, page);
    else if (!allocated)
        page_free(disk, page);
}

/* ---- changing bytes ---- */

static unsigned sector_mask(unsigned from, unsigned length)
{
    unsigned first = from / SIM_SECTOR, last = (from + length - 1) / SIM_SECTOR;

    return ((2u << last) - 1) & ~((1u << first) - 1);
}

/* @data NULL: zeroes. */
static void page_write(struct sim_disk *disk, struct sim_change *change, uint64_t offset, const void *data,
                       unsigned length)
{
    struct sim_page *page = page_get(disk, offset / SIM_PAGE);
    unsigned from = (unsigned)(offset % SIM_PAGE);

    page_dirty(disk, page);
    if (!page->data && data)
        page->data = weir_alloc(SIM_PAGE);
    if (data)
        memcpy(page->data + from, data, length);
    else if (page->data)
        memset(page->data + from, 0, length);
    if (data)
        set_allocated(disk, page, true);
    version_add(disk, page, change, sector_mask(from, length));
}

/* The whole page is zero from now on. */
static void page_zero(struct sim_disk *disk, struct sim_change *change, struct sim_page *page, bool allocate)
{
    page_dirty(disk, page);
    free(page->data);
    page->data = NULL;
    set_allocated(disk, page, allocate);
    version_add(disk, page, change, 0xff);
}

void sim_disk_write(struct sim_disk *disk, struct sim_change *change, uint64_t offset, const void *data,
                    uint64_t length)
{
    const char *bytes = data;

    if (length && offset + length > disk->size)
        sim_disk_set_size(disk, change, offset + length);
    while (length) {
        unsigned part = (unsigned)WEIR_MIN(SIM_PAGE - offset % SIM_PAGE, length);

        page_write(disk, change, offset, bytes, part);
        bytes += part;
        offset += part;
        length -= part;
    }
}

/* The first page from @index on that has a structure, below @end; @end: none. */
static uint64_t next_page(struct sim_disk *disk, uint64_t index, uint64_t end)
{
    while (index < end) {
        struct sim_chunk *chunk = chunk_find(disk, index / SIM_CHUNK_PAGES);

        if (!chunk) {
            uint64_t next = sim_disk_next_chunk(disk, index / SIM_CHUNK_PAGES);

            if (next == UINT64_MAX)
                return end;
            index = next * SIM_CHUNK_PAGES;
            continue;
        }
        for (; index < end && index / SIM_CHUNK_PAGES == chunk->index; index++)
            if (chunk->page[index % SIM_CHUNK_PAGES])
                return index;
    }
    return end;
}

static void zero_pages(struct sim_disk *disk, struct sim_change *change, uint64_t first, uint64_t end,
                       bool allocate)
{
    for (uint64_t index = first; index < end; index++) {
        if (!allocate && (index = next_page(disk, index, end)) == end)
            break;
        page_zero(disk, change, page_get(disk, index), allocate);
    }
}

void sim_disk_zero(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length,
                   bool allocate)
{
    uint64_t end = offset + length, first = weir_align_up(offset, SIM_PAGE),
             last = weir_align_down(end, SIM_PAGE);

    if (!length)
        return;
    if (first > last) {
        /* Inside of one page. */
        first = last = end;
    }
    if (first > offset && (allocate || sim_page_find(disk, offset / SIM_PAGE)))
        page_write(disk, change, offset, NULL, (unsigned)(first - offset));
    zero_pages(disk, change, first / SIM_PAGE, last / SIM_PAGE, allocate);
    if (end > last && (allocate || sim_page_find(disk, last / SIM_PAGE)))
        page_write(disk, change, last, NULL, (unsigned)(end - last));
    if (allocate)
        sim_disk_allocate(disk, change, offset, length);
}

void sim_disk_allocate(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length)
{
    uint64_t end = (offset + length + SIM_PAGE - 1) / SIM_PAGE;

    for (uint64_t index = offset / SIM_PAGE; index < end; index++) {
        struct sim_page *page = sim_page_find(disk, index);

        if (!page || !page->allocated)
            page_zero(disk, change, page_get(disk, index), true);
    }
}

void sim_disk_resize(struct sim_disk *disk, struct sim_change *change, uint64_t size)
{
    if (size < disk->size)
        sim_disk_zero(disk, change, size, weir_align_up(disk->size, SIM_PAGE) - size, false);
    if (size != disk->size)
        sim_disk_set_size(disk, change, size);
}

void sim_disk_settle_all(struct sim_disk *disk)
{
    struct sim_page *page;

    while ((page = TAILQ_FIRST(&disk->dirty)))
        sim_page_become(disk, page, weir_steal(&page->data), page->allocated);
    sim_disk_settle_size(disk);
}

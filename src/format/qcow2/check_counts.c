/* SPDX-License-Identifier: BSD-2-Clause */
#include "format/qcow2/check_counts.h"

#include "base/alloc.h"
#include <string.h>

void qcow2_counts_reset(struct qcow2_counts *counts, uint64_t first)
{
    for (unsigned i = 0; i < QCOW2_COUNTS_PAGES; i++) {
        free(counts->pages[i].numbers);
        free(counts->pages[i].kinds);
        counts->pages[i] = (struct qcow2_counts_page){ 0 };
    }
    counts->first = first;
}

static void *zeroed(size_t size)
{
    void *memory = weir_try_alloc(size, 64);

    if (memory)
        memset(memory, 0, size);
    return memory;
}

static bool touch(struct qcow2_counts_page *page)
{
    if (page->numbers)
        return true;
    page->numbers = zeroed(QCOW2_COUNTS_PAGE);
    page->kinds = zeroed(QCOW2_COUNTS_PAGE / 4);
    page->width = 1;
    if (page->numbers && page->kinds)
        return true;
    free(page->numbers);
    free(page->kinds);
    *page = (struct qcow2_counts_page){ 0 };
    return false;
}

static uint32_t get(const struct qcow2_counts_page *page, uint64_t at)
{
    switch (page->width) {
    case 1:
        return ((const uint8_t *)page->numbers)[at];
    case 2:
        return ((const uint16_t *)page->numbers)[at];
    default:
        return ((const uint32_t *)page->numbers)[at];
    }
}

static void put(struct qcow2_counts_page *page, uint64_t at, uint32_t number)
{
    switch (page->width) {
    case 1:
        ((uint8_t *)page->numbers)[at] = (uint8_t)number;
        break;
    case 2:
        ((uint16_t *)page->numbers)[at] = (uint16_t)number;
        break;
    default:
        ((uint32_t *)page->numbers)[at] = number;
    }
}

/* To numbers of @width bytes. */
static bool widen(struct qcow2_counts_page *page, unsigned width)
{
    struct qcow2_counts_page wide = { .numbers = weir_try_alloc(QCOW2_COUNTS_PAGE * width, 64),
                                      .kinds = page->kinds,
                                      .width = width };

    if (!wide.numbers)
        return false;
    for (uint64_t i = 0; i < QCOW2_COUNTS_PAGE; i++)
        put(&wide, i, get(page, i));
    free(page->numbers);
    *page = wide;
    return true;
}

static struct qcow2_counts_page *page_of(struct qcow2_counts *counts, uint64_t cluster)
{
    return &counts->pages[(cluster - counts->first) / QCOW2_COUNTS_PAGE];
}

static const struct qcow2_counts_page *page_seen(const struct qcow2_counts *counts, uint64_t cluster)
{
    return &counts->pages[(cluster - counts->first) / QCOW2_COUNTS_PAGE];
}

uint32_t qcow2_counts_get(const struct qcow2_counts *counts, uint64_t cluster)
{
    const struct qcow2_counts_page *page = page_seen(counts, cluster);

    return page->numbers ? get(page, cluster % QCOW2_COUNTS_PAGE) : 0;
}

bool qcow2_counts_touched(const struct qcow2_counts *counts, uint64_t cluster)
{
    return page_seen(counts, cluster)->numbers;
}

bool qcow2_counts_set(struct qcow2_counts *counts, uint64_t cluster, uint32_t number)
{
    struct qcow2_counts_page *page = page_of(counts, cluster);
    unsigned width = number <= UINT8_MAX ? 1 : number <= UINT16_MAX ? 2 : 4;

    if (!touch(page) || (width > page->width && !widen(page, width)))
        return false;
    put(page, cluster % QCOW2_COUNTS_PAGE, number);
    return true;
}

bool qcow2_counts_add(struct qcow2_counts *counts, uint64_t cluster, uint32_t number)
{
    uint32_t before = qcow2_counts_get(counts, cluster);

    return qcow2_counts_set(counts, cluster,
                            number > QCOW2_COUNT_MANY - before ? QCOW2_COUNT_MANY : before + number);
}

unsigned qcow2_counts_kind(const struct qcow2_counts *counts, uint64_t cluster)
{
    const struct qcow2_counts_page *page = page_seen(counts, cluster);
    uint64_t at = cluster % QCOW2_COUNTS_PAGE;

    return page->kinds ? page->kinds[at / 4] >> at % 4 * 2 & 3 : 0;
}

void qcow2_counts_set_kind(struct qcow2_counts *counts, uint64_t cluster, unsigned kind)
{
    struct qcow2_counts_page *page = page_of(counts, cluster);
    uint64_t at = cluster % QCOW2_COUNTS_PAGE;
    unsigned shift = at % 4 * 2;

    page->kinds[at / 4] = (uint8_t)((page->kinds[at / 4] & ~(3u << shift)) | kind << shift);
}

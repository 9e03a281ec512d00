/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty bitmap in levels of 64-bit words.
 *
 * Level 0 has a bit for each granule; a bit of level k + 1 says that a word of level k is not zero; the last
 * level is one word. So the next marked granule is found in two short walks, up over empty words and down again,
 * however large and sparse the bitmap is.
 *
 * Invariant, whenever the lock is free: every summary bit is right, and `marked` is the number of bits of level 0.
 * The file stands in this layer, above its header, because it needs the thread mutex.
 */
#include "base/bitmap.h"
#include "base/alloc.h"
#include "sys/mutex.h"

#define WORD_BITS 64
#define WORD_SHIFT 6
/* 2^64 / 512 granules have 2^55 bits: 10 levels. */
#define LEVELS_MAX 10
#define NONE UINT64_MAX

struct weir_bitmap {
    struct weir_mutex lock;
    uint64_t size, granularity; /* bytes */
    unsigned granule_shift;
    uint64_t granules;
    uint64_t marked;
    unsigned levels;
    uint64_t *level[LEVELS_MAX];
    uint64_t memory[]; /* all levels */
};

/* Bits [first, last] of a word. */
static uint64_t word_mask(unsigned first, unsigned last)
{
    return (~UINT64_C(0) << first) & (~UINT64_C(0) >> (WORD_BITS - 1 - last));
}

/* The part of the bit range [first, last] that lies in word @word, as a mask. */
static uint64_t range_mask(uint64_t word, uint64_t first, uint64_t last)
{
    return word_mask(word == first >> WORD_SHIFT ? first % WORD_BITS : 0,
                     word == last >> WORD_SHIFT ? last % WORD_BITS : WORD_BITS - 1);
}

/* Of a bitmap that may be const: the lock is no part of its value. */
static struct weir_mutex *lock_of(const struct weir_bitmap *bitmap)
{
    return (struct weir_mutex *)&bitmap->lock;
}

struct weir_bitmap *weir_bitmap_new(uint64_t size, uint64_t granularity)
{
    uint64_t granules, bits, words = 0, words_of[LEVELS_MAX];
    struct weir_bitmap *bitmap;
    uint64_t *memory;
    unsigned levels = 0;

    WEIR_ASSERT(weir_is_power_of_2(granularity) && granularity >= 512);
    granules = size / granularity + (size % granularity != 0);
    bits = WEIR_MAX(granules, (uint64_t)1);
    do {
        bits = (bits + WORD_BITS - 1) >> WORD_SHIFT;
        words_of[levels++] = bits;
        words += bits;
    } while (bits > 1);

    if (words > (SIZE_MAX - sizeof(*bitmap)) / sizeof(uint64_t))
        return NULL;
    /* calloc(), so that the parts of a large bitmap that nobody marks take no memory. */
    bitmap = calloc(1, sizeof(*bitmap) + words * sizeof(uint64_t));
    if (!bitmap)
        return NULL;
    weir_mutex_init(&bitmap->lock);
    bitmap->size = size;
    bitmap->granularity = granularity;
    bitmap->granule_shift = (unsigned)__builtin_ctzll(granularity);
    bitmap->granules = granules;
    bitmap->levels = levels;
    memory = bitmap->memory;
    for (unsigned i = 0; i < levels; i++) {
        bitmap->level[i] = memory;
        memory += words_of[i];
    }
    return bitmap;
}

void weir_bitmap_free(struct weir_bitmap *bitmap)
{
    if (!bitmap)
        return;
    weir_mutex_done(&bitmap->lock);
    free(bitmap);
}

uint64_t weir_bitmap_granularity(const struct weir_bitmap *bitmap)
{
    return bitmap->granularity;
}

uint64_t weir_bitmap_size(const struct weir_bitmap *bitmap)
{
    return bitmap->size;
}

/* Sets bits [first, last] of a level and returns how many were clear. */
static uint64_t level_set(uint64_t *words, uint64_t first, uint64_t last)
{
    uint64_t changed = 0;

    for (uint64_t word = first >> WORD_SHIFT; word <= last >> WORD_SHIFT; word++) {
        uint64_t mask = range_mask(word, first, last);

        changed += (unsigned)__builtin_popcountll(mask & ~words[word]);
        words[word] |= mask;
    }
    return changed;
}

/* Clears bits [first, last] of a level and returns how many were set. */
static uint64_t level_clear(uint64_t *words, uint64_t first, uint64_t last)
{
    uint64_t changed = 0;

    for (uint64_t word = first >> WORD_SHIFT; word <= last >> WORD_SHIFT; word++) {
        uint64_t mask = range_mask(word, first, last);

        changed += (unsigned)__builtin_popcountll(mask & words[word]);
        words[word] &= ~mask;
    }
    return changed;
}

static void mark(struct weir_bitmap *bitmap, uint64_t first, uint64_t last)
{
    bitmap->marked += level_set(bitmap->level[0], first, last);
    for (unsigned i = 1; i < bitmap->levels; i++) {
        first >>= WORD_SHIFT;
        last >>= WORD_SHIFT;
        /* Nothing new here means nothing new above. */
        if (!level_set(bitmap->level[i], first, last))
            break;
    }
}

static void unmark(struct weir_bitmap *bitmap, uint64_t first, uint64_t last)
{
    bitmap->marked -= level_clear(bitmap->level[0], first, last);
    for (unsigned i = 1; i < bitmap->levels; i++) {
        const uint64_t *below = bitmap->level[i - 1];

        first >>= WORD_SHIFT;
        last >>= WORD_SHIFT;
        /* Words inside the range are empty now; those at its ends may hold bits of others. */
        if (below[last]) {
            if (last == first)
                break;
            last--;
        }
        if (below[first]) {
            if (last == first)
                break;
            first++;
        }
        level_clear(bitmap->level[i], first, last);
    }
}

/* The first marked granule at or after @bit, or NONE. */
static uint64_t next_marked(const struct weir_bitmap *bitmap, uint64_t bit)
{
    uint64_t bits = bitmap->granules;
    unsigned i = 0;

    for (;; i++) {
        uint64_t rest;

        if (i == bitmap->levels || bit >= bits)
            return NONE;
        rest = bitmap->level[i][bit >> WORD_SHIFT] & (~UINT64_C(0) << bit % WORD_BITS);
        if (rest) {
            bit = (bit & ~(uint64_t)(WORD_BITS - 1)) + (unsigned)__builtin_ctzll(rest);
            break;
        }
        bit = (bit >> WORD_SHIFT) + 1;
        bits = (bits + WORD_BITS - 1) >> WORD_SHIFT;
    }
    while (i-- > 0)
        bit = (bit << WORD_SHIFT) + (unsigned)__builtin_ctzll(bitmap->level[i][bit]);
    return bit;
}

/* The first granule in [@bit, @end) that is not marked, or @end. */
static uint64_t next_unmarked(const struct weir_bitmap *bitmap, uint64_t bit, uint64_t end)
{
    uint64_t rest;

    if (bit >= end)
        return end;
    rest = ~bitmap->level[0][bit >> WORD_SHIFT] & (~UINT64_C(0) << bit % WORD_BITS);
    while (!rest) {
        bit = weir_align_down(bit, WORD_BITS) + WORD_BITS;
        if (bit >= end)
            return end;
        rest = ~bitmap->level[0][bit >> WORD_SHIFT];
    }
    bit = weir_align_down(bit, WORD_BITS) + (unsigned)__builtin_ctzll(rest);
    return WEIR_MIN(bit, end);
}

static void assert_range(const struct weir_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    WEIR_ASSERT(offset <= bitmap->size && length <= bitmap->size - offset);
}

void weir_bitmap_set(struct weir_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    assert_range(bitmap, offset, length);
    if (!length)
        return;
    weir_mutex_lock(lock_of(bitmap));
    mark(bitmap, offset >> bitmap->granule_shift, (offset + length - 1) >> bitmap->granule_shift);
    weir_mutex_unlock(lock_of(bitmap));
}

void weir_bitmap_clear_inner(struct weir_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    uint64_t first, end;

    assert_range(bitmap, offset, length);
    first = (offset >> bitmap->granule_shift) + (offset % bitmap->granularity != 0);
    end = (offset + length) >> bitmap->granule_shift;
    if (offset + length == bitmap->size)
        end = bitmap->granules;
    if (!length || first >= end)
        return;
    weir_mutex_lock(lock_of(bitmap));
    unmark(bitmap, first, end - 1);
    weir_mutex_unlock(lock_of(bitmap));
}

bool weir_bitmap_get(const struct weir_bitmap *bitmap, uint64_t offset)
{
    return weir_bitmap_any(bitmap, offset, 1);
}

bool weir_bitmap_any(const struct weir_bitmap *bitmap, uint64_t offset, uint64_t length)
{
    uint64_t found;

    assert_range(bitmap, offset, length);
    if (!length)
        return false;
    weir_mutex_lock(lock_of(bitmap));
    found = next_marked(bitmap, offset >> bitmap->granule_shift);
    weir_mutex_unlock(lock_of(bitmap));
    return found <= (offset + length - 1) >> bitmap->granule_shift;
}

bool weir_bitmap_next_area(const struct weir_bitmap *bitmap, uint64_t offset, uint64_t length_max,
                           uint64_t *ret_offset, uint64_t *ret_length)
{
    uint64_t first, end = 0, most = length_max >> bitmap->granule_shift;

    WEIR_ASSERT(most > 0 && length_max % bitmap->granularity == 0);
    weir_mutex_lock(lock_of(bitmap));
    first = next_marked(bitmap, offset >> bitmap->granule_shift);
    if (first != NONE)
        end = next_unmarked(bitmap, first, first + WEIR_MIN(most, bitmap->granules - first));
    weir_mutex_unlock(lock_of(bitmap));
    if (first == NONE)
        return false;
    *ret_offset = first << bitmap->granule_shift;
    *ret_length = (end == bitmap->granules ? bitmap->size : end << bitmap->granule_shift) - *ret_offset;
    return true;
}

uint64_t weir_bitmap_count(const struct weir_bitmap *bitmap)
{
    uint64_t count, tail = bitmap->size % bitmap->granularity;

    weir_mutex_lock(lock_of(bitmap));
    count = bitmap->marked << bitmap->granule_shift;
    if (tail && next_marked(bitmap, bitmap->granules - 1) != NONE)
        count -= bitmap->granularity - tail;
    weir_mutex_unlock(lock_of(bitmap));
    return count;
}

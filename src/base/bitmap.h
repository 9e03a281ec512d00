/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Dirty bitmap: which granules of a byte range [0, size) are marked.
 *
 * Thread safe: every function takes the bitmap's own short lock (a plain thread mutex, never held over a
 * switch). A summary level makes "find the next dirty area" cheap in large sparse bitmaps.
 */
#ifndef WEIR_BASE_BITMAP_H
#define WEIR_BASE_BITMAP_H

#include "base/macros.h"

struct weir_bitmap;

/* @granularity in bytes, a power of two >= 512. Returns NULL when there is no memory for @size bytes' bits. */
struct weir_bitmap *weir_bitmap_new(uint64_t size, uint64_t granularity);
void weir_bitmap_free(struct weir_bitmap *bitmap);
uint64_t weir_bitmap_granularity(const struct weir_bitmap *bitmap);
uint64_t weir_bitmap_size(const struct weir_bitmap *bitmap);

/* Marks every granule that [@offset, @offset + @length) touches. */
void weir_bitmap_set(struct weir_bitmap *bitmap, uint64_t offset, uint64_t length);
/*
 * Clears every granule that lies wholly inside the range, and no other. The last granule of the bitmap counts
 * as wholly inside when the range reaches the end of the disk. (Rule M4: a touched granule stays as it is.)
 */
void weir_bitmap_clear_inner(struct weir_bitmap *bitmap, uint64_t offset, uint64_t length);
/* Whether the granule that holds @offset is marked. */
bool weir_bitmap_get(const struct weir_bitmap *bitmap, uint64_t offset);
/* Whether any granule that [@offset, @offset + @length) touches is marked. */
bool weir_bitmap_any(const struct weir_bitmap *bitmap, uint64_t offset, uint64_t length);
/*
 * The first dirty area at or after @offset: *ret_offset is a multiple of the granularity, *ret_length a whole
 * number of granules (cut at the size of the disk) and at most @length_max (itself a multiple of the
 * granularity). False when nothing is dirty from @offset on.
 */
bool weir_bitmap_next_area(const struct weir_bitmap *bitmap, uint64_t offset, uint64_t length_max,
                           uint64_t *ret_offset, uint64_t *ret_length);
/* Dirty bytes: marked granules, the last one cut at the size of the disk. */
uint64_t weir_bitmap_count(const struct weir_bitmap *bitmap);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The oracle for a range that only one queue of one guest changes, byte by byte.
 *
 * Bytes hold values 0 .. 63. For each byte: the set of values it may have now, and the set that a power cut may leave.
 */
#ifndef WEIR_TESTS_SIM_SHADOW_H
#define WEIR_TESTS_SIM_SHADOW_H

#include "base/macros.h"

#define SHADOW_BYTES_MAX 12288u

struct shadow {
    uint64_t offset, length; /* bytes of the disk */
    uint64_t now[SHADOW_BYTES_MAX], cut[SHADOW_BYTES_MAX];
};

/* Offsets below are on the disk and inside of the range. */
void shadow_init(struct shadow *shadow, uint64_t offset, uint64_t length);
/* The bytes are known to be these, for good. */
void shadow_settle(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes);
/* A change to @bytes (NULL: zeroes) begins. */
void shadow_begin(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes);
/* It has ended: @certain: it took effect, @durable: and for good. */
void shadow_end(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes, bool certain,
                bool durable);
/* A flush that began after all changes had ended was good. */
void shadow_flushed(struct shadow *shadow);
/* Returns the first byte that must not have this value, or @length. */
uint64_t shadow_check(const struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes,
                      bool cut);

#endif

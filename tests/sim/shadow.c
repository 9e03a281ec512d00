/* SPDX-License-Identifier: BSD-2-Clause */
#include "shadow.h"

#include <string.h>

static uint64_t bit_of(const uint8_t *bytes, uint64_t i)
{
    return (uint64_t)1 << (bytes ? bytes[i] & 63 : 0);
}

static uint64_t place(const struct shadow *shadow, uint64_t offset, uint64_t length)
{
    WEIR_ASSERT(offset >= shadow->offset && offset + length <= shadow->offset + shadow->length);
    return offset - shadow->offset;
}

void shadow_init(struct shadow *shadow, uint64_t offset, uint64_t length)
{
    WEIR_ASSERT(length <= SHADOW_BYTES_MAX);
    shadow->offset = offset;
    shadow->length = length;
}

void shadow_settle(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes)
{
    uint64_t at = place(shadow, offset, length);

    for (uint64_t i = 0; i < length; i++)
        shadow->now[at + i] = shadow->cut[at + i] = bit_of(bytes, i);
}

void shadow_begin(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes)
{
    uint64_t at = place(shadow, offset, length);

    for (uint64_t i = 0; i < length; i++) {
        shadow->now[at + i] |= bit_of(bytes, i);
        shadow->cut[at + i] |= bit_of(bytes, i);
    }
}

void shadow_end(struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes, bool certain,
                bool durable)
{
    uint64_t at = place(shadow, offset, length);

    for (uint64_t i = 0; i < length && certain; i++) {
        shadow->now[at + i] = bit_of(bytes, i);
        if (durable)
            shadow->cut[at + i] = bit_of(bytes, i);
    }
}

void shadow_flushed(struct shadow *shadow)
{
    memcpy(shadow->cut, shadow->now, shadow->length * sizeof(shadow->now[0]));
}

uint64_t shadow_check(const struct shadow *shadow, uint64_t offset, uint64_t length, const uint8_t *bytes,
                      bool cut)
{
    uint64_t at = place(shadow, offset, length);

    for (uint64_t i = 0; i < length; i++) {
        uint64_t set = cut ? shadow->cut[at + i] : shadow->now[at + i];

        if (bytes[i] > 63 || !(set & (uint64_t)1 << bytes[i]))
            return i;
    }
    return length;
}

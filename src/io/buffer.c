/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Buffers by size class, kept per thread for reuse.
 *
 * Fresh pages cost a fault each (257 for every MiB); a loop that serves large requests must not pay that for each
 * of them. Classes are powers of two from 4 KiB; what is larger than the largest class is not kept.
 */
#include "io/buffer.h"

#include "base/alloc.h"
#include <stdatomic.h>

enum { CLASS_SHIFT_MIN = 12, CLASS_COUNT = 12 }; /* 4 KiB .. 8 MiB */
#define KEPT_BYTES_MAX ((uint64_t)32 << 20)      /* per thread, all classes together */

struct cache {
    struct weir_buffer *free[CLASS_COUNT];
    uint64_t kept;
};

static _Thread_local struct cache thread_cache;

/* A coroutine may have moved to another thread: the address must not be kept over a switch. */
static __attribute__((noinline)) struct cache *cache_here(void)
{
    __asm__ volatile("");
    return &thread_cache;
}

static unsigned class_of(uint64_t size)
{
    unsigned c = 0;

    while (c < CLASS_COUNT && ((uint64_t)1 << (c + CLASS_SHIFT_MIN)) < size)
        c++;
    return c;
}

struct weir_buffer *weir_buffer_new(uint64_t size)
{
    unsigned c = class_of(size);
    struct cache *cache = cache_here();
    struct weir_buffer *buffer;

    if (c < CLASS_COUNT && cache->free[c]) {
        buffer = cache->free[c];
        cache->free[c] = buffer->next_free;
        cache->kept -= buffer->size;
    } else {
        uint64_t bytes = c < CLASS_COUNT ? (uint64_t)1 << (c + CLASS_SHIFT_MIN) : weir_align_up(size, 4096);
        void *data = weir_try_alloc(bytes, 4096);

        if (!data)
            return NULL;
        buffer = weir_new(struct weir_buffer);
        buffer->data = data;
        buffer->size = bytes;
    }
    buffer->next_free = NULL;
    atomic_store_explicit(&buffer->refs, 1, memory_order_relaxed);
    return buffer;
}

struct weir_buffer *weir_buffer_ref(struct weir_buffer *buffer)
{
    atomic_fetch_add_explicit(&buffer->refs, 1, memory_order_relaxed);
    return buffer;
}

static void buffer_free(struct weir_buffer *buffer)
{
    free(buffer->data);
    free(buffer);
}

void weir_buffer_unref(struct weir_buffer *buffer)
{
    struct cache *cache;
    unsigned c;

    if (!buffer || atomic_fetch_sub_explicit(&buffer->refs, 1, memory_order_acq_rel) != 1)
        return;
    cache = cache_here();
    c = class_of(buffer->size);
    if (c >= CLASS_COUNT || cache->kept + buffer->size > KEPT_BYTES_MAX) {
        buffer_free(buffer);
        return;
    }
    buffer->next_free = cache->free[c];
    cache->free[c] = buffer;
    cache->kept += buffer->size;
}

void weir_buffer_trim(void)
{
    struct cache *cache = cache_here();

    for (unsigned c = 0; c < CLASS_COUNT; c++) {
        while (cache->free[c]) {
            struct weir_buffer *buffer = cache->free[c];
            cache->free[c] = buffer->next_free;
            buffer_free(buffer);
        }
    }
    cache->kept = 0;
}

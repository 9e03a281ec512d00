/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reference-counted I/O buffers, 4 KiB aligned. Recycled per loop so that large ones stay mapped.
 * Any loop; nothing waits.
 */
#ifndef WEIR_IO_BUFFER_H
#define WEIR_IO_BUFFER_H

#include "base/macros.h"

struct weir_buffer {
    void *data;
    uint64_t size; /* bytes at data */
    _Atomic unsigned refs;
    struct weir_buffer *next_free;
};

/* A buffer of at least @size bytes (uninitialised), or NULL when there is no memory. */
struct weir_buffer *weir_buffer_new(uint64_t size);
struct weir_buffer *weir_buffer_ref(struct weir_buffer *buffer);
void weir_buffer_unref(struct weir_buffer *buffer); /* NULL is fine */
/* Frees what the calling loop keeps for reuse (the loop ends). */
void weir_buffer_trim(void);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Allocation. Bookkeeping never fails: the process aborts when the system has no memory for it.
 * Sizes that come from a guest, an image or a wire use weir_try_alloc() and answer -ENOMEM.
 * Any thread; nothing yields.
 */
#ifndef WEIR_BASE_ALLOC_H
#define WEIR_BASE_ALLOC_H

#include "base/macros.h"
#include <stdarg.h>
#include <stdlib.h>

/* Zeroed bookkeeping memory; aborts instead of returning NULL. Free with free(). */
void *weir_alloc(size_t size) __attribute__((malloc, returns_nonnull));
void *weir_realloc(void *ptr, size_t size) __attribute__((returns_nonnull));
char *weir_strdup(const char *text) __attribute__((malloc, returns_nonnull));
char *weir_strdup_vprintf(const char *format, va_list args) weir_printf(1, 0)
    __attribute__((malloc, returns_nonnull));
char *weir_strdup_printf(const char *format, ...) weir_printf(1, 2) __attribute__((malloc, returns_nonnull));

/* Uninitialised memory aligned to @alignment bytes (a power of two), or NULL. Free with free(). */
void *weir_try_alloc(size_t size, size_t alignment) __attribute__((malloc));

#define weir_new(type) ((type *)weir_alloc(sizeof(type)))
#define weir_new_array(type, count) ((type *)weir_alloc_array(sizeof(type), (count)))
void *weir_alloc_array(size_t size, size_t count) __attribute__((malloc, returns_nonnull));

static inline void weir_freep(void *p)
{
    free(*(void **)p);
}
#define weir_autofree __attribute__((cleanup(weir_freep)))

#endif

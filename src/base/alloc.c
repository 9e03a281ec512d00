/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Allocation that aborts, for bookkeeping, and allocation that may fail, for sizes that others chose.
 */
#include "base/alloc.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void *weir_alloc(size_t size)
{
    return weir_alloc_array(1, size);
}

void *weir_alloc_array(size_t size, size_t count)
{
    /* Never NULL for "nothing", so that a result can always be told from a failure. calloc() checks overflow. */
    void *memory = size && count ? calloc(count, size) : calloc(1, 1);

    if (!memory)
        abort();
    return memory;
}

void *weir_realloc(void *ptr, size_t size)
{
    void *memory = realloc(ptr, size ? size : 1);

    if (!memory)
        abort();
    return memory;
}

char *weir_strdup(const char *text)
{
    char *copy = strdup(text);

    if (!copy)
        abort();
    return copy;
}

char *weir_strdup_vprintf(const char *format, va_list args)
{
    char *text;

    if (vasprintf(&text, format, args) < 0)
        abort();
    return text;
}

char *weir_strdup_printf(const char *format, ...)
{
    char *text;
    va_list args;

    va_start(args, format);
    text = weir_strdup_vprintf(format, args);
    va_end(args);
    return text;
}

void *weir_try_alloc(size_t size, size_t alignment)
{
    void *memory;

    WEIR_ASSERT(weir_is_power_of_2(alignment));
    if (posix_memalign(&memory, WEIR_MAX(alignment, sizeof(void *)), size ? size : 1) != 0)
        return NULL;
    return memory;
}

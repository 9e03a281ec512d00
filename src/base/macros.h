/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Annotations and small macros that every file uses.
 *
 * Nothing here allocates, locks or yields.
 */
#ifndef WEIR_BASE_MACROS_H
#define WEIR_BASE_MACROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Marks a function that may suspend the calling coroutine. Only a weir_co_fn may call one. */
#if defined(__clang__)
#define weir_co_fn __attribute__((annotate("weir_co_fn")))
#else
#define weir_co_fn
#endif

#define weir_must_check __attribute__((warn_unused_result))
#define weir_printf(fmt, args) __attribute__((format(printf, fmt, args)))
#define weir_likely(x) __builtin_expect(!!(x), 1)
#define weir_unlikely(x) __builtin_expect(!!(x), 0)

#define weir_container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#define WEIR_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define WEIR_MIN(a, b) ((a) < (b) ? (a) : (b))
#define WEIR_MAX(a, b) ((a) > (b) ? (a) : (b))

/* A programmer error: never used on bytes that come from an image, a wire or a user. Stays on in release. */
#define WEIR_ASSERT(cond) \
    (weir_likely(cond) ? (void)0 : weir_assert_failed(#cond, __FILE__, __LINE__, __func__))
_Noreturn void weir_assert_failed(const char *cond, const char *file, int line, const char *func);

/* Rounding to a power of two. */
static inline uint64_t weir_align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}
static inline uint64_t weir_align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}
static inline bool weir_is_power_of_2(uint64_t value)
{
    return value && !(value & (value - 1));
}

/* Takes the value out of *p and leaves NULL there: hands ownership over. */
#define weir_steal(p)                  \
    ({                                 \
        __typeof__(*(p)) taken = *(p); \
        *(p) = NULL;                   \
        taken;                         \
    })

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The static variables of the program, remembered and put back, so that the library starts the life after a power
 * cut like a fresh process.
 *
 * The linker gives the bounds of .data and .bss of the program itself. Variables in the section weir_sim_kept,
 * which may lie between or inside of the two, are left alone. The copying is not instrumented: it passes over
 * the poisoned gaps between variables.
 */
#include "sys/sim/world.h"

extern char __data_start[], _edata[], __bss_start[], _end[]; /* NOLINT: the linker's names */
extern char __start_weir_sim_kept[], __stop_weir_sim_kept[];

struct saved {
    char *from, *to; /* in the program */
    char *copy;
};

static WEIR_SIM_KEPT struct saved saved[4];
static WEIR_SIM_KEPT unsigned saved_count;

__attribute__((no_sanitize("address", "thread"), noinline)) static void copy_bytes(char *to, const char *from,
                                                                                   size_t length)
{
    /* Through volatile pointers, or the compiler makes a checked memcpy() of it. */
    for (; length && ((uintptr_t)to | (uintptr_t)from) % sizeof(uint64_t); length--)
        *(volatile char *)to++ = *(const volatile char *)from++;
    for (; length >= sizeof(uint64_t); length -= sizeof(uint64_t)) {
        *(volatile uint64_t *)(void *)to = *(const volatile uint64_t *)(const void *)from;
        to += sizeof(uint64_t);
        from += sizeof(uint64_t);
    }
    while (length--)
        *(volatile char *)to++ = *(const volatile char *)from++;
}

static void save_range(char *from, char *to)
{
    struct saved *range = &saved[saved_count];

    if (from >= to)
        return;
    /* The copy lies as the original does in a word, so that whole words can be moved. */
    range->from = from;
    range->to = to;
    range->copy =
        (char *)weir_alloc((size_t)(to - from) + sizeof(uint64_t)) + (uintptr_t)from % sizeof(uint64_t);
    copy_bytes(range->copy, from, (size_t)(to - from));
    saved_count++;
}

/* Without what is to be kept. */
static void save_around_kept(char *from, char *to)
{
    char *kept = __start_weir_sim_kept, *kept_end = __stop_weir_sim_kept;

    if (kept_end <= from || kept >= to) {
        save_range(from, to);
        return;
    }
    save_range(from, kept);
    save_range(kept_end, to);
}

bool weir_sim_statics_save(void)
{
    WEIR_ASSERT(!saved_count);
#if defined(__clang__) && defined(WEIR_CONTEXT_ANNOTATED)
    /* The sanitizer's own variables would be put back too: clang links its runtime into the program. */
    return false;
#endif
    save_around_kept(__data_start, _edata);
    save_around_kept(__bss_start, _end);
    return true;
}

void sim_statics_restore(void)
{
    for (unsigned i = 0; i < saved_count; i++)
        copy_bytes(saved[i].from, saved[i].copy, (size_t)(saved[i].to - saved[i].from));
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The linker's --wrap sends each call of an allocation function here. Live allocations are in a hash table of
 * their own (open addressing, backward-shift deletion), which uses the real functions. What was allocated
 * elsewhere (by the C library, or before the counting began) is not in the table and is freed without notice.
 */
#include "sys/sim/heap.h"
#include "sys/sim/sim.h"
#include "sys/context.h"
#include <stdlib.h>
#include <string.h>
#ifdef WEIR_WITH_ASAN
#include <sanitizer/lsan_interface.h>
#endif

struct entry {
    void *memory; /* NULL: empty */
    size_t size;
    const void *caller;
    uint64_t serial;
};

static WEIR_SIM_KEPT struct entry *table;
static WEIR_SIM_KEPT size_t table_size, live; /* table_size: a power of two */
static WEIR_SIM_KEPT uint64_t next_serial;
static WEIR_SIM_KEPT bool counting;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
int __real_posix_memalign(void **ret_memory, size_t alignment, size_t size);
void __real_free(void *memory);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *memory, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
int __wrap_posix_memalign(void **ret_memory, size_t alignment, size_t size);
void __wrap_free(void *memory);

static size_t home(const void *memory)
{
    return (size_t)(((uintptr_t)memory >> 4) * 0x9e3779b97f4a7c15ull >> 20) & (table_size - 1);
}

static void put(const struct entry *entry)
{
    size_t at = home(entry->memory);

    while (table[at].memory)
        at = (at + 1) & (table_size - 1);
    table[at] = *entry;
}

static void grow(void)
{
    struct entry *old = table;
    size_t old_size = table_size;

    table_size = old_size ? 2 * old_size : 4096;
    table = __real_calloc(table_size, sizeof(*table));
    WEIR_ASSERT(table);
    for (size_t i = 0; i < old_size; i++)
        if (old[i].memory)
            put(&old[i]);
    __real_free(old);
}

static void *added(void *memory, size_t size, const void *caller)
{
    if (!counting || !memory)
        return memory;
    if (2 * live >= table_size)
        grow();
    put(&(struct entry){ memory, size, caller, next_serial++ });
    live++;
    return memory;
}

static void removed(void *memory)
{
    size_t at, next;

    if (!memory || !table)
        return;
    at = home(memory);
    while (table[at].memory && table[at].memory != memory)
        at = (at + 1) & (table_size - 1);
    if (!table[at].memory)
        return;
    live--;
    for (next = (at + 1) & (table_size - 1); table[next].memory; next = (next + 1) & (table_size - 1)) {
        size_t from_home = (next - home(table[next].memory)) & (table_size - 1);

        if (from_home >= ((next - at) & (table_size - 1))) {
            table[at] = table[next];
            at = next;
        }
    }
    table[at].memory = NULL;
}

void *__wrap_malloc(size_t size)
{
    return added(__real_malloc(size), size, __builtin_return_address(0));
}

void *__wrap_calloc(size_t count, size_t size)
{
    return added(__real_calloc(count, size), count * size, __builtin_return_address(0));
}

void *__wrap_realloc(void *memory, size_t size)
{
    void *moved = __real_realloc(memory, size);

    if (moved || !size)
        removed(memory);
    return added(moved, size, __builtin_return_address(0));
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return added(__real_aligned_alloc(alignment, size), size, __builtin_return_address(0));
}

int __wrap_posix_memalign(void **ret_memory, size_t alignment, size_t size)
{
    int result = __real_posix_memalign(ret_memory, alignment, size);

    if (!result)
        added(*ret_memory, size, __builtin_return_address(0));
    return result;
}

void __wrap_free(void *memory)
{
    removed(memory);
    __real_free(memory);
}

static void empty(void)
{
    if (table)
        memset(table, 0, table_size * sizeof(*table));
    live = 0;
}

void weir_sim_heap_begin(void)
{
    empty();
    counting = true;
}

void weir_sim_heap_forget(void)
{
#ifdef WEIR_WITH_ASAN
    for (size_t i = 0; i < table_size; i++)
        if (table[i].memory)
            __lsan_ignore_object(table[i].memory);
#endif
    empty();
}

size_t weir_sim_heap_live(void)
{
    return live;
}

void weir_sim_heap_end(void)
{
    counting = false;
    __real_free(table);
    table = NULL;
    table_size = live = 0;
}

static int by_serial(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;

    return left->serial < right->serial ? -1 : left->serial > right->serial;
}

void weir_sim_heap_each(void (*show)(const void *memory, size_t size, const void *caller))
{
    struct entry *sorted = __real_malloc((live + 1) * sizeof(*sorted));
    size_t count = 0;

    WEIR_ASSERT(sorted);
    for (size_t i = 0; i < table_size; i++)
        if (table[i].memory)
            sorted[count++] = table[i];
    qsort(sorted, count, sizeof(*sorted), by_serial);
    for (size_t i = 0; i < count; i++)
        show(sorted[i].memory, sorted[i].size, sorted[i].caller);
    __real_free(sorted);
}

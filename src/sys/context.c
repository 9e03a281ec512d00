/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Contexts on boost.context's two C entry points, whose declarations stand here because the library ships C++
 * headers only.
 *
 * A jump hands the new side a `struct hop` that lies on the stack of the old side: which context was left
 * (its continuation is known only after the jump) and which one was entered (the entry function needs to
 * know). Everything between the announcement to the sanitizers and the jump must not touch instrumented
 * memory of the new stack.
 */
#include "sys/context.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef WEIR_WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif
#ifdef WEIR_WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(low, high) 0
#define VALGRIND_STACK_DEREGISTER(id) ((void)(id))
#endif

void *make_fcontext(void *top, size_t size, void (*run)(struct weir_context_transfer transfer));

/* ---- stacks ---- */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void weir_stack_new(struct weir_stack *ret_stack, size_t size)
{
    size_t guard = page_size();
    size_t usable = weir_align_up(size, guard);
    char *map = mmap(NULL, guard + usable, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);

    if (map == MAP_FAILED || mprotect(map, guard, PROT_NONE) < 0)
        abort();
    ret_stack->base = map + guard;
    ret_stack->size = usable;
    ret_stack->id = VALGRIND_STACK_REGISTER(map + guard, map + guard + usable);
#ifdef WEIR_WITH_ASAN
    __lsan_register_root_region(ret_stack->base, ret_stack->size);
#endif
}

void weir_stack_free(struct weir_stack *stack)
{
    size_t guard = page_size();

    if (!stack->base)
        return;
#ifdef WEIR_WITH_ASAN
    __lsan_unregister_root_region(stack->base, stack->size);
    /* Frames that were never left would otherwise poison whatever is mapped here next. */
    __asan_unpoison_memory_region(stack->base, stack->size);
#endif
    VALGRIND_STACK_DEREGISTER(stack->id);
    (void)munmap((char *)stack->base - guard, stack->size + guard);
    memset(stack, 0, sizeof(*stack));
}

/* ---- contexts ---- */

/*
 * Tells the sanitizers that execution moves from @from to @to. @fake_stack: where ASan keeps its own; NULL: for good.
 * Inlined for certain: TSan counts the entry into a function on one fiber and would count the exit on the other.
 */
static inline __attribute__((always_inline)) void announce(struct weir_context *from, struct weir_context *to,
                                                           void **fake_stack)
{
#ifdef WEIR_WITH_ASAN
    __sanitizer_start_switch_fiber(fake_stack, to->stack.base, to->stack.size);
#endif
#ifdef WEIR_WITH_TSAN
    from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
    (void)from, (void)to, (void)fake_stack;
}

/* First thing on the new side: where the old side goes on, and what ASan knows of its stack. */
static inline __attribute__((always_inline)) void arrive(struct weir_context *self,
                                                         struct weir_context_transfer transfer)
{
    struct weir_context *from = ((struct weir_context_hop *)transfer.data)->from;

    from->jump = transfer.jump;
#ifdef WEIR_WITH_ASAN
    const void *bottom;
    size_t size;

    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &size);
    /* Not always what it was made with: a simulated thread may have been left from a coroutine's stack. */
    from->stack.base = (void *)(uintptr_t)bottom;
    from->stack.size = size;
#endif
    (void)self;
}

static void run_entry(struct weir_context_transfer transfer)
{
    struct weir_context *self = ((struct weir_context_hop *)transfer.data)->to;

    arrive(self, transfer);
    self->entry(self->arg);
    abort();
}

void weir_context_init_thread(struct weir_context *context)
{
    memset(context, 0, sizeof(*context));
#ifdef WEIR_WITH_TSAN
    context->fiber = __tsan_get_current_fiber();
#endif
}

void weir_context_init_stack(struct weir_context *context, const struct weir_stack *stack,
                             void (*entry)(void *arg), void *arg)
{
    memset(context, 0, sizeof(*context));
    context->stack = *stack;
    context->entry = entry;
    context->arg = arg;
#ifdef WEIR_WITH_ASAN
    __asan_unpoison_memory_region(stack->base, stack->size);
#endif
#ifdef WEIR_WITH_TSAN
    context->own_fiber = __tsan_create_fiber(0);
    context->fiber = context->own_fiber;
#endif
    context->jump = make_fcontext((char *)stack->base + stack->size, stack->size, run_entry);
}

/* Not instrumented: the hop must lie on the stack proper, as ASan's own one is gone after the last switch. */
#ifdef WEIR_CONTEXT_ANNOTATED
__attribute__((no_sanitize_address)) void weir_context_switch(struct weir_context *from,
                                                              struct weir_context *to)
{
    struct weir_context_hop hop = { from, to };

    announce(from, to, &from->fake_stack);
    arrive(from, jump_fcontext(to->jump, &hop));
}
#endif

__attribute__((no_sanitize_address)) void weir_context_exit(struct weir_context *from,
                                                            struct weir_context *to)
{
    struct weir_context_hop hop = { from, to };

    announce(from, to, NULL);
    (void)jump_fcontext(to->jump, &hop);
    abort();
}

void weir_context_done(struct weir_context *context)
{
#ifdef WEIR_WITH_TSAN
    if (context->own_fiber)
        __tsan_destroy_fiber(context->own_fiber);
#endif
    memset(context, 0, sizeof(*context));
}

/* ---- variables of a thread ---- */

static __thread struct weir_locals own_locals __attribute__((tls_model("initial-exec")));
static __thread struct weir_locals *set_locals __attribute__((tls_model("initial-exec")));

/*
 * Neither inlined nor seen through: a compiler that knew that this only computes an address would keep the
 * result over a switch, after which the coroutine may run on another thread.
 */
__attribute__((noinline))
#if defined(__GNUC__) && !defined(__clang__)
__attribute__((noipa))
#endif
struct weir_locals *
weir_locals(void)
{
    __asm__ volatile("" ::: "memory");
    return set_locals ? set_locals : &own_locals;
}

void weir_locals_set(struct weir_locals *locals)
{
    set_locals = locals;
}

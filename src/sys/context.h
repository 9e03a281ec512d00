/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Stacks, switches between them, and the variables of a thread.
 *
 * A *context* is a place where execution can go on: the own stack of an OS thread, or a stack of ours on
 * which an entry function runs. weir_context_switch() leaves one and enters another, with the annotations
 * that ASan, TSan and LeakSanitizer need. Who may run next is not decided here: src/co builds coroutines on
 * it, and the simulator its threads. Both may be stacked: a coroutine switches to and from the context of the
 * (simulated) thread that runs it, and a simulated thread switches to the scheduler from inside of a
 * coroutine.
 *
 * *Locals* are the few variables that belong to a thread of the library. In the real world they are
 * thread-local; the simulator, whose threads share one OS thread, exchanges them at each of its switches with
 * weir_locals_set(). Never keep the pointer over a switch: a coroutine may go on on another thread.
 *
 * Nothing here locks; nothing yields except weir_context_switch().
 */
#ifndef WEIR_SYS_CONTEXT_H
#define WEIR_SYS_CONTEXT_H

#include "base/macros.h"

#if defined(__SANITIZE_ADDRESS__)
#define WEIR_WITH_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define WEIR_WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEIR_WITH_ASAN 1
#elif __has_feature(thread_sanitizer)
#define WEIR_WITH_TSAN 1
#endif
#endif
/* Switches must be announced to a sanitizer. */
#if defined(WEIR_WITH_ASAN) || defined(WEIR_WITH_TSAN)
#define WEIR_CONTEXT_ANNOTATED 1
#endif

/* ---- stacks ---- */

struct weir_stack {
    void *base;  /* lowest usable address; a guard page lies below. NULL: no stack */
    size_t size; /* usable bytes */
    unsigned id; /* valgrind's */
};

/* Bytes of a stack for which nobody knows better. Sanitizers need larger frames. */
#ifdef WEIR_CONTEXT_ANNOTATED
#define WEIR_STACK_SIZE (256 * 1024)
#else
#define WEIR_STACK_SIZE (128 * 1024)
#endif

/* Maps @size bytes (rounded up to pages) with a guard page; aborts when there is no memory for it. Any
 * thread. */
void weir_stack_new(struct weir_stack *ret_stack, size_t size);
/* Gives it back to the OS. No context may use it any more. Does nothing for an empty one. Any thread. */
void weir_stack_free(struct weir_stack *stack);

/* ---- contexts ---- */

struct weir_context {
    void *jump; /* where it goes on; valid while it does not run */
    void (*entry)(void *arg);
    void *arg;
    /* What the sanitizers need to know while it does not run. */
    struct weir_stack stack;
    void *fake_stack;        /* ASan's */
    void *fiber, *own_fiber; /* TSan's: where it was left, which one was made for it */
};

/* boost.context's C entry point; the library ships C++ headers only. */
struct weir_context_transfer {
    void *jump;
    void *data;
};
struct weir_context_transfer jump_fcontext(void *to, void *data);
/* What a jump hands to the new side: which context was left, which was entered. Lies on the old stack. */
struct weir_context_hop {
    struct weir_context *from, *to;
};

/* The own stack of the calling OS thread. weir_context_done() when nothing will switch to it any more. */
void weir_context_init_thread(struct weir_context *context);
/*
 * @stack (which stays the caller's and must be unused) with @entry(@arg) as the first function. The context
 * runs when it is first switched to. @entry must not return: it ends with weir_context_exit().
 */
void weir_context_init_stack(struct weir_context *context, const struct weir_stack *stack,
                             void (*entry)(void *arg), void *arg);
/* Leaves @from, which must be the running context, and enters @to. Returns when something switches to @from.
 */
#ifdef WEIR_CONTEXT_ANNOTATED
void weir_context_switch(struct weir_context *from, struct weir_context *to);
#else
/* Inline, because every return from a function on the new stack is one that the processor predicts wrongly.
 */
static inline void weir_context_switch(struct weir_context *from, struct weir_context *to)
{
    struct weir_context_hop hop = { from, to };
    struct weir_context_transfer transfer = jump_fcontext(to->jump, &hop);

    ((struct weir_context_hop *)transfer.data)->from->jump = transfer.jump;
}
#endif
/* The last switch of @from: it never goes on. Its stack may be reused or freed once @to runs. */
_Noreturn void weir_context_exit(struct weir_context *from, struct weir_context *to);
/* Forgets a context that does not run and will not run again. Any thread. */
void weir_context_done(struct weir_context *context);

/* ---- variables of a thread ---- */

struct weir_locals {
    void *loop;            /* src/co: the loop of this thread, or NULL */
    void *co;              /* src/co: the coroutine that runs, or NULL */
    unsigned mutexes_held; /* src/sys/mutex.c */
};

/* Those of the calling (in the simulator: the simulated) thread; all zero at its start. */
struct weir_locals *weir_locals(void);
/* For the simulator: makes @locals those of the calling OS thread; NULL: its own again. */
void weir_locals_set(struct weir_locals *locals);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/* Part of every unit test: what the sanitizers ask for at their start. */

const char *__asan_default_options(void);
const char *__tsan_default_options(void);

/* An allocation that is too large must fail under them as it does elsewhere. */
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1:detect_stack_use_after_return=1";
}

const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

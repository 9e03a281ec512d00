/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end of a process that found its own invariant broken: one line that says which, then abort().
 */
#include "base/macros.h"
#include <stdio.h>
#include <stdlib.h>

void weir_assert_failed(const char *cond, const char *file, int line, const char *func)
{
    (void)fprintf(stderr, "%s:%d: %s: assertion failed: %s\n", file, line, func, cond);
    abort();
}

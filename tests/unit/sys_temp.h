/* SPDX-License-Identifier: BSD-2-Clause */
/* Temporary files and directories of the tests of src/sys. Only for one test at a time in a process. */
#ifndef WEIR_TESTS_SYS_TEMP_H
#define WEIR_TESTS_SYS_TEMP_H

#include "unit.h"
#include "sys/sys.h"
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A new directory; its name ends up in @path. */
static inline void temp_directory(char path[PATH_MAX])
{
    const char *base = getenv("TMPDIR");

    (void)snprintf(path, PATH_MAX, "%s/weir-sys-XXXXXX", base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
}

/* A new, empty file, open for reading and writing; its name ends up in @path. */
static inline int temp_file(char path[PATH_MAX])
{
    const char *base = getenv("TMPDIR");
    int fd;

    (void)snprintf(path, PATH_MAX, "%s/weir-sys-XXXXXX", base ? base : "/tmp");
    fd = mkstemp(path);
    assert_true(fd >= 0);
    return fd;
}

#endif

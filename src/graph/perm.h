/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Permissions and roles of edges. The names are those of the QMP graph dump.
 */
#ifndef WEIR_GRAPH_PERM_H
#define WEIR_GRAPH_PERM_H

#include "base/macros.h"

enum weir_perm {
    WEIR_PERM_CONSISTENT_READ = 1 << 0,
    WEIR_PERM_WRITE = 1 << 1, /* implies write-unchanged */
    WEIR_PERM_WRITE_UNCHANGED = 1 << 2,
    WEIR_PERM_RESIZE = 1 << 3,
    WEIR_PERM_ALL = 15,
};
#define WEIR_PERM_COUNT 4

/* "consistent-read", "write", "write-unchanged", "resize" for bit 0 .. 3. */
const char *weir_perm_name(unsigned bit);
/* "write, resize" for a set; a new string. */
char *weir_perm_names(unsigned perms);

/* What the parent keeps in the child. A set: a raw format's file is data and filtered at once. */
enum weir_role {
    WEIR_ROLE_DATA = 1 << 0,
    WEIR_ROLE_METADATA = 1 << 1,
    WEIR_ROLE_FILTERED = 1 << 2, /* the parent reads the same as this child; at most one */
    WEIR_ROLE_COW = 1 << 3,      /* what the parent does not have itself is read from here; at most one */
    WEIR_ROLE_PRIMARY = 1 << 4,  /* the child that tools mean by "the file of" */
};

#endif

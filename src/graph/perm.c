/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Permissions: names, and what an edge takes by its role.
 */
#include "graph/perm.h"
#include "base/alloc.h"
#include "graph/graph.h"
#include <stdio.h>

static const char *const names[WEIR_PERM_COUNT] = { "consistent-read", "write", "write-unchanged", "resize" };

const char *weir_perm_name(unsigned bit)
{
    WEIR_ASSERT(bit < WEIR_PERM_COUNT);
    return names[bit];
}

char *weir_perm_names(unsigned perms)
{
    char text[64];
    int length = 0;

    text[0] = '\0';
    for (unsigned bit = 0; bit < WEIR_PERM_COUNT; bit++) {
        if (perms & (1u << bit))
            length += snprintf(text + length, sizeof(text) - length, "%s%s", length ? ", " : "", names[bit]);
    }
    return weir_strdup(text);
}

/* Only formats that allocate make their children grow; a shift over a file does not. */
static bool grows(const struct weir_node *node)
{
    return node->driver->commit != NULL;
}

/*
 *   role        takes                                        shares
 *   cow         consistent-read if a parent reads            all
 *   filtered    what the parents take                        what the parents share
 *   data        what the parents take; a format that         what the parents share, but not resize
 *               allocates turns any write into write and resize
 *   metadata    consistent-read; write and resize            consistent-read and write-unchanged
 *               unless the node is read-only
 * An edge that is data and metadata takes both and shares only what both share.
 */
void weir_perm_default(const struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                       unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    const unsigned writes = WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED;
    unsigned take = 0, share = WEIR_PERM_ALL;

    if (edge->role & WEIR_ROLE_COW)
        take |= perm & WEIR_PERM_CONSISTENT_READ;
    if (edge->role & (WEIR_ROLE_FILTERED | WEIR_ROLE_DATA)) {
        take |= perm;
        share &= shared;
    }
    if ((edge->role & WEIR_ROLE_DATA) && !(edge->role & WEIR_ROLE_FILTERED)) {
        if (grows(node) && (perm & writes))
            take |= WEIR_PERM_WRITE | WEIR_PERM_RESIZE;
        share &= ~(unsigned)WEIR_PERM_RESIZE;
    }
    if (edge->role & WEIR_ROLE_METADATA) {
        take |= WEIR_PERM_CONSISTENT_READ;
        if (!node->read_only)
            take |= WEIR_PERM_WRITE | WEIR_PERM_RESIZE;
        share &= WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED;
    }
    *ret_perm = take;
    *ret_shared = share;
}

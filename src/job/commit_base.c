/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/commit_internal.h"

#include "base/alloc.h"
#include <errno.h>

/* How long the users of a base may rest for it to become read-only again. */
#define LET_GO_NS (500 * 1000000LL)

static char *describe(struct weir_edge *edge)
{
    return weir_strdup("block-commit");
}

static const struct weir_root_ops root_ops = { .kind = "block-job", .describe = describe };

static weir_co_fn int grow(struct weir_node *base, uint64_t size, struct weir_error **err)
{
    struct weir_edge *edge;
    int ret;

    if (weir_node_size(base) >= size)
        return 0;
    ret = weir_root_attach(base, "root", WEIR_PERM_RESIZE | WEIR_PERM_WRITE, WEIR_PERM_ALL, &root_ops, NULL,
                           &edge, err);
    if (ret)
        return ret;
    ret = weir_node_resize(edge, size, err);
    weir_root_detach(edge, WEIR_DRAIN_LIMIT_NS);
    return ret;
}

static weir_co_fn int make_writable(struct weir_node *base, struct weir_writable *ret_writable,
                                    struct weir_error **err)
{
    struct weir_drain drain = { 0 };
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &base, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        ret = weir_node_make_writable(base, ret_writable, err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

int commit_base_take(struct weir_node *base, uint64_t size, struct weir_writable *ret_writable,
                     struct weir_error **err)
{
    int ret;

    *ret_writable = (struct weir_writable){ .count = 0 };
    ret = make_writable(base, ret_writable, err);
    if (ret)
        return ret;
    ret = grow(base, size, err);
    if (ret)
        commit_base_give_back(base, ret_writable);
    return ret;
}

void commit_base_give_back(struct weir_node *base, struct weir_writable *writable)
{
    struct weir_drain drain = { 0 };

    if (!writable->count)
        return;
    weir_graph_lock();
    /* What was left behind in it may still write. */
    if ((base->perm & WEIR_PERM_WRITE) || atomic_load(&base->left_behind) ||
        weir_drain_begin(&drain, &base, 1, LET_GO_NS, NULL)) {
        weir_writable_done(writable);
    } else {
        weir_node_make_read_only(writable);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "filter/commit_top.h"

#include "base/iov.h"
#include "graph/graph.h"
#include "io/request.h"

struct commit_top {
    struct weir_edge *source, *target;
};

struct weir_edge *weir_commit_top_source(struct weir_node *node)
{
    return ((struct commit_top *)node->state)->source;
}

struct weir_edge *weir_commit_top_target(struct weir_node *node)
{
    return ((struct commit_top *)node->state)->target;
}

/* Any request may come: the child aligns for itself. What the job's target can take does not matter. */
static void commit_top_limits(struct weir_node *node, struct weir_limits *limits)
{
    weir_limits_take_all(limits);
}

/*
 * The layer's other readers may go on, but a writer's changes would not reach the base. So may readers of the base,
 * whose data in that place they do not see, as the layers above hide it.
 */
static void commit_top_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                  unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    if (edge->role & WEIR_ROLE_FILTERED) {
        *ret_perm = perm | WEIR_PERM_CONSISTENT_READ;
        *ret_shared = shared & ~(unsigned)(WEIR_PERM_RESIZE | WEIR_PERM_WRITE);
    } else {
        *ret_perm = WEIR_PERM_WRITE;
        *ret_shared = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED;
    }
}

static weir_co_fn int open_child(struct weir_node *node, struct weir_node *child, const char *name,
                                 unsigned role, struct weir_edge **ret_edge, struct weir_error **err)
{
    json_t *reference = json_string(child->name);
    int ret = weir_node_open_child(node, reference, name, role, ret_edge, err);

    json_decref(reference);
    return ret;
}

static weir_co_fn int commit_top_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_commit_top_options *given = options;
    struct commit_top *top = node->state;
    int ret =
        open_child(node, given->top, "backing", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &top->source, err);

    if (!ret)
        ret = open_child(node, given->base, "base", WEIR_ROLE_DATA, &top->target, err);
    if (!ret)
        weir_node_set_size(node, weir_node_size(given->top));
    return ret;
}

const struct weir_driver weir_driver_commit_top = {
    .name = "commit_top",
    .flags = WEIR_DRIVER_FILTER | WEIR_DRIVER_INTERNAL,
    .state_size = sizeof(struct commit_top),
    .open = commit_top_open,
    .limits = commit_top_limits,
    .child_perm = commit_top_child_perm,
};

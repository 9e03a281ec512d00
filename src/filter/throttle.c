/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * throttle: lets requests pass at the rate of its throttle group.
 *
 * Reads, writes, zeroes and discards wait in the group (throttle_group.c) and then go to the child; flushes
 * never wait. A drain lets all that wait here go at once. A node of a group that never had limits is not in
 * the way at all.
 */
#include "filter/throttle_group.h"

#include "base/alloc.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include <errno.h>

#define THROTTLED                                                                         \
    (WEIR_OP_BIT(WEIR_OP_READ) | WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | \
     WEIR_OP_BIT(WEIR_OP_DISCARD))

extern const struct weir_driver weir_driver_throttle;

struct throttle_state {
    struct weir_edge *file;
    struct weir_throttle_member member;
};

static weir_co_fn int throttle_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_throttle *opts = options;
    struct throttle_state *throttle = weir_node_state(node);
    struct weir_throttle_group *group;
    int ret;

    ret = weir_node_open_child(node, opts->file, "file", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                               &throttle->file, err);
    if (ret < 0)
        return ret;
    /* After the last call that may yield: the group cannot go between being found and being joined. */
    group = weir_throttle_group_find(opts->throttle_group);
    if (!group)
        return weir_error_set(err, -ENOENT, "Throttle group '%s' does not exist", opts->throttle_group);
    weir_throttle_join(group, &throttle->member, node);
    weir_node_set_size(node, weir_node_size(throttle->file->node));
    return 0;
}

static void throttle_close(struct weir_node *node)
{
    struct throttle_state *throttle = weir_node_state(node);

    weir_throttle_leave(&throttle->member);
}

/* A limit of requests per second is meant for those of the guest. */
static void throttle_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->apart = true;
}

static unsigned throttle_cares(struct weir_node *node)
{
    const struct throttle_state *throttle = weir_node_state(node);

    return throttle->member.cares ? THROTTLED : 0;
}

static weir_co_fn int throttle_submit(struct weir_node *node, struct weir_request *request)
{
    struct throttle_state *throttle = weir_node_state(node);

    weir_throttle_wait(&throttle->member, request->op != WEIR_OP_READ, request->length);
    return weir_io(throttle->file, request);
}

static int throttle_try_submit(struct weir_node *node, struct weir_request *request)
{
    struct throttle_state *throttle = weir_node_state(node);

    return weir_throttle_unlimited(&throttle->member) ? weir_io_try(throttle->file, request) : -EAGAIN;
}

static void throttle_drain_begin(struct weir_node *node)
{
    weir_throttle_release(&((struct throttle_state *)weir_node_state(node))->member);
}

static void throttle_drain_end(struct weir_node *node)
{
    weir_throttle_hold(&((struct throttle_state *)weir_node_state(node))->member);
}

/* ---- reopening: another group ---- */

/* A member of the new group that keeps it until the node joins. */
static weir_co_fn int throttle_prepare(struct weir_node *node, struct weir_reopening *reopening,
                                       struct weir_error **err)
{
    const struct weir_opts_throttle *opts = reopening->options;
    struct weir_throttle_group *group = weir_throttle_group_find(opts->throttle_group);
    struct weir_throttle_member *holder;

    if (!group)
        return weir_error_set(err, -ENOENT, "Throttle group '%s' does not exist", opts->throttle_group);
    holder = weir_new(struct weir_throttle_member);
    weir_throttle_join(group, holder, node);
    reopening->undo = holder;
    return 0;
}

static void throttle_unhold(struct weir_node *node, struct weir_reopening *reopening)
{
    (void)node;
    weir_throttle_leave(reopening->undo);
}

static void throttle_commit(struct weir_node *node, struct weir_reopening *reopening)
{
    struct weir_throttle_member *member = &((struct throttle_state *)weir_node_state(node))->member;
    struct weir_throttle_group *group = ((struct weir_throttle_member *)reopening->undo)->group;

    if (group != member->group) {
        weir_throttle_leave(member);
        weir_throttle_join(group, member, node);
    }
    throttle_unhold(node, reopening);
}

static const char *const throttle_changes[] = { "throttle-group", NULL };
static const struct weir_reopen_ops throttle_reopen = { .options = throttle_changes,
                                                        .prepare = throttle_prepare,
                                                        .commit = throttle_commit,
                                                        .abort = throttle_unhold };

const struct weir_driver weir_driver_throttle = {
    .name = "throttle",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct throttle_state),
    .options = &weir_schema_opts_throttle,
    .open = throttle_open,
    .close = throttle_close,
    .limits = throttle_limits,
    .cares = throttle_cares,
    .submit = throttle_submit,
    .try_submit = throttle_try_submit,
    .drain_begin = throttle_drain_begin,
    .drain_end = throttle_drain_end,
    .reopen = &throttle_reopen,
};

struct weir_throttle_group *weir_throttle_group_of(struct weir_node *node)
{
    return node->driver == &weir_driver_throttle
               ? ((struct throttle_state *)weir_node_state(node))->member.group
               : NULL;
}

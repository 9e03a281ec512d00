/* SPDX-License-Identifier: BSD-2-Clause */
#include "nth_io.h"

#include "co/co.h"
#include "io/io.h"
#include "sys/sim/sim.h"

WEIR_SIM_KEPT struct nth_io nth_io;

struct nth_state {
    struct weir_edge *file;
};

static weir_co_fn int nth_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct nth_state *nth = weir_node_state(node);
    int ret;

    (void)options;
    ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file",
                               WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &nth->file, err);
    if (!ret)
        weir_node_set_size(node, weir_node_size(nth->file->node));
    return ret;
}

/* Each request counts by itself. */
static void nth_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->apart = true;
}

static unsigned nth_cares(struct weir_node *node)
{
    return nth_io.ops;
}

/* Whether this request fails. */
static weir_co_fn bool meet(enum weir_op op)
{
    if (!(nth_io.ops & WEIR_OP_BIT(op)))
        return false;
    nth_io.count++;
    if (nth_io.what == NTH_IO_COUNT || nth_io.count < nth_io.at ||
        (nth_io.count > nth_io.at && nth_io.what != NTH_IO_FAIL_EVER))
        return false;
    nth_io.hit = true;
    if (nth_io.what != NTH_IO_STOP)
        return true;
    weir_sim_stop();
    for (;;)
        weir_co_sleep(1000000000LL);
}

static weir_co_fn int nth_submit(struct weir_node *node, struct weir_request *request)
{
    struct nth_state *nth = weir_node_state(node);

    if (meet(request->op))
        return -EIO;
    if (request->op == WEIR_OP_STATUS)
        return weir_io_status(nth->file, request->offset, request->length, 0, request->status);
    return weir_io(nth->file, request);
}

static const struct weir_reopen_ops nth_reopen = { 0 };

const struct weir_driver weir_driver_nth_io = {
    .name = "nth-io",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct nth_state),
    .open = nth_open,
    .limits = nth_limits,
    .cares = nth_cares,
    .submit = nth_submit,
    .reopen = &nth_reopen,
};

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quorum: options, children that come and go, permissions.
 */
#include "filter/quorum.h"

#include "base/alloc.h"
#include "base/bitmap.h"
#include "base/iov.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/range_lock.h"
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

/* Longest read or write of one piece: a read takes that much memory for each child. */
#define TRANSFER_MAX ((uint64_t)2 << 20)

extern const struct weir_driver weir_driver_quorum;

/* ---- options ---- */

static int set_options(struct quorum *quorum, const struct weir_opts_quorum *opts, struct weir_error **err)
{
    size_t count = opts->children.count;

    if (!count)
        return weir_error_set(err, -EINVAL, "Number of provided children must be 1 or more");
    if (count > QUORUM_CHILDREN_MAX)
        return weir_error_set(err, -EINVAL, "Number of provided children must be %u or less",
                              QUORUM_CHILDREN_MAX);
    if (opts->vote_threshold < 1)
        return weir_error_set(err, -ERANGE, "Parameter 'vote-threshold' expects a value >= 1");
    if ((uint64_t)opts->vote_threshold > count)
        return weir_error_set(err, -ERANGE, "threshold may not exceed children count");
    quorum->threshold = (unsigned)opts->vote_threshold;
    quorum->fifo = opts->has_read_pattern && opts->read_pattern == WEIR_Q_QUORUM_READ_PATTERN_FIFO;
    quorum->blkverify = opts->has_blkverify && opts->blkverify && !quorum->fifo;
    quorum->rewrite = opts->has_rewrite_corrupted && opts->rewrite_corrupted && !quorum->fifo;
    if (quorum->blkverify && (count != 2 || quorum->threshold != 2))
        return weir_error_set(
            err, -EINVAL,
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2");
    if (quorum->blkverify && quorum->rewrite)
        return weir_error_set(err, -EINVAL, "rewrite-corrupted=on cannot be used with blkverify=on");
    return 0;
}

/* ---- children ---- */

static int check_size(const struct weir_node *first, const struct weir_node *node, struct weir_error **err)
{
    if (weir_node_size(first) == weir_node_size(node))
        return 0;
    return weir_error_set(err, -EINVAL,
                          "Children of a quorum must have the same size: node '%s' has %" PRIu64
                          " bytes, node '%s' has %" PRIu64,
                          first->name, weir_node_size(first), node->name, weir_node_size(node));
}

static weir_co_fn int open_children(struct quorum *quorum, const struct weir_opts_quorum *opts,
                                    struct weir_error **err)
{
    for (size_t i = 0; i < opts->children.count; i++) {
        char name[32];
        int ret;

        (void)snprintf(name, sizeof(name), "children.%u", (unsigned)i);
        ret = weir_node_open_child(quorum->node, opts->children.items[i], name, WEIR_ROLE_DATA,
                                   &quorum->children[i].edge, err);
        if (!ret)
            ret = check_size(quorum->children[0].edge->node, quorum->children[i].edge->node, err);
        if (ret)
            return ret;
        quorum->count++;
    }
    quorum->next_index = quorum->count;
    return 0;
}

static weir_co_fn int quorum_add(struct weir_node *node, struct weir_node *child, struct weir_error **err)
{
    struct quorum *quorum = weir_node_state(node);
    struct weir_tran *tran;
    struct weir_edge *edge;
    char name[32];
    int ret;

    if (quorum->blkverify)
        return weir_error_set(err, -ENOTSUP, "Cannot add a child to a quorum in blkverify mode");
    if (quorum->count == QUORUM_CHILDREN_MAX)
        return weir_error_set(err, -EINVAL, "Too many children");
    ret = check_size(quorum->children[0].edge->node, child, err);
    if (ret)
        return ret;
    (void)snprintf(name, sizeof(name), "children.%u", quorum->next_index);
    tran = weir_tran_new();
    ret = weir_tran_attach(tran, node, child, name, WEIR_ROLE_DATA, &edge, err);
    ret = weir_tran_end(tran, ret, err);
    if (ret)
        return ret;
    quorum->children[quorum->count++] = (struct quorum_child){ .edge = edge, .node = child };
    quorum->next_index++;
    return 0;
}

static weir_co_fn int quorum_del(struct weir_node *node, struct weir_edge *edge, struct weir_error **err)
{
    struct quorum *quorum = weir_node_state(node);
    struct weir_tran *tran;
    unsigned i = 0;
    int ret;

    while (quorum->children[i].edge != edge)
        i++;
    if (quorum->count <= quorum->threshold)
        return weir_error_set(err, -EINVAL,
                              "The number of children cannot be lower than the vote threshold %u",
                              quorum->threshold);
    if (quorum->blkverify)
        return weir_error_set(err, -ENOTSUP, "Cannot remove a child from a quorum in blkverify mode");
    if (edge->frozen)
        return weir_error_set(err, -EBUSY, "Child '%s' of node '%s' is in use by a job", edge->name,
                              node->name);
    tran = weir_tran_new();
    weir_tran_detach(tran, edge);
    ret = weir_tran_finish(tran, err);
    if (ret)
        return ret;
    weir_bitmap_free(quorum->children[i].missed);
    quorum->count--;
    for (; i < quorum->count; i++)
        quorum->children[i] = quorum->children[i + 1];
    return 0;
}

static const struct weir_children_ops children_ops = { .add = quorum_add, .del = quorum_del };

/* ---- life ---- */

static weir_co_fn int quorum_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct quorum *quorum = weir_node_state(node);
    int ret = set_options(quorum, options, err);

    quorum->node = node;
    quorum->patience_ns = QUORUM_PATIENCE_NS;
    if (!ret)
        ret = open_children(quorum, options, err);
    if (ret)
        return ret;
    weir_mutex_init(&quorum->mutex);
    quorum->ranges = weir_range_table_new();
    weir_node_set_size(node, weir_node_size(quorum->children[0].edge->node));
    return 0;
}

static void quorum_close(struct weir_node *node)
{
    struct quorum *quorum = weir_node_state(node);

    for (unsigned i = 0; i < quorum->count; i++)
        weir_bitmap_free(quorum->children[i].missed);
    weir_range_table_free(quorum->ranges);
    weir_mutex_done(&quorum->mutex);
}

/* A repaired child: another node stands where the old one was, and is what the quorum was when it was copied. */
static void forget_replaced(struct quorum *quorum)
{
    for (unsigned i = 0; i < quorum->count; i++) {
        struct quorum_child *child = &quorum->children[i];

        if (child->node == child->edge->node)
            continue;
        weir_bitmap_free(weir_steal(&child->missed));
        child->missed_all = false;
        child->node = child->edge->node;
    }
}

/* Any request may come: each child aligns for itself. Asked again, drained, whenever a child is another one. */
static void quorum_limits(struct weir_node *node, struct weir_limits *limits)
{
    forget_replaced(weir_node_state(node));
    limits->request_align = limits->memory_align = 1;
    limits->transfer_max = TRANSFER_MAX;
    limits->zero_align = limits->zero_max = 0;
    limits->discard_align = limits->discard_max = 0;
    limits->iov_max = WEIR_IOV_MAX;
    limits->apart = true; /* a vote is on what one guest asked for */
    limits->write_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

/*
 * Who writes to one child alone makes it differ, which is of no matter while nobody asks: so that a quorum can be made
 * beside a writer and put in below it. Repairs are writes of the quorum's own.
 */
static void quorum_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                              unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    const struct quorum *quorum = weir_node_state(node);

    *ret_perm = perm | (quorum->rewrite ? WEIR_PERM_WRITE : 0);
    *ret_shared = shared & (WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED);
    if (!*ret_perm)
        *ret_shared = shared & ~(unsigned)WEIR_PERM_RESIZE; /* its size stays as it was at first */
}

static weir_co_fn int quorum_submit(struct weir_node *node, struct weir_request *request)
{
    struct quorum *quorum = weir_node_state(node);

    switch (request->op) {
    case WEIR_OP_READ:
        return quorum_read(quorum, request);
    case WEIR_OP_STATUS:
        return quorum_status(quorum, request);
    case WEIR_OP_FLUSH:
        return quorum_flush(quorum, request);
    default:
        return quorum_change(quorum, request);
    }
}

void quorum_set_patience(struct weir_node *node, int64_t patience_ns)
{
    struct quorum *quorum = weir_node_state(node);

    WEIR_ASSERT(node->driver == &weir_driver_quorum);
    quorum->patience_ns = patience_ns;
}

/* No filter by flag: it has no child that could stand for it. */
const struct weir_driver weir_driver_quorum = {
    .name = "quorum",
    .state_size = sizeof(struct quorum),
    .options = &weir_schema_opts_quorum,
    .open = quorum_open,
    .close = quorum_close,
    .limits = quorum_limits,
    .child_perm = quorum_child_perm,
    .submit = quorum_submit,
    .children = &children_ops,
};

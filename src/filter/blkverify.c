/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blkverify: a test aid that does everything twice, with the image under test and with one that is trusted, and
 * compares.
 *
 * Reads compare data and results, writes and zeroes results. What differs fails the request with EIO and is reported
 * (weir_node_dissent()). A request holds its range, so that both sides see overlapping changes in the same order and no
 * read meets a change halfway. Discards are ignored: what a discarded range reads as is nobody's promise.
 */
#include "base/iov.h"
#include "co/co.h"
#include "io/stable.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/range_lock.h"
#include <errno.h>
#include <inttypes.h>

/* Longest read of one piece: it takes twice that much memory. */
#define TRANSFER_MAX ((uint64_t)4 << 20)

extern const struct weir_driver weir_driver_blkverify;

struct blkverify_state {
    struct weir_edge *test, *raw;
    struct weir_range_table *ranges;
};

static weir_co_fn int blkverify_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_blkverify *opts = options;
    struct blkverify_state *verify = weir_node_state(node);
    const struct weir_node *test, *raw;
    int ret;

    ret = weir_node_open_child(node, opts->raw, "raw", WEIR_ROLE_DATA, &verify->raw, err);
    if (!ret)
        ret = weir_node_open_child(node, opts->test, "test", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                                   &verify->test, err);
    if (ret)
        return ret;
    test = verify->test->node;
    raw = verify->raw->node;
    if (weir_node_size(raw) < weir_node_size(test))
        return weir_error_set(err, -EINVAL,
                              "Node '%s' (%" PRIu64 " bytes) is too short to verify node '%s' (%" PRIu64
                              " bytes)",
                              raw->name, weir_node_size(raw), test->name, weir_node_size(test));
    verify->ranges = weir_range_table_new();
    weir_node_set_size(node, weir_node_size(test));
    return 0;
}

static void blkverify_close(struct weir_node *node)
{
    weir_range_table_free(((struct blkverify_state *)weir_node_state(node))->ranges);
}

/* Who makes one side longer or shorter makes them differ. */
static void blkverify_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                 unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    weir_perm_default(node, edge, perm, shared, ret_perm, ret_shared);
    *ret_shared &= ~(unsigned)WEIR_PERM_RESIZE;
}

/* Any request may come: each child aligns for itself. */
static void blkverify_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->request_align = limits->memory_align = 1;
    limits->transfer_max = TRANSFER_MAX;
    limits->zero_align = limits->zero_max = limits->discard_align = limits->discard_max = 0;
    limits->iov_max = WEIR_IOV_MAX;
    limits->write_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

static unsigned blkverify_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_READ) | WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) |
           WEIR_OP_BIT(WEIR_OP_DISCARD) | WEIR_OP_BIT(WEIR_OP_FLUSH);
}

static weir_co_fn int blkverify_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct blkverify_state *verify = weir_node_state(node);
    int ret = weir_node_resize(verify->raw, size, err);

    return ret ? ret : weir_node_resize(verify->test, size, err);
}

/* ---- both at once ---- */

struct side {
    struct weir_edge *edge;
    struct weir_request request;
    struct iovec iov;
    int result;
};

static weir_co_fn void run_side(void *arg)
{
    struct side *side = arg;

    side->result = weir_io(side->edge, &side->request);
}

static weir_co_fn void run_both(struct side *test, struct side *raw)
{
    struct weir_co_group group;

    weir_co_group_init(&group);
    weir_co_group_start(&group, run_side, raw);
    run_side(test);
    weir_co_group_wait(&group, 0);
    weir_co_group_done(&group);
}

static void report(struct weir_node *node, const struct weir_request *request, int error, int64_t at)
{
    struct weir_dissent dissent = {
        .kind = WEIR_DISSENT_MISMATCH,
        .node = node,
        .op = request->op,
        .error = error,
        .offset = request->offset,
        .length = request->length,
        .at = at,
    };

    weir_node_dissent(&dissent);
}

/* One that failed where the other did not is as wrong as other data. */
static int same_result(struct weir_node *node, const struct side *test, const struct side *raw)
{
    if (test->result == raw->result)
        return test->result;
    report(node, &test->request, test->result ? test->result : raw->result, -1);
    return -EIO;
}

static weir_co_fn int read_both(struct weir_node *node, struct weir_request *request)
{
    struct blkverify_state *verify = weir_node_state(node);
    struct weir_buffer *buffers[2] = { weir_buffer_new(request->length), weir_buffer_new(request->length) };
    struct side sides[2] = { { .edge = verify->test, .request = *request },
                             { .edge = verify->raw, .request = *request } };
    uint64_t at = 0;
    int ret = -ENOMEM;

    if (buffers[0] && buffers[1]) {
        const char *test = buffers[0]->data, *raw = buffers[1]->data;

        for (unsigned i = 0; i < 2; i++) {
            sides[i].iov = (struct iovec){ buffers[i]->data, request->length };
            sides[i].request.iov = &sides[i].iov;
            sides[i].request.iovcnt = 1;
            sides[i].request.buffer = buffers[i];
        }
        run_both(&sides[0], &sides[1]);
        ret = same_result(node, &sides[0], &sides[1]);
        while (!ret && at < request->length && test[at] == raw[at])
            at++;
        if (!ret && at < request->length) {
            report(node, request, 0, (int64_t)(request->offset + at));
            ret = -EIO;
        }
        if (!ret)
            weir_iov_from_buffer(request->iov, request->iovcnt, 0, test, request->length);
    }
    weir_buffer_unref(buffers[0]);
    weir_buffer_unref(buffers[1]);
    return ret;
}

static weir_co_fn int change_both(struct weir_node *node, const struct weir_request *request)
{
    struct blkverify_state *verify = weir_node_state(node);
    struct side test = { .edge = verify->test }, raw = { .edge = verify->raw };
    struct weir_stable stable;
    int ret = weir_stable_init(&stable, request, false);

    if (!ret) {
        test.request = raw.request = stable.request;
        run_both(&test, &raw);
        ret = same_result(node, &test, &raw);
    }
    weir_stable_done(&stable);
    return ret;
}

static weir_co_fn int blkverify_submit(struct weir_node *node, struct weir_request *request)
{
    struct blkverify_state *verify = weir_node_state(node);
    struct weir_range_lock lock = { 0 };
    int ret;

    if (request->op == WEIR_OP_FLUSH)
        return change_both(node, request);
    /* One side may be quick to zero and the other not, and both are right. */
    if (request->op == WEIR_OP_DISCARD || (request->flags & WEIR_REQUEST_NO_FALLBACK))
        return -ENOTSUP;
    weir_range_lock(verify->ranges, &lock, request->offset, request->length, request->op != WEIR_OP_READ);
    ret = request->op == WEIR_OP_READ ? read_both(node, request) : change_both(node, request);
    weir_range_unlock(&lock);
    return ret;
}

const struct weir_driver weir_driver_blkverify = {
    .name = "blkverify",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct blkverify_state),
    .options = &weir_schema_opts_blkverify,
    .open = blkverify_open,
    .close = blkverify_close,
    .limits = blkverify_limits,
    .resize = blkverify_resize,
    .child_perm = blkverify_child_perm,
    .cares = blkverify_cares,
    .submit = blkverify_submit,
};

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What one 4 KiB request costs in instructions, for callgrind (bench/instr.py).
 *
 *   instr CASE COUNT    performs COUNT requests inside of measured(), which is all that callgrind is told to count
 *
 * Every case exists twice. "core" goes through weir_root_try(). "direct" is a chain of direct calls as one would
 * write it by hand for exactly this graph: the same gate, the same checks of bounds, permission and limits, the same
 * counters at each node and at the root, and the driver's own function; but no table of nodes, edges and options
 * that says which way a request goes.
 */
#include "base/alloc.h"
#include "filter/throttle_group.h"
#include "graph/gate.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/node_io.h"
#include "sys/sys.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH 4096u
#define LEVELS_MAX 8u

struct bench {
    const char *name;
    bool core;
    enum weir_op op;
    unsigned levels; /* of raw above null-co */
    uint64_t window; /* bytes that the lowest raw cuts off at the beginning */
    bool mixed;      /* filters of several kinds, which want no reads, in place of raw */
    unsigned long count;
    struct weir_edge *edge;
    struct weir_node *nodes[LEVELS_MAX + 1]; /* from the top to null-co */
};

static const struct bench benches[] = {
    { "core-read", true, WEIR_OP_READ, 0, 0 },          { "direct-read", false, WEIR_OP_READ, 0, 0 },
    { "core-write", true, WEIR_OP_WRITE, 0, 0 },        { "direct-write", false, WEIR_OP_WRITE, 0, 0 },
    { "core-read-1", true, WEIR_OP_READ, 1, 0 },        { "direct-read-1", false, WEIR_OP_READ, 1, 0 },
    { "core-read-4", true, WEIR_OP_READ, 4, 0 },        { "direct-read-4", false, WEIR_OP_READ, 4, 0 },
    { "core-filters", true, WEIR_OP_READ, 4, 0, true }, { "core-window", true, WEIR_OP_READ, 1, 65536 },
    { "direct-window", false, WEIR_OP_READ, 1, 65536 },
};

/* ---- the chain by hand ---- */

static int check_by_hand(const struct weir_edge *edge, const struct weir_request *request, bool write)
{
    uint64_t size = weir_node_size(edge->node);

    if (!atomic_load_explicit(&edge->attached, memory_order_acquire))
        return -ENOMEDIUM;
    if (write) {
        unsigned needed = WEIR_PERM_WRITE;

        if (request->flags & WEIR_REQUEST_UNCHANGED)
            needed |= WEIR_PERM_WRITE_UNCHANGED;
        if (edge->node->read_only || !(edge->perm & needed))
            return -EPERM;
    }
    if (request->offset > size || request->length > size - request->offset)
        return write ? -ENOSPC : -EINVAL;
    return 0;
}

/* Limits of the leaf: alignment of the range, its length, the number and alignment of the buffers. */
static bool fits_by_hand(const struct weir_limits *limits, const struct weir_request *request)
{
    uint64_t mask = limits->memory_align - 1;

    if ((request->offset | request->length) & (limits->request_align - 1))
        return false;
    if ((limits->transfer_max && request->length > limits->transfer_max) || request->iovcnt > limits->iov_max)
        return false;
    for (unsigned i = 0; mask && i < request->iovcnt; i++) {
        if (((uintptr_t)request->iov[i].iov_base | request->iov[i].iov_len) & mask)
            return false;
    }
    return true;
}

/* The leaf, then each node above it counts: written out, as a compiler would unroll it. */
static __attribute__((noinline)) int leaf_by_hand(const struct bench *bench, struct weir_request *request)
{
    struct weir_node *leaf = bench->nodes[bench->levels];
    int ret;

    if (!fits_by_hand(&leaf->limits, request))
        return -EAGAIN;
    if (request->op == WEIR_OP_WRITE && (leaf->detect_zeroes || leaf->limits.request_align > 1 ||
                                         (request->flags & WEIR_REQUEST_FUA & ~leaf->limits.write_flags)))
        return -EAGAIN;
    ret = leaf->driver->try_submit(leaf, request);
    if (request->op == WEIR_OP_WRITE)
        weir_io_changed(leaf);
    weir_io_count_at_once(&leaf->io->counters, request, ret);
    return ret;
}

static __attribute__((noinline)) int level_by_hand(const struct bench *bench, struct weir_request *request,
                                                   unsigned level)
{
    struct weir_node *node = bench->nodes[level];
    struct weir_request below = *request;
    int ret;

    if (level == bench->levels)
        return leaf_by_hand(bench, request);
    if (bench->window) {
        below.offset += bench->window;
        ret = level_by_hand(bench, &below, level + 1);
    } else {
        ret = level_by_hand(bench, request, level + 1);
    }
    weir_io_count_at_once(&node->io->counters, request, ret);
    return ret;
}

static __attribute__((noinline)) int root_by_hand(const struct bench *bench, struct weir_request *request)
{
    struct weir_edge *edge = bench->edge;
    int ret;

    if (!weir_gate_try_enter(edge))
        return -EAGAIN;
    ret = check_by_hand(edge, request, request->op == WEIR_OP_WRITE);
    if (!ret) {
        ret = level_by_hand(bench, request, 0);
        weir_io_count_at_once(&edge->io->counters, request, ret);
    }
    weir_gate_try_leave(edge);
    return ret;
}

/* ---- measuring ---- */

void measured(const struct bench *bench, struct weir_request *request);
__attribute__((noinline)) void measured(const struct bench *bench, struct weir_request *request)
{
    for (unsigned long i = 0; i < bench->count; i++) {
        int ret = bench->core ? weir_root_try(bench->edge, request) : root_by_hand(bench, request);

        WEIR_ASSERT(!ret);
    }
}

static weir_co_fn void build(struct bench *bench)
{
    static const char *const filters[] = { "throttle", "preallocate", "raw", "throttle" };
    json_t *json = json_pack("{s:s, s:s}", "driver", "null-co", "node-name", "leaf");
    struct weir_error *err = NULL;
    struct weir_node *node;

    if (weir_throttle_group_new("g", NULL, &err))
        abort();
    for (unsigned i = bench->levels; i-- > 0;) {
        const char *driver = bench->mixed ? filters[i % WEIR_ARRAY_SIZE(filters)] : "raw";

        json = json_pack("{s:s, s:o}", "driver", driver, "file", json);
        if (!strcmp(driver, "throttle"))
            (void)json_object_set_new(json, "throttle-group", json_string("g"));
        if (bench->window && i == bench->levels - 1)
            (void)json_object_set_new(json, "offset", json_integer((json_int_t)bench->window));
        if (!i)
            (void)json_object_set_new(json, "node-name", json_string("top"));
    }
    if (weir_node_add(json, true, &node, &err) ||
        weir_root_attach(node, "root", WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE, WEIR_PERM_ALL, NULL, NULL,
                         &bench->edge, &err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        exit(1);
    }
    json_decref(json);
    for (unsigned i = 0; i <= bench->levels; i++) {
        bench->nodes[i] = node;
        if (i < bench->levels)
            node = weir_node_primary(node)->node;
    }
}

static weir_co_fn void run(void *arg)
{
    static char buffer[LENGTH] __attribute__((aligned(4096)));
    struct bench *bench = arg;
    struct iovec iov = { buffer, LENGTH };
    struct weir_request request = weir_request_make(bench->op, 65536, LENGTH, &iov, 1, 0);

    weir_graph_init(&weir_io_hooks);
    build(bench);
    WEIR_ASSERT(!weir_root_try(bench->edge, &request)); /* makes the counters of this loop */
    measured(bench, &request);
    weir_root_detach(bench->edge, -1);
    if (weir_node_del(bench->levels ? "top" : "leaf", NULL))
        abort();
    weir_graph_done(WEIR_DRAIN_LIMIT_NS);
    weir_loop_stop(weir_loop_control());
}

int main(int argc, char **argv)
{
    struct bench bench = { .name = NULL };

    for (unsigned i = 0; argc == 3 && i < WEIR_ARRAY_SIZE(benches); i++) {
        if (!strcmp(benches[i].name, argv[1]))
            bench = benches[i];
    }
    if (!bench.name) {
        (void)fprintf(stderr, "usage: instr CASE COUNT\n");
        return 2;
    }
    bench.count = strtoul(argv[2], NULL, 10);
    weir_drivers_register();
    if (weir_runtime_init(NULL))
        return 1;
    weir_co_start(weir_loop_control(), run, &bench);
    weir_runtime_run();
    weir_runtime_done();
    return 0;
}

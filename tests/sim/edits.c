/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Filters that come and go under the guests, or beside them, while they work: copy-on-read, blkdebug, raw. And nodes
 * that are reopened with other options.
 *
 * Judged by the guests: no request is lost, and what they have written stays. Beside them a reader goes through a
 * copy-on-read node of its own, which must not bring old data back.
 */
#include "seed.h"

#include "base/alloc.h"
#include "io/io.h"
#include <string.h>

/* Of what is in flight while a filter is put in: as for every drain. */
#define EDIT_DRAIN_LIMIT_NS (5 * 1000000000LL)
#define READERS_MAX 6u
#define READ_MAX ((uint64_t)65536)

static weir_co_fn struct weir_node *add_filter(const char *below)
{
    static const char *const drivers[] = { "copy-on-read", "copy-on-read", "copy-on-read", "blkdebug",
                                           "raw" };
    const char *driver = drivers[pick(WEIR_ARRAY_SIZE(drivers))];
    json_t *options = json_pack("{s:s, s:s, s:s, s:s}", "driver", driver, "node-name", "edit", "discard",
                                "unmap", strcmp(driver, "blkdebug") ? "file" : "image", below);
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *node = NULL;
    int ret = weir_node_add(options, true, &node, &err);

    json_decref(options);
    CHECK(!ret, "adding a filter: %s", weir_error_text(err));
    return node;
}

/* Points all users of @from, but @filter, at @to: in one step, drained. */
static weir_co_fn bool move_users(struct weir_node *from, struct weir_node *to, struct weir_node *filter)
{
    struct weir_node *nodes[] = { from, to };
    struct weir_drain drain = { 0 };
    WEIR_AUTO_ERROR err = NULL;
    struct weir_tran *tran;
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, nodes, 2, EDIT_DRAIN_LIMIT_NS, &err);
    if (!ret) {
        tran = weir_tran_new();
        ret = weir_tran_replace_parents(tran, from, to, filter, &err);
        ret = weir_tran_end(tran, ret, &err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    CHECK(!ret, "moving the guests from '%s' to '%s': %s", from->name, to->name, weir_error_text(err));
    return !ret;
}

struct reader {
    struct weir_edge *edge;
    unsigned left;
    unsigned *running;
};

/* On any loop. Large reads, so that much may happen between the read of old data and its being stored. */
static weir_co_fn void reader_run(void *arg)
{
    struct reader *reader = arg;
    uint64_t size = weir_node_size(reader->edge->node);
    uint8_t *bytes = weir_try_alloc(READ_MAX, 4096);

    for (; reader->left && !seed.ending; reader->left--) {
        uint64_t offset = pick(size), length = 1 + pick(least(size - offset, READ_MAX));
        struct iovec iov = { bytes, length };
        struct weir_request request = weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, 0);
        int ret = weir_root_io(reader->edge, &request);

        CHECK(!ret || seed.plan.faults, "a read through a filter: %s", strerror(-ret));
        seed.totals.edit_reads++;
    }
    free(bytes);
    __atomic_fetch_sub(reader->running, 1, __ATOMIC_SEQ_CST);
}

static weir_co_fn void read_some(struct weir_node *filter)
{
    unsigned count = 1 + (unsigned)pick(READERS_MAX), running = count;
    struct reader readers[READERS_MAX];
    struct weir_edge *edge = life_attach(filter, "reader", WEIR_PERM_CONSISTENT_READ);

    for (unsigned i = 0; i < count; i++) {
        readers[i] = (struct reader){ edge, 2 + (unsigned)pick(30), &running };
        weir_co_start(seed.loops[pick(seed.plan.loops)], reader_run, &readers[i]);
    }
    while (__atomic_load_n(&running, __ATOMIC_SEQ_CST))
        weir_co_sleep(20000);
    weir_root_detach(edge, -1);
}

static weir_co_fn void edit_once(void)
{
    struct weir_node *node = seed.edges[0]->node, *filter = add_filter(node->name);
    bool under = pick(2);
    WEIR_AUTO_ERROR err = NULL;

    if (under)
        move_users(node, filter, filter);
    read_some(filter);
    if (under)
        move_users(filter, node, NULL);
    CHECK(!weir_node_del("edit", &err), "removing a filter: %s", weir_error_text(err));
    seed.totals.edits++;
}

weir_co_fn void operator_edits(void *arg)
{
    for (unsigned i = 0; i < seed.plan.edits && !seed.ending; i++) {
        weir_co_sleep(1 + (int64_t)pick(i ? 2000000 : 200000));
        /* Jobs want the disk to themselves; a filter does not let its size be changed. */
        if (seed.mirroring || seed.resizing || weir_sim_now() < seed.calm_ns)
            continue;
        seed.editing = true;
        if (seed.images[seed.current].kind != IMAGE_SIMFMT && !pick(3))
            image_reopen(&seed.images[seed.current]);
        else
            edit_once();
        seed.editing = false;
    }
    seed.operators_running--;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest that flushes after every write must not be felt by one that reads.
 *
 * A disk whose flushes take 50 ms, a simfmt node on it, two guests on two loops. One reads what is in memory, first
 * alone, then beside the other, which writes and flushes all the time. Time is virtual, so what is measured is waiting
 * only: the p99 of the reads must not rise by 1 ms.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "io/io.h"
#include "simfmt.h"
#include "sys/sim/sim.h"
#include <stdio.h>
#include <string.h>

#define UNIT 4096u
#define UNITS 256u /* of the disk; the first half is read, the second written */
#define READS 20000u
#define FLUSH_NS (50 * 1000000LL)
#define PAUSE_NS 200000
#define LIMIT_NS 1000000
#define SEEDS 10u

struct guest {
    struct weir_edge *edge;
    int64_t latency[READS]; /* ns */
    uint64_t flushes;
    bool stop, ended;
};

static struct guest reader, writer;

extern const struct weir_driver weir_driver_file;

/* ---- guests ---- */

static weir_co_fn void read_all(void *arg)
{
    uint8_t *bytes = weir_alloc(UNIT);

    for (unsigned i = 0; i < READS; i++) {
        struct iovec iov = { bytes, UNIT };
        uint64_t unit = weir_sim_random(UNITS / 2);
        struct weir_request request = weir_request_make(WEIR_OP_READ, unit * UNIT, UNIT, &iov, 1, 0);
        int64_t begin = weir_sim_now();

        WEIR_ASSERT(!weir_root_io(reader.edge, &request));
        WEIR_ASSERT(bytes[0] == (uint8_t)(unit + 1) && bytes[UNIT - 1] == bytes[0]);
        reader.latency[i] = weir_sim_now() - begin;
        weir_co_sleep(1 + (int64_t)weir_sim_random(2 * PAUSE_NS));
    }
    free(bytes);
    __atomic_store_n(&reader.ended, true, __ATOMIC_SEQ_CST);
}

static weir_co_fn void write_unit(struct weir_edge *edge, uint64_t unit, uint8_t *bytes)
{
    struct iovec iov = { bytes, UNIT };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, unit * UNIT, UNIT, &iov, 1, 0);

    memset(bytes, (int)(unit + 1), UNIT);
    WEIR_ASSERT(!weir_root_io(edge, &request));
}

static weir_co_fn void flush(struct weir_edge *edge)
{
    struct weir_request request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);

    WEIR_ASSERT(!weir_root_io(edge, &request));
}

/* Every tenth time it gives a unit up, so that there is always something to allocate. */
static weir_co_fn void write_and_flush(void *arg)
{
    uint8_t *bytes = weir_alloc(UNIT);

    while (!__atomic_load_n(&writer.stop, __ATOMIC_SEQ_CST)) {
        uint64_t unit = UNITS / 2 + weir_sim_random(UNITS / 2);
        struct weir_request discard = weir_request_make(WEIR_OP_DISCARD, unit * UNIT, UNIT, NULL, 0, 0);

        if (weir_sim_random(10) == 0)
            WEIR_ASSERT(!weir_root_io(writer.edge, &discard));
        write_unit(writer.edge, unit, bytes);
        flush(writer.edge);
        writer.flushes++;
    }
    free(bytes);
    __atomic_store_n(&writer.ended, true, __ATOMIC_SEQ_CST);
}

/* ---- measuring ---- */

static int by_value(const void *one, const void *other)
{
    int64_t a = *(const int64_t *)one, b = *(const int64_t *)other;

    return (a > b) - (a < b);
}

static weir_co_fn void wait_for(bool *flag)
{
    while (!__atomic_load_n(flag, __ATOMIC_SEQ_CST))
        weir_co_sleep(1000000);
}

static weir_co_fn int64_t measure(struct weir_loop *loop)
{
    reader.ended = false;
    weir_co_start(loop, read_all, NULL);
    wait_for(&reader.ended);
    qsort(reader.latency, READS, sizeof(reader.latency[0]), by_value);
    return reader.latency[READS * 99 / 100];
}

static const struct weir_root_ops root_ops = { .kind = "block-backend" };

static weir_co_fn struct weir_edge *attach(struct weir_node *node)
{
    struct weir_edge *edge;

    WEIR_ASSERT(!weir_root_attach(node, "guest", WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE, WEIR_PERM_ALL,
                                  &root_ops, NULL, &edge, NULL));
    return edge;
}

static weir_co_fn struct weir_node *open_disk(void)
{
    json_t *options =
        json_pack("{s:s, s:s, s:s, s:i, s:{s:s, s:s}}", "driver", "simfmt", "node-name", "disk", "discard",
                  "unmap", "x-cache", 64 * SIMFMT_BLOCK, "file", "driver", "file", "filename", "disk");
    struct weir_node *node;

    WEIR_ASSERT(options && !weir_node_add(options, true, &node, NULL));
    json_decref(options);
    return node;
}

static weir_co_fn void run(void *arg)
{
    struct weir_loop *loops[2];
    struct weir_node *node;
    uint8_t *bytes = weir_alloc(UNIT);
    int64_t alone, beside;

    weir_graph_init(&weir_io_hooks);
    node = open_disk();
    WEIR_ASSERT(!weir_loop_new("reader", &loops[0], NULL) && !weir_loop_new("writer", &loops[1], NULL));
    reader.edge = attach(node);
    writer.edge = attach(node);
    for (uint64_t unit = 0; unit < UNITS / 2; unit++)
        write_unit(writer.edge, unit, bytes);
    flush(writer.edge);
    alone = measure(loops[0]);
    weir_co_start(loops[1], write_and_flush, NULL);
    beside = measure(loops[0]);
    __atomic_store_n(&writer.stop, true, __ATOMIC_SEQ_CST);
    wait_for(&writer.ended);
    printf("p99 of a reader: %.3f ms alone, %.3f ms beside a guest that flushed %llu times, 50 ms each\n",
           (double)alone / 1e6, (double)beside / 1e6, (unsigned long long)writer.flushes);
    WEIR_ASSERT(writer.flushes > 20);
    WEIR_ASSERT(beside - alone < LIMIT_NS);
    weir_root_detach(reader.edge, -1);
    weir_root_detach(writer.edge, -1);
    WEIR_ASSERT(!weir_node_del("disk", NULL));
    weir_graph_done(1000000000LL);
    weir_loop_free(loops[0]);
    weir_loop_free(loops[1]);
    free(bytes);
    weir_loop_stop(weir_loop_control());
}

static void life(void *arg)
{
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_simfmt);
    WEIR_ASSERT(!weir_runtime_init(NULL));
    weir_co_start(weir_loop_control(), run, NULL);
    weir_runtime_run();
    weir_runtime_done();
    weir_buffer_trim();
}

/* ---- the world ---- */

static void make_disk(void)
{
    struct weir_sim_file_options options = { .size = 2 * UNITS * UNIT };
    struct weir_sim_file *file = weir_sim_file_new("disk", &options);
    struct simfmt_header header;
    char block[SIMFMT_BLOCK] = { 0 };

    (void)simfmt_layout(UNITS * UNIT, UNIT, 2 * UNITS, false, &header);
    memcpy(block, &header, sizeof(header));
    weir_sim_file_put(file, 0, block, sizeof(block));
}

int main(void)
{
    struct weir_sim_limits limits = { .steps = 100000000, .time_ns = 1000 * 1000000000LL };
    struct weir_sim_profile profile;

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        weir_sim_profile_init(&profile);
        profile.io[WEIR_SIM_FLUSH].latency = (struct weir_sim_latency){ .min_ns = FLUSH_NS };
        /* Warm; in every other seed half of it has to be waited for a little. */
        profile.nowait_ppm = seed % 2 ? WEIR_SIM_ALWAYS : WEIR_SIM_ALWAYS / 2;
        profile.preempt_every = 1u << (3 + seed);
        weir_sim_begin(seed, &profile);
        memset(&reader, 0, sizeof(reader));
        memset(&writer, 0, sizeof(writer));
        make_disk();
        weir_sim_spawn("control", life, NULL);
        WEIR_ASSERT(weir_sim_run(&limits) == WEIR_SIM_FINISHED);
        weir_sim_end();
    }
    return 0;
}

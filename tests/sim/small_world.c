/* SPDX-License-Identifier: BSD-2-Clause */
#include "small_world.h"

#include "base/alloc.h"
#include "co/co.h"
#include "format/qcow2/codec.h"
#include "io/buffer.h"
#include "io/io.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define CLUSTERS 16u /* what the oracle looks at */
#define SECTORS_MAX (CLUSTERS * 32u)
#define STEPS_MAX 2000000u
#define SIZES_MAX 16u

const char *const small_op_names[SMALL_OPS] = { "allocate", "overwrite", "shared", "stored", "zero",
                                                "discard",  "flush",     "grow",   "shrink" };

const struct small_config small_configs[] = {
    { "clusters of 1 KiB", { .version = 3, .cluster_bits = 10, .refcount_order = 4 }, false, false, false },
    { "clusters of 512 bytes, 2-bit counts, backing",
      { .version = 3, .cluster_bits = 9, .refcount_order = 1, .zstd = true },
      true,
      false,
      true },
    { "subclusters",
      { .version = 3, .cluster_bits = 14, .refcount_order = 4, .extended_l2 = true },
      true,
      false,
      false },
    { "version 2, backing", { .version = 2, .cluster_bits = 9, .refcount_order = 4 }, true, false, false },
    { "64-bit counts, full refcount table",
      { .version = 3, .cluster_bits = 9, .refcount_order = 6, .skip = 4096 - 30 },
      false,
      false,
      false },
    { "lazy counts",
      { .version = 3, .cluster_bits = 9, .refcount_order = 4, .lazy_refcounts = true },
      false,
      true,
      false },
};
const unsigned small_config_count = WEIR_ARRAY_SIZE(small_configs);

WEIR_SIM_KEPT struct qcow2_medium small_medium;
static WEIR_SIM_KEPT const struct small_config *config;
static WEIR_SIM_KEPT struct weir_sim_file *base;
static WEIR_SIM_KEPT uint8_t *snapshot; /* what the snapshot shows */

/* What is known. Sets of numbers below 32; sizes in bytes: the current one is the last. */
static WEIR_SIM_KEPT struct {
    uint32_t now[SECTORS_MAX], cut[SECTORS_MAX];
    uint64_t sizes[SIZES_MAX];
    unsigned size_count;
    uint64_t leaks;
} oracle;

static struct weir_edge *edge;

static uint64_t cluster_sectors(void)
{
    return (1u << config->params.cluster_bits) / SECTOR;
}

static uint64_t sectors(void)
{
    return CLUSTERS * cluster_sectors();
}

static uint64_t size_now(void)
{
    return oracle.sizes[oracle.size_count - 1];
}

/* ---- making it ---- */

static uint8_t first_number(uint64_t sector)
{
    return (uint8_t)(1 + sector % 7);
}

static void lay(uint64_t cluster, enum qcow2_lay how)
{
    uint64_t length = cluster_sectors() * SECTOR;
    uint8_t *bytes = weir_alloc(length);

    for (uint64_t i = 0; i < length; i++)
        bytes[i] = first_number(cluster * cluster_sectors() + i / SECTOR);
    if (!qcow2_medium_lay(&small_medium, cluster, bytes, how))
        (void)qcow2_medium_lay(&small_medium, cluster, bytes, QCOW2_LAY_PLAIN);
    free(bytes);
}

static void read_behind(void *arg, uint64_t offset, uint64_t length, uint8_t *out)
{
    memset(out, 0, length);
    if (base)
        weir_sim_file_peek(base, offset, out, length);
}

static void make_base(void)
{
    uint64_t length = 7 * cluster_sectors() * SECTOR;
    uint8_t *bytes = weir_alloc(length);

    for (uint64_t i = 0; i < length; i++)
        bytes[i] = first_number(i / SECTOR);
    base = weir_sim_file_new("base", NULL);
    weir_sim_file_put(base, 0, bytes, length);
    free(bytes);
}

static void make_image(void)
{
    struct qcow2_medium_params params = config->params;
    uint64_t filled = (config->backing ? 7 : 6) * cluster_sectors();

    params.size = 8 * cluster_sectors() * SECTOR;
    small_medium = (struct qcow2_medium){ .file = weir_sim_file_new("disk", NULL) };
    base = NULL;
    if (config->backing)
        make_base();
    qcow2_medium_make(&small_medium, &params);
    for (uint64_t cluster = 0; cluster < 4; cluster++)
        lay(cluster, cluster == 1 ? QCOW2_LAY_STORED : QCOW2_LAY_PLAIN);
    WEIR_ASSERT(qcow2_medium_snapshot(&small_medium));
    snapshot = weir_alloc(params.size);
    qcow2_medium_read(&small_medium, 1, 0, params.size, snapshot, read_behind, NULL);
    lay(4, QCOW2_LAY_STORED);
    lay(5, QCOW2_LAY_PLAIN);
    memset(&oracle, 0, sizeof(oracle));
    for (uint64_t s = 0; s < sectors(); s++)
        oracle.now[s] = oracle.cut[s] = 1u << (s < filled ? first_number(s) : 0);
    oracle.sizes[oracle.size_count++] = params.size;
    oracle.leaks = params.skip;
}

void small_begin(const struct small_config *which, uint64_t seed)
{
    struct weir_sim_profile profile;

    config = which;
    weir_sim_profile_init(&profile);
    weir_sim_begin(seed, &profile);
    make_image();
}

void small_end(void)
{
    weir_sim_end();
    free(weir_steal(&snapshot));
}

/* ---- a life ---- */

extern const struct weir_driver weir_driver_file, weir_driver_qcow2;
static void (*life_script)(void) weir_co_fn;

static weir_co_fn void life_run(void *arg)
{
    weir_graph_init(&weir_io_hooks);
    life_script();
    weir_graph_done(1000000000LL);
    weir_loop_stop(weir_loop_control());
}

static void life_main(void *arg)
{
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_qcow2);
    weir_driver_register(&weir_driver_nth_io);
    if (weir_runtime_init(NULL))
        qcow2_medium_fail("no runtime");
    weir_co_start(weir_loop_control(), life_run, NULL);
    weir_runtime_run();
    if (weir_co_alive())
        qcow2_medium_fail("%u coroutines are left at the end", weir_co_alive());
    weir_runtime_done();
    weir_buffer_trim();
    qcow2_codec_trim();
}

bool small_life(void (*script)(void) weir_co_fn)
{
    struct weir_sim_limits limits = { .steps = STEPS_MAX, .time_ns = 100 * 1000000000LL };
    enum weir_sim_outcome outcome;

    life_script = script;
    weir_sim_spawn("control", life_main, NULL);
    outcome = weir_sim_run(&limits);
    if (outcome != WEIR_SIM_FINISHED && outcome != WEIR_SIM_STOPPED)
        qcow2_medium_fail("a life is %s", weir_sim_outcome_name(outcome));
    return outcome == WEIR_SIM_FINISHED;
}

static const struct weir_root_ops root_ops = { .kind = "block-backend" };

static weir_co_fn int add_node(json_t *options, struct weir_node **ret_node)
{
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    WEIR_ASSERT(options);
    ret = weir_node_add(options, true, ret_node, &err);
    if (ret && !nth_io.hit)
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
    json_decref(options);
    return ret;
}

static weir_co_fn int open_disk(struct weir_node **ret_node)
{
    json_t *options =
        json_pack("{s:s, s:s, s:s, s:s, s:i}", "driver", "qcow2", "node-name", "disk", "discard", "unmap",
                  "file", "nth", "cache-size", 2 << config->params.cluster_bits);

    if (config->backing)
        json_object_set_new(
            options, "backing",
            json_pack("{s:s, s:s, s:b}", "driver", "file", "filename", "base", "read-only", 1));
    if (config->lazy)
        json_object_set_new(options, "lazy-refcounts", json_true());
    if (config->no_unref)
        json_object_set_new(options, "discard-no-unref", json_true());
    return add_node(options, ret_node);
}

int small_open(void)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE | WEIR_PERM_RESIZE;
    json_t *options = json_pack("{s:s, s:s, s:s, s:{s:s, s:s}}", "driver", "nth-io", "node-name", "nth",
                                "discard", "unmap", "file", "driver", "file", "filename", "disk");
    struct weir_node *node = NULL;
    int ret = add_node(options, NULL);

    if (ret)
        return ret;
    ret = open_disk(&node);
    if (!ret)
        ret = weir_root_attach(node, "guest", perm, WEIR_PERM_ALL, &root_ops, NULL, &edge, NULL);
    if (ret && node)
        (void)!weir_node_del("disk", NULL);
    if (ret)
        (void)!weir_node_del("nth", NULL);
    return ret;
}

static weir_co_fn void delete_node(const char *name)
{
    WEIR_AUTO_ERROR err = NULL;

    if (weir_node_del(name, &err))
        qcow2_medium_fail("blockdev-del of %s: %s", name, weir_error_text(err));
}

void small_close(void)
{
    weir_root_detach(weir_steal(&edge), -1);
    delete_node("disk");
    delete_node("nth");
    if (weir_graph_next(NULL) || weir_graph_limbo_count())
        qcow2_medium_fail("a node is left");
}

/* ---- operations ---- */

/* [*first, *end) in half clusters; false: no range. */
static bool place(enum small_op op, uint64_t *ret_first, uint64_t *ret_end)
{
    static const uint8_t halves[SMALL_OPS][2] = {
        [SMALL_ALLOCATE] = { 13, 16 }, [SMALL_OVERWRITE] = { 9, 13 }, [SMALL_SHARED] = { 1, 4 },
        [SMALL_STORED] = { 6, 10 },    [SMALL_ZERO] = { 5, 14 },      [SMALL_DISCARD] = { 2, 12 },
    };
    uint64_t c = cluster_sectors(), end = size_now() / SECTOR;

    *ret_first = halves[op][0] * c / 2;
    *ret_end = WEIR_MIN(halves[op][1] * c / 2, end);
    return *ret_first < *ret_end;
}

static void may_become(uint64_t first, uint64_t end, uint32_t set)
{
    for (uint64_t s = first; s < WEIR_MIN(end, sectors()); s++) {
        oracle.now[s] |= set;
        oracle.cut[s] |= set;
    }
}

static void is_now(uint64_t first, uint64_t end, uint32_t set)
{
    for (uint64_t s = first; s < WEIR_MIN(end, sectors()); s++)
        oracle.now[s] = set;
}

static weir_co_fn int request(enum weir_op op, uint64_t first, uint64_t end, unsigned flags, uint8_t number)
{
    uint64_t length = (end - first) * SECTOR;
    uint8_t *bytes = op == WEIR_OP_WRITE ? weir_try_alloc(length, 4096) : NULL;
    struct iovec iov = { bytes, length };
    struct weir_request r = weir_request_make(op, first * SECTOR, length, &iov, bytes ? 1 : 0, flags);
    int ret;

    if (bytes)
        memset(bytes, number, length);
    ret = weir_root_io(edge, &r);
    free(bytes);
    return ret;
}

static weir_co_fn int change(enum small_op op, unsigned step)
{
    static const enum weir_op ops[SMALL_OPS] = { WEIR_OP_WRITE, WEIR_OP_WRITE, WEIR_OP_WRITE,
                                                 WEIR_OP_WRITE, WEIR_OP_ZERO,  WEIR_OP_DISCARD };
    uint8_t number = (uint8_t)(op == SMALL_ZERO || op == SMALL_DISCARD ? 0 : 10 + step);
    uint64_t first, end;
    int ret;

    if (!place(op, &first, &end))
        return 0;
    /* What was discarded may show what it was, nothing, or what lies behind. */
    for (uint64_t s = first; s < end; s++)
        may_become(s, s + 1, 1u << number);
    ret = request(ops[op], first, end,
                  op == SMALL_STORED ? WEIR_REQUEST_COMPRESSED
                  : op == SMALL_ZERO ? WEIR_REQUEST_MAY_UNMAP
                                     : 0,
                  number);
    if (!ret && op != SMALL_DISCARD)
        is_now(first, end, 1u << number);
    return ret;
}

static weir_co_fn int flush(void)
{
    int ret = request(WEIR_OP_FLUSH, 0, 0, 0, 0);

    if (ret)
        return ret;
    memcpy(oracle.cut, oracle.now, sizeof(oracle.cut));
    oracle.sizes[0] = size_now();
    oracle.size_count = 1;
    return 0;
}

/* Grows far, so that the L1 table has to move; shrinks to the middle of a cluster. */
static weir_co_fn int resize(enum small_op op)
{
    uint64_t c = cluster_sectors(), old = size_now() / SECTOR;
    uint64_t new = op == SMALL_SHRINK ? 5 * c + c / 2 : c == 1 ? 5000 : 30 * c;
    int ret;

    if (op == SMALL_SHRINK ? old <= new : old >= new)
        return 0;
    if (config->params.version == 2) /* does not know the size that a snapshot had: must be refused */
        return weir_node_resize(edge, new *SECTOR, NULL) == -ENOTSUP ? 0 : -ENOTTY;
    WEIR_ASSERT(oracle.size_count < SIZES_MAX);
    if (op == SMALL_SHRINK)
        may_become(new, old, 1);
    oracle.sizes[oracle.size_count++] = new *SECTOR;
    ret = weir_node_resize(edge, new *SECTOR, NULL);
    if (ret) { /* may have been done nevertheless, as far as the medium shows */
        oracle.sizes[oracle.size_count++] = weir_node_size(edge->node);
        return ret;
    }
    if (op == SMALL_SHRINK)
        is_now(new, old, 1);
    return 0;
}

int small_do(enum small_op op, unsigned step)
{
    if (op == SMALL_FLUSH)
        return flush();
    if (op == SMALL_GROW || op == SMALL_SHRINK)
        return resize(op);
    return change(op, step);
}

/* ---- judging ---- */

static void judge(const uint8_t *bytes, uint64_t length, bool cut, const char *what)
{
    for (uint64_t i = 0; i < length; i++) {
        uint32_t set = (cut ? oracle.cut : oracle.now)[i / SECTOR];

        if (bytes[i] > 31 || !(set & 1u << bytes[i]))
            qcow2_medium_fail("%s shows %u in byte %llu, which may hold the set %#x", what, bytes[i],
                              (unsigned long long)i, set);
    }
}

int small_read_all(void)
{
    uint64_t length = WEIR_MIN(size_now(), sectors() * SECTOR);
    uint8_t *bytes = weir_try_alloc(length, 4096);
    struct iovec iov = { bytes, length };
    struct weir_request r = weir_request_make(WEIR_OP_READ, 0, length, &iov, 1, 0);
    int ret;

    if (weir_node_size(edge->node) != size_now())
        qcow2_medium_fail("the disk has %llu bytes instead of %llu",
                          (unsigned long long)weir_node_size(edge->node), (unsigned long long)size_now());
    ret = weir_root_io(edge, &r);
    if (!ret)
        judge(bytes, length, false, "a read");
    free(bytes);
    return ret;
}

static void check_size(uint64_t size, bool cut)
{
    for (unsigned i = cut ? 0 : oracle.size_count - 1; i < oracle.size_count; i++) {
        if (oracle.sizes[i] == size)
            return;
    }
    qcow2_medium_fail("the disk on the medium has %llu bytes", (unsigned long long)size);
}

void small_check(bool cut, uint64_t leaks)
{
    struct qcow2_medium_report report;
    uint64_t length, size = 8 * cluster_sectors() * SECTOR;
    uint8_t *bytes;

    qcow2_medium_walk(&small_medium, "the medium", &report);
    if (!cut && report.dirty)
        qcow2_medium_fail("the image is marked dirty at its end");
    if (report.leaks > leaks + config->params.skip)
        qcow2_medium_fail("there are %llu leaks", (unsigned long long)(report.leaks - config->params.skip));
    oracle.leaks = report.leaks - WEIR_MIN(config->params.skip, report.leaks);
    check_size(report.size, cut);
    length = WEIR_MIN(report.size, sectors() * SECTOR);
    bytes = weir_alloc(WEIR_MAX(length, size));
    qcow2_medium_read(&small_medium, 0, 0, length, bytes, read_behind, NULL);
    judge(bytes, length, cut, "the medium");
    if (report.snapshots != 1)
        qcow2_medium_fail("the snapshot is gone");
    qcow2_medium_read(&small_medium, 1, 0, size, bytes, read_behind, NULL);
    if (memcmp(bytes, snapshot, size))
        qcow2_medium_fail("the snapshot has changed");
    free(bytes);
}

void small_settle(void)
{
    struct qcow2_medium_report report;
    uint64_t length;
    uint8_t *bytes;

    qcow2_medium_walk(&small_medium, "the medium", &report);
    oracle.sizes[0] = report.size;
    oracle.size_count = 1;
    length = WEIR_MIN(report.size, sectors() * SECTOR);
    bytes = weir_alloc(sectors() * SECTOR);
    qcow2_medium_read(&small_medium, 0, 0, length, bytes, read_behind, NULL);
    for (uint64_t s = 0; s < sectors(); s++)
        oracle.now[s] = oracle.cut[s] = 1u << bytes[s * SECTOR];
    free(bytes);
}

uint64_t small_leaks(void)
{
    return oracle.leaks;
}

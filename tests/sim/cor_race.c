/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Readers through copy-on-read race writers over the same units, on two real threads: for ThreadSanitizer, and for the
 * promise that a copy never brings stale data back.
 *
 * Every word of a sector says which sector it is and how often that was written; below, in the backing file, that is
 * never. Each of eight writers owns one sector of each unit; each of eight readers reads runs of any sectors, and must
 * see of each a version that was not older than the last one answered before it asked, and not newer than the last one
 * begun when it was answered. Half of the writers come through the filter, half go past it. A round is over before all
 * units are allocated; the next one begins with an empty image.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"
#include "io/io.h"
#include "simfmt.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define UNIT 4096u
#define SECTOR 512u
#define WORDS (SECTOR / 8)
#define SECTORS 8192u
#define DISK ((uint64_t)SECTORS * SECTOR)
#define SIDES 2u
#define WRITERS 8u
#define READERS 8u
#define PER_SIDE ((WRITERS + READERS) / SIDES)
#define RUN_MAX 32u
#define ROUND_REQUESTS 300u /* of each worker */

extern const struct weir_driver weir_driver_file, weir_driver_copy_on_read;

static _Atomic uint32_t begun[SECTORS], answered[SECTORS];
static _Atomic uint64_t failures, reads, writes;
static char image_path[] = "/dev/shm/weir-cor-race-XXXXXX", base_path[] = "/dev/shm/weir-cor-base-XXXXXX";
static double seconds = 10;

struct worker {
    struct weir_edge *edge;
    unsigned id; /* below WRITERS: a writer */
    uint64_t random;
};

struct side {
    struct weir_loop *loop;
    struct worker workers[PER_SIDE];
    struct weir_mutex *mutex;
    struct weir_co_queue *done;
    unsigned *running;
};

static uint64_t next_random(struct worker *worker)
{
    worker->random = worker->random * 6364136223846793005ULL + 1442695040888963407ULL;
    return worker->random >> 33;
}

static uint64_t word_of(uint64_t sector, uint32_t version)
{
    return sector << 32 | version;
}

static void fail(const struct worker *worker, const char *what, uint64_t sector, uint64_t value)
{
    atomic_fetch_add(&failures, 1);
    (void)fprintf(stderr, "worker %u: %s, sector %llu: %#llx\n", worker->id, what, (unsigned long long)sector,
                  (unsigned long long)value);
}

static weir_co_fn void write_one(struct worker *worker)
{
    uint64_t words[WORDS], sector = next_random(worker) % (SECTORS / WRITERS) * WRITERS + worker->id;
    struct iovec iov = { words, SECTOR };
    uint32_t version = atomic_load(&begun[sector]) + 1;
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, sector * SECTOR, SECTOR, &iov, 1, 0);
    int ret;

    for (unsigned i = 0; i < WORDS; i++)
        words[i] = word_of(sector, version);
    atomic_store(&begun[sector], version);
    ret = weir_root_io(worker->edge, &request);
    if (ret)
        fail(worker, "a write fails", sector, (uint64_t)-ret);
    atomic_store(&answered[sector], version);
    atomic_fetch_add(&writes, 1);
}

static void judge(const struct worker *worker, uint64_t sector, const uint64_t *words, uint32_t low)
{
    uint32_t high = atomic_load(&begun[sector]);

    for (unsigned i = 0; i < WORDS; i++) {
        uint32_t version = (uint32_t)words[i];

        if (words[i] >> 32 != sector || version < low || version > high) {
            fail(worker, version < low ? "stale data" : "data of nobody", sector, words[i]);
            return;
        }
    }
}

static weir_co_fn void read_some(struct worker *worker)
{
    uint64_t words[RUN_MAX * WORDS], first = next_random(worker) % SECTORS;
    uint64_t wanted = 1 + next_random(worker) % RUN_MAX;
    unsigned count = (unsigned)WEIR_MIN(wanted, SECTORS - first);
    struct iovec iov = { words, (size_t)count * SECTOR };
    struct weir_request request =
        weir_request_make(WEIR_OP_READ, first * SECTOR, (uint64_t)count * SECTOR, &iov, 1, 0);
    uint32_t low[RUN_MAX];
    int ret;

    for (unsigned i = 0; i < count; i++)
        low[i] = atomic_load(&answered[first + i]);
    ret = weir_root_io(worker->edge, &request);
    if (ret)
        fail(worker, "a read fails", first, (uint64_t)-ret);
    for (unsigned i = 0; i < count && !ret; i++)
        judge(worker, first + i, &words[(size_t)i * WORDS], low[i]);
    atomic_fetch_add(&reads, 1);
}

static weir_co_fn void work(void *arg)
{
    struct worker *worker = arg;

    for (unsigned i = 0; i < ROUND_REQUESTS; i++) {
        if (worker->id < WRITERS)
            write_one(worker);
        else
            read_some(worker);
    }
}

static weir_co_fn void run_side(void *arg)
{
    struct side *side = arg;
    struct weir_co_group group;

    weir_co_group_init(&group);
    for (unsigned i = 0; i < PER_SIDE; i++)
        weir_co_group_start(&group, work, &side->workers[i]);
    weir_co_group_wait(&group, 0);
    weir_co_group_done(&group);
    weir_buffer_trim();
    weir_mutex_lock(side->mutex);
    (*side->running)--;
    weir_co_queue_wake_all(side->done);
    weir_mutex_unlock(side->mutex);
}

/* ---- the stage ---- */

static void make_base(int fd)
{
    uint64_t words[WORDS];

    for (uint64_t sector = 0; sector < SECTORS; sector++) {
        for (unsigned i = 0; i < WORDS; i++)
            words[i] = word_of(sector, 0);
        WEIR_ASSERT(pwrite(fd, words, SECTOR, (off_t)(sector * SECTOR)) == SECTOR);
    }
}

static void make_image(int fd)
{
    struct simfmt_header header;
    uint64_t units = DISK / UNIT + 96, meta = simfmt_layout(DISK, UNIT, units, false, &header);

    WEIR_ASSERT(!ftruncate(fd, 0));
    WEIR_ASSERT(!ftruncate(fd, (off_t)WEIR_MAX(meta, units * UNIT)));
    WEIR_ASSERT(pwrite(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header));
    for (unsigned i = 0; i < SECTORS; i++) {
        atomic_store(&begun[i], 0);
        atomic_store(&answered[i], 0);
    }
}

static weir_co_fn struct weir_node *add(json_t *options)
{
    struct weir_error *err = NULL;
    struct weir_node *node;

    if (weir_node_add(options, true, &node, &err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        _exit(1);
    }
    json_decref(options);
    return node;
}

static weir_co_fn struct weir_edge *attach(struct weir_node *node)
{
    struct weir_error *err = NULL;
    struct weir_edge *edge;

    if (weir_root_attach(node, "root", WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE, WEIR_PERM_ALL, NULL, NULL,
                         &edge, &err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        _exit(1);
    }
    return edge;
}

static weir_co_fn void run_round(struct side *sides, struct weir_edge *filter, struct weir_edge *image)
{
    struct weir_mutex mutex;
    struct weir_co_queue done;
    unsigned running = SIDES;

    weir_mutex_init(&mutex);
    weir_co_queue_init(&done);
    for (unsigned i = 0; i < SIDES; i++) {
        for (unsigned w = 0; w < PER_SIDE; w++) {
            struct worker *worker = &sides[i].workers[w];

            worker->id = w * SIDES + i;
            worker->edge = worker->id < WRITERS / 2 ? image : filter;
        }
        sides[i].mutex = &mutex;
        sides[i].done = &done;
        sides[i].running = &running;
        weir_co_start(sides[i].loop, run_side, &sides[i]);
    }
    weir_mutex_lock(&mutex);
    while (running)
        weir_co_queue_wait(&done, &mutex);
    weir_mutex_unlock(&mutex);
    weir_mutex_done(&mutex);
}

static weir_co_fn void one_round(struct side *sides, int fd)
{
    struct weir_edge *filter, *image;
    struct weir_node *node;

    make_image(fd);
    node = add(json_pack("{s:s, s:s, s:i, s:{s:s, s:s}, s:{s:s, s:s, s:b}}", "driver", "simfmt", "node-name",
                         "image", "x-cache", 8 * 512, "file", "driver", "file", "filename", image_path,
                         "backing", "driver", "file", "filename", base_path, "read-only", 1));
    image = attach(node);
    filter = attach(
        add(json_pack("{s:s, s:s, s:s}", "driver", "copy-on-read", "node-name", "cor", "file", "image")));
    run_round(sides, filter, image);
    weir_root_detach(filter, -1);
    weir_root_detach(image, -1);
    WEIR_ASSERT(!weir_node_del("cor", NULL));
    WEIR_ASSERT(!weir_node_del("image", NULL));
}

static weir_co_fn void stage(void *arg)
{
    int *fd = arg;
    int64_t begin = weir_sys->clock_ns();
    struct side sides[SIDES] = { 0 };
    unsigned rounds = 0;

    for (unsigned i = 0; i < SIDES; i++) {
        WEIR_ASSERT(!weir_loop_new(i ? "two" : "one", &sides[i].loop, NULL));
        for (unsigned w = 0; w < PER_SIDE; w++)
            sides[i].workers[w].random = (uint64_t)(i * PER_SIDE + w) * 7919 + 1;
    }
    do {
        one_round(sides, *fd);
        rounds++;
    } while (!atomic_load(&failures) && (double)(weir_sys->clock_ns() - begin) < seconds * 1e9);
    for (unsigned i = 0; i < SIDES; i++)
        weir_loop_free(sides[i].loop);
    (void)printf("%u rounds, %llu reads beside %llu writes, %u allocations, %llu failures\n", rounds,
                 (unsigned long long)reads, (unsigned long long)writes, (unsigned)simfmt_totals.allocations,
                 (unsigned long long)failures);
    weir_graph_done(WEIR_DRAIN_LIMIT_NS);
    weir_buffer_trim();
    weir_loop_stop(weir_loop_control());
}

int main(int argc, char **argv)
{
    struct weir_error *err = NULL;
    int fd = mkstemp(image_path), base = mkstemp(base_path);

    if (argc == 3 && !strcmp(argv[1], "--seconds"))
        seconds = strtod(argv[2], NULL);
    WEIR_ASSERT(fd >= 0 && base >= 0);
    make_base(base);
    (void)close(base);
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_simfmt);
    weir_driver_register(&weir_driver_copy_on_read);
    if (weir_runtime_init(&err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        return 1;
    }
    weir_graph_init(&weir_io_hooks);
    weir_co_start(weir_loop_control(), stage, &fd);
    weir_runtime_run();
    weir_runtime_done();
    (void)close(fd);
    (void)unlink(image_path);
    (void)unlink(base_path);
    return failures ? 1 : 0;
}

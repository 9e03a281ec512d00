/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two real threads on one node of the test format: for ThreadSanitizer, which sees what a simulator cannot, missing
 * barriers and locks.
 *
 * Each loop runs a few coroutines. Each coroutine owns every 16th sector, so that all of them meet in the same units
 * and tables; what it reads there must be what it wrote. Writes allocate, discards and zeroes free, so that
 * tables, counts and the quarantine are busy all the time.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"
#include "io/io.h"
#include "simfmt.h"
#include "sys/sys.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define UNIT 4096u
#define SECTOR 512u
#define DISK ((uint64_t)4 << 20)
#define SECTORS (DISK / SECTOR)
#define OWNERS 16u
#define PER_LOOP (OWNERS / 2)

extern const struct weir_driver weir_driver_file;

struct worker {
    struct weir_edge *edge;
    unsigned id;
    uint64_t requests, random;
    uint64_t owned[SECTORS / OWNERS]; /* last value written to each owned sector */
    struct weir_co_group *group;
};

static uint64_t failures;
static char path[] = "/dev/shm/weir-two-loops-XXXXXX";
static uint64_t requests_per_loop = 1000000;

static uint64_t next_random(struct worker *worker)
{
    worker->random = worker->random * 6364136223846793005ULL + 1442695040888963407ULL;
    return worker->random >> 33;
}

static void fail(const struct worker *worker, const char *what, uint64_t sector, int ret)
{
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
    fprintf(stderr, "worker %u: %s at sector %llu: %d\n", worker->id, what, (unsigned long long)sector, ret);
}

static weir_co_fn int issue(struct worker *worker, enum weir_op op, uint64_t sector, uint64_t *words,
                            unsigned flags)
{
    struct iovec iov = { words, SECTOR };
    struct weir_request request =
        weir_request_make(op, sector * SECTOR, SECTOR, words ? &iov : NULL, words ? 1 : 0, flags);

    return weir_root_io(worker->edge, &request);
}

static weir_co_fn void write_one(struct worker *worker, uint64_t slot, uint64_t sector)
{
    uint64_t words[SECTOR / 8], value = next_random(worker) | 1;
    bool zero = next_random(worker) % 4 == 0;
    int ret;

    for (unsigned i = 0; i < SECTOR / 8; i++)
        words[i] = value;
    ret = zero ? issue(worker, WEIR_OP_ZERO, sector, NULL, WEIR_REQUEST_MAY_UNMAP)
               : issue(worker, WEIR_OP_WRITE, sector, words, next_random(worker) % 64 ? 0 : WEIR_REQUEST_FUA);
    if (ret)
        fail(worker, "write", sector, ret);
    worker->owned[slot] = zero ? 0 : value;
}

static weir_co_fn void read_one(struct worker *worker, uint64_t slot, uint64_t sector)
{
    uint64_t words[SECTOR / 8];
    int ret = issue(worker, WEIR_OP_READ, sector, words, 0);

    if (ret)
        fail(worker, "read", sector, ret);
    for (unsigned i = 0; i < SECTOR / 8 && !ret; i++) {
        if (words[i] != worker->owned[slot]) {
            fail(worker, "wrong data", sector, 0);
            return;
        }
    }
}

/*
 * The last units of the disk belong to no sector's owner: whole-unit discards and zeroes by everybody at once.
 */
static weir_co_fn void free_some(struct worker *worker)
{
    uint64_t offset = DISK + next_random(worker) % 64 * UNIT;
    bool discard = next_random(worker) % 2;
    struct weir_request request = weir_request_make(discard ? WEIR_OP_DISCARD : WEIR_OP_ZERO, offset, UNIT,
                                                    NULL, 0, discard ? 0 : WEIR_REQUEST_MAY_UNMAP);
    uint64_t words[SECTOR / 8] = { 0 };
    int ret = weir_root_io(worker->edge, &request);

    if (ret)
        fail(worker, "discard", offset / SECTOR, ret);
    ret = issue(worker, WEIR_OP_WRITE, offset / SECTOR, words, 0);
    if (ret)
        fail(worker, "write", offset / SECTOR, ret);
}

static weir_co_fn void work(void *arg)
{
    struct worker *worker = arg;

    for (uint64_t i = 0; i < worker->requests; i++) {
        uint64_t slot = next_random(worker) % (SECTORS / OWNERS), sector = slot * OWNERS + worker->id;
        uint64_t kind = next_random(worker) % 128;

        if (kind == 0)
            (void)!issue(worker, WEIR_OP_FLUSH, 0, NULL, 0);
        else if (kind < 16)
            free_some(worker);
        else if (kind < 70)
            write_one(worker, slot, sector);
        else
            read_one(worker, slot, sector);
    }
}

/* ---- the stage ---- */

struct side {
    struct weir_loop *loop;
    struct weir_edge *edge;
    struct worker *workers[PER_LOOP];
    unsigned first;
    struct weir_mutex *mutex;
    struct weir_co_queue *done;
    unsigned *running;
};

static weir_co_fn void run_side(void *arg)
{
    struct side *side = arg;
    struct weir_co_group group;

    weir_co_group_init(&group);
    for (unsigned i = 0; i < PER_LOOP; i++)
        weir_co_group_start(&group, work, side->workers[i]);
    weir_co_group_wait(&group, 0);
    weir_co_group_done(&group);
    weir_buffer_trim(); /* the loop keeps some for reuse */
    weir_mutex_lock(side->mutex);
    (*side->running)--;
    weir_co_queue_wake_all(side->done);
    weir_mutex_unlock(side->mutex);
}

static void make_image(int fd)
{
    struct simfmt_header header;
    uint64_t size = DISK + 64 * UNIT, units = size / UNIT + 96,
             meta = simfmt_layout(size, UNIT, units, false, &header);

    WEIR_ASSERT(!ftruncate(fd, (off_t)WEIR_MAX(meta, units * UNIT)));
    WEIR_ASSERT(pwrite(fd, &header, sizeof(header), 0) == (ssize_t)sizeof(header));
}

static weir_co_fn void side_init(struct side *side, unsigned index, struct weir_node *node)
{
    struct weir_error *err = NULL;
    unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE;

    side->first = index * PER_LOOP;
    WEIR_ASSERT(!weir_loop_new(index ? "two" : "one", &side->loop, &err));
    if (weir_root_attach(node, "root", perm, WEIR_PERM_ALL, NULL, NULL, &side->edge, &err)) {
        fprintf(stderr, "%s\n", weir_error_text(err));
        _exit(1);
    }
    for (unsigned i = 0; i < PER_LOOP; i++) {
        struct worker *worker = side->workers[i] = weir_new(struct worker);

        worker->edge = side->edge;
        worker->id = side->first + i;
        worker->requests = requests_per_loop / PER_LOOP;
        worker->random = worker->id * 7919 + 1;
    }
}

static weir_co_fn void run_all(struct side *sides)
{
    struct weir_mutex mutex;
    struct weir_co_queue done;
    unsigned running = 2;

    weir_mutex_init(&mutex);
    weir_co_queue_init(&done);
    for (unsigned i = 0; i < 2; i++) {
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

static weir_co_fn void stage(void *arg)
{
    struct weir_error *err = NULL;
    struct weir_node *node;
    struct simfmt_stats stats;
    struct side sides[2];
    json_t *options = json_pack("{s:s, s:s, s:s, s:i, s:{s:s, s:s, s:s}}", "driver", "simfmt", "node-name",
                                "image", "discard", "unmap", "x-cache", 8 * 512, "file", "driver", "file",
                                "filename", path, "discard", "unmap");

    if (weir_node_add(options, true, &node, &err)) {
        fprintf(stderr, "%s\n", weir_error_text(err));
        _exit(1);
    }
    json_decref(options);
    for (unsigned i = 0; i < 2; i++)
        side_init(&sides[i], i, node);
    run_all(sides);
    simfmt_stats(node, &stats);
    printf("%llu requests on each of two loops: %llu allocations, %llu overwrites, %llu failures\n",
           (unsigned long long)requests_per_loop, (unsigned long long)stats.allocations,
           (unsigned long long)stats.in_place, (unsigned long long)failures);
    for (unsigned i = 0; i < 2; i++) {
        weir_root_detach(sides[i].edge, -1);
        for (unsigned w = 0; w < PER_LOOP; w++)
            free(sides[i].workers[w]);
        weir_loop_free(sides[i].loop);
    }
    WEIR_ASSERT(!weir_node_del("image", NULL));
    weir_graph_done(WEIR_DRAIN_LIMIT_NS);
    weir_buffer_trim();
    weir_loop_stop(weir_loop_control());
}

int main(int argc, char **argv)
{
    struct weir_error *err = NULL;
    int fd = mkstemp(path);

    if (argc == 3 && !strcmp(argv[1], "--requests"))
        requests_per_loop = strtoull(argv[2], NULL, 10);
    WEIR_ASSERT(fd >= 0);
    make_image(fd);
    close(fd);
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_simfmt);
    if (weir_runtime_init(&err)) {
        fprintf(stderr, "%s\n", weir_error_text(err));
        return 1;
    }
    weir_graph_init(&weir_io_hooks);
    weir_co_start(weir_loop_control(), stage, NULL);
    weir_runtime_run();
    weir_runtime_done();
    unlink(path);
    return failures ? 1 : 0;
}

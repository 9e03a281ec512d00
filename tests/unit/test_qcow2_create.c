/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The power goes while an image is created over an old one, in the simulated world: what is on the disk then is the old
 * image, no image, or the new one, whole. Each cut is a process of its own: the library does not survive it.
 */
#include "format/qcow2/compose.h"
#include "format/qcow2/create.h"
#include "format/qcow2/plan.h"

#include "base/alloc.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "sim_world.h"
#include "unit.h"
#include "world.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEEDS 400
#define NEW_SIZE ((uint64_t)3 << 20)
#define OLD_SIZE ((uint64_t)2 << 20)

extern const struct weir_driver weir_driver_file, weir_driver_host_device;

/* Too long for the first sector. */
static char backing[701];

enum outcome { OLD_IMAGE, NO_IMAGE, NEW_IMAGE, OUTCOMES };

struct made {
    struct qcow2_plan plan;
    uint8_t *bytes; /* metadata with the header */
};

static struct made make(uint64_t size, unsigned cluster_bits, bool mapped, const char *name)
{
    struct qcow2_header header = { .version = 3,
                                   .size = size,
                                   .cluster_bits = cluster_bits,
                                   .refcount_order = 4,
                                   .header_length = sizeof(struct qcow2_disk_header) };
    struct made made;

    WEIR_ASSERT(!qcow2_plan_make(&header, mapped, &made.plan, NULL));
    made.bytes = weir_alloc(made.plan.data_offset);
    qcow2_plan_fill(&made.plan, 0, made.plan.data_offset, made.bytes);
    WEIR_ASSERT(!qcow2_compose(&made.plan.header, &(struct qcow2_texts){ .backing = name }, made.bytes));
    return made;
}

/* ---- the life that is cut short ---- */

struct life {
    bool device, mapped, over;
};

static weir_co_fn void create(void *arg)
{
    struct life *life = arg;
    struct weir_q_blockdev_create_options_qcow2 options = {
        .file = json_pack("{s:s, s:s}", "driver", life->device ? "host_device" : "file", "filename", "disk"),
        .size = NEW_SIZE,
        .has_cluster_size = true,
        .cluster_size = 4096,
        .backing_file = life->mapped ? NULL : backing,
        .has_preallocation = true,
        .preallocation = life->mapped ? WEIR_Q_PREALLOC_MODE_FULL : WEIR_Q_PREALLOC_MODE_OFF,
    };
    WEIR_AUTO_ERROR err = NULL;

    weir_graph_init(&weir_io_hooks);
    if (qcow2_create_ops.create(&options, &err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        WEIR_ASSERT(false);
    }
    life->over = true;
    json_decref(options.file);
    weir_graph_done(5 * 1000000000LL);
}

static void main_thread(void *arg)
{
    run_world(create, arg);
}

/* ---- what is left of it ---- */

static bool file_is(struct weir_sim_file *file, const struct made *made)
{
    weir_autofree uint8_t *bytes = weir_alloc(made->plan.data_offset);

    weir_sim_file_peek(file, 0, bytes, made->plan.data_offset);
    return weir_sim_file_size(file) >= made->plan.end && !memcmp(bytes, made->bytes, made->plan.data_offset);
}

static enum outcome judge(struct weir_sim_file *file, const struct made *old, const struct made *new)
{
    uint32_t magic = 0;

    if (weir_sim_file_size(file) >= sizeof(magic))
        weir_sim_file_peek(file, 0, &magic, sizeof(magic));
    if (be32toh(magic) != QCOW2_MAGIC)
        return NO_IMAGE;
    if (file_is(file, new))
        return NEW_IMAGE;
    return file_is(file, old) ? OLD_IMAGE : OUTCOMES;
}

static void run_some(uint64_t events)
{
    (void)!weir_sim_run(&(struct weir_sim_limits){ .events = events });
}

/* Until the first sector has changed @times times, which it does twice: what a cut leaves is most uncertain then. */
static void run_to_change(struct weir_sim_file *file, unsigned times)
{
    uint8_t before[512], now[512];

    while (times--) {
        weir_sim_file_peek(file, 0, before, sizeof(before));
        do {
            run_some(1);
            weir_sim_file_peek(file, 0, now, sizeof(now));
        } while (!memcmp(before, now, sizeof(now)));
    }
    if (weir_sim_random(2))
        run_some(1 + weir_sim_random(3));
}

static enum outcome cut_at(uint64_t seed)
{
    struct life life = { .device = seed % 3 == 1, .mapped = seed / 3 % 2 };
    struct weir_sim_file_options options = { .size = life.device ? 4 * NEW_SIZE : 0, .block = life.device };
    struct made old = make(OLD_SIZE, 12, true, NULL);
    struct made new = make(NEW_SIZE, 12, life.mapped, life.mapped ? NULL : backing);
    struct weir_sim_profile profile;
    struct weir_sim_file *file;
    enum outcome outcome;

    weir_sim_profile_random(&profile, seed);
    weir_sim_begin(seed, &profile);
    file = weir_sim_file_new("disk", &options);
    weir_sim_file_put(file, 0, old.bytes, old.plan.data_offset);
    if (!life.device)
        weir_sim_file_put(file, old.plan.end - 1, "", 1);
    weir_sim_spawn("main", main_thread, &life);
    if (seed % 10 < 6)
        run_to_change(file, seed % 10 < 3 ? 1 : 2);
    else if (seed % 10 < 9)
        run_some(1 + weir_sim_random(life.mapped ? 120 : 50));
    else
        WEIR_ASSERT(weir_sim_run(&sim_limits) == WEIR_SIM_FINISHED); /* not cut: must give the new image */
    weir_sim_power_cut();
    outcome = judge(file, &old, &new);
    if (life.over && outcome != NEW_IMAGE)
        outcome = OUTCOMES;
    free(old.bytes);
    free(new.bytes);
    return outcome;
}

static void power_cuts(void **state)
{
    unsigned seen[OUTCOMES + 1] = { 0 };

    for (uint64_t seed = 1; seed <= SEEDS; seed++) {
        pid_t child = fork();
        int status;

        assert_true(child >= 0);
        if (!child)
            _exit(cut_at(seed));
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) >= OUTCOMES)
            fail_msg("seed %u: status %d", (unsigned)seed, status);
        seen[WEXITSTATUS(status)]++;
    }
    print_message("old image %u, none %u, new image %u\n", seen[OLD_IMAGE], seen[NO_IMAGE], seen[NEW_IMAGE]);
    assert_true(seen[OLD_IMAGE] > SEEDS / 20 && seen[NO_IMAGE] > SEEDS / 20 && seen[NEW_IMAGE] >= SEEDS / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(power_cuts) };

    memset(backing, 'b', sizeof(backing) - 1);
    weir_driver_register(&weir_driver_file);
    weir_driver_register(&weir_driver_host_device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All short histories of a small qcow2 disk (small_world.h), each with a power cut in front of every write and flush
 * of the file that its last operation and the closing make.
 *
 * Histories are all sequences of one to three of the nine operations; what the operations before the last one do has
 * been cut in the shorter ones. After a cut the medium is left three ways: as new, as old and as mixed as it can be.
 * What was flushed must be there, the metadata sound but for leaks, the snapshot as it was; from the mixed medium a
 * second life goes on, and repairs nothing away. Histories that end in good order leave no leak at all.
 *
 *   sim_short [--jobs N] [--config N] [--history N]
 */
#include "small_world.h"

#include "base/alloc.h"
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH_MAX 3u
#define JOBS_MAX 64u
#define SEED 7u

enum left { LEFT_NEW, LEFT_OLD, LEFT_MIXED, LEFTS };
static const char *const left_names[LEFTS] = { "new", "old", "mixed" };

struct counts {
    uint64_t histories, cuts, leaky;
};
static WEIR_SIM_KEPT struct counts *sum; /* shared with the children */

/* What is run now; told when it fails. */
static WEIR_SIM_KEPT struct {
    const struct small_config *config;
    enum small_op ops[LENGTH_MAX];
    unsigned length;
    uint64_t at;
    enum left left;
    uint64_t first, last; /* requests that the last operation and the closing make */
} run;

_Noreturn void qcow2_medium_fail(const char *format, ...)
{
    va_list args;

    (void)printf("FAILED: sim_short: %s:", run.config->name);
    for (unsigned i = 0; i < run.length; i++)
        (void)printf(" %s", small_op_names[run.ops[i]]);
    (void)printf(", cut in front of request %llu of %llu, medium %s: ", (unsigned long long)run.at,
                 (unsigned long long)run.last, left_names[run.left]);
    va_start(args, format);
    (void)vprintf(format, args);
    va_end(args);
    (void)printf("\n");
    (void)fflush(stdout);
    _exit(3);
}

/* ---- one history ---- */

static weir_co_fn void must(int ret, const char *what)
{
    if (ret)
        qcow2_medium_fail("%s: %s", what, strerror(-ret));
}

static weir_co_fn void play(void)
{
    must(small_open(), "open");
    for (unsigned i = 0; i < run.length; i++) {
        if (i == run.length - 1)
            run.first = nth_io.count;
        must(small_do(run.ops[i], i), small_op_names[run.ops[i]]);
    }
    must(small_read_all(), "read");
    small_close();
    run.last = nth_io.count;
}

/* A second life: the disk is read, used, flushed. */
static weir_co_fn void go_on(void)
{
    must(small_open(), "open after the cut");
    must(small_read_all(), "read after the cut");
    must(small_do(SMALL_OVERWRITE, LENGTH_MAX), "write after the cut");
    must(small_do(SMALL_SHARED, LENGTH_MAX + 1), "write after the cut");
    must(small_do(SMALL_FLUSH, LENGTH_MAX + 2), "flush after the cut");
    must(small_read_all(), "read at the end");
    small_close();
}

static void count_io(enum nth_io_what what, uint64_t at)
{
    nth_io = (struct nth_io){
        .ops = WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | WEIR_OP_BIT(WEIR_OP_DISCARD) |
               WEIR_OP_BIT(WEIR_OP_FLUSH),
        .what = what,
        .at = at,
    };
}

/* Leaves the medium at the oldest that a cut may leave. */
static void cut_old(void)
{
    uint64_t size = weir_sim_file_size(small_medium.file);
    uint8_t *bytes = weir_alloc(size);

    weir_sim_file_peek_durable(small_medium.file, 0, bytes, size);
    weir_sim_power_cut();
    weir_sim_file_put(small_medium.file, 0, bytes, size);
    free(bytes);
}

static void cut(void)
{
    if (run.left == LEFT_NEW)
        weir_sim_kill();
    else if (run.left == LEFT_OLD)
        cut_old();
    else
        weir_sim_power_cut();
}

static void judge_cut(void)
{
    __atomic_fetch_add(&sum->cuts, 1, __ATOMIC_SEQ_CST);
    small_check(true, UINT32_MAX);
    __atomic_fetch_add(&sum->leaky, small_leaks() > 0, __ATOMIC_SEQ_CST);
    if (run.left != LEFT_MIXED)
        return;
    small_settle();
    count_io(NTH_IO_COUNT, 0);
    if (!small_life(go_on))
        qcow2_medium_fail("the second life did not end");
    small_check(false, small_leaks());
}

static void play_cut(uint64_t at, enum left left)
{
    run.at = at;
    run.left = left;
    small_begin(run.config, SEED + at);
    count_io(NTH_IO_STOP, at);
    if (small_life(play))
        qcow2_medium_fail("the history ended before its cut");
    cut();
    judge_cut();
    small_end();
}

static void play_history(void)
{
    uint64_t first, last;

    small_begin(run.config, SEED);
    count_io(NTH_IO_COUNT, 0);
    if (!small_life(play))
        qcow2_medium_fail("the history did not end");
    small_check(false, 0);
    first = run.first;
    last = run.last;
    /* All static variables as they were: as after a cut. */
    weir_sim_power_cut();
    small_end();
    for (uint64_t at = first + 1; at <= last; at++) {
        for (unsigned left = 0; left < LEFTS; left++)
            play_cut(at, (enum left)left);
    }
    __atomic_fetch_add(&sum->histories, 1, __ATOMIC_SEQ_CST);
}

/* ---- all of them ---- */

/* Number 0 .. 8: one operation; then two, then three. */
static bool unpack(uint64_t number)
{
    uint64_t count = SMALL_OPS;

    for (run.length = 1; run.length <= LENGTH_MAX; run.length++) {
        if (number < count) {
            for (unsigned i = 0; i < run.length; i++, number /= SMALL_OPS)
                run.ops[i] = (enum small_op)(number % SMALL_OPS);
            return true;
        }
        number -= count;
        count *= SMALL_OPS;
    }
    return false;
}

/* One child for each history: a power cut abandons memory. */
static void reap(unsigned *running, uint64_t *failed)
{
    int status;

    if (wait(&status) < 0)
        exit(4);
    (*running)--;
    if (WIFSIGNALED(status))
        (void)printf("FAILED: sim_short: %s\n", strsignal(WTERMSIG(status)));
    *failed += status != 0;
}

static void start(unsigned config, uint64_t number)
{
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    if (pid < 0)
        exit(4);
    if (pid)
        return;
    run.config = &small_configs[config];
    (void)alarm(300);
    (void)unpack(number);
    play_history();
    _exit(0);
}

static uint64_t run_all(unsigned jobs)
{
    uint64_t failed = 0;
    unsigned running = 0;

    for (unsigned config = 0; config < small_config_count; config++) {
        for (uint64_t number = 0; unpack(number) && failed < 10; number++) {
            while (running >= jobs)
                reap(&running, &failed);
            start(config, number);
            running++;
        }
    }
    while (running)
        reap(&running, &failed);
    return failed;
}

int main(int argc, char **argv)
{
    static const struct option names[] = { { "jobs", 1, NULL, 'j' },
                                           { "config", 1, NULL, 'c' },
                                           { "history", 1, NULL, 'h' },
                                           { NULL, 0, NULL, 0 } };
    unsigned jobs = 2, one = 0, running = 1;
    uint64_t history = UINT64_MAX, failed = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        if (c == 'j')
            jobs = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'c')
            one = (unsigned)strtoul(optarg, NULL, 10);
        else if (c == 'h')
            history = strtoull(optarg, NULL, 10);
        else
            return 2;
    }
    if (!jobs || jobs > JOBS_MAX || one >= small_config_count || !weir_sim_statics_save())
        return 2;
    sum = mmap(NULL, sizeof(*sum), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (sum == MAP_FAILED)
        return 4;
    if (history != UINT64_MAX) {
        start(one, history);
        reap(&running, &failed);
    } else {
        failed = run_all(jobs);
    }
    (void)printf("%llu histories, %llu power cuts, %llu of them left leaks\n",
                 (unsigned long long)sum->histories, (unsigned long long)sum->cuts,
                 (unsigned long long)sum->leaky);
    (void)printf("%llu passed, %llu failed\n", (unsigned long long)sum->histories,
                 (unsigned long long)failed);
    return failed != 0;
}

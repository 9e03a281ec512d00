/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The 1st, 2nd, 3rd ... request to the file fails, once or from then on, in each of the operations of a small qcow2
 * disk (small_world.h), in opening, flushing and closing it; until the one that fails is not reached any more.
 *
 * An operation may fail and change what it was about to change, no more. After a failure that was one, the disk goes
 * on as if nothing had happened: it is written, flushed, read. Where all fails, it still closes. What is on the medium
 * afterwards is sound but for leaks, and a new life goes on from there.
 */
#include "small_world.h"

#include "base/alloc.h"
#include "sys/sim/heap.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEED 11u
#define REQUESTS_MAX 500u

static struct {
    const struct small_config *config;
    enum small_op before, op;
    uint64_t at;
    enum nth_io_what what;
    bool opened, closing; /* closing: the failure came no earlier */
} run;

_Noreturn void qcow2_medium_fail(const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "%s: %s, then %s, request %llu fails%s: ", run.config->name,
                  small_op_names[run.before], small_op_names[run.op], (unsigned long long)run.at,
                  run.what == NTH_IO_FAIL_EVER ? " for good" : "");
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, "\n");
    exit(1);
}

static void must(int ret, const char *what)
{
    if (ret)
        qcow2_medium_fail("%s: %s", what, strerror(-ret));
}

/* Only what was failed may fail. */
static void may_fail(int ret, const char *what)
{
    if (ret && !nth_io.hit)
        qcow2_medium_fail("%s: %s, though no request has failed", what, strerror(-ret));
    if (ret && ret != -EIO)
        qcow2_medium_fail("%s: %s", what, strerror(-ret));
}

static weir_co_fn void play(void)
{
    int ret = small_open();

    may_fail(ret, "open");
    run.opened = !ret;
    if (ret)
        return;
    may_fail(small_do(run.before, 0), small_op_names[run.before]);
    may_fail(small_do(run.op, 1), small_op_names[run.op]);
    may_fail(small_do(SMALL_FLUSH, 2), "flush");
    if (run.what == NTH_IO_FAIL && nth_io.hit) {
        must(small_read_all(), "read after the failure");
        must(small_do(SMALL_ALLOCATE, 3), "write after the failure");
        must(small_do(SMALL_SHARED, 4), "write after the failure");
        must(small_do(SMALL_FLUSH, 5), "flush after the failure");
        must(small_read_all(), "read at the end");
    }
    run.closing = !nth_io.hit;
    small_close();
}

static weir_co_fn void go_on(void)
{
    must(small_open(), "open in the second life");
    must(small_read_all(), "read in the second life");
    must(small_do(SMALL_OVERWRITE, 6), "write in the second life");
    must(small_do(SMALL_STORED, 7), "write in the second life");
    must(small_do(SMALL_FLUSH, 8), "flush in the second life");
    must(small_read_all(), "read at the end of the second life");
    small_close();
}

static void count_io(enum nth_io_what what, uint64_t at)
{
    nth_io = (struct nth_io){
        .ops = (1u << WEIR_OP_COUNT) - 1 - WEIR_OP_BIT(WEIR_OP_STATUS),
        .what = what,
        .at = at,
    };
}

/* Whether the request that was to fail was reached. */
static bool play_one(uint64_t at)
{
    uint64_t leaks;

    run.at = at;
    weir_sim_heap_begin();
    small_begin(run.config, SEED + at);
    count_io(run.what, at);
    if (!small_life(play))
        qcow2_medium_fail("it did not end");
    if (!nth_io.hit) {
        small_check(false, 0);
    } else {
        /* What the closing could not write is lost; else all is there. */
        small_check(run.what == NTH_IO_FAIL_EVER || !run.opened || run.closing, UINT32_MAX);
        leaks = small_leaks();
        small_settle();
        count_io(NTH_IO_COUNT, 0);
        if (!small_life(go_on))
            qcow2_medium_fail("the second life did not end");
        small_check(false, leaks);
        nth_io.hit = true;
    }
    small_end();
    if (weir_sim_heap_live())
        qcow2_medium_fail("%zu allocations are left", weir_sim_heap_live());
    return nth_io.hit;
}

static uint64_t play_all(void)
{
    uint64_t at = 1;

    while (play_one(at)) {
        if (++at > REQUESTS_MAX)
            qcow2_medium_fail("more requests than there can be");
    }
    return at - 1;
}

int main(void)
{
    static const enum nth_io_what whats[] = { NTH_IO_FAIL, NTH_IO_FAIL_EVER };
    uint64_t failures = 0;

    for (unsigned config = 0; config < small_config_count; config++) {
        for (unsigned op = 0; op < SMALL_OPS; op++) {
            for (unsigned i = 0; i < WEIR_ARRAY_SIZE(whats); i++) {
                run.config = &small_configs[config];
                run.before = op == SMALL_SHRINK     ? SMALL_GROW
                             : op == SMALL_ALLOCATE ? SMALL_SHARED
                                                    : SMALL_ALLOCATE;
                run.op = (enum small_op)op;
                run.what = whats[i];
                failures += play_all();
            }
        }
    }
    (void)printf("%llu requests have failed\n", (unsigned long long)failures);
    return failures < 1000;
}

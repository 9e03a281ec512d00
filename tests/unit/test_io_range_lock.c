/* SPDX-License-Identifier: BSD-2-Clause */
/* The range-lock service: who waits for whom, in which order, and that nobody is ever let in wrongly. */
#include "io/range_lock.h"
#include "base/alloc.h"
#include "unit.h"
#include "world.h"
#include <errno.h>
#include <string.h>

static struct weir_range_table *table;
static char order[64]; /* who got its lock, in order */

struct claim {
    char name;
    uint64_t offset, length;
    bool exclusive;
    struct weir_range_lock lock;
    bool granted;
};

static weir_co_fn void run_claim(void *arg)
{
    struct claim *claim = arg;
    char name[2] = { claim->name, '\0' };

    weir_range_lock(table, &claim->lock, claim->offset, claim->length, claim->exclusive);
    claim->granted = true;
    strcat(order, name);
}

/* Asks for the lock in a coroutine of its own; returns whether it came at once. */
static bool ask(struct claim *claim)
{
    weir_co_run(run_claim, claim);
    return claim->granted;
}

static weir_co_fn void end(struct claim *claim)
{
    WEIR_ASSERT(claim->granted);
    weir_range_unlock(&claim->lock);
    claim->granted = false;
    for (unsigned i = 0; i < 16; i++)
        weir_co_pause();
}

static void begin(void)
{
    table = weir_range_table_new();
    order[0] = '\0';
}

static void finish(const char *expected)
{
    WEIR_ASSERT(!strcmp(order, expected));
    WEIR_ASSERT(weir_range_table_empty(table));
    weir_range_table_free(table);
}

#define RANGE_TEST(name)                \
    static void name##_body(void *arg); \
    static void name(void **state)      \
    {                                   \
        run_world(name##_body, NULL);   \
    }                                   \
    static void name##_body(void *arg)

weir_co_fn RANGE_TEST(shared_and_exclusive)
{
    struct claim a = { 'a', 0, 10, false, { 0 }, false }, b = { 'b', 5, 10, false, { 0 }, false };
    struct claim x = { 'x', 9, 1, true, { 0 }, false }, y = { 'y', 15, 5, true, { 0 }, false };
    struct claim c = { 'c', 20, 5, false, { 0 }, false };

    begin();
    WEIR_ASSERT(ask(&a) && ask(&b) && ask(&c) && !ask(&x));
    WEIR_ASSERT(ask(&y)); /* it touches b and c and does not overlap them */
    end(&a);
    WEIR_ASSERT(!x.granted);
    end(&b);
    WEIR_ASSERT(x.granted);
    end(&x);
    end(&y);
    end(&c);
    finish("abcyx");
}

/* A pin that comes after a waiting exclusive lock waits behind it, though it could share with who holds now. */
weir_co_fn RANGE_TEST(nobody_overtakes)
{
    struct claim r = { 'r', 0, 100, false, { 0 }, false }, w = { 'w', 50, 10, true, { 0 }, false };
    struct claim s = { 's', 55, 1, false, { 0 }, false }, far = { 'f', 200, 10, false, { 0 }, false };
    struct claim v = { 'v', 40, 12, true, { 0 }, false }, t = { 't', 58, 4, false, { 0 }, false };

    begin();
    WEIR_ASSERT(ask(&r) && !ask(&w));
    WEIR_ASSERT(!ask(&s) && !ask(&v) && !ask(&t));
    WEIR_ASSERT(ask(&far));
    end(&r);
    WEIR_ASSERT(w.granted && !s.granted && !v.granted && !t.granted);
    end(&w);
    WEIR_ASSERT(s.granted && v.granted && t.granted);
    end(&s);
    end(&t);
    end(&v);
    end(&far);
    finish("rfwsvt");
}

/* A shared lock that had to queue holds off a later exclusive one just as a pin does. */
weir_co_fn RANGE_TEST(queued_shared_counts)
{
    struct claim x = { 'x', 0, 10, true, { 0 }, false }, s = { 's', 20, 10, false, { 0 }, false };
    struct claim y = { 'y', 25, 10, true, { 0 }, false };

    begin();
    WEIR_ASSERT(ask(&x) && ask(&s) && !ask(&y));
    end(&x);
    WEIR_ASSERT(!y.granted);
    end(&s);
    WEIR_ASSERT(y.granted);
    end(&y);
    finish("xsy");
}

weir_co_fn RANGE_TEST(try_lock)
{
    struct weir_range_lock a = { 0 }, b = { 0 }, c = { 0 }, none = { 0 };
    struct claim w = { 'w', 0, 10, true, { 0 }, false };

    begin();
    weir_range_unlock(&none);
    WEIR_ASSERT(weir_range_try_lock(table, &a, 0, 10, false));
    WEIR_ASSERT(weir_range_try_lock(table, &b, 5, 10, false));
    WEIR_ASSERT(!weir_range_try_lock(table, &c, 9, 1, true));
    weir_range_unlock(&c); /* was not granted: nothing */
    WEIR_ASSERT(weir_range_try_lock(table, &c, 15, 1, true));
    weir_range_unlock(&c);
    WEIR_ASSERT(!ask(&w));
    WEIR_ASSERT(!weir_range_try_lock(table, &c, 4, 1, false)); /* would overtake w */
    weir_range_unlock(&a);
    weir_range_unlock(&b);
    while (!w.granted)
        weir_co_pause();
    WEIR_ASSERT(!weir_range_try_lock(table, &c, 0, 1, false) && !weir_range_try_lock(table, &c, 9, 1, true));
    end(&w);
    WEIR_ASSERT(weir_range_try_lock(table, &c, 0, 1, true));
    weir_range_unlock(&c);
    weir_range_unlock(&c);
    finish("w");
}

static atomic_bool stop;
static int unless_result;

static weir_co_fn void run_unless(void *arg)
{
    struct weir_range_lock *lock = arg;

    unless_result = weir_range_lock_unless(table, lock, 0, 10, true, &stop);
    strcat(order, "u");
}

/* Who stops waiting holds nothing, and those who stood behind it go on; who was not told to stop stays. */
weir_co_fn RANGE_TEST(stop_waiting)
{
    struct claim a = { 'a', 0, 5, false, { 0 }, false }, b = { 'b', 6, 2, false, { 0 }, false };
    struct claim w = { 'w', 0, 1, true, { 0 }, false };
    struct weir_range_lock lock = { 0 };

    begin();
    atomic_store(&stop, false);
    unless_result = 1;
    WEIR_ASSERT(ask(&a));
    weir_co_run(run_unless, &lock);
    WEIR_ASSERT(!ask(&b) && !ask(&w));
    weir_range_table_wake(table); /* nobody has been told anything yet */
    weir_co_sleep(1000000);
    WEIR_ASSERT(unless_result == 1 && !b.granted && !w.granted);
    atomic_store(&stop, true);
    weir_range_table_wake(table);
    while (!b.granted || unless_result == 1)
        weir_co_pause();
    WEIR_ASSERT(unless_result == -ECANCELED && !lock.table && !w.granted);
    weir_range_unlock(&lock); /* was not granted: nothing */
    end(&a);
    WEIR_ASSERT(w.granted);
    end(&w);
    end(&b);
    run_unless(&lock); /* what is free is granted, stopped or not */
    WEIR_ASSERT(!unless_result && lock.table);
    weir_range_unlock(&lock);
    WEIR_ASSERT(strchr(order, 'b') < strchr(order, 'w'));
    order[0] = '\0';
    finish("");
}

/* The whole 64 bits: the last byte there is, and nothing beyond it. */
weir_co_fn RANGE_TEST(ends_of_the_range)
{
    struct weir_range_lock a = { 0 }, b = { 0 };

    begin();
    WEIR_ASSERT(weir_range_try_lock(table, &a, 0, UINT64_MAX, true));
    WEIR_ASSERT(!weir_range_try_lock(table, &b, UINT64_MAX - 1, 1, false));
    weir_range_unlock(&a);
    WEIR_ASSERT(weir_range_try_lock(table, &b, UINT64_MAX - 1, 1, false));
    weir_range_unlock(&b);
    finish("");
}

/* ---- several loops ---- */

enum { CELLS = 32, LOOPS = 3, PER_LOOP = 8, ROUNDS = 400 };

/* Plain memory: ThreadSanitizer sees whether the locks order what is done under them. */
static struct {
    uint64_t value[CELLS];
} shared;
static atomic_uint readers[CELLS], writers[CELLS];
static atomic_uint running;
static atomic_ulong waits;

static weir_co_fn void use(uint64_t *random)
{
    struct weir_range_lock lock = { 0 };
    uint64_t r = *random = *random * 6364136223846793005ull + 1442695040888963407ull;
    unsigned first = r >> 40 & (CELLS - 1), count = 1 + (r >> 50) % 6;
    bool exclusive = (r >> 33) % 4 == 0;

    count = WEIR_MIN(count, CELLS - first);
    if (r >> 36 & 1 || !weir_range_try_lock(table, &lock, first, count, exclusive)) {
        atomic_fetch_add(&waits, 1);
        weir_range_lock(table, &lock, first, count, exclusive);
    }
    for (unsigned i = first; i < first + count; i++) {
        if (exclusive) {
            WEIR_ASSERT(!atomic_fetch_add(&writers[i], 1) && !atomic_load(&readers[i]));
            shared.value[i]++;
        } else {
            atomic_fetch_add(&readers[i], 1);
            WEIR_ASSERT(!atomic_load(&writers[i]));
            *random += shared.value[i] & 1;
        }
    }
    if (r >> 38 & 1)
        weir_co_pause();
    for (unsigned i = first; i < first + count; i++)
        atomic_fetch_sub(exclusive ? &writers[i] : &readers[i], 1);
    weir_range_unlock(&lock);
}

static weir_co_fn void worker(void *arg)
{
    uint64_t random = (uintptr_t)arg * 7919 + 1;

    for (unsigned i = 0; i < ROUNDS; i++)
        use(&random);
    atomic_fetch_sub(&running, 1);
}

static weir_co_fn void run_loops(void (*run)(void *arg) weir_co_fn, unsigned per_loop)
{
    struct weir_loop *loops[LOOPS];

    atomic_store(&running, LOOPS * per_loop);
    for (unsigned i = 0; i < LOOPS; i++)
        loops[i] = new_loop("load");
    for (unsigned i = 0; i < LOOPS * per_loop; i++)
        weir_co_start(loops[i % LOOPS], run, (void *)(uintptr_t)(i + 1));
    while (atomic_load(&running))
        weir_co_sleep(1000000);
    for (unsigned i = 0; i < LOOPS; i++)
        weir_loop_free(loops[i]);
}

weir_co_fn RANGE_TEST(load_on_several_loops)
{
    begin();
    run_loops(worker, PER_LOOP);
    WEIR_ASSERT(atomic_load(&waits));
    finish("");
}

/*
 * Coroutines that end right after they held a lock, more of them than a loop keeps: whoever lets one in must be done
 * with it by then.
 */
static weir_co_fn void once(void *arg)
{
    struct weir_range_lock lock = { 0 };

    (void)arg;
    weir_range_lock(table, &lock, 0, 1, true);
    shared.value[0]++;
    weir_range_unlock(&lock);
    atomic_fetch_sub(&running, 1);
}

weir_co_fn RANGE_TEST(short_lives)
{
    begin();
    shared.value[0] = 0;
    run_loops(once, 600);
    WEIR_ASSERT(shared.value[0] == LOOPS * 600);
    finish("");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_and_exclusive), cmocka_unit_test(nobody_overtakes),
        cmocka_unit_test(queued_shared_counts), cmocka_unit_test(try_lock),
        cmocka_unit_test(ends_of_the_range),    cmocka_unit_test(load_on_several_loops),
        cmocka_unit_test(short_lives),          cmocka_unit_test(stop_waiting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

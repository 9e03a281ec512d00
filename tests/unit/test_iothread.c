/* SPDX-License-Identifier: BSD-2-Clause */
/* Named loops: adding, finding, use, the default one, the end of all. */
#include "unit.h"
#include "co/iothread.h"
#include "sys/sys.h"
#include "world.h"
#include <stdatomic.h>
#include <string.h>

static atomic_uint ends;

static void count_end(void)
{
    WEIR_ASSERT(weir_loop_self() != weir_loop_control());
    atomic_fetch_add(&ends, 1);
}

static void assert_error(int ret, struct weir_error *error, const char *text)
{
    WEIR_ASSERT(ret < 0 && !strcmp(weir_error_text(error), text));
    weir_error_free(error);
}

static weir_co_fn void run_registry(void *arg)
{
    struct weir_error *error = NULL;
    struct weir_iothread *a, *other;
    int ret;

    WEIR_ASSERT(!weir_iothread_find("a") && !weir_iothread_next(NULL));
    WEIR_ASSERT(weir_iothread_add("a", NULL) == 0);
    WEIR_ASSERT(weir_iothread_add("b", NULL) == 0);
    ret = weir_iothread_add("a", &error);
    assert_error(ret, weir_steal(&error), "iothread \"a\" exists already");
    a = weir_iothread_ref(weir_iothread_find("a"));
    WEIR_ASSERT(!strcmp(weir_iothread_id(a), "a") && !strcmp(weir_loop_name(weir_iothread_loop(a)), "a"));
    other = weir_iothread_next(a);
    WEIR_ASSERT(other == weir_iothread_find("b") && !weir_iothread_next(other));
    ret = weir_iothread_del("a", &error);
    assert_error(ret, weir_steal(&error), "object 'a' is in use, can not be deleted");
    ret = weir_iothread_del("c", &error);
    assert_error(ret, weir_steal(&error), "object 'c' not found");
    weir_iothread_unref(a);
    WEIR_ASSERT(weir_iothread_del("a", NULL) == 0 && !weir_iothread_find("a"));
    WEIR_ASSERT(atomic_load(&ends) == 1);
    WEIR_ASSERT(weir_iothreads_done(INT64_C(10000000000)) == 0);
    WEIR_ASSERT(atomic_load(&ends) == 2 && !weir_iothread_find("b"));
}

static weir_co_fn void run_default(void *arg)
{
    struct weir_iothread *one, *two;

    WEIR_ASSERT(weir_iothread_default(&one, NULL) == 0);
    WEIR_ASSERT(weir_iothread_default(&two, NULL) == 0 && one == two);
    WEIR_ASSERT(weir_iothread_loop(one) != weir_loop_control());
    WEIR_ASSERT(!weir_iothread_find("io") && !weir_iothread_next(NULL));
    /* The name stays free for the user. */
    WEIR_ASSERT(weir_iothread_add("io", NULL) == 0);
    WEIR_ASSERT(weir_iothread_find("io") != one && weir_iothread_next(NULL) == weir_iothread_find("io"));
    weir_iothread_unref(one);
    WEIR_ASSERT(weir_iothreads_done(INT64_C(10000000000)) == 0);
    weir_iothread_unref(NULL);
}

/* A coroutine that does not end holds its loop: done() says so in time, and leaves it alone. */
struct stuck {
    struct weir_co *co;
    atomic_bool running, go;
};

static weir_co_fn void run_until_told(void *arg)
{
    struct stuck *stuck = arg;

    stuck->co = weir_co_self();
    atomic_store(&stuck->running, true);
    while (!atomic_load(&stuck->go))
        weir_co_yield();
}

static weir_co_fn void run_stuck(void *arg)
{
    struct stuck stuck = { 0 };
    int64_t start;

    WEIR_ASSERT(weir_iothread_add("a", NULL) == 0);
    weir_co_start(weir_iothread_loop(weir_iothread_find("a")), run_until_told, &stuck);
    while (!atomic_load(&stuck.running))
        weir_co_pause();
    start = weir_sys->clock_ns();
    WEIR_ASSERT(weir_iothreads_done(50000000) == 1);
    WEIR_ASSERT(weir_sys->clock_ns() - start >= 50000000);
    atomic_store(&stuck.go, true);
    weir_co_wake(stuck.co);
    while (weir_co_alive() > 1)
        weir_co_pause();
}

static void test_registry(void **state)
{
    weir_iothread_set_at_end(count_end);
    run_world(run_registry, NULL);
    weir_iothread_set_at_end(NULL);
}

static void test_default(void **state)
{
    run_world(run_default, NULL);
}

static void test_stuck(void **state)
{
    run_world(run_stuck, NULL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registry),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_stuck),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

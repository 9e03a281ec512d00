/* SPDX-License-Identifier: BSD-2-Clause */
/* throttle: buckets, groups, fairness, limits that change, drains. Times are lower bounds: load does no harm. */
#include "driver_world.h"
#include "filter/throttle_bucket.h"
#include "filter/throttle_group.h"
#include "gen/schema.h"

#define SECOND 1000000000LL
#define MS 1000000LL

/* Defaults first, then what a test sets: overriding is meant. */
#if defined(__clang__)
#pragma GCC diagnostic ignored "-Winitializer-overrides"
#else
#pragma GCC diagnostic ignored "-Woverride-init"
#endif
#define NO_LIMITS                                                                      \
    .iops_total_max_length = 1, .iops_read_max_length = 1, .iops_write_max_length = 1, \
    .bps_total_max_length = 1, .bps_read_max_length = 1, .bps_write_max_length = 1
#define LIMITS(...) (&(struct weir_q_throttle_limits){ NO_LIMITS, __VA_ARGS__ })

/* ---- buckets ---- */

static void init(struct weir_throttle_buckets *buckets, const struct weir_q_throttle_limits *limits)
{
    assert_int_equal(weir_throttle_buckets_init(buckets, limits, 0, NULL), 0);
}

/* How many requests of @length bytes pass at @now. */
static unsigned pass_at(struct weir_throttle_buckets *buckets, bool write, uint64_t length, int64_t now)
{
    unsigned count = 0;

    while (!weir_throttle_buckets_wait(buckets, write, now) && count < 100000) {
        weir_throttle_buckets_pass(buckets, write, length);
        count++;
    }
    return count;
}

static void average(void **state)
{
    struct weir_throttle_buckets buckets;

    init(&buckets, LIMITS(.iops_total = 100));
    /* A tenth of a second's worth, and the one that overfills. */
    assert_int_equal(pass_at(&buckets, false, 512, 0), 11);
    assert_int_equal(weir_throttle_buckets_wait(&buckets, true, 0) / MS, 10);
    assert_int_equal(pass_at(&buckets, true, 512, SECOND / 2), 11);
    /* The level stays at the capacity: exactly the average from here on. */
    for (int64_t now = SECOND / 2; now < 2 * SECOND; now += 10 * MS + 1)
        assert_true(pass_at(&buckets, false, 512, now + 10 * MS + 1) == 1);
}

static void directions(void **state)
{
    struct weir_throttle_buckets buckets;

    init(&buckets, LIMITS(.bps_read = 1000));
    assert_true(pass_at(&buckets, true, 1000000, 0) == 100000);
    assert_true(pass_at(&buckets, false, 100, 0) == 2);
    assert_false(weir_throttle_buckets_total(&buckets));
    assert_true(weir_throttle_buckets_limit(&buckets));
    init(&buckets, LIMITS(.bps_write = 1000, .iops_read = 10));
    assert_true(pass_at(&buckets, true, 5000, 0) == 1);
    /* (5000 - 100) / 1000 seconds */
    assert_int_equal(weir_throttle_buckets_wait(&buckets, true, 0) / MS, 4900);
    assert_true(pass_at(&buckets, false, 5000, 0) == 2);
    init(&buckets, LIMITS(.bps_total = 0));
    assert_false(weir_throttle_buckets_limit(&buckets));
}

static void test_throttle_burst(void **state)
{
    struct weir_throttle_buckets buckets;

    init(&buckets, LIMITS(.iops_total = 10, .iops_total_max = 100));
    assert_int_equal(pass_at(&buckets, false, 1, 0), 101);
    assert_int_equal(weir_throttle_buckets_wait(&buckets, false, 0) / MS, 100);
    /* Longer than a second: at the burst rate, for as long. */
    init(&buckets, LIMITS(.iops_total = 10, .iops_total_max = 100, .iops_total_max_length = 2));
    assert_int_equal(pass_at(&buckets, false, 1, 0), 11);
    assert_int_equal(weir_throttle_buckets_wait(&buckets, false, 0) / MS, 10);
    for (int64_t now = 20 * MS; now <= 1800 * MS; now += 10 * MS)
        assert_true(pass_at(&buckets, false, 1, now) <= 2);
    assert_in_range(pass_at(&buckets, false, 1, 3 * SECOND), 1, 40); /* the rest of the burst */
    (void)pass_at(&buckets, false, 1, 4 * SECOND);
    assert_in_range(pass_at(&buckets, false, 1, 5 * SECOND), 9, 11); /* the average */
}

static void test_throttle_iops_size(void **state)
{
    struct weir_throttle_buckets buckets;

    init(&buckets, LIMITS(.iops_total = 100, .iops_size = 4096));
    weir_throttle_buckets_pass(&buckets, false, 100 * 4096);
    assert_int_equal(weir_throttle_buckets_wait(&buckets, false, 0) / MS, 900);
    init(&buckets, LIMITS(.iops_total = 100, .iops_size = 4096));
    assert_int_equal(pass_at(&buckets, false, 1, 0), 11);
}

static void refuse(const struct weir_q_throttle_limits *limits, const char *text)
{
    struct weir_throttle_buckets buckets;
    WEIR_AUTO_ERROR err = NULL;

    assert_true(weir_throttle_buckets_init(&buckets, limits, 0, &err) == -EINVAL);
    assert_string_equal(weir_error_text(err), text);
}

static void wrong_limits(void **state)
{
    refuse(LIMITS(.iops_total = 5, .iops_read = 3),
           "bps/iops/max total values and read/write values cannot be used at the same time");
    refuse(LIMITS(.bps_total = 5, .bps_write = 3),
           "bps/iops/max total values and read/write values cannot be used at the same time");
    refuse(LIMITS(.iops_total_max = 5), "bps_max/iops_max require corresponding bps/iops values");
    refuse(LIMITS(.iops_total = 5, .iops_total_max = 3), "bps_max/iops_max cannot be lower than bps/iops");
    refuse(LIMITS(.iops_total = 5, .iops_total_max_length = 3), "burst length set without burst rate");
    refuse(LIMITS(.iops_size = 4), "iops size requires an iops value to be set");
    refuse(LIMITS(.iops_total = 2000000000000000),
           "bps/iops/max values must be within [0, 1000000000000000]");
    refuse(LIMITS(.iops_total = -1), "bps/iops/max values must be within [0, 1000000000000000]");
    refuse(LIMITS(.bps_read = 10, .bps_read_max = 200000000000000, .bps_read_max_length = 2000),
           "burst length too high for this burst rate");
    refuse(&(struct weir_q_throttle_limits){ .iops_total = 5,
                                             .iops_total_max = 30,
                                             .bps_read_max_length = 1,
                                             .bps_write_max_length = 1,
                                             .bps_total_max_length = 1 },
           "the burst length cannot be 0");
}

/* ---- nodes ---- */

static struct weir_throttle_group *group_new(const struct weir_q_throttle_limits *limits)
{
    WEIR_ASSERT(!weir_throttle_group_new("g", limits, NULL));
    return weir_throttle_group_find("g");
}

static void group_del(void)
{
    WEIR_ASSERT(!weir_throttle_group_del(weir_throttle_group_find("g"), NULL));
}

static weir_co_fn struct weir_edge *add_node(const char *name)
{
    return user(add("{'driver':'throttle','node-name':'%s','throttle-group':'g',"
                    "'file':{'driver':'null-co','read-zeroes':true}}",
                    name),
                R | W, ALL);
}

/* Coroutines that write once each; the order in which they end is kept. */
#define WRITERS_MAX 64
static struct weir_edge *ended[WRITERS_MAX];
static atomic_uint ended_count;

struct writer {
    struct weir_edge *edge;
    struct weir_loop *loop; /* NULL: stay */
    unsigned times;
};

static weir_co_fn void writer_run(void *arg)
{
    struct writer *writer = arg;
    char buffer[512] = { 0 };

    if (writer->loop)
        weir_co_move(writer->loop);
    for (unsigned i = 0; i < writer->times; i++) {
        WEIR_ASSERT(!io(writer->edge, WEIR_OP_WRITE, 0, sizeof(buffer), buffer, 0));
        ended[atomic_fetch_add(&ended_count, 1) % WRITERS_MAX] = writer->edge;
    }
}

static weir_co_fn void start(struct writer *writers, unsigned count)
{
    atomic_store(&ended_count, 0);
    for (unsigned i = 0; i < count; i++)
        weir_co_start(weir_loop_control(), writer_run, &writers[i]);
}

static weir_co_fn void wait_ended(unsigned count)
{
    while (atomic_load(&ended_count) < count)
        weir_co_pause();
}

weir_co_fn DRIVER_TEST(test_throttle)
{
    struct writer writer = { .times = 41 };
    struct weir_edge *edge;
    int64_t began;

    (void)group_new(LIMITS(.iops_total = 200));
    writer.edge = edge = add_node("t");
    began = weir_sys->clock_ns();
    start(&writer, 1);
    wait_ended(41);
    /* 21 at once, 20 at 5 ms each. */
    WEIR_ASSERT(weir_sys->clock_ns() - began >= 95 * MS && weir_sys->clock_ns() - began < 5 * SECOND);
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    leave(edge);
    del("t");
    group_del();
}

/* One member has many requests in the queue, the other few: they take turns. */
weir_co_fn DRIVER_TEST(members_take_turns)
{
    struct writer writers[34];
    struct weir_edge *greedy, *modest;
    unsigned last = 0;

    (void)group_new(LIMITS(.iops_write = 200));
    greedy = add_node("a");
    modest = add_node("b");
    for (unsigned i = 0; i < 34; i++)
        writers[i] = (struct writer){ .edge = i < 30 ? greedy : modest, .times = 1 };
    /* Fill the bucket, so that all have to wait. */
    for (unsigned i = 0; i < 21; i++)
        fill(greedy, 0, 512, 1);
    start(writers, 34);
    wait_ended(34);
    for (unsigned i = 0; i < 34; i++)
        last = ended[i] == modest ? i : last;
    WEIR_ASSERT(last <=
                14); /* four of them, each after one of the other's, and what leaked before the start */
    leave(greedy);
    leave(modest);
    del("a");
    del("b");
    group_del();
}

weir_co_fn DRIVER_TEST(test_throttle_group_shared)
{
    struct weir_loop *loop = new_loop("other");
    struct writer writers[8];
    struct weir_edge *edges[2];
    unsigned mine = 0;
    int64_t began;

    (void)group_new(LIMITS(.iops_total = 400));
    edges[0] = add_node("a");
    edges[1] = add_node("b");
    began = weir_sys->clock_ns();
    for (unsigned i = 0; i < 41; i++)
        fill(edges[0], 0, 512, 1);
    for (unsigned i = 0; i < 8; i++)
        writers[i] = (struct writer){ .edge = edges[i % 2], .times = 8, .loop = i % 2 ? loop : NULL };
    start(writers, 8);
    wait_ended(64);
    WEIR_ASSERT(weir_sys->clock_ns() - began >= (41 + 64 - 41) * SECOND / 400);
    for (unsigned i = 0; i < 32; i++)
        mine += ended[i] == edges[0];
    WEIR_ASSERT(mine >= 8 && mine <= 24);
    leave(edges[0]);
    leave(edges[1]);
    del("a");
    del("b");
    weir_loop_free(loop);
    group_del();
}

/* Who waits for an hour goes on when the limit goes up, or away. */
weir_co_fn DRIVER_TEST(limits_change)
{
    struct weir_throttle_group *group = group_new(LIMITS(.iops_total = 1, .bps_read = 1));
    struct writer writers[4];
    struct weir_edge *edge = add_node("t");
    struct weir_q_throttle_limits now;
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, 0, 512, NULL, 0, 0);

    for (unsigned i = 0; i < 4; i++)
        writers[i] = (struct writer){ .edge = edge, .times = 1 };
    WEIR_ASSERT(!weir_throttle_group_set_limits(group, LIMITS(.bps_write = 1), NULL));
    start(writers, 4);
    wait_ended(1); /* the one that overfills */
    WEIR_ASSERT(!weir_throttle_group_set_limits(group, LIMITS(.bps_total = 512000), NULL));
    wait_ended(4);
    weir_throttle_group_limits(group, &now);
    WEIR_ASSERT(now.bps_total == 512000 && !now.bps_write && now.has_iops_size &&
                now.bps_total_max_length == 1);
    WEIR_ASSERT(weir_throttle_group_set_limits(group, LIMITS(.bps_total = 1, .bps_read = 1), NULL) ==
                -EINVAL);

    WEIR_ASSERT(!weir_throttle_group_set_limits(group, LIMITS(.bps_write = 1), NULL));
    start(writers, 4);
    wait_ended(1);
    WEIR_ASSERT(weir_root_try(edge, &request) == -EAGAIN);
    WEIR_ASSERT(!weir_throttle_group_set_limits(group, LIMITS(.bps_total = 0), NULL));
    wait_ended(4);
    WEIR_ASSERT(!weir_root_try(edge, &request));
    leave(edge);
    del("t");
    group_del();
}

/* A node of a group without limits is not in the way; the first limits reach it while it is in use. */
weir_co_fn DRIVER_TEST(first_limits)
{
    struct weir_throttle_group *group = group_new(NULL);
    struct writer writer = { .times = 31 };
    struct weir_edge *edge = add_node("t");
    int64_t began;

    WEIR_ASSERT(!atomic_load(&edge->node->cares) && holds(edge, 0, 4096, 0));
    WEIR_ASSERT(!weir_throttle_group_set_limits(group, LIMITS(.iops_write = 100), NULL));
    WEIR_ASSERT(atomic_load(&edge->node->cares) & WEIR_OP_BIT(WEIR_OP_WRITE));
    writer.edge = edge;
    began = weir_sys->clock_ns();
    start(&writer, 1);
    wait_ended(31);
    WEIR_ASSERT(weir_sys->clock_ns() - began >= 195 * MS);
    leave(edge);
    del("t");
    group_del();
}

weir_co_fn DRIVER_TEST(drain_releases)
{
    struct weir_edge *edge, *other;
    struct writer writers[5];
    struct weir_drain drain;

    (void)group_new(LIMITS(.bps_write = 1));
    edge = add_node("a");
    other = add_node("b");
    for (unsigned i = 0; i < 5; i++)
        writers[i] = (struct writer){ .edge = i < 4 ? edge : other, .times = 1 };
    fill(edge, 0, 512, 1);
    start(writers, 5);
    weir_co_pause();
    WEIR_ASSERT(!atomic_load(&ended_count));
    weir_graph_lock();
    WEIR_ASSERT(!weir_drain_begin(&drain, &edge->node, 1, WEIR_DRAIN_LIMIT_NS, NULL));
    WEIR_ASSERT(atomic_load(&ended_count) == 4);
    weir_drain_end(&drain);
    weir_graph_unlock();
    weir_co_pause();
    WEIR_ASSERT(atomic_load(&ended_count) == 4);
    WEIR_ASSERT(!weir_throttle_group_set_limits(weir_throttle_group_find("g"), LIMITS(.bps_write = 0), NULL));
    wait_ended(5);
    leave(edge);
    leave(other);
    del("a");
    del("b");
    group_del();
}

weir_co_fn DRIVER_TEST(groups)
{
    struct weir_error *err = NULL;
    struct weir_edge *edge;

    add("{'driver':'null-co','node-name':'n'}");
    add_fails("Throttle group 'g' does not exist",
              "{'driver':'throttle','node-name':'t','throttle-group':'g','file':'n'}");
    (void)group_new(LIMITS(.iops_total = 100));
    WEIR_ASSERT(weir_throttle_group_new("g", NULL, NULL) == -EEXIST);
    edge = add_node("t");
    WEIR_ASSERT(weir_throttle_group_del(weir_throttle_group_find("g"), &err) == -EBUSY);
    WEIR_ASSERT(!strcmp(weir_error_text(err), "object 'g' is in use, can not be deleted"));
    weir_error_free(err);
    leave(edge);
    del("t");
    group_del();
    WEIR_ASSERT(!weir_throttle_group_find("g"));
    del("n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(average),
        cmocka_unit_test(directions),
        cmocka_unit_test(test_throttle_burst),
        cmocka_unit_test(test_throttle_iops_size),
        cmocka_unit_test(wrong_limits),
        cmocka_unit_test(test_throttle),
        cmocka_unit_test(members_take_turns),
        cmocka_unit_test(test_throttle_group_shared),
        cmocka_unit_test(limits_change),
        cmocka_unit_test(first_limits),
        cmocka_unit_test(drain_releases),
        cmocka_unit_test(groups),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

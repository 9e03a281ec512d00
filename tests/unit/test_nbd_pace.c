/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * When a connection rests before it looks for requests: only where that brings many, and hardly ever elsewhere.
 */
#include "unit.h"
#include "export/nbd/pace.h"

/* Asks @questions times; each rest brings @each requests, each wait one. Returns how many rests there were. */
static unsigned ask(struct weir_nbd_pace *pace, uint64_t *requests, unsigned questions, unsigned each)
{
    unsigned rests = 0;

    while (questions--) {
        bool rest = weir_nbd_pace_rests(pace, *requests);

        rests += rest;
        *requests += rest ? each : 1;
    }
    return rests;
}

static void test_one_request_at_a_time(void **state)
{
    struct weir_nbd_pace pace = { 0 };
    uint64_t requests = 0;

    (void)state;
    assert_int_equal(ask(&pace, &requests, 60, 1), 0); /* the first requests are not delayed */
    assert_true(ask(&pace, &requests, 100000, 1) < 40);
    assert_true(ask(&pace, &requests, 1000000, 1) < 260); /* one in thousands, for good */
}

static void test_many_in_flight(void **state)
{
    struct weir_nbd_pace pace = { 0 };
    uint64_t requests = 0;

    (void)state;
    assert_true(ask(&pace, &requests, 1000, 8) > 900);
    /* A client that stops sending many is noticed within a few requests ... */
    assert_true(ask(&pace, &requests, 1000, 1) < 30);
    /* ... and one that begins again within some thousands. */
    (void)ask(&pace, &requests, 9000, 8);
    assert_int_equal(ask(&pace, &requests, 100, 8), 100);
}

static void test_the_threshold(void **state)
{
    struct weir_nbd_pace pace = { 0 };
    uint64_t requests = 0;

    (void)state;
    assert_true(ask(&pace, &requests, 1000, WEIR_NBD_REST_GAIN) > 900);
    pace = (struct weir_nbd_pace){ 0 };
    assert_true(ask(&pace, &requests, 1000, WEIR_NBD_REST_GAIN - 1) < 10);
}

/* A client that does not read what it is sent is not waited for again, whatever it has sent by then. */
static void test_a_client_that_does_not_read(void **state)
{
    struct weir_nbd_pace pace = { 0 };
    uint64_t requests = 0;

    (void)state;
    assert_true(ask(&pace, &requests, 1000, 8) > 900);
    assert_true(weir_nbd_pace_rests(&pace, requests));
    weir_nbd_pace_fails(&pace);
    assert_int_equal(ask(&pace, &requests, 4096, 8), 0);
    assert_true(ask(&pace, &requests, 100, 8) > 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_request_at_a_time),
        cmocka_unit_test(test_many_in_flight),
        cmocka_unit_test(test_the_threshold),
        cmocka_unit_test(test_a_client_that_does_not_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

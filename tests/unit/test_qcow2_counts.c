/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers for a window of clusters: they widen on demand, and stop at the highest. */
#include "unit.h"
#include "format/qcow2/check_counts.h"
#include "base/alloc.h"

#define FIRST (3 * QCOW2_COUNTS_WINDOW)

static int make(void **state)
{
    *state = weir_new(struct qcow2_counts);
    qcow2_counts_reset(*state, FIRST);
    return 0;
}

static int drop(void **state)
{
    qcow2_counts_reset(*state, 0);
    free(*state);
    return 0;
}

static void window(void **state)
{
    struct qcow2_counts *counts = *state;

    assert_false(qcow2_counts_has(counts, FIRST - 1));
    assert_true(qcow2_counts_has(counts, FIRST));
    assert_true(qcow2_counts_has(counts, FIRST + QCOW2_COUNTS_WINDOW - 1));
    assert_false(qcow2_counts_has(counts, FIRST + QCOW2_COUNTS_WINDOW));
    assert_true(qcow2_counts_add(counts, FIRST + QCOW2_COUNTS_WINDOW - 1, 3));
    assert_int_equal(qcow2_counts_get(counts, FIRST + QCOW2_COUNTS_WINDOW - 1), 3);
    assert_true(qcow2_counts_touched(counts, FIRST + QCOW2_COUNTS_WINDOW - QCOW2_COUNTS_PAGE));
    assert_false(qcow2_counts_touched(counts, FIRST + QCOW2_COUNTS_WINDOW - QCOW2_COUNTS_PAGE - 1));
    qcow2_counts_reset(counts, FIRST);
    assert_int_equal(qcow2_counts_get(counts, FIRST + QCOW2_COUNTS_WINDOW - 1), 0);
}

/* What stands beside is kept at every width. */
static void widths(void **state)
{
    static const uint32_t steps[] = {
        200, 55, 1, 65279, 1, 1000000, QCOW2_COUNT_MANY - 1065536, 1, QCOW2_COUNT_MANY
    };
    struct qcow2_counts *counts = *state;
    uint64_t sum = 0;

    assert_true(qcow2_counts_set(counts, FIRST + 6, 255));
    assert_true(qcow2_counts_set(counts, FIRST + 8, 7));
    qcow2_counts_set_kind(counts, FIRST + 8, 2);
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(steps); i++) {
        assert_true(qcow2_counts_add(counts, FIRST + 7, steps[i]));
        sum = WEIR_MIN(sum + steps[i], (uint64_t)QCOW2_COUNT_MANY);
        assert_int_equal(qcow2_counts_get(counts, FIRST + 7), sum);
        assert_int_equal(qcow2_counts_get(counts, FIRST + 6), 255);
        assert_int_equal(qcow2_counts_get(counts, FIRST + 8), 7);
        assert_int_equal(qcow2_counts_kind(counts, FIRST + 8), 2);
    }
    assert_int_equal(sum, QCOW2_COUNT_MANY);
    assert_true(qcow2_counts_set(counts, FIRST + 7, 0));
    assert_int_equal(qcow2_counts_get(counts, FIRST + 7), 0);
}

static void kinds(void **state)
{
    struct qcow2_counts *counts = *state;

    assert_int_equal(qcow2_counts_kind(counts, FIRST), 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_true(qcow2_counts_add(counts, FIRST + i, 1));
        qcow2_counts_set_kind(counts, FIRST + i, i % 4);
    }
    qcow2_counts_set_kind(counts, FIRST + 3, 1);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(qcow2_counts_kind(counts, FIRST + i), i == 3 ? 1 : i % 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(window, make, drop),
        cmocka_unit_test_setup_teardown(widths, make, drop),
        cmocka_unit_test_setup_teardown(kinds, make, drop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

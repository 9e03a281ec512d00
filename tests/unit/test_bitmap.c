/* SPDX-License-Identifier: BSD-2-Clause */
/* The bitmap against a plain array of bools, in sizes around the borders of its levels. */
#include "base/bitmap.h"
#include "base/alloc.h"
#include "unit.h"
#include <pthread.h>
#include <string.h>

#define GRANULARITY 512
#define GRANULES_MAX (64 * 64 * 3)

struct model {
    struct weir_bitmap *bitmap;
    uint64_t size, granules;
    bool dirty[GRANULES_MAX];
    uint64_t random;
};

static uint64_t draw(struct model *model, uint64_t n)
{
    model->random ^= model->random << 13;
    model->random ^= model->random >> 7;
    model->random ^= model->random << 17;
    return model->random % n;
}

static uint64_t granule_end(const struct model *model, uint64_t granule)
{
    return WEIR_MIN((granule + 1) * GRANULARITY, model->size);
}

static void check_count(const struct model *model)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < model->granules; i++)
        if (model->dirty[i])
            count += granule_end(model, i) - i * GRANULARITY;
    assert_int_equal(weir_bitmap_count(model->bitmap), count);
}

static void check_next(const struct model *model, uint64_t offset, uint64_t most)
{
    uint64_t first = offset / GRANULARITY, end, found = 77, length = 77;

    while (first < model->granules && !model->dirty[first])
        first++;
    if (first >= model->granules) {
        assert_false(weir_bitmap_next_area(model->bitmap, offset, most * GRANULARITY, &found, &length));
        assert_int_equal(found, 77);
        assert_int_equal(length, 77);
        return;
    }
    for (end = first; end < model->granules && end - first < most && model->dirty[end]; end++)
        continue;
    assert_true(weir_bitmap_next_area(model->bitmap, offset, most * GRANULARITY, &found, &length));
    assert_int_equal(found, first * GRANULARITY);
    assert_int_equal(found + length, granule_end(model, end - 1));
}

static void check_any(const struct model *model, uint64_t offset, uint64_t length)
{
    bool any = false;

    for (uint64_t i = offset / GRANULARITY; length && i <= (offset + length - 1) / GRANULARITY; i++)
        any |= model->dirty[i];
    assert_int_equal(weir_bitmap_any(model->bitmap, offset, length), any);
    if (offset < model->size)
        assert_int_equal(weir_bitmap_get(model->bitmap, offset), model->dirty[offset / GRANULARITY]);
}

static void change(struct model *model, uint64_t offset, uint64_t length, bool dirty)
{
    if (dirty)
        weir_bitmap_set(model->bitmap, offset, length);
    else
        weir_bitmap_clear_inner(model->bitmap, offset, length);
    for (uint64_t i = 0; length && i < model->granules; i++) {
        uint64_t begin = i * GRANULARITY, end = granule_end(model, i);

        if (dirty && begin < offset + length && end > offset)
            model->dirty[i] = true;
        if (!dirty && begin >= offset && end <= offset + length)
            model->dirty[i] = false;
    }
}

static void compare_size(uint64_t size, uint64_t seed)
{
    struct model *model = weir_new(struct model);

    model->bitmap = weir_bitmap_new(size, GRANULARITY);
    model->size = size;
    model->granules = (size + GRANULARITY - 1) / GRANULARITY;
    model->random = seed;
    assert_in_range(model->granules, 1, GRANULES_MAX);
    assert_int_equal(weir_bitmap_size(model->bitmap), size);
    assert_int_equal(weir_bitmap_granularity(model->bitmap), GRANULARITY);
    for (unsigned i = 0; i < 400; i++) {
        uint64_t offset = draw(model, size + 1);
        /* Mostly short, sometimes up to the end: both ways of leaving words partly set. */
        uint64_t length = draw(model, 4)   ? draw(model, WEIR_MIN(size - offset, UINT64_C(3000)) + 1)
                          : draw(model, 2) ? size - offset
                                           : draw(model, size - offset + 1);

        change(model, offset, length, draw(model, 2));
        check_count(model);
        check_any(model, draw(model, size), 0);
        offset = draw(model, size);
        check_any(model, offset, draw(model, size - offset + 1));
        check_next(model, draw(model, size), 1 + draw(model, 200));
        check_next(model, 0, model->granules);
    }
    change(model, 0, size, false);
    assert_int_equal(weir_bitmap_count(model->bitmap), 0);
    check_next(model, 0, 1);
    weir_bitmap_free(model->bitmap);
    free(model);
}

static void agrees_with_an_array(void **state)
{
    static const uint64_t granules[] = { 1, 2, 63, 64, 65, 128, 4095, 4096, 4097, 64 * 64 * 2 + 5 };

    for (size_t i = 0; i < WEIR_ARRAY_SIZE(granules); i++) {
        compare_size(granules[i] * GRANULARITY, 1 + i);
        compare_size(granules[i] * GRANULARITY - 1, 100 + i);
        compare_size(granules[i] * GRANULARITY - 511, 200 + i);
    }
}

static void touched_is_set_inner_is_cleared(void **state)
{
    struct weir_bitmap *bitmap = weir_bitmap_new(10 * 4096 + 100, 4096);

    weir_bitmap_set(bitmap, 4095, 2);
    assert_int_equal(weir_bitmap_count(bitmap), 2 * 4096);
    weir_bitmap_clear_inner(bitmap, 1, 2 * 4096 - 2);
    assert_int_equal(weir_bitmap_count(bitmap), 2 * 4096);
    weir_bitmap_clear_inner(bitmap, 1, 2 * 4096 - 1);
    assert_true(weir_bitmap_get(bitmap, 0));
    assert_false(weir_bitmap_get(bitmap, 4096));
    /* The last granule is only 100 bytes long, and whole when the range reaches the end of the disk. */
    weir_bitmap_set(bitmap, 10 * 4096 + 99, 1);
    assert_int_equal(weir_bitmap_count(bitmap), 4096 + 100);
    weir_bitmap_clear_inner(bitmap, 10 * 4096, 99);
    assert_int_equal(weir_bitmap_count(bitmap), 4096 + 100);
    weir_bitmap_clear_inner(bitmap, 10 * 4096, 100);
    assert_int_equal(weir_bitmap_count(bitmap), 4096);
    weir_bitmap_free(bitmap);
}

static void empty_disk(void **state)
{
    struct weir_bitmap *bitmap = weir_bitmap_new(0, 4096);
    uint64_t offset, length;

    weir_bitmap_set(bitmap, 0, 0);
    weir_bitmap_clear_inner(bitmap, 0, 0);
    assert_int_equal(weir_bitmap_count(bitmap), 0);
    assert_false(weir_bitmap_any(bitmap, 0, 0));
    assert_false(weir_bitmap_next_area(bitmap, 0, 4096, &offset, &length));
    weir_bitmap_free(bitmap);
    weir_bitmap_free(NULL);
}

static void large_and_sparse(void **state)
{
    const uint64_t tib = UINT64_C(1) << 40;
    struct weir_bitmap *bitmap = weir_bitmap_new(64 * tib, 65536);
    uint64_t offset, length;

    assert_non_null(bitmap);
    weir_bitmap_set(bitmap, 17 * tib + 5, 1);
    weir_bitmap_set(bitmap, 64 * tib - 1, 1);
    /* A walk over each word would take minutes for this many questions. */
    for (unsigned i = 0; i < 100000; i++) {
        assert_true(weir_bitmap_next_area(bitmap, 0, 65536, &offset, &length));
        assert_int_equal(offset, 17 * tib);
        assert_true(weir_bitmap_next_area(bitmap, offset + length, 1 << 20, &offset, &length));
        assert_int_equal(offset, 64 * tib - 65536);
        assert_int_equal(length, 65536);
    }
    weir_bitmap_free(bitmap);
    assert_null(weir_bitmap_new(UINT64_MAX, 512));
}

#define THREADS 4
#define ROUNDS 20000

struct worker {
    struct weir_bitmap *bitmap;
    unsigned number;
};

/* Each thread owns every THREADS-th granule, so that all of them work on the same words. */
static void *work(void *arg)
{
    const struct worker *worker = arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t offset = (uint64_t)(i % 64 * THREADS + worker->number) * GRANULARITY;

        weir_bitmap_set(worker->bitmap, offset, GRANULARITY);
        WEIR_ASSERT(weir_bitmap_get(worker->bitmap, offset));
        if (i % 64 != worker->number)
            weir_bitmap_clear_inner(worker->bitmap, offset, GRANULARITY);
    }
    return NULL;
}

static void threads_share_it(void **state)
{
    struct weir_bitmap *bitmap = weir_bitmap_new(64 * THREADS * GRANULARITY, GRANULARITY);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){ bitmap, i };
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(weir_bitmap_count(bitmap), THREADS * GRANULARITY);
    for (unsigned i = 0; i < THREADS; i++)
        assert_true(weir_bitmap_get(bitmap, (uint64_t)(i * THREADS + i) * GRANULARITY));
    weir_bitmap_free(bitmap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_an_array), cmocka_unit_test(touched_is_set_inner_is_cleared),
        cmocka_unit_test(empty_disk),           cmocka_unit_test(large_and_sparse),
        cmocka_unit_test(threads_share_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

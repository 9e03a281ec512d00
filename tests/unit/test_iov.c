/* SPDX-License-Identifier: BSD-2-Clause */
/* Vectors are compared with the flat buffer that they cover: every offset and length of a small uneven one. */
#include "base/iov.h"
#include "unit.h"
#include <stdlib.h>
#include <string.h>

#define TOTAL 40

/* Elements of 7, 0, 1, 16, 0, 15 and 1 bytes, apart from each other in memory. */
static const size_t element_sizes[] = { 7, 0, 1, 16, 0, 15, 1 };
#define ELEMENTS WEIR_ARRAY_SIZE(element_sizes)

struct vector {
    unsigned char memory[ELEMENTS][32];
    struct iovec iov[ELEMENTS];
};

static void vector_init(struct vector *vector)
{
    memset(vector->memory, 0xee, sizeof(vector->memory));
    for (size_t i = 0; i < ELEMENTS; i++) {
        vector->iov[i].iov_base = vector->memory[i] + 8;
        vector->iov[i].iov_len = element_sizes[i];
    }
}

/* The vector's bytes, read the slow way; what lies around the elements must be untouched. */
static void vector_read(const struct vector *vector, unsigned char *flat)
{
    for (size_t i = 0; i < ELEMENTS; i++) {
        for (size_t j = 0; j < sizeof(vector->memory[i]); j++) {
            if (j >= 8 && j < 8 + element_sizes[i])
                *flat++ = vector->memory[i][j];
            else
                assert_int_equal(vector->memory[i][j], 0xee);
        }
    }
}

static void measures(void **state)
{
    struct vector vector;

    vector_init(&vector);
    assert_int_equal(weir_iov_length(vector.iov, ELEMENTS), TOTAL);
    assert_int_equal(weir_iov_length(vector.iov, 0), 0);
}

static void copies_every_range(void **state)
{
    for (unsigned offset = 0; offset <= TOTAL; offset++) {
        for (unsigned length = 0; offset + length <= TOTAL; length++) {
            unsigned char source[TOTAL], flat[TOTAL], back[TOTAL + 1];
            struct vector vector;

            for (unsigned i = 0; i < TOTAL; i++)
                source[i] = (unsigned char)(i + 1);
            vector_init(&vector);
            weir_iov_from_buffer(vector.iov, ELEMENTS, offset, source, length);
            vector_read(&vector, flat);
            for (unsigned i = 0; i < TOTAL; i++)
                assert_int_equal(flat[i], i >= offset && i < offset + length ? source[i - offset] : 0xee);
            memset(back, 0x55, sizeof(back));
            weir_iov_to_buffer(vector.iov, ELEMENTS, offset, back, length);
            assert_memory_equal(back, source, length);
            assert_int_equal(back[length], 0x55);
        }
    }
}

static void slices_every_range(void **state)
{
    for (unsigned offset = 0; offset <= TOTAL; offset++) {
        for (unsigned length = 0; offset + length <= TOTAL; length++) {
            struct iovec slice[ELEMENTS];
            unsigned char source[TOTAL], flat[TOTAL];
            struct vector vector;
            unsigned count;

            for (unsigned i = 0; i < TOTAL; i++)
                source[i] = (unsigned char)(i + 1);
            vector_init(&vector);
            weir_iov_from_buffer(vector.iov, ELEMENTS, 0, source, TOTAL);
            count = weir_iov_slice(vector.iov, ELEMENTS, offset, length, slice);
            assert_in_range(count, length ? 1 : 0, ELEMENTS);
            assert_int_equal(weir_iov_length(slice, count), length);
            weir_iov_to_buffer(slice, count, 0, flat, length);
            assert_memory_equal(flat, source + offset, length);
        }
    }
}

static void fills_and_finds_zero(void **state)
{
    for (unsigned offset = 0; offset <= TOTAL; offset++) {
        for (unsigned length = 0; offset + length <= TOTAL; length++) {
            unsigned char flat[TOTAL];
            struct vector vector;

            vector_init(&vector);
            weir_iov_fill(vector.iov, ELEMENTS, offset, 0, length);
            vector_read(&vector, flat);
            for (unsigned i = 0; i < TOTAL; i++)
                assert_int_equal(flat[i], i >= offset && i < offset + length ? 0 : 0xee);
            assert_true(weir_iov_is_zero(vector.iov, ELEMENTS, offset, length));
            if (offset > 0)
                assert_false(weir_iov_is_zero(vector.iov, ELEMENTS, offset - 1, length + 1));
            if (offset + length < TOTAL)
                assert_false(weir_iov_is_zero(vector.iov, ELEMENTS, offset, length + 1));
        }
    }
}

static void one_byte_is_not_zero(void **state)
{
    static const size_t lengths[] = { 0, 1, 7, 8, 63, 64, 65, 127, 128, 129, 200, 4096 };
    unsigned char *memory = calloc(1, 4096 + 16);

    for (size_t i = 0; i < WEIR_ARRAY_SIZE(lengths); i++) {
        for (size_t skew = 0; skew < 9; skew++) {
            unsigned char *buffer = memory + skew;

            assert_true(weir_buffer_is_zero(buffer, lengths[i]));
            for (size_t at = 0; at < lengths[i]; at++) {
                buffer[at] = 0x80;
                assert_false(weir_buffer_is_zero(buffer, lengths[i]));
                buffer[at] = 0;
            }
            buffer[lengths[i]] = 1; /* the byte behind does not matter */
            assert_true(weir_buffer_is_zero(buffer, lengths[i]));
            buffer[lengths[i]] = 0;
        }
    }
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures),
        cmocka_unit_test(copies_every_range),
        cmocka_unit_test(slices_every_range),
        cmocka_unit_test(fills_and_finds_zero),
        cmocka_unit_test(one_byte_is_not_zero),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

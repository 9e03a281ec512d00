/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The receive side of a connection: whatever the pieces in which bytes arrive, the same commands come out, with the
 * same data, and data that somebody still holds is never overwritten.
 */
#include "unit.h"
#include "export/nbd/proto.h"
#include "export/nbd/stream.h"
#include "io/buffer.h"
#include <errno.h>
#include <stdlib.h>

#define SIZE ((uint64_t)1 << 40)
#define HELD_MAX 512

static const struct weir_nbd_rules rules = { .size = SIZE };

/* What a client sends: grows at the end. */
struct wire {
    uint8_t *bytes;
    size_t length;
};

static void add_request(struct wire *wire, unsigned type, uint64_t offset, uint32_t length, uint64_t cookie)
{
    uint8_t *at;

    wire->bytes = realloc(wire->bytes, wire->length + NBD_REQUEST_SIZE);
    assert_non_null(wire->bytes);
    at = wire->bytes + wire->length;
    wire->length += NBD_REQUEST_SIZE;
    weir_nbd_put32(at, NBD_REQUEST_MAGIC);
    weir_nbd_put16(at + 4, 0);
    weir_nbd_put16(at + 6, (uint16_t)type);
    weir_nbd_put64(at + 8, cookie);
    weir_nbd_put64(at + 16, offset);
    weir_nbd_put32(at + 24, length);
}

/* Data that differs from byte to byte and from write to write. */
static uint8_t pattern(uint64_t cookie, uint32_t i)
{
    return (uint8_t)(cookie * 131 + i * 7 + (i >> 8));
}

static void add_write(struct wire *wire, uint64_t offset, uint32_t length, uint64_t cookie)
{
    add_request(wire, NBD_CMD_WRITE, offset, length, cookie);
    wire->bytes = realloc(wire->bytes, wire->length + length + 1);
    assert_non_null(wire->bytes);
    for (uint32_t i = 0; i < length; i++)
        wire->bytes[wire->length + i] = pattern(cookie, i);
    wire->length += length;
}

/* Commands as they come out; writes stay held until the end. */
struct taken {
    struct weir_nbd_command commands[HELD_MAX];
    unsigned count;
    enum weir_nbd_next last;
};

static void take(struct weir_nbd_stream *stream, struct taken *taken)
{
    const char *reason = NULL;

    do {
        assert_true(taken->count < HELD_MAX);
        taken->last = weir_nbd_stream_next(stream, &rules, &taken->commands[taken->count], &reason);
        if (taken->last == WEIR_NBD_COMMAND)
            taken->count++;
    } while (taken->last == WEIR_NBD_COMMAND);
    assert_int_equal(!reason, taken->last == WEIR_NBD_MORE);
}

/* Sends all in pieces of at most @piece bytes. */
static void feed(struct weir_nbd_stream *stream, const struct wire *wire, size_t piece, struct taken *taken)
{
    size_t at = 0;

    while (at < wire->length && taken->last != WEIR_NBD_BROKEN) {
        struct iovec iov[2];
        unsigned count = weir_nbd_stream_space(stream, iov);
        size_t put = 0, left = WEIR_MIN(piece, wire->length - at);

        assert_true(count == 1 || count == 2);
        for (unsigned i = 0; i < count; i++) {
            size_t part = WEIR_MIN(left - put, iov[i].iov_len);

            memcpy(iov[i].iov_base, wire->bytes + at + put, part);
            put += part;
        }
        assert_true(put > 0);
        at += put;
        weir_nbd_stream_received(stream, put);
        take(stream, taken);
    }
}

static void assert_data(const struct weir_nbd_command *command)
{
    const uint8_t *data = command->payload;

    assert_non_null(command->buffer);
    for (uint32_t i = 0; i < command->length; i++)
        assert_int_equal(data[i], pattern(command->cookie, i));
}

static void release(struct taken *taken)
{
    for (unsigned i = 0; i < taken->count; i++)
        weir_buffer_unref(taken->commands[i].buffer);
}

static void run(const struct wire *wire, size_t piece, struct taken *taken)
{
    struct weir_nbd_stream stream;

    *taken = (struct taken){ .last = WEIR_NBD_MORE };
    assert_true(weir_nbd_stream_init(&stream));
    feed(&stream, wire, piece, taken);
    weir_nbd_stream_done(&stream);
}

static void test_mixed_sizes_in_all_pieces(void **state)
{
    static const uint32_t lengths[] = { 0, 1, 512, 4096, 65536, 65537, 100000, 262144, 700001, 3 };
    static const size_t pieces[] = { 1, 27, 28, 29, 4096, 65536, 65564, 262144, SIZE_MAX };
    struct taken *taken = malloc(sizeof(*taken));
    struct wire wire = { 0 };

    assert_non_null(taken);
    for (unsigned i = 0; i < 10; i++) {
        add_write(&wire, i, lengths[i], 2 * i);
        add_request(&wire, NBD_CMD_READ, i, 4096, 2 * i + 1);
    }
    for (unsigned p = 0; p < WEIR_ARRAY_SIZE(pieces); p++) {
        run(&wire, pieces[p], taken);
        assert_int_equal(taken->count, 20);
        assert_int_equal(taken->last, WEIR_NBD_MORE);
        for (unsigned i = 0; i < 20; i++) {
            assert_int_equal(taken->commands[i].cookie, i);
            assert_int_equal(taken->commands[i].offset, i / 2);
            assert_int_equal(taken->commands[i].error, 0);
            if (i % 2 == 0)
                assert_data(&taken->commands[i]);
        }
        release(taken);
    }
    free(wire.bytes);
    free(taken);
}

/* Writes in flight keep their part of the receive buffer while hundreds of others pass. */
static void test_held_data_stays(void **state)
{
    struct taken *taken = malloc(sizeof(*taken));
    struct wire wire = { 0 };

    assert_non_null(taken);
    for (unsigned i = 0; i < 500; i++)
        add_write(&wire, i, 3000 + i, i);
    run(&wire, 50000, taken);
    assert_int_equal(taken->count, 500);
    for (unsigned i = 0; i < 500; i++)
        assert_data(&taken->commands[i]);
    release(taken);
    free(wire.bytes);
    free(taken);
}

/* Small writes are not copied: their data lies in a buffer that several share. */
static void test_small_writes_in_place(void **state)
{
    struct taken *taken = malloc(sizeof(*taken));
    struct wire wire = { 0 };

    assert_non_null(taken);
    add_write(&wire, 0, 4096, 1);
    add_write(&wire, 0, 4096, 2);
    run(&wire, SIZE_MAX, taken);
    assert_int_equal(taken->count, 2);
    assert_ptr_equal(taken->commands[0].buffer, taken->commands[1].buffer);
    assert_int_equal((uint8_t *)taken->commands[1].payload - (uint8_t *)taken->commands[0].payload,
                     4096 + 28);
    release(taken);
    free(wire.bytes);
    free(taken);
}

/* The data of a refused write is skipped, and what follows is understood. */
static void test_refused_write(void **state)
{
    static const size_t pieces[] = { 1, 28, 1000, SIZE_MAX };
    struct taken *taken = malloc(sizeof(*taken));
    struct wire wire = { 0 };

    assert_non_null(taken);
    add_write(&wire, SIZE, 300000, 1);
    add_request(&wire, NBD_CMD_FLUSH, 0, 0, 2);
    for (unsigned p = 0; p < WEIR_ARRAY_SIZE(pieces); p++) {
        run(&wire, pieces[p], taken);
        assert_int_equal(taken->count, 2);
        assert_int_equal(taken->commands[0].error, -ENOSPC);
        assert_null(taken->commands[0].buffer);
        assert_int_equal(taken->commands[1].type, NBD_CMD_FLUSH);
    }
    free(wire.bytes);
    free(taken);
}

static void test_broken(void **state)
{
    struct taken *taken = malloc(sizeof(*taken));
    struct wire wire = { 0 };

    assert_non_null(taken);
    add_request(&wire, NBD_CMD_READ, 0, 512, 1);
    add_request(&wire, NBD_CMD_WRITE, 0, (32u << 20) + 1, 2);
    run(&wire, SIZE_MAX, taken);
    assert_int_equal(taken->count, 1);
    assert_int_equal(taken->last, WEIR_NBD_BROKEN);
    wire.bytes[0] = 0;
    run(&wire, 5, taken);
    assert_int_equal(taken->count, 0);
    assert_int_equal(taken->last, WEIR_NBD_BROKEN);
    free(wire.bytes);
    free(taken);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mixed_sizes_in_all_pieces),
        cmocka_unit_test(test_held_data_stays),
        cmocka_unit_test(test_small_writes_in_place),
        cmocka_unit_test(test_refused_write),
        cmocka_unit_test(test_broken),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    weir_buffer_trim();
    return failed;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NBD requests and replies, header by header: what is taken, what is refused with which code, what goes back.
 */
#include "unit.h"
#include "export/nbd/parse.h"
#include "export/nbd/proto.h"
#include "export/nbd/reply.h"
#include <errno.h>

#define MIB ((uint32_t)1 << 20)
#define SIZE ((uint64_t)16 * MIB)

static void put_request(uint8_t header[28], unsigned flags, unsigned type, uint64_t offset, uint32_t length)
{
    weir_nbd_put32(header, NBD_REQUEST_MAGIC);
    weir_nbd_put16(header + 4, (uint16_t)flags);
    weir_nbd_put16(header + 6, (uint16_t)type);
    weir_nbd_put64(header + 8, 0x0102030405060708);
    weir_nbd_put64(header + 16, offset);
    weir_nbd_put32(header + 24, length);
}

static void test_parse(void **state)
{
    static const uint8_t wire[28] = { 0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6,
                                      7,    8,    0,    0,    1, 0, 0, 0, 0, 0, 0, 0, 2, 0 };
    struct weir_nbd_command command;
    uint8_t other[28];

    assert_true(weir_nbd_parse_request(wire, &command));
    assert_int_equal(command.flags, NBD_CMD_FLAG_FUA);
    assert_int_equal(command.type, NBD_CMD_WRITE_ZEROES);
    assert_int_equal(command.cookie, 0x0102030405060708);
    assert_int_equal(command.offset, (uint64_t)1 << 40);
    assert_int_equal(command.length, 512);
    assert_int_equal(command.error, 0);
    memcpy(other, wire, sizeof(other));
    other[3] ^= 1;
    assert_false(weir_nbd_parse_request(other, &command));
}

struct check_row {
    struct weir_nbd_rules rules;
    unsigned flags, type;
    uint64_t offset;
    uint32_t length;
    int error;
};

#define PLAIN        \
    {                \
        .size = SIZE \
    }
#define READ_ONLY                       \
    {                                   \
        .size = SIZE, .read_only = true \
    }
#define NEW                                                       \
    {                                                             \
        .size = SIZE, .structured = true, .base_allocation = true \
    }

static const struct check_row check_rows[] = {
    { PLAIN, 0, NBD_CMD_READ, 0, 512, 0 },
    { PLAIN, NBD_CMD_FLAG_FUA, NBD_CMD_READ, SIZE - 1, 1, 0 },
    { PLAIN, 0, NBD_CMD_READ, SIZE, 0, 0 },
    { PLAIN, 0, NBD_CMD_READ, SIZE, 1, -EINVAL },
    { PLAIN, 0, NBD_CMD_READ, SIZE - 1, 2, -EINVAL },
    { PLAIN, 0, NBD_CMD_READ, UINT64_MAX, 512, -EINVAL },
    { { .size = (uint64_t)1 << 40 }, 0, NBD_CMD_READ, 0, 32 * MIB, 0 },
    { { .size = (uint64_t)1 << 40 }, 0, NBD_CMD_READ, 0, 32 * MIB + 1, -EINVAL },
    { PLAIN, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512, -EINVAL },
    { NEW, NBD_CMD_FLAG_DF, NBD_CMD_READ, 0, 512, 0 },
    { PLAIN, 1 << 7, NBD_CMD_READ, 0, 512, -EINVAL },
    { READ_ONLY, 0, NBD_CMD_READ, 0, 512, 0 },
    { PLAIN, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE, 0, 512, 0 },
    { PLAIN, NBD_CMD_FLAG_NO_HOLE, NBD_CMD_WRITE, 0, 512, -EINVAL },
    { PLAIN, 0, NBD_CMD_WRITE, SIZE - 1, 2, -ENOSPC },
    { READ_ONLY, 0, NBD_CMD_WRITE, 0, 512, -EPERM },
    { READ_ONLY, 0, NBD_CMD_WRITE, SIZE, 512, -EPERM },
    { PLAIN, 0, NBD_CMD_TRIM, 0, (uint32_t)SIZE, 0 },
    { PLAIN, 0, NBD_CMD_TRIM, 1, (uint32_t)SIZE, -EINVAL },
    { READ_ONLY, 0, NBD_CMD_TRIM, 0, 512, -EPERM },
    { PLAIN, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO | NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 0, 512,
      0 },
    { PLAIN, 0, NBD_CMD_WRITE_ZEROES, 1, (uint32_t)SIZE, -ENOSPC },
    { READ_ONLY, 0, NBD_CMD_WRITE_ZEROES, 0, 512, -EPERM },
    { READ_ONLY, 0, NBD_CMD_FLUSH, 0, 0, 0 },
    { PLAIN, 0, NBD_CMD_FLUSH, UINT64_MAX, UINT32_MAX, 0 },
    { PLAIN, 0, NBD_CMD_CACHE, 0, 512, 0 },
    { PLAIN, 0, NBD_CMD_CACHE, SIZE, 512, -EINVAL },
    { NEW, NBD_CMD_FLAG_REQ_ONE, NBD_CMD_BLOCK_STATUS, 0, 512, 0 },
    { NEW, 0, NBD_CMD_BLOCK_STATUS, 0, 0, -EINVAL },
    { NEW, 0, NBD_CMD_BLOCK_STATUS, SIZE, 512, -EINVAL },
    { PLAIN, 0, NBD_CMD_BLOCK_STATUS, 0, 512, -EINVAL },
    { PLAIN, 0, NBD_CMD_DISC, 0, 0, 0 },
    { PLAIN, 0, 8, 0, 512, -EINVAL },
    { PLAIN, 0, 0xffff, 0, 512, -EINVAL },
};

static void test_check(void **state)
{
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(check_rows); i++) {
        const struct check_row *row = &check_rows[i];
        struct weir_nbd_command command;
        uint8_t header[28];

        put_request(header, row->flags, row->type, row->offset, row->length);
        assert_true(weir_nbd_parse_request(header, &command));
        weir_nbd_check_request(&row->rules, &command);
        if (command.error != row->error)
            print_error("row %u\n", i);
        assert_int_equal(command.error, row->error);
        assert_int_equal(!command.message, !row->error);
    }
}

static void test_errors_on_the_wire(void **state)
{
    static const int rows[][2] = {
        { 0, 0 },          { EPERM, 1 },    { EROFS, 1 },       { EIO, 5 },       { ENOMEM, 12 },
        { EINVAL, 22 },    { EACCES, 22 },  { ENOSPC, 28 },     { EDQUOT, 28 },   { EFBIG, 28 },
        { EOVERFLOW, 75 }, { ENOTSUP, 95 }, { ESHUTDOWN, 108 }, { ETIMEDOUT, 5 }, { ENOMEDIUM, 5 },
    };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(rows); i++)
        assert_int_equal(weir_nbd_wire_error(-rows[i][0]), rows[i][1]);
}

static void test_names(void **state)
{
    assert_string_equal(weir_nbd_command_name(NBD_CMD_READ), "read");
    assert_string_equal(weir_nbd_command_name(NBD_CMD_BLOCK_STATUS), "block status");
    assert_string_equal(weir_nbd_command_name(8), "unknown request");
}

/* ---- replies ---- */

static void assert_head(const struct weir_nbd_reply *reply, const void *bytes, size_t length)
{
    assert_int_equal(reply->head_length, length);
    assert_memory_equal(reply->head, bytes, length);
}

static void test_simple_replies(void **state)
{
    struct weir_nbd_command command = { .type = NBD_CMD_READ, .cookie = 0x0a0b0c0d, .length = 3 };
    struct weir_nbd_reply reply;

    weir_nbd_reply_success(&reply, &command, false, "abc");
    assert_head(&reply, "\x67\x44\x66\x98\0\0\0\0\0\0\0\0\x0a\x0b\x0c\x0d", 16);
    assert_int_equal(reply.body_length, 3);
    assert_memory_equal(reply.body, "abc", 3);
    weir_nbd_reply_error(&reply, &command, false, -ENOSPC, "no room");
    assert_head(&reply, "\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\x0a\x0b\x0c\x0d", 16);
    assert_int_equal(reply.body_length, 0);
    command.type = NBD_CMD_FLUSH;
    weir_nbd_reply_success(&reply, &command, true, NULL);
    assert_head(&reply, "\x67\x44\x66\x98\0\0\0\0\0\0\0\0\x0a\x0b\x0c\x0d", 16);
    assert_int_equal(reply.body_length, 0);
}

static void test_structured_replies(void **state)
{
    struct weir_nbd_command command = { .type = NBD_CMD_READ, .cookie = 7, .offset = 0x1000, .length = 3 };
    struct weir_nbd_reply reply;

    weir_nbd_reply_success(&reply, &command, true, "abc");
    assert_head(&reply, "\x66\x8e\x33\xef\0\1\0\1\0\0\0\0\0\0\0\7\0\0\0\x0b\0\0\0\0\0\0\x10\0", 28);
    assert_memory_equal(reply.body, "abc", 3);
    weir_nbd_reply_error(&reply, &command, true, -EIO, "broken");
    assert_head(&reply, "\x66\x8e\x33\xef\0\1\x80\1\0\0\0\0\0\0\0\7\0\0\0\x0c\0\0\0\5\0\6", 26);
    assert_int_equal(reply.body_length, 6);
    assert_memory_equal(reply.body, "broken", 6);
    weir_nbd_reply_status(&reply, &command, "12345678abcdefgh", 2);
    assert_head(&reply, "\x66\x8e\x33\xef\0\1\0\5\0\0\0\0\0\0\0\7\0\0\0\x14\0\0\0\1", 24);
    assert_int_equal(reply.body_length, 16);
    command.length = 0;
    weir_nbd_reply_success(&reply, &command, true, NULL);
    assert_head(&reply, "\x66\x8e\x33\xef\0\1\0\0\0\0\0\0\0\0\0\7\0\0\0\0", 20);
    assert_int_equal(reply.body_length, 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_errors_on_the_wire),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_simple_replies),
        cmocka_unit_test(test_structured_replies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

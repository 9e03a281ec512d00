/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The client's side of the NBD wire: the negotiation with servers that can more or less, or lie; heads; pieces of
 * reads.
 */
#include "unit.h"
#include "base/alloc.h"
#include "protocol/nbd/handshake.h"
#include "protocol/nbd/reply.h"
#include <errno.h>
#include <stdio.h>

/* ---- what a server says ---- */

struct said {
    uint8_t bytes[NBD_ANSWER_MAX + 1024];
    size_t length;
};

static void say(struct said *said, const void *bytes, size_t length)
{
    memcpy(said->bytes + said->length, bytes, length);
    said->length += length;
}

static void say16(struct said *said, unsigned value)
{
    weir_nbd_put16(said->bytes + said->length, (uint16_t)value);
    said->length += 2;
}

static void say32(struct said *said, uint32_t value)
{
    weir_nbd_put32(said->bytes + said->length, value);
    said->length += 4;
}

static void say64(struct said *said, uint64_t value)
{
    weir_nbd_put64(said->bytes + said->length, value);
    said->length += 8;
}

static void say_greeting(struct said *said, unsigned flags)
{
    said->length = 0;
    say64(said, NBD_MAGIC);
    say64(said, NBD_IHAVEOPT);
    say16(said, flags);
}

static void say_answer(struct said *said, uint32_t option, uint32_t kind, const void *bytes, size_t length)
{
    say64(said, NBD_OPTION_REPLY_MAGIC);
    say32(said, option);
    say32(said, kind);
    say32(said, (uint32_t)length);
    say(said, bytes, length);
}

static void say_context(struct said *said, uint32_t id, const char *name)
{
    say64(said, NBD_OPTION_REPLY_MAGIC);
    say32(said, NBD_OPT_SET_META_CONTEXT);
    say32(said, NBD_REP_META_CONTEXT);
    say32(said, (uint32_t)(4 + strlen(name)));
    say32(said, id);
    say(said, name, strlen(name));
}

static void say_export(struct said *said, uint64_t size, unsigned flags)
{
    say64(said, NBD_OPTION_REPLY_MAGIC);
    say32(said, NBD_OPT_GO);
    say32(said, NBD_REP_INFO);
    say32(said, 12);
    say16(said, NBD_INFO_EXPORT);
    say64(said, size);
    say16(said, flags);
}

static void say_sizes(struct said *said, uint32_t min, uint32_t opt, uint32_t max)
{
    say64(said, NBD_OPTION_REPLY_MAGIC);
    say32(said, NBD_OPT_GO);
    say32(said, NBD_REP_INFO);
    say32(said, 14);
    say16(said, NBD_INFO_BLOCK_SIZE);
    say32(said, min);
    say32(said, opt);
    say32(said, max);
}

/* ---- running it ---- */

/*
 * Feeds all of it; @cut: no more than so many new bytes at a time. Every output must have been asked for by what was
 * said so far.
 */
static enum nbd_step feed(struct nbd_handshake *handshake, const struct said *said, size_t cut,
                          struct weir_error **err)
{
    size_t start = 0, end = 0, used;
    enum nbd_step step;

    for (;;) {
        step = nbd_handshake_step(handshake, said->bytes + start, end - start, &used, err);
        assert_true(used <= end - start);
        start += used;
        if (step == NBD_STEP_DONE || step == NBD_STEP_FAILED)
            break;
        if (step == NBD_STEP_SEND) {
            assert_true(handshake->output_length > 0);
            continue;
        }
        if (end == said->length)
            break;
        end = WEIR_MIN(end + cut, said->length);
    }
    if (step == NBD_STEP_DONE)
        assert_int_equal(start, said->length);
    return step;
}

static void say_all(struct said *said)
{
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    say_context(said, 7, "base:allocation");
    say_answer(said, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "", 0);
    say_export(said, 1 << 20, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA);
    say_sizes(said, 512, 4096, 65536);
    say_answer(said, NBD_OPT_GO, NBD_REP_INFO, "\0\2some text", 11);
    say_answer(said, NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

static void test_whole(void **state)
{
    struct said *said = weir_new(struct said);

    say_all(said);
    for (size_t cut = 1; cut < 200; cut += 13) {
        struct nbd_handshake handshake;
        WEIR_AUTO_ERROR err = NULL;

        nbd_handshake_init(&handshake, "disk", "base:allocation");
        assert_int_equal(feed(&handshake, said, cut, &err), NBD_STEP_DONE);
        assert_true(handshake.info.structured && handshake.info.has_context);
        assert_int_equal(handshake.info.context_id, 7);
        assert_int_equal(handshake.info.size, 1 << 20);
        assert_int_equal(handshake.info.flags, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FUA);
        assert_int_equal(handshake.info.block_min, 512);
        assert_int_equal(handshake.info.block_opt, 4096);
        assert_int_equal(handshake.info.block_max, 65536);
    }
    free(said);
}

static void test_output(void **state)
{
    static const uint8_t greeting[] = "\0\0\0\3IHAVEOPT\0\0\0\10\0\0\0\0";
    static const uint8_t context[] = "IHAVEOPT\0\0\0\12\0\0\0\37\0\0\0\4disk\0\0\0\1\0\0\0\17base:allocation";
    static const uint8_t go[] = "IHAVEOPT\0\0\0\7\0\0\0\14\0\0\0\4disk\0\1\0\3";
    struct said *said = weir_new(struct said);
    struct nbd_handshake handshake;
    size_t used;

    nbd_handshake_init(&handshake, "disk", "base:allocation");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    assert_int_equal(nbd_handshake_step(&handshake, said->bytes, said->length, &used, NULL), NBD_STEP_SEND);
    assert_int_equal(handshake.output_length, sizeof(greeting) - 1);
    assert_memory_equal(handshake.output, greeting, sizeof(greeting) - 1);
    said->length = 0;
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    assert_int_equal(nbd_handshake_step(&handshake, said->bytes, said->length, &used, NULL), NBD_STEP_SEND);
    assert_int_equal(handshake.output_length, sizeof(context) - 1);
    assert_memory_equal(handshake.output, context, sizeof(context) - 1);
    said->length = 0;
    say_answer(said, NBD_OPT_SET_META_CONTEXT, NBD_REP_ERR_UNSUP, "", 0);
    assert_int_equal(nbd_handshake_step(&handshake, said->bytes, said->length, &used, NULL), NBD_STEP_SEND);
    assert_int_equal(handshake.output_length, sizeof(go) - 1);
    assert_memory_equal(handshake.output, go, sizeof(go) - 1);
    free(said);
}

static void test_lesser_servers(void **state)
{
    struct said *said = weir_new(struct said);
    struct nbd_handshake handshake;
    uint8_t zeroes[124] = { 0 };

    /* No structured replies, no sizes. */
    nbd_handshake_init(&handshake, "", "base:allocation");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP, "no", 2);
    say_export(said, 4096, NBD_FLAG_HAS_FLAGS);
    say_answer(said, NBD_OPT_GO, NBD_REP_ACK, "", 0);
    assert_int_equal(feed(&handshake, said, 5, NULL), NBD_STEP_DONE);
    assert_false(handshake.info.structured || handshake.info.has_context);
    assert_int_equal(handshake.info.block_min, 1);
    assert_int_equal(handshake.info.block_max, NBD_TRANSFER_DEFAULT);
    /* No GO, and zeroes behind the export. */
    nbd_handshake_init(&handshake, "", "base:allocation");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_UNSUP, "", 0);
    say_answer(said, NBD_OPT_GO, NBD_REP_ERR_UNSUP, "", 0);
    say64(said, 8192);
    say16(said, NBD_FLAG_HAS_FLAGS | NBD_FLAG_READ_ONLY);
    say(said, zeroes, sizeof(zeroes));
    assert_int_equal(feed(&handshake, said, 7, NULL), NBD_STEP_DONE);
    assert_int_equal(handshake.info.size, 8192);
    assert_true(handshake.info.flags & NBD_FLAG_READ_ONLY);
    /* Nothing fixed. */
    nbd_handshake_init(&handshake, "x", "base:allocation");
    say_greeting(said, NBD_FLAG_NO_ZEROES);
    say64(said, 512);
    say16(said, NBD_FLAG_HAS_FLAGS);
    assert_int_equal(feed(&handshake, said, 1, NULL), NBD_STEP_DONE);
    assert_int_equal(handshake.info.size, 512);
    free(said);
}

/* ---- servers that refuse, or lie ---- */

static void assert_fails(const struct said *said, const char *text)
{
    struct nbd_handshake handshake;
    WEIR_AUTO_ERROR err = NULL;

    nbd_handshake_init(&handshake, "x", "base:allocation");
    assert_int_equal(feed(&handshake, said, 1000, &err), NBD_STEP_FAILED);
    assert_string_equal(weir_error_text(err), text);
}

static void say_until_go(struct said *said)
{
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_POLICY, "", 0);
}

static void test_refusals(void **state)
{
    struct said *said = weir_new(struct said);

    say_until_go(said);
    say_answer(said, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "no \"x\"\n\xff", 8);
    assert_fails(said, "Requested export not available: no \"x\"??");
    say_until_go(said);
    say_answer(said, NBD_OPT_GO, NBD_REP_ERR_UNKNOWN, "", 0);
    assert_fails(said, "Requested export not available");
    say_until_go(said);
    say_answer(said, NBD_OPT_GO, NBD_REP_ERR_POLICY, "not you", 7);
    assert_fails(said, "The server does not allow this: not you");
    say_until_go(said);
    say_answer(said, NBD_OPT_GO, NBD_REP_ERR_PLATFORM, "", 0);
    assert_fails(said, "The server refuses the export (error 4)");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_TLS_REQD, "", 0);
    assert_fails(said, "The server wants TLS, which is not supported yet");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_SHUTDOWN, "", 0);
    assert_fails(said, "The server is shutting down");
    free(said);
}

static void test_no_servers(void **state)
{
    struct said *said = weir_new(struct said);

    say(said, "HTTP/1.1 400 Bad Request", 24);
    assert_fails(said, "The server does not speak NBD");
    said->length = 0;
    say64(said, NBD_MAGIC);
    say(said, "something else", 14);
    assert_fails(said, "The server does not speak NBD");
    said->length = 0;
    say64(said, NBD_MAGIC);
    say64(said, NBD_OLDSTYLE_MAGIC);
    say64(said, 4096);
    assert_fails(said,
                 "The server speaks the old NBD protocol without a negotiation, which is not supported");
    free(said);
}

static void test_lies(void **state)
{
    static const uint32_t sizes[][3] = { { 0, 512, 512 },   { 3, 4096, 4096 }, { 131072, 131072, 1 << 20 },
                                         { 512, 256, 512 }, { 512, 512, 256 }, { 512, 513, 4096 } };
    struct said *said = weir_new(struct said);

    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_LIST, NBD_REP_ACK, "", 0);
    assert_fails(said, "The server answers an option that was not asked for");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say(said, "not the magic of replies", 24);
    assert_fails(said, "The server's answer to an option is none");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say64(said, NBD_OPTION_REPLY_MAGIC);
    say32(said, NBD_OPT_STRUCTURED_REPLY);
    say32(said, NBD_REP_ACK);
    say32(said, NBD_ANSWER_MAX + 1);
    assert_fails(said, "The server's answer to an option is too long");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_SERVER, "", 0);
    assert_fails(said, "The server's answer to STRUCTURED_REPLY makes no sense");
    say_greeting(said, NBD_FLAG_FIXED_NEWSTYLE);
    say_answer(said, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "", 0);
    say_context(said, 1, "base:allocatiom");
    assert_fails(said, "The server's answer to SET_META_CONTEXT makes no sense");
    say_until_go(said);
    say_answer(said, NBD_OPT_GO, NBD_REP_ACK, "", 0);
    assert_fails(said, "The server's answer to GO makes no sense");
    say_until_go(said);
    say_export(said, UINT64_MAX, NBD_FLAG_HAS_FLAGS);
    assert_fails(said, "The server's description of the export makes no sense");
    say_until_go(said);
    say_export(said, 512, 0);
    assert_fails(said, "The server's description of the export makes no sense");
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(sizes); i++) {
        say_until_go(said);
        say_sizes(said, sizes[i][0], sizes[i][1], sizes[i][2]);
        assert_fails(said, "The server's block sizes make no sense");
    }
    say_until_go(said);
    for (unsigned i = 0; i < 300; i++)
        say_answer(said, NBD_OPT_GO, NBD_REP_INFO, "\0\2", 2);
    assert_fails(said, "The server sends too many answers");
    free(said);
}

/* ---- heads ---- */

static void test_heads(void **state)
{
    static const uint8_t request[28] = { 0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6, 1, 2, 3, 4, 5, 6,
                                         7,    8,    0,    0,    1, 0, 0, 0, 0, 0, 0, 0, 2, 0 };
    static const uint8_t simple[16] = "\x67\x44\x66\x98\0\0\0\x1c\0\0\0\0\0\0\0\5";
    static const uint8_t chunk[20] = "\x66\x8e\x33\xef\0\1\0\2\0\0\0\0\0\0\0\6\0\0\0\x0c";
    struct nbd_reply reply;
    uint8_t header[28];

    nbd_request_put(header, NBD_CMD_FLAG_FUA, NBD_CMD_WRITE_ZEROES, 0x0102030405060708, (uint64_t)1 << 40,
                    512);
    assert_memory_equal(header, request, sizeof(request));
    for (size_t length = 0; length < sizeof(simple); length++)
        assert_int_equal(nbd_reply_get(simple, length, &reply), 0);
    assert_int_equal(nbd_reply_get(simple, sizeof(simple), &reply), 16);
    assert_true(!reply.structured && reply.last && reply.error == -ENOSPC && reply.cookie == 5);
    for (size_t length = 0; length < sizeof(chunk); length++)
        assert_int_equal(nbd_reply_get(chunk, length, &reply), 0);
    assert_int_equal(nbd_reply_get(chunk, sizeof(chunk), &reply), 20);
    assert_true(reply.structured && reply.last && reply.type == NBD_REPLY_TYPE_OFFSET_HOLE);
    assert_true(reply.cookie == 6 && reply.length == 12);
    assert_int_equal(nbd_reply_get(request, sizeof(request), &reply), -EPROTO);
}

static void test_errors(void **state)
{
    static const int rows[][2] = { { 0, 0 },       { 1, EPERM },      { 5, EIO },        { 12, ENOMEM },
                                   { 22, EINVAL }, { 28, ENOSPC },    { 75, EOVERFLOW }, { 95, ENOTSUP },
                                   { 13, EINVAL }, { 108, ESHUTDOWN } };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(rows); i++)
        assert_int_equal(nbd_error_get((uint32_t)rows[i][0]), -rows[i][1]);
}

/* ---- pieces ---- */

static void test_pieces_in_order(void **state)
{
    struct nbd_pieces pieces = { 0 };

    assert_false(nbd_pieces_cover(&pieces, 100, 100));
    for (unsigned i = 0; i < 100; i++)
        assert_true(nbd_pieces_add(&pieces, 100 + i, 1));
    assert_null(pieces.list);
    assert_true(nbd_pieces_cover(&pieces, 100, 100));
    assert_false(nbd_pieces_cover(&pieces, 100, 101));
    assert_false(nbd_pieces_cover(&pieces, 99, 101));
    assert_false(nbd_pieces_add(&pieces, 100, 1));
    assert_false(nbd_pieces_add(&pieces, 199, 2));
    assert_false(nbd_pieces_add(&pieces, 0, 1000));
    nbd_pieces_done(&pieces);
}

/* Every order of some pieces, with one that overlaps in between. */
static void test_pieces_any_order(void **state)
{
    for (unsigned seed = 1; seed < 500; seed++) {
        struct nbd_pieces pieces = { 0 };
        unsigned random = seed, left = 64;
        bool there[64] = { false };

        while (left) {
            unsigned at, length = 1;

            random = random * 1103515245 + 12345;
            at = (random >> 16) % 64;
            while (at + length < 64 && length < 1 + (random >> 8) % 4)
                length++;
            bool free = true;
            for (unsigned i = at; i < at + length; i++)
                free &= !there[i];
            assert_int_equal(nbd_pieces_add(&pieces, 1000 + at, length), free);
            for (unsigned i = at; free && i < at + length; i++)
                there[i] = true;
            left -= free ? length : 0;
            assert_int_equal(nbd_pieces_cover(&pieces, 1000, 64), !left);
        }
        nbd_pieces_done(&pieces);
    }
}

static void test_pieces_bounded(void **state)
{
    struct nbd_pieces pieces = { 0 };

    for (unsigned i = 0; i < NBD_PIECES_MAX; i++)
        assert_true(nbd_pieces_add(&pieces, 2ull * i, 1));
    assert_false(nbd_pieces_add(&pieces, 2ull * NBD_PIECES_MAX, 1));
    assert_true(nbd_pieces_add(&pieces, 1, 1));
    nbd_pieces_done(&pieces);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),           cmocka_unit_test(test_output),
        cmocka_unit_test(test_lesser_servers),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_no_servers),      cmocka_unit_test(test_lies),
        cmocka_unit_test(test_heads),           cmocka_unit_test(test_errors),
        cmocka_unit_test(test_pieces_in_order), cmocka_unit_test(test_pieces_any_order),
        cmocka_unit_test(test_pieces_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

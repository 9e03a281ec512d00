/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The negotiation: what clients of all ages send, and every byte that comes back.
 */
#include "unit.h"
#include "base/alloc.h"
#include "export/nbd/handshake.h"
#include "export/nbd/proto.h"
#include "io/buffer.h"
#include <errno.h>

/* ---- exports: "disk" (described) and "ro" ---- */

struct world {
    struct weir_nbd_handshake handshake;
    struct weir_nbd_stream stream;
    char attached[16];
    enum weir_nbd_step step;
    size_t seen; /* of the output */
};

static weir_co_fn int find(void *arg, const char *name, bool attach, struct weir_nbd_info *ret_info)
{
    struct world *world = arg;

    if (strcmp(name, "disk") && strcmp(name, "ro"))
        return -ENOENT;
    if (attach)
        strcpy(world->attached, name);
    *ret_info = (struct weir_nbd_info){
        .size = 0x10000,
        .preferred_size = 8192,
        .read_only = *name == 'r',
        .multi_conn = *name == 'd',
        .description = *name == 'd' ? weir_strdup("mine") : NULL,
    };
    return 0;
}

static weir_co_fn unsigned list(void *arg, struct weir_nbd_listing **ret_listings)
{
    *ret_listings = weir_new_array(struct weir_nbd_listing, 2);
    (*ret_listings)[0] = (struct weir_nbd_listing){ weir_strdup("disk"), weir_strdup("mine") };
    (*ret_listings)[1] = (struct weir_nbd_listing){ weir_strdup("ro"), NULL };
    return 2;
}

static const struct weir_nbd_directory directory = { .find = find, .list = list };

/* ---- talking ---- */

static weir_co_fn void put(struct world *world, const void *data, size_t length)
{
    struct iovec iov[2];

    assert_int_equal(weir_nbd_stream_space(&world->stream, iov), 1);
    assert_true(iov[0].iov_len >= length);
    memcpy(iov[0].iov_base, data, length);
    weir_nbd_stream_received(&world->stream, length);
    do
        world->step = weir_nbd_handshake_step(&world->handshake, &world->stream);
    while (world->step == WEIR_NBD_STEP_NEXT);
}

static weir_co_fn void put_option(struct world *world, uint32_t number, const void *data, size_t length)
{
    uint8_t message[256];

    assert_true(length + 16 <= sizeof(message));
    weir_nbd_put64(message, NBD_IHAVEOPT);
    weir_nbd_put32(message + 8, number);
    weir_nbd_put32(message + 12, (uint32_t)length);
    memcpy(message + 16, data, length);
    put(world, message, length + 16);
}
#define OPTION(world, number, text) put_option(world, number, text, sizeof(text) - 1)

static void expect(struct world *world, const void *bytes, size_t length)
{
    assert_true(world->handshake.output_length - world->seen >= length);
    assert_memory_equal(world->handshake.output + world->seen, bytes, length);
    world->seen += length;
}

/* A reply with that content; NULL: any content. */
static void expect_reply(struct world *world, uint32_t number, uint32_t kind, const void *data, size_t length)
{
    const uint8_t *at = world->handshake.output + world->seen;

    assert_true(world->handshake.output_length - world->seen >= 20);
    assert_int_equal(weir_nbd_get64(at), NBD_OPTION_REPLY_MAGIC);
    assert_int_equal(weir_nbd_get32(at + 8), number);
    assert_int_equal(weir_nbd_get32(at + 12), kind);
    world->seen += 20;
    if (!data) {
        world->seen += weir_nbd_get32(at + 16);
        return;
    }
    assert_int_equal(weir_nbd_get32(at + 16), length);
    expect(world, data, length);
}
#define REPLY(world, number, kind, text) expect_reply(world, number, kind, text, sizeof(text) - 1)

static void expect_end(struct world *world, enum weir_nbd_step step)
{
    assert_int_equal(world->seen, world->handshake.output_length);
    assert_int_equal(world->step, step);
}

static weir_co_fn int begin(struct world *world, const char *flags)
{
    *world = (struct world){ 0 };
    assert_true(weir_nbd_stream_init(&world->stream));
    weir_nbd_handshake_init(&world->handshake, &directory, world);
    expect(world, "NBDMAGICIHAVEOPT\0\3", 18);
    put(world, flags, 4);
    return 0;
}

static void done(struct world *world)
{
    weir_nbd_handshake_done(&world->handshake);
    weir_nbd_stream_done(&world->stream);
}

/* ---- tests ---- */

static weir_co_fn void test_oldest_client(void **state)
{
    struct world world;
    uint8_t zeroes[124] = { 0 };

    begin(&world, "\0\0\0\0");
    OPTION(&world, NBD_OPT_EXPORT_NAME, "disk");
    expect(&world, "\0\0\0\0\0\1\0\0\x0d\x6d", 10);
    expect(&world, zeroes, 124);
    expect_end(&world, WEIR_NBD_STEP_TRANSMISSION);
    assert_string_equal(world.attached, "disk");
    done(&world);
    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_EXPORT_NAME, "ro");
    expect(&world, "\0\0\0\0\0\1\0\0\x04\x0f", 10);
    expect_end(&world, WEIR_NBD_STEP_TRANSMISSION);
    assert_false(world.handshake.structured || world.handshake.base_allocation);
    done(&world);
}

static weir_co_fn void test_newest_client(void **state)
{
    struct world world;

    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_STRUCTURED_REPLY, "");
    REPLY(&world, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    OPTION(&world, NBD_OPT_SET_META_CONTEXT,
           "\0\0\0\4disk\0\0\0\2\0\0\0\6qemu:x\0\0\0\x0f"
           "base:allocation");
    REPLY(&world, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\1base:allocation");
    REPLY(&world, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "");
    OPTION(&world, NBD_OPT_GO, "\0\0\0\4disk\0\3\0\1\0\2\0\3");
    REPLY(&world, NBD_OPT_GO, NBD_REP_INFO, "\0\0\0\0\0\0\0\1\0\0\x0d\xed");
    REPLY(&world, NBD_OPT_GO, NBD_REP_INFO, "\0\3\0\0\0\1\0\0\x20\0\2\0\0\0");
    REPLY(&world, NBD_OPT_GO, NBD_REP_INFO, "\0\1disk");
    REPLY(&world, NBD_OPT_GO, NBD_REP_INFO, "\0\2mine");
    REPLY(&world, NBD_OPT_GO, NBD_REP_ACK, "");
    expect_end(&world, WEIR_NBD_STEP_TRANSMISSION);
    assert_true(world.handshake.structured && world.handshake.base_allocation);
    assert_string_equal(world.attached, "disk");
    done(&world);
}

static weir_co_fn void test_look_and_leave(void **state)
{
    struct world world;

    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_LIST, "");
    REPLY(&world, NBD_OPT_LIST, NBD_REP_SERVER, "\0\0\0\4diskmine");
    REPLY(&world, NBD_OPT_LIST, NBD_REP_SERVER, "\0\0\0\2ro");
    REPLY(&world, NBD_OPT_LIST, NBD_REP_ACK, "");
    OPTION(&world, NBD_OPT_INFO, "\0\0\0\2ro\0\0");
    REPLY(&world, NBD_OPT_INFO, NBD_REP_INFO, "\0\0\0\0\0\0\0\1\0\0\x04\x0f");
    expect_reply(&world, NBD_OPT_INFO, NBD_REP_INFO, NULL, 0);
    REPLY(&world, NBD_OPT_INFO, NBD_REP_ACK, "");
    OPTION(&world, NBD_OPT_ABORT, "");
    REPLY(&world, NBD_OPT_ABORT, NBD_REP_ACK, "");
    expect_end(&world, WEIR_NBD_STEP_END);
    assert_string_equal(world.attached, "");
    done(&world);
}

static weir_co_fn void test_list_contexts(void **state)
{
    static const char all[] = "\0\0\0\4disk\0\0\0\0", space[] = "\0\0\0\4disk\0\0\0\1\0\0\0\5base:";
    struct world world;

    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_STRUCTURED_REPLY, "");
    REPLY(&world, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK, "");
    put_option(&world, NBD_OPT_LIST_META_CONTEXT, all, sizeof(all) - 1);
    REPLY(&world, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\0base:allocation");
    REPLY(&world, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK, "");
    put_option(&world, NBD_OPT_LIST_META_CONTEXT, space, sizeof(space) - 1);
    REPLY(&world, NBD_OPT_LIST_META_CONTEXT, NBD_REP_META_CONTEXT, "\0\0\0\0base:allocation");
    REPLY(&world, NBD_OPT_LIST_META_CONTEXT, NBD_REP_ACK, "");
    /* SET knows neither of the two. */
    put_option(&world, NBD_OPT_SET_META_CONTEXT, all, sizeof(all) - 1);
    REPLY(&world, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "");
    put_option(&world, NBD_OPT_SET_META_CONTEXT, space, sizeof(space) - 1);
    REPLY(&world, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK, "");
    expect_end(&world, WEIR_NBD_STEP_MORE);
    assert_false(world.handshake.base_allocation);
    done(&world);
}

/* What was selected for one export does not hold for another; a failed SET takes back what was selected. */
static weir_co_fn void test_contexts_belong_to_an_export(void **state)
{
    static const char set[] = "\0\0\0\2ro\0\0\0\1\0\0\0\x0f"
                              "base:allocation";
    struct world world;

    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_STRUCTURED_REPLY, "");
    put_option(&world, NBD_OPT_SET_META_CONTEXT, set, sizeof(set) - 1);
    assert_true(world.handshake.base_allocation);
    OPTION(&world, NBD_OPT_GO, "\0\0\0\4disk\0\0");
    assert_int_equal(world.step, WEIR_NBD_STEP_TRANSMISSION);
    assert_false(world.handshake.base_allocation);
    done(&world);
    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_STRUCTURED_REPLY, "");
    put_option(&world, NBD_OPT_SET_META_CONTEXT, set, sizeof(set) - 1);
    OPTION(&world, NBD_OPT_SET_META_CONTEXT, "\0\0\0\2ro");
    OPTION(&world, NBD_OPT_GO, "\0\0\0\2ro\0\0");
    assert_false(world.handshake.base_allocation);
    done(&world);
}

struct wrong {
    uint32_t number;
    const char *data;
    size_t length;
    uint32_t kind;
};
#define WRONG(number, text, kind)            \
    {                                        \
        number, text, sizeof(text) - 1, kind \
    }

static const struct wrong wrongs[] = {
    WRONG(NBD_OPT_LIST, "x", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_STARTTLS, "", NBD_REP_ERR_POLICY),
    WRONG(0, "", NBD_REP_ERR_UNSUP),
    WRONG(4, "abc", NBD_REP_ERR_UNSUP),
    WRONG(11, "", NBD_REP_ERR_UNSUP),
    WRONG(0xffffffff, "", NBD_REP_ERR_UNSUP),
    WRONG(NBD_OPT_STRUCTURED_REPLY, "x", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_SET_META_CONTEXT, "\0\0\0\4disk\0\0\0\0", NBD_REP_ERR_INVALID), /* not yet */
    WRONG(NBD_OPT_STRUCTURED_REPLY, "", NBD_REP_ACK),
    WRONG(NBD_OPT_SET_META_CONTEXT, "\0\0\0\4nope\0\0\0\0", NBD_REP_ERR_UNKNOWN),
    WRONG(NBD_OPT_SET_META_CONTEXT, "\0\0\0\4disk\0\0\0\1", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_SET_META_CONTEXT, "\0\0\0\4disk\0\0\0\0x", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_LIST_META_CONTEXT, "", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_LIST_META_CONTEXT, "\0\0\0\4disk\xff\xff\xff\xff", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "\0\0\0\4disk", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "\0\0\0\4disk\0\1", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "\0\0\0\4disk\0\0\0\0", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "\0\0\0\4di\0k\0\0", NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO,
          "\xff\xff\xff\xff"
          "disk\0\0",
          NBD_REP_ERR_INVALID),
    WRONG(NBD_OPT_GO, "\0\0\0\4nope\0\0", NBD_REP_ERR_UNKNOWN),
    WRONG(NBD_OPT_INFO, "\0\0\0\0\0\0", NBD_REP_ERR_UNKNOWN),
};

/* All on one connection: a wrong option is answered, and the client may go on. */
static weir_co_fn void test_wrong_options(void **state)
{
    struct world world;

    begin(&world, "\0\0\0\1");
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(wrongs); i++) {
        put_option(&world, wrongs[i].number, wrongs[i].data, wrongs[i].length);
        expect_reply(&world, wrongs[i].number, wrongs[i].kind, NULL, 0);
        expect_end(&world, WEIR_NBD_STEP_MORE);
    }
    assert_string_equal(world.attached, "");
    done(&world);
}

static weir_co_fn void test_hang_up(void **state)
{
    static const char bad_magic[] = "IHAVENOT\0\0\0\3\0\0\0\0", huge[] = "IHAVEOPT\0\0\0\7\0\1\0\1";
    struct world world;

    begin(&world, "\0\0\0\7");
    expect_end(&world, WEIR_NBD_STEP_END);
    done(&world);
    begin(&world, "\0\0\0\3");
    put(&world, bad_magic, 16);
    expect_end(&world, WEIR_NBD_STEP_END);
    done(&world);
    begin(&world, "\0\0\0\3");
    put(&world, huge, 16);
    expect_reply(&world, NBD_OPT_GO, NBD_REP_ERR_TOO_BIG, NULL, 0);
    expect_end(&world, WEIR_NBD_STEP_END);
    done(&world);
    begin(&world, "\0\0\0\3");
    OPTION(&world, NBD_OPT_EXPORT_NAME, "nope");
    expect_end(&world, WEIR_NBD_STEP_END);
    done(&world);
    /* Who does not know fixed newstyle may only name an export. */
    begin(&world, "\0\0\0\0");
    OPTION(&world, NBD_OPT_LIST, "");
    expect_end(&world, WEIR_NBD_STEP_END);
    assert_non_null(world.handshake.reason);
    done(&world);
}

/* Byte by byte, nothing happens before an option is complete. */
static weir_co_fn void test_slow_client(void **state)
{
    static const char message[] = "IHAVEOPT\0\0\0\7\0\0\0\x0a\0\0\0\4disk\0\0";
    struct world world;

    begin(&world, "\0\0\0\3");
    for (size_t i = 0; i + 1 < sizeof(message) - 1; i++) {
        put(&world, message + i, 1);
        expect_end(&world, WEIR_NBD_STEP_MORE);
    }
    put(&world, message + sizeof(message) - 2, 1);
    assert_int_equal(world.step, WEIR_NBD_STEP_TRANSMISSION);
    done(&world);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_oldest_client),
        cmocka_unit_test(test_newest_client),
        cmocka_unit_test(test_look_and_leave),
        cmocka_unit_test(test_list_contexts),
        cmocka_unit_test(test_contexts_belong_to_an_export),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_slow_client),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    weir_buffer_trim();
    return failed;
}

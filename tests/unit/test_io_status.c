/* SPDX-License-Identifier: BSD-2-Clause */
/* Block status, through every kind of node; and that it never disagrees with what reads give. */
#include "base/iov.h"
#include "image_world.h"

static const struct image_options plain = { .size = 0 };

static weir_co_fn struct weir_status ask(struct weir_edge *edge, uint64_t offset, uint64_t length, bool deep)
{
    struct weir_status status = { 0 };

    WEIR_ASSERT(!weir_root_status(edge, offset, length, deep ? WEIR_REQUEST_DEEP : 0, &status));
    WEIR_ASSERT(status.length && status.length <= length);
    return status;
}

weir_co_fn DRIVER_TEST(leaf)
{
    struct weir_edge *edge;
    struct weir_status status;
    struct ram *ram;

    ram_register();
    edge = user(add("{'driver':'ram','node-name':'r','status':true,'align':512}"), R, ALL);
    ram = ram_of("r");
    ram->status = (struct weir_status){ .length = 4096, .zero = true, .allocated = true };
    status = ask(edge, 100, MIB - 100, true);
    WEIR_ASSERT(status.zero && !status.data && status.length == 4096);
    status = ask(edge, 100, 10, true);
    WEIR_ASSERT(status.length == 10);
    ram->status.length = 1000; /* not in steps smaller than the node's own */
    WEIR_ASSERT(ask(edge, 0, 4096, true).length == 512);
    ram->can_status = false;
    status = ask(edge, 5, 100, true);
    WEIR_ASSERT(status.data && !status.zero && status.allocated && status.length == 100);
    WEIR_ASSERT(status.file == edge->node && status.file_offset == 5);
    ram->can_status = true;
    ram->fail_in[WEIR_OP_STATUS] = 1;
    WEIR_ASSERT(weir_root_status(edge, 0, 512, WEIR_REQUEST_DEEP, &status) == -EIO);
    WEIR_ASSERT(weir_root_status(edge, MIB, 1, WEIR_REQUEST_DEEP, &status) == -EINVAL);
    WEIR_ASSERT(weir_root_status(edge, MIB - 1, 2, WEIR_REQUEST_DEEP, &status) == -EINVAL);
    WEIR_ASSERT(weir_root_status(edge, 0, 0, WEIR_REQUEST_DEEP, &status) == -EINVAL);
    leave(edge);
    del("r");
}

weir_co_fn DRIVER_TEST(filters_and_windows)
{
    struct weir_edge *through, *window;
    struct weir_status status;

    ram_register();
    add("{'driver':'ram','node-name':'r'}");
    through = user(add("{'driver':'pass','node-name':'p','file':'r'}"), R, ALL);
    window = user(add("{'driver':'raw','node-name':'w','file':'r','offset':4096,'size':8192}"), R, ALL);
    status = ask(through, 512, 1024, true);
    WEIR_ASSERT(status.data && status.length == 1024 && !status.depth);
    WEIR_ASSERT(status.file == weir_node_find("r") && status.file_offset == 512);
    status = ask(window, 512, 1024, false);
    WEIR_ASSERT(status.data && status.allocated && status.file == weir_node_find("r"));
    WEIR_ASSERT(status.file_offset == 4096 + 512);
    leave(through);
    leave(window);
    del("w");
    del("p");
    del("r");
}

weir_co_fn DRIVER_TEST(image)
{
    struct image image = image_new(&plain);
    char bytes[UNIT] = { 0 };
    struct weir_status status;

    WEIR_ASSERT(!image_write(&image, 1, 1) && !image_write(&image, 2, 1));
    WEIR_ASSERT(!io(image.edge, WEIR_OP_ZERO, 3 * UNIT, UNIT, NULL, WEIR_REQUEST_MAY_UNMAP));
    WEIR_ASSERT(!io(image.edge, WEIR_OP_WRITE, 4 * UNIT, UNIT, bytes, WEIR_REQUEST_COMPRESSED));
    status = ask(image.edge, 10, MIB - 10, true);
    WEIR_ASSERT(!status.allocated && status.zero && !status.data && status.length == UNIT - 10);
    status = ask(image.edge, UNIT + 10, MIB - UNIT - 10, true);
    WEIR_ASSERT(status.allocated && status.data && !status.zero && status.length == 2 * UNIT - 10);
    WEIR_ASSERT(status.file == image.file->node && status.file_offset == image_place(&image, 0) + 10);
    status = ask(image.edge, 4 * UNIT, UNIT, true);
    WEIR_ASSERT(status.compressed && status.data && !status.file && status.length == UNIT);
    image.file->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(weir_root_status(image.edge, 64 * UNIT, 1, WEIR_REQUEST_DEEP, &status) ==
                -EIO); /* the table */
    image_end(&image);
}

/* Down the backing chain: how deep, and only when it was asked for. */
weir_co_fn DRIVER_TEST(backing)
{
    static const struct image_options options = { .backing = "b" };
    struct image image;
    struct weir_status status;

    ram_register();
    add("{'driver':'ram','node-name':'b','size':%u}", 8 * UNIT + 512);
    image = image_new(&options);
    WEIR_ASSERT(!image_write(&image, 0, 1));
    status = ask(image.edge, 0, MIB, true);
    WEIR_ASSERT(status.allocated && !status.depth && status.length == UNIT);
    status = ask(image.edge, UNIT, MIB - UNIT, true);
    WEIR_ASSERT(status.allocated && status.data && status.depth == 1 && status.length == 7 * UNIT + 512);
    WEIR_ASSERT(status.file == weir_node_find("b") && status.file_offset == UNIT);
    status = ask(image.edge, UNIT, MIB - UNIT, false);
    WEIR_ASSERT(!status.allocated && !status.zero && !status.depth);
    status = ask(image.edge, 9 * UNIT, UNIT, true); /* beyond the end of the backing node */
    WEIR_ASSERT(status.zero && !status.data && status.length == UNIT);
    image_end(&image);
    del("b");
}

/* A status does not look while the mapping changes. */
weir_co_fn DRIVER_TEST(waits_for_a_change)
{
    struct image image = image_new(&plain);
    struct task write;
    char bytes[UNIT] = { 1 };
    struct weir_status status;

    image.file->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&write, image.edge, WEIR_OP_WRITE, 0, UNIT, bytes);
    ram_wait_held(image.file, 1);
    image.file->hold = 0;
    WEIR_ASSERT(ask(image.edge, UNIT, UNIT, true).zero); /* elsewhere: at once */
    WEIR_ASSERT(!write.over);
    ram_release(image.file);
    status = ask(image.edge, 0, UNIT, true);
    WEIR_ASSERT(write.over && status.data && status.allocated);
    image_end(&image);
}

static weir_co_fn void check_agreement(struct image *image, char *bytes)
{
    WEIR_ASSERT(!io(image->edge, WEIR_OP_READ, 0, MIB, bytes, 0));
    for (uint64_t at = 0; at < MIB;) {
        struct weir_status status = ask(image->edge, at, MIB - at, true);

        WEIR_ASSERT(!status.zero ||
                    weir_iov_is_zero(&(struct iovec){ bytes + at, status.length }, 1, 0, status.length));
        WEIR_ASSERT(!status.file ||
                    !memcmp(bytes + at, ram_of(status.file->name)->data + status.file_offset, status.length));
        at += status.length;
    }
}

weir_co_fn DRIVER_TEST(agrees_with_reads)
{
    static const struct image_options options = { .backing = "b", .room = 300, .cache = 2 };
    weir_autofree char *bytes = weir_alloc(MIB);
    uint64_t random = 12345;
    struct image image;

    ram_register();
    add("{'driver':'ram','node-name':'b','size':%u}", 100 * UNIT + 512);
    memset(ram_of("b")->data, 9, 100 * UNIT + 512);
    image = image_new(&options);
    for (unsigned i = 0; i < 300; i++) {
        static const enum weir_op ops[] = { WEIR_OP_WRITE, WEIR_OP_WRITE, WEIR_OP_ZERO, WEIR_OP_DISCARD };
        enum weir_op op;
        uint64_t offset, length;
        unsigned flags;

        random = random * 6364136223846793005ull + 1442695040888963407ull;
        op = ops[random >> 60 & 3];
        offset = (random >> 20) % (MIB - 1);
        length = WEIR_MIN(1 + (random >> 40) % (5 * UNIT), MIB - offset);
        flags = op == WEIR_OP_ZERO && random >> 59 & 1 ? WEIR_REQUEST_MAY_UNMAP : 0;
        memset(bytes, (int)(random >> 33), length);
        WEIR_ASSERT(!io(image.edge, op, offset, length, op == WEIR_OP_WRITE ? bytes : NULL, flags));
        if (i % 50 == 0)
            check_agreement(&image, bytes);
    }
    check_agreement(&image, bytes);
    image_end(&image);
    del("b");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(leaf),    cmocka_unit_test(filters_and_windows), cmocka_unit_test(image),
        cmocka_unit_test(backing), cmocka_unit_test(waits_for_a_change),  cmocka_unit_test(agrees_with_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the core makes of requests that a leaf does not take as they are. The leaf (ram.c) asserts its limits itself;
 * here is looked at what arrives there, and that the bytes are right.
 */
#include "ram.h"

struct disk {
    struct weir_node *node;
    struct weir_edge *edge;
    struct ram *ram;
};

static weir_co_fn struct disk disk_new(const char *more)
{
    struct disk disk;

    ram_register();
    disk.node = add("{'driver':'ram','node-name':'r','discard':'unmap'%s}", more);
    disk.edge = user(disk.node, R | W, ALL);
    disk.ram = ram_of("r");
    return disk;
}

static weir_co_fn void disk_end(struct disk *disk)
{
    leave(disk->edge);
    del("r");
}

static char pattern(uint64_t i)
{
    return (char)(i * 7 + i / 251 + 1);
}

static void make_pattern(char *buffer, uint64_t length)
{
    for (uint64_t i = 0; i < length; i++)
        buffer[i] = pattern(i);
}

/* Writes a pattern there and reads it back by a way of its own; the bytes around it must be as they were. */
static weir_co_fn void round_trip(struct disk *disk, uint64_t offset, uint64_t length)
{
    weir_autofree char *out = weir_alloc(length), *in = weir_alloc(length);

    memset(disk->ram->data, 0x55, weir_node_size(disk->node));
    make_pattern(out, length);
    WEIR_ASSERT(!io(disk->edge, WEIR_OP_WRITE, offset, length, out, 0));
    WEIR_ASSERT(!memcmp(disk->ram->data + offset, out, length));
    WEIR_ASSERT(!offset || disk->ram->data[offset - 1] == 0x55);
    WEIR_ASSERT(offset + length == weir_node_size(disk->node) || disk->ram->data[offset + length] == 0x55);
    WEIR_ASSERT(!io(disk->edge, WEIR_OP_READ, offset, length, in, 0));
    WEIR_ASSERT(!memcmp(in, out, length));
}

/* ---- range ---- */

weir_co_fn DRIVER_TEST(alignment)
{
    struct disk disk = disk_new(",'align':512");

    round_trip(&disk, 512, 1024);
    ram_expect(disk.ram, "write 512+1024, read 512+1024");
    round_trip(&disk, 700, 100);
    ram_expect(disk.ram, "read 512+512, write 512+512, read 512+512");
    round_trip(&disk, 512, 88);
    ram_expect(disk.ram, "read 512+512, write 512+512, read 512+512");
    round_trip(&disk, 1000, 24);
    ram_expect(disk.ram, "read 512+512, write 512+512, read 512+512");
    round_trip(&disk, 600, 1000);
    ram_expect(disk.ram, "read 512+512, read 1536+512, write 512+1536, read 512+1536");
    round_trip(&disk, 512, 600);
    ram_expect(disk.ram, "read 1024+512, write 512+1024, read 512+1024");
    round_trip(&disk, 500, 524);
    ram_expect(disk.ram, "read 0+512, write 0+1024, read 0+1024");
    round_trip(&disk, MIB - 3, 3);
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(rmw_failures)
{
    struct disk disk = disk_new(",'align':512");
    char byte = 1;

    disk.ram->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(disk.edge, WEIR_OP_WRITE, 5, 1, &byte, 0) == -EIO);
    ram_expect(disk.ram, "read 0+512");
    disk.ram->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(disk.edge, WEIR_OP_READ, 5, 1, &byte, 0) == -EIO);
    disk.ram->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(io(disk.edge, WEIR_OP_WRITE, 5, 1, &byte, 0) == -EIO);
    WEIR_ASSERT(!io(disk.edge, WEIR_OP_WRITE, 5, 1, &byte, 0)); /* no lock was left behind */
    disk_end(&disk);
}

/* Sixteen writers of one sector, each of a few bytes of its own: none may undo the other. */
weir_co_fn DRIVER_TEST(rmw_concurrent)
{
    struct disk disk = disk_new(",'align':512");
    struct task tasks[16];
    char bytes[16][20];

    disk.ram->pauses = 3;
    for (unsigned round = 0; round < 4; round++) {
        memset(disk.ram->data, 0, 1024);
        for (unsigned i = 0; i < 16; i++) {
            memset(bytes[i], (int)(i + 1), sizeof(bytes[i]));
            task_start(&tasks[i], disk.edge, WEIR_OP_WRITE, 400 + 20 * i, 20, bytes[i]);
        }
        for (unsigned i = 0; i < 16; i++)
            WEIR_ASSERT(!task_wait(&tasks[i]));
        for (unsigned i = 0; i < 16; i++)
            WEIR_ASSERT(!memcmp(disk.ram->data + 400 + 20 * i, bytes[i], 20));
    }
    disk_end(&disk);
}

/* A whole sector that arrives while a part of it is read, merged and written back is not lost. */
weir_co_fn DRIVER_TEST(rmw_against_aligned_write)
{
    struct disk disk = disk_new(",'align':512,'zero':true");
    struct task part, whole, zero;
    char few[10], many[512];

    memset(few, 1, sizeof(few));
    memset(many, 2, sizeof(many));
    disk.ram->hold = WEIR_OP_BIT(WEIR_OP_READ);
    task_start(&part, disk.edge, WEIR_OP_WRITE, 100, 10, few);
    task_start(&whole, disk.edge, WEIR_OP_WRITE, 0, 512, many);
    settle();
    WEIR_ASSERT(!whole.over);
    ram_release(disk.ram);
    WEIR_ASSERT(!task_wait(&part) && !task_wait(&whole));
    WEIR_ASSERT(disk.ram->data[0] == 2 && disk.ram->data[511] == 2);

    disk.ram->hold = WEIR_OP_BIT(WEIR_OP_READ);
    task_start(&part, disk.edge, WEIR_OP_WRITE, 100, 10, few);
    task_start(&zero, disk.edge, WEIR_OP_ZERO, 0, 1024, NULL);
    settle();
    WEIR_ASSERT(!zero.over);
    ram_release(disk.ram);
    WEIR_ASSERT(!task_wait(&part) && !task_wait(&zero));
    WEIR_ASSERT(!disk.ram->data[0] && !disk.ram->data[511]);
    disk_end(&disk);
}

/* Aligned writes of different sectors do not wait for each other. */
weir_co_fn DRIVER_TEST(aligned_writes_share)
{
    struct disk disk = disk_new(",'align':512");
    struct task a, b;
    char bytes[512] = { 0 };

    disk.ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&a, disk.edge, WEIR_OP_WRITE, 0, 512, bytes);
    task_start(&b, disk.edge, WEIR_OP_WRITE, 0, 512, bytes);
    ram_wait_held(disk.ram, 2);
    ram_release(disk.ram);
    WEIR_ASSERT(!task_wait(&a) && !task_wait(&b));
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(splitting)
{
    struct disk disk = disk_new(",'align':512,'max':1300");

    round_trip(&disk, 0, 3000); /* pieces of 1024: whole sectors */
    ram_expect(disk.ram, "read 2560+512, write 0+1024, write 1024+1024, write 2048+1024, "
                         "read 0+1024, read 1024+1024, read 2048+1024");
    disk.ram->fail_in[WEIR_OP_WRITE] = 2;
    {
        weir_autofree char *bytes = weir_alloc(4096);

        memset(bytes, 1, 4096);
        WEIR_ASSERT(io(disk.edge, WEIR_OP_WRITE, 0, 4096, bytes, 0) == -EIO);
    }
    ram_expect(disk.ram, "write 0+1024, write 1024+1024");
    disk_end(&disk);
}

/* ---- memory ---- */

weir_co_fn DRIVER_TEST(bouncing)
{
    struct disk disk = disk_new(",'align':512,'memory-align':512,'max':4096");
    weir_autofree char *space = weir_try_alloc(16384, 4096), *back = weir_alloc(8192);
    struct iovec iov = { space + 3, 8192 };
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, 512, 8192, &iov, 1, 0);

    make_pattern(space + 3, 8192);
    WEIR_ASSERT(!weir_root_io(disk.edge, &request));
    WEIR_ASSERT(!memcmp(disk.ram->data + 512, space + 3, 8192));
    ram_expect(disk.ram, "write 512+4096, write 4608+4096");
    memcpy(back, space + 3, 8192);
    memset(space, 0, 16384);
    request.op = WEIR_OP_READ;
    WEIR_ASSERT(!weir_root_io(disk.edge, &request));
    WEIR_ASSERT(!memcmp(back, space + 3, 8192) && !space[2] && !space[3 + 8192]);
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(long_vectors)
{
    struct disk disk = disk_new(",'iov-max':4,'max':2048");
    weir_autofree char *space = weir_alloc(64 * 100);
    struct iovec iov[64];
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, 17, 64ul * 100, iov, 64, 0);

    make_pattern(space, 6400);
    for (unsigned i = 0; i < 64; i++)
        iov[i] = (struct iovec){ space + (size_t)100 * (63 - i), 100 };
    WEIR_ASSERT(!weir_root_io(disk.edge, &request));
    for (unsigned i = 0; i < 64; i++)
        WEIR_ASSERT(!memcmp(disk.ram->data + 17 + 100 * i, iov[i].iov_base, 100));
    memset(space, 0, 6400);
    request.op = WEIR_OP_READ;
    WEIR_ASSERT(!weir_root_io(disk.edge, &request));
    for (uint64_t i = 0; i < 6400; i++)
        WEIR_ASSERT(space[i] == pattern(i));
    disk_end(&disk);
}

/* ---- zero ---- */

static weir_co_fn int zero(struct disk *disk, uint64_t offset, uint64_t length, unsigned flags)
{
    memset(disk->ram->data, 0x55, weir_node_size(disk->node));
    return io(disk->edge, WEIR_OP_ZERO, offset, length, NULL, flags);
}

static bool only_zeroed(const struct disk *disk, uint64_t offset, uint64_t length)
{
    for (uint64_t i = 0; i < weir_node_size(disk->node); i++) {
        if (disk->ram->data[i] != (i >= offset && i < offset + length ? 0 : 0x55))
            return false;
    }
    return true;
}

weir_co_fn DRIVER_TEST(zero_by_driver)
{
    struct disk disk = disk_new(",'align':512,'zero':true,'zero-align':4096,'zero-max':10000,'size':102912");

    WEIR_ASSERT(!zero(&disk, 4096, 20480, 0) && only_zeroed(&disk, 4096, 20480));
    ram_expect(disk.ram, "zero 4096+8192, zero 12288+8192, zero 20480+4096");
    WEIR_ASSERT(!zero(&disk, 1000, 8000, 0) && only_zeroed(&disk, 1000, 8000));
    ram_expect(disk.ram, "zero 4096+4096, read 512+512, write 512+3584, read 8704+512, write 8192+1024");
    WEIR_ASSERT(!zero(&disk, 5000, 100, 0) && only_zeroed(&disk, 5000, 100));
    ram_expect(disk.ram, "read 4608+512, write 4608+512");
    /* At the end the tail needs no whole unit. */
    WEIR_ASSERT(!zero(&disk, 98304, 4608, 0) && only_zeroed(&disk, 98304, 4608));
    ram_expect(disk.ram, "zero 98304+4608");
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(zero_fallback)
{
    struct disk disk = disk_new(",'size':4194304");

    WEIR_ASSERT(!zero(&disk, 10, 2 * MIB, 0) && only_zeroed(&disk, 10, 2 * MIB));
    ram_expect(disk.ram, "zero 10+2097152, write 10+1048576, write 1048586+1048576");
    WEIR_ASSERT(zero(&disk, 10, 20, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP && only_zeroed(&disk, 0, 0));
    ram_expect(disk.ram, "zero 10+20");
    /* An error that is not "cannot" is passed on. */
    disk.ram->fail_in[WEIR_OP_ZERO] = 1;
    WEIR_ASSERT(zero(&disk, 0, 512, 0) == -EIO);
    ram_expect(disk.ram, "zero 0+512");
    disk_end(&disk);
}

/* It could at first and then cannot: what is left, and what is done already, is written. */
weir_co_fn DRIVER_TEST(zero_gives_up_midway)
{
    struct disk disk = disk_new(",'zero':true,'zero-max':1024");

    disk.ram->error = -ENOTSUP;
    disk.ram->fail_in[WEIR_OP_ZERO] = 2;
    WEIR_ASSERT(!zero(&disk, 0, 4096, 0) && only_zeroed(&disk, 0, 4096));
    ram_expect(disk.ram, "zero 0+1024, zero 1024+1024, write 0+4096");
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(zero_quickly_or_not)
{
    struct disk disk = disk_new(",'zero':true,'zero-align':4096,'quick':true");

    WEIR_ASSERT(zero(&disk, 100, 4000, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP && only_zeroed(&disk, 0, 0));
    ram_expect(disk.ram, "");
    WEIR_ASSERT(!zero(&disk, 0, 8192, WEIR_REQUEST_NO_FALLBACK) && only_zeroed(&disk, 0, 8192));
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(zero_flags)
{
    struct disk disk = disk_new(",'zero':true,'unmap':true");
    struct weir_node *keeps = add("{'driver':'ram','node-name':'k','zero':true,'unmap':true}");
    struct weir_node *plain = add("{'driver':'ram','node-name':'l','zero':true,'discard':'unmap'}");
    struct weir_edge *edge = user(keeps, R | W, ALL), *other = user(plain, R | W, ALL);

    WEIR_ASSERT(
        !io(other, WEIR_OP_ZERO, 0, 512, NULL, WEIR_REQUEST_MAY_UNMAP)); /* the driver does not know it */
    ram_expect(disk.ram, "zero 0+512");
    leave(other);
    del("l");
    WEIR_ASSERT(!zero(&disk, 0, 512, WEIR_REQUEST_MAY_UNMAP));
    ram_expect(disk.ram, "zero 0+512 unmap");
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 512, NULL, WEIR_REQUEST_MAY_UNMAP)); /* discard=ignore */
    ram_expect(disk.ram, "zero 0+512");
    leave(edge);
    del("k");
    disk_end(&disk);
}

/* ---- discard ---- */

weir_co_fn DRIVER_TEST(discard_rounding)
{
    struct disk disk =
        disk_new(",'zero':true,'align':512,'discard-align':4096,'discard-max':10000,'size':99840");

    WEIR_ASSERT(!io(disk.edge, WEIR_OP_DISCARD, 100, 24000, NULL, 0));
    ram_expect(disk.ram, "discard 4096+8192, discard 12288+8192");
    WEIR_ASSERT(!io(disk.edge, WEIR_OP_DISCARD, 100, 8000, NULL, 0));
    ram_expect(disk.ram, "");
    WEIR_ASSERT(!io(disk.edge, WEIR_OP_DISCARD, 98000, 1840, NULL, 0));
    ram_expect(disk.ram, "discard 98304+1536"); /* to the end */
    disk.ram->fail_in[WEIR_OP_DISCARD] = 1;
    WEIR_ASSERT(io(disk.edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0) == -EIO);
    disk_end(&disk);
}

weir_co_fn DRIVER_TEST(discard_is_advice)
{
    struct disk disk = disk_new("");
    struct weir_node *ignores = add("{'driver':'ram','node-name':'k','zero':true}");
    struct weir_edge *edge = user(ignores, R | W, ALL);

    WEIR_ASSERT(!io(disk.edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0)); /* the driver cannot */
    ram_expect(disk.ram, "discard 0+4096");
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0));
    ram_expect(disk.ram, "");
    leave(edge);
    del("k");
    disk_end(&disk);
}

/* ---- detect-zeroes ---- */

weir_co_fn DRIVER_TEST(detect_zeroes)
{
    struct disk disk = disk_new(",'zero':true,'unmap':true,'try':true,'detect-zeroes':'unmap'");
    char bytes[1024] = { 0 };

    WEIR_ASSERT(!io(disk.edge, WEIR_OP_WRITE, 0, 1024, bytes, 0));
    ram_expect(disk.ram, "zero 0+1024 unmap");
    WEIR_ASSERT(!io(disk.edge, WEIR_OP_WRITE, 0, 1024, bytes, WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_FUA));
    ram_expect(disk.ram, "zero 0+1024 unmap, flush");
    bytes[1023] = 1;
    WEIR_ASSERT(!io(disk.edge, WEIR_OP_WRITE, 0, 1024, bytes, WEIR_REQUEST_UNSTABLE));
    ram_expect(disk.ram, "write 0+1024");
    disk_end(&disk);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alignment),
        cmocka_unit_test(rmw_failures),
        cmocka_unit_test(rmw_concurrent),
        cmocka_unit_test(rmw_against_aligned_write),
        cmocka_unit_test(aligned_writes_share),
        cmocka_unit_test(splitting),
        cmocka_unit_test(bouncing),
        cmocka_unit_test(long_vectors),
        cmocka_unit_test(zero_by_driver),
        cmocka_unit_test(zero_fallback),
        cmocka_unit_test(zero_gives_up_midway),
        cmocka_unit_test(zero_quickly_or_not),
        cmocka_unit_test(zero_flags),
        cmocka_unit_test(discard_rounding),
        cmocka_unit_test(discard_is_advice),
        cmocka_unit_test(detect_zeroes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

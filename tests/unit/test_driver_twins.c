/* SPDX-License-Identifier: BSD-2-Clause */
/* Filters with two children: blkverify and blklogwrites over leaves that can be held and made to fail. */
#include "ram.h"

static struct {
    unsigned mismatch;
    int64_t at;
} reported;

static void note(const struct weir_dissent *dissent)
{
    reported.mismatch += dissent->kind == WEIR_DISSENT_MISMATCH;
    reported.at = dissent->at;
}

/* The leaves a and b, and above them the filter f. */
static weir_co_fn struct weir_edge *open_filter(const char *filter, unsigned perm)
{
    ram_register();
    weir_graph_on_dissent(note);
    memset(&reported, 0, sizeof(reported));
    for (unsigned i = 0; i < 2; i++)
        add("{'driver':'ram','node-name':'%c','tag':true,'fua':true,'zero':true,'unmap':true,'discard':'"
            "unmap'}",
            'a' + i);
    return user(add("{'node-name':'f','discard':'unmap',%s}", filter), perm, ALL);
}

static weir_co_fn void end(struct weir_edge *edge)
{
    leave(edge);
    del("f");
    del("a");
    del("b");
    weir_graph_on_dissent(NULL);
}

#define VERIFY "'driver':'blkverify','test':'a','raw':'b'"
#define LOG "'driver':'blklogwrites','file':'a','log':'b'"

/* ---- blkverify ---- */

weir_co_fn DRIVER_TEST(verify_compares)
{
    struct weir_edge *edge = open_filter(VERIFY, R | W);
    char buffer[4096];

    fill(edge, 100, 4096, 1);
    WEIR_ASSERT(holds(edge, 0, 100, 0) && holds(edge, 100, 4096, 1) && !reported.mismatch);
    ram_of("b")->data[1000] = 2;
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 512, 4096, buffer, 0) == -EIO);
    settle();
    WEIR_ASSERT(reported.mismatch == 1 && reported.at == 1000);
    WEIR_ASSERT(holds(edge, 100, 900, 1) && holds(edge, 1001, 3000, 1));
    /* Both fail with the same: that is no difference. */
    ram_of("a")->fail_in[WEIR_OP_WRITE] = ram_of("b")->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -EIO);
    settle();
    WEIR_ASSERT(reported.mismatch == 1);
    ram_of("a")->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 0, 512, buffer, 0) == -EIO);
    settle();
    WEIR_ASSERT(reported.mismatch == 2 && reported.at == -1);
    end(edge);
}

/* A read never meets a side that has a write with one that does not have it yet; writes keep their order. */
weir_co_fn DRIVER_TEST(verify_in_order)
{
    struct weir_edge *edge = open_filter(VERIFY, R | W);
    struct task first, second, read;
    char one[512], two[512], in[512];

    memset(one, 1, sizeof(one));
    memset(two, 2, sizeof(two));
    ram_of("b")->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&first, edge, WEIR_OP_WRITE, 0, 512, one);
    task_start(&second, edge, WEIR_OP_WRITE, 0, 512, two);
    task_start(&read, edge, WEIR_OP_READ, 0, 512, in);
    settle();
    WEIR_ASSERT(ram_of("b")->held == 1 && !read.over && ram_of("a")->data[0] == 1);
    ram_release(ram_of("b"));
    WEIR_ASSERT(!task_wait(&first) && !task_wait(&second) && !task_wait(&read));
    WEIR_ASSERT(in[0] == 2 && ram_of("a")->data[0] == 2 && ram_of("b")->data[0] == 2 && !reported.mismatch);
    end(edge);
}

/* What a request says about itself goes to both. */
weir_co_fn DRIVER_TEST(verify_flags)
{
    struct weir_edge *edge = open_filter(VERIFY, R | U);
    char buffer[512] = { 0 };

    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -EPERM);
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 0, 512, buffer, WEIR_REQUEST_UNCHANGED | WEIR_REQUEST_FUA));
    ram_expect(ram_of("a"), "b write 0+512 fua unchanged, a write 0+512 fua unchanged");
    leave(edge);
    edge = user(weir_node_find("f"), R | W, ALL);
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 4096, NULL, WEIR_REQUEST_MAY_UNMAP));
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 0, 4096, NULL, WEIR_REQUEST_NO_FALLBACK) == -ENOTSUP);
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0));
    ram_expect(ram_of("a"), "b zero 0+4096 unmap, a zero 0+4096 unmap");
    end(edge);
}

/* ---- blklogwrites ---- */

/* The entry comes after the change, the data before its entry, the super block with the flush. */
weir_co_fn DRIVER_TEST(log_order)
{
    struct weir_edge *edge = open_filter(LOG, R | W);

    fill(edge, 4096, 1024, 1);
    ram_expect(ram_of("a"), "a write 4096+1024, b write 1024+1024, b write 512+512");
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    ram_expect(ram_of("a"), "a flush, b write 2048+512, b write 0+512, b flush");
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 4096, NULL, 0));
    ram_expect(ram_of("a"), "a zero 0+4096, b zero 3072+4096 unmap, b write 2560+512");
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 4096, NULL, 0));
    ram_expect(ram_of("a"), "a discard 0+4096, b write 7168+512");
    end(edge);
}

/* A change that failed is not logged; one that cannot be logged fails, and leaves a log that is whole. */
weir_co_fn DRIVER_TEST(log_failures)
{
    struct weir_edge *edge = open_filter(LOG, R | W);
    char buffer[512] = { 1 };

    ram_of("a")->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -EIO);
    ram_expect(ram_of("a"), "a write 0+512");
    ram_of("b")->fail_in[WEIR_OP_WRITE] = 2;
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -EIO);
    ram_expect(ram_of("a"), "a write 0+512, b write 1024+512, b write 512+512");
    fill(edge, 0, 512, 2);
    ram_expect(ram_of("a"), "a write 0+512, b write 1024+512, b write 512+512");
    WEIR_ASSERT(ram_of("b")->data[1024] == 2);
    /* The log is a leaf that does not grow. */
    memset(buffer, 3, sizeof(buffer));
    for (unsigned i = 0; i < 1022; i++)
        fill(edge, (uint64_t)i * 512, 512, 3);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 0, 512, buffer, 0) == -ENOSPC);
    WEIR_ASSERT(holds(edge, 0, 512, 3));
    end(edge);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verify_compares), cmocka_unit_test(verify_in_order), cmocka_unit_test(verify_flags),
        cmocka_unit_test(log_order),       cmocka_unit_test(log_failures),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* Durability of leaves: FUA, shared and skipped flushes, failures that stick. And I/O buffers. */
#include "ram.h"

static weir_co_fn struct weir_edge *disk(const char *more)
{
    ram_register();
    return user(add("{'driver':'ram','node-name':'r','discard':'unmap'%s}", more), R | W, ALL);
}

static weir_co_fn void end(struct weir_edge *edge)
{
    leave(edge);
    del("r");
}

static weir_co_fn int flush(struct weir_edge *edge)
{
    return io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0);
}

static weir_co_fn int write_fua(struct weir_edge *edge, unsigned flags)
{
    char bytes[512] = { 1 };

    return io(edge, WEIR_OP_WRITE, 0, 512, bytes, flags);
}

weir_co_fn DRIVER_TEST(fua_by_flush)
{
    struct weir_edge *edge = disk(",'zero':true,'try':true");
    struct ram *ram = ram_of("r");

    WEIR_ASSERT(!write_fua(edge, WEIR_REQUEST_FUA));
    ram_expect(ram, "write 0+512, flush");
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 512, NULL, WEIR_REQUEST_FUA));
    ram_expect(ram, "zero 0+512, flush");
    ram->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(write_fua(edge, WEIR_REQUEST_FUA) == -EIO);
    ram_expect(ram, "write 0+512");
    ram->fail_in[WEIR_OP_FLUSH] = 1;
    WEIR_ASSERT(write_fua(edge, WEIR_REQUEST_FUA) == -EIO);
    ram_expect(ram, "write 0+512, flush");
    end(edge);
}

/* The driver's own FUA; for ZERO it does not count, as the fallback may have written without. */
weir_co_fn DRIVER_TEST(fua_by_driver)
{
    struct weir_edge *edge = disk(",'zero':true,'fua':true,'try':true");
    struct ram *ram = ram_of("r");

    WEIR_ASSERT(!write_fua(edge, WEIR_REQUEST_FUA));
    ram_expect(ram, "write 0+512 fua");
    ram->can_try = false;
    WEIR_ASSERT(!write_fua(edge, WEIR_REQUEST_FUA));
    ram_expect(ram, "write 0+512 fua");
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, 512, NULL, WEIR_REQUEST_FUA));
    ram_expect(ram, "zero 0+512, flush");
    /* The OS has told this write what it would have told the next flush. */
    WEIR_ASSERT(!write_fua(edge, 0));
    ram->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(write_fua(edge, WEIR_REQUEST_FUA) == -EIO);
    ram_expect(ram, "write 0+512, write 0+512 fua");
    WEIR_ASSERT(flush(edge) == -EIO && flush(edge) == -EIO);
    ram_expect(ram, "");
    end(edge);
}

/* Write generations: only what may have changed the disk since the last good flush makes one necessary. */
weir_co_fn DRIVER_TEST(nothing_to_flush)
{
    struct weir_edge *edge = disk(",'zero':true");
    struct ram *ram = ram_of("r");
    char byte;

    WEIR_ASSERT(!flush(edge));
    WEIR_ASSERT(!write_fua(edge, 0) && !flush(edge));
    ram_expect(ram, "write 0+512, flush");
    WEIR_ASSERT(!flush(edge) && !io(edge, WEIR_OP_READ, 0, 1, &byte, 0) && !flush(edge));
    ram_expect(ram, "read 0+1");
    ram->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(write_fua(edge, 0) == -EIO && !flush(edge));
    ram_expect(ram, "write 0+512, flush");
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, 512, NULL, 0) && !flush(edge) && !flush(edge));
    ram_expect(ram, "discard 0+512, flush");
    ram->can_try = true;
    ram->fail_in[WEIR_OP_WRITE] = 1;
    WEIR_ASSERT(write_fua(edge, 0) == -EIO && !flush(edge));
    ram_expect(ram, "write 0+512, flush");
    end(edge);
}

/* What was written while a flush ran is not covered by it; who comes meanwhile shares the next one. */
weir_co_fn DRIVER_TEST(shared_flush)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task first, same, more[5];

    ram->hold = WEIR_OP_BIT(WEIR_OP_FLUSH);
    WEIR_ASSERT(!write_fua(edge, 0));
    task_start(&first, edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(ram, 1);
    task_start(&same, edge, WEIR_OP_FLUSH, 0, 0, NULL); /* nothing new: the running one covers it */
    WEIR_ASSERT(!write_fua(edge, 0));
    for (unsigned i = 0; i < 5; i++)
        task_start(&more[i], edge, WEIR_OP_FLUSH, 0, 0, NULL);
    settle();
    WEIR_ASSERT(!same.over && !more[0].over);
    ram_let_go(ram);
    WEIR_ASSERT(!task_wait(&first) && !task_wait(&same));
    ram_wait_held(ram, 1);
    WEIR_ASSERT(!more[0].over && !more[4].over);
    ram_release(ram);
    for (unsigned i = 0; i < 5; i++)
        WEIR_ASSERT(!task_wait(&more[i]));
    WEIR_ASSERT(ram->flushes == 2);
    end(edge);
}

/* A write that is answered while the flush runs must be flushed again, though the flush began after it. */
weir_co_fn DRIVER_TEST(write_during_flush)
{
    struct weir_edge *edge = disk("");
    struct ram *ram = ram_of("r");
    struct task task, writing;
    char bytes[512] = { 0 };

    WEIR_ASSERT(!write_fua(edge, 0));
    ram->hold = WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_FLUSH);
    task_start(&writing, edge, WEIR_OP_WRITE, 0, 512, bytes);
    task_start(&task, edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(ram, 2);
    ram_release(ram);
    WEIR_ASSERT(!task_wait(&writing) && !task_wait(&task) && ram->flushes == 1);
    WEIR_ASSERT(!flush(edge) && ram->flushes == 2);
    end(edge);
}

weir_co_fn DRIVER_TEST(failure_sticks)
{
    struct weir_edge *edge = disk(",'try':true");
    struct ram *ram = ram_of("r");
    struct task task, waiter;

    WEIR_ASSERT(!write_fua(edge, 0));
    ram->hold = WEIR_OP_BIT(WEIR_OP_FLUSH);
    ram->fail_in[WEIR_OP_FLUSH] = 1;
    task_start(&task, edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(ram, 1);
    WEIR_ASSERT(!write_fua(edge, 0));
    task_start(&waiter, edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_release(ram);
    WEIR_ASSERT(task_wait(&task) == -EIO && task_wait(&waiter) == -EIO);
    WEIR_ASSERT(flush(edge) == -EIO);
    WEIR_ASSERT(!write_fua(edge, 0) && flush(edge) == -EIO);
    WEIR_ASSERT(write_fua(edge, WEIR_REQUEST_FUA) == -EIO);
    ram_expect(ram, "write 0+512, flush, write 0+512, write 0+512, write 0+512"); /* it was not asked again */
    end(edge);
}

weir_co_fn DRIVER_TEST(no_flush)
{
    struct weir_edge *edge = disk(",'cache':{'no-flush':true}");
    struct ram *ram = ram_of("r");

    WEIR_ASSERT(!write_fua(edge, 0) && !flush(edge));
    ram_expect(ram, "write 0+512");
    end(edge);
}

/* ---- buffers ---- */

static void buffers(void **state)
{
    static const uint64_t sizes[] = { 0, 1, 4096, 4097, 65536, (8u << 20), (8u << 20) + 1 };
    struct weir_buffer *a, *b;
    void *data;

    (void)state;
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(sizes); i++) {
        a = weir_buffer_new(sizes[i]);
        assert_non_null(a);
        assert_true(a->size >= sizes[i] && !((uintptr_t)a->data % 4096));
        memset(a->data, 1, a->size);
        weir_buffer_unref(a);
    }
    a = weir_buffer_new(65536);
    data = a->data;
    b = weir_buffer_ref(a);
    weir_buffer_unref(a);
    a = weir_buffer_new(65536);
    assert_ptr_not_equal(a->data, data); /* still referenced */
    memset(b->data, 2, b->size);
    weir_buffer_unref(b);
    b = weir_buffer_new(40000);
    assert_ptr_equal(b->data, data); /* recycled for the class */
    weir_buffer_unref(a);
    weir_buffer_unref(b);
    weir_buffer_unref(NULL);
    assert_null(weir_buffer_new((uint64_t)1 << 60));
    weir_buffer_trim();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fua_by_flush),       cmocka_unit_test(fua_by_driver),
        cmocka_unit_test(nothing_to_flush),   cmocka_unit_test(shared_flush),
        cmocka_unit_test(write_during_flush), cmocka_unit_test(failure_sticks),
        cmocka_unit_test(no_flush),           cmocka_unit_test(buffers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table cache and the quarantine, with the test format as the driver, over leaves that say what was written and
 * flushed. Layout with the defaults: counts at 4096, table at 4608 (64 units a block), snapshot table at 6656.
 */
#include "image_world.h"

static const struct image_options plain = { .size = 0 };

/* ---- write-back ---- */

weir_co_fn DRIVER_TEST(order)
{
    struct image image = image_new(&plain);

    WEIR_ASSERT(!image_write(&image, 0, 1));
    ram_expect(image.file, "read 4608+512, read 4096+512, write 12288+4096");
    WEIR_ASSERT(!image_flush(&image));
    ram_expect(image.file, "write 4096+512, flush, write 4608+512, flush");
    WEIR_ASSERT(simfmt_offset(image_entry(&image, 0)) == 12288 && image_count(&image, 3) == 1);
    WEIR_ASSERT(!image_flush(&image));
    ram_expect(image.file, "");                                      /* nothing to do */
    WEIR_ASSERT(!image_write(&image, 0, 2) && !image_flush(&image)); /* in place: no table changes */
    ram_expect(image.file, "write 12288+4096, flush");
    image_end(&image);
}

/* Data on an edge of its own is flushed before anything that points to it is written. */
weir_co_fn DRIVER_TEST(order_with_data_edge)
{
    static const struct image_options options = { .data_file = true };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image));
    ram_expect(image.file, "f read 4608+512, f read 4096+512, d write 4096+4096, "
                           "f write 4096+512, d flush, f flush, f write 4608+512, f flush");
    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image));
    ram_expect(image.file, "d write 4096+4096, d flush");
    image_end(&image);
}

/* The header comes last of all: it makes the snapshot table count. */
weir_co_fn DRIVER_TEST(order_with_header)
{
    struct image image = image_new(&plain);
    const char *log;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image));
    (void)ram_log(image.file);
    WEIR_ASSERT(!simfmt_snapshot_create(image.node));
    log = ram_log(image.file);
    WEIR_ASSERT(strstr(log, "write 4096+512, flush, write 6656+512, write 7168+512, write 7680+512, "
                            "write 8192+512, flush, write 0+512, flush"));
    WEIR_ASSERT(image_count(&image, 3) == 2);
    image_end(&image);
}

weir_co_fn DRIVER_TEST(flag_of_durability)
{
    struct image image = image_new(&plain);
    char bytes[UNIT] = { 1 };

    WEIR_ASSERT(!io(image.edge, WEIR_OP_WRITE, 0, UNIT, bytes, WEIR_REQUEST_FUA));
    WEIR_ASSERT(simfmt_kind(image_entry(&image, 0)) == SIMFMT_PLAIN);
    ram_expect(image.file, "read 4608+512, read 4096+512, write 12288+4096, write 4096+512, flush, "
                           "write 4608+512, flush");
    image_end(&image);
}

/* A failed write-back leaves all of it dirty, and the next one writes it all again. */
weir_co_fn DRIVER_TEST(failed_write_back)
{
    struct image image = image_new(&plain);

    WEIR_ASSERT(!image_write(&image, 0, 1));
    (void)ram_log(image.file);
    image.file->bad_offset = image.header.table_offset;
    image.file->bad_length = 512;
    WEIR_ASSERT(image_flush(&image) == -EIO);
    ram_expect(image.file, "write 4096+512, flush, write 4608+512");
    WEIR_ASSERT(!image_entry(&image, 0));
    image.file->bad_offset = image.header.counts_offset;
    WEIR_ASSERT(image_flush(&image) == -EIO);
    ram_expect(image.file, "write 4096+512"); /* no table before its counts */
    image.file->bad_length = 0;
    WEIR_ASSERT(!image_flush(&image));
    ram_expect(image.file, "write 4096+512, flush, write 4608+512, flush");
    image_reopen(&image, &plain);
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 1) && holds(image.edge, UNIT, UNIT, 0));
    image_end(&image);
}

/* What does not become durable must not be said to be: the data edge's failure counts as well. */
weir_co_fn DRIVER_TEST(failed_data_flush)
{
    static const struct image_options options = { .data_file = true };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1));
    (void)ram_log(image.file);
    image.data->fail_in[WEIR_OP_FLUSH] = 1;
    WEIR_ASSERT(image_flush(&image) == -EIO && !image_entry(&image, 0));
    ram_expect(image.file, "f write 4096+512, d flush");
    WEIR_ASSERT(image_flush(&image) == -EIO && !image_entry(&image, 0)); /* for ever */
    image_end(&image);
}

/* Law 5: while tables are being written guests read, and change the same table; the change is not lost. */
weir_co_fn DRIVER_TEST(change_during_write_back)
{
    struct image image = image_new(&plain);
    struct task flush;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 1));
    image.file->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&flush, image.edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(image.file, 1);
    WEIR_ASSERT(!image_discard(&image, 1));
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 1) && holds(image.edge, UNIT, UNIT, 0));
    WEIR_ASSERT(!flush.over);
    ram_release(image.file);
    WEIR_ASSERT(!task_wait(&flush));
    WEIR_ASSERT(simfmt_kind(image_entry(&image, 1)) == SIMFMT_PLAIN); /* one state: that of its beginning */
    (void)ram_log(image.file);
    WEIR_ASSERT(!image_flush(&image) && simfmt_kind(image_entry(&image, 1)) == SIMFMT_NONE);
    ram_expect(image.file, "write 4608+512, flush, discard 16384+4096");
    image_end(&image);
}

/* One write-back at a time; who comes meanwhile gets one that began after he came. */
weir_co_fn DRIVER_TEST(flushes_meet)
{
    struct image image = image_new(&plain);
    struct task first, second;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 2));
    image.file->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&first, image.edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(image.file, 1);
    WEIR_ASSERT(!image_discard(&image, 1));
    task_start(&second, image.edge, WEIR_OP_FLUSH, 0, 0, NULL);
    settle();
    WEIR_ASSERT(image.file->held == 1);
    ram_release(image.file);
    WEIR_ASSERT(!task_wait(&second) && !task_wait(&first));
    WEIR_ASSERT(simfmt_kind(image_entry(&image, 1)) == SIMFMT_NONE);
    image_end(&image);
}

/* ---- quarantine ---- */

weir_co_fn DRIVER_TEST(quarantine)
{
    struct image image = image_new(&plain);
    struct weir_meta_stats stats;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image));
    (void)ram_log(image.file);
    WEIR_ASSERT(!image_discard(&image, 0));
    ram_expect(image.file, ""); /* nothing is durable yet: nothing is given away */
    stats = image_stats(&image);
    WEIR_ASSERT(stats.quarantine_count == 1 && stats.quarantine_bytes == UNIT && !stats.released);
    WEIR_ASSERT(!image_write(&image, 1, 2));
    ram_expect(image.file, "write 16384+4096"); /* not where unit 0 was */
    /* Pointers go first, then the space is discarded, then it is free. */
    WEIR_ASSERT(!image_flush(&image));
    ram_expect(image.file, "write 4096+512, flush, write 4608+512, flush, discard 12288+4096");
    stats = image_stats(&image);
    WEIR_ASSERT(!stats.quarantine_count && !stats.quarantine_bytes && stats.released == 1 &&
                stats.discarded == 1);
    WEIR_ASSERT(image_count(&image, 3) == 1); /* lowered in memory only: a leak at worst */
    WEIR_ASSERT(!image_flush(&image) && image_count(&image, 3) == 0);
    image_end(&image);
}

/* While metadata cannot be written nothing leaves the quarantine. */
weir_co_fn DRIVER_TEST(quarantine_stays)
{
    struct image image = image_new(&plain);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    (void)ram_log(image.file);
    image.file->bad_offset = image.header.table_offset;
    image.file->bad_length = 512;
    WEIR_ASSERT(image_flush(&image) == -EIO);
    ram_expect(image.file, "write 4608+512");
    WEIR_ASSERT(image_stats(&image).quarantine_count == 1 && image.file->data[12288] == 1);
    image.file->bad_length = 0;
    WEIR_ASSERT(!image_flush(&image)); /* what the failed write has left is flushed as well */
    ram_expect(image.file, "flush, write 4608+512, flush, discard 12288+4096");
    image_end(&image);
}

/* What was given up while a write-back ran waits for the next: its pointer is still on the disk. */
weir_co_fn DRIVER_TEST(quarantine_after_the_copy)
{
    struct image image = image_new(&plain);
    struct task flush;

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 1) && !image_flush(&image));
    WEIR_ASSERT(!image_discard(&image, 0));
    image.file->hold = WEIR_OP_BIT(WEIR_OP_WRITE);
    task_start(&flush, image.edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(image.file, 1);
    WEIR_ASSERT(!image_discard(&image, 1));
    ram_release(image.file);
    WEIR_ASSERT(!task_wait(&flush));
    WEIR_ASSERT(image_stats(&image).released == 1 && image_stats(&image).quarantine_count == 1);
    WEIR_ASSERT(!image.file->data[12288] && image.file->data[16384] == 1);
    image_end(&image);
}

/* A unit that a snapshot still needs is not discarded, and is not free. */
weir_co_fn DRIVER_TEST(shared_units)
{
    struct image image = image_new(&plain);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !simfmt_snapshot_create(image.node));
    WEIR_ASSERT(!image_discard(&image, 0) && !image_flush(&image) && !image_flush(&image));
    WEIR_ASSERT(image_stats(&image).released == 1 && !image_stats(&image).discarded);
    WEIR_ASSERT(image_count(&image, 3) == 1 && image.file->data[12288] == 1);
    WEIR_ASSERT(!simfmt_snapshot_delete(image.node) && !image_flush(&image) && !image_flush(&image));
    WEIR_ASSERT(image_stats(&image).discarded == 1 && image_count(&image, 3) == 0);
    image_end(&image);
}

/* The table of counts that a release needs cannot be read: the flush is good, the space stays in quarantine. */
weir_co_fn DRIVER_TEST(release_without_its_table)
{
    static const struct image_options options = { .room = 400, .cache = 3 };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    WEIR_ASSERT(holds(image.edge, 100 * UNIT, UNIT, 0)); /* drops the counts from memory */
    image.file->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(!image_flush(&image));
    WEIR_ASSERT(image_stats(&image).quarantine_count == 1 && !image_stats(&image).released);
    WEIR_ASSERT(!image_flush(&image));
    WEIR_ASSERT(!image_stats(&image).quarantine_count && image_stats(&image).released == 1);
    WEIR_ASSERT(image_stats(&image).discarded == 1); /* once */
    image_end(&image);
}

/* ---- no space ---- */

weir_co_fn DRIVER_TEST(make_room)
{
    static const struct image_options options = { .room = 2 };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 2));
    WEIR_ASSERT(image_write(&image, 2, 3) == -ENOSPC);
    WEIR_ASSERT(!image_discard(&image, 0));
    WEIR_ASSERT(!image_write(&image, 2, 3)); /* nobody has flushed: the core does */
    WEIR_ASSERT(image_stats(&image).rooms >= 2 && image_stats(&image).released == 1);
    WEIR_ASSERT(image_write(&image, 0, 4) == -ENOSPC);
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 0) && holds(image.edge, UNIT, UNIT, 2) &&
                holds(image.edge, 2 * UNIT, UNIT, 3));
    image_end(&image);
}

weir_co_fn DRIVER_TEST(no_room_while_sync_fails)
{
    static const struct image_options options = { .room = 1 };
    struct image image = image_new(&options);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_flush(&image) && !image_discard(&image, 0));
    image.file->bad_offset = image.header.table_offset;
    image.file->bad_length = 512;
    WEIR_ASSERT(image_write(&image, 1, 2) == -EIO && image.file->data[image_place(&image, 0)] == 1);
    image.file->bad_length = 0;
    WEIR_ASSERT(!image_write(&image, 1, 2));
    image_end(&image);
}

/* Space that is on its way out of the quarantine is waited for. */
weir_co_fn DRIVER_TEST(room_that_is_coming)
{
    static const struct image_options options = { .room = 1 };
    struct image image = image_new(&options);
    struct task flush, write;
    char bytes[UNIT];

    memset(bytes, 5, sizeof(bytes));
    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_discard(&image, 0));
    image.file->hold = WEIR_OP_BIT(WEIR_OP_DISCARD);
    task_start(&flush, image.edge, WEIR_OP_FLUSH, 0, 0, NULL);
    ram_wait_held(image.file, 1);
    task_start(&write, image.edge, WEIR_OP_WRITE, UNIT, UNIT, bytes);
    settle();
    WEIR_ASSERT(!write.over && !image_stats(&image).quarantine_count);
    ram_release(image.file);
    WEIR_ASSERT(!task_wait(&flush) && !task_wait(&write) && holds(image.edge, UNIT, UNIT, 5));
    image_end(&image);
}

/* ---- cache ---- */

weir_co_fn DRIVER_TEST(loads)
{
    struct image image = image_new(&plain);
    struct task tasks[4];
    char bytes[4][512];

    image.file->hold = WEIR_OP_BIT(WEIR_OP_READ);
    for (unsigned i = 0; i < 4; i++)
        task_start(&tasks[i], image.edge, WEIR_OP_READ, UNIT * i, 512, bytes[i]);
    settle();
    ram_release(image.file);
    for (unsigned i = 0; i < 4; i++)
        WEIR_ASSERT(!task_wait(&tasks[i]));
    ram_expect(image.file, "read 4608+512"); /* once for all */
    image.file->fail_in[WEIR_OP_READ] = 1;
    WEIR_ASSERT(io(image.edge, WEIR_OP_READ, 100 * UNIT, 512, bytes[0], 0) == -EIO);
    WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 100 * UNIT, 512, bytes[0], 0));
    ram_expect(image.file, "read 5120+512, read 5120+512");
    image_end(&image);
}

/* Who waits for a load that fails tries himself. */
weir_co_fn DRIVER_TEST(failed_load_is_tried_again)
{
    struct image image = image_new(&plain);
    struct task tasks[2];
    char bytes[2][512];

    image.file->hold = WEIR_OP_BIT(WEIR_OP_READ);
    image.file->fail_in[WEIR_OP_READ] = 1;
    for (unsigned i = 0; i < 2; i++)
        task_start(&tasks[i], image.edge, WEIR_OP_READ, UNIT * i, 512, bytes[i]);
    ram_wait_held(image.file, 1);
    ram_release(image.file);
    WEIR_ASSERT(task_wait(&tasks[0]) == -EIO && !task_wait(&tasks[1]));
    ram_expect(image.file, "read 4608+512, read 4608+512");
    image_end(&image);
}

/* A cache of one table: dirty ones are written before they leave, in order. */
weir_co_fn DRIVER_TEST(eviction)
{
    static const struct image_options options = { .cache = 1 };
    struct image image = image_new(&options);

    for (unsigned i = 0; i < 4; i++)
        WEIR_ASSERT(!image_write(&image, 64 * i, (int)(i + 1)));
    WEIR_ASSERT(image_stats(&image).evictions > 2 && image_stats(&image).write_backs > 2);
    for (unsigned i = 0; i < 4; i++)
        WEIR_ASSERT(holds(image.edge, 64ul * UNIT * i, UNIT, (int)(i + 1)));
    WEIR_ASSERT(image_stats(&image).cached_bytes <= 3 * SIMFMT_BLOCK); /* header, and what one map needs */
    image_end(&image);
}

/* A dirty table that cannot be written stays, and who wanted its place is told. */
weir_co_fn DRIVER_TEST(dirty_stays)
{
    static const struct image_options options = { .cache = 1 };
    struct image image = image_new(&options);
    char bytes[512];

    WEIR_ASSERT(!image_write(&image, 0, 1));
    image.file->bad_offset = image.header.counts_offset;
    image.file->bad_length = 4 * KIB;
    (void)ram_log(image.file);
    WEIR_ASSERT(io(image.edge, WEIR_OP_READ, 64 * UNIT, 512, bytes, 0) == -EIO);
    WEIR_ASSERT(io(image.edge, WEIR_OP_READ, 128 * UNIT, 512, bytes, 0) == -EIO);
    ram_expect(image.file, "write 4096+512, write 4096+512");
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 1)); /* from memory: the disk knows nothing of it */
    image.file->bad_length = 0;
    WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 64 * UNIT, 512, bytes, 0));
    image_reopen(&image, &options);
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 1));
    image_end(&image);
}

/* What open or check keeps in memory stays there, whatever else is read. */
weir_co_fn DRIVER_TEST(kept_tables)
{
    static const struct image_options options = { .cache = 1 };
    struct image image = image_new(&options);
    char bytes[512];

    WEIR_ASSERT(!weir_meta_load(image.node, image.header.table_offset, SIMFMT_BLOCK, WEIR_META_TABLE));
    for (unsigned i = 1; i < 4; i++)
        WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 64ul * UNIT * i, 512, bytes, 0));
    (void)ram_log(image.file);
    WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 0, 512, bytes, 0));
    ram_expect(image.file, "");
    weir_meta_unload(image.node, image.header.table_offset);
    WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 64 * UNIT, 512, bytes, 0));
    WEIR_ASSERT(!io(image.edge, WEIR_OP_READ, 0, 512, bytes, 0));
    ram_expect(image.file, "read 5120+512, read 4608+512");
    image_end(&image);
}

/* Closing writes back what guests have left, and frees what it held. */
weir_co_fn DRIVER_TEST(closing)
{
    struct image image = image_new(&plain);

    WEIR_ASSERT(!image_write(&image, 0, 1) && !image_write(&image, 1, 2) && !image_discard(&image, 1));
    image_reopen(&image, &plain);
    WEIR_ASSERT(holds(image.edge, 0, UNIT, 1) && holds(image.edge, UNIT, UNIT, 0));
    WEIR_ASSERT(image_count(&image, 3) == 1 && image_count(&image, 4) == 0);
    image_end(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order),
        cmocka_unit_test(order_with_data_edge),
        cmocka_unit_test(order_with_header),
        cmocka_unit_test(flag_of_durability),
        cmocka_unit_test(failed_write_back),
        cmocka_unit_test(failed_data_flush),
        cmocka_unit_test(change_during_write_back),
        cmocka_unit_test(flushes_meet),
        cmocka_unit_test(quarantine),
        cmocka_unit_test(quarantine_stays),
        cmocka_unit_test(quarantine_after_the_copy),
        cmocka_unit_test(shared_units),
        cmocka_unit_test(release_without_its_table),
        cmocka_unit_test(make_room),
        cmocka_unit_test(no_room_while_sync_fails),
        cmocka_unit_test(room_that_is_coming),
        cmocka_unit_test(loads),
        cmocka_unit_test(failed_load_is_tried_again),
        cmocka_unit_test(eviction),
        cmocka_unit_test(dirty_stays),
        cmocka_unit_test(kept_tables),
        cmocka_unit_test(closing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

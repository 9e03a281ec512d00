/* SPDX-License-Identifier: BSD-2-Clause */
/* file: opening, reading, writing, space, size, on ext4 (or whatever /tmp is) and tmpfs. */
#include "driver_world.h"
#include "gen/schema.h"
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

extern const struct weir_driver weir_driver_file;

/* On both file systems. @body gets the directory function. */
static weir_co_fn void on_both(void (*body)(const char *file) weir_co_fn)
{
    body(path("image"));
    if (path_shm("image"))
        body(path_shm("image"));
}

/* ---- opening ---- */

weir_co_fn DRIVER_TEST(test_file_options)
{
    char text[5000];

    (void)snprintf(text, sizeof(text), "Could not open '%s': No such file or directory", path("nope"));
    add_fails(text, "{'driver':'file','node-name':'f','filename':'%s'}", path("nope"));
    add_fails("'file' driver requires '/dev/null' to be a regular file",
              "{'driver':'file','node-name':'f','filename':'/dev/null'}");
    (void)snprintf(text, sizeof(text), "'file' driver requires '%s' to be a regular file", path("."));
    add_fails(text, "{'driver':'file','node-name':'f','filename':'%s','read-only':true}", path("."));
    WEIR_ASSERT(!mkfifo(path("fifo"), 0600));
    (void)snprintf(text, sizeof(text), "'file' driver requires '%s' to be a regular file", path("fifo"));
    add_fails(text, "{'driver':'file','node-name':'f','filename':'%s'}", path("fifo"));
    make_file(path("a"), MIB, -1);
    add_fails("aio=native was specified, but it requires cache.direct=on, which was not specified.",
              "{'driver':'file','node-name':'f','filename':'%s','aio':'native'}", path("a"));
    (void)snprintf(text, sizeof(text),
                   "'host_device' driver requires '%s' to be either a character or block device", path("a"));
    add_fails(text, "{'driver':'host_device','node-name':'f','filename':'%s'}", path("a"));
}

weir_co_fn DRIVER_TEST(names)
{
    const char *file = make_file(path("a"), 1000, 1);
    struct weir_node *node = add("{'driver':'file','node-name':'f','filename':'%s'}", file);

    WEIR_ASSERT(!strcmp(node->driver->filename(node), file));
    WEIR_ASSERT(node->driver->allocated_size(node) == (int64_t)allocated(file));
    del("f");
}

/* ---- transfers ---- */

static weir_co_fn void transfers(const char *options)
{
    struct weir_node *node =
        add("{'driver':'file','node-name':'f','filename':'%s'%s}", make_file(path("a"), 4 * MIB, 1), options);
    struct weir_edge *edge = user(node, R | W, ALL);
    char byte = 0;

    WEIR_ASSERT(holds(edge, 0, 4 * MIB, 1));
    fill(edge, 4096, 8192, 2);
    fill(edge, 3 * MIB + 1, 99, 3);
    fill(edge, 4 * MIB - 3, 3, 4);
    WEIR_ASSERT(holds(edge, 4095, 1, 1) && holds(edge, 4096, 8192, 2) && holds(edge, 12288, 1, 1));
    WEIR_ASSERT(holds(edge, 3 * MIB, 1, 1) && holds(edge, 3 * MIB + 1, 99, 3) &&
                holds(edge, 3 * MIB + 100, 5, 1));
    WEIR_ASSERT(holds(edge, 4 * MIB - 3, 3, 4));
    byte = 9;
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 7, 1, &byte, WEIR_REQUEST_FUA) && holds(edge, 7, 1, 9));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 4096, 4096, NULL, 0) && holds(edge, 4096, 4096, 0));
    WEIR_ASSERT(holds(edge, 8192, 4096, 2));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 4 * MIB, 1, &byte, 0) == -EINVAL);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 4 * MIB, 1, &byte, 0) == -ENOSPC);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(transfers_by_default)
{
    transfers("");
}

weir_co_fn DRIVER_TEST(test_file_aio)
{
    transfers(",'aio':'threads'");
    transfers(",'aio':'io_uring'");
    transfers(",'cache':{'direct':true},'aio':'native'");
    transfers(",'cache':{'direct':true},'aio':'threads'");
}

weir_co_fn DRIVER_TEST(test_cache_direct)
{
    transfers(",'cache':{'direct':true}");
}

/* What is in memory is read, and written, without a coroutine. */
static weir_co_fn void tries(const char *file)
{
    struct weir_node *node =
        add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, MIB, 1));
    struct weir_edge *edge = user(node, R | W, ALL);
    char buffer[4096];
    struct iovec iov[2] = { { buffer, 4095 }, { buffer + 4095, 1 } };
    struct weir_request request = weir_request_make(WEIR_OP_READ, 100, sizeof(buffer), iov, 2, 0);

    WEIR_ASSERT(!weir_root_try(edge, &request) && buffer[0] == 1 && buffer[4095] == 1);
    memset(buffer, 5, sizeof(buffer));
    request.op = WEIR_OP_WRITE;
    WEIR_ASSERT(!weir_root_try(edge, &request) && holds(edge, 100, 4096, 5) && holds(edge, 0, 100, 1));
    request.flags = WEIR_REQUEST_FUA;
    WEIR_ASSERT(weir_root_try(edge, &request) == -EAGAIN);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(answered_at_once)
{
    on_both(tries);
}

/* ---- the end of the file ---- */

static weir_co_fn void odd_end(const char *file)
{
    struct weir_node *node =
        add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, 1000, 1));
    struct weir_edge *edge = user(node, R | W, ALL);

    WEIR_ASSERT(weir_node_size(node) == 1024);
    WEIR_ASSERT(holds(edge, 0, 1000, 1) && holds(edge, 1000, 24, 0) && holds(edge, 1010, 3, 0));
    WEIR_ASSERT(!holds(edge, 0, 1024, 1) && !holds(edge, 900, 124, 1));
    WEIR_ASSERT(status_of(edge, 0, 1024).length >= 1000 && status_of(edge, 0, 1024).data);
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 512, 512, NULL, 0) && holds(edge, 512, 512, 0));
    fill(edge, 1020, 4, 6);
    WEIR_ASSERT(file_size(file) == 1024 && holds(edge, 1020, 4, 6) && holds(edge, 512, 508, 0));
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(size_is_no_multiple_of_512)
{
    on_both(odd_end);
}

weir_co_fn DRIVER_TEST(size_is_no_multiple_of_512_direct)
{
    const char *file = make_file(path("a"), 1000, 1);
    struct weir_edge *edge = user(
        add("{'driver':'file','node-name':'f','filename':'%s','cache':{'direct':true}}", file), R | W, ALL);

    WEIR_ASSERT(holds(edge, 0, 1000, 1) && holds(edge, 1000, 24, 0));
    leave(edge);
    del("f");
}

/* Somebody else cuts the file behind our back: what is gone does not read as zero but fails, until it is written. */
static weir_co_fn void cut(const char *file)
{
    struct weir_edge *edge = user(
        add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, 2 * MIB, 1)), R | W, ALL);
    weir_autofree char *buffer = weir_alloc(MIB);

    WEIR_ASSERT(!truncate(file, MIB + 5));
    WEIR_ASSERT(holds(edge, MIB, 5, 1) && holds(edge, 0, MIB, 1));
    WEIR_ASSERT(io(edge, WEIR_OP_READ, MIB + 5, MIB - 5, buffer, 0) == -ESTALE);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, MIB, 6, buffer, 0) == -ESTALE);
    WEIR_ASSERT(io(edge, WEIR_OP_READ, 2 * MIB - 1, 1, buffer, 0) == -ESTALE);
    WEIR_ASSERT(status_of(edge, MIB + 4096, 4096).zero && status_of(edge, MIB + 4096, 4096).length == 4096);
    fill(edge, 2 * MIB - 1, 1, 2);
    WEIR_ASSERT(holds(edge, 2 * MIB - 1, 1, 2) && holds(edge, MIB + 5, MIB - 6, 0));
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(cut_by_others)
{
    on_both(cut);
}

/* ---- space ---- */

#define UNMAP "'discard':'unmap'"

static weir_co_fn void holes(const char *file)
{
    struct weir_node *node =
        add("{'driver':'file','node-name':'f','filename':'%s'," UNMAP "}", make_file(file, 4 * MIB, 1));
    struct weir_edge *edge = user(node, R | W, ALL);
    struct weir_status status;

    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, MIB, MIB, NULL, WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK));
    WEIR_ASSERT(holds(edge, MIB, MIB, 0) && holds(edge, 0, MIB, 1) && holds(edge, 2 * MIB, MIB, 1));
    WEIR_ASSERT(allocated(file) <= 3 * MIB + 64 * KIB);
    status = status_of(edge, 0, 4 * MIB);
    WEIR_ASSERT(status.data && !status.zero && status.length == MIB && status.file == node);
    status = status_of(edge, MIB + 512, 3 * MIB - 512);
    WEIR_ASSERT(!status.data && status.zero && status.allocated && status.length == MIB - 512);
    WEIR_ASSERT(status.file == node && status.file_offset == MIB + 512);
    /* Without leave to unmap, the space stays. */
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 2 * MIB, MIB, NULL, 0));
    WEIR_ASSERT(holds(edge, 2 * MIB, MIB, 0) && holds(edge, 3 * MIB, MIB, 1));
    WEIR_ASSERT(allocated(file) >= 3 * MIB);
    /* Discard. */
    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 3 * MIB, MIB, NULL, 0));
    WEIR_ASSERT(allocated(file) <= 2 * MIB + 64 * KIB && holds(edge, 3 * MIB, MIB, 0));
    WEIR_ASSERT(file_size(file) == 4 * MIB);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(test_discard_option)
{
    on_both(holes);
}

/* The default is to ignore discards, and then a zero request may not unmap. */
static weir_co_fn void no_discard(const char *file)
{
    struct weir_edge *edge =
        user(add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, MIB, 1)), R | W, ALL);

    WEIR_ASSERT(!io(edge, WEIR_OP_DISCARD, 0, MIB, NULL, 0) && holds(edge, 0, MIB, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, MIB, NULL, WEIR_REQUEST_MAY_UNMAP) && holds(edge, 0, MIB, 0));
    WEIR_ASSERT(allocated(file) >= MIB);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(discard_is_ignored_by_default)
{
    on_both(no_discard);
}

/* Written zeroes become holes where that is wanted. */
static weir_co_fn void detect(const char *file)
{
    static const struct {
        const char *option;
        bool unmaps;
    } cases[] = { { "off", false }, { "on", false }, { "unmap", true } };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(cases); i++) {
        struct weir_edge *edge =
            user(add("{'driver':'file','node-name':'f','filename':'%s'," UNMAP ",'detect-zeroes':'%s'}",
                     make_file(file, MIB, 1), cases[i].option),
                 R | W, ALL);

        fill(edge, 0, MIB, 0);
        WEIR_ASSERT(holds(edge, 0, MIB, 0) && (allocated(file) < MIB) == cases[i].unmaps);
        leave(edge);
        del("f");
    }
}

weir_co_fn DRIVER_TEST(test_detect_zeroes)
{
    on_both(detect);
}

/* Zeroing holes takes the space as writing would. */
static weir_co_fn void zero_allocates(const char *file)
{
    struct weir_edge *edge =
        user(add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, MIB, -1)), R | W, ALL);

    WEIR_ASSERT(allocated(file) < MIB);
    WEIR_ASSERT(!io(edge, WEIR_OP_ZERO, 0, MIB, NULL, 0) && allocated(file) >= MIB);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(zero_takes_space)
{
    on_both(zero_allocates);
}

/* A full file system: an error for who writes, and nothing else. */
weir_co_fn DRIVER_TEST(no_space)
{
    char where[4200], file[4300];
    struct weir_edge *edge;
    char buffer[64 * KIB];

    (void)snprintf(where, sizeof(where), "%s", path("mount"));
    WEIR_ASSERT(!mkdir(where, 0700));
    if (mount("none", where, "tmpfs", 0, "size=512k") != 0) {
        (void)fprintf(stderr, "may not mount: not tested\n");
        WEIR_ASSERT(!rmdir(where));
        return;
    }
    (void)snprintf(file, sizeof(file), "%s/a", where);
    edge =
        user(add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, MIB, -1)), R | W, ALL);
    fill(edge, 0, 256 * KIB, 1);
    memset(buffer, 2, sizeof(buffer));
    WEIR_ASSERT(!io(edge, WEIR_OP_WRITE, 256 * KIB, 64 * KIB, buffer, 0));
    WEIR_ASSERT(io(edge, WEIR_OP_ZERO, 512 * KIB, 512 * KIB, NULL, 0) == -ENOSPC);
    for (uint64_t at = 320 * KIB; at < 512 * KIB; at += 64 * KIB)
        (void)io(edge, WEIR_OP_WRITE, at, 64 * KIB, buffer, 0);
    WEIR_ASSERT(io(edge, WEIR_OP_WRITE, 512 * KIB, 64 * KIB, buffer, 0) == -ENOSPC);
    WEIR_ASSERT(holds(edge, 0, 256 * KIB, 1) && holds(edge, 256 * KIB, 64 * KIB, 2));
    leave(edge);
    del("f");
    WEIR_ASSERT(!umount2(where, MNT_DETACH) && !rmdir(where));
}

/* ---- size ---- */

static weir_co_fn void resizing(const char *file)
{
    struct weir_node *node =
        add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(file, MIB, 1));
    struct weir_edge *edge = user(node, R | W | Z, ALL);

    WEIR_ASSERT(!weir_node_resize(edge, 3 * MIB + 1000, NULL));
    WEIR_ASSERT(weir_node_size(node) == 3 * MIB + 1024 && file_size(file) == 3 * MIB + 1000);
    WEIR_ASSERT(holds(edge, 0, MIB, 1) && holds(edge, MIB, 2 * MIB + 1024, 0));
    WEIR_ASSERT(!weir_node_resize(edge, 512, NULL) && weir_node_size(node) == 512 && file_size(file) == 512);
    leave(edge);
    del("f");
}

weir_co_fn DRIVER_TEST(test_block_resize)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_edge *edge;

    on_both(resizing);
    edge = user(add("{'driver':'file','node-name':'f','filename':'%s'}", make_file(path("a"), MIB, 1)), R | Z,
                ALL);
    WEIR_ASSERT(weir_node_resize(edge, UINT64_MAX, &err) == -EFBIG &&
                strstr(weir_error_text(err), path("a")));
    leave(edge);
    del("f");
}

/* ---- creation ---- */

static weir_co_fn int create(const char *file, uint64_t size, enum weir_q_prealloc_mode mode,
                             struct weir_error **err)
{
    struct weir_q_blockdev_create_options_file options = {
        .filename = (char *)(uintptr_t)file, .size = size, .has_preallocation = true, .preallocation = mode
    };

    return weir_driver_file.create->create(&options, err);
}

weir_co_fn DRIVER_TEST(test_blockdev_create)
{
    char file[4200], text[4300];
    struct weir_error *err = NULL;
    struct weir_edge *edge;

    (void)snprintf(file, sizeof(file), "%s", path("new"));
    WEIR_ASSERT(!create(file, MIB + 3, WEIR_Q_PREALLOC_MODE_OFF, NULL));
    WEIR_ASSERT(file_size(file) == MIB + 3 && allocated(file) < MIB);
    make_file(file, 2 * MIB, 7);
    WEIR_ASSERT(!create(file, MIB, WEIR_Q_PREALLOC_MODE_OFF, NULL) && file_size(file) == MIB);

    edge = user(add("{'driver':'file','node-name':'f','filename':'%s'}", file), R | W, ALL & ~Z);
    WEIR_ASSERT(holds(edge, 0, MIB, 0));
    fill(edge, 0, 512, 3);
    WEIR_ASSERT(create(file, 512, WEIR_Q_PREALLOC_MODE_OFF, &err) == -EAGAIN);
    WEIR_ASSERT(!strcmp(weir_error_text(err), "Failed to get \"resize\" lock"));
    WEIR_ASSERT(holds(edge, 0, 512, 3) && file_size(file) == MIB);
    weir_error_free(err);
    leave(edge);
    del("f");

    (void)snprintf(file, sizeof(file), "%s", path("no/where"));
    (void)snprintf(text, sizeof(text), "Could not create '%s': No such file or directory", file);
    err = NULL;
    WEIR_ASSERT(create(file, 512, WEIR_Q_PREALLOC_MODE_OFF, &err) == -ENOENT);
    WEIR_ASSERT(!strcmp(weir_error_text(err), text));
    weir_error_free(err);
}

weir_co_fn DRIVER_TEST(test_blockdev_create_preallocation)
{
    char file[4200];

    (void)snprintf(file, sizeof(file), "%s", path("new"));
    WEIR_ASSERT(!create(file, MIB, WEIR_Q_PREALLOC_MODE_OFF, NULL) && allocated(file) < MIB);
    WEIR_ASSERT(!create(file, MIB, WEIR_Q_PREALLOC_MODE_FALLOC, NULL));
    WEIR_ASSERT(file_size(file) == MIB && allocated(file) >= MIB);
    make_file(file, 2 * MIB, 7);
    WEIR_ASSERT(!create(file, MIB, WEIR_Q_PREALLOC_MODE_FULL, NULL));
    WEIR_ASSERT(file_size(file) == MIB && allocated(file) >= MIB);
    (void)unlink(file);
}

/* A file that could not be made is not left behind; one that was there is. */
weir_co_fn DRIVER_TEST(creating_fails)
{
    WEIR_ASSERT(create(path("new2"), (uint64_t)1 << 62, WEIR_Q_PREALLOC_MODE_OFF, NULL) < 0);
    WEIR_ASSERT(access(path("new2"), F_OK) != 0);
    make_file(path("old"), MIB, 1);
    WEIR_ASSERT(create(path("old"), (uint64_t)1 << 62, WEIR_Q_PREALLOC_MODE_OFF, NULL) < 0);
    WEIR_ASSERT(access(path("old"), F_OK) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file_options),
        cmocka_unit_test(names),
        cmocka_unit_test(transfers_by_default),
        cmocka_unit_test(test_file_aio),
        cmocka_unit_test(test_cache_direct),
        cmocka_unit_test(answered_at_once),
        cmocka_unit_test(size_is_no_multiple_of_512),
        cmocka_unit_test(size_is_no_multiple_of_512_direct),
        cmocka_unit_test(cut_by_others),
        cmocka_unit_test(test_discard_option),
        cmocka_unit_test(discard_is_ignored_by_default),
        cmocka_unit_test(test_detect_zeroes),
        cmocka_unit_test(zero_takes_space),
        cmocka_unit_test(no_space),
        cmocka_unit_test(test_block_resize),
        cmocka_unit_test(test_blockdev_create),
        cmocka_unit_test(test_blockdev_create_preallocation),
        cmocka_unit_test(creating_fails),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Image locks and auto-read-only. A node's locks belong to its own file description, so a second node on the same
 * file in this process is as far away as another process; bytes are looked at through a third description.
 */
#include "driver_world.h"
#include <fcntl.h>
#include <unistd.h>

/* Bit 0..3: byte 100 + i is locked by somebody, bit 4..7: byte 200 + i. */
static unsigned locked_bytes(const char *file)
{
    int fd = open(file, O_RDWR);
    unsigned found = 0;

    WEIR_ASSERT(fd >= 0);
    for (unsigned i = 0; i < 8; i++) {
        struct flock lock = {
            .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = i < 4 ? 100 + i : 200 + i - 4, .l_len = 1
        };

        WEIR_ASSERT(!fcntl(fd, F_OFD_GETLK, &lock));
        WEIR_ASSERT(lock.l_type == F_UNLCK || lock.l_type == F_RDLCK);
        if (lock.l_type == F_RDLCK)
            found |= 1u << i;
    }
    WEIR_ASSERT(!close(fd));
    return found;
}
#define HELD(perms) (perms)
#define UNSHARED(perms) ((perms) << 4)

static weir_co_fn struct weir_node *add_file(const char *name, const char *more)
{
    return add("{'driver':'file','node-name':'%s','filename':'%s'%s}", name, path("a"), more);
}

weir_co_fn DRIVER_TEST(bytes_follow_permissions)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add_file("f", "");
    struct weir_edge *reader, *writer;

    WEIR_ASSERT(locked_bytes(file) == 0);
    reader = user(node, R, ALL & ~Z);
    WEIR_ASSERT(locked_bytes(file) == (HELD(R) | UNSHARED(Z)));
    writer = user(node, R | W, ALL);
    WEIR_ASSERT(locked_bytes(file) == (HELD(R | W) | UNSHARED(Z)));
    leave(reader);
    WEIR_ASSERT(locked_bytes(file) == HELD(R | W));
    WEIR_ASSERT(!weir_root_set_perm(writer, R | Z, R | U, NULL));
    WEIR_ASSERT(locked_bytes(file) == (HELD(R | Z) | UNSHARED(W | Z)));
    leave(writer);
    WEIR_ASSERT(locked_bytes(file) == 0);
    del("f");
}

static weir_co_fn void expect_lock_error(struct weir_node *node, unsigned perm, unsigned shared,
                                         const char *text)
{
    struct weir_error *err = user_fails(node, perm, shared);
    char hint[5000];

    (void)snprintf(hint, sizeof(hint), "Is another process using the image [%s]?", path("a"));
    WEIR_ASSERT(!strcmp(weir_error_text(err), text));
    WEIR_ASSERT(weir_error_hint_text(err) && !strcmp(weir_error_hint_text(err), hint));
    weir_error_free(err);
}

/* Who comes second and conflicts fails with the name of the permission, and leaves no trace. */
weir_co_fn DRIVER_TEST(conflicts)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *first = add_file("f", ""), *second = add_file("g", "");
    struct weir_edge *holder, *other;
    unsigned before;

    holder = user(first, R | W, ALL & ~(W | Z));
    before = locked_bytes(file);
    WEIR_ASSERT(before == (HELD(R | W) | UNSHARED(W | Z)));
    expect_lock_error(second, R | W, ALL, "Failed to get \"write\" lock");
    expect_lock_error(second, R | Z, ALL, "Failed to get \"resize\" lock");
    expect_lock_error(second, R, ALL & ~W, "Failed to get shared \"write\" lock");
    expect_lock_error(second, 0, ALL & ~R, "Failed to get shared \"consistent read\" lock");
    WEIR_ASSERT(locked_bytes(file) == before);
    other = user(second, R, ALL);
    WEIR_ASSERT(holds(other, 0, MIB, 1));
    /* More than the other shares, now by a change of permissions: nothing changes. */
    WEIR_ASSERT(weir_root_set_perm(other, R | W, ALL, NULL) < 0 && locked_bytes(file) == before);
    leave(holder);
    WEIR_ASSERT(locked_bytes(file) == HELD(R));
    WEIR_ASSERT(!weir_root_set_perm(other, R | W, ALL & ~W, NULL));
    WEIR_ASSERT(locked_bytes(file) == (HELD(R | W) | UNSHARED(W)));
    leave(other);
    WEIR_ASSERT(locked_bytes(file) == 0);
    del("f");
    del("g");
}

weir_co_fn DRIVER_TEST(locking_off)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_edge *with = user(add_file("f", ""), R | W, R);
    struct weir_edge *without;

    without = user(add_file("g", ",'locking':'off'"), R | W, R);
    leave(with);
    WEIR_ASSERT(locked_bytes(file) == 0);
    with = user(weir_node_find("f"), R | W, R);
    leave(with);
    leave(without);
    del("f");
    del("g");
}

/* Whoever shares everything by force excludes nobody. */
weir_co_fn DRIVER_TEST(test_force_share)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *raw = add("{'driver':'raw','node-name':'r','read-only':true,'force-share':true,"
                                "'file':{'driver':'file','filename':'%s'}}",
                                file);
    struct weir_edge *edge = user(raw, R, ALL & ~Z);
    struct weir_edge *writer = user(add_file("f", ""), R | W | Z, ALL);

    WEIR_ASSERT(locked_bytes(file) == HELD(R | W | Z));
    leave(writer);
    WEIR_ASSERT(locked_bytes(file) == HELD(R) && holds(edge, 0, MIB, 1));
    leave(edge);
    del("r");
    del("f");
    add_fails("force-share=on can only be used with read-only images",
              "{'driver':'file','node-name':'f','filename':'%s','force-share':true}", path("a"));
}

/* The locks are gone when the node is. */
weir_co_fn DRIVER_TEST(closing_unlocks)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *raw =
        add("{'driver':'raw','node-name':'r','file':{'driver':'file','filename':'%s'}}", file);
    struct weir_edge *edge = user(raw, R | W, ALL);

    WEIR_ASSERT(locked_bytes(file) == HELD(R | W));
    leave(edge);
    del("r");
    WEIR_ASSERT(locked_bytes(file) == 0);
}

/* ---- read-only, auto-read-only ---- */

/* How many descriptors of this process are open on @file for writing. */
static unsigned writers(const char *file)
{
    unsigned found = 0;

    for (int fd = 0; fd < 256; fd++) {
        char link[64], target[4200];
        ssize_t length;
        int flags = fcntl(fd, F_GETFL);

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        length = readlink(link, target, sizeof(target) - 1);
        if (flags < 0 || length < 0)
            continue;
        target[length] = '\0';
        if (!strcmp(target, file) && (flags & O_ACCMODE) == O_RDWR)
            found++;
    }
    return found;
}

weir_co_fn DRIVER_TEST(test_read_only)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add_file("f", ",'read-only':true");
    struct weir_error *err = user_fails(node, R | W, ALL);
    struct weir_edge *edge = user(node, R, ALL);

    WEIR_ASSERT(!strcmp(weir_error_text(err), "Block node is read-only"));
    WEIR_ASSERT(writers(file) == 0 && holds(edge, 0, MIB, 1));
    WEIR_ASSERT(!io(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    leave(edge);
    weir_error_free(err);
    del("f");
}

weir_co_fn DRIVER_TEST(test_auto_read_only)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add_file("f", ",'auto-read-only':true");
    struct weir_edge *reader = user(node, R, ALL), *writer;

    WEIR_ASSERT(writers(file) == 0 && holds(reader, 0, MIB, 1));
    writer = user(node, R | W | Z, ALL);
    WEIR_ASSERT(writers(file) == 1 && !node->read_only);
    fill(writer, 100, 5000, 2);
    WEIR_ASSERT(holds(reader, 100, 5000, 2));
    WEIR_ASSERT(!io(writer, WEIR_OP_ZERO, 4096, 4096, NULL, 0) && holds(reader, 4096, 4096, 0));
    WEIR_ASSERT(!io(writer, WEIR_OP_FLUSH, 0, 0, NULL, 0));
    WEIR_ASSERT(!weir_node_resize(writer, 2 * MIB, NULL) && file_size(file) == 2 * MIB);
    WEIR_ASSERT(locked_bytes(file) == HELD(R | W | Z));
    leave(writer);
    /* The descriptor is closed on a worker. */
    for (int64_t start = weir_sys->clock_ns(); writers(file) && weir_sys->clock_ns() - start < 5000000000;)
        weir_co_pause();
    WEIR_ASSERT(writers(file) == 0 && locked_bytes(file) == HELD(R) && holds(reader, 4096, 4096, 0));
    leave(reader);
    del("f");
}

/* A writer that cannot have its descriptor fails, and the readers go on. */
weir_co_fn DRIVER_TEST(auto_read_only_fails)
{
    const char *file = make_file(path("a"), MIB, 1);
    struct weir_node *node = add_file("f", ",'auto-read-only':true");
    struct weir_edge *reader = user(node, R, ALL);
    struct weir_error *err;
    char text[5000];

    WEIR_ASSERT(!unlink(file));
    err = user_fails(node, R | W, ALL);
    (void)snprintf(text, sizeof(text), "Could not open '%s': No such file or directory", file);
    WEIR_ASSERT(!strcmp(weir_error_text(err), text));
    weir_error_free(err);
    make_file(file, MIB, 3);
    err = user_fails(node, R | W, ALL);
    (void)snprintf(text, sizeof(text), "Could not open '%s' for writing: another file has this name now",
                   file);
    WEIR_ASSERT(!strcmp(weir_error_text(err), text));
    weir_error_free(err);
    WEIR_ASSERT(holds(reader, 0, MIB, 1));
    leave(reader);
    del("f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_follow_permissions),
        cmocka_unit_test(conflicts),
        cmocka_unit_test(locking_off),
        cmocka_unit_test(test_force_share),
        cmocka_unit_test(closing_unlocks),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_auto_read_only),
        cmocka_unit_test(auto_read_only_fails),
    };

    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}

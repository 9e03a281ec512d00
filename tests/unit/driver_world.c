/* SPDX-License-Identifier: BSD-2-Clause */
#include "driver_world.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

extern const struct weir_driver weir_driver_blkdebug, weir_driver_blklogwrites, weir_driver_blkverify,
    weir_driver_compress, weir_driver_file, weir_driver_host_device, weir_driver_null_co,
    weir_driver_preallocate, weir_driver_quorum, weir_driver_raw, weir_driver_throttle;

static char directory[PATH_MAX], directory_shm[PATH_MAX];

/* ---- the graph ---- */

struct body {
    void (*run)(void *arg) weir_co_fn;
};

static weir_co_fn void run_body(void *arg)
{
    struct body *body = arg;

    weir_graph_init(&weir_io_hooks);
    body->run(NULL);
    weir_graph_done(5 * 1000000000LL);
    WEIR_ASSERT(!weir_graph_next(NULL) && !weir_graph_limbo_count());
}

void run_drivers(void (*run)(void *arg) weir_co_fn)
{
    static const struct weir_driver *const drivers[] = {
        &weir_driver_blkdebug, &weir_driver_blklogwrites, &weir_driver_blkverify, &weir_driver_compress,
        &weir_driver_file,     &weir_driver_host_device,  &weir_driver_null_co,   &weir_driver_preallocate,
        &weir_driver_quorum,   &weir_driver_raw,          &weir_driver_throttle,
    };
    struct body body = { run };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(drivers); i++)
        weir_driver_register(drivers[i]);
    run_world(run_body, &body);
}

static json_t *parse(const char *format, va_list args)
{
    char text[4096];
    json_t *value;

    WEIR_ASSERT(vsnprintf(text, sizeof(text), format, args) < (int)sizeof(text));
    for (char *at = text; *at; at++)
        *at = *at == '\'' ? '"' : *at;
    value = json_loads(text, 0, NULL);
    WEIR_ASSERT(value);
    return value;
}

weir_co_fn struct weir_node *add(const char *format, ...)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *node;
    json_t *options;
    va_list args;
    int ret;

    va_start(args, format);
    options = parse(format, args);
    va_end(args);
    ret = weir_node_add(options, true, &node, &err);
    if (ret < 0)
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
    WEIR_ASSERT(!ret);
    json_decref(options);
    return node;
}

static void expect(int ret, struct weir_error *err, const char *text)
{
    if (ret >= 0 || strcmp(weir_error_text(err), text) != 0)
        (void)fprintf(stderr, "expected: %s\n     got: %s\n", text, err ? weir_error_text(err) : "success");
    WEIR_ASSERT(ret < 0 && !strcmp(weir_error_text(err), text));
}

weir_co_fn void add_fails(const char *text, const char *format, ...)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_node *node;
    json_t *options;
    va_list args;
    int ret;

    va_start(args, format);
    options = parse(format, args);
    va_end(args);
    ret = weir_node_add(options, true, &node, &err);
    expect(ret, err, text);
    json_decref(options);
}

weir_co_fn void del(const char *name)
{
    WEIR_AUTO_ERROR err = NULL;
    int ret = weir_node_del(name, &err);

    if (ret < 0)
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
    WEIR_ASSERT(!ret);
}

static char *describe(struct weir_edge *edge)
{
    return weir_strdup("the test");
}

static const struct weir_root_ops root_ops = { .kind = "block-backend", .describe = describe };

weir_co_fn struct weir_edge *user(struct weir_node *node, unsigned perm, unsigned shared)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_edge *edge;
    int ret = weir_root_attach(node, "root", perm, shared, &root_ops, NULL, &edge, &err);

    if (ret < 0)
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
    WEIR_ASSERT(!ret);
    return edge;
}

weir_co_fn struct weir_error *user_fails(struct weir_node *node, unsigned perm, unsigned shared)
{
    struct weir_error *err = NULL;
    struct weir_edge *edge;
    int ret = weir_root_attach(node, "root", perm, shared, &root_ops, NULL, &edge, &err);

    WEIR_ASSERT(ret < 0 && err);
    return err;
}

weir_co_fn void leave(struct weir_edge *edge)
{
    weir_root_detach(edge, -1);
}

/* ---- requests ---- */

weir_co_fn int io(struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length, void *buffer,
                  unsigned flags)
{
    struct iovec iov = { buffer, length };
    struct weir_request request =
        weir_request_make(op, offset, length, buffer ? &iov : NULL, buffer ? 1 : 0, flags);

    return weir_root_io(edge, &request);
}

weir_co_fn void fill(struct weir_edge *edge, uint64_t offset, uint64_t length, int byte)
{
    weir_autofree char *buffer = weir_alloc(length);
    int ret;

    memset(buffer, byte, length);
    ret = io(edge, WEIR_OP_WRITE, offset, length, buffer, 0);
    if (ret)
        (void)fprintf(stderr, "write: %s\n", strerror(-ret));
    WEIR_ASSERT(!ret);
}

weir_co_fn bool holds(struct weir_edge *edge, uint64_t offset, uint64_t length, int byte)
{
    weir_autofree char *buffer = weir_alloc(length);
    int ret;

    memset(buffer, ~byte, length);
    ret = io(edge, WEIR_OP_READ, offset, length, buffer, 0);
    if (ret)
        (void)fprintf(stderr, "read: %s\n", strerror(-ret));
    WEIR_ASSERT(!ret);
    for (uint64_t i = 0; i < length; i++) {
        if (buffer[i] != (char)byte)
            return false;
    }
    return true;
}

weir_co_fn struct weir_status status_of(struct weir_edge *edge, uint64_t offset, uint64_t length)
{
    struct weir_status status = { 0 };

    WEIR_ASSERT(!weir_root_status(edge, offset, length, WEIR_REQUEST_DEEP, &status));
    return status;
}

/* ---- files ---- */

static const char *path_in(const char *base, const char *name)
{
    static char paths[4][PATH_MAX];
    static unsigned next;
    char *text = paths[next++ % 4];

    (void)snprintf(text, PATH_MAX, "%.4000s/%s", base, name);
    return text;
}

const char *path(const char *name)
{
    return path_in(directory, name);
}

const char *path_shm(const char *name)
{
    return directory_shm[0] ? path_in(directory_shm, name) : NULL;
}

const char *make_file(const char *file, uint64_t size, int byte)
{
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0644);

    WEIR_ASSERT(fd >= 0 && !ftruncate(fd, (off_t)size));
    for (uint64_t done = 0; byte >= 0 && done < size;) {
        char block[4096];
        ssize_t wrote;

        memset(block, byte, sizeof(block));
        wrote = write(fd, block, WEIR_MIN(size - done, sizeof(block)));
        WEIR_ASSERT(wrote > 0);
        done += (uint64_t)wrote;
    }
    WEIR_ASSERT(!close(fd));
    return file;
}

uint64_t allocated(const char *file)
{
    struct stat stat_now;

    WEIR_ASSERT(!stat(file, &stat_now));
    return (uint64_t)stat_now.st_blocks * 512;
}

uint64_t file_size(const char *file)
{
    struct stat stat_now;

    WEIR_ASSERT(!stat(file, &stat_now));
    return (uint64_t)stat_now.st_size;
}

int make_directories(void **state)
{
    const char *base = getenv("TMPDIR");

    (void)snprintf(directory, sizeof(directory), "%s/weir-driver-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    (void)snprintf(directory_shm, sizeof(directory_shm), "/dev/shm/weir-driver-XXXXXX");
    if (!mkdtemp(directory_shm))
        directory_shm[0] = '\0';
    return 0;
}

static void remove_directory(const char *name)
{
    DIR *dir = opendir(name);
    struct dirent *entry;

    if (!dir)
        return;
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] != '.')
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
    (void)rmdir(name);
}

int remove_directories(void **state)
{
    remove_directory(directory);
    if (directory_shm[0])
        remove_directory(directory_shm);
    return 0;
}

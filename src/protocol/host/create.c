/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blockdev-create of a raw file.
 *
 * Runs in steps on a worker, so that none holds a loop. The image locks are taken before anything is
 * changed: a file that somebody uses is left as it is. A file that did not exist before is removed again
 * when a step fails.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "gen/schema.h"
#include <errno.h>
#include <fcntl.h>

#define ZERO_CHUNK ((uint64_t)1 << 20)

struct create {
    const char *path;
    uint64_t size;
    enum weir_q_prealloc_mode preallocation;
    int fd; /* -1: not open */
    bool is_new;
    unsigned conflict;
    bool conflict_shared;
};

/* What creating an image needs: others may read, not resize. */
static const struct weir_host_locks locks = { WEIR_PERM_WRITE | WEIR_PERM_RESIZE, WEIR_PERM_RESIZE };

static int run_open(void *arg)
{
    struct create *create = arg;
    int fd = weir_sys->file.open(create->path, O_RDWR | O_CREAT | O_EXCL, 0644);

    create->is_new = fd >= 0;
    if (fd == -EEXIST)
        fd = weir_sys->file.open(create->path, O_RDWR, 0);
    if (fd < 0)
        return fd;
    create->fd = fd;
    return 0;
}

static int run_lock(void *arg)
{
    struct create *create = arg;

    return weir_host_lock_take(create->fd, &(struct weir_host_locks){ 0 }, &locks, &create->conflict,
                               &create->conflict_shared);
}

static int run_size(void *arg)
{
    struct create *create = arg;
    int ret = weir_sys->file.truncate(create->fd, 0);

    return ret < 0 ? ret : weir_sys->file.truncate(create->fd, create->size);
}

static int write_zeroes(const struct create *create)
{
    weir_autofree void *zeroes = weir_alloc(ZERO_CHUNK);
    uint64_t done = 0;

    while (done < create->size) {
        uint64_t length = WEIR_MIN(create->size - done, ZERO_CHUNK);
        ssize_t written = weir_sys->file.pwrite(create->fd, zeroes, length, done);

        if (written <= 0)
            return written ? (int)written : -EIO;
        done += (uint64_t)written;
    }
    return weir_sys->file.fsync(create->fd, false);
}

static int run_preallocate(void *arg)
{
    struct create *create = arg;

    if (!create->size)
        return 0;
    switch (create->preallocation) {
    case WEIR_Q_PREALLOC_MODE_FALLOC:
        return weir_sys->file.fallocate(create->fd, 0, 0, create->size);
    case WEIR_Q_PREALLOC_MODE_FULL:
        return write_zeroes(create);
    default:
        return 0;
    }
}

static int run_close(void *arg)
{
    struct create *create = arg;

    weir_sys->file.close(create->fd);
    return 0;
}

static int run_unlink(void *arg)
{
    return weir_sys->file.unlink(((struct create *)arg)->path);
}

static weir_co_fn int fill(struct create *create, struct weir_error **err)
{
    int ret = weir_co_work(run_lock, create);

    if (ret < 0)
        return weir_host_lock_error(ret, create->conflict, create->conflict_shared, create->path, err);
    ret = weir_co_work(run_size, create);
    if (ret < 0)
        return weir_error_set_errno(err, ret, "Could not resize '%s'", create->path);
    ret = weir_co_work(run_preallocate, create);
    if (ret < 0)
        return weir_error_set_errno(err, ret, "Could not preallocate '%s'", create->path);
    return 0;
}

static weir_co_fn int host_create(const void *options, struct weir_error **err)
{
    const struct weir_q_blockdev_create_options_file *opts = options;
    struct create create = {
        .path = opts->filename,
        .size = opts->size,
        .preallocation = opts->has_preallocation ? opts->preallocation : WEIR_Q_PREALLOC_MODE_OFF,
        .fd = -1,
    };
    int ret;

    if (create.preallocation == WEIR_Q_PREALLOC_MODE_METADATA)
        return weir_error_set(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
    if (opts->size > INT64_MAX)
        return weir_error_set_errno(err, -EFBIG, "Could not create '%s'", create.path);
    ret = weir_co_work(run_open, &create);
    if (ret < 0)
        return weir_error_set_errno(err, ret, "Could not create '%s'", create.path);
    ret = fill(&create, err);
    /* The failure that is told is the first one; a file left behind does no harm. */
    if (ret < 0 && create.is_new)
        (void)weir_co_work(run_unlink, &create);
    (void)weir_co_work(run_close, &create);
    return ret;
}

const struct weir_create_ops weir_host_create_ops = {
    .create = host_create,
    .options = &weir_schema_blockdev_create_options_file,
};

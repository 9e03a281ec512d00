/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Permissions of a file node towards other processes.
 *
 * Image locks: for each permission that the node's users take, a shared lock on byte 100 + i of the file,
 * for each that they do not share one on 200 + i (i: consistent-read, write, write-unchanged, resize).
 * Locks are taken first and the opposite bytes tested then, so of two that come at the same time at least
 * one sees the other. Locks belong to the open file description of `fd`, which lives as long as the node.
 *
 * prepare takes what is new, commit gives back what is no longer needed, abort what prepare took. The same
 * steps open and close the descriptor for changes of an auto-read-only node.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include <errno.h>

#define BYTE_HELD 100u
#define BYTE_UNSHARED 200u
#define CHANGES (WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED | WEIR_PERM_RESIZE)
#define LIMIT_SECONDS ((int)(WEIR_OPEN_LIMIT_NS / 1000000000))

static const char *const lock_names[WEIR_PERM_COUNT] = { "consistent read", "write", "write unchanged",
                                                         "resize" };

/* ---- bytes of the file; on a worker ---- */

static int take_bytes(int fd, unsigned base, unsigned have, unsigned want, unsigned *ret_taken)
{
    for (unsigned i = 0; i < WEIR_PERM_COUNT; i++) {
        int ret;

        if (!(want & ~have & (1u << i)))
            continue;
        ret = weir_sys->file.lock(fd, WEIR_SYS_LOCK_SHARED, base + i, 1);
        if (ret < 0)
            return ret;
        *ret_taken |= 1u << i;
    }
    return 0;
}

static void drop_bytes(int fd, unsigned base, unsigned which)
{
    for (unsigned i = 0; i < WEIR_PERM_COUNT; i++) {
        /* Unlocking fails only for a descriptor that is none: there is nothing to do about it. */
        if (which & (1u << i))
            (void)weir_sys->file.lock(fd, WEIR_SYS_UNLOCK, base + i, 1);
    }
}

/* Whether somebody else holds one of the bytes: -EAGAIN with the bit. */
static int test_bytes(int fd, unsigned base, unsigned which, unsigned *ret_bit)
{
    for (unsigned i = 0; i < WEIR_PERM_COUNT; i++) {
        int ret;

        if (!(which & (1u << i)))
            continue;
        ret = weir_sys->file.lock_test(fd, WEIR_SYS_LOCK_EXCLUSIVE, base + i, 1);
        if (ret > 0) {
            *ret_bit = i;
            return -EAGAIN;
        }
        if (ret < 0)
            return ret;
    }
    return 0;
}

int weir_host_lock_take(int fd, const struct weir_host_locks *have, const struct weir_host_locks *want,
                        unsigned *ret_conflict, bool *ret_shared)
{
    struct weir_host_locks taken = { 0 };
    int ret;

    ret = take_bytes(fd, BYTE_HELD, have->held, want->held, &taken.held);
    if (!ret)
        ret = take_bytes(fd, BYTE_UNSHARED, have->unshared, want->unshared, &taken.unshared);
    if (!ret) {
        *ret_shared = false;
        ret = test_bytes(fd, BYTE_UNSHARED, want->held, ret_conflict);
    }
    if (!ret) {
        ret = test_bytes(fd, BYTE_HELD, want->unshared, ret_conflict);
        *ret_shared = ret == -EAGAIN;
    }
    if (ret < 0)
        weir_host_lock_drop(fd, &taken, &(struct weir_host_locks){ 0 });
    return ret;
}

void weir_host_lock_drop(int fd, const struct weir_host_locks *have, const struct weir_host_locks *keep)
{
    drop_bytes(fd, BYTE_HELD, have->held & ~keep->held);
    drop_bytes(fd, BYTE_UNSHARED, have->unshared & ~keep->unshared);
}

int weir_host_lock_error(int ret, unsigned conflict, bool shared, const char *path, struct weir_error **err)
{
    if (ret != -EAGAIN)
        return weir_error_set_errno(err, ret, "Failed to lock '%s'", path);
    ret = weir_error_set(err, ret, "Failed to get %s\"%s\" lock", shared ? "shared " : "",
                         lock_names[conflict]);
    weir_error_hint(err, "Is another process using the image [%s]?", path);
    return ret;
}

/* ---- jobs ---- */

struct lock_job {
    struct weir_host_fd *fd;
    struct weir_host_locks have, want;
    int result;
    unsigned conflict;
    bool shared;
};

/* NULL when an earlier call has not returned. */
static struct lock_job *lock_job_new(struct weir_host_fd *fd, const struct weir_host_locks *have,
                                     const struct weir_host_locks *want)
{
    struct lock_job *job;

    if (atomic_exchange(&fd->locking, true))
        return NULL;
    job = weir_new(struct lock_job);
    job->fd = weir_host_fd_ref(fd);
    job->have = *have;
    job->want = *want;
    return job;
}

static void lock_job_free(void *arg)
{
    struct lock_job *job = arg;

    atomic_store(&job->fd->locking, false);
    weir_host_fd_unref(job->fd);
    free(job);
}

static int take_run(void *arg)
{
    struct lock_job *job = arg;

    job->result = weir_host_lock_take(job->fd->fd, &job->have, &job->want, &job->conflict, &job->shared);
    return 0;
}

/* Nobody waits for these locks any more. */
static void take_late(void *arg)
{
    struct lock_job *job = arg;

    if (!job->result)
        weir_host_lock_drop(job->fd->fd, &job->want, &job->have);
    lock_job_free(job);
}

static int drop_run(void *arg)
{
    struct lock_job *job = arg;

    weir_host_lock_drop(job->fd->fd, &job->have, &job->want);
    return 0;
}

static weir_co_fn int take_locks(struct weir_host_file *host, const struct weir_host_locks *want,
                                 struct weir_error **err)
{
    struct lock_job *job = lock_job_new(host->fd, &host->locks, want);
    int ret = -ETIMEDOUT;

    if (job)
        ret = weir_co_work_until(take_run, take_late, job, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS);
    if (ret == -ETIMEDOUT)
        return weir_error_set(err, ret, "Failed to lock '%s': no answer within %d seconds", host->path,
                              LIMIT_SECONDS);
    ret = job->result;
    if (ret < 0)
        ret = weir_host_lock_error(ret, job->conflict, job->shared, host->path, err);
    lock_job_free(job);
    return ret;
}

static const struct weir_host_locks all_locks = { WEIR_PERM_ALL, WEIR_PERM_ALL }, no_locks = { 0 };

/* Whether it has been done in time. */
static weir_co_fn bool drop_within(struct weir_host_fd *fd, const struct weir_host_locks *have,
                                   const struct weir_host_locks *keep)
{
    struct lock_job *job = lock_job_new(fd, have, keep);

    if (!job || weir_co_work_until(drop_run, lock_job_free, job, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS) ==
                    -ETIMEDOUT)
        return false;
    lock_job_free(job);
    return true;
}

/* Cannot fail: what is not given back now is given back by a later call, or when the descriptor is closed. */
static weir_co_fn void drop_locks(struct weir_host_file *host, const struct weir_host_locks *have,
                                  const struct weir_host_locks *keep)
{
    if (!host->locks_surplus && !(have->held & ~keep->held) && !(have->unshared & ~keep->unshared))
        return;
    host->locks_surplus = !drop_within(host->fd, host->locks_surplus ? &all_locks : have, keep);
}

/* ---- another descriptor of the same file ---- */

static int copy_run(void *arg)
{
    struct lock_job *job = arg;
    unsigned taken = 0;

    job->result = take_bytes(job->fd->fd, BYTE_HELD, 0, job->want.held, &taken);
    if (!job->result)
        job->result = take_bytes(job->fd->fd, BYTE_UNSHARED, 0, job->want.unshared, &taken);
    return 0;
}

int weir_host_lock_too(struct weir_host_file *host, struct weir_host_fd *fd)
{
    struct lock_job *job;
    int ret = -ETIMEDOUT;

    if (!host->locking)
        return 0;
    job = lock_job_new(fd, &no_locks, &host->locks);
    if (job)
        ret = weir_co_work_until(copy_run, take_late, job, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS);
    if (ret == -ETIMEDOUT)
        return ret;
    ret = job->result;
    lock_job_free(job);
    return ret;
}

void weir_host_unlock(struct weir_host_file *host, struct weir_host_fd *fd)
{
    if (host->locking)
        (void)drop_within(fd, &all_locks, &no_locks);
}

/* ---- the driver's slots ---- */

int weir_host_perm_prepare(struct weir_node *node, unsigned perm, unsigned shared, struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    int ret;

    host->next_writes = perm & CHANGES;
    host->next_locks = host->locks;
    if (host->dynamic && host->next_writes && !host->write_fd) {
        ret = weir_host_open_for_writing(host, &host->next_write_fd, err);
        if (ret < 0)
            return ret;
    }
    if (!host->locking)
        return 0;
    host->next_locks = (struct weir_host_locks){ perm & WEIR_PERM_ALL, ~shared & WEIR_PERM_ALL };
    ret = take_locks(host, &host->next_locks, err);
    if (ret < 0) {
        host->next_locks = host->locks;
        weir_host_fd_unref(weir_steal(&host->next_write_fd));
    }
    return ret;
}

static void set_write_fd(struct weir_host_file *host, struct weir_host_fd *fd)
{
    struct weir_host_fd *old;

    weir_mutex_lock(&host->write_mutex);
    old = host->write_fd;
    host->write_fd = fd;
    weir_mutex_unlock(&host->write_mutex);
    weir_host_fd_unref(old);
}

void weir_host_perm_commit(struct weir_node *node)
{
    struct weir_host_file *host = weir_node_state(node);
    struct weir_host_locks old = host->locks;

    host->locks = host->next_locks;
    if (host->next_write_fd)
        set_write_fd(host, weir_steal(&host->next_write_fd));
    else if (host->dynamic && !host->next_writes)
        set_write_fd(host, NULL);
    drop_locks(host, &old, &host->locks);
}

void weir_host_perm_abort(struct weir_node *node)
{
    struct weir_host_file *host = weir_node_state(node);

    weir_host_fd_unref(weir_steal(&host->next_write_fd));
    drop_locks(host, &host->next_locks, &host->locks);
}

/* Like a file that is read-only for as long as nobody writes. */
int weir_host_set_read_only(struct weir_node *node, bool read_only, struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);

    if (read_only && host->write_fd)
        set_write_fd(host, NULL); /* nobody has the permission any more */
    host->dynamic = !read_only;
    return 0;
}

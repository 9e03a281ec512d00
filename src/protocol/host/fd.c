/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counted descriptors, and calls on workers with a bound for each file.
 *
 * A number is given back to the system only when no call can use it any more; the closing itself happens on a
 * worker, as it may hang like any other call.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include <errno.h>

struct weir_host_fd *weir_host_fd_new(int fd)
{
    struct weir_host_fd *object = weir_new(struct weir_host_fd);

    object->fd = fd;
    atomic_init(&object->refs, 1);
    return object;
}

struct weir_host_fd *weir_host_fd_ref(struct weir_host_fd *fd)
{
    atomic_fetch_add_explicit(&fd->refs, 1, memory_order_relaxed);
    return fd;
}

/* ---- closing ---- */

struct close_work {
    struct weir_sys_work work;
    int fd;
};

static void close_run(struct weir_sys_work *work)
{
    weir_sys->file.close(weir_container_of(work, struct close_work, work)->fd);
}

static void close_done(struct weir_sys_work *work)
{
    free(weir_container_of(work, struct close_work, work));
}

static bool last_ref(struct weir_host_fd *fd)
{
    return fd && atomic_fetch_sub_explicit(&fd->refs, 1, memory_order_acq_rel) == 1;
}

void weir_host_fd_unref(struct weir_host_fd *fd)
{
    struct close_work *job;

    if (!last_ref(fd))
        return;
    job = weir_new(struct close_work);
    job->fd = fd->fd;
    job->work.run = close_run;
    job->work.done = close_done;
    free(fd);
    weir_sys->thread.work(&job->work);
}

static int close_now(void *arg)
{
    weir_sys->file.close(((struct weir_host_fd *)arg)->fd);
    return 0;
}

void weir_host_fd_unref_wait(struct weir_host_fd *fd)
{
    if (!last_ref(fd))
        return;
    if (weir_co_work_until(close_now, free, fd, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS) != -ETIMEDOUT)
        free(fd);
}

/* ---- the descriptor for changes ---- */

struct weir_host_fd *weir_host_write_get(struct weir_host_file *host)
{
    struct weir_host_fd *fd;

    if (!host->dynamic)
        return host->write_fd;
    weir_mutex_lock(&host->write_mutex);
    fd = host->write_fd ? weir_host_fd_ref(host->write_fd) : NULL;
    weir_mutex_unlock(&host->write_mutex);
    return fd;
}

void weir_host_write_put(struct weir_host_file *host, struct weir_host_fd *fd)
{
    if (host->dynamic)
        weir_host_fd_unref(fd);
}

/* ---- calls on workers ---- */

int weir_host_call(struct weir_host_file *host, int (*run)(void *arg), void *arg)
{
    int ret;

    weir_mutex_lock(&host->calls_mutex);
    while (host->calls >= WEIR_HOST_CALLS_MAX)
        weir_co_queue_wait(&host->calls_queue, &host->calls_mutex);
    host->calls++;
    weir_mutex_unlock(&host->calls_mutex);
    ret = weir_co_work(run, arg);
    weir_mutex_lock(&host->calls_mutex);
    host->calls--;
    (void)weir_co_queue_wake_one(&host->calls_queue);
    weir_mutex_unlock(&host->calls_mutex);
    return ret;
}

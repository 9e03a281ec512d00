/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reopening a file: with or without O_DIRECT it is another open file description.
 *
 * The new descriptor gets the locks that the old one has before that one lets them go, so that no other process comes
 * between; both are ours, so nothing is tested. The old one is kept until it is certain that it is not needed again.
 */
#include "protocol/host/host.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include <errno.h>

/* What a node does its I/O with. */
struct ways {
    struct weir_host_fd *fd, *write_fd; /* references */
    bool direct, fd_writable;
    int reading, writing;
};

struct undo {
    bool no_flush;
    bool swapped;
    struct ways old;
};

/* ---- the descriptors ---- */

static struct ways ways_of(struct weir_host_file *host)
{
    return (struct ways){
        .fd = host->fd,
        .write_fd = host->write_fd,
        .direct = host->direct,
        .fd_writable = host->fd_writable,
        .reading = atomic_load(&host->reading.how),
        .writing = atomic_load(&host->writing.how),
    };
}

static void take_ways(struct weir_host_file *host, const struct ways *ways)
{
    host->fd = ways->fd;
    weir_mutex_lock(&host->write_mutex);
    host->write_fd = ways->write_fd;
    weir_mutex_unlock(&host->write_mutex);
    host->direct = ways->direct;
    host->fd_writable = ways->fd_writable;
    atomic_store(&host->reading.how, ways->reading);
    atomic_store(&host->writing.how, ways->writing);
}

static weir_co_fn void drop_ways(struct ways *ways)
{
    weir_host_fd_unref_wait(weir_steal(&ways->write_fd));
    weir_host_fd_unref_wait(weir_steal(&ways->fd));
}

/* The same descriptors as the node has, in the other mode. */
static weir_co_fn int open_ways(struct weir_host_file *host, bool direct, struct ways *ret_ways,
                                struct weir_error **err)
{
    bool one = host->write_fd && host->write_fd == host->fd;
    struct weir_host_file like = { .path = host->path,
                                   .device = host->device,
                                   .inode = host->inode,
                                   .direct = direct,
                                   .local = host->local,
                                   .aio = host->aio };
    struct ways ways = { .direct = direct, .fd_writable = one };
    int ret = weir_host_open_again(&like, one, &ways.fd, err);

    if (ret < 0)
        return ret;
    ways.reading = atomic_load(&like.reading.how);
    ways.writing = atomic_load(&like.writing.how);
    if (one)
        ways.write_fd = weir_host_fd_ref(ways.fd);
    else if (host->write_fd)
        ret = weir_host_open_for_writing(&like, &ways.write_fd, err);
    if (ret < 0)
        drop_ways(&ways);
    else
        *ret_ways = ways;
    return ret;
}

static weir_co_fn int swap(struct weir_host_file *host, bool direct, struct ways *ret_old,
                           struct weir_error **err)
{
    struct ways ways;
    int ret = open_ways(host, direct, &ways, err);

    if (ret < 0)
        return ret;
    ret = weir_host_lock_too(host, ways.fd);
    if (ret < 0) {
        drop_ways(&ways);
        return weir_error_set_errno(err, ret, "Failed to lock '%s'", host->path);
    }
    *ret_old = ways_of(host);
    take_ways(host, &ways);
    weir_host_unlock(host, ret_old->fd); /* else it would stand against what this one may want to lock */
    return 0;
}

/* ---- the driver's slots ---- */

static weir_co_fn int prepare(struct weir_node *node, struct weir_reopening *reopening,
                              struct weir_error **err)
{
    struct weir_host_file *host = weir_node_state(node);
    struct undo *undo;
    int ret = 0;

    if (host->aio == WEIR_HOST_AIO_NATIVE && !node->cache_direct)
        return weir_host_aio_error(err);
    undo = weir_new(struct undo);
    undo->no_flush = host->no_flush;
    if (node->cache_direct != host->direct)
        ret = swap(host, node->cache_direct, &undo->old, err);
    if (ret < 0) {
        free(undo);
        return ret;
    }
    undo->swapped = undo->old.fd;
    host->no_flush = node->cache_no_flush;
    reopening->undo = undo;
    return 0;
}

static weir_co_fn void commit(struct weir_node *node, struct weir_reopening *reopening)
{
    struct weir_host_file *host = weir_node_state(node);
    struct undo *undo = reopening->undo;
    struct ways wide = { 0 };

    if (undo->swapped)
        drop_ways(&undo->old);
    /* Nobody writes: nor could anybody. Where that cannot be had, it is no more than a descriptor that could. */
    if (node->read_only_asked && host->fd_writable && !host->write_fd &&
        swap(host, host->direct, &wide, NULL) == 0)
        drop_ways(&wide);
}

static weir_co_fn void abort_reopening(struct weir_node *node, struct weir_reopening *reopening)
{
    struct weir_host_file *host = weir_node_state(node);
    struct undo *undo = reopening->undo;

    host->no_flush = undo->no_flush;
    if (undo->swapped) {
        struct ways ways = ways_of(host);

        /* It had them, and nobody can have taken others meanwhile. Where it cannot be, the other one keeps them. */
        if (weir_host_lock_too(host, undo->old.fd) < 0)
            host->keeper = weir_host_fd_ref(ways.fd);
        take_ways(host, &undo->old);
        drop_ways(&ways);
    }
}

const struct weir_reopen_ops weir_host_reopen_ops = { .prepare = prepare,
                                                      .commit = commit,
                                                      .abort = abort_reopening };

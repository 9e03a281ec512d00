/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Listening sockets. Name look-ups and binding may block, so they run on a worker with a copy of the address; a look-up
 * that takes too long is left behind and closes what it opens.
 */
#include "export/nbd/listen.h"

#include "base/alloc.h"
#include "co/co.h"
#include "export/nbd/server.h"
#include "sys/sys.h"
#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define BACKLOG 128
#define LIMIT_NS (10 * 1000000000LL)

struct listening {
    enum weir_nbd_address_type type;
    char *host, *port, *path;
    int fd; /* FD */
    int fds[WEIR_NBD_LISTENERS_MAX];
    unsigned count;
    bool resolving; /* what failed, if it failed */
};

static void free_listening(struct listening *listening)
{
    free(listening->host);
    free(listening->port);
    free(listening->path);
    free(listening);
}

/* ---- on a worker ---- */

static int listen_unix(struct listening *listening)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(listening->path);
    int fd;

    memcpy(address.sun_path, listening->path, length);
    fd = weir_sys->net.listen((struct sockaddr *)&address,
                              (unsigned)(offsetof(struct sockaddr_un, sun_path) + length + 1), BACKLOG, true);
    if (fd < 0)
        return fd;
    listening->fds[listening->count++] = fd;
    return 0;
}

/* Every address of the host, as far as they can be had; for a port that the system chooses, the first one only. */
static int listen_inet(struct listening *listening)
{
    struct weir_sys_address addresses[WEIR_NBD_LISTENERS_MAX];
    bool any_port = !strcmp(listening->port, "0");
    int found, ret = -EADDRNOTAVAIL;

    listening->resolving = true;
    found = weir_sys->net.resolve(listening->host, listening->port, AF_UNSPEC, true, addresses,
                                  WEIR_NBD_LISTENERS_MAX);
    if (found < 0)
        return found;
    listening->resolving = false;
    for (int i = 0; i < found && !(any_port && listening->count); i++) {
        int fd = weir_sys->net.listen((struct sockaddr *)&addresses[i].address, addresses[i].length, BACKLOG,
                                      true);

        if (fd < 0)
            ret = fd;
        else
            listening->fds[listening->count++] = fd;
    }
    return listening->count ? 0 : ret;
}

static int listen_fd(struct listening *listening)
{
    int ret = weir_sys->net.is_listening(listening->fd);

    if (ret == 0)
        ret = -EINVAL;
    if (ret > 0)
        ret = weir_sys->net.set_nonblocking(listening->fd);
    if (ret < 0)
        return ret;
    listening->fds[listening->count++] = listening->fd;
    return 0;
}

static int run(void *arg)
{
    struct listening *listening = arg;

    switch (listening->type) {
    case WEIR_NBD_UNIX:
        return listen_unix(listening);
    case WEIR_NBD_INET:
        return listen_inet(listening);
    default:
        return listen_fd(listening);
    }
}

/* Nobody waits any more. */
static void release(void *arg)
{
    struct listening *listening = arg;

    for (unsigned i = 0; i < listening->count; i++)
        weir_sys->net.close(listening->fds[i]);
    free_listening(listening);
}

/* ---- on the control loop ---- */

static int parse_fd(const char *text, int *ret_fd)
{
    char *end;
    long value;

    errno = 0;
    value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < 0 || value > INT_MAX)
        return -EINVAL;
    *ret_fd = (int)value;
    return 0;
}

static int set_error(const struct weir_nbd_server_options *options, const struct listening *listening,
                     int ret, struct weir_error **err)
{
    if (options->type == WEIR_NBD_UNIX)
        return weir_error_set_errno(err, ret, "Failed to bind socket to %s", options->path);
    if (options->type == WEIR_NBD_FD)
        return weir_error_set(err, ret, "File descriptor '%s' is not a listening socket", options->fd);
    if (listening->resolving)
        return weir_error_set_errno(err, ret, "address resolution failed for %s:%s", options->host,
                                    options->port);
    return weir_error_set_errno(err, ret, "Failed to bind socket to %s:%s", options->host, options->port);
}

static int check(const struct weir_nbd_server_options *options, int *ret_fd, struct weir_error **err)
{
    size_t path_max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (options->type == WEIR_NBD_UNIX && strlen(options->path) > path_max)
        return weir_error_set(err, -ENAMETOOLONG, "UNIX socket path '%s' is too long", options->path);
    if (options->type == WEIR_NBD_FD && parse_fd(options->fd, ret_fd) < 0)
        return weir_error_set(err, -EINVAL, "File descriptor '%s' is not a number", options->fd);
    return 0;
}

int weir_nbd_listen(const struct weir_nbd_server_options *options, int ret_fds[WEIR_NBD_LISTENERS_MAX],
                    struct weir_error **err)
{
    struct listening *listening;
    int fd = -1, ret = check(options, &fd, err);

    if (ret < 0)
        return ret;
    listening = weir_new(struct listening);
    listening->type = options->type;
    listening->host = weir_strdup(options->host ? options->host : "");
    listening->port = weir_strdup(options->port ? options->port : "");
    listening->path = weir_strdup(options->path ? options->path : "");
    listening->fd = fd;
    ret = weir_co_work_until(run, release, listening, weir_sys->clock_ns() + LIMIT_NS);
    if (ret == -ETIMEDOUT) /* it goes on without us and frees itself */
        return weir_error_set(err, ret, "address resolution for %s:%s takes too long",
                              options->host ? options->host : "", options->port ? options->port : "");
    if (ret < 0) {
        ret = set_error(options, listening, ret, err);
    } else {
        memcpy(ret_fds, listening->fds, sizeof(listening->fds));
        ret = (int)listening->count;
    }
    free_listening(listening);
    return ret;
}

static int run_unlink(void *arg)
{
    return weir_sys->file.unlink(arg);
}

void weir_nbd_unlink(const char *path)
{
    (void)weir_co_work(run_unlink, (void *)(uintptr_t)path); /* see the header */
}

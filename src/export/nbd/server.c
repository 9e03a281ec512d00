/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The server: accepts on the control loop, knows all connections, and ends them.
 *
 * At the limit of connections it does not accept any more: further clients wait in the kernel's queue. A server
 * that was stopped lives on until its last connection is gone, which may be never when a request is stuck; a new
 * server may be started meanwhile.
 */
#include "export/nbd/server.h"

#include "base/alloc.h"
#include "co/iothread.h"
#include "export/nbd/internal.h"
#include "export/nbd/listen.h"
#include <errno.h>

#define RETRY_NS 100000000LL /* after an accept that failed for want of descriptors */

struct listener {
    struct weir_nbd_server *server;
    int fd;
    struct weir_sys_io io;
    bool accepting;
};

struct weir_nbd_server {
    struct listener listeners[WEIR_NBD_LISTENERS_MAX];
    unsigned listener_count;
    char *path; /* of a unix socket that we made */
    char address[256];
    uint32_t connections_max, handshake_s;
    bool starting, stopping;
    struct weir_iothread *iothread; /* for handshakes */
    TAILQ_HEAD(, weir_nbd_connection) connections;
    unsigned count;
    struct weir_timer retry;
    struct weir_mutex mutex;    /* only because the queue wants one */
    struct weir_co_queue queue; /* stop() waits: an accept or a connection has ended */
};

static struct weir_nbd_server *current;

static void accept_more(struct weir_nbd_server *server);

static void server_free(struct weir_nbd_server *server)
{
    weir_iothread_unref(server->iothread);
    weir_mutex_done(&server->mutex);
    free(server->path);
    free(server);
}

static void wake(struct weir_nbd_server *server)
{
    weir_mutex_lock(&server->mutex);
    weir_co_queue_wake_all(&server->queue);
    weir_mutex_unlock(&server->mutex);
}

/* ---- connections ---- */

static void add_connection(struct weir_nbd_server *server, int fd)
{
    struct weir_nbd_connection *connection;

    /* Several listeners may each have accepted one more. */
    if (server->connections_max && server->count >= server->connections_max) {
        weir_sys->net.close(fd);
        return;
    }
    connection = weir_nbd_connection_new(server, fd, weir_iothread_loop(server->iothread));
    if (!connection)
        return;
    TAILQ_INSERT_TAIL(&server->connections, connection, link);
    server->count++;
}

static void log_end(const struct weir_nbd_connection *connection)
{
    const char *what = connection->error ? strerrordesc_np(-connection->error) : NULL;

    if (connection->export)
        weir_export_log("nbd: %s left export '%s': %s%s%s (%llu requests, %llu failed)", connection->peer,
                        connection->export->id, connection->reason, what ? ": " : "", what ? what : "",
                        (unsigned long long)connection->requests, (unsigned long long)connection->failed);
    else
        weir_export_log("nbd: %s chose no export: %s%s%s", connection->peer, connection->reason,
                        what ? ": " : "", what ? what : "");
}

void weir_nbd_server_gone(struct weir_nbd_connection *connection)
{
    struct weir_nbd_server *server = connection->server;

    log_end(connection);
    TAILQ_REMOVE(&server->connections, connection, link);
    server->count--;
    weir_nbd_connection_free(connection);
    if (server != current && !server->count) {
        server_free(server);
        return;
    }
    accept_more(server);
    wake(server);
}

struct weir_nbd_connection *weir_nbd_server_next(struct weir_nbd_connection *at)
{
    if (at)
        return TAILQ_NEXT(at, link);
    return current ? TAILQ_FIRST(&current->connections) : NULL;
}

bool weir_nbd_server_multi_conn(void)
{
    return current && current->connections_max != 1;
}

uint32_t weir_nbd_server_handshake_s(const struct weir_nbd_server *server)
{
    return server->handshake_s;
}

/* ---- accepting ---- */

static bool ends_by_itself(int error)
{
    return error == -ECONNABORTED || error == -EINTR || error == -EAGAIN || error == -EPROTO;
}

static void accept_done(struct weir_sys_io *io, int result)
{
    struct listener *listener = weir_container_of(io, struct listener, io);
    struct weir_nbd_server *server = listener->server;

    listener->accepting = false;
    if (server->stopping) {
        if (result >= 0)
            weir_sys->net.close(result);
        wake(server);
        return;
    }
    if (result >= 0) {
        add_connection(server, result);
    } else if (!ends_by_itself(result)) {
        weir_export_log("nbd: cannot accept a client on %s: %s", server->address, strerrordesc_np(-result));
        weir_timer_arm(&server->retry, weir_sys->clock_ns() + RETRY_NS);
        return;
    }
    accept_more(server);
}

static void accept_more(struct weir_nbd_server *server)
{
    if (server->stopping || server->starting ||
        (server->connections_max && server->count >= server->connections_max))
        return;
    for (unsigned i = 0; i < server->listener_count; i++) {
        struct listener *listener = &server->listeners[i];

        if (listener->accepting)
            continue;
        listener->io = (struct weir_sys_io){ .op = WEIR_SYS_ACCEPT, .fd = listener->fd, .done = accept_done };
        listener->accepting = true;
        weir_loop_submit(&listener->io);
    }
}

static void retry(struct weir_timer *timer)
{
    accept_more(weir_container_of(timer, struct weir_nbd_server, retry));
}

/* ---- start ---- */

static weir_co_fn int open_listeners(struct weir_nbd_server *server,
                                     const struct weir_nbd_server_options *options, struct weir_error **err)
{
    int fds[WEIR_NBD_LISTENERS_MAX];
    int count = weir_nbd_listen(options, fds, err);

    if (count < 0)
        return count;
    for (int i = 0; i < count; i++) {
        server->listeners[i].server = server;
        server->listeners[i].fd = fds[i];
    }
    server->listener_count = (unsigned)count;
    if (options->type == WEIR_NBD_UNIX)
        server->path = weir_strdup(options->path);
    if (weir_sys->net.name(fds[0], false, server->address, sizeof(server->address)) < 0)
        server->address[0] = '\0';
    return 0;
}

int weir_nbd_server_start(const struct weir_nbd_server_options *options, struct weir_error **err)
{
    struct weir_nbd_server *server;
    int ret;

    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
    if (current)
        return weir_error_set(err, -EBUSY, "NBD server already running");
    server = weir_new(struct weir_nbd_server);
    server->connections_max = options->connections_max;
    server->handshake_s = options->handshake_max_s;
    server->starting = true;
    server->retry.run = retry;
    TAILQ_INIT(&server->connections);
    weir_mutex_init(&server->mutex);
    weir_co_queue_init(&server->queue);
    current = server;
    ret = weir_iothread_default(&server->iothread, err);
    if (ret == 0)
        ret = open_listeners(server, options, err);
    if (ret < 0) {
        current = NULL;
        server_free(server);
        return ret;
    }
    server->starting = false;
    weir_export_log("nbd: listening on %s", server->address);
    accept_more(server);
    return 0;
}

/* ---- stop ---- */

static bool accepting(const struct weir_nbd_server *server)
{
    for (unsigned i = 0; i < server->listener_count; i++) {
        if (server->listeners[i].accepting)
            return true;
    }
    return false;
}

static weir_co_fn void close_listeners(struct weir_nbd_server *server)
{
    weir_timer_cancel(&server->retry);
    for (unsigned i = 0; i < server->listener_count; i++) {
        if (server->listeners[i].accepting)
            weir_loop_cancel(&server->listeners[i].io);
    }
    weir_mutex_lock(&server->mutex);
    while (accepting(server))
        weir_co_queue_wait(&server->queue, &server->mutex);
    weir_mutex_unlock(&server->mutex);
    for (unsigned i = 0; i < server->listener_count; i++)
        weir_sys->net.close(server->listeners[i].fd);
    if (server->path)
        weir_nbd_unlink(server->path);
}

int weir_nbd_server_stop(int64_t limit_ns, struct weir_error **err)
{
    int64_t deadline = weir_sys->clock_ns() + limit_ns;
    struct weir_nbd_server *server = current;
    struct weir_nbd_connection *connection;

    if (!weir_nbd_server_running())
        return weir_error_set(err, -ENOTCONN, "NBD server not running");
    server->stopping = true;
    close_listeners(server);
    TAILQ_FOREACH (connection, &server->connections, link)
        weir_nbd_connection_drop(connection);
    weir_export_close_all("nbd", limit_ns);
    weir_mutex_lock(&server->mutex);
    while (server->count && weir_co_queue_wait_until(&server->queue, &server->mutex, deadline) == 0)
        continue;
    weir_mutex_unlock(&server->mutex);
    weir_export_log("nbd: stopped listening on %s", server->address);
    current = NULL;
    if (!server->count)
        server_free(server);
    return 0;
}

bool weir_nbd_server_running(void)
{
    return current && !current->starting && !current->stopping;
}

unsigned weir_nbd_server_connections(void)
{
    return current ? current->count : 0;
}

const char *weir_nbd_server_address(void)
{
    return weir_nbd_server_running() ? current->address : "";
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The life of a connection: handshake as a coroutine, then transmission by callbacks, then the end.
 *
 * The end comes in three steps. `ending`: nothing more is read; what was asked is answered. `broken`: nothing can be
 * sent either; answers are dropped. And when no request, no operation of the kernel and no queued turn refers to it
 * any more, the connection goes back to the control loop, which closes the descriptor. Nothing of this waits for
 * anybody else: a client that dies, stalls or lies has only itself.
 */
#include "base/alloc.h"
#include "export/nbd/internal.h"
#include "graph/node.h"
#include "io/buffer.h"
#include <errno.h>
#include <stdio.h>

#define SECOND_NS 1000000000LL

/* ---- the end ---- */

void weir_nbd_connection_end(struct weir_nbd_connection *connection, const char *reason, int error)
{
    if (connection->ending)
        return;
    connection->ending = true;
    connection->reason = reason;
    connection->error = error;
    if (connection->timed_out) {
        connection->reason = "took too long for the handshake";
        connection->error = 0;
    } else if (atomic_load(&connection->dropped)) {
        connection->reason = "sent away";
        connection->error = 0;
    }
}

void weir_nbd_connection_break(struct weir_nbd_connection *connection, const char *reason, int error)
{
    weir_nbd_connection_end(connection, reason, error);
    if (connection->broken)
        return;
    connection->broken = true;
    /* What the kernel still does with the socket ends soon; that it may be unconnected already is no news. */
    (void)weir_sys->net.shutdown(connection->fd);
}

static void gone(struct weir_call *call)
{
    weir_nbd_server_gone(weir_container_of(call, struct weir_nbd_connection, gone));
}

void weir_nbd_connection_finish(struct weir_nbd_connection *connection)
{
    struct weir_nbd_request *request;

    if (!connection->ending || connection->in_flight || connection->receiving || connection->resting ||
        connection->polling || connection->sending || connection->turn_queued || connection->in_turn)
        return;
    weir_timer_cancel(&connection->rest_limit);
    while ((request = STAILQ_FIRST(&connection->idle))) {
        STAILQ_REMOVE_HEAD(&connection->idle, link);
        free(request);
    }
    weir_nbd_stream_done(&connection->stream);
    connection->gone.run = gone;
    weir_loop_call(weir_loop_control(), &connection->gone);
}

void weir_nbd_connection_free(struct weir_nbd_connection *connection)
{
    weir_sys->net.close(connection->fd);
    weir_edge_unref(connection->edge);
    if (connection->export)
        weir_export_client_leave(connection->export);
    weir_nbd_handshake_done(&connection->handshake);
    free(connection);
}

void weir_nbd_connection_drop(struct weir_nbd_connection *connection)
{
    atomic_store(&connection->dropped, true);
    (void)weir_sys->net.shutdown(connection->fd); /* it may be unconnected already */
}

/* ---- handshake ---- */

static weir_co_fn bool send_output(struct weir_nbd_connection *connection)
{
    struct weir_nbd_handshake *handshake = &connection->handshake;
    struct iovec iov = { handshake->output, handshake->output_length };

    while (iov.iov_len) {
        ssize_t sent = weir_sys->net.send_now(connection->fd, &iov, 1, 0);

        if (sent == -EAGAIN) {
            struct weir_sys_io io = { .op = WEIR_SYS_SEND, .fd = connection->fd, .iov = &iov, .iovcnt = 1 };

            sent = weir_co_io(&io);
        }
        if (sent < 0) {
            weir_nbd_connection_end(connection, "cannot be reached", (int)sent);
            return false;
        }
        iov.iov_base = (uint8_t *)iov.iov_base + sent;
        iov.iov_len -= (size_t)sent;
    }
    handshake->output_length = 0;
    return true;
}

static weir_co_fn bool receive_input(struct weir_nbd_connection *connection)
{
    struct iovec iov[2];
    struct weir_sys_io io = { .op = WEIR_SYS_RECV, .fd = connection->fd, .iov = iov };
    int ret;

    io.iovcnt = weir_nbd_stream_space(&connection->stream, iov);
    if (!io.iovcnt) {
        weir_nbd_connection_end(connection, "no memory", -ENOMEM);
        return false;
    }
    ret = weir_co_io(&io);
    if (ret <= 0) {
        weir_nbd_connection_end(connection, ret ? "cannot be reached" : "hung up", ret);
        return false;
    }
    weir_nbd_stream_received(&connection->stream, (size_t)ret);
    return true;
}

/* True: the client has chosen an export. */
static weir_co_fn bool negotiate(struct weir_nbd_connection *connection)
{
    for (;;) {
        enum weir_nbd_step step = weir_nbd_handshake_step(&connection->handshake, &connection->stream);

        if (step == WEIR_NBD_STEP_MORE && !receive_input(connection))
            return false;
        if (step != WEIR_NBD_STEP_MORE && !send_output(connection))
            return false;
        if (step == WEIR_NBD_STEP_END)
            weir_nbd_connection_end(connection, connection->handshake.reason, 0);
        if (step == WEIR_NBD_STEP_END || step == WEIR_NBD_STEP_TRANSMISSION)
            return step == WEIR_NBD_STEP_TRANSMISSION;
    }
}

static void out_of_time(struct weir_timer *timer)
{
    struct weir_nbd_connection *connection = weir_container_of(timer, struct weir_nbd_connection, limit);

    connection->timed_out = true;
    (void)weir_sys->net.shutdown(connection->fd); /* wakes whoever waits for it; may be unconnected already */
}

static weir_co_fn void run_handshake(void *arg)
{
    struct weir_nbd_connection *connection = arg;
    uint32_t limit_s = weir_nbd_server_handshake_s(connection->server);
    bool chosen;

    /* Fails on sockets that are not TCP, which need none. */
    (void)weir_sys->net.set_nodelay(connection->fd, true);
    if (limit_s)
        weir_timer_arm(&connection->limit, weir_sys->clock_ns() + limit_s * SECOND_NS);
    chosen = send_output(connection) && negotiate(connection);
    weir_timer_cancel(&connection->limit);
    if (!chosen) {
        weir_nbd_connection_finish(connection);
        return;
    }
    weir_export_log("nbd: %s uses export '%s'", connection->peer, connection->export->id);
    weir_co_move(connection->loop);
    weir_nbd_transmission_start(connection);
}

struct weir_nbd_connection *weir_nbd_connection_new(struct weir_nbd_server *server, int fd,
                                                    struct weir_loop *loop)
{
    struct weir_nbd_connection *connection = weir_new(struct weir_nbd_connection);
    char peer[256];

    connection->server = server;
    connection->fd = fd;
    if (weir_sys->net.name(fd, true, peer, sizeof(peer)) < 0)
        (void)snprintf(peer, sizeof(peer), "somebody");
    (void)snprintf(connection->peer, sizeof(connection->peer), "%.*s", (int)sizeof(connection->peer) - 1,
                   peer);
    STAILQ_INIT(&connection->idle);
    STAILQ_INIT(&connection->answered);
    connection->limit.run = out_of_time;
    weir_nbd_handshake_init(&connection->handshake, &weir_nbd_directory, connection);
    if (!weir_nbd_stream_init(&connection->stream)) {
        weir_nbd_handshake_done(&connection->handshake);
        weir_sys->net.close(fd);
        free(connection);
        return NULL;
    }
    weir_co_start(loop, run_handshake, connection);
    return connection;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From an address to a connection: look-up and connect on a worker with a copy of the address, then the negotiation,
 * which a timer ends by a shutdown of the socket.
 */
#include "protocol/nbd/client.h"

#include "base/alloc.h"
#include "graph/graph.h"
#include <errno.h>
#include <string.h>
#include <sys/un.h>

#define ADDRESSES_MAX 8u

/* ---- on a worker ---- */

struct dial {
    struct nbd_address address;
    int fd;
    int result;     /* 0 or a negative error */
    bool resolving; /* what failed, if it failed */
};

static void free_dial(struct dial *dial)
{
    free(dial->address.host);
    free(dial->address.port);
    free(dial->address.path);
    free(dial);
}

/* Nobody waits any more. */
static void release_dial(void *arg)
{
    struct dial *dial = arg;

    if (dial->fd >= 0)
        weir_sys->net.close(dial->fd);
    free_dial(dial);
}

static int dial_unix(struct dial *dial)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = strlen(dial->address.path);

    memcpy(address.sun_path, dial->address.path, length);
    dial->fd = weir_sys->net.connect((struct sockaddr *)&address,
                                     (unsigned)(offsetof(struct sockaddr_un, sun_path) + length + 1));
    return dial->fd;
}

static int dial_inet(struct dial *dial)
{
    struct weir_sys_address found[ADDRESSES_MAX];
    int count;

    dial->resolving = true;
    count =
        weir_sys->net.resolve(dial->address.host, dial->address.port, AF_UNSPEC, false, found, ADDRESSES_MAX);
    if (count <= 0)
        return count ? count : -ENOENT;
    dial->resolving = false;
    for (int i = 0; i < count && dial->fd < 0; i++)
        dial->fd = weir_sys->net.connect((struct sockaddr *)&found[i].address, found[i].length);
    if (dial->fd >= 0)
        (void)weir_sys->net.set_nodelay(dial->fd, true); /* slower without, not wrong */
    return dial->fd;
}

/* Always 0: an error must mean that the call was left behind. */
static int run_dial(void *arg)
{
    struct dial *dial = arg;
    int ret = dial->address.local ? dial_unix(dial) : dial_inet(dial);

    dial->result = WEIR_MIN(ret, 0);
    return 0;
}

/* ---- dialing ---- */

static int dial_error(const struct dial *dial, int ret, struct weir_error **err)
{
    const struct nbd_address *address = &dial->address;

    if (address->local)
        return weir_error_set_errno(err, ret, "Failed to connect to '%s'", address->path);
    if (dial->resolving)
        return weir_error_set_errno(err, ret, "address resolution failed for %s:%s", address->host,
                                    address->port);
    return weir_error_set_errno(err, ret, "Failed to connect to '%s:%s'", address->host, address->port);
}

/* The descriptor, or a negative error. */
static weir_co_fn int do_dial(const struct nbd_address *address, struct weir_co_cancel *cancel,
                              int64_t deadline_ns, struct weir_error **err)
{
    struct dial *dial = weir_new(struct dial);
    int ret;

    dial->address.local = address->local;
    dial->address.host = weir_strdup(address->local ? "" : address->host);
    dial->address.port = weir_strdup(address->local ? "" : address->port);
    dial->address.path = weir_strdup(address->local ? address->path : "");
    dial->fd = -1;
    ret = weir_co_work_cancellable(run_dial, release_dial, dial, deadline_ns, cancel);
    /* In both cases it goes on without us and frees itself. */
    if (ret == -ECANCELED)
        return weir_error_set(err, ret, "The node is being closed");
    if (ret < 0)
        return weir_error_set_errno(err, ret, "Failed to connect to '%s'",
                                    address->local ? address->path : address->host);
    ret = dial->result < 0 ? dial_error(dial, dial->result, err) : dial->fd;
    free_dial(dial);
    return ret;
}

/* ---- negotiation ---- */

struct limit {
    struct weir_timer timer;
    int fd;
    bool passed;
};

static void out_of_time(struct weir_timer *timer)
{
    struct limit *limit = weir_container_of(timer, struct limit, timer);

    limit->passed = true;
    (void)weir_sys->net.shutdown(limit->fd); /* wakes whoever waits for it; may be unconnected already */
}

static weir_co_fn int send_output(int fd, struct nbd_handshake *handshake)
{
    struct iovec iov = { handshake->output, handshake->output_length };

    while (iov.iov_len) {
        struct weir_sys_io io = { .op = WEIR_SYS_SEND, .fd = fd, .iov = &iov, .iovcnt = 1 };
        int sent = weir_co_io(&io);

        if (sent < 0)
            return sent;
        iov.iov_base = (uint8_t *)iov.iov_base + sent;
        iov.iov_len -= (size_t)sent;
    }
    return 0;
}

/* What has come behind the negotiation stays in @buffer: *ret_rest bytes at *ret_at. */
static weir_co_fn int negotiate(int fd, struct nbd_handshake *handshake, uint8_t *buffer, size_t *ret_at,
                                size_t *ret_rest, struct weir_error **err)
{
    size_t start = 0, end = 0, used;

    for (;;) {
        struct iovec iov;
        struct weir_sys_io io = { .op = WEIR_SYS_RECV, .fd = fd, .iov = &iov, .iovcnt = 1 };
        enum nbd_step step = nbd_handshake_step(handshake, buffer + start, end - start, &used, err);
        int ret = 0;

        start += used;
        if (step == NBD_STEP_FAILED)
            return -EPROTO;
        if (step == NBD_STEP_DONE)
            break;
        if (step == NBD_STEP_SEND) {
            ret = send_output(fd, handshake);
        } else {
            memmove(buffer, buffer + start, end - start);
            end -= start;
            start = 0;
            iov = (struct iovec){ buffer + end, NBD_RX_SIZE - end };
            ret = weir_co_io(&io);
            end += ret > 0 ? (size_t)ret : 0;
            if (!ret)
                ret = -ECONNRESET;
        }
        if (ret < 0)
            return weir_error_set_errno(err, ret, "The NBD server ended the negotiation");
    }
    *ret_at = start;
    *ret_rest = end - start;
    return 0;
}

static weir_co_fn int shake_hands(struct nbd_client *client, struct nbd_attempt *attempt, int64_t deadline_ns,
                                  struct nbd_connection **ret_connection, struct weir_error **err)
{
    struct limit limit = { .timer.run = out_of_time, .fd = attempt->fd };
    struct nbd_handshake *handshake = weir_new(struct nbd_handshake);
    uint8_t *buffer = weir_alloc(NBD_RX_SIZE);
    WEIR_AUTO_ERROR local = NULL;
    size_t at = 0, rest = 0;
    int ret;

    nbd_handshake_init(handshake, client->export, client->context);
    weir_timer_arm(&limit.timer, deadline_ns);
    ret = negotiate(attempt->fd, handshake, buffer, &at, &rest, &local);
    weir_timer_cancel(&limit.timer);
    if (ret < 0 && limit.passed)
        ret = weir_error_set(err, -ETIMEDOUT, "The NBD server does not answer");
    else if (ret < 0)
        weir_error_propagate(err, weir_steal(&local));
    else if (client->own_context && !handshake->info.has_context)
        ret = weir_error_set(err, -EINVAL, "The server does not have the metadata context '%s'",
                             client->context);
    else
        *ret_connection = nbd_connection_new(client, attempt->fd, &handshake->info, buffer + at, rest);
    free(buffer);
    free(handshake);
    return ret;
}

/* ---- both ---- */

int nbd_connect(struct nbd_client *client, struct nbd_attempt *attempt,
                struct nbd_connection **ret_connection, struct weir_error **err)
{
    int64_t deadline_ns = weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS;
    int fd, ret = do_dial(&client->address, &attempt->cancel, deadline_ns, err);

    if (ret < 0)
        return ret;
    fd = attempt->fd = ret;
    if (attempt->cancel.cancelled)
        ret = weir_error_set(err, -ECANCELED, "The node is being closed");
    else
        ret = shake_hands(client, attempt, deadline_ns, ret_connection, err);
    attempt->fd = -1;
    if (ret < 0)
        weir_sys->net.close(fd);
    return ret;
}

void nbd_attempt_stop(struct nbd_attempt *attempt)
{
    weir_co_cancel(&attempt->cancel);
    if (attempt->fd >= 0)
        (void)weir_sys->net.shutdown(attempt->fd); /* may be unconnected already */
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands on one connection: cookies, sending, waiting, and the end.
 *
 * A command is in the lists from before its first byte is sent until its coroutine leaves. Its coroutine leaves only
 * when it is done, and only the one that reads (or, when nobody reads, the one that breaks the connection) makes it so:
 * the memory that an answer is received into stays.
 */
#include "protocol/nbd/client.h"

#include "base/alloc.h"
#include "base/iov.h"
#include <errno.h>

/* ---- life ---- */

struct nbd_connection *nbd_connection_new(struct nbd_client *client, int fd,
                                          const struct nbd_export_info *info, const uint8_t *data,
                                          size_t length)
{
    struct nbd_connection *connection = weir_new(struct nbd_connection);

    connection->client = client;
    connection->fd = fd;
    connection->info = *info;
    atomic_init(&connection->refs, 1);
    weir_mutex_init(&connection->mutex);
    weir_co_mutex_init(&connection->send_mutex);
    TAILQ_INIT(&connection->commands);
    weir_co_queue_init(&connection->room);
    memcpy(connection->rx, data, length);
    connection->rx_end = length;
    return connection;
}

struct nbd_connection *nbd_connection_ref(struct nbd_connection *connection)
{
    atomic_fetch_add_explicit(&connection->refs, 1, memory_order_relaxed);
    return connection;
}

void nbd_connection_unref(struct nbd_connection *connection)
{
    if (!connection || atomic_fetch_sub_explicit(&connection->refs, 1, memory_order_acq_rel) != 1)
        return;
    weir_sys->net.close(connection->fd);
    weir_co_mutex_done(&connection->send_mutex);
    weir_mutex_done(&connection->mutex);
    free(connection);
}

/* ---- the end ---- */

/* Mutex held; nobody reads. */
static void lose_all(struct nbd_connection *connection)
{
    struct nbd_command *command;

    WEIR_ASSERT(!connection->reading);
    TAILQ_FOREACH (command, &connection->commands, link) {
        command->lost |= !command->done; /* it may have been lost before, and not have left yet */
        command->done = true;
        weir_co_queue_wake_all(&command->queue);
    }
    weir_co_queue_wake_all(&connection->room);
}

/* Mutex held. True: end_break() has to follow without it. */
static bool begin_break(struct nbd_connection *connection)
{
    bool first = !connection->broken;

    connection->broken = true;
    if (!connection->reading)
        lose_all(connection);
    return first;
}

static void end_break(struct nbd_connection *connection)
{
    (void)weir_sys->net.shutdown(connection->fd); /* ends what waits for it; may be unconnected already */
    nbd_client_lost(connection->client, connection);
}

void nbd_connection_break(struct nbd_connection *connection)
{
    bool first;

    weir_mutex_lock(&connection->mutex);
    first = begin_break(connection);
    weir_mutex_unlock(&connection->mutex);
    if (first)
        end_break(connection);
}

void nbd_connection_hung_up(struct nbd_connection *connection)
{
    bool last;

    weir_mutex_lock(&connection->mutex);
    connection->hung_up = true;
    last = !connection->in_flight;
    weir_mutex_unlock(&connection->mutex);
    if (last)
        nbd_connection_break(connection);
}

void nbd_connection_take_leave(struct nbd_connection *connection)
{
    uint8_t header[NBD_REQUEST_SIZE];
    struct iovec iov = { header, sizeof(header) };

    nbd_request_put(header, 0, NBD_CMD_DISC, 0, 0, 0);
    (void)weir_sys->net.send_now(connection->fd, &iov, 1, 0); /* a server that is not told finds out */
}

/* ---- lists ---- */

/* False: the connection is broken. */
static weir_co_fn bool enter(struct nbd_connection *connection, struct nbd_command *command)
{
    unsigned slot = 0;

    weir_co_queue_init(&command->queue);
    WEIR_SCOPE_LOCK(&connection->mutex);
    while (!connection->broken && connection->in_flight == NBD_IN_FLIGHT_MAX)
        weir_co_queue_wait(&connection->room, &connection->mutex);
    if (connection->broken)
        return false;
    while (connection->slots[(connection->serial + slot) % NBD_IN_FLIGHT_MAX])
        slot++;
    slot = (unsigned)((connection->serial + slot) % NBD_IN_FLIGHT_MAX);
    command->cookie = ++connection->serial * NBD_IN_FLIGHT_MAX + slot;
    connection->slots[slot] = command;
    TAILQ_INSERT_TAIL(&connection->commands, command, link);
    connection->in_flight++;
    return true;
}

/* Somebody else reads now, if anybody waits. Mutex held. */
static void hand_over(struct nbd_connection *connection)
{
    struct nbd_command *command;

    if (connection->reading || connection->broken)
        return;
    TAILQ_FOREACH (command, &connection->commands, link) {
        if (command->waiting && !command->done) {
            weir_co_queue_wake_all(&command->queue);
            return;
        }
    }
}

static void leave(struct nbd_connection *connection, struct nbd_command *command)
{
    bool last;

    weir_mutex_lock(&connection->mutex);
    connection->slots[command->cookie % NBD_IN_FLIGHT_MAX] = NULL;
    TAILQ_REMOVE(&connection->commands, command, link);
    connection->in_flight--;
    (void)weir_co_queue_wake_one(&connection->room);
    hand_over(connection);
    last = connection->hung_up && !connection->in_flight;
    weir_mutex_unlock(&connection->mutex);
    if (last)
        nbd_connection_break(connection);
}

struct nbd_command *nbd_connection_find(struct nbd_connection *connection, uint64_t cookie)
{
    struct nbd_command *command;
    WEIR_SCOPE_LOCK(&connection->mutex);

    command = connection->slots[cookie % NBD_IN_FLIGHT_MAX];
    return command && command->cookie == cookie && !command->done ? command : NULL;
}

void nbd_connection_answer(struct nbd_connection *connection, struct nbd_command *command)
{
    WEIR_SCOPE_LOCK(&connection->mutex);

    command->done = true;
    weir_co_queue_wake_all(&command->queue);
}

/* ---- sending ---- */

/* Any error. */
static weir_co_fn int send_all(struct nbd_connection *connection, unsigned count)
{
    struct iovec *iov = connection->tx_iov;

    while (count) {
        ssize_t sent = weir_sys->net.send_now(connection->fd, iov, count, 0);

        if (sent == -EAGAIN) {
            struct weir_sys_io io = {
                .op = WEIR_SYS_SEND, .fd = connection->fd, .iov = iov, .iovcnt = count
            };

            sent = weir_co_io(&io);
        }
        if (sent < 0)
            return (int)sent;
        while (count && (size_t)sent >= iov->iov_len) {
            sent -= (ssize_t)iov->iov_len;
            iov++;
            count--;
        }
        if (count) {
            iov->iov_base = (uint8_t *)iov->iov_base + sent;
            iov->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

static weir_co_fn int send_command(struct nbd_connection *connection, const struct nbd_command *command)
{
    uint8_t header[NBD_REQUEST_SIZE];
    unsigned count = command->type == NBD_CMD_WRITE ? command->iovcnt : 0;
    int ret;

    WEIR_ASSERT(count <= NBD_IOV_MAX);
    nbd_request_put(header, command->flags, command->type, command->cookie, command->offset, command->length);
    weir_co_mutex_lock(&connection->send_mutex);
    connection->tx_iov[0] = (struct iovec){ header, sizeof(header) };
    for (unsigned i = 0; i < count; i++)
        connection->tx_iov[i + 1] = command->iov[i];
    ret = send_all(connection, count + 1);
    weir_co_mutex_unlock(&connection->send_mutex);
    return ret;
}

/* ---- waiting ---- */

/* Reads on behalf of all; mutex held before and after. */
static weir_co_fn void read_answers(struct nbd_connection *connection, struct nbd_command *command)
{
    int ret;

    connection->reading = true;
    weir_mutex_unlock(&connection->mutex);
    ret = nbd_receive(connection, command);
    weir_mutex_lock(&connection->mutex);
    connection->reading = false;
    if (ret >= 0 && !connection->broken)
        return;
    if (begin_break(connection)) {
        weir_mutex_unlock(&connection->mutex);
        end_break(connection);
        weir_mutex_lock(&connection->mutex);
    }
}

static weir_co_fn void wait_answer(struct nbd_connection *connection, struct nbd_command *command)
{
    WEIR_SCOPE_LOCK(&connection->mutex);

    command->waiting = true;
    while (!command->done) {
        if (!connection->reading)
            read_answers(connection, command);
        else
            weir_co_queue_wait(&command->queue, &connection->mutex);
    }
}

int nbd_connection_do(struct nbd_connection *connection, struct nbd_command *command)
{
    command->done = command->lost = command->waiting = false;
    command->error = 0;
    command->status_length = 0;
    if (!enter(connection, command))
        return NBD_LOST;
    if (send_command(connection, command) < 0)
        nbd_connection_break(connection);
    wait_answer(connection, command);
    leave(connection, command);
    nbd_pieces_done(&command->pieces);
    return command->lost ? NBD_LOST : command->error;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keepers: each keeps one connection up, for as long as the node is open.
 *
 * The first connection is made by whoever opens the node; it says what the export is. Later ones must be of the same
 * size and able to do the same, as users of the node rely on it; one that is not is no connection, and is tried again
 * like a server that is not there.
 */
#include "protocol/nbd/client.h"

#include "base/alloc.h"
#include <errno.h>
#include <poll.h>

#define MS 1000000LL
#define PAUSE_MIN_NS (50 * MS)
#define PAUSE_MAX_NS (2000 * MS)
/* While a server that was restarted may come back any moment. */
#define SOON_NS (10000 * MS)
#define PAUSE_SOON_NS (200 * MS)
#define SECOND_NS (1000 * MS)
/* A connection that lasted no longer is followed by a pause, like one that was not made. */
#define SHORT_NS SECOND_NS

/* ---- for requests ---- */

/* Mutex held. */
static struct nbd_connection *least_busy(struct nbd_client *client, uint64_t above)
{
    struct nbd_connection *best = NULL;
    unsigned best_load = 0;

    for (unsigned i = 0; i < client->connections; i++) {
        struct nbd_connection *connection = client->up[i];
        unsigned load;

        if (!connection || connection->number <= above)
            continue;
        load = atomic_load_explicit(&connection->in_flight, memory_order_relaxed);
        if (!best || load < best_load) {
            best = connection;
            best_load = load;
        }
    }
    return best;
}

struct nbd_connection *nbd_client_get(struct nbd_client *client, uint64_t above, int64_t limit_ns)
{
    struct nbd_connection *connection;
    int ret = 0;
    WEIR_SCOPE_LOCK(&client->mutex);

    for (;;) {
        int64_t until = limit_ns >= 0 ? limit_ns : client->lost_ns + client->reconnect_ns;

        connection = client->closing ? NULL : least_busy(client, above);
        if (connection)
            return nbd_connection_ref(connection);
        if (client->closing || ret == -ETIMEDOUT || weir_sys->clock_ns() >= until)
            return NULL;
        ret = weir_co_queue_wait_until(&client->queue, &client->mutex, until);
    }
}

uint64_t nbd_client_latest(struct nbd_client *client)
{
    WEIR_SCOPE_LOCK(&client->mutex);

    return client->numbers;
}

void nbd_client_lost(struct nbd_client *client, struct nbd_connection *connection)
{
    WEIR_SCOPE_LOCK(&client->mutex);

    for (unsigned i = 0; i < client->connections; i++) {
        if (client->up[i] != connection)
            continue;
        client->up[i] = NULL;
        if (!--client->up_count)
            client->lost_ns = weir_sys->clock_ns();
    }
    weir_co_queue_wake_all(&client->keeper_queue);
}

/* ---- one keeper ---- */

static int check_same(const struct nbd_client *client, const struct nbd_export_info *now,
                      struct weir_error **err)
{
    const struct nbd_export_info *first = &client->info;
    unsigned relied = first->flags & (NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_TRIM |
                                      NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO);

    if (now->size != first->size)
        return weir_error_set(err, -ESTALE, "The export has another size now");
    if (client->writable && (now->flags & NBD_FLAG_READ_ONLY))
        return weir_error_set(err, -ESTALE, "The export is read-only now");
    if ((relied & ~now->flags) || (first->has_context && !now->has_context) ||
        now->block_min > first->block_min || now->block_max < first->block_max)
        return weir_error_set(err, -ESTALE, "The export cannot do what it could before");
    return 0;
}

static weir_co_fn void connect_again(struct nbd_keeper *keeper)
{
    struct nbd_connection *connection = NULL;

    /* Why it failed is of no interest to anybody: requests fail, and it is tried again. */
    if (nbd_connect(keeper->client, &keeper->attempt, &connection, NULL) < 0)
        return;
    if (check_same(keeper->client, &connection->info, NULL) < 0) {
        nbd_connection_take_leave(connection);
        nbd_connection_unref(connection);
        return;
    }
    keeper->connection = connection;
}

/* Mutex held. */
static void show(struct nbd_keeper *keeper)
{
    struct nbd_client *client = keeper->client;

    keeper->connection->number = ++client->numbers;
    client->up[keeper->index] = keeper->connection;
    client->up_count++;
    weir_co_queue_wake_all(&client->queue);
}

/* Waits until the connection is of no use any more. */
static weir_co_fn void watch(struct nbd_keeper *keeper)
{
    struct nbd_client *client = keeper->client;
    struct nbd_connection *connection = keeper->connection;
    struct weir_sys_io io = { .op = WEIR_SYS_POLL, .fd = connection->fd, .flags = POLLRDHUP };

    (void)weir_co_io(&io); /* an error says the same as an event */
    nbd_connection_hung_up(connection);
    WEIR_SCOPE_LOCK(&client->mutex);
    while (client->up[keeper->index] == connection)
        weir_co_queue_wait(&client->keeper_queue, &client->mutex);
}

static weir_co_fn void rest(struct nbd_client *client, int64_t *pause_ns)
{
    int64_t now_ns = weir_sys->clock_ns(), until = now_ns + *pause_ns;
    int ret = 0;
    WEIR_SCOPE_LOCK(&client->mutex);

    if (!client->up_count && now_ns - client->lost_ns < SOON_NS)
        until = WEIR_MIN(until, now_ns + PAUSE_SOON_NS);
    while (!client->closing && ret != -ETIMEDOUT)
        ret = weir_co_queue_wait_until(&client->keeper_queue, &client->mutex, until);
    *pause_ns = WEIR_MIN(2 * *pause_ns, PAUSE_MAX_NS);
}

/* False: the client is closing. */
static bool show_if_open(struct nbd_keeper *keeper)
{
    WEIR_SCOPE_LOCK(&keeper->client->mutex);

    if (keeper->client->closing)
        return false;
    if (keeper->connection && !keeper->client->up[keeper->index])
        show(keeper);
    return true;
}

static weir_co_fn void run_keeper(void *arg)
{
    struct nbd_keeper *keeper = arg;
    struct nbd_client *client = keeper->client;
    int64_t pause_ns = PAUSE_MIN_NS;

    while (show_if_open(keeper)) {
        bool rests = false;

        if (keeper->connection) {
            int64_t since_ns = weir_sys->clock_ns();

            watch(keeper);
            nbd_connection_unref(weir_steal(&keeper->connection));
            rests = weir_sys->clock_ns() - since_ns < SHORT_NS;
            pause_ns = rests ? pause_ns : PAUSE_MIN_NS;
        } else {
            connect_again(keeper);
            rests = !keeper->connection;
        }
        if (rests)
            rest(client, &pause_ns);
    }
    nbd_connection_unref(weir_steal(&keeper->connection));
    WEIR_SCOPE_LOCK(&client->mutex);
    client->running--;
    weir_co_queue_wake_all(&client->keeper_queue);
}

/* ---- all of them ---- */

int nbd_client_start(struct nbd_client *client, unsigned connections, uint32_t limit_s,
                     struct weir_error **err)
{
    int64_t deadline_ns = weir_sys->clock_ns() + limit_s * SECOND_NS, pause_ns = PAUSE_MIN_NS;
    struct nbd_attempt attempt = { .fd = -1 };
    struct nbd_connection *first;
    int ret;

    for (;;) {
        WEIR_AUTO_ERROR local = NULL;

        ret = nbd_connect(client, &attempt, &first, &local);
        if (ret >= 0)
            break;
        if (weir_sys->clock_ns() + pause_ns > deadline_ns) {
            weir_error_propagate(err, weir_steal(&local));
            return ret;
        }
        weir_co_sleep(pause_ns);
        pause_ns = WEIR_MIN(2 * pause_ns, PAUSE_MAX_NS);
    }
    client->info = first->info;
    client->connections = first->info.flags & NBD_FLAG_CAN_MULTI_CONN ? connections : 1;
    for (unsigned i = 0; i < client->connections; i++) {
        client->keepers[i] = (struct nbd_keeper){ .client = client, .index = i, .attempt.fd = -1 };
    }
    client->keepers[0].connection = first;
    weir_mutex_lock(&client->mutex);
    show(&client->keepers[0]);
    weir_mutex_unlock(&client->mutex);
    client->running = client->connections;
    for (unsigned i = 0; i < client->connections; i++)
        weir_co_start(weir_loop_control(), run_keeper, &client->keepers[i]);
    return 0;
}

void nbd_client_stop(struct nbd_client *client)
{
    weir_mutex_lock(&client->mutex);
    client->closing = true;
    weir_co_queue_wake_all(&client->queue);
    weir_co_queue_wake_all(&client->keeper_queue);
    weir_mutex_unlock(&client->mutex);
    for (unsigned i = 0; i < client->connections; i++) {
        struct nbd_keeper *keeper = &client->keepers[i];

        nbd_attempt_stop(&keeper->attempt);
        if (!keeper->connection)
            continue;
        nbd_connection_take_leave(keeper->connection);
        nbd_connection_break(keeper->connection);
    }
    WEIR_SCOPE_LOCK(&client->mutex);
    while (client->running)
        weir_co_queue_wait(&client->keeper_queue, &client->mutex);
}

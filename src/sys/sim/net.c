/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library's calls on sockets: addresses, listening, connecting, and what is left to connections.
 *
 * A name belongs to its listener and is free again when that is closed.
 */
#include "sys/sim/net.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* ---- addresses ---- */

static int address_unix(const struct sockaddr *address, unsigned length, struct sim_address *ret)
{
    const struct sockaddr_un *local = (const struct sockaddr_un *)(const void *)address;
    size_t size = length - offsetof(struct sockaddr_un, sun_path);

    if (length <= offsetof(struct sockaddr_un, sun_path) || size > sizeof(local->sun_path))
        return -EINVAL;
    if (local->sun_path[0])
        (void)snprintf(ret->text, sizeof(ret->text), "unix:%.*s", (int)size, local->sun_path);
    else
        (void)snprintf(ret->text, sizeof(ret->text), "unix:@%.*s", (int)size - 1, local->sun_path + 1);
    return 0;
}

static void address_inet(const void *host, unsigned port, struct sim_address *ret)
{
    bool six = ret->family == AF_INET6;
    char text[INET6_ADDRSTRLEN] = "";

    (void)inet_ntop(ret->family, host, text, sizeof(text));
    ret->port = port;
    ret->any = memcmp(host, &in6addr_any, six ? sizeof(struct in6_addr) : sizeof(struct in_addr)) == 0;
    (void)snprintf(ret->text, sizeof(ret->text), six ? "[%s]:%u" : "%s:%u", text, port);
}

static int address_parse(const struct sockaddr *address, unsigned length, struct sim_address *ret)
{
    const struct sockaddr_in *four = (const struct sockaddr_in *)(const void *)address;
    const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(const void *)address;

    memset(ret, 0, sizeof(*ret));
    ret->family = address->sa_family;
    switch (address->sa_family) {
    case AF_UNIX:
        return address_unix(address, length, ret);
    case AF_INET:
        address_inet(&four->sin_addr, ntohs(four->sin_port), ret);
        return 0;
    case AF_INET6:
        address_inet(&six->sin6_addr, ntohs(six->sin6_port), ret);
        return 0;
    default:
        return -EAFNOSUPPORT;
    }
}

static struct sim_listener *listener_find(const struct sim_address *address)
{
    struct sim_listener *listener;

    TAILQ_FOREACH (listener, &sim_world->listeners, link) {
        const struct sim_address *own = &listener->address;

        if (own->family == address->family && own->port == address->port &&
            (strcmp(own->text, address->text) == 0 || (own->any && own->family != AF_UNIX)))
            return listener;
    }
    return NULL;
}

/* ---- listening and connecting ---- */

int sim_net_listen(const struct sockaddr *address, unsigned address_length, int backlog, bool reuse)
{
    struct sim_listener *listener;
    struct sim_address parsed;
    struct sim_open *open;
    int result = address_parse(address, address_length, &parsed);

    sim_spend(sim_latency(SIM_NET, &sim_world->profile.net));
    if (result)
        return result;
    if (parsed.family != AF_UNIX && !parsed.port) {
        parsed.port = 40000 + ++sim_world->port_serial;
        (void)snprintf(strrchr(parsed.text, ':'), 8, ":%u", parsed.port);
    }
    if (listener_find(&parsed))
        return -EADDRINUSE;
    listener = weir_new(struct sim_listener);
    listener->address = parsed;
    listener->backlog = (unsigned)WEIR_MAX(backlog, 1);
    TAILQ_INIT(&listener->arrived);
    TAILQ_INIT(&listener->acceptors);
    TAILQ_INIT(&listener->connectors);
    TAILQ_INSERT_TAIL(&sim_world->listeners, listener, link);
    open = sim_open_new(SIM_OPEN_LISTENER);
    open->listener = listener;
    return sim_descriptor_new(open);
}

static int descriptor_of(struct sim_end *end)
{
    struct sim_open *open = sim_open_new(SIM_OPEN_STREAM);

    open->end = end;
    return sim_descriptor_new(open);
}

/* Hands what has arrived to those who wait for it. */
static void match(struct sim_listener *listener)
{
    struct sim_io *op = TAILQ_FIRST(&listener->acceptors);

    while (op && !TAILQ_EMPTY(&listener->arrived)) {
        struct sim_io *next = TAILQ_NEXT(op, waiting);
        struct sim_end *end = TAILQ_FIRST(&listener->arrived);
        struct sim_connector *connector = TAILQ_FIRST(&listener->connectors);

        if (op->io->op == WEIR_SYS_POLL) {
            sim_io_wait_end(op, POLLIN);
        } else {
            TAILQ_REMOVE(&listener->arrived, end, link);
            listener->arrived_count--;
            if (connector)
                sim_wake(connector->thread);
            sim_io_wait_end(op, descriptor_of(end));
        }
        op = next;
    }
}

static int wait_for_place(struct sim_listener *listener)
{
    int64_t deadline = weir_sim_now() + WEIR_SYS_CONNECT_LIMIT_S * 1000000000LL;

    while (listener->arrived_count >= listener->backlog) {
        struct sim_connector connector = { .thread = sim_world->current };

        if (!connector.thread)
            return -EAGAIN;
        TAILQ_INSERT_TAIL(&listener->connectors, &connector, link);
        while (!connector.listener_gone && listener->arrived_count >= listener->backlog) {
            if (!sim_block_until(deadline))
                break;
        }
        if (connector.listener_gone)
            return -ECONNREFUSED;
        TAILQ_REMOVE(&listener->connectors, &connector, link);
        if (listener->arrived_count >= listener->backlog)
            return -ETIMEDOUT;
    }
    return 0;
}

int sim_net_connect(const struct sockaddr *address, unsigned address_length)
{
    struct sim_listener *listener;
    struct sim_address parsed;
    struct sim_end *ends[2];
    int result = address_parse(address, address_length, &parsed);

    sim_spend(sim_latency(SIM_NET, &sim_world->profile.net));
    if (result)
        return result;
    listener = listener_find(&parsed);
    if (!listener)
        return parsed.family == AF_UNIX ? -ENOENT : -ECONNREFUSED;
    result = wait_for_place(listener);
    if (result)
        return result;
    sim_connection_new(ends);
    ends[0]->connection->address[1] = listener->address;
    ends[0]->connection->address[0].family = parsed.family;
    (void)snprintf(ends[0]->connection->address[0].text, SIM_NAME_SIZE,
                   parsed.family == AF_UNIX ? "unix:pid=%u,uid=0" : "127.0.0.1:%u",
                   50000 + ends[0]->connection->serial);
    TAILQ_INSERT_TAIL(&listener->arrived, ends[1], link);
    listener->arrived_count++;
    sim_trace("connect", ends[0]->connection->serial, 0, 0);
    match(listener);
    return descriptor_of(ends[0]);
}

static void listener_free(struct sim_listener *listener)
{
    struct sim_connector *connector;
    struct sim_end *end;

    TAILQ_REMOVE(&sim_world->listeners, listener, link);
    while ((end = TAILQ_FIRST(&listener->arrived))) {
        TAILQ_REMOVE(&listener->arrived, end, link);
        sim_end_free(end);
    }
    while ((connector = TAILQ_FIRST(&listener->connectors))) {
        TAILQ_REMOVE(&listener->connectors, connector, link);
        connector->listener_gone = true;
        sim_wake(connector->thread);
    }
    free(listener);
}

/* ---- descriptors ---- */

void sim_net_forget(struct sim_open *open)
{
    if (open->listener)
        listener_free(open->listener);
    if (open->end)
        sim_end_free(open->end);
}

void sim_net_io_start(struct sim_io *op)
{
    struct sim_listener *listener = op->open->listener;

    if (!listener) {
        sim_end_io_start(op->open->end, op);
        return;
    }
    if (op->io->op != WEIR_SYS_ACCEPT && op->io->op != WEIR_SYS_POLL) {
        sim_io_end(op, -EINVAL);
        return;
    }
    sim_io_wait(op, &listener->acceptors);
    match(listener);
}

static struct sim_open *socket_of(int fd)
{
    struct sim_open *open = sim_descriptor(fd);

    return open && open->type != SIM_OPEN_FILE ? open : NULL;
}

ssize_t sim_net_send_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags)
{
    struct sim_open *open = socket_of(fd);
    int64_t result;

    sim_preempt();
    if (!open)
        return sim_descriptor(fd) ? -ENOTSOCK : -EBADF;
    if (!open->end)
        return -ENOTCONN;
    if (!TAILQ_EMPTY(&sim_end_out(open->end)->senders))
        return -EAGAIN;
    result = sim_pipe_send(sim_end_out(open->end), iov, iovcnt, 0);
    return (ssize_t)result;
}

ssize_t sim_net_recv_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags)
{
    struct sim_open *open = socket_of(fd);
    int64_t result;

    sim_preempt();
    if (!open)
        return sim_descriptor(fd) ? -ENOTSOCK : -EBADF;
    if (!open->end)
        return -ENOTCONN;
    if (!TAILQ_EMPTY(&sim_end_in(open->end)->receivers))
        return -EAGAIN;
    result = sim_pipe_receive(sim_end_in(open->end), iov, iovcnt, 0);
    if (result > 0)
        sim_end_look_again(open->end);
    return (ssize_t)result;
}

int sim_net_shutdown(int fd)
{
    struct sim_open *open = socket_of(fd);

    sim_preempt();
    if (!open)
        return sim_descriptor(fd) ? -ENOTSOCK : -EBADF;
    if (!open->end)
        return -ENOTCONN;
    sim_end_shutdown(open->end);
    return 0;
}

void sim_net_close(int fd)
{
    WEIR_ASSERT(socket_of(fd));
    sim_descriptor_close(fd);
    sim_preempt();
}

int sim_net_set_nodelay(int fd, bool on)
{
    return socket_of(fd) ? 0 : -EBADF;
}

int sim_net_set_nonblocking(int fd)
{
    return sim_descriptor(fd) ? 0 : -EBADF;
}

int sim_net_is_listening(int fd)
{
    struct sim_open *open = sim_descriptor(fd);

    return open ? open->type == SIM_OPEN_LISTENER : -EBADF;
}

int sim_net_name(int fd, bool peer, char *text, size_t size)
{
    struct sim_open *open = socket_of(fd);
    const struct sim_address *address;

    if (!open)
        return -EBADF;
    if (!open->end && peer)
        return -ENOTCONN;
    if (open->end)
        address = &open->end->connection->address[peer ? !open->end->side : open->end->side];
    else
        address = &open->listener->address;
    (void)snprintf(text, size, "%s", address->text);
    return 0;
}

/* ---- look-ups ---- */

static int parse_port(const char *text)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);

    return *text && !*end && port <= 65535 ? (int)port : -EINVAL;
}

static bool resolve_one(const char *host, int family, bool passive, int port, struct weir_sys_address *ret)
{
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)&ret->address;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&ret->address;
    bool is_six = family == AF_INET6;

    memset(ret, 0, sizeof(*ret));
    if (!host || !*host)
        host = passive ? (is_six ? "::" : "0.0.0.0") : "localhost";
    if (strcmp(host, "localhost") == 0)
        host = is_six ? "::1" : "127.0.0.1";
    ret->address.ss_family = (sa_family_t)family;
    ret->length = is_six ? sizeof(*six) : sizeof(*four);
    if (is_six)
        six->sin6_port = htons((uint16_t)port);
    else
        four->sin_port = htons((uint16_t)port);
    return inet_pton(family, host, is_six ? (void *)&six->sin6_addr : (void *)&four->sin_addr) == 1;
}

int sim_net_resolve(const char *host, const char *port, int family, bool passive,
                    struct weir_sys_address *ret_addresses, unsigned count)
{
    static const int families[] = { AF_INET, AF_INET6 };
    int number = parse_port(port), found = 0;

    sim_spend(sim_latency(SIM_NET, &sim_world->profile.net));
    if (number < 0)
        return number;
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(families) && (unsigned)found < count; i++)
        if (family == AF_UNSPEC || family == families[i])
            found += resolve_one(host, families[i], passive, number, &ret_addresses[found]);
    return found ? found : -ENOENT;
}

void weir_sim_net_stall(int fd, bool stalled)
{
    struct sim_open *open = socket_of(fd);

    WEIR_ASSERT(open && open->end);
    sim_connection_stall(open->end->connection, stalled);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Stream sockets: thin covers over the system calls, and names of addresses in both directions. Nothing here
 * locks or keeps state.
 */
#include "sys/real.h"
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- connections ---- */

/* Whether @address is the path of a socket that no process holds any more. */
static bool is_stale(const struct sockaddr *address, unsigned address_length,
                     char path[sizeof(struct sockaddr_un)])
{
    size_t length = address_length - offsetof(struct sockaddr_un, sun_path);
    struct stat stat;
    int fd, ret;

    if (address->sa_family != AF_UNIX || address_length <= offsetof(struct sockaddr_un, sun_path) ||
        address_length > sizeof(struct sockaddr_un))
        return false;
    memcpy(path, ((const struct sockaddr_un *)(const void *)address)->sun_path, length);
    path[length] = '\0';
    if (path[0] == '\0' || lstat(path, &stat) < 0 || !S_ISSOCK(stat.st_mode))
        return false; /* an abstract name has no file */
    /* A datagram socket cannot connect: a living stream listener answers EPROTOTYPE, and never hears of it. */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    ret = WEIR_REAL_RETRY(connect(fd, address, address_length));
    (void)close(fd); /* nothing was sent */
    return ret == -ECONNREFUSED;
}

int weir_real_net_listen(const struct sockaddr *address, unsigned address_length, int backlog, bool reuse)
{
    char path[sizeof(struct sockaddr_un)];
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int ret = 0, on = 1;

    if (fd < 0)
        return -errno;
    if (reuse && is_stale(address, address_length, path))
        ret = WEIR_REAL_RETRY(unlink(path));
    if (ret == 0 && reuse && address->sa_family != AF_UNIX)
        ret = WEIR_REAL_RETRY(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)));
    if (ret == 0)
        ret = WEIR_REAL_RETRY(bind(fd, address, address_length));
    if (ret == 0)
        ret = WEIR_REAL_RETRY(listen(fd, backlog));
    if (ret == 0)
        return fd;
    (void)close(fd);
    return ret;
}

/* A connect() that a signal interrupted goes on by itself; calling it again would be an error. */
static int await_connection(int fd)
{
    struct pollfd wait = { .fd = fd, .events = POLLOUT };
    int error = 0, ret = WEIR_REAL_RETRY(poll(&wait, 1, WEIR_SYS_CONNECT_LIMIT_S * 1000));
    socklen_t length = sizeof(error);

    if (ret <= 0)
        return ret ? ret : -ETIMEDOUT;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
        return -errno;
    return -error;
}

int weir_real_net_connect(const struct sockaddr *address, unsigned address_length)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = { .tv_sec = WEIR_SYS_CONNECT_LIMIT_S }, none = { 0 };
    int ret;

    if (fd < 0)
        return -errno;
    /* The limit of sends is that of connect() too. */
    ret = WEIR_REAL_RETRY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)));
    if (ret == 0)
        ret = connect(fd, address, address_length) < 0 ? -errno : 0;
    if (ret == -EINTR)
        ret = await_connection(fd);
    else if (ret == -EINPROGRESS || ret == -EAGAIN)
        ret = -ETIMEDOUT;
    if (ret == 0)
        ret = WEIR_REAL_RETRY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none)));
    if (ret == 0)
        return fd;
    (void)close(fd);
    return ret;
}

ssize_t weir_real_net_send_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags)
{
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = iovcnt };

    return WEIR_REAL_RETRY(sendmsg(fd, &message, flags | MSG_DONTWAIT | MSG_NOSIGNAL));
}

ssize_t weir_real_net_recv_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags)
{
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = iovcnt };

    return WEIR_REAL_RETRY(recvmsg(fd, &message, flags | MSG_DONTWAIT));
}

int weir_real_net_shutdown(int fd)
{
    return WEIR_REAL_RETRY(shutdown(fd, SHUT_RDWR));
}

void weir_real_net_close(int fd)
{
    (void)close(fd); /* what was not sent is lost, as the caller wants it */
}

int weir_real_net_set_nodelay(int fd, bool on)
{
    int value = on;

    return WEIR_REAL_RETRY(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof(value)));
}

int weir_real_net_set_nonblocking(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    if (flags < 0)
        return -errno;
    return WEIR_REAL_RETRY(fcntl(fd, F_SETFL, flags | O_NONBLOCK));
}

int weir_real_net_is_listening(int fd)
{
    int type = 0, accepts = 0;
    socklen_t length = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0)
        return errno == ENOTSOCK ? 0 : -errno;
    length = sizeof(int);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &length) < 0)
        return -errno;
    return type == SOCK_STREAM && accepts;
}

/* ---- names ---- */

static int resolve_error(int error)
{
    switch (error) {
    case EAI_NONAME:
    case EAI_NODATA:
        return -ENOENT;
    case EAI_SERVICE:
        return -EINVAL;
    case EAI_AGAIN:
        return -EAGAIN;
    case EAI_FAMILY:
    case EAI_ADDRFAMILY:
        return -EAFNOSUPPORT;
    case EAI_MEMORY:
        return -ENOMEM;
    case EAI_SYSTEM:
        return errno ? -errno : -EIO;
    default:
        return -EIO;
    }
}

int weir_real_net_resolve(const char *host, const char *port, int family, bool passive,
                          struct weir_sys_address *ret_addresses, unsigned count)
{
    struct addrinfo hints = {
        .ai_family = family,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = passive ? AI_PASSIVE : 0,
    };
    struct addrinfo *list = NULL;
    unsigned found = 0;
    int error = getaddrinfo(host && *host ? host : NULL, port, &hints, &list);

    if (error)
        return resolve_error(error);
    for (const struct addrinfo *at = list; at && found < count; at = at->ai_next) {
        struct weir_sys_address *to = &ret_addresses[found];

        if (at->ai_addrlen > sizeof(to->address))
            continue;
        memset(to, 0, sizeof(*to));
        memcpy(&to->address, at->ai_addr, at->ai_addrlen);
        to->length = at->ai_addrlen;
        found++;
    }
    freeaddrinfo(list);
    return (int)found;
}

static int name_unix(int fd, bool peer, const struct sockaddr_un *address, socklen_t length, char *text,
                     size_t size)
{
    int path_length = (int)length - (int)offsetof(struct sockaddr_un, sun_path);
    struct ucred who;
    socklen_t who_length = sizeof(who);

    if (path_length > 0 && address->sun_path[0] != '\0')
        (void)snprintf(text, size, "unix:%.*s", path_length, address->sun_path);
    else if (path_length > 1)
        (void)snprintf(text, size, "unix:@%.*s", path_length - 1, address->sun_path + 1);
    else if (peer && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &who_length) == 0)
        (void)snprintf(text, size, "unix:pid=%d,uid=%u", (int)who.pid, (unsigned)who.uid);
    else
        (void)snprintf(text, size, "unix:");
    return 0;
}

int weir_real_net_name(int fd, bool peer, char *text, size_t size)
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_storage space;
    } address;
    socklen_t length = sizeof(address);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    int ret = peer ? getpeername(fd, &address.any, &length) : getsockname(fd, &address.any, &length);

    if (ret < 0)
        return -errno;
    if (address.any.sa_family == AF_UNIX)
        return name_unix(fd, peer, &address.local, length, text, size);
    ret = getnameinfo(&address.any, length, host, sizeof(host), port, sizeof(port),
                      NI_NUMERICHOST | NI_NUMERICSERV);
    if (ret)
        return resolve_error(ret);
    (void)snprintf(text, size, address.any.sa_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
    return 0;
}

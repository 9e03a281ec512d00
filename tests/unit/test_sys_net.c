/* SPDX-License-Identifier: BSD-2-Clause */
/* The real sockets: listen, connect, send, receive, names in both directions. */
#include "sys_temp.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/un.h>

static const struct weir_sys_net_ops *const net = &weir_sys_real.net;

static ssize_t send_text(int fd, const char *text)
{
    struct iovec iov = { (void *)(uintptr_t)text, strlen(text) };

    return net->send_now(fd, &iov, 1, 0);
}

static ssize_t receive(int fd, char *buffer, size_t size)
{
    struct iovec iov = { buffer, size };

    return net->recv_now(fd, &iov, 1, 0);
}

static void wait_readable(int fd)
{
    struct pollfd wait = { .fd = fd, .events = POLLIN };

    assert_int_equal(poll(&wait, 1, 10000), 1);
}

static int accept_one(int listener)
{
    int fd;

    wait_readable(listener);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    assert_true(fd >= 0);
    return fd;
}

/* Both ends of a connection talk, never wait, and learn of the other's end. */
static void talk(int client, int server)
{
    char buffer[16];

    assert_int_equal(receive(server, buffer, sizeof(buffer)), -EAGAIN);
    assert_int_equal(send_text(client, "hello"), 5);
    wait_readable(server);
    assert_int_equal(receive(server, buffer, sizeof(buffer)), 5);
    assert_memory_equal(buffer, "hello", 5);
    assert_int_equal(net->set_nonblocking(client), 0);
    assert_true(fcntl(client, F_GETFL) & O_NONBLOCK);
    assert_int_equal(net->shutdown(client), 0);
    wait_readable(server);
    assert_int_equal(receive(server, buffer, sizeof(buffer)), 0);
    net->close(server);
    assert_int_equal(send_text(client, "x"), -EPIPE); /* and no signal */
    net->close(client);
}

static void unix_sockets(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char directory[PATH_MAX], expected[256], text[256];
    unsigned length = sizeof(address);
    int listener, client, server;

    temp_directory(directory);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/socket", directory);
    assert_int_equal(net->connect((struct sockaddr *)&address, length), -ENOENT);
    listener = net->listen((struct sockaddr *)&address, length, 4, true);
    assert_true(listener >= 0);
    assert_int_equal(net->is_listening(listener), 1);
    assert_true(fcntl(listener, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(listener, F_GETFL) & O_NONBLOCK);
    /* A living listener is not taken over. */
    assert_int_equal(net->listen((struct sockaddr *)&address, length, 4, true), -EADDRINUSE);
    client = net->connect((struct sockaddr *)&address, length);
    assert_true(client >= 0);
    server = accept_one(listener);
    assert_int_equal(net->is_listening(server), 0);
    (void)snprintf(expected, sizeof(expected), "unix:%s", address.sun_path);
    assert_int_equal(net->name(client, true, text, sizeof(text)), 0);
    assert_string_equal(text, expected);
    assert_int_equal(net->name(server, false, text, sizeof(text)), 0);
    assert_string_equal(text, expected);
    (void)snprintf(expected, sizeof(expected), "unix:pid=%d,uid=%d", (int)getpid(), (int)getuid());
    assert_int_equal(net->name(server, true, text, sizeof(text)), 0);
    assert_string_equal(text, expected);
    talk(client, server);

    net->close(listener);
    assert_int_equal(net->connect((struct sockaddr *)&address, length), -ECONNREFUSED);
    assert_int_equal(net->listen((struct sockaddr *)&address, length, 4, false), -EADDRINUSE);
    listener = net->listen((struct sockaddr *)&address, length, 4, true); /* a dead one is */
    assert_true(listener >= 0);
    net->close(listener);
    assert_int_equal(unlink(address.sun_path), 0);
    /* What is no socket is not removed. */
    close(open(address.sun_path, O_CREAT | O_RDWR, 0600));
    assert_int_equal(net->listen((struct sockaddr *)&address, length, 4, true), -EADDRINUSE);
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void inet_sockets(void **state)
{
    struct weir_sys_address addresses[4];
    struct sockaddr_in bound;
    socklen_t length = sizeof(bound);
    char text[64], expected[64];
    int listener, client, server, value = 0;

    assert_int_equal(net->resolve("127.0.0.1", "0", AF_UNSPEC, true, addresses, 4), 1);
    listener = net->listen((struct sockaddr *)&addresses[0].address, addresses[0].length, 4, true);
    assert_true(listener >= 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&bound, &length), 0);
    (void)snprintf(expected, sizeof(expected), "127.0.0.1:%u", (unsigned)ntohs(bound.sin_port));
    client = net->connect((struct sockaddr *)&bound, length);
    assert_true(client >= 0);
    server = accept_one(listener);
    assert_int_equal(net->name(client, true, text, sizeof(text)), 0);
    assert_string_equal(text, expected);
    assert_int_equal(net->set_nodelay(client, true), 0);
    length = sizeof(value);
    assert_int_equal(getsockopt(client, IPPROTO_TCP, TCP_NODELAY, &value, &length), 0);
    assert_int_equal(value, 1);
    talk(client, server);
    net->close(listener);
    assert_int_equal(net->connect((struct sockaddr *)&bound, sizeof(bound)), -ECONNREFUSED);
}

static void looks_names_up(void **state)
{
    struct weir_sys_address addresses[4];

    assert_int_equal(net->resolve("::1", "10809", AF_INET6, false, addresses, 4), 1);
    assert_int_equal(addresses[0].address.ss_family, AF_INET6);
    assert_int_equal(addresses[0].length, sizeof(struct sockaddr_in6));
    assert_int_equal(ntohs(((struct sockaddr_in6 *)&addresses[0].address)->sin6_port), 10809);
    assert_int_equal(net->resolve("", "10809", AF_INET, true, addresses, 4), 1);
    assert_int_equal(((struct sockaddr_in *)&addresses[0].address)->sin_addr.s_addr, htonl(INADDR_ANY));
    assert_int_equal(net->resolve(NULL, "10809", AF_INET, false, addresses, 4), 1);
    assert_int_equal(((struct sockaddr_in *)&addresses[0].address)->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    assert_true(net->resolve(NULL, "1", AF_UNSPEC, true, addresses, 1) <= 1);
    assert_int_equal(net->resolve("127.0.0.1", "no-such-port", AF_UNSPEC, false, addresses, 4), -EINVAL);
    assert_true(net->resolve("no such host", "1", AF_UNSPEC, false, addresses, 4) < 0);
    assert_true(net->resolve("::1", "1", AF_INET, false, addresses, 4) < 0);
}

static void no_sockets(void **state)
{
    char text[64];
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    assert_int_equal(net->is_listening(fd), 0);
    assert_int_equal(net->is_listening(-1), -EBADF);
    assert_int_equal(net->name(fd, true, text, sizeof(text)), -ENOTSOCK);
    assert_int_equal(net->set_nodelay(fd, true), -ENOTSOCK);
    assert_int_equal(net->set_nonblocking(-1), -EBADF);
    assert_int_equal(net->shutdown(fd), -ENOTSOCK);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unix_sockets),
        cmocka_unit_test(inet_sockets),
        cmocka_unit_test(looks_names_up),
        cmocka_unit_test(no_sockets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

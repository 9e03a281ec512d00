/* SPDX-License-Identifier: BSD-2-Clause */
/* Sockets of the simulator: bytes arrive complete and in order however they are cut; ends, refusals, limits. */
#include "sim_world.h"
#include "unit.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/un.h>

#define TOTAL 300000u

static struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "/run/test.sock" };
static const struct sockaddr *const where = (const struct sockaddr *)(const void *)&address;

static uint8_t byte_at(unsigned index)
{
    return (uint8_t)(index * 7 + index / 251);
}

static struct weir_sys_loop *open_ring(void)
{
    struct weir_sys_loop *ring;

    WEIR_ASSERT(weir_sys->loop.open(&ring) == 0);
    return ring;
}

static int run_op(struct weir_sys_loop *ring, enum weir_sys_op kind, int fd, unsigned flags, void *buffer,
                  size_t length)
{
    struct sim_op op;

    sim_submit(ring, &op, kind, fd, 0, buffer, length);
    op.io.flags = flags;
    return sim_wait(ring, &op);
}

/* ---- a stream ---- */

static int connect_patiently(void)
{
    int fd;

    while ((fd = weir_sys->net.connect(where, sizeof(address))) == -ENOENT)
        weir_sim_sleep(1000);
    WEIR_ASSERT(fd >= 0);
    return fd;
}

static void send_all(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    static uint8_t buffer[TOTAL];
    int fd = connect_patiently();

    for (unsigned i = 0; i < TOTAL; i++)
        buffer[i] = byte_at(i);
    for (unsigned sent = 0; sent < TOTAL;) {
        unsigned drawn = 1 + (unsigned)weir_sim_random(50000), length = WEIR_MIN(drawn, TOTAL - sent);
        bool whole = weir_sim_random(2);
        int result;

        if (weir_sim_random(3) == 0) {
            struct iovec iov = { buffer + sent, length };

            result = (int)weir_sys->net.send_now(fd, &iov, 1, 0);
            if (result == -EAGAIN)
                result = 0;
        } else {
            result = run_op(ring, WEIR_SYS_SEND, fd, whole ? MSG_WAITALL : 0, buffer + sent, length);
            WEIR_ASSERT(result > 0 && (!whole || result == (int)length));
        }
        sent += (unsigned)result;
    }
    weir_sys->net.close(fd);
    weir_sys->loop.close(ring);
}

static void receive_all(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    int listener = weir_sys->net.listen(where, sizeof(address), 5, false), fd, result;
    uint8_t buffer[9000];
    unsigned got = 0;

    WEIR_ASSERT(listener >= 0 && weir_sys->net.is_listening(listener) == 1);
    WEIR_ASSERT(weir_sys->net.listen(where, sizeof(address), 5, false) == -EADDRINUSE);
    fd = run_op(ring, WEIR_SYS_ACCEPT, listener, 0, NULL, 0);
    WEIR_ASSERT(fd >= 0 && weir_sys->net.is_listening(fd) == 0);
    weir_sys->net.close(listener);
    do {
        unsigned length = 1 + (unsigned)weir_sim_random(sizeof(buffer));
        bool whole = weir_sim_random(2);

        result = run_op(ring, WEIR_SYS_RECV, fd, whole ? MSG_WAITALL : 0, buffer, length);
        WEIR_ASSERT(result >= 0 && result <= (int)length);
        WEIR_ASSERT(!whole || result == (int)length || got + (unsigned)result == TOTAL);
        for (int i = 0; i < result; i++)
            WEIR_ASSERT(buffer[i] == byte_at(got++));
    } while (result);
    WEIR_ASSERT(got == TOTAL);
    weir_sys->net.close(fd);
    weir_sys->loop.close(ring);
}

static void a_stream_keeps_bytes_and_order(void **state)
{
    for (uint64_t seed = 1; seed <= 30; seed++) {
        struct weir_sim_profile profile;
        uint64_t hash = 0;

        weir_sim_profile_random(&profile, seed);
        for (unsigned round = 0; round < 2; round++) {
            weir_sim_begin(seed, &profile);
            weir_sim_spawn("receiver", receive_all, NULL);
            weir_sim_spawn("sender", send_all, NULL);
            assert_int_equal(weir_sim_run(&sim_limits), WEIR_SIM_FINISHED);
            assert_int_equal(weir_sim_descriptors(), 0);
            assert_int_equal(weir_sim_stats()->net_bytes, TOTAL);
            if (round)
                assert_int_equal(weir_sim_hash(), hash);
            hash = weir_sim_hash();
            weir_sim_end();
        }
    }
}

/* ---- ends ---- */

static void connect_pair(struct weir_sys_loop *ring, int fds[2])
{
    int listener = weir_sys->net.listen(where, sizeof(address), 5, false);
    char name[64];

    WEIR_ASSERT(listener >= 0);
    fds[0] = weir_sys->net.connect(where, sizeof(address));
    WEIR_ASSERT(fds[0] >= 0);
    fds[1] = run_op(ring, WEIR_SYS_ACCEPT, listener, 0, NULL, 0);
    WEIR_ASSERT(fds[1] >= 0);
    WEIR_ASSERT(weir_sys->net.name(fds[0], true, name, sizeof(name)) == 0);
    WEIR_ASSERT(strcmp(name, "unix:/run/test.sock") == 0);
    WEIR_ASSERT(weir_sys->net.name(fds[1], true, name, sizeof(name)) == 0);
    WEIR_ASSERT(strncmp(name, "unix:pid=", 9) == 0);
    weir_sys->net.close(listener);
}

static void ends(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    struct sim_op receive, send;
    static uint8_t big[500000];
    uint8_t byte = 1;
    struct iovec iov = { &byte, 1 };
    int fds[2];

    WEIR_ASSERT(weir_sys->net.connect(where, sizeof(address)) == -ENOENT);
    /* A shutdown ends what waits, on both sides. */
    connect_pair(ring, fds);
    sim_submit(ring, &receive, WEIR_SYS_RECV, fds[0], 0, &byte, 1);
    sim_submit(ring, &send, WEIR_SYS_SEND, fds[0], 0, big, sizeof(big));
    send.io.flags = MSG_WAITALL;
    weir_sys->loop.poll(ring, 0);
    weir_sim_sleep(10000000);
    WEIR_ASSERT(!receive.over && !send.over);
    WEIR_ASSERT(weir_sys->net.shutdown(fds[0]) == 0);
    WEIR_ASSERT(sim_wait(ring, &receive) == 0);
    WEIR_ASSERT(sim_wait(ring, &send) > 0);
    WEIR_ASSERT(weir_sys->net.send_now(fds[0], &iov, 1, 0) == -EPIPE);
    WEIR_ASSERT(weir_sys->net.send_now(fds[1], &iov, 1, 0) == -EPIPE);
    while (run_op(ring, WEIR_SYS_RECV, fds[1], 0, big, sizeof(big)) > 0)
        ;
    weir_sys->net.close(fds[0]);
    weir_sys->net.close(fds[1]);
    /* Closing with bytes unread resets. */
    connect_pair(ring, fds);
    WEIR_ASSERT(weir_sys->net.send_now(fds[0], &iov, 1, 0) == 1);
    weir_sys->net.close(fds[1]);
    WEIR_ASSERT(run_op(ring, WEIR_SYS_RECV, fds[0], 0, &byte, 1) == -ECONNRESET);
    weir_sys->net.close(fds[0]);
    /* Cancelling and polling. */
    connect_pair(ring, fds);
    sim_submit(ring, &receive, WEIR_SYS_RECV, fds[0], 0, &byte, 1);
    weir_sys->loop.poll(ring, 0);
    weir_sys->loop.cancel(ring, &receive.io);
    WEIR_ASSERT(sim_wait(ring, &receive) == -ECANCELED);
    WEIR_ASSERT(run_op(ring, WEIR_SYS_POLL, fds[0], POLLOUT, NULL, 0) == POLLOUT);
    WEIR_ASSERT(weir_sys->net.send_now(fds[1], &iov, 1, 0) == 1);
    WEIR_ASSERT(run_op(ring, WEIR_SYS_POLL, fds[0], POLLIN, NULL, 0) == POLLIN);
    WEIR_ASSERT(weir_sys->net.recv_now(fds[0], &iov, 1, 0) == 1);
    WEIR_ASSERT(weir_sys->net.recv_now(fds[0], &iov, 1, 0) == -EAGAIN);
    weir_sys->net.close(fds[1]);
    WEIR_ASSERT(run_op(ring, WEIR_SYS_POLL, fds[0], POLLIN, NULL, 0) & POLLIN);
    WEIR_ASSERT(weir_sys->net.recv_now(fds[0], &iov, 1, 0) == 0);
    weir_sys->net.close(fds[0]);
    weir_sys->loop.close(ring);
}

static void ends_of_connections(void **state)
{
    for (uint64_t seed = 1; seed <= 20; seed++) {
        sim_begin(seed);
        sim_finish(ends, NULL);
        assert_int_equal(weir_sim_descriptors(), 0);
        weir_sim_end();
    }
}

/* ---- stalls, backlog, names ---- */

static void stall(void *arg)
{
    struct weir_sys_loop *ring = open_ring();
    struct sim_op receive;
    uint8_t byte = 1;
    struct iovec iov = { &byte, 1 };
    int fds[2];

    connect_pair(ring, fds);
    weir_sim_net_stall(fds[0], true);
    WEIR_ASSERT(weir_sys->net.send_now(fds[1], &iov, 1, 0) == 1);
    sim_submit(ring, &receive, WEIR_SYS_RECV, fds[0], 0, &byte, 1);
    weir_sys->loop.poll(ring, 0);
    weir_sim_sleep(5000000000ll);
    weir_sys->loop.poll(ring, 0);
    WEIR_ASSERT(!receive.over);
    weir_sim_net_stall(fds[1], false);
    WEIR_ASSERT(sim_wait(ring, &receive) == 1);
    weir_sys->net.close(fds[0]);
    weir_sys->net.close(fds[1]);
    weir_sys->loop.close(ring);
}

static void connections_can_stall(void **state)
{
    sim_begin(1);
    sim_finish(stall, NULL);
    weir_sim_end();
}

static unsigned connected, refused;

static void connect_once(void *arg)
{
    int fd = weir_sys->net.connect(where, sizeof(address));

    connected += fd >= 0;
    refused += fd == -ECONNREFUSED;
    if (fd >= 0)
        weir_sys->net.close(fd);
}

static void listen_a_while(void *arg)
{
    int listener = weir_sys->net.listen(where, sizeof(address), 2, false);
    struct weir_sys_loop *ring = open_ring();
    int fd;

    for (unsigned i = 0; i < 5; i++)
        weir_sim_spawn("client", connect_once, NULL);
    weir_sim_sleep(1000000000);
    WEIR_ASSERT(connected == 2 && refused == 0);
    fd = run_op(ring, WEIR_SYS_ACCEPT, listener, 0, NULL, 0);
    WEIR_ASSERT(fd >= 0);
    weir_sys->net.close(fd);
    weir_sim_sleep(1000000000);
    WEIR_ASSERT(connected == 3 && refused == 0);
    weir_sys->net.close(listener);
    weir_sys->loop.close(ring);
}

static void a_backlog_is_limited(void **state)
{
    connected = refused = 0;
    sim_begin(1);
    sim_finish(listen_a_while, NULL);
    assert_int_equal(connected, 3);
    assert_int_equal(refused, 2);
    weir_sim_end();
}

static void resolve(void *arg)
{
    struct weir_sys_address found[4];
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)&found[0].address;
    char name[64];
    int listener, fd;

    WEIR_ASSERT(weir_sys->net.resolve("nowhere.example", "10", AF_UNSPEC, false, found, 4) == -ENOENT);
    WEIR_ASSERT(weir_sys->net.resolve("localhost", "ten", AF_UNSPEC, false, found, 4) == -EINVAL);
    WEIR_ASSERT(weir_sys->net.resolve("::1", "10", AF_INET, false, found, 4) == -ENOENT);
    WEIR_ASSERT(weir_sys->net.resolve("localhost", "10809", AF_UNSPEC, false, found, 4) == 2);
    WEIR_ASSERT(weir_sys->net.resolve(NULL, "10809", AF_INET, true, found, 4) == 1);
    WEIR_ASSERT(four->sin_addr.s_addr == INADDR_ANY && ntohs(four->sin_port) == 10809);
    listener = weir_sys->net.listen((struct sockaddr *)four, found[0].length, 1, false);
    WEIR_ASSERT(listener >= 0);
    WEIR_ASSERT(weir_sys->net.resolve("127.0.0.1", "10809", AF_UNSPEC, false, found, 4) == 1);
    fd = weir_sys->net.connect((struct sockaddr *)four, found[0].length);
    WEIR_ASSERT(fd >= 0 && weir_sys->net.name(listener, false, name, sizeof(name)) == 0);
    WEIR_ASSERT(strcmp(name, "0.0.0.0:10809") == 0);
    weir_sys->net.close(fd);
    weir_sys->net.close(listener);
    WEIR_ASSERT(weir_sys->net.connect((struct sockaddr *)four, found[0].length) == -ECONNREFUSED);
}

static void names_of_hosts(void **state)
{
    sim_begin(1);
    sim_finish(resolve, NULL);
    weir_sim_end();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_keeps_bytes_and_order),
        cmocka_unit_test(ends_of_connections),
        cmocka_unit_test(connections_can_stall),
        cmocka_unit_test(a_backlog_is_limited),
        cmocka_unit_test(names_of_hosts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

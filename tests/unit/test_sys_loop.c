/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real loop: every operation ends once with the right result, kicks are never lost, and the number of system
 * calls is what the hot path counts on.
 */
#include "sys_temp.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <syscall.h>

#define SECOND INT64_C(1000000000)

static const struct weir_sys_loop_ops *const ops = &weir_sys_real.loop;

struct operation {
    struct weir_sys_io io;
    struct iovec iov[2];
    unsigned ended;
    int result;
};

static void ended(struct weir_sys_io *io, int result)
{
    struct operation *operation = weir_container_of(io, struct operation, io);

    operation->ended++;
    operation->result = result;
}

static struct weir_sys_loop *open_loop(void)
{
    struct weir_sys_loop *loop;

    assert_int_equal(ops->open(&loop), 0);
    return loop;
}

/* Polls until @operation has ended and returns its result; far more than ten seconds is a failure. */
static int await_end(struct weir_sys_loop *loop, struct operation *operation)
{
    int64_t end = weir_sys_real.clock_ns() + 10 * SECOND;

    while (!operation->ended && weir_sys_real.clock_ns() < end)
        ops->poll(loop, end);
    assert_int_equal(operation->ended, 1);
    return operation->result;
}

static struct operation *transfer(struct operation *operation, enum weir_sys_op op, int fd, void *buffer,
                                  size_t length, uint64_t offset)
{
    *operation = (struct operation){
        .io = { .op = op, .fd = fd, .iov = operation->iov, .iovcnt = 1, .offset = offset, .done = ended },
        .iov = { { buffer, length } },
    };
    return operation;
}

static int run(struct weir_sys_loop *loop, struct operation *operation)
{
    ops->submit(loop, &operation->io);
    assert_int_equal(operation->ended, 0);
    return await_end(loop, operation);
}

static void file_operations(void **state)
{
    char path[PATH_MAX], buffer[64] = { 0 };
    int fd = temp_file(path);
    struct weir_sys_loop *loop = open_loop();
    struct operation operation;
    struct weir_sys_stat stat;

    assert_int_equal(run(loop, transfer(&operation, WEIR_SYS_WRITE, fd, (char[]){ "weir" }, 4, 10)), 4);
    transfer(&operation, WEIR_SYS_WRITE, fd, (char[]){ "two" }, 3, 14);
    operation.iov[1] = (struct iovec){ (char[]){ "parts" }, 5 };
    operation.io.iovcnt = 2;
    operation.io.flags = RWF_DSYNC;
    assert_int_equal(run(loop, &operation), 8);
    assert_int_equal(run(loop, transfer(&operation, WEIR_SYS_READ, fd, buffer, 64, 9)), 13);
    assert_memory_equal(buffer, "\0weirtwoparts", 13);
    transfer(&operation, WEIR_SYS_READ, fd, buffer, 5, 10);
    operation.iov[1] = (struct iovec){ buffer + 32, 32 };
    operation.io.iovcnt = 2;
    assert_int_equal(run(loop, &operation), 12);
    assert_memory_equal(buffer + 32, "woparts", 7);

    operation = (struct operation){ .io = { .op = WEIR_SYS_FSYNC, .fd = fd, .done = ended } };
    assert_int_equal(run(loop, &operation), 0);
    operation = (struct operation){
        .io = { .op = WEIR_SYS_FALLOCATE, .fd = fd, .offset = 4096, .length = 8192, .done = ended },
    };
    assert_int_equal(run(loop, &operation), 0);
    assert_int_equal(weir_sys_real.file.stat(fd, &stat), 0);
    assert_int_equal(stat.size, 4096 + 8192);
    assert_int_equal(run(loop, transfer(&operation, WEIR_SYS_READ, -1, buffer, 64, 0)), -EBADF);
    ops->close(loop);
    close(fd);
    assert_int_equal(unlink(path), 0);
}

static void socket_operations(void **state)
{
    char in[8];
    int pair[2];
    struct weir_sys_loop *loop = open_loop();
    struct operation receive, send;

    /* A receive on an empty socket waits, whether or not the socket is non-blocking. */
    for (int type = 0; type < 2; type++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | (type ? SOCK_NONBLOCK : 0), 0, pair), 0);
        memset(in, 0, sizeof(in));
        transfer(&receive, WEIR_SYS_RECV, pair[0], in, 2, 0);
        receive.iov[1] = (struct iovec){ in + 4, 4 };
        receive.io.iovcnt = 2;
        ops->submit(loop, &receive.io);
        ops->poll(loop, 0);
        assert_int_equal(receive.ended, 0);
        transfer(&send, WEIR_SYS_SEND, pair[1], (char[]){ "ab" }, 2, 0);
        send.iov[1] = (struct iovec){ (char[]){ "cd" }, 2 };
        send.io.iovcnt = 2;
        assert_int_equal(run(loop, &send), 4);
        assert_int_equal(await_end(loop, &receive), 4);
        assert_memory_equal(in, "ab\0\0cd", 6);

        ops->submit(loop, &transfer(&receive, WEIR_SYS_RECV, pair[0], in, 8, 0)->io);
        assert_int_equal(run(loop, transfer(&send, WEIR_SYS_SEND, pair[1], (char[]){ "xyz" }, 3, 0)), 3);
        assert_int_equal(await_end(loop, &receive), 3);
        ops->submit(loop, &transfer(&receive, WEIR_SYS_RECV, pair[0], in, 8, 0)->io);
        ops->poll(loop, 0);
        assert_int_equal(weir_sys_real.net.shutdown(pair[0]), 0);
        assert_int_equal(await_end(loop, &receive), 0);
        /* An error, not a deadly signal. */
        assert_int_equal(run(loop, transfer(&send, WEIR_SYS_SEND, pair[1], (char[]){ "xyz" }, 3, 0)), -EPIPE);
        close(pair[0]);
        close(pair[1]);
    }
    ops->close(loop);
}

static void cancels_what_waits(void **state)
{
    int fds[2];
    struct weir_sys_loop *loop = open_loop();
    struct operation poll_in = { .io = { .op = WEIR_SYS_POLL, .flags = POLLIN, .done = ended } },
                     poll_out = poll_in;

    assert_int_equal(pipe(fds), 0);
    poll_in.io.fd = fds[0];
    poll_out.io.fd = fds[1];
    poll_out.io.flags = POLLOUT;
    ops->submit(loop, &poll_in.io);
    assert_int_equal(run(loop, &poll_out), POLLOUT);
    assert_int_equal(poll_in.ended, 0);
    ops->cancel(loop, &poll_in.io);
    assert_int_equal(poll_in.ended, 0); /* never from inside of cancel() */
    assert_int_equal(await_end(loop, &poll_in), -ECANCELED);

    /* Cancelled in the same turn in which it was submitted. */
    poll_in.ended = 0;
    ops->submit(loop, &poll_in.io);
    ops->cancel(loop, &poll_in.io);
    ops->cancel(loop, &poll_in.io);
    assert_int_equal(await_end(loop, &poll_in), -ECANCELED);
    ops->poll(loop, 0);
    assert_int_equal(poll_in.ended, 1);

    /* Too late: the result stands. */
    poll_in.ended = 0;
    ops->submit(loop, &poll_in.io);
    ops->poll(loop, 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    assert_int_equal(await_end(loop, &poll_in), POLLIN);
    close(fds[0]);
    close(fds[1]);
    ops->close(loop);
}

/* More than the rings hold at one time, in flight together. */
static void many_at_once(void **state)
{
    enum { COUNT = 6000 };
    struct operation *operations = calloc(COUNT, sizeof(*operations));
    struct weir_sys_loop *loop = open_loop();
    int64_t end = weir_sys_real.clock_ns() + 30 * SECOND;
    unsigned left = COUNT;
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        operations[i].io =
            (struct weir_sys_io){ .op = WEIR_SYS_POLL, .fd = fds[0], .flags = POLLIN, .done = ended };
        ops->submit(loop, &operations[i].io);
    }
    ops->poll(loop, 0);
    for (unsigned i = 0; i < COUNT; i += 2)
        ops->cancel(loop, &operations[i].io);
    ops->poll(loop, 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    while (left && weir_sys_real.clock_ns() < end) {
        ops->poll(loop, end);
        left = 0;
        for (unsigned i = 0; i < COUNT; i++)
            left += !operations[i].ended;
    }
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(operations[i].ended, 1);
        assert_int_equal(operations[i].result, i % 2 ? POLLIN : -ECANCELED);
    }
    close(fds[0]);
    close(fds[1]);
    ops->close(loop);
    free(operations);
}

static void sleeps_until_the_deadline(void **state)
{
    struct weir_sys_loop *loop = open_loop();
    int64_t start = weir_sys_real.clock_ns(), end = start + SECOND / 50;
    unsigned turns = 0;

    while (weir_sys_real.clock_ns() < end) {
        ops->poll(loop, end);
        turns++;
    }
    assert_in_range(turns, 1, 10); /* it slept: a loop that spins turns thousands of times */
    ops->poll(loop, start);        /* passed already */
    ops->kick(loop);
    ops->poll(loop, -1); /* a kick before the poll ends it too */
    ops->close(loop);
}

/* ---- kicks ---- */

struct storm {
    struct weir_sys_loop *loop;
    atomic_uint pushed, taken;
    unsigned rounds;
};

static void *ping(void *arg)
{
    struct storm *storm = arg;

    for (unsigned i = 1; i <= storm->rounds; i++) {
        atomic_fetch_add(&storm->pushed, 1);
        ops->kick(storm->loop);
        while (atomic_load(&storm->taken) < i)
            (void)sched_yield();
    }
    return NULL;
}

/* One kick a round, at every distance from the moment at which the loop falls asleep. */
static void no_kick_is_lost(void **state)
{
    struct storm storm = { .loop = open_loop(), .rounds = 20000 };
    int64_t end = weir_sys_real.clock_ns() + 60 * SECOND;
    pthread_t thread;

    assert_int_equal(pthread_create(&thread, NULL, ping, &storm), 0);
    for (unsigned i = 1; i <= storm.rounds; i++) {
        while (atomic_load(&storm.pushed) < i) {
            WEIR_ASSERT(weir_sys_real.clock_ns() < end);
            ops->poll(storm.loop, end);
        }
        atomic_store(&storm.taken, i);
        for (volatile unsigned spin = 0; spin < i % 512; spin++)
            ;
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    ops->close(storm.loop);
}

static void *hail(void *arg)
{
    struct storm *storm = arg;

    for (unsigned i = 0; i < storm->rounds; i++) {
        atomic_fetch_add(&storm->pushed, 1);
        ops->kick(storm->loop);
    }
    return NULL;
}

static void storm_of_kicks(void **state)
{
    enum { THREADS = 4 };
    struct storm storm = { .loop = open_loop(), .rounds = 20000 };
    int64_t end = weir_sys_real.clock_ns() + 60 * SECOND;
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hail, &storm), 0);
    while (atomic_load(&storm.pushed) < THREADS * storm.rounds) {
        WEIR_ASSERT(weir_sys_real.clock_ns() < end);
        ops->poll(storm.loop, end);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    ops->close(storm.loop);
}

/* The loop belongs to the thread that polls it, not to the one that opened it, and that may have others. */
static void *use_elsewhere(void *arg)
{
    struct weir_sys_loop *loop = arg;
    struct operation operation;
    char byte;
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    transfer(&operation, WEIR_SYS_READ, fd, &byte, 1, 0);
    ops->submit(loop, &operation.io);
    while (!operation.ended)
        ops->poll(loop, -1);
    WEIR_ASSERT(operation.result == 1);
    close(fd);
    return NULL;
}

static void used_by_another_thread(void **state)
{
    struct weir_sys_loop *own = open_loop(), *other = open_loop();
    struct operation operation;
    pthread_t thread;
    char byte;
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    ops->poll(own, 0);
    assert_int_equal(pthread_create(&thread, NULL, use_elsewhere, other), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    ops->close(other);
    assert_int_equal(run(own, transfer(&operation, WEIR_SYS_READ, fd, &byte, 1, 0)), 1);
    ops->close(own);
    close(fd);
}

/* ---- system calls ---- */

enum { READS = 16 };

static void idle_turns(struct weir_sys_loop *loop, struct operation *operations)
{
    for (unsigned i = 0; i < 1000; i++)
        ops->poll(loop, 0);
}

static void one_batch(struct weir_sys_loop *loop, struct operation *operations)
{
    for (unsigned i = 0; i < READS; i++)
        ops->submit(loop, &operations[i].io);
    ops->poll(loop, -1);
    for (unsigned i = 0; i < READS; i++)
        WEIR_ASSERT(operations[i].ended == 1 && operations[i].result == 1);
}

static void kick_awake(struct weir_sys_loop *loop, struct operation *operations)
{
    for (unsigned i = 0; i < 1000; i++) {
        ops->kick(loop);
        ops->poll(loop, -1);
    }
}

/* The child: stops before @section and exits after it. */
static void run_traced(void (*section)(struct weir_sys_loop *, struct operation *))
{
    struct operation operations[READS];
    char bytes[READS];
    struct weir_sys_loop *loop;
    int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

    WEIR_ASSERT(ops->open(&loop) == 0);
    for (unsigned i = 0; i < READS; i++)
        transfer(&operations[i], WEIR_SYS_READ, fd, &bytes[i], 1, 0);
    ops->poll(loop, 0);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
        _exit(77);
    (void)raise(SIGSTOP);
    section(loop, operations);
    _exit(0);
}

/* Whether the system call that @child enters is none of a sanitizer's own. */
static bool is_ours(pid_t child)
{
    struct __ptrace_syscall_info info;

    assert_true(ptrace(PTRACE_GET_SYSCALL_INFO, child, (void *)sizeof(info), &info) > 0);
    assert_int_equal(info.op, PTRACE_SYSCALL_INFO_ENTRY);
    return info.entry.nr != SYS_mmap && info.entry.nr != SYS_munmap && info.entry.nr != SYS_madvise &&
           info.entry.nr != SYS_mprotect && info.entry.nr != SYS_sigaltstack;
}

/* The system calls that @section makes; -1 where this system does not let us count. */
static int count_calls(void (*section)(struct weir_sys_loop *, struct operation *))
{
    pid_t child = fork();
    int status, calls = -1; /* the last one is the child's exit */

    assert_true(child >= 0);
    if (child == 0)
        run_traced(section);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (!WIFSTOPPED(status))
        return WEXITSTATUS(status) == 77 ? -1 : -2;
    assert_int_equal(ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(uintptr_t)PTRACE_O_TRACESYSGOOD), 0);
    for (bool entry = true;; entry = !entry) {
        assert_int_equal(ptrace(PTRACE_SYSCALL, child, NULL, NULL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSTOPPED(status))
            break;
        assert_int_equal(WSTOPSIG(status), SIGTRAP | 0x80);
        if (entry)
            calls += is_ours(child);
    }
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    return calls;
}

static void system_calls(void **state)
{
    int idle = count_calls(idle_turns);

    if (idle == -1)
        skip();
    assert_int_equal(idle, 0);
    assert_int_equal(count_calls(one_batch), 1);
    assert_int_equal(count_calls(kick_awake), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(file_operations),
        cmocka_unit_test(socket_operations),
        cmocka_unit_test(cancels_what_waits),
        cmocka_unit_test(many_at_once),
        cmocka_unit_test(sleeps_until_the_deadline),
        cmocka_unit_test(no_kick_is_lost),
        cmocka_unit_test(storm_of_kicks),
        cmocka_unit_test(used_by_another_thread),
        cmocka_unit_test(system_calls),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

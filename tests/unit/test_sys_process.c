/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The process calls. What changes the process for good is tried in a child, which reports by its exit status: an
 * assertion that fails there ends it by SIGABRT.
 */
#include "sys_temp.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

static const struct weir_sys_process_ops *const process = &weir_sys_real.process;

/* Runs @body in a child and returns its wait status. */
static int in_child(void (*body)(void *), void *arg)
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0) {
        body(arg);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void assert_exit(int status, int expected)
{
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), expected);
}

/* ---- signals ---- */

struct signal_read {
    struct weir_sys_io io;
    struct signalfd_siginfo info;
    struct iovec iov;
    int result;
    bool ended;
};

static void signal_ended(struct weir_sys_io *io, int result)
{
    struct signal_read *read = weir_container_of(io, struct signal_read, io);

    read->result = result;
    read->ended = true;
}

static void signals_as_reads(void *arg)
{
    static const int signals[] = { SIGTERM, SIGHUP, SIGPIPE };
    struct signal_read read = { .io = { .op = WEIR_SYS_READ, .iovcnt = 1, .done = signal_ended } };
    struct weir_sys_loop *loop;
    int pipe_fds[2];

    read.io.fd = process->signal_fd(signals, WEIR_ARRAY_SIZE(signals));
    WEIR_ASSERT(read.io.fd >= 0);
    read.iov = (struct iovec){ &read.info, sizeof(read.info) };
    read.io.iov = &read.iov;
    WEIR_ASSERT(weir_sys_real.loop.open(&loop) == 0);
    for (unsigned i = 0; i < 2; i++) {
        read.ended = false;
        weir_sys_real.loop.submit(loop, &read.io);
        weir_sys_real.loop.poll(loop, 0);
        WEIR_ASSERT(!read.ended);
        WEIR_ASSERT(kill(getpid(), signals[i]) == 0);
        while (!read.ended)
            weir_sys_real.loop.poll(loop, -1);
        WEIR_ASSERT(read.result == sizeof(read.info));
        WEIR_ASSERT((int)read.info.ssi_signo == signals[i]);
    }
    WEIR_ASSERT(pipe(pipe_fds) == 0);
    close(pipe_fds[0]);
    WEIR_ASSERT(write(pipe_fds[1], "x", 1) < 0 && errno == EPIPE);
    weir_sys_real.loop.close(loop);
}

static void signals_come_as_reads(void **state)
{
    static const int wrong = 1000;

    assert_exit(in_child(signals_as_reads, NULL), 0);
    assert_int_equal(process->signal_fd(&wrong, 1), -EINVAL);
}

/* ---- the background ---- */

struct daemon {
    int status;    /* to report; -1: die instead */
    int report[2]; /* the daemon writes "leads a session, at the root, quiet" there */
    bool twice;    /* report a second time */
    pid_t parent;
};

static void become_daemon(void *arg)
{
    struct daemon *daemon = arg;
    char facts[3], directory[PATH_MAX], link[PATH_MAX] = "";

    WEIR_ASSERT(process->daemonize_begin() == 0);
    /* Only the new process comes here. */
    WEIR_ASSERT(getpid() != daemon->parent);
    if (daemon->status < 0)
        _exit(0);
    facts[0] = getsid(0) == getpid();
    process->daemonize_ready(daemon->status);
    if (daemon->twice)
        process->daemonize_ready(9);
    facts[1] = getcwd(directory, sizeof(directory)) && strcmp(directory, "/") == 0;
    facts[2] = readlink("/proc/self/fd/2", link, sizeof(link) - 1) > 0 && strcmp(link, "/dev/null") == 0;
    WEIR_ASSERT(write(daemon->report[1], facts, sizeof(facts)) == sizeof(facts));
    process->exit_now(0);
}

static void daemonizes(void **state)
{
    struct daemon daemon = { .twice = true };
    char facts[4];

    assert_int_equal(pipe(daemon.report), 0);
    daemon.parent = getpid();
    assert_exit(in_child(become_daemon, &daemon), 0);
    assert_int_equal(read(daemon.report[0], facts, sizeof(facts)), 3);
    assert_memory_equal(facts, "\1\1\1", 3);
    /* A failed start keeps its streams, to say why. */
    daemon = (struct daemon){ .status = 3, .report = { daemon.report[0], daemon.report[1] } };
    assert_exit(in_child(become_daemon, &daemon), 3);
    assert_int_equal(read(daemon.report[0], facts, sizeof(facts)), 3);
    assert_memory_equal(facts, "\1\0\0", 3);
    daemon.status = -1;
    assert_exit(in_child(become_daemon, &daemon), 1);
    close(daemon.report[0]);
    close(daemon.report[1]);
    process->daemonize_ready(5); /* nobody waits: nothing happens */
}

/* ---- pid files ---- */

static void take_pid_file(void *path)
{
    _exit(process->pid_file_create(path) == -EAGAIN ? 11 : 12);
}

static void pid_files(void **state)
{
    char path[PATH_MAX], text[32] = "", expected[32];
    int fd = temp_file(path), pid_fd;

    assert_int_equal(write(fd, "a stale and longer text", 23), 23);
    close(fd);
    pid_fd = process->pid_file_create(path);
    assert_true(pid_fd >= 0);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    (void)snprintf(expected, sizeof(expected), "%d\n", process->pid());
    assert_int_equal(read(fd, text, sizeof(text)), strlen(expected));
    assert_string_equal(text, expected);
    assert_exit(in_child(take_pid_file, path), 11);
    close(fd);
    process->pid_file_remove(path, pid_fd);
    assert_int_equal(access(path, F_OK), -1);

    /* A file that somebody put in its place is left alone. */
    pid_fd = process->pid_file_create(path);
    assert_true(pid_fd >= 0);
    assert_int_equal(unlink(path), 0);
    close(open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    process->pid_file_remove(path, pid_fd);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(process->pid_file_create("/nonexistent/pid"), -ENOENT);
}

/* ---- the surroundings ---- */

static void count_passed(void *arg)
{
    const char *const *variables = arg;
    char pid[16];
    int passed;

    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    for (int fd = 3; fd < 5; fd++)
        WEIR_ASSERT(dup2(0, fd) == fd);
    close(5);
    (void)setenv("LISTEN_FDS", variables[0], 1);
    (void)setenv("LISTEN_PID", variables[1] ? variables[1] : pid, 1);
    passed = process->passed_fds();
    WEIR_ASSERT(!process->getenv("LISTEN_FDS") && !process->getenv("LISTEN_PID"));
    if (passed > 0)
        WEIR_ASSERT(fcntl(WEIR_SYS_PASSED_FD + passed - 1, F_GETFD) & FD_CLOEXEC);
    _exit(passed < 0 ? 100 : passed);
}

static void passed_descriptors(void **state)
{
    assert_exit(in_child(count_passed, (const char *[]){ "2", NULL }), 2);
    assert_exit(in_child(count_passed, (const char *[]){ "3", NULL }), 100); /* the third is not open */
    assert_exit(in_child(count_passed, (const char *[]){ "2", "1" }), 0);
    assert_exit(in_child(count_passed, (const char *[]){ "2x", NULL }), 0);
    assert_exit(in_child(count_passed, (const char *[]){ "", NULL }), 0);
    assert_exit(in_child(count_passed, (const char *[]){ "99999999999", NULL }), 0);
    assert_int_equal(process->passed_fds(), 0);
}

static void tells_the_service_manager(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char directory[PATH_MAX], text[32] = "";
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    (void)unsetenv("NOTIFY_SOCKET");
    assert_int_equal(process->notify("READY=1"), 0);
    temp_directory(directory);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/notify", directory);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    (void)setenv("NOTIFY_SOCKET", address.sun_path, 1);
    assert_int_equal(process->notify("READY=1"), 0);
    assert_int_equal(recv(fd, text, sizeof(text), MSG_DONTWAIT), 7);
    assert_string_equal(text, "READY=1");
    close(fd);
    assert_int_equal(process->notify("READY=1"), -ECONNREFUSED);
    (void)setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(process->notify("READY=1"), -EINVAL);
    (void)unsetenv("NOTIFY_SOCKET");
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(directory), 0);
}

static void log_to(void *arg)
{
    WEIR_ASSERT(dup2(*(int *)arg, 2) == 2);
    process->log_line("one line\n", 9);
}

static void logs_lines(void **state)
{
    char text[32] = "";
    int fds[2];

    assert_int_equal(pipe(fds), 0);
    assert_exit(in_child(log_to, &fds[1]), 0);
    assert_int_equal(read(fds[0], text, sizeof(text)), 9);
    assert_string_equal(text, "one line\n");
    close(fds[0]);
    close(fds[1]);
}

static void print_on_pipe(void *arg)
{
    WEIR_ASSERT(dup2(*(int *)arg, 1) == 1);
    _exit((int)process->output_columns());
}

static void knows_its_terminal(void **state)
{
    struct winsize size = { .ws_row = 24, .ws_col = 100 };
    int fds[2], terminal = posix_openpt(O_RDWR | O_NOCTTY), other;

    assert_int_equal(pipe(fds), 0);
    assert_exit(in_child(print_on_pipe, &fds[1]), 0);
    close(fds[0]);
    close(fds[1]);

    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal) | unlockpt(terminal), 0);
    other = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    assert_true(other >= 0);
    assert_exit(in_child(print_on_pipe, &other), 80);
    assert_int_equal(ioctl(terminal, TIOCSWINSZ, &size), 0);
    assert_exit(in_child(print_on_pipe, &other), 100);
    close(other);
    close(terminal);
}

static void knows_where_it_is(void **state)
{
    char path[PATH_MAX], expected[PATH_MAX];

    assert_non_null(getcwd(expected, sizeof(expected)));
    assert_int_equal(process->working_directory(path, sizeof(path)), 0);
    assert_string_equal(path, expected);
    assert_int_equal(process->working_directory(path, 1), -ERANGE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_come_as_reads),
        cmocka_unit_test(daemonizes),
        cmocka_unit_test(pid_files),
        cmocka_unit_test(passed_descriptors),
        cmocka_unit_test(tells_the_service_manager),
        cmocka_unit_test(logs_lines),
        cmocka_unit_test(knows_its_terminal),
        cmocka_unit_test(knows_where_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the main function of a program needs of its process: signals as a descriptor, going to the background, a pid
 * file, descriptors and notifications of a service manager, the error stream, the terminal.
 *
 * State: the pipe to the waiting parent, between daemonize_begin() and daemonize_ready(). Main thread only, except
 * log_line().
 */
#include "sys/real.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* The write end of the pipe to the parent that waits; -1: nobody waits. */
static int ready_fd = -1;

int weir_real_process_signal_fd(const int *signals, unsigned count)
{
    sigset_t set;
    int fd;

    (void)sigemptyset(&set);
    for (unsigned i = 0; i < count; i++) {
        if (signals[i] == SIGPIPE) {
            if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return -errno;
        } else if (sigaddset(&set, signals[i]) < 0) {
            return -errno;
        }
    }
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    WEIR_ASSERT(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    return fd;
}

/* ---- into the background ---- */

/* The parent: ends with the status that the child reports, or, where it died before, with 1. */
static _Noreturn void await_child(int fd)
{
    unsigned char status = 1;

    if (WEIR_REAL_RETRY(read(fd, &status, 1)) != 1)
        status = 1;
    _exit(status);
}

int weir_real_process_daemonize_begin(void)
{
    int fds[2];
    pid_t child;

    WEIR_ASSERT(ready_fd < 0);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    child = fork();
    if (child < 0) {
        int ret = -errno;

        (void)close(fds[0]);
        (void)close(fds[1]);
        return ret;
    }
    if (child > 0) {
        (void)close(fds[1]); /* or the end of the child would go unnoticed */
        await_child(fds[0]);
    }
    (void)close(fds[0]);
    ready_fd = fds[1];
    (void)setsid(); /* fails for a group leader only, which a forked process is not */
    return 0;
}

static void leave_terminal(void)
{
    int fd = weir_real_file_open("/dev/null", O_RDWR, 0);

    (void)!chdir("/"); /* not to keep a file system busy; where it fails that is all that is lost */
    if (fd < 0)
        return;
    for (int to = 0; to <= 2; to++)
        (void)WEIR_REAL_RETRY(dup2(fd, to)); /* both are valid descriptors */
    if (fd > 2)
        (void)close(fd);
}

void weir_real_process_daemonize_ready(int status)
{
    unsigned char byte = (unsigned char)status;

    if (ready_fd < 0)
        return;
    if (status == 0)
        leave_terminal();
    /* Where the parent was killed nobody wants to know. */
    (void)!WEIR_REAL_RETRY(write(ready_fd, &byte, 1));
    (void)close(ready_fd);
    ready_fd = -1;
}

/* ---- the pid file ---- */

/* Whether @path still names the file of @fd: the process that held it before may just have removed it. */
static bool is_current(const char *path, int fd)
{
    struct stat by_name, by_fd;

    return stat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 && by_name.st_ino == by_fd.st_ino &&
           by_name.st_dev == by_fd.st_dev;
}

static int write_pid(int fd)
{
    char text[32];
    int length = snprintf(text, sizeof(text), "%d\n", (int)getpid());
    ssize_t written;
    int ret = weir_real_file_truncate(fd, 0);

    if (ret < 0)
        return ret;
    written = weir_real_file_pwrite(fd, text, (size_t)length, 0);
    if (written < 0)
        return (int)written;
    return written == length ? 0 : -ENOSPC;
}

int weir_real_process_pid_file_create(const char *path)
{
    for (;;) {
        int fd = weir_real_file_open(path, O_RDWR | O_CREAT, 0644);
        int ret;

        if (fd < 0)
            return fd;
        ret = weir_real_file_lock(fd, WEIR_SYS_LOCK_EXCLUSIVE, 0, 0);
        if (ret == 0 && !is_current(path, fd)) {
            (void)close(fd); /* nothing was written to it */
            continue;
        }
        if (ret == 0)
            ret = write_pid(fd);
        if (ret == 0)
            return fd;
        (void)close(fd);
        return ret;
    }
}

void weir_real_process_pid_file_remove(const char *path, int fd)
{
    if (is_current(path, fd))
        (void)unlink(path); /* a stale file does no harm: its lock ends with us */
    (void)close(fd);
}

/* ---- the surroundings ---- */

void weir_real_process_exit_now(int status)
{
    weir_real_exit_apart(status);
}

const char *weir_real_process_getenv(const char *name)
{
    return getenv(name);
}

int weir_real_process_pid(void)
{
    return (int)getpid();
}

/* The value of a variable that holds a decimal number; -1 where it does not. */
static int number_of(const char *name)
{
    const char *text = getenv(name);
    char *end;
    long value;

    if (!text || !*text)
        return -1;
    errno = 0;
    value = strtol(text, &end, 10);
    return *end || errno || value < 0 || value > INT32_MAX ? -1 : (int)value;
}

int weir_real_process_passed_fds(void)
{
    int count = number_of("LISTEN_FDS"), owner = number_of("LISTEN_PID");

    (void)unsetenv("LISTEN_FDS");
    (void)unsetenv("LISTEN_PID");
    (void)unsetenv("LISTEN_FDNAMES");
    if (count <= 0 || owner != (int)getpid())
        return 0;
    for (int i = 0; i < count; i++) {
        int flags = fcntl(WEIR_SYS_PASSED_FD + i, F_GETFD);

        if (flags < 0)
            return -errno; /* fewer than promised */
        WEIR_ASSERT(fcntl(WEIR_SYS_PASSED_FD + i, F_SETFD, flags | FD_CLOEXEC) == 0);
    }
    return count;
}

int weir_real_process_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    size_t length = path ? strlen(path) : 0;
    ssize_t sent;
    int fd;

    if (length == 0)
        return 0;
    if (length >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
        return -EINVAL;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0'; /* an abstract name */
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    sent = WEIR_REAL_RETRY(sendto(fd, state, strlen(state), MSG_NOSIGNAL | MSG_DONTWAIT,
                                  (const struct sockaddr *)&address,
                                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)));
    (void)close(fd);
    return sent < 0 ? (int)sent : 0;
}

void weir_real_process_log_line(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t written = WEIR_REAL_RETRY(write(STDERR_FILENO, text, length));

        if (written <= 0)
            return; /* nobody can be told */
        text += written;
        length -= (size_t)written;
    }
}

int weir_real_process_flush_output(void)
{
    if (fflush(stdout))
        return -errno;
    return ferror(stdout) ? -EIO : 0;
}

unsigned weir_real_process_output_columns(void)
{
    struct winsize size;

    if (!isatty(STDOUT_FILENO))
        return 0;
    /* A serial line has no size: what terminals have had since there were any. */
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

int weir_real_process_working_directory(char *path, size_t size)
{
    return getcwd(path, size) ? 0 : -errno;
}

int weir_real_process_read_line(char **ret_line)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t length;

    errno = 0;
    length = getline(&line, &room, stdin);
    if (length < 0) {
        free(line);
        return feof(stdin) ? 0 : -(errno ? errno : EIO);
    }
    if (length && line[length - 1] == '\n')
        line[length - 1] = '\0';
    *ret_line = line;
    return 1;
}

int weir_real_process_raise_signal(int signal)
{
    return raise(signal) ? -errno : 0;
}

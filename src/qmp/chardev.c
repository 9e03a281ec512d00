/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices.
 *
 * Two coroutines: the server, which accepts, receives and feeds the monitor, and the writer, which lives while there
 * is output. The writer takes its bytes from the monitor before it sends them, so that the monitor may change or
 * forget its buffer meanwhile. Whoever ends a conversation makes the other one's operation end: a socket is shut
 * down, an operation on standard input or output cancelled. One operation of each coroutine is in flight at most.
 */
#include "qmp/chardev.h"
#include "base/alloc.h"
#include "base/schema_text.h"
#include "co/co.h"
#include "qmp/monitor.h"
#include "sys/sys.h"
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#define BUFFER_SIZE 16384
#define ADDRESSES_MAX 8
#define BACKLOG 1
/* Files without a position of their own, and with one: "where the descriptor stands". */
#define CURRENT_POSITION UINT64_MAX

/* An operation that can be ended from outside. */
struct operation {
    struct weir_sys_io io;
    struct iovec iov;
    bool pending;
};

struct weir_chardev {
    struct weir_q_chardev_options options;
    int listen_fd, in_fd, out_fd; /* -1: none; a socket is both in and out */
    bool socket;
    bool stopping;
    bool serving; /* the server lives */
    bool writing; /* the writer lives */
    bool broken;  /* the conversation is to end without more output */
    struct weir_monitor *monitor;
    struct operation input, output;
    struct weir_mutex lock; /* for `changed` only */
    struct weir_co_queue changed;
    char in_buffer[BUFFER_SIZE], out_buffer[BUFFER_SIZE];
};

static void notify(struct weir_chardev *chardev)
{
    WEIR_SCOPE_LOCK(&chardev->lock);
    weir_co_queue_wake_all(&chardev->changed);
}

static int wait_change(struct weir_chardev *chardev, int64_t deadline_ns) weir_co_fn;
static int wait_change(struct weir_chardev *chardev, int64_t deadline_ns)
{
    int ret;

    weir_mutex_lock(&chardev->lock);
    ret = weir_co_queue_wait_until(&chardev->changed, &chardev->lock, deadline_ns);
    weir_mutex_unlock(&chardev->lock);
    return ret;
}

/* ---- operations ---- */

static int run_once(struct weir_chardev *chardev, struct operation *operation, enum weir_sys_op op, int fd,
                    unsigned flags) weir_co_fn;
static int run_once(struct weir_chardev *chardev, struct operation *operation, enum weir_sys_op op, int fd,
                    unsigned flags)
{
    int ret;

    if (chardev->stopping)
        return -ECANCELED;
    operation->io = (struct weir_sys_io){
        .op = op, .fd = fd, .flags = flags, .iov = &operation->iov, .iovcnt = 1, .offset = CURRENT_POSITION
    };
    operation->pending = true;
    ret = weir_co_io(&operation->io);
    operation->pending = false;
    return ret;
}

/* Waits as well where the descriptor is one that does not. */
static int run(struct weir_chardev *chardev, struct operation *operation, enum weir_sys_op op, int fd,
               unsigned ready) weir_co_fn;
static int run(struct weir_chardev *chardev, struct operation *operation, enum weir_sys_op op, int fd,
               unsigned ready)
{
    for (;;) {
        int ret = run_once(chardev, operation, op, fd, 0);

        if (ret != -EAGAIN && ret != -EINTR)
            return ret;
        ret = run_once(chardev, operation, WEIR_SYS_POLL, fd, ready);
        if (ret < 0)
            return ret;
    }
}

static void cancel(struct operation *operation)
{
    if (operation->pending)
        weir_loop_cancel(&operation->io);
}

/* Makes whatever goes on with the client end. */
static void hang_up(struct weir_chardev *chardev)
{
    chardev->broken = true;
    if (chardev->socket && chardev->in_fd >= 0) {
        (void)weir_sys->net.shutdown(chardev->in_fd); /* a client that is gone already is as good */
        return;
    }
    cancel(&chardev->input);
    cancel(&chardev->output);
}

/* ---- output ---- */

static int send_all(struct weir_chardev *chardev, size_t length) weir_co_fn;
static int send_all(struct weir_chardev *chardev, size_t length)
{
    size_t done = 0;

    while (done < length && !chardev->broken) {
        int ret;

        chardev->output.iov = (struct iovec){ chardev->out_buffer + done, length - done };
        ret = run(chardev, &chardev->output, chardev->socket ? WEIR_SYS_SEND : WEIR_SYS_WRITE,
                  chardev->out_fd, POLLOUT);
        if (ret < 0)
            return ret;
        done += (size_t)ret;
    }
    return chardev->broken ? -EPIPE : 0;
}

static void writer(void *arg) weir_co_fn;
static void writer(void *arg)
{
    struct weir_chardev *chardev = arg;
    const char *data;
    size_t length;
    int ret = 0;

    while (ret == 0 && (length = weir_monitor_output(chardev->monitor, &data)) > 0) {
        length = WEIR_MIN(length, sizeof(chardev->out_buffer));
        memcpy(chardev->out_buffer, data, length);
        weir_monitor_output_taken(chardev->monitor, length);
        ret = send_all(chardev, length);
    }
    if (ret < 0) {
        weir_monitor_disconnect(chardev->monitor);
        hang_up(chardev);
    }
    chardev->writing = false;
    notify(chardev);
}

static void output_ready(void *arg)
{
    struct weir_chardev *chardev = arg;

    if (chardev->writing)
        return;
    chardev->writing = true;
    weir_co_start(weir_loop_control(), writer, chardev);
}

static void drop_client(void *arg)
{
    hang_up(arg);
}

static const struct weir_monitor_transport transport = { .output = output_ready, .drop = drop_client };

/* ---- one client ---- */

/* Whether the other end is gone altogether, not only done with sending. */
static bool is_hung_up(struct weir_chardev *chardev) weir_co_fn;
static bool is_hung_up(struct weir_chardev *chardev)
{
    int ret;

    if (!chardev->socket)
        return false;
    ret = run_once(chardev, &chardev->input, WEIR_SYS_POLL, chardev->in_fd, POLLOUT);
    return ret < 0 || (ret & (POLLHUP | POLLERR));
}

static int receive(struct weir_chardev *chardev) weir_co_fn;
static int receive(struct weir_chardev *chardev)
{
    chardev->input.iov = (struct iovec){ chardev->in_buffer, sizeof(chardev->in_buffer) };
    return run(chardev, &chardev->input, chardev->socket ? WEIR_SYS_RECV : WEIR_SYS_READ, chardev->in_fd,
               POLLIN);
}

static void converse(struct weir_chardev *chardev) weir_co_fn;
static void converse(struct weir_chardev *chardev)
{
    int ret;

    chardev->broken = false;
    weir_monitor_connect(chardev->monitor);
    while ((ret = receive(chardev)) > 0 && !chardev->broken)
        weir_monitor_feed(chardev->monitor, chardev->in_buffer, (size_t)ret);
    if (ret == 0 && !chardev->broken && !is_hung_up(chardev))
        (void)weir_monitor_wait_idle(chardev->monitor, -1);
    else
        hang_up(chardev);
    weir_monitor_disconnect(chardev->monitor);
    while (chardev->writing)
        (void)wait_change(chardev, -1);
}

static void close_client(struct weir_chardev *chardev)
{
    if (chardev->socket && chardev->in_fd >= 0)
        weir_sys->net.close(chardev->in_fd);
    chardev->in_fd = chardev->out_fd = -1;
}

static int accept_client(struct weir_chardev *chardev) weir_co_fn;
static int accept_client(struct weir_chardev *chardev)
{
    int ret = run(chardev, &chardev->input, WEIR_SYS_ACCEPT, chardev->listen_fd, POLLIN);

    if (ret < 0)
        return ret;
    chardev->in_fd = chardev->out_fd = ret;
    return 0;
}

/* Errors of accept that concern one client, or pass. */
static bool may_accept_again(int ret)
{
    return ret == -ECONNABORTED || ret == -EPROTO || ret == -EPERM || ret == -ENETDOWN;
}

static void serve(void *arg) weir_co_fn;
static void serve(void *arg)
{
    struct weir_chardev *chardev = arg;
    int ret = 0;

    while (!chardev->stopping) {
        if (chardev->in_fd < 0)
            ret = accept_client(chardev);
        if (chardev->in_fd >= 0) {
            converse(chardev);
            close_client(chardev);
        } else if (ret == -EMFILE || ret == -ENFILE || ret == -ENOMEM) {
            weir_co_sleep(100 * 1000000); /* no descriptor is free: the clients of others must go first */
        } else if (!may_accept_again(ret)) {
            break;
        }
        if (chardev->listen_fd < 0)
            break;
    }
    chardev->serving = false;
    notify(chardev);
}

/* ---- opening: on a worker ---- */

struct open_work {
    const struct weir_q_chardev_socket_options *options;
    bool failed_resolve;
};

static int open_at(const struct open_work *work, const struct weir_sys_address *address)
{
    const struct sockaddr *socket_address = (const void *)&address->address;

    if (work->options->server)
        return weir_sys->net.listen(socket_address, address->length, BACKLOG, true);
    return weir_sys->net.connect(socket_address, address->length);
}

static int open_unix(const struct open_work *work)
{
    struct weir_sys_address address = { .length = sizeof(struct sockaddr_un) };
    struct sockaddr_un *unix_address = (void *)&address.address;
    size_t length = strlen(work->options->path);

    if (length >= sizeof(unix_address->sun_path))
        return -ENAMETOOLONG;
    unix_address->sun_family = AF_UNIX;
    memcpy(unix_address->sun_path, work->options->path, length + 1);
    return open_at(work, &address);
}

static int open_work_run(void *arg)
{
    struct open_work *work = arg;
    struct weir_sys_address addresses[ADDRESSES_MAX];
    int count, ret = -ENOENT;

    if (work->options->path)
        return open_unix(work);
    count = weir_sys->net.resolve(work->options->host, work->options->port, AF_UNSPEC, work->options->server,
                                  addresses, ADDRESSES_MAX);
    work->failed_resolve = count < 0;
    if (count < 0)
        return count;
    for (int i = 0; i < count; i++) {
        ret = open_at(work, &addresses[i]);
        if (ret >= 0)
            break;
    }
    return ret;
}

static int open_failed(const struct open_work *work, int ret, struct weir_error **err)
{
    const struct weir_q_chardev_socket_options *options = work->options;
    if (work->failed_resolve)
        return weir_error_set_errno(err, ret, "address resolution failed for %s:%s", options->host,
                                    options->port);
    if (options->path && ret == -ENAMETOOLONG)
        return weir_error_set(err, ret, "UNIX socket path '%s' is too long", options->path);
    if (options->path)
        return weir_error_set_errno(
            err, ret, options->server ? "Failed to bind socket to %s" : "Failed to connect to '%s'",
            options->path);
    return weir_error_set_errno(
        err, ret, options->server ? "Failed to bind socket to %s:%s" : "Failed to connect to '%s:%s'",
        options->host, options->port);
}

static int passed_fd(const char *text, struct weir_error **err)
{
    int64_t number;

    if (!weir_text_to_int(text, &number) || number < 0 || number > INT32_MAX)
        return weir_error_set(err, -EINVAL, "Parameter 'fd' expects the number of a descriptor, not '%s'",
                              text);
    return (int)number;
}

static int open_socket(struct weir_chardev *chardev, struct weir_error **err) weir_co_fn;
static int open_socket(struct weir_chardev *chardev, struct weir_error **err)
{
    const struct weir_q_chardev_socket_options *options = &chardev->options.u.socket;
    struct open_work work = { .options = options };
    int fd;

    if (options->fd) {
        fd = passed_fd(options->fd, err);
        if (fd >= 0 && weir_sys->net.is_listening(fd) != (int)options->server)
            return weir_error_set(err, -EINVAL, "Descriptor %d is no %s socket", fd,
                                  options->server ? "listening" : "connected");
    } else {
        fd = weir_co_work(open_work_run, &work);
        if (fd < 0)
            return open_failed(&work, fd, err);
    }
    if (fd < 0)
        return fd;
    if (options->server)
        chardev->listen_fd = fd;
    else
        chardev->in_fd = chardev->out_fd = fd;
    return 0;
}

int weir_chardev_open(struct weir_chardev *chardev, struct weir_error **err)
{
    int ret;

    weir_co_assert();
    if (chardev->options.backend == WEIR_Q_CHARDEV_BACKEND_KIND_STDIO) {
        chardev->in_fd = 0;
        chardev->out_fd = 1;
        return 0;
    }
    chardev->socket = true;
    ret = open_socket(chardev, err);
    if (ret < 0 || !chardev->options.u.socket.server || !chardev->options.u.socket.wait)
        return ret;
    ret = accept_client(chardev);
    if (ret < 0)
        return weir_error_set_errno(err, ret, "chardev \"%s\": no client", chardev->options.id);
    return 0;
}

/* ---- the object ---- */

static int check_socket(const struct weir_q_chardev_socket_options *options, struct weir_error **err)
{
    unsigned ways = (unsigned)options->has_path + options->has_host + options->has_fd;

    if (ways != 1)
        return weir_error_set(err, -EINVAL, "chardev: socket: exactly one of path, host and fd is needed");
    if (options->has_host && !options->has_port)
        return weir_error_set(err, -EINVAL, "chardev: socket: no port given");
    if (!options->has_host && options->has_port)
        return weir_error_set(err, -EINVAL, "chardev: socket: 'port' needs 'host'");
    if (options->has_wait && !options->server)
        return weir_error_set(err, -EINVAL,
                              "'wait' option is incompatible with socket in client connect mode");
    return 0;
}

int weir_chardev_new(const struct weir_q_chardev_options *options, struct weir_chardev **ret_chardev,
                     struct weir_error **err)
{
    struct weir_chardev *chardev;
    int ret = 0;

    if (options->backend == WEIR_Q_CHARDEV_BACKEND_KIND_SOCKET)
        ret = check_socket(&options->u.socket, err);
    if (ret < 0)
        return ret;
    chardev = weir_new(struct weir_chardev);
    ret = weir_schema_parse(&weir_schema_chardev_options, options->json, WEIR_SCHEMA_JSON, &chardev->options,
                            err);
    if (ret < 0) {
        free(chardev);
        return ret;
    }
    chardev->listen_fd = chardev->in_fd = chardev->out_fd = -1;
    weir_mutex_init(&chardev->lock);
    weir_co_queue_init(&chardev->changed);
    *ret_chardev = chardev;
    return 0;
}

const char *weir_chardev_id(const struct weir_chardev *chardev)
{
    return chardev->options.id;
}

void weir_chardev_address(const struct weir_chardev *chardev, char *text, size_t size)
{
    if (chardev->listen_fd < 0 || weir_sys->net.name(chardev->listen_fd, false, text, size) < 0)
        snprintf(text, size, "%s", chardev->socket ? "socket" : "stdio");
}

int weir_chardev_attach(struct weir_chardev *chardev, struct weir_monitors *monitors, const char *id,
                        bool pretty, struct weir_error **err)
{
    if (chardev->monitor)
        return weir_error_set(err, -EBUSY, "Device '%s' is in use", chardev->options.id);
    chardev->monitor = weir_monitor_new(monitors, id, pretty, &transport, chardev);
    chardev->serving = true;
    weir_co_start(weir_loop_control(), serve, chardev);
    return 0;
}

void weir_chardev_stop(struct weir_chardev *chardev)
{
    chardev->stopping = true;
    cancel(&chardev->input);
    cancel(&chardev->output);
    hang_up(chardev);
    if (chardev->monitor)
        weir_monitor_disconnect(chardev->monitor);
}

static int unlink_run(void *path)
{
    return weir_sys->file.unlink(path);
}

static void close_server(struct weir_chardev *chardev) weir_co_fn;
static void close_server(struct weir_chardev *chardev)
{
    if (chardev->listen_fd < 0)
        return;
    weir_sys->net.close(chardev->listen_fd);
    if (chardev->options.u.socket.path)
        (void)weir_co_work(unlink_run,
                           chardev->options.u.socket.path); /* somebody else may have removed it */
}

void weir_chardev_free(struct weir_chardev *chardev, int64_t deadline_ns)
{
    if (!chardev)
        return;
    if (chardev->monitor && weir_monitor_wait_idle(chardev->monitor, deadline_ns) == 0)
        while (chardev->writing && wait_change(chardev, deadline_ns) == 0)
            continue;
    weir_chardev_stop(chardev);
    while (chardev->serving || chardev->writing)
        (void)wait_change(chardev, -1);
    if (chardev->monitor)
        weir_monitor_free(chardev->monitor);
    close_client(chardev);
    close_server(chardev);
    weir_mutex_done(&chardev->lock);
    weir_schema_free(&weir_schema_chardev_options, &chardev->options);
    free(chardev);
}

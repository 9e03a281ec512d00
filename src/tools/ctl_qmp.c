/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The connection of weir ctl to a monitor.
 *
 * One coroutine receives and sorts: answers, events, the end. Commands go one at a time, so an answer needs no name
 * beyond the id that is checked; events wait in their order until somebody takes them. A monitor serves one client at
 * a time: a second one is taken in by the kernel and hears nothing, so the greeting has a limit.
 */
#include "tools/ctl.h"

#include "qmp/json_stream.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>
#include <sys/un.h>

/* How long connecting, and then the greeting, may take. */
#define HELLO_LIMIT_NS (5 * 1000000000LL)
#define BUFFER_SIZE 16384
#define ADDRESSES_MAX 8
#define ENVIRONMENT "WEIR_MONITOR"

struct ctl_qmp {
    struct ctl *ctl;
    const char *address;
    int fd;
    bool remote;
    bool receiving;                     /* the receiver lives */
    bool closed;                        /* nothing comes any more ... */
    bool garbled;                       /* ... as it was no JSON */
    json_t *greeting, *answer, *events; /* events: an array */
    json_int_t last_id;
    char buffer[BUFFER_SIZE];
};

/* ---- receiving ---- */

static void sort(struct ctl_qmp *qmp, json_t *message)
{
    if (!qmp->greeting) {
        qmp->greeting = message;
    } else if (json_object_get(message, "event")) {
        json_array_append_new(qmp->events, message);
    } else if (json_integer_value(json_object_get(message, "id")) == qmp->last_id) {
        json_decref(qmp->answer);
        qmp->answer = message;
    } else {
        json_decref(message); /* a second greeting, say */
    }
}

static bool feed(struct ctl_qmp *qmp, struct weir_json_stream *stream, const char *data, size_t length)
{
    for (;;) {
        json_t *message = NULL;

        switch (weir_json_stream_next(stream, &data, &length, &message, NULL)) {
        case WEIR_JSON_MORE:
            return true;
        case WEIR_JSON_ERROR:
            return false;
        case WEIR_JSON_VALUE:
            sort(qmp, message);
        }
    }
}

static weir_co_fn void receiver(void *arg)
{
    struct ctl_qmp *qmp = arg;
    struct weir_json_stream *stream = weir_json_stream_new();

    while (!qmp->closed) {
        struct iovec iov = { qmp->buffer, sizeof(qmp->buffer) };
        struct weir_sys_io io = { .op = WEIR_SYS_RECV, .fd = qmp->fd, .iov = &iov, .iovcnt = 1 };
        int ret = weir_co_io(&io);

        if (ret == -EINTR || ret == -EAGAIN)
            continue;
        if (ret <= 0) {
            qmp->closed = true;
        } else if (!feed(qmp, stream, qmp->buffer, (size_t)ret)) {
            qmp->closed = qmp->garbled = true;
        }
        ctl_wake(qmp->ctl);
    }
    weir_json_stream_free(stream);
    qmp->receiving = false;
    ctl_wake(qmp->ctl);
}

void ctl_wake(struct ctl *ctl)
{
    WEIR_SCOPE_LOCK(&ctl->lock);
    weir_co_queue_wake_all(&ctl->changed);
}

static weir_co_fn void wait_change(struct ctl *ctl, int64_t deadline_ns)
{
    weir_mutex_lock(&ctl->lock);
    (void)weir_co_queue_wait_until(&ctl->changed, &ctl->lock, deadline_ns);
    weir_mutex_unlock(&ctl->lock);
}

weir_co_fn void ctl_wait(struct ctl *ctl, int64_t deadline_ns)
{
    while (!ctl_has_events(ctl) && !ctl->qmp->closed && !ctl->interrupted &&
           weir_sys->clock_ns() < deadline_ns)
        wait_change(ctl, deadline_ns);
}

json_t *ctl_take_event(struct ctl *ctl)
{
    json_t *event = json_incref(json_array_get(ctl->qmp->events, 0));

    json_array_remove(ctl->qmp->events, 0);
    return event;
}

void ctl_drop_events(struct ctl *ctl)
{
    json_array_clear(ctl->qmp->events);
}

bool ctl_has_events(const struct ctl *ctl)
{
    return json_array_size(ctl->qmp->events) > 0;
}

bool ctl_is_closed(const struct ctl *ctl)
{
    return ctl->qmp->closed;
}

bool ctl_is_remote(const struct ctl *ctl)
{
    return ctl->qmp->remote;
}

/* ---- commands ---- */

static weir_co_fn int send_all(struct ctl_qmp *qmp, const char *text)
{
    size_t length = strlen(text), done = 0;

    while (done < length) {
        struct iovec iov = { (char *)(uintptr_t)text + done, length - done };
        struct weir_sys_io io = {
            .op = WEIR_SYS_SEND, .fd = qmp->fd, .flags = MSG_NOSIGNAL, .iov = &iov, .iovcnt = 1
        };
        int ret = weir_co_io(&io);

        if (ret < 0 && ret != -EINTR && ret != -EAGAIN)
            return ret;
        done += ret > 0 ? (size_t)ret : 0;
    }
    return 0;
}

static int read_error(const json_t *error, struct weir_error **err)
{
    enum weir_error_class error_class = WEIR_ERROR_GENERIC;

    if (!strcmp(ctl_member_text(error, "class"), "CommandNotFound"))
        error_class = WEIR_ERROR_COMMAND_NOT_FOUND;
    return weir_error_set_class(err, error_class, -EIO, "%s", ctl_member_text(error, "desc"));
}

weir_co_fn int ctl_call(struct ctl *ctl, const char *command, json_t *arguments, json_t **ret_value,
                        struct weir_error **err)
{
    struct ctl_qmp *qmp = ctl->qmp;
    json_t *request = json_pack("{s:s, s:I}", "execute", command, "id", ++qmp->last_id);
    weir_autofree char *text = NULL;
    json_t *answer, *error;
    int ret = 0;

    if (arguments)
        json_object_set_new(request, "arguments", arguments);
    text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!text)
        return weir_error_set(err, -EILSEQ, "%s: an argument is no UTF-8 text", command);
    if (!qmp->closed)
        ret = send_all(qmp, text);
    while (!ret && !qmp->answer && !qmp->closed)
        wait_change(ctl, -1);
    answer = weir_steal(&qmp->answer);
    if (!answer)
        return weir_error_set(err, -EPIPE, "%s: the daemon closed the connection", qmp->address);
    error = json_object_get(answer, "error");
    if (error)
        ret = read_error(error, err);
    else if (ret_value)
        *ret_value = json_incref(json_object_get(answer, "return"));
    json_decref(answer);
    return ret;
}

/* ---- connecting ---- */

/* Owned by the worker once the limit is past. */
struct dial {
    char *host, *port; /* NULL: a path */
    struct weir_sys_address addresses[ADDRESSES_MAX];
    unsigned count;
    bool resolved;
};

static void dial_free(void *arg)
{
    struct dial *dial = arg;

    free(dial->host);
    free(dial->port);
    free(dial);
}

/* On a worker. */
static int run_dial(void *arg)
{
    struct dial *dial = arg;
    int ret = -ENOENT;

    if (dial->host) {
        ret = weir_sys->net.resolve(dial->host, dial->port, AF_UNSPEC, false, dial->addresses, ADDRESSES_MAX);
        if (ret < 0)
            return ret;
        dial->count = (unsigned)ret;
    }
    dial->resolved = true;
    for (unsigned i = 0; i < dial->count; i++) {
        ret = weir_sys->net.connect((const void *)&dial->addresses[i].address, dial->addresses[i].length);
        if (ret >= 0)
            return ret;
    }
    return ret;
}

/*
 * HOST:PORT, [HOST]:PORT, or else a path: what has a slash, or no colon. NULL and an error for what cannot be any.
 */
static struct dial *parse_address(const char *text, struct weir_error **err)
{
    struct sockaddr_un path = { .sun_family = AF_UNIX };
    const char *colon = strchr(text, '/') ? NULL : strrchr(text, ':');
    bool bracketed = colon && *text == '[' && colon[-1] == ']';
    struct dial *dial;

    if (colon && (colon == text || !colon[1] || (!bracketed && memchr(text, ':', (size_t)(colon - text))))) {
        (void)weir_error_set(err, -EINVAL,
                             "'%s' is no address of a monitor: the path of a socket or HOST:PORT is wanted",
                             text);
        return NULL;
    }
    if (!colon && strlen(text) >= sizeof(path.sun_path)) {
        (void)weir_error_set(err, -ENAMETOOLONG, "%s: the path of a socket has at most %zu bytes", text,
                             sizeof(path.sun_path) - 1);
        return NULL;
    }
    dial = weir_new(struct dial);
    if (colon) {
        dial->host = weir_strdup(text + bracketed);
        dial->host[colon - text - 2 * bracketed] = '\0';
        dial->port = weir_strdup(colon + 1);
        return dial;
    }
    memcpy(path.sun_path, text, strlen(text));
    memcpy(&dial->addresses[0].address, &path, sizeof(path));
    dial->addresses[0].length = sizeof(path);
    dial->count = 1;
    return dial;
}

static int explain(const char *address, const struct dial *dial, int ret, struct weir_error **err)
{
    if (dial->host && !dial->resolved)
        return weir_error_set(
            err, ret, ret == -EINVAL ? "%s: there is no such port" : "%s: there is no such host", address);
    if (ret == -ENOENT)
        ret = weir_error_set(err, ret, "%s: there is no such socket", address);
    else if (ret == -ECONNREFUSED)
        ret = weir_error_set(err, ret, "%s: nobody listens there", address);
    else
        return weir_error_set_errno(err, ret, "%s", address);
    weir_error_hint(err,
                    "Is the daemon running, and was it started with a monitor? 'weir ctl --help' shows how.");
    return ret;
}

static weir_co_fn int dial(const char *address, bool *ret_remote, struct weir_error **err)
{
    struct dial *dial = parse_address(address, err);
    int ret;

    if (!dial)
        return -EINVAL;
    *ret_remote = dial->host;
    ret = weir_co_work_until(run_dial, dial_free, dial, weir_sys->clock_ns() + HELLO_LIMIT_NS);
    if (ret == -ETIMEDOUT)
        return weir_error_set(err, ret, "%s: nobody has taken the connection within %d s", address,
                              (int)(HELLO_LIMIT_NS / 1000000000));
    if (ret < 0)
        ret = explain(address, dial, ret, err);
    dial_free(dial);
    return ret;
}

static weir_co_fn int await_greeting(struct ctl_qmp *qmp, struct weir_error **err)
{
    int64_t deadline = weir_sys->clock_ns() + HELLO_LIMIT_NS;
    int ret;

    while (!qmp->greeting && !qmp->closed && weir_sys->clock_ns() < deadline)
        wait_change(qmp->ctl, deadline);
    if (qmp->greeting && json_object_get(qmp->greeting, "QMP"))
        return 0;
    if (qmp->greeting || qmp->garbled)
        return weir_error_set(err, -EPROTO, "%s: what answers there does not speak QMP", qmp->address);
    if (qmp->closed)
        return weir_error_set(err, -EPIPE, "%s: the connection was closed without a greeting", qmp->address);
    ret = weir_error_set(err, -ETIMEDOUT, "%s: no greeting within %d s", qmp->address,
                         (int)(HELLO_LIMIT_NS / 1000000000));
    weir_error_hint(
        err, "A monitor serves one client at a time: another one may be connected, or this is no monitor.");
    return ret;
}

weir_co_fn int ctl_connect(struct ctl *ctl, struct weir_error **err)
{
    const char *address = ctl->address ? ctl->address : weir_sys->process.getenv(ENVIRONMENT);
    struct ctl_qmp *qmp;
    bool remote = false;
    int ret;

    if (!address || !*address) {
        ret = weir_error_set(err, -EINVAL, "no monitor was named: say '-s ADDR', or set " ENVIRONMENT);
        weir_error_hint(err, "'%s --help' shows how to start a daemon with a monitor.", ctl->program);
        return ret;
    }
    ret = dial(address, &remote, err);
    if (ret < 0)
        return ret;
    qmp = weir_new(struct ctl_qmp);
    *qmp = (struct ctl_qmp){ .ctl = ctl, .address = address, .fd = ret, .remote = remote, .receiving = true };
    qmp->events = json_array();
    ctl->qmp = qmp;
    weir_co_start(weir_loop_control(), receiver, qmp);
    ret = await_greeting(qmp, err);
    return ret ? ret : ctl_call(ctl, "qmp_capabilities", NULL, NULL, err);
}

weir_co_fn void ctl_disconnect(struct ctl *ctl)
{
    struct ctl_qmp *qmp = ctl->qmp;

    if (!qmp)
        return;
    (void)weir_sys->net.shutdown(qmp->fd); /* a daemon that is gone already is as good */
    while (qmp->receiving)
        wait_change(ctl, -1);
    weir_sys->net.close(qmp->fd);
    json_decref(qmp->greeting);
    json_decref(qmp->answer);
    json_decref(qmp->events);
    free(qmp);
    ctl->qmp = NULL;
}

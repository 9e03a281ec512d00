/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor: input -> queue -> execution -> output.
 *
 * Everything runs on the control loop, so the state needs no lock; coroutines look at it again after each yield.
 * There are at most two: the transport's, which feeds and waits while the queue is full, and the executor, which
 * exists while requests do. A conversation is told from the next one by `conversation`: a command that outlives its
 * client finds another number there and throws its reply away.
 *
 * Output is one buffer, taken from the front. Replies are bounded by not executing more requests above the high
 * mark; events cannot be held back, so a client that lets them pile up to the limit is dropped.
 */
#include "qmp/monitor.h"
#include "base/alloc.h"
#include "co/co.h"
#include "qmp/introspect.h"
#include "qmp/json_stream.h"
#include "qmp/monitors.h"
#include <errno.h>
#include <string.h>

/* A request, or what was wrong with the text of one. */
struct entry {
    json_t *value;
    struct weir_error *error;
};

struct weir_monitor {
    LIST_ENTRY(weir_monitor) link;
    struct weir_monitors *monitors;
    char *id;
    bool pretty;
    const struct weir_monitor_transport *transport;
    void *arg;

    bool connected;
    uint64_t conversation; /* counts connections */
    struct weir_qmp_session session;
    struct weir_json_stream *stream;

    struct entry queue[WEIR_MONITOR_QUEUE_MAX];
    unsigned head, count;
    bool executing; /* the executor lives */

    char *output;
    size_t output_start, output_end, output_capacity;

    struct weir_mutex lock; /* for `changed` only */
    struct weir_co_queue changed;
};

struct weir_monitor *weir_monitor_next(const struct weir_monitor *monitor)
{
    return LIST_NEXT(monitor, link);
}

/* Whoever waits looks again. */
static void notify(struct weir_monitor *monitor)
{
    WEIR_SCOPE_LOCK(&monitor->lock);
    weir_co_queue_wake_all(&monitor->changed);
}

static int wait_change(struct weir_monitor *monitor, int64_t deadline_ns) weir_co_fn;
static int wait_change(struct weir_monitor *monitor, int64_t deadline_ns)
{
    int ret;

    weir_mutex_lock(&monitor->lock);
    ret = weir_co_queue_wait_until(&monitor->changed, &monitor->lock, deadline_ns);
    weir_mutex_unlock(&monitor->lock);
    return ret;
}

/* ---- output ---- */

static size_t output_length(const struct weir_monitor *monitor)
{
    return monitor->output_end - monitor->output_start;
}

static void append(struct weir_monitor *monitor, const char *text, size_t length)
{
    if (monitor->output_start && monitor->output_capacity - monitor->output_end < length) {
        memmove(monitor->output, monitor->output + monitor->output_start, output_length(monitor));
        monitor->output_end -= monitor->output_start;
        monitor->output_start = 0;
    }
    if (monitor->output_capacity - monitor->output_end < length) {
        monitor->output_capacity = (monitor->output_end + length) * 2;
        monitor->output = weir_realloc(monitor->output, monitor->output_capacity);
    }
    memcpy(monitor->output + monitor->output_end, text, length);
    monitor->output_end += length;
}

/* Takes @message over. */
static void send(struct weir_monitor *monitor, json_t *message)
{
    size_t flags = JSON_ENSURE_ASCII | (monitor->pretty ? JSON_INDENT(4) : 0);
    char *text = json_dumps(message, flags);
    bool was_empty = !output_length(monitor);

    /* Every value was valid UTF-8 when it was made, so that it can be printed. */
    WEIR_ASSERT(text);
    append(monitor, text, strlen(text));
    append(monitor, "\r\n", 2);
    free(text);
    json_decref(message);
    if (was_empty)
        monitor->transport->output(monitor->arg);
}

static void output_free(struct weir_monitor *monitor)
{
    free(monitor->output);
    monitor->output = NULL;
    monitor->output_start = monitor->output_end = monitor->output_capacity = 0;
}

size_t weir_monitor_output(struct weir_monitor *monitor, const char **ret_data)
{
    *ret_data = monitor->output + monitor->output_start;
    return output_length(monitor);
}

void weir_monitor_output_taken(struct weir_monitor *monitor, size_t length)
{
    WEIR_ASSERT(length <= output_length(monitor));
    monitor->output_start += length;
    if (!output_length(monitor))
        output_free(monitor);
    notify(monitor);
}

/* ---- execution ---- */

static bool may_execute(const struct weir_monitor *monitor)
{
    return output_length(monitor) < WEIR_MONITOR_OUTPUT_HIGH;
}

static void execute_one(struct weir_monitor *monitor) weir_co_fn;
static void execute_one(struct weir_monitor *monitor)
{
    struct weir_qmp_context ctx = { monitor->monitors, monitor->monitors->opaque };
    struct entry entry = monitor->queue[monitor->head];
    struct weir_qmp_session session = monitor->session;
    uint64_t conversation = monitor->conversation;
    json_t *reply;

    monitor->head = (monitor->head + 1) % WEIR_MONITOR_QUEUE_MAX;
    monitor->count--;
    notify(monitor);
    if (entry.error)
        reply = weir_qmp_error_reply(NULL, entry.error);
    else
        reply = weir_qmp_dispatch(monitor->monitors->commands, &ctx, &session, entry.value);
    json_decref(entry.value);
    weir_error_free(entry.error);
    if (!monitor->connected || monitor->conversation != conversation) {
        json_decref(reply);
        return;
    }
    monitor->session = session;
    send(monitor, reply);
}

static void executor(void *arg) weir_co_fn;
static void executor(void *arg)
{
    struct weir_monitor *monitor = arg;

    while (monitor->count) {
        if (may_execute(monitor))
            execute_one(monitor);
        else
            (void)wait_change(monitor, -1);
    }
    monitor->executing = false;
    notify(monitor);
}

/* ---- input ---- */

/* Waits for room; false when the conversation is over. */
static bool wait_room(struct weir_monitor *monitor, uint64_t conversation) weir_co_fn;
static bool wait_room(struct weir_monitor *monitor, uint64_t conversation)
{
    while (monitor->connected && monitor->conversation == conversation &&
           monitor->count == WEIR_MONITOR_QUEUE_MAX)
        (void)wait_change(monitor, -1);
    return monitor->connected && monitor->conversation == conversation;
}

static void enqueue(struct weir_monitor *monitor, struct entry entry)
{
    monitor->queue[(monitor->head + monitor->count++) % WEIR_MONITOR_QUEUE_MAX] = entry;
    if (!monitor->executing) {
        monitor->executing = true;
        weir_co_start(weir_loop_control(), executor, monitor);
    }
}

void weir_monitor_feed(struct weir_monitor *monitor, const char *data, size_t length)
{
    uint64_t conversation = monitor->conversation;

    weir_co_assert();
    while (wait_room(monitor, conversation)) {
        struct entry entry = { NULL, NULL };

        if (weir_json_stream_next(monitor->stream, &data, &length, &entry.value, &entry.error) ==
            WEIR_JSON_MORE)
            return;
        enqueue(monitor, entry);
    }
}

/* ---- conversations ---- */

static void greet(struct weir_monitor *monitor)
{
    json_t *capabilities = json_pack("[s]", "oob");

    send(monitor, json_pack("{s:{s:o,s:o}}", "QMP", "version", weir_qmp_version(monitor->monitors->package),
                            "capabilities", capabilities));
}

void weir_monitor_connect(struct weir_monitor *monitor)
{
    WEIR_ASSERT(!monitor->connected);
    monitor->connected = true;
    monitor->conversation++;
    monitor->session = (struct weir_qmp_session){ 0 };
    monitor->stream = weir_json_stream_new();
    greet(monitor);
}

static void forget_queue(struct weir_monitor *monitor)
{
    while (monitor->count) {
        struct entry entry = monitor->queue[monitor->head];

        monitor->head = (monitor->head + 1) % WEIR_MONITOR_QUEUE_MAX;
        monitor->count--;
        json_decref(entry.value);
        weir_error_free(entry.error);
    }
}

void weir_monitor_disconnect(struct weir_monitor *monitor)
{
    if (!monitor->connected)
        return;
    monitor->connected = false;
    forget_queue(monitor);
    output_free(monitor);
    weir_json_stream_free(weir_steal(&monitor->stream));
    notify(monitor);
}

static void drop(struct weir_monitor *monitor)
{
    weir_autofree char *line =
        weir_strdup_printf("monitor %s: client dropped: it does not read, %zu bytes wait for it", monitor->id,
                           output_length(monitor));

    if (monitor->monitors->log)
        monitor->monitors->log(monitor->monitors->opaque, line);
    weir_monitor_disconnect(monitor);
    monitor->transport->drop(monitor->arg);
}

void weir_monitor_send_event(struct weir_monitor *monitor, json_t *event)
{
    if (!monitor->connected || !monitor->session.negotiated)
        return;
    if (output_length(monitor) >= WEIR_MONITOR_OUTPUT_MAX)
        drop(monitor);
    else
        send(monitor, json_incref(event));
}

static bool is_idle(const struct weir_monitor *monitor)
{
    return !monitor->connected || (!monitor->count && !monitor->executing && !output_length(monitor));
}

int weir_monitor_wait_idle(struct weir_monitor *monitor, int64_t deadline_ns)
{
    while (!is_idle(monitor)) {
        int ret = wait_change(monitor, deadline_ns);

        if (ret < 0)
            return ret;
    }
    return 0;
}

struct weir_monitor *weir_monitor_new(struct weir_monitors *monitors, const char *id, bool pretty,
                                      const struct weir_monitor_transport *transport, void *arg)
{
    struct weir_monitor *monitor = weir_new(struct weir_monitor);

    monitor->monitors = monitors;
    monitor->id = weir_strdup(id);
    monitor->pretty = pretty;
    monitor->transport = transport;
    monitor->arg = arg;
    weir_mutex_init(&monitor->lock);
    weir_co_queue_init(&monitor->changed);
    LIST_INSERT_HEAD(&monitors->list, monitor, link);
    return monitor;
}

void weir_monitor_free(struct weir_monitor *monitor)
{
    weir_monitor_disconnect(monitor);
    while (monitor->executing)
        (void)wait_change(monitor, -1);
    LIST_REMOVE(monitor, link);
    weir_mutex_done(&monitor->lock);
    free(monitor->id);
    free(monitor);
}

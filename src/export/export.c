/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The registry of exports and their life: add, end, events.
 *
 * An export stands in the list from the moment its id is taken until it is gone, so that two commands that wait at the
 * same time cannot take the same id; `ready` says that it may be seen. Its end: no new clients, the old ones
 * sent away, wait until they are gone, detach from the node. Whoever does not leave within the limit (a request is
 * stuck below) is left behind: it holds references to the export and to the edge, which then shows as limbo.
 *
 * All on the control loop; the mutex exists only because co-queues want one.
 */
#include "export/export.h"

#include "base/alloc.h"
#include "co/co.h"
#include "co/iothread.h"
#include "export/export_type.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "sys/sys.h"
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PREFERRED_SIZE 4096u
#define PREFERRED_SIZE_MAX (32u << 20)
#define LOG_LINE_MAX 512

static const struct weir_export_type *const types[] = { &weir_export_nbd };

static TAILQ_HEAD(, weir_export) exports = TAILQ_HEAD_INITIALIZER(exports);
static struct {
    bool init;
    struct weir_mutex mutex;
    struct weir_co_queue queue; /* clients have left, exports are gone */
} waiting;
static void (*on_deleted)(const char *id);
typedef void log_line_fn(const char *text);
static log_line_fn *_Atomic on_log;

static void assert_control(void)
{
    WEIR_ASSERT(weir_loop_self() == weir_loop_control());
}

/* ---- waiting ---- */

static void wait_init(void)
{
    if (waiting.init)
        return;
    weir_mutex_init(&waiting.mutex);
    weir_co_queue_init(&waiting.queue);
    waiting.init = true;
}

static void wake_all(void)
{
    wait_init();
    weir_mutex_lock(&waiting.mutex);
    weir_co_queue_wake_all(&waiting.queue);
    weir_mutex_unlock(&waiting.mutex);
}

/* Waits for the next wake_all(); false past the deadline. */
static weir_co_fn bool wait_next(int64_t deadline_ns)
{
    int ret;

    wait_init();
    weir_mutex_lock(&waiting.mutex);
    ret = weir_co_queue_wait_until(&waiting.queue, &waiting.mutex, deadline_ns);
    weir_mutex_unlock(&waiting.mutex);
    return ret == 0;
}

/* ---- the root edge ---- */

static char *describe(struct weir_edge *edge)
{
    return weir_strdup_printf("block export '%s'", ((struct weir_export *)edge->root)->id);
}

/* What clients that come from now on are told. */
static void refresh(struct weir_edge *edge)
{
    struct weir_export *at = edge->root;
    uint64_t preferred = WEIR_MIN(edge->node->limits.transfer_opt, (uint64_t)PREFERRED_SIZE_MAX);
    char *file, *old;

    if (!weir_is_power_of_2(preferred) || preferred < PREFERRED_SIZE)
        preferred = PREFERRED_SIZE;
    atomic_store_explicit(&at->preferred_size, (uint32_t)preferred, memory_order_relaxed);
    atomic_store_explicit(&at->size, weir_node_size(edge->node), memory_order_relaxed);
    file = weir_strdup(weir_node_file_name(edge->node));
    weir_mutex_lock(&at->file_mutex);
    old = at->file;
    at->file = file;
    weir_mutex_unlock(&at->file_mutex);
    free(old);
}

const char *weir_export_file(struct weir_export *at, char *text, size_t size)
{
    weir_mutex_lock(&at->file_mutex);
    snprintf(text, size, "%s", at->file ? at->file : "");
    weir_mutex_unlock(&at->file_mutex);
    return text;
}

static const struct weir_root_ops root_ops = {
    .kind = "block-export",
    .describe = describe,
    .replaced = refresh,
    .resized = refresh,
};

static int attach(struct weir_export *at, const char *node_name, struct weir_error **err) weir_co_fn;
static int attach(struct weir_export *at, const char *node_name, struct weir_error **err)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | (at->writable ? WEIR_PERM_WRITE : 0);
    unsigned shared = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED;
    struct weir_node *node = weir_node_lookup(NULL, node_name, err);
    int ret;

    if (!node)
        return -ENOENT;
    if (at->writable && node->read_only && !node->auto_read_only)
        return weir_error_set(err, -EPERM, "Cannot export read-only node as writable");
    (void)weir_node_ref(node);
    ret = weir_root_attach(node, "root", perm, shared, &root_ops, at, &at->edge, err);
    if (ret == 0)
        refresh(at->edge);
    weir_node_unref(node);
    return ret;
}

/* ---- life ---- */

static void unref(struct weir_export *at)
{
    if (--at->refs > 0)
        return;
    weir_iothread_unref(at->iothread);
    weir_mutex_done(&at->file_mutex);
    free(at->file);
    free(at->id);
    free(at);
}

/* Letter first, then letters, digits, '-', '.', '_'. */
static bool is_valid_id(const char *id)
{
    if (!isalpha((unsigned char)*id))
        return false;
    while (*++id) {
        if (!isalnum((unsigned char)*id) && !strchr("-._", *id))
            return false;
    }
    return true;
}

static const struct weir_export_type *find_type(const char *name)
{
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(types); i++) {
        if (!strcmp(types[i]->name, name))
            return types[i];
    }
    return NULL;
}

static int take_iothread(struct weir_export *at, const char *name, struct weir_error **err)
{
    struct weir_iothread *iothread;

    if (!name)
        return weir_iothread_default(&at->iothread, err);
    iothread = weir_iothread_find(name);
    if (!iothread)
        return weir_error_set(err, -ENOENT, "iothread \"%s\" not found", name);
    at->iothread = weir_iothread_ref(iothread);
    return 0;
}

static int check_options(const struct weir_export_options *options, struct weir_error **err)
{
    struct weir_export *at;

    if (!is_valid_id(options->id))
        return weir_error_set(err, -EINVAL, "Invalid block export id");
    TAILQ_FOREACH (at, &exports, link) {
        if (!strcmp(at->id, options->id))
            return weir_error_set(err, -EEXIST, "Block export id '%s' is already in use", options->id);
    }
    if (!find_type(options->type))
        return weir_error_set(err, -EINVAL, "Parameter 'type' does not accept value '%s'", options->type);
    return weir_node_lookup(NULL, options->node_name, err) ? 0 : -ENOENT;
}

int weir_export_add(const struct weir_export_options *options, struct weir_error **err)
{
    struct weir_export *at;
    int ret;

    assert_control();
    ret = check_options(options, err);
    if (ret < 0)
        return ret;
    weir_iothread_set_at_end(weir_buffer_trim);
    at = weir_new(struct weir_export);
    at->type = find_type(options->type);
    at->id = weir_strdup(options->id);
    at->writable = options->writable;
    at->writethrough = options->writethrough;
    at->refs = 1;
    weir_mutex_init(&at->file_mutex);
    TAILQ_INSERT_TAIL(&exports, at, link);
    ret = take_iothread(at, options->iothread, err);
    if (ret == 0)
        ret = at->type->open(at, options, err);
    if (ret == 0) {
        ret = attach(at, options->node_name, err);
        if (ret < 0)
            at->type->close(at);
    }
    if (ret < 0) {
        TAILQ_REMOVE(&exports, at, link);
        unref(at);
        return ret;
    }
    at->ready = true;
    at->type->start(at);
    return 0;
}

/* From `shutting_down` to the end. */
static weir_co_fn void finish(struct weir_export *at, int64_t deadline_ns)
{
    while (at->clients && wait_next(deadline_ns))
        continue;
    if (at->clients)
        weir_export_log("export '%s': %u clients have requests that do not end; they are left behind", at->id,
                        at->clients);
    weir_root_detach(at->edge, at->clients ? 0 : WEIR_MAX(deadline_ns - weir_sys->clock_ns(), (int64_t)0));
    at->edge = NULL;
    at->type->close(at);
    TAILQ_REMOVE(&exports, at, link);
    if (on_deleted)
        on_deleted(at->id);
    unref(at);
    wake_all();
}

static weir_co_fn void finish_in_background(void *arg)
{
    finish(arg, weir_sys->clock_ns() + WEIR_EXPORT_LIMIT_NS);
}

/*
 * Clients usually go at once, and then what follows (blockdev-del of the node, say) finds the node free: worth a
 * short wait. Whoever has requests that hang does not hold the monitor for longer.
 */
static weir_co_fn void finish_with_patience(struct weir_export *at)
{
    int64_t deadline_ns = weir_sys->clock_ns() + WEIR_EXPORT_PATIENCE_NS;

    at->refs++;
    weir_co_start(weir_loop_control(), finish_in_background, at);
    while (weir_export_find(at->id) == at && wait_next(deadline_ns))
        continue;
    unref(at);
}

static void begin_end(struct weir_export *at)
{
    at->shutting_down = true;
    at->type->drop(at);
}

int weir_export_del(const char *id, enum weir_export_mode mode, struct weir_error **err)
{
    struct weir_export *at = weir_export_find(id);

    if (!at)
        return weir_error_set(err, -ENOENT, "Export '%s' is not found", id);
    if (at->shutting_down)
        return weir_error_set(err, -EBUSY, "Export '%s' is already shutting down", id);
    if (mode == WEIR_EXPORT_SAFE && at->clients) {
        (void)weir_error_set(err, -EBUSY, "export '%s' still in use", id);
        weir_error_hint(err, "Use mode='hard' to force client disconnect");
        return -EBUSY;
    }
    begin_end(at);
    if (at->clients)
        finish_with_patience(at);
    else
        finish(at, weir_sys->clock_ns() + WEIR_EXPORT_LIMIT_NS);
    return 0;
}

static bool concerns(const struct weir_export *at, const char *type)
{
    return at->ready && (!type || !strcmp(at->type->name, type));
}

struct closing {
    struct weir_export *at;
    int64_t deadline_ns;
};

static weir_co_fn void finish_one(void *arg)
{
    struct closing closing = *(struct closing *)arg;

    free(arg);
    finish(closing.at, closing.deadline_ns);
}

static bool any_left(const char *type)
{
    struct weir_export *at;

    TAILQ_FOREACH (at, &exports, link) {
        if (concerns(at, type))
            return true;
    }
    return false;
}

void weir_export_close_all(const char *type, int64_t limit_ns)
{
    int64_t deadline = weir_sys->clock_ns() + limit_ns;
    struct weir_export *at;

    assert_control();
    TAILQ_FOREACH (at, &exports, link) {
        struct closing *closing;

        if (!concerns(at, type) || at->shutting_down)
            continue;
        begin_end(at);
        closing = weir_new(struct closing);
        *closing = (struct closing){ at, deadline };
        weir_co_start(weir_loop_control(), finish_one, closing);
    }
    /* Each has its own deadline, and so has one whose end began earlier. */
    while (any_left(type))
        (void)wait_next(-1);
}

/* ---- clients ---- */

void weir_export_client_enter(struct weir_export *at)
{
    assert_control();
    WEIR_ASSERT(at->ready && !at->shutting_down);
    at->clients++;
    at->refs++;
}

void weir_export_client_leave(struct weir_export *at)
{
    assert_control();
    at->clients--;
    unref(at);
    wake_all();
}

/* ---- questions ---- */

struct weir_export *weir_export_find(const char *id)
{
    struct weir_export *at;

    assert_control();
    TAILQ_FOREACH (at, &exports, link) {
        if (at->ready && !strcmp(at->id, id))
            return at;
    }
    return NULL;
}

struct weir_export *weir_export_next(struct weir_export *at)
{
    assert_control();
    do
        at = at ? TAILQ_NEXT(at, link) : TAILQ_FIRST(&exports);
    while (at && (!at->ready || !at->edge));
    return at;
}

const char *weir_export_id(const struct weir_export *at)
{
    return at->id;
}

const char *weir_export_type_name(const struct weir_export *at)
{
    return at->type->name;
}

const char *weir_export_node_name(const struct weir_export *at)
{
    return at->edge->node->name;
}

bool weir_export_shutting_down(const struct weir_export *at)
{
    return at->shutting_down;
}

unsigned weir_export_clients(const struct weir_export *at)
{
    return at->clients;
}

struct weir_edge *weir_export_edge(const struct weir_export *at)
{
    return at->edge;
}

/* ---- telling ---- */

void weir_export_on_deleted(void (*deleted)(const char *id))
{
    on_deleted = deleted;
}

void weir_export_on_log(void (*line)(const char *text))
{
    atomic_store(&on_log, line);
}

void weir_export_log(const char *format, ...)
{
    log_line_fn *log = atomic_load(&on_log);
    char line[LOG_LINE_MAX];
    va_list args;

    if (!log)
        return;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args); /* a line that is too long is cut */
    va_end(args);
    log(line);
}

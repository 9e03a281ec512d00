/* SPDX-License-Identifier: BSD-2-Clause */
#include "graph_fake.h"

#include <stdio.h>

static char log_text[8192], log_taken[8192];
static unsigned open_nodes, held;
static struct weir_mutex hold_mutex;
static struct weir_co_queue hold_queue;

void fake_log_add(const char *what, const char *name)
{
    size_t length = strlen(log_text);

    snprintf(log_text + length, sizeof(log_text) - length, "%s%s %s", length ? ", " : "", what, name);
}

const char *fake_log(void)
{
    memcpy(log_taken, log_text, sizeof(log_taken));
    log_text[0] = '\0';
    return log_taken;
}

void expect_log(const char *text)
{
    const char *got = fake_log();

    bool same = !strcmp(got, text);

    if (!same)
        fprintf(stderr, "the log says:  %s\nexpected:      %s\n", got, text ? text : "");
    WEIR_ASSERT(same);
}

unsigned fake_open_nodes(void)
{
    return open_nodes;
}

unsigned fake_held(void)
{
    return held;
}

void fake_release(void)
{
    WEIR_SCOPE_LOCK(&hold_mutex);

    weir_co_queue_wake_all(&hold_queue);
}

/* ---- drivers ---- */

static bool option(struct weir_node *node, const char *name)
{
    return json_is_true(json_object_get(node->options, name));
}

static int opened(struct weir_node *node)
{
    open_nodes++;
    fake_log_add("open", node->name);
    return 0;
}

static void fake_close(struct weir_node *node)
{
    open_nodes--;
    fake_log_add("close", node->name);
}

static weir_co_fn int leaf_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    json_t *size = json_object_get(node->options, "size");

    WEIR_ASSERT(!options);
    if (option(node, "hold-open")) {
        weir_mutex_lock(&hold_mutex);
        held++;
        weir_co_queue_wait(&hold_queue, &hold_mutex);
        held--;
        weir_mutex_unlock(&hold_mutex);
    }
    if (option(node, "fail-open"))
        return weir_error_set(err, -EIO, "Could not open '%s'", node->name);
    fake_of(node)->fail_prepare = option(node, "fail-prepare");
    fake_of(node)->shared = ALL;
    if (node->auto_read_only && !node->read_only_asked)
        node->read_only = true;
    weir_node_set_size(node, size ? (uint64_t)json_integer_value(size) : 1 << 20);
    return opened(node);
}

static weir_co_fn int open_file(struct weir_node *node, unsigned role, struct weir_error **err)
{
    struct weir_edge *file;
    int ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file", role, &file, err);

    if (!ret)
        weir_node_set_size(node, weir_node_size(file->node));
    return ret;
}

static weir_co_fn int filter_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    int ret = open_file(node, WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, err);

    return ret ? ret : opened(node);
}

static weir_co_fn int shift_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    int ret = open_file(node, WEIR_ROLE_DATA | WEIR_ROLE_PRIMARY, err);

    return ret ? ret : opened(node);
}

static weir_co_fn int format_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    json_t *backing = json_object_get(node->options, "backing");
    json_t *data = json_object_get(node->options, "data-file");
    int ret = open_file(node, (data ? 0 : WEIR_ROLE_DATA) | WEIR_ROLE_METADATA | WEIR_ROLE_PRIMARY, err);

    if (!ret && data)
        ret = weir_node_open_child(node, data, "data-file", WEIR_ROLE_DATA, NULL, err);
    if (!ret && backing)
        ret = weir_node_open_child(node, backing, "backing", WEIR_ROLE_COW, NULL, err);
    return ret ? ret : opened(node);
}

static int inner_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    return opened(node);
}

static int leaf_prepare(struct weir_node *node, unsigned perm, unsigned shared, struct weir_error **err)
{
    struct fake *fake = fake_of(node);

    if (fake->fail_prepare)
        return weir_error_set(err, -EAGAIN, "Failed to get \"write\" lock");
    fake->prepares++;
    fake->next_perm = perm;
    fake->next_shared = shared;
    return 0;
}

static void leaf_commit(struct weir_node *node)
{
    struct fake *fake = fake_of(node);

    fake->commits++;
    fake->perm = fake->next_perm;
    fake->shared = fake->next_shared;
    if (node->auto_read_only && !node->read_only_asked)
        node->read_only = !(fake->perm & (W | U | Z));
}

static void leaf_abort(struct weir_node *node)
{
    fake_of(node)->aborts++;
}

static void leaf_limits(struct weir_node *node, struct weir_limits *limits)
{
    json_t *align = json_object_get(node->options, "align");
    json_t *max = json_object_get(node->options, "max");

    if (align)
        limits->request_align = json_integer_value(align);
    if (max)
        limits->transfer_max = json_integer_value(max);
    limits->write_flags = 1;
}

static int leaf_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    WEIR_ASSERT(node->drained);
    weir_node_set_size(node, size);
    return 0;
}

static int submit(struct weir_node *node, struct weir_request *request)
{
    return 0;
}

static void fake_drain_begin(struct weir_node *node)
{
    fake_log_add("drain", node->name);
}

static void fake_drain_end(struct weir_node *node)
{
    fake_log_add("resume", node->name);
}

static void format_commit(struct weir_node *node, const struct weir_extent *extent)
{
}

static unsigned filter_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE);
}

#define COMMON                                                                               \
    .state_size = sizeof(struct fake), .close = fake_close, .drain_begin = fake_drain_begin, \
    .drain_end = fake_drain_end

static const struct weir_driver fake_leaf = {
    .name = "leaf",
    .flags = WEIR_DRIVER_PROTOCOL,
    .open = leaf_open,
    .perm_prepare = leaf_prepare,
    .perm_commit = leaf_commit,
    .perm_abort = leaf_abort,
    .limits = leaf_limits,
    .resize = leaf_resize,
    .submit = submit,
    COMMON,
};
static const struct weir_driver fake_filter = {
    .name = "filter",
    .flags = WEIR_DRIVER_FILTER,
    .open = filter_open,
    .submit = submit,
    .cares = filter_cares,
    COMMON,
};
static const struct weir_driver fake_shift = {
    .name = "shift",
    .flags = WEIR_DRIVER_FORMAT,
    .open = shift_open,
    COMMON,
};
static const struct weir_driver fake_format = {
    .name = "format",
    .flags = WEIR_DRIVER_FORMAT,
    .open = format_open,
    .commit = format_commit,
    COMMON,
};
const struct weir_driver fake_inner = {
    .name = "inner",
    .flags = WEIR_DRIVER_FILTER | WEIR_DRIVER_INTERNAL,
    .open = inner_open,
    COMMON,
};

/* ---- the world ---- */

#define DONE_LIMIT_NS 5000000000LL

struct body {
    void (*run)(void *arg) weir_co_fn;
};

static weir_co_fn void graph_main(void *arg)
{
    struct body *body = arg;
    int64_t start;

    weir_graph_init(NULL);
    body->run(NULL);
    start = weir_sys->clock_ns();
    weir_graph_done(DONE_LIMIT_NS);
    WEIR_ASSERT(weir_sys->clock_ns() - start < DONE_LIMIT_NS); /* it did not give up */
    WEIR_ASSERT(!weir_graph_next(NULL) && !weir_graph_limbo_count());
    WEIR_ASSERT(!open_nodes);
}

void run_graph(void (*run)(void *arg) weir_co_fn)
{
    struct body body = { run };

    weir_driver_register(&fake_leaf);
    weir_driver_register(&fake_filter);
    weir_driver_register(&fake_shift);
    weir_driver_register(&fake_format);
    weir_driver_register(&fake_inner);
    log_text[0] = '\0';
    weir_mutex_init(&hold_mutex);
    weir_co_queue_init(&hold_queue);
    run_world(graph_main, &body);
    weir_mutex_done(&hold_mutex);
}

/* ---- helpers ---- */

json_t *fake_json(const char *text)
{
    weir_autofree char *copy = weir_strdup(text);
    json_t *json;

    for (char *c = copy; *c; c++) {
        if (*c == '\'')
            *c = '"';
    }
    json = json_loads(copy, JSON_DECODE_ANY, NULL);
    WEIR_ASSERT(json);
    return json;
}

int fake_add_error(const char *text, struct weir_error **err)
{
    json_t *json = fake_json(text);
    int ret = weir_node_add(json, true, NULL, err);

    json_decref(json);
    return ret;
}

struct weir_node *fake_add(const char *text)
{
    json_t *json = fake_json(text);
    struct weir_error *err = NULL;
    struct weir_node *node;
    int ret = weir_node_add(json, true, &node, &err);

    json_decref(json);
    if (ret)
        fprintf(stderr, "%s: %s\n", text, weir_error_text(err));
    WEIR_ASSERT(!ret);
    return node;
}

void fake_del(const char *name)
{
    WEIR_ASSERT(weir_node_del(name, NULL) == 0);
}

void expect_failure(int ret, int expected, struct weir_error **err, const char *text)
{
    const char *got = *err ? weir_error_text(*err) : "no error";

    if (ret != expected || strcmp(got, text))
        fprintf(stderr, "returned %d, %s\nexpected %d, %s\n", ret, got, expected, text);
    WEIR_ASSERT(ret == expected && !strcmp(got, text));
    weir_error_free(*err);
    *err = NULL;
}

struct fake *fake_of(struct weir_node *node)
{
    return weir_node_state(node);
}

struct weir_edge *fake_edge(struct weir_node *node, const char *name)
{
    struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (!strcmp(edge->name, name))
            return edge;
    }
    return NULL;
}

/* ---- root users; their own data is their name ---- */

static char *root_describe(struct weir_edge *edge)
{
    return weir_strdup_printf("block export '%s'", (const char *)edge->root);
}

static void root_drain_begin(struct weir_edge *edge)
{
    fake_log_add("stop", edge->root);
}

static void root_drain_end(struct weir_edge *edge)
{
    fake_log_add("go", edge->root);
}

static void root_replaced(struct weir_edge *edge)
{
    fake_log_add("replaced", edge->root);
}

static void root_resized(struct weir_edge *edge)
{
    fake_log_add("resized", edge->root);
}

static const struct weir_root_ops root_ops = {
    .kind = "block-export",
    .describe = root_describe,
    .drain_begin = root_drain_begin,
    .drain_end = root_drain_end,
    .replaced = root_replaced,
    .resized = root_resized,
};

int fake_root_error(struct weir_node *node, const char *name, unsigned perm, unsigned shared,
                    struct weir_error **err)
{
    struct weir_edge *edge;

    return weir_root_attach(node, "root", perm, shared, &root_ops, (void *)name, &edge, err);
}

struct weir_edge *fake_root(struct weir_node *node, const char *name, unsigned perm, unsigned shared)
{
    struct weir_edge *edge;

    WEIR_ASSERT(weir_root_attach(node, "root", perm, shared, &root_ops, (void *)name, &edge, NULL) == 0);
    return edge;
}

void fake_root_end(struct weir_edge *edge)
{
    weir_root_detach(edge, -1);
}

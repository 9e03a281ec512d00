/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The 1st, 2nd, 3rd ... request to the files of a chain of four images fails, once or from then on, while the chain is
 * changed: by a stream, a commit, a snapshot, a reopening; until the one that fails is not reached any more.
 *
 * Each image has a filter above it and is on a file of its own. Whatever fails, afterwards the graph is exactly that of
 * before, or, where the change succeeded, exactly that of after; the guest sees the same disk as before, and can write
 * to it; and so does who opens the images anew by the names that stand in them.
 */
#include "nth_io.h"

#include "base/alloc.h"
#include "co/co.h"
#include "format/qcow2/codec.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "io/io.h"
#include "job/job.h"
#include "job/loop.h"
#include "qmp/action.h"
#include "qmp/dispatch.h"
#include "sys/sim/heap.h"
#include "sys/sim/sim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLUSTER 4096u
#define CLUSTERS 24u
#define SIZE (CLUSTERS * CLUSTER)
#define LAYERS 4u
#define REQUESTS_MAX 2000u
#define STEPS_MAX 5000000u
#define ALL_BUT_STATUS ((1u << WEIR_OP_COUNT) - 1 - WEIR_OP_BIT(WEIR_OP_STATUS))

struct change {
    const char *name;
    const char *prepare; /* a command before anything fails; NULL: none */
    const char *command;
    bool ready; /* the job is completed when it is ready */
    bool is_job;
};

/* Nodes of layer i: file i.N, nth.N, image.N, filter.N; `over` is an image without a backing file. */
#define FILE_OF(n, more) "{'driver': 'file', 'node-name': 'file." n "', 'filename': 'image." n "'" more "}"
#define NTH_OF(n, more) "{'driver': 'nth-io', 'node-name': 'nth." n "', 'file': 'file." n "'" more "}"
#define IMAGE_OF(n, backing, more) \
    "{'driver': 'qcow2', 'node-name': 'image." n "', 'file': 'nth." n "', 'backing': " backing more "}"

static const struct change changes[] = {
    { "a stream of the whole chain", NULL,
      "{'execute': 'block-stream', 'arguments': {'job-id': 'j', 'device': 'filter.3'}}", .is_job = true },
    { "a stream down to a base", NULL,
      "{'execute': 'block-stream', 'arguments': {'job-id': 'j', 'device': 'filter.3', 'base-node': "
      "'filter.1'}}",
      .is_job = true },
    { "a stream in the middle",
      "{'execute': 'blockdev-reopen', 'arguments': {'options': [" FILE_OF("2", "") ", " NTH_OF(
          "2", "") ", " IMAGE_OF("2", "'filter.1'", "") "]}}",
      "{'execute': 'block-stream', 'arguments': {'job-id': 'j', 'device': 'image.2', 'bottom': 'image.1'}}",
      .is_job = true },
    { "a commit in the middle", NULL,
      "{'execute': 'block-commit', 'arguments': {'job-id': 'j', 'device': 'filter.3', 'top-node': 'image.2', "
      "'base-node': "
      "'image.1'}}",
      .is_job = true },
    { "a commit to the lowest", NULL,
      "{'execute': 'block-commit', 'arguments': {'job-id': 'j', 'device': 'filter.3', 'top-node': "
      "'filter.2', 'base-node': "
      "'image.0'}}",
      .is_job = true },
    { "a commit of the head", NULL,
      "{'execute': 'block-commit', 'arguments': {'job-id': 'j', 'device': 'filter.3', 'base-node': "
      "'image.1'}}",
      .ready = true, .is_job = true },
    { "a snapshot", NULL,
      "{'execute': 'blockdev-snapshot', 'arguments': {'node': 'filter.3', 'overlay': 'over'}}" },
    { "a reopening that makes a layer writable", NULL,
      "{'execute': 'blockdev-reopen', 'arguments': {'options': [" FILE_OF("1", "") ", " NTH_OF(
          "1", "") ", " IMAGE_OF("1", "'filter.0'", ", 'lazy-refcounts': true") "]}}" },
    { "a reopening that makes it read-only again",
      "{'execute': 'blockdev-reopen', 'arguments': {'options': [" FILE_OF("1", "") ", " NTH_OF(
          "1", "") ", " IMAGE_OF("1", "'filter.0'", ", 'lazy-refcounts': true") "]}}",
      "{'execute': 'blockdev-reopen', 'arguments': {'options': [" FILE_OF(
          "1", ", 'read-only': true") ", " NTH_OF("1", ", 'read-only': true") ", " IMAGE_OF("1", "'filter.0'",
                                                                                            ", 'read-only': "
                                                                                            "true") "]}}" },
    { "a reopening with lazy counts and without a filter", NULL,
      "{'execute': 'blockdev-reopen', 'arguments': {'options': [" IMAGE_OF(
          "3", "'image.2'", ", 'lazy-refcounts': true") "]}}" },
    { "a reopening in a transaction with a snapshot", NULL,
      "{'execute': 'transaction', 'arguments': {'actions': ["
      "{'type': 'blockdev-reopen', 'data': {'options': [" IMAGE_OF(
          "3", "'filter.2'", ", 'lazy-refcounts': true") "]}},"
                                                         "{'type': 'blockdev-snapshot', 'data': {'node': "
                                                         "'filter.3', 'overlay': 'over'}}]}}" },
};

static WEIR_SIM_KEPT struct {
    const struct change *change;
    uint64_t at;
    enum nth_io_what what;
    int result;
    char *before, *done; /* graphs */
    bool first;          /* nothing fails: `done` is to be learnt */
    uint8_t disk[CLUSTERS];
} run;

static struct weir_edge *guest;

static _Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void fail(const char *format, ...)
{
    va_list args;

    (void)fprintf(stderr, "%s, request %llu fails%s: ", run.change->name, (unsigned long long)run.at,
                  run.what == NTH_IO_FAIL_EVER ? " for good" : "");
    va_start(args, format);
    (void)vfprintf(stderr, format, args);
    va_end(args);
    (void)fprintf(stderr, "\n");
    exit(1);
}

/* ---- commands ---- */

static weir_co_fn int reopen(json_t *list, char **ret_error)
{
    struct weir_q_blockdev_options nodes[8] = { 0 };
    struct weir_q_blockdev_reopen args = { .options.items = nodes, .options.count = json_array_size(list) };
    struct weir_action action = { .kind = &weir_action_reopen, .args = &args };
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    for (size_t i = 0; i < args.options.count; i++)
        nodes[i].json = json_array_get(list, i);
    ret = weir_actions_run(&action, 1, &err);
    *ret_error = ret ? weir_strdup(weir_error_text(err)) : NULL;
    return ret;
}

static weir_co_fn int dispatch(json_t *input, char **ret_error)
{
    struct weir_qmp_session session = { .negotiated = true };
    struct weir_qmp_context ctx = { NULL, NULL };
    json_t *reply = weir_qmp_dispatch(&weir_qmp_commands, &ctx, &session, input);
    json_t *error = json_object_get(reply, "error");

    *ret_error = error ? weir_strdup(json_string_value(json_object_get(error, "desc"))) : NULL;
    json_decref(reply);
    return error ? -1 : 0;
}

/*
 * As QMP has it; the schema does not know nth-io, so what may name it goes past the schema. @ret_error NULL: it must
 * work.
 */
static weir_co_fn int command(const char *text, char **ret_error)
{
    char *quoted = weir_strdup(text), *error = NULL;
    const char *name;
    json_t *input, *arguments;
    int ret;

    for (char *c = quoted; *c; c++)
        *c = *c == '\'' ? '"' : *c;
    input = json_loads(quoted, 0, NULL);
    if (!input)
        fail("no JSON: %s", quoted);
    arguments = json_object_get(input, "arguments");
    name = json_string_value(json_object_get(input, "execute"));
    if (!strcmp(name, "blockdev-reopen")) {
        ret = reopen(json_object_get(arguments, "options"), &error);
    } else if (!strcmp(name, "blockdev-add")) {
        WEIR_AUTO_ERROR err = NULL;

        ret = weir_node_add(arguments, true, NULL, &err);
        error = ret ? weir_strdup(weir_error_text(err)) : NULL;
    } else {
        ret = dispatch(input, &error);
    }
    if (error && !ret_error)
        fail("%s: %s", text, error);
    if (ret_error)
        *ret_error = error;
    json_decref(input);
    free(quoted);
    return ret;
}

static weir_co_fn void must(const char *format, ...) __attribute__((format(printf, 1, 2)));
static weir_co_fn void must(const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)command(text, NULL);
}

/* ---- images ---- */

static weir_co_fn void create(const char *file, const char *backing)
{
    WEIR_AUTO_ERROR err = NULL;
    json_t *options = json_pack("{s:{s:s, s:s}, s:i, s:i}", "file", "driver", "file", "filename", file,
                                "size", (int)SIZE, "cluster-size", (int)CLUSTER);

    if (weir_driver_create("file", json_pack("{s:s, s:i}", "filename", file, "size", 0), &err))
        fail("create: %s", weir_error_text(err));
    if (backing) {
        json_object_set_new(options, "backing-file", json_string(backing));
        json_object_set_new(options, "backing-fmt", json_string("qcow2"));
    }
    if (weir_driver_create("qcow2", options, &err))
        fail("create: %s", weir_error_text(err));
}

static weir_co_fn int request(struct weir_edge *edge, enum weir_op op, unsigned cluster, unsigned count,
                              void *bytes)
{
    struct iovec iov = { bytes, count * CLUSTER };
    struct weir_request r = weir_request_make(op, cluster * CLUSTER, count * CLUSTER, &iov, 1, 0);

    return weir_root_io(edge, &r);
}

/* Layer i holds every cluster whose number has none of the remainders that layers above it leave out. */
static bool holds(unsigned layer, unsigned cluster)
{
    return cluster % (layer + 1) == 0 && cluster < 20;
}

static weir_co_fn void fill(unsigned layer)
{
    uint8_t *bytes = weir_try_alloc(CLUSTER, 4096);
    struct weir_node *node = weir_node_find("w");
    struct weir_edge *edge;

    if (weir_root_attach(node, "w", WEIR_PERM_WRITE, WEIR_PERM_ALL, NULL, NULL, &edge, NULL))
        fail("no writer");
    for (unsigned c = 0; c < CLUSTERS; c++) {
        memset(bytes, (int)(16 * (layer + 1) + c % 16), CLUSTER);
        if (!holds(layer, c))
            continue;
        if (request(edge, WEIR_OP_WRITE, c, 1, bytes))
            fail("cannot fill");
        run.disk[c] = bytes[0];
    }
    weir_root_detach(edge, -1);
    free(bytes);
}

static weir_co_fn void make(void)
{
    char name[16], below[16] = "";

    memset(run.disk, 0, sizeof(run.disk));
    for (unsigned i = 0; i < LAYERS; i++) {
        (void)snprintf(name, sizeof(name), "image.%u", i);
        create(name, i ? below : NULL);
        must("{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'w', 'backing': "
             "null, 'file': "
             "{'driver': 'file', 'filename': '%s'}}}",
             name);
        fill(i);
        must("{'execute': 'blockdev-del', 'arguments': {'node-name': 'w'}}");
        (void)snprintf(below, sizeof(below), "%s", name);
    }
    create("over", below);
}

/* ---- the chain ---- */

static weir_co_fn void open_file(const char *name, const char *file, bool read_only)
{
    must("{'execute': 'blockdev-add', 'arguments': {'driver': 'file', 'node-name': 'file.%s', 'filename': "
         "'%s', "
         "'read-only': %s}}",
         name, file, read_only ? "true" : "false");
    must("{'execute': 'blockdev-add', 'arguments': {'driver': 'nth-io', 'node-name': 'nth.%s', 'file': "
         "'file.%s', "
         "'read-only': %s}}",
         name, name, read_only ? "true" : "false");
}

static weir_co_fn void open_chain(void)
{
    static const char *const filters[LAYERS] = { "'driver': 'preallocate', 'file'",
                                                 "'driver': 'blkdebug', 'image'", "'driver': 'raw', 'file'",
                                                 "'driver': 'throttle', 'throttle-group': 'g', 'file'" };

    must("{'execute': 'object-add', 'arguments': {'qom-type': 'throttle-group', 'id': 'g'}}");
    for (unsigned i = 0; i < LAYERS; i++) {
        const char *read_only = i == LAYERS - 1 ? "false" : "true";
        char number[4], file[16], backing[16];

        (void)snprintf(number, sizeof(number), "%u", i);
        (void)snprintf(file, sizeof(file), "image.%u", i);
        (void)snprintf(backing, sizeof(backing), i ? "'filter.%u'" : "null", i - 1);
        open_file(number, file, i < LAYERS - 1);
        must("{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'image.%u', 'file': "
             "'nth.%u', "
             "'backing': %s, 'read-only': %s}}",
             i, i, backing, read_only);
        must("{'execute': 'blockdev-add', 'arguments': {%s: 'image.%u', 'node-name': 'filter.%u', "
             "'read-only': %s}}",
             filters[i], i, i, read_only);
    }
    open_file("over", "over", false);
    must("{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'over', 'file': "
         "'nth.over', "
         "'backing': null}}");
}

static weir_co_fn void delete_all(void)
{
    struct weir_node *node = weir_graph_next(NULL);

    while (node) {
        bool gone = node->user_added && TAILQ_EMPTY(&node->parents) && !weir_node_del(node->name, NULL);

        node = weir_graph_next(gone ? NULL : node);
    }
    if (weir_graph_next(NULL) || weir_graph_limbo_count())
        fail("node %s is left", weir_graph_next(NULL) ? weir_graph_next(NULL)->name : "in limbo");
    must("{'execute': 'object-del', 'arguments': {'id': 'g'}}");
}

/* ---- what there is ---- */

static void append(char **text, const char *more)
{
    char *longer = weir_strdup_printf("%s%s", *text, more);

    free(*text);
    *text = longer;
}

/* Nodes with their state, edges with their permissions. Automatic names are left out. */
static char *graph(void)
{
    char *text = weir_strdup("");

    for (struct weir_node *node = weir_graph_next(NULL); node; node = weir_graph_next(node)) {
        const struct weir_edge *edge;
        weir_autofree char *line = weir_strdup_printf("%s %s%s:", *node->name == '#' ? "#" : node->name,
                                                      node->driver->name, node->read_only ? " ro" : "");

        append(&text, line);
        TAILQ_FOREACH (edge, &node->children, in_parent) {
            weir_autofree char *child =
                weir_strdup_printf(" %s=%s(%x,%x)%s", edge->name, edge->node->name, edge->perm, edge->shared,
                                   edge->frozen ? " frozen" : "");

            append(&text, child);
        }
        append(&text, "\n");
    }
    return text;
}

static weir_co_fn void check_disk(struct weir_edge *edge, const char *when)
{
    uint8_t *bytes = weir_try_alloc(SIZE, 4096);
    int ret = request(edge, WEIR_OP_READ, 0, CLUSTERS, bytes);

    if (ret)
        fail("reading %s: %s", when, strerror(-ret));
    for (unsigned i = 0; i < SIZE; i++) {
        if (bytes[i] != run.disk[i / CLUSTER])
            fail("%s byte %u is %u, not %u", when, i, bytes[i], run.disk[i / CLUSTER]);
    }
    free(bytes);
}

static weir_co_fn void write_some(unsigned cluster, uint8_t value)
{
    uint8_t *bytes = weir_try_alloc(CLUSTER, 4096);
    int ret;

    memset(bytes, value, CLUSTER);
    ret = request(guest, WEIR_OP_WRITE, cluster, 1, bytes);
    if (ret)
        fail("writing after the change: %s", strerror(-ret));
    run.disk[cluster] = value;
    free(bytes);
}

/* ---- the change ---- */

static weir_co_fn int wait_for_job(void)
{
    struct weir_job *job;
    unsigned history;

    while ((job = weir_job_find("j"))) {
        if (run.change->ready && job->status == WEIR_JOB_READY)
            (void)!weir_job_complete(job, NULL);
        weir_co_sleep(1000000);
    }
    history = weir_job_history_count();
    if (!history)
        fail("the job has left no result");
    return weir_job_history(history - 1)->result;
}

static weir_co_fn int change(void)
{
    char *text = NULL;
    int ret = command(run.change->command, &text);

    if (text && !nth_io.hit)
        fail("%s, though no request has failed", text);
    free(text);
    return ret || !run.change->is_job ? ret : wait_for_job();
}

static void judge_graph(int ret)
{
    weir_autofree char *now = graph();

    if (run.first) {
        if (ret)
            fail("it fails though no request does");
        run.done = weir_strdup(now);
    } else if (strcmp(now, ret ? run.before : run.done) != 0) {
        fail("the change has %s, and the graph is\n%sinstead of\n%s", ret ? "failed" : "succeeded", now,
             ret ? run.before : run.done);
    }
}

static weir_co_fn void play(void)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE;

    nth_io =
        (struct nth_io){ .ops = ALL_BUT_STATUS, .what = NTH_IO_COUNT }; /* asked when the nodes are opened */
    open_chain();
    if (weir_root_attach(weir_node_find("filter.3"), "guest", perm, WEIR_PERM_ALL, NULL, NULL, &guest, NULL))
        fail("no guest");
    if (run.change->prepare)
        must("%s", run.change->prepare);
    check_disk(guest, "before the change");
    run.before = graph();
    nth_io = (struct nth_io){ .ops = ALL_BUT_STATUS, .what = run.what, .at = run.at };
    run.result = change();
    nth_io.what = NTH_IO_COUNT;
    judge_graph(run.result);
    check_disk(guest, "after the change");
    write_some(7, 201);
    write_some(21, 202);
    check_disk(guest, "at the end");
    weir_root_detach(weir_steal(&guest), -1);
    delete_all();
}

/* The head of the chain that the images themselves tell. */
static weir_co_fn void look_again(void)
{
    bool over = !run.result && strstr(run.change->name, "snapshot");
    bool committed = !run.result && run.change->ready;
    struct weir_edge *edge;

    must("{'execute': 'blockdev-add', 'arguments': {'driver': 'qcow2', 'node-name': 'w', 'read-only': true, "
         "'file': "
         "{'driver': 'file', 'filename': '%s'}}}",
         over        ? "over"
         : committed ? "image.1"
                     : "image.3");
    if (weir_root_attach(weir_node_find("w"), "w", WEIR_PERM_CONSISTENT_READ, WEIR_PERM_ALL, NULL, NULL,
                         &edge, NULL))
        fail("no reader");
    check_disk(edge, "opened anew");
    weir_root_detach(edge, -1);
    must("{'execute': 'blockdev-del', 'arguments': {'node-name': 'w'}}");
}

/* ---- lives ---- */

static void (*life_script)(void) weir_co_fn;

static weir_co_fn void life_run(void *arg)
{
    weir_graph_init(&weir_io_hooks);
    life_script();
    weir_graph_done(1000000000LL);
    weir_job_loop_done();
    weir_job_done();
    weir_loop_stop(weir_loop_control());
}

static void life_main(void *arg)
{
    weir_drivers_register();
    weir_driver_register(&weir_driver_nth_io);
    if (weir_runtime_init(NULL))
        fail("no runtime");
    weir_co_start(weir_loop_control(), life_run, NULL);
    weir_runtime_run();
    if (weir_co_alive())
        fail("%u coroutines are left at the end", weir_co_alive());
    weir_runtime_done();
    weir_buffer_trim();
    qcow2_codec_trim();
}

static void life(void (*script)(void) weir_co_fn)
{
    struct weir_sim_limits limits = { .steps = STEPS_MAX, .time_ns = 1000 * 1000000000LL };
    enum weir_sim_outcome outcome;

    life_script = script;
    weir_sim_spawn("control", life_main, NULL);
    outcome = weir_sim_run(&limits);
    if (outcome != WEIR_SIM_FINISHED)
        fail("a life is %s", weir_sim_outcome_name(outcome));
}

/* Whether the request that was to fail was reached. */
static bool play_one(uint64_t at)
{
    struct weir_sim_profile profile;
    bool hit;

    run.at = at;
    weir_sim_profile_init(&profile);
    weir_sim_begin(17 + at, &profile);
    nth_io = (struct nth_io){ .what = NTH_IO_COUNT };
    life(make);
    life(play);
    hit = nth_io.hit;
    life(look_again);
    weir_sim_end();
    free(weir_steal(&run.before));
    return hit;
}

static uint64_t play_all(const struct change *change)
{
    static const enum nth_io_what whats[] = { NTH_IO_FAIL, NTH_IO_FAIL_EVER };
    uint64_t failures = 0;

    run.change = change;
    run.first = true;
    run.what = NTH_IO_COUNT;
    (void)play_one(0);
    run.first = false;
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(whats); i++) {
        uint64_t at = 1;

        run.what = whats[i];
        while (play_one(at)) {
            if (++at > REQUESTS_MAX)
                fail("more requests than there can be");
        }
        failures += at - 1;
    }
    free(weir_steal(&run.done));
    return failures;
}

int main(int argc, char **argv)
{
    uint64_t failures = 0;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(changes); i++) {
        uint64_t here;

        if (argc > 1 && !strstr(changes[i].name, argv[1]))
            continue;
        here = play_all(&changes[i]);
        (void)printf("%s: %llu requests have failed\n", changes[i].name, (unsigned long long)here);
        failures += here;
    }
    (void)printf("%llu requests have failed\n", (unsigned long long)failures);
    return failures < 10;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The monitor: framing, negotiation, order, errors, events, and clients that do not read.
 *
 * A transport in memory stands for the client: what the monitor puts out is collected in `client.seen`.
 */
#include "unit.h"
#include "world.h"
#include "base/alloc.h"
#include "gen/schema.h"
#include "qmp/introspect.h"
#include "qmp/json_stream.h"
#include "qmp/monitor.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- commands of the test ---- */

static struct weir_co *sleeper; /* the coroutine inside of "sleep" */
static bool sleep_over;
static unsigned slept;

static int run_sleep(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,
                     struct weir_error **err) weir_co_fn;
static int run_sleep(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,
                     struct weir_error **err)
{
    sleeper = weir_co_self();
    while (!sleep_over)
        weir_co_yield();
    sleeper = NULL;
    slept++;
    return 0;
}

static void end_sleep(void)
{
    WEIR_ASSERT(sleeper);
    sleep_over = true;
    weir_co_wake(sleeper);
}

static int run_id(struct weir_qmp_context *ctx, const void *args, json_t **ret_value, struct weir_error **err)
{
    const struct weir_q_job_cancel_args *id = args;

    if (!strcmp(id->id, "missing"))
        return weir_error_set_class(err, WEIR_ERROR_DEVICE_NOT_FOUND, -ENOENT, "Device '%s' not found",
                                    id->id);
    weir_qmp_event(ctx->monitors, "BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", id->id));
    *ret_value = json_pack("{s:s}", "name", id->id);
    return 0;
}

static int run_wrong(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,
                     struct weir_error **err)
{
    *ret_value = json_pack("{s:i}", "name", 5);
    return 0;
}

static int run_big(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,
                   struct weir_error **err)
{
    static char text[200001]; /* more than a coroutine's stack holds */

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    *ret_value = json_pack("{s:s}", "name", text);
    slept++;
    return 0;
}

static const struct weir_qmp_command command_list[] = {
    { "qmp_capabilities", &weir_schema_qmp_capabilities_args, NULL, NULL },
    { "sleep", &weir_schema_quit_args, NULL, run_sleep },
    { "id", &weir_schema_job_cancel_args, &weir_schema_command_info, run_id },
    { "wrong", &weir_schema_quit_args, &weir_schema_command_info, run_wrong },
    { "big", &weir_schema_quit_args, &weir_schema_command_info, run_big },
};
static const struct weir_qmp_commands commands = { command_list, WEIR_ARRAY_SIZE(command_list) };

/* ---- the client ---- */

struct client {
    struct weir_monitor *monitor;
    bool reads; /* takes output as soon as it is there */
    bool dropped;
    char *seen;
};

static struct weir_monitors *monitors;
static unsigned log_lines;

static void take_all(struct client *client)
{
    const char *data;
    size_t length = weir_monitor_output(client->monitor, &data);
    size_t old = strlen(client->seen);

    client->seen = weir_realloc(client->seen, old + length + 1);
    memcpy(client->seen + old, data, length);
    client->seen[old + length] = 0;
    weir_monitor_output_taken(client->monitor, length);
}

static void client_output(void *arg)
{
    struct client *client = arg;

    if (client->reads && client->monitor)
        take_all(client);
}

static void client_drop(void *arg)
{
    ((struct client *)arg)->dropped = true;
}

static const struct weir_monitor_transport transport = { client_output, client_drop };

static void count_log(void *opaque, const char *line)
{
    WEIR_ASSERT(strstr(line, "does not read"));
    log_lines++;
}

static void client_init(struct client *client, bool pretty)
{
    *client = (struct client){ .reads = true, .seen = weir_strdup("") };
    client->monitor = weir_monitor_new(monitors, "test", pretty, &transport, client);
    weir_monitor_connect(client->monitor);
    WEIR_ASSERT(!strncmp(client->seen, pretty ? "{\n    \"QMP\": {" : "{\"QMP\": {", pretty ? 12 : 8));
    client->seen[0] = 0;
}

static void client_done(struct client *client) weir_co_fn;
static void client_done(struct client *client)
{
    weir_monitor_free(client->monitor);
    free(client->seen);
}

static void client_send(struct client *client, const char *text) weir_co_fn;
static void client_send(struct client *client, const char *text)
{
    weir_monitor_feed(client->monitor, text, strlen(text));
}

/* Sends @text, waits for all answers and compares them, events without their time stamps. */
static void exchange(struct client *client, const char *text, const char *expected) weir_co_fn;
static void exchange(struct client *client, const char *text, const char *expected)
{
    char *stamp;

    client_send(client, text);
    WEIR_ASSERT(weir_monitor_wait_idle(client->monitor, -1) == 0);
    while ((stamp = strstr(client->seen, "\"timestamp\": {"))) {
        char *end = strstr(stamp, "}, ") + 3;

        memmove(stamp, end, strlen(end) + 1);
    }
    if (strcmp(client->seen, expected) != 0) {
        fprintf(stderr, "sent     %s\nexpected %sgot      %s", text, expected, client->seen);
        WEIR_ASSERT(!"unexpected answer");
    }
    client->seen[0] = 0;
}

#define OK "{\"return\": {}}\r\n"
#define ERROR_REPLY(class_name, text) \
    "{\"error\": {\"class\": \"" class_name "\", \"desc\": \"" text "\"}}\r\n"
#define ERROR_ID(id, class_name, text) \
    "{\"id\": " id ", \"error\": {\"class\": \"" class_name "\", \"desc\": \"" text "\"}}\r\n"

static void in_monitors(void *arg) weir_co_fn;
static void in_monitors(void *arg)
{
    void (*body)(void) weir_co_fn = *(void (**)(void))arg;

    monitors = weir_monitors_new(&commands, "weir-test", NULL, count_log);
    sleep_over = false;
    slept = log_lines = 0;
    body();
    weir_monitors_free(monitors);
}

static void run_body(void (*body)(void) weir_co_fn)
{
    run_world(in_monitors, &body);
}

/* ---- tests ---- */

static void negotiation(void) weir_co_fn;
static void negotiation(void)
{
    struct client client;

    client_init(&client, false);
    exchange(&client, "{\"execute\":\"id\"}",
             ERROR_REPLY("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    exchange(&client, "{'execute':'nope','id':1}",
             ERROR_ID("1", "CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    exchange(&client, "{'foo':1}", ERROR_REPLY("GenericError", "QMP input member 'foo' is unexpected"));
    exchange(&client, "{'exec-oob':'qmp_capabilities'}",
             ERROR_REPLY("GenericError", "QMP input member 'exec-oob' is unexpected"));
    exchange(&client, "{'execute':'qmp_capabilities','arguments':{'enable':'oob'}}",
             ERROR_REPLY("GenericError", "Invalid parameter type for 'enable', expected: array"));
    exchange(&client, "{'execute':'qmp_capabilities','arguments':{'enable':['oob']}}", OK);
    exchange(&client, "{'execute':'qmp_capabilities'}",
             ERROR_REPLY("CommandNotFound", "Capabilities negotiation is already complete, command ignored"));
    exchange(&client, "{'exec-oob':'id','id':7}",
             ERROR_ID("7", "GenericError", "The command id does not support OOB"));
    exchange(&client, "{'exec-oob':'nope'}",
             ERROR_REPLY("CommandNotFound", "The command nope has not been found"));
    exchange(&client, "{'exec-oob':'id','execute':'id','id':4}",
             ERROR_ID("4", "GenericError", "QMP input member 'execute' clashes with 'exec-oob'"));
    /* A new client begins from the start. */
    weir_monitor_disconnect(client.monitor);
    weir_monitor_connect(client.monitor);
    client.seen[0] = 0;
    exchange(&client, "{'execute':'id'}",
             ERROR_REPLY("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    client_done(&client);
}

static void test_qmp_negotiation(void **state)
{
    run_body(negotiation);
}

static void requests(void) weir_co_fn;
static void requests(void)
{
    struct client client;

    client_init(&client, false);
    exchange(&client, "{'execute':'qmp_capabilities'}", OK);
    exchange(&client, "{'execute':'id','arguments':{'id':'a'},'id':{'x':[1,1.5,null,'\\u00e4\\u0000']}}",
             "{\"event\": \"BLOCK_EXPORT_DELETED\", \"data\": {\"id\": \"a\"}}\r\n"
             "{\"return\": {\"name\": \"a\"}, \"id\": {\"x\": [1, 1.5, null, \"\\u00E4\\u0000\"]}}\r\n");
    exchange(&client, "{'execute':'id','arguments':{'id':'missing'}}",
             ERROR_REPLY("DeviceNotFound", "Device 'missing' not found"));
    exchange(&client, "{'execute':'id'}", ERROR_REPLY("GenericError", "Parameter 'id' is missing"));
    exchange(&client, "{'execute':'big','arguments':{'z':1},'id':null}",
             ERROR_ID("null", "GenericError", "Parameter 'z' is unexpected"));
    exchange(&client, "{'execute':5}",
             ERROR_REPLY("GenericError", "QMP input member 'execute' must be a string"));
    exchange(&client, "{'execute':'id','arguments':[]}",
             ERROR_REPLY("GenericError", "QMP input member 'arguments' must be an object"));
    exchange(&client, "{}", ERROR_REPLY("GenericError", "QMP input lacks member 'execute'"));
    exchange(&client, "{'id':5}", ERROR_ID("5", "GenericError", "QMP input lacks member 'execute'"));
    exchange(&client, "[]", ERROR_REPLY("GenericError", "QMP input must be a JSON object"));
    exchange(&client, "5 'a'\n",
             ERROR_REPLY("GenericError", "QMP input must be a JSON object")
                 ERROR_REPLY("GenericError", "QMP input must be a JSON object"));
    exchange(&client, "{'execute':'nope'}{\"execute\":\"nope\"}\r\n",
             ERROR_REPLY("CommandNotFound", "The command nope has not been found")
                 ERROR_REPLY("CommandNotFound", "The command nope has not been found"));
    exchange(&client, "{'execute':'id',}", ERROR_REPLY("GenericError", "JSON parse error, expecting value"));
    exchange(&client, "{'execute':{", "");
    exchange(&client, "'execute':'nope'}", "");
    exchange(&client, "\xff", ERROR_REPLY("GenericError", "JSON parse error, stray '\\uFFFD'"));
    exchange(&client, "{'execute':'nope'}",
             ERROR_REPLY("CommandNotFound", "The command nope has not been found"));
    exchange(&client, "{'execute':'wrong'}",
             ERROR_REPLY("GenericError", "Internal error: result of wrong: "
                                         "Invalid parameter type for 'name', expected: string"));
    client_done(&client);
}

static void test_qmp_requests(void **state)
{
    run_body(requests);
}

static void pretty(void) weir_co_fn;
static void pretty(void)
{
    struct client client;

    client_init(&client, true);
    exchange(&client, "{'execute':'qmp_capabilities','id':'x'}",
             "{\n    \"return\": {},\n    \"id\": \"x\"\n}\r\n");
    client_done(&client);
}

static void test_monitor_pretty(void **state)
{
    run_body(pretty);
}

struct feeder {
    struct client *client;
    const char *text;
    bool ended;
};

static void feeder_run(void *arg) weir_co_fn;
static void feeder_run(void *arg)
{
    struct feeder *feeder = arg;

    client_send(feeder->client, feeder->text);
    feeder->ended = true;
}

/* One command runs, eight wait, the tenth is not taken: reading stops. Then all are answered in order. */
static void pipelining(void) weir_co_fn;
static void pipelining(void)
{
    struct client client;
    char text[2048] = "{'execute':'sleep','id':0}", expected[2048] = "";
    struct feeder feeder = { .client = &client, .text = text };

    client_init(&client, false);
    exchange(&client, "{'execute':'qmp_capabilities'}", OK);
    for (int i = 1; i < 12; i++)
        sprintf(text + strlen(text), "{'execute':'qmp_capabilities','id':%d}", i);
    weir_co_run(feeder_run, &feeder);
    while (!sleeper)
        weir_co_pause();
    for (int i = 0; i < 100; i++)
        weir_co_pause();
    WEIR_ASSERT(!feeder.ended && !client.seen[0]);
    end_sleep();
    while (!feeder.ended)
        weir_co_pause();
    WEIR_ASSERT(weir_monitor_wait_idle(client.monitor, -1) == 0);
    sprintf(expected, "{\"return\": {}, \"id\": 0}\r\n");
    for (int i = 1; i < 12; i++)
        sprintf(expected + strlen(expected),
                ERROR_ID("%d", "CommandNotFound",
                         "Capabilities negotiation is already complete, command ignored"),
                i);
    WEIR_ASSERT(!strcmp(client.seen, expected));
    client_done(&client);
}

static void test_qmp_pipelining(void **state)
{
    run_body(pipelining);
}

/* The client goes while a command runs: the command ends, nobody hears of it, the queue is forgotten. */
static void orphan(void) weir_co_fn;
static void orphan(void)
{
    struct client client;

    client_init(&client, false);
    exchange(&client, "{'execute':'qmp_capabilities'}", OK);
    client_send(&client, "{'execute':'sleep'}{'execute':'big'}");
    while (!sleeper)
        weir_co_pause();
    weir_monitor_disconnect(client.monitor);
    weir_monitor_connect(client.monitor);
    client.seen[0] = 0;
    client_send(&client, "{'execute':'qmp_capabilities','id':2}");
    end_sleep();
    WEIR_ASSERT(weir_monitor_wait_idle(client.monitor, -1) == 0);
    WEIR_ASSERT(slept == 1);
    WEIR_ASSERT(!strcmp(client.seen, "{\"return\": {}, \"id\": 2}\r\n"));
    client_done(&client);
}

static void test_qmp_client_goes(void **state)
{
    run_body(orphan);
}

/* While replies pile up nothing more is executed; when they are read, it goes on. */
static void no_reader(void) weir_co_fn;
static void no_reader(void)
{
    struct client client;
    unsigned executed;

    client_init(&client, false);
    exchange(&client, "{'execute':'qmp_capabilities'}", OK);
    client.reads = false;
    client_send(&client, "{'execute':'big'}{'execute':'big'}{'execute':'big'}{'execute':'big'}"
                         "{'execute':'big'}{'execute':'big'}{'execute':'big'}{'execute':'big'}");
    for (int i = 0; i < 100; i++)
        weir_co_pause();
    executed = slept;
    WEIR_ASSERT(executed == 6); /* 6 x 200 kB is the first to pass 1 MiB */
    client.reads = true;
    take_all(&client);
    WEIR_ASSERT(weir_monitor_wait_idle(client.monitor, -1) == 0);
    WEIR_ASSERT(slept == 8 && !client.dropped);
    client_done(&client);
}

static void test_qmp_no_reader_is_not_served(void **state)
{
    run_body(no_reader);
}

/* Events pile up at one that does not read until it is dropped; the other gets all of them. */
static void event_flood(void) weir_co_fn;
static void event_flood(void)
{
    struct client deaf, good;
    char *id = weir_alloc(65537);
    unsigned sent = 0;

    memset(id, 'i', 65536);
    client_init(&deaf, false);
    client_init(&good, false);
    exchange(&deaf, "{'execute':'qmp_capabilities'}", OK);
    exchange(&good, "{'execute':'qmp_capabilities'}", OK);
    deaf.reads = false;
    for (; !deaf.dropped && sent < 1000; sent++) {
        weir_qmp_event(monitors, "BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", id));
        WEIR_ASSERT(strlen(good.seen) > 65536);
        good.seen[0] = 0;
    }
    WEIR_ASSERT(deaf.dropped && !good.dropped && log_lines == 1);
    WEIR_ASSERT(sent > 200 && sent < 300);
    free(id);
    client_done(&deaf);
    client_done(&good);
}

static void test_qmp_deaf_client_is_dropped(void **state)
{
    run_body(event_flood);
}

/* No events before the end of the negotiation. */
static void silent(void) weir_co_fn;
static void silent(void)
{
    struct client client;

    client_init(&client, false);
    weir_qmp_event(monitors, "BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", "a"));
    WEIR_ASSERT(!client.seen[0]);
    client_done(&client);
}

static void test_qmp_events_after_negotiation(void **state)
{
    run_body(silent);
}

/* The deepest id that is taken can be parsed, kept, printed and freed on a coroutine's stack. */
static void deep(void) weir_co_fn;
static void deep(void)
{
    enum { DEPTH = WEIR_JSON_DEPTH_MAX - 2 }; /* the request itself and the number inside */
    struct client client;
    char text[2 * DEPTH + 100], expected[2 * DEPTH + 200];
    char open[DEPTH + 1], close[DEPTH + 1];

    memset(open, '[', DEPTH);
    memset(close, ']', DEPTH);
    open[DEPTH] = close[DEPTH] = 0;
    client_init(&client, false);
    sprintf(text, "{'execute':'x','id':%s1%s}", open, close);
    sprintf(expected,
            "{\"id\": %s1%s, \"error\": {\"class\": \"CommandNotFound\", "
            "\"desc\": \"Expecting capabilities negotiation with 'qmp_capabilities'\"}}\r\n",
            open, close);
    exchange(&client, text, expected);
    sprintf(text, "{'execute':'x','id':[%s", open);
    exchange(&client, text, "");
    exchange(&client, "[", ERROR_REPLY("GenericError", "JSON nesting depth limit exceeded"));
    client_done(&client);
}

static void test_qmp_depth(void **state)
{
    run_body(deep);
}

static void test_introspect(void **state)
{
    json_t *list = weir_qmp_command_list(&commands), *version = weir_qmp_version("weir-test");
    json_t *schema = weir_qmp_introspection();

    assert_int_equal(json_array_size(list), 5);
    assert_int_equal(weir_schema_validate(&weir_schema_version_info, version, NULL), 0);
    assert_true(json_array_size(schema) > 100);
    json_decref(list);
    json_decref(version);
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qmp_negotiation),
        cmocka_unit_test(test_qmp_requests),
        cmocka_unit_test(test_monitor_pretty),
        cmocka_unit_test(test_qmp_pipelining),
        cmocka_unit_test(test_qmp_client_goes),
        cmocka_unit_test(test_qmp_no_reader_is_not_served),
        cmocka_unit_test(test_qmp_deaf_client_is_dropped),
        cmocka_unit_test(test_qmp_events_after_negotiation),
        cmocka_unit_test(test_qmp_depth),
        cmocka_unit_test(test_introspect),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

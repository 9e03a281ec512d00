/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a QMP client sends: JSON in pieces of any size, requests, their arguments. Each complete value gets exactly
 * one reply, which is an object with "return" or "error". The first byte says how long the pieces are.
 */
#include "fuzz.h"
#include "base/macros.h"
#include "co/co.h"
#include "gen/schema.h"
#include "qmp/dispatch.h"
#include "qmp/json_stream.h"
#include <stdlib.h>

/* Commands that do nothing, with the arguments of real ones. */
static int run_nothing(struct weir_qmp_context *ctx, const void *args, json_t **ret_value,
                       struct weir_error **err)
{
    return 0;
}

static const struct weir_qmp_command list[] = {
    { .name = "blockdev-add", .arguments = &weir_schema_blockdev_options, .run = run_nothing },
    { .name = "blockdev-mirror", .arguments = &weir_schema_blockdev_mirror_args, .run = run_nothing },
    { .name = "block-export-add", .arguments = &weir_schema_block_export_options, .run = run_nothing },
    { .name = "nbd-server-start", .arguments = &weir_schema_nbd_server_start_args, .run = run_nothing },
    { .name = "object-add", .arguments = &weir_schema_object_options, .run = run_nothing },
    { .name = "qom-set", .arguments = &weir_schema_qom_set_args, .run = run_nothing },
    { .name = "qmp_capabilities", .arguments = &weir_schema_qmp_capabilities_args },
};
static const struct weir_qmp_commands commands = { list, WEIR_ARRAY_SIZE(list) };

struct execution {
    struct weir_qmp_session *session;
    json_t *request, *reply;
};

static void execute(void *arg) weir_co_fn;
static void execute(void *arg)
{
    struct execution *execution = arg;
    struct weir_qmp_context context = { 0 };
    execution->reply = weir_qmp_dispatch(&commands, &context, execution->session, execution->request);
}

static void answer(struct weir_qmp_session *session, json_t *request)
{
    struct execution execution = { .session = session, .request = request };
    weir_co_run(execute, &execution);
    WEIR_ASSERT(json_is_object(execution.reply));
    WEIR_ASSERT(!!json_object_get(execution.reply, "return") + !!json_object_get(execution.reply, "error") ==
                1);
    char *text = json_dumps(execution.reply, 0);
    WEIR_ASSERT(text);
    free(text);
    json_decref(execution.reply);
}

static void feed(struct weir_json_stream *stream, struct weir_qmp_session *session, const char *data,
                 size_t size)
{
    enum weir_json_result result;
    do {
        json_t *value = NULL;
        struct weir_error *error = NULL;
        size_t before = size;
        result = weir_json_stream_next(stream, &data, &size, &value, &error);
        WEIR_ASSERT(size <= before && (result != WEIR_JSON_MORE || !size));
        WEIR_ASSERT(!!value == (result == WEIR_JSON_VALUE) && !!error == (result == WEIR_JSON_ERROR));
        if (value)
            answer(session, value);
        json_decref(value);
        weir_error_free(error);
    } while (result != WEIR_JSON_MORE);
}

static void start_runtime(void)
{
    static bool started;
    if (!started && weir_runtime_init(NULL) < 0)
        abort();
    started = true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    start_runtime();
    if (size < 1)
        return 0;
    size_t piece = data[0] ? data[0] : size;
    struct weir_json_stream *stream = weir_json_stream_new();
    struct weir_qmp_session session = { .negotiated = data[0] & 1 };
    for (size_t at = 1; at < size; at += piece) {
        size_t length = WEIR_MIN(piece, size - at);
        char *copy = malloc(length); /* so that a sanitizer sees reads outside of the piece */
        WEIR_ASSERT(copy);
        __builtin_memcpy(copy, data + at, length);
        feed(stream, &session, copy, length);
        free(copy);
    }
    weir_json_stream_free(stream);
    return 0;
}

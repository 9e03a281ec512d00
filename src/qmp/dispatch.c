/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Requests become replies.
 *
 * The order of the checks is part of the interface: first the form of the request, then the negotiation, then
 * whether there is such a command, then its arguments. A result that contradicts the schema is answered as an
 * error instead of being sent: clients trust the schema.
 */
#include "qmp/dispatch.h"
#include "base/alloc.h"
#include "gen/schema.h"
#include <errno.h>
#include <string.h>

/* A request whose form is good. */
struct request {
    const char *command;
    json_t *arguments; /* borrowed; NULL: none */
    json_t *id;        /* borrowed; NULL: none */
    bool oob;
};

const struct weir_qmp_command *weir_qmp_command_find(const struct weir_qmp_commands *commands,
                                                     const char *name)
{
    for (size_t i = 0; i < commands->count; i++)
        if (!strcmp(commands->list[i].name, name))
            return &commands->list[i];
    return NULL;
}

json_t *weir_qmp_error_reply(json_t *id, const struct weir_error *error)
{
    const char *hint = weir_error_hint_text(error);
    json_t *reply = json_object();
    json_t *text;

    /* The hint says which file it is about: whoever reads the reply has no standard error to find it on. */
    if (hint)
        text = json_sprintf("%s. %s", weir_error_text(error), hint);
    else
        text = json_string(weir_error_text(error));
    if (id)
        json_object_set(reply, "id", id);
    /* Names of files are bytes; what is no UTF-8 cannot be said in JSON. */
    if (!text)
        text = json_string("error text that is not valid UTF-8");
    json_object_set_new(reply, "error",
                        json_pack("{s:s,s:o}", "class", weir_error_class_name(error), "desc", text));
    return reply;
}

/* ---- form ---- */

static int check_member(const struct weir_qmp_session *session, const char *name, json_t *value,
                        struct request *request, struct weir_error **err)
{
    bool oob = session->oob && !strcmp(name, "exec-oob");

    if (oob || !strcmp(name, "execute")) {
        if (!json_is_string(value))
            return weir_error_set(err, -EINVAL, "QMP input member '%s' must be a string", name);
        if (request->command)
            return weir_error_set(err, -EINVAL, "QMP input member 'execute' clashes with 'exec-oob'");
        request->command = json_string_value(value);
        request->oob = oob;
        return 0;
    }
    if (!strcmp(name, "arguments")) {
        if (!json_is_object(value))
            return weir_error_set(err, -EINVAL, "QMP input member 'arguments' must be an object");
        request->arguments = value;
        return 0;
    }
    if (!strcmp(name, "id"))
        return 0;
    return weir_error_set(err, -EINVAL, "QMP input member '%s' is unexpected", name);
}

static int check_form(const struct weir_qmp_session *session, json_t *input, struct request *request,
                      struct weir_error **err)
{
    const char *name;
    json_t *value;
    int ret = 0;

    if (!json_is_object(input))
        return weir_error_set(err, -EINVAL, "QMP input must be a JSON object");
    request->id = json_object_get(input, "id");
    json_object_foreach(input, name, value)
    {
        ret = check_member(session, name, value, request, err);
        if (ret < 0)
            return ret;
    }
    if (!request->command)
        return weir_error_set(err, -EINVAL, "QMP input lacks member 'execute'");
    return 0;
}

/* ---- execution ---- */

static int find(const struct weir_qmp_commands *commands, const struct weir_qmp_session *session,
                const struct request *request, const struct weir_qmp_command **ret_command,
                struct weir_error **err)
{
    const struct weir_qmp_command *command = weir_qmp_command_find(commands, request->command);
    bool negotiate = !strcmp(request->command, WEIR_QMP_NEGOTIATE);

    if (!session->negotiated && !negotiate)
        return weir_error_set_class(err, WEIR_ERROR_COMMAND_NOT_FOUND, -ENOENT,
                                    "Expecting capabilities negotiation with '" WEIR_QMP_NEGOTIATE "'");
    if (session->negotiated && negotiate)
        return weir_error_set_class(err, WEIR_ERROR_COMMAND_NOT_FOUND, -ENOENT,
                                    "Capabilities negotiation is already complete, command ignored");
    if (!command)
        return weir_error_set_class(err, WEIR_ERROR_COMMAND_NOT_FOUND, -ENOENT,
                                    "The command %s has not been found", request->command);
    if (request->oob)
        return weir_error_set(err, -EINVAL, "The command %s does not support OOB", request->command);
    *ret_command = command;
    return 0;
}

static void negotiate(struct weir_qmp_session *session, const struct weir_q_qmp_capabilities_args *args)
{
    for (size_t i = 0; i < args->enable.count; i++)
        if (args->enable.items[i] == WEIR_Q_QMP_CAPABILITY_OOB)
            session->oob = true;
    session->negotiated = true;
}

static int check_result(const struct weir_qmp_command *command, json_t *value, struct weir_error **err)
{
    int ret = 0;

    if (command->returns)
        ret = value ? weir_schema_validate(command->returns, value, err)
                    : weir_error_set(err, -EPROTO, "nothing was returned");
    else if (json_object_size(value))
        ret = weir_error_set(err, -EPROTO, "something was returned");
    if (ret < 0)
        weir_error_prefix(err, "Internal error: result of %s: ", command->name);
    return ret;
}

static int execute(struct weir_qmp_context *ctx, struct weir_qmp_session *session,
                   const struct weir_qmp_command *command, json_t *arguments, json_t **ret_value,
                   struct weir_error **err) weir_co_fn;
static int execute(struct weir_qmp_context *ctx, struct weir_qmp_session *session,
                   const struct weir_qmp_command *command, json_t *arguments, json_t **ret_value,
                   struct weir_error **err)
{
    json_t *none = arguments ? NULL : json_object();
    weir_autofree void *parsed = weir_alloc(command->arguments->size);
    int ret =
        weir_schema_parse(command->arguments, arguments ? arguments : none, WEIR_SCHEMA_JSON, parsed, err);

    json_decref(none);
    if (ret < 0)
        return ret;
    if (command->run)
        ret = command->run(ctx, parsed, ret_value, err);
    else
        negotiate(session, parsed);
    if (ret == 0)
        ret = check_result(command, *ret_value, err);
    weir_schema_free(command->arguments, parsed);
    return ret;
}

json_t *weir_qmp_dispatch(const struct weir_qmp_commands *commands, struct weir_qmp_context *ctx,
                          struct weir_qmp_session *session, json_t *input)
{
    struct request request = { 0 };
    const struct weir_qmp_command *command = NULL;
    WEIR_AUTO_ERROR err = NULL;
    json_t *value = NULL, *reply;
    int ret = check_form(session, input, &request, &err);

    if (ret == 0)
        ret = find(commands, session, &request, &command, &err);
    if (ret == 0)
        ret = execute(ctx, session, command, request.arguments, &value, &err);
    if (ret < 0) {
        json_decref(value);
        return weir_qmp_error_reply(request.id, err);
    }
    reply = json_object();
    json_object_set_new(reply, "return", value ? value : json_object());
    if (request.id)
        json_object_set(reply, "id", request.id);
    return reply;
}

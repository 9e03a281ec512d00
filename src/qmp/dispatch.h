/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a request object to the reply object: checks, look-up, argument parsing, the handler, errors.
 *
 * Knows nothing of monitors and their connections; a table of commands (generated: gen/commands.h, or a test's own)
 * says what there is.
 */
#ifndef WEIR_QMP_DISPATCH_H
#define WEIR_QMP_DISPATCH_H

#include "base/error.h"
#include "base/macros.h"
#include "base/schema.h"
#include <jansson.h>

struct weir_monitors;

/* What a handler knows of the world. */
struct weir_qmp_context {
    struct weir_monitors *monitors; /* for weir_qmp_event() */
    void *opaque;                   /* as given to weir_monitors_new(): the daemon's state */
};

struct weir_qmp_command {
    const char *name;
    const struct weir_schema_type *arguments;
    const struct weir_schema_type *returns; /* NULL: an empty object */
    /*
     * A coroutine on the control loop. @args is the parsed struct, borrowed. On success 0, and *ret_value (NULL
     * before) is a new reference to the result, or still NULL where the command returns nothing. NULL: a command
     * that the monitor answers itself.
     */
    int (*run)(struct weir_qmp_context *ctx, const void *args, json_t **ret_value, struct weir_error **err);
};

struct weir_qmp_commands {
    const struct weir_qmp_command *list;
    size_t count;
};

const struct weir_qmp_command *weir_qmp_command_find(const struct weir_qmp_commands *commands,
                                                     const char *name);

/* The command that is answered by the monitor: ends the negotiation. */
#define WEIR_QMP_NEGOTIATE "qmp_capabilities"

/* What the negotiation has come to. */
struct weir_qmp_session {
    bool negotiated;
    bool oob; /* exec-oob is understood */
};

/*
 * Executes one request. @input is any JSON value (borrowed); *session changes with a successful negotiation.
 * Returns the reply, a new reference. Never fails: errors are replies.
 */
json_t *weir_qmp_dispatch(const struct weir_qmp_commands *commands, struct weir_qmp_context *ctx,
                          struct weir_qmp_session *session, json_t *input) weir_co_fn;

/* {"error": {...}}, with "id" where @id is not NULL. @error is borrowed. */
json_t *weir_qmp_error_reply(json_t *id, const struct weir_error *error);

#endif

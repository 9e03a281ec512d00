/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: the daemon itself.
 */
#include "gen/commands.h"
#include "qmp/cmd.h"
#include "qmp/introspect.h"

weir_co_fn int qmp_query_version(struct weir_qmp_context *ctx, const struct weir_q_query_version_args *args,
                                 json_t **ret_value, struct weir_error **err)
{
    *ret_value = weir_qmp_version(((struct weir_qmp_host *)ctx->opaque)->package);
    return 0;
}

weir_co_fn int qmp_query_commands(struct weir_qmp_context *ctx, const struct weir_q_query_commands_args *args,
                                  json_t **ret_value, struct weir_error **err)
{
    *ret_value = weir_qmp_command_list(&weir_qmp_commands);
    return 0;
}

weir_co_fn int qmp_query_qmp_schema(struct weir_qmp_context *ctx,
                                    const struct weir_q_query_qmp_schema_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    *ret_value = weir_qmp_introspection();
    return 0;
}

weir_co_fn int qmp_quit(struct weir_qmp_context *ctx, const struct weir_q_quit_args *args, json_t **ret_value,
                        struct weir_error **err)
{
    struct weir_qmp_host *host = ctx->opaque;

    host->quit(host);
    return 0;
}

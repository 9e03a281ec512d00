/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: exports and the NBD server.
 */
#include "export/export.h"
#include "export/nbd/server.h"
#include "gen/commands.h"
#include "qmp/cmd.h"
#include "qmp/events.h"
#include <errno.h>

weir_co_fn int qmp_block_export_add(struct weir_qmp_context *ctx,
                                    const struct weir_q_block_export_options *args, json_t **ret_value,
                                    struct weir_error **err)
{
    struct weir_export_options options = {
        .type = weir_schema_enum_name(&weir_schema_block_export_type, (int)args->type),
        .id = args->id,
        .node_name = args->node_name,
        .writable = args->writable,
        .writethrough = args->writethrough,
        .iothread = args->iothread,
        .name = args->u.nbd.name,
        .description = args->u.nbd.description,
    };

    return weir_export_add(&options, err);
}

weir_co_fn int qmp_block_export_del(struct weir_qmp_context *ctx,
                                    const struct weir_q_block_export_del_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    return weir_export_del(
        args->id, args->mode == WEIR_Q_BLOCK_EXPORT_REMOVE_MODE_HARD ? WEIR_EXPORT_HARD : WEIR_EXPORT_SAFE,
        err);
}

weir_co_fn int qmp_query_block_exports(struct weir_qmp_context *ctx,
                                       const struct weir_q_query_block_exports_args *args, json_t **ret_value,
                                       struct weir_error **err)
{
    *ret_value = json_array();
    for (struct weir_export *export = weir_export_next(NULL); export; export = weir_export_next(export))
        json_array_append_new(*ret_value, json_pack("{s:s, s:s, s:s, s:b}", "id", weir_export_id(export),
                                                    "type", weir_export_type_name(export), "node-name",
                                                    weir_export_node_name(export), "shutting-down",
                                                    weir_export_shutting_down(export)));
    return 0;
}

/* ---- the NBD server ---- */

int weir_nbd_server_apply(const struct weir_q_nbd_server_options *options, struct weir_error **err)
{
    struct weir_nbd_server_options server = {
        .connections_max = options->max_connections,
        .handshake_max_s = options->handshake_max_seconds,
    };

    switch (options->addr.type) {
    case WEIR_Q_SOCKET_ADDRESS_TYPE_INET:
        server.type = WEIR_NBD_INET;
        server.host = options->addr.u.inet.host;
        server.port = options->addr.u.inet.port;
        break;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_UNIX:
        server.type = WEIR_NBD_UNIX;
        server.path = options->addr.u.unix_.path;
        break;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_FD:
        server.type = WEIR_NBD_FD;
        server.fd = options->addr.u.fd.str;
        break;
    }
    return weir_nbd_server_start(&server, err);
}

/* The command wraps the address in {type, data}; the option does not. */
weir_co_fn int qmp_nbd_server_start(struct weir_qmp_context *ctx,
                                    const struct weir_q_nbd_server_start_args *args, json_t **ret_value,
                                    struct weir_error **err)
{
    struct weir_q_nbd_server_options options = {
        .addr.type = args->addr.type,
        .max_connections = args->max_connections,
        .handshake_max_seconds = args->handshake_max_seconds,
    };

    switch (args->addr.type) {
    case WEIR_Q_SOCKET_ADDRESS_TYPE_INET:
        options.addr.u.inet = args->addr.u.inet.data;
        break;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_UNIX:
        options.addr.u.unix_ = args->addr.u.unix_.data;
        break;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_FD:
        options.addr.u.fd = args->addr.u.fd.data;
        break;
    }
    return weir_nbd_server_apply(&options, err);
}

weir_co_fn int qmp_nbd_server_stop(struct weir_qmp_context *ctx,
                                   const struct weir_q_nbd_server_stop_args *args, json_t **ret_value,
                                   struct weir_error **err)
{
    return weir_nbd_server_stop(WEIR_EXPORT_LIMIT_NS, err);
}

/* ---- events ---- */

static struct weir_monitors *event_monitors;

static void export_deleted(const char *id)
{
    if (event_monitors)
        weir_qmp_event(event_monitors, "BLOCK_EXPORT_DELETED", json_pack("{s:s}", "id", id));
}

void weir_qmp_connect_export_events(struct weir_monitors *monitors)
{
    event_monitors = monitors;
    weir_export_on_deleted(export_deleted);
}

void weir_qmp_connect_events(struct weir_monitors *monitors)
{
    weir_qmp_connect_job_events(monitors);
    weir_qmp_connect_export_events(monitors);
    weir_qmp_connect_node_events(monitors);
    weir_qmp_connect_quorum_events(monitors);
}

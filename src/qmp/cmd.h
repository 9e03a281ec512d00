/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the command handlers share, and what they need from the daemon around them.
 */
#ifndef WEIR_QMP_CMD_H
#define WEIR_QMP_CMD_H

#include "graph/node.h"
#include "qmp/dispatch.h"

/* ctx->opaque of every handler. */
struct weir_qmp_host {
    const char *package; /* name and version, for query-version */
    /* Begins the orderly stop of the daemon. */
    void (*quit)(struct weir_qmp_host *host);
};

/* Root edges that live for one command. */
extern const struct weir_root_ops weir_qmp_root_ops;

/* Sends the events of jobs and exports to the monitors of @monitors (NULL: to nobody). */
void weir_qmp_connect_events(struct weir_monitors *monitors);

/* Each module its own part of that. */
void weir_qmp_connect_job_events(struct weir_monitors *monitors);
void weir_qmp_connect_export_events(struct weir_monitors *monitors);
void weir_qmp_connect_node_events(struct weir_monitors *monitors);
void weir_qmp_connect_quorum_events(struct weir_monitors *monitors);

/* Objects by qom-type and id; the daemon's --object calls the same. */
struct weir_q_object_options;
int weir_object_add(const struct weir_q_object_options *options, struct weir_error **err) weir_co_fn;
/* The NBD server as --nbd-server and nbd-server-start want it. */
struct weir_q_nbd_server_options;
int weir_nbd_server_apply(const struct weir_q_nbd_server_options *options,
                          struct weir_error **err) weir_co_fn;

/* Waits until requests that human-monitor-command began have ended, at most until @deadline_ns. */
void weir_hmp_settle(int64_t deadline_ns) weir_co_fn;

/* Deletes all, in any order; those in use stay. */
void weir_objects_done(void) weir_co_fn;

#endif

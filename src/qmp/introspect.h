/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the daemon says about itself: schema, list of commands, version. Each function returns a new reference.
 * Plain memory work; any thread.
 */
#ifndef WEIR_QMP_INTROSPECT_H
#define WEIR_QMP_INTROSPECT_H

#include "qmp/dispatch.h"

/* The QMP interface that the daemon offers is that of this version of QEMU's (clients compare it). */
#define WEIR_QMP_VERSION_MAJOR 7
#define WEIR_QMP_VERSION_MINOR 2
#define WEIR_QMP_VERSION_MICRO 22

/* query-qmp-schema's answer. */
json_t *weir_qmp_introspection(void);
/* query-commands' answer. */
json_t *weir_qmp_command_list(const struct weir_qmp_commands *commands);
/* query-version's answer. @package: name and version of the program. */
json_t *weir_qmp_version(const char *package);

#endif

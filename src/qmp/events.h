/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events, and the set of monitors that they go to.
 *
 * Control loop only.
 */
#ifndef WEIR_QMP_EVENTS_H
#define WEIR_QMP_EVENTS_H

#include "base/macros.h"
#include "qmp/dispatch.h"
#include <jansson.h>

struct weir_monitor;
struct weir_monitors;

/*
 * @commands is borrowed and must outlive the set. @package: name and version, for the greeting. @opaque reaches
 * handlers through their context. @log (may be NULL) gets one line, without its end, for each thing that an operator
 * should know.
 */
struct weir_monitors *weir_monitors_new(const struct weir_qmp_commands *commands, const char *package,
                                        void *opaque, void (*log)(void *opaque, const char *line));
/* Every monitor must be gone (asserted). NULL is fine. */
void weir_monitors_free(struct weir_monitors *monitors);

/*
 * Sends an event to every monitor whose client has ended the negotiation. @data (taken over; NULL: no data) must be
 * what the schema says (asserted).
 */
void weir_qmp_event(struct weir_monitors *monitors, const char *name, json_t *data);
/* One line, without its end, for the operator. */
void weir_qmp_log(struct weir_monitors *monitors, const char *line);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The inside of the set of monitors, for events.c and monitor.c.
 */
#ifndef WEIR_QMP_MONITORS_H
#define WEIR_QMP_MONITORS_H

#include "qmp/events.h"
#include <sys/queue.h>

LIST_HEAD(weir_monitor_list, weir_monitor);

struct weir_monitors {
    const struct weir_qmp_commands *commands;
    char *package;
    void *opaque;
    void (*log)(void *opaque, const char *line);
    struct weir_monitor_list list;
};

/* Puts an event out if the client has ended the negotiation. @event is borrowed. */
void weir_monitor_send_event(struct weir_monitor *monitor, json_t *event);
/* The next of the set, NULL behind the last. */
struct weir_monitor *weir_monitor_next(const struct weir_monitor *monitor);

#endif

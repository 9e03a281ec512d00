/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events go to every monitor at once, with one time stamp.
 */
#include "qmp/events.h"
#include "base/alloc.h"
#include "gen/schema.h"
#include "qmp/monitors.h"
#include "sys/sys.h"
#include <string.h>

struct weir_monitors *weir_monitors_new(const struct weir_qmp_commands *commands, const char *package,
                                        void *opaque, void (*log)(void *opaque, const char *line))
{
    struct weir_monitors *monitors = weir_new(struct weir_monitors);

    monitors->commands = commands;
    monitors->package = weir_strdup(package);
    monitors->opaque = opaque;
    monitors->log = log;
    LIST_INIT(&monitors->list);
    return monitors;
}

void weir_monitors_free(struct weir_monitors *monitors)
{
    if (!monitors)
        return;
    WEIR_ASSERT(LIST_EMPTY(&monitors->list));
    free(monitors->package);
    free(monitors);
}

/* An event that the schema does not have, or has otherwise, is a programmer's error. */
static void check_event(const char *name, json_t *data)
{
    json_t *none = data ? NULL : json_object();
    const struct weir_schema_event *event = weir_schema_events;

    while (event < weir_schema_events + WEIR_SCHEMA_EVENT_COUNT && strcmp(event->name, name) != 0)
        event++;
    WEIR_ASSERT(event < weir_schema_events + WEIR_SCHEMA_EVENT_COUNT);
    WEIR_ASSERT(weir_schema_validate(event->data, data ? data : none, NULL) == 0);
    json_decref(none);
}

void weir_qmp_event(struct weir_monitors *monitors, const char *name, json_t *data)
{
    int64_t now = weir_sys->wall_ns();
    json_t *event = json_object();
    struct weir_monitor *monitor, *next;

    check_event(name, data);
    json_object_set_new(event, "timestamp",
                        json_pack("{s:I,s:I}", "seconds", (json_int_t)(now / 1000000000), "microseconds",
                                  (json_int_t)(now % 1000000000 / 1000)));
    json_object_set_new(event, "event", json_string(name));
    if (data)
        json_object_set_new(event, "data", data);
    for (monitor = LIST_FIRST(&monitors->list); monitor; monitor = next) {
        next = weir_monitor_next(monitor);
        weir_monitor_send_event(monitor, event);
    }
    json_decref(event);
}

void weir_qmp_log(struct weir_monitors *monitors, const char *line)
{
    if (monitors->log)
        monitors->log(monitors->opaque, line);
}

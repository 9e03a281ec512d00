/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the place where something happens to the node that wants to know.
 */
#include "graph/event.h"

#include "base/alloc.h"
#include <string.h>

atomic_uint weir_event_listeners;

void weir_event_raise(struct weir_node *node, enum weir_event event)
{
    while (!node->driver->event) {
        struct weir_edge *below = node->driver->flags & WEIR_DRIVER_FILTER ? weir_node_filtered(node) : NULL;

        if (!below)
            return;
        node = below->node;
    }
    node->driver->event(node, (unsigned)event);
}

void weir_event_raise_set(struct weir_node *node, uint64_t events)
{
    for (unsigned event = 0; events && event < WEIR_EVENT_COUNT; event++) {
        if (events & WEIR_EVENT_BIT(event))
            weir_event_raise(node, (enum weir_event)event);
    }
}

enum weir_event weir_event_find(const char *name)
{
    static const char *const names[] = {
#define NAME(event, text) [WEIR_EVENT_##event] = text,
        WEIR_EVENT_LIST(NAME)
#undef NAME
    };
    unsigned event = 0;

    while (event < WEIR_EVENT_COUNT && strcmp(names[event], name) != 0)
        event++;
    return (enum weir_event)event;
}

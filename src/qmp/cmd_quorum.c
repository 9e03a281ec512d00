/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: children of a quorum come and go; children that disagree.
 *
 * Events of a child that fails may come with each request: of each node at most one a second goes out, the last of
 * those that came meanwhile.
 */
#include "base/alloc.h"
#include "co/loop.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "qmp/cmd.h"
#include "qmp/events.h"
#include "sys/sys.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define INTERVAL_NS 1000000000LL
#define SECTOR 512u

/* ---- x-blockdev-change ---- */

static weir_co_fn int del_child(struct weir_node *parent, const char *name, struct weir_error **err)
{
    struct weir_edge *edge = weir_node_child(parent, name);

    if (!edge)
        return weir_error_set(err, -ENOENT, "Node '%s' does not have child '%s'", parent->name, name);
    if (!parent->driver->children)
        return weir_error_set(err, -ENOTSUP, "The node %s does not support removing a child", parent->name);
    return parent->driver->children->del(parent, edge, err);
}

static weir_co_fn int add_child(struct weir_node *parent, const char *name, struct weir_error **err)
{
    struct weir_node *node = weir_node_find(name);

    if (!node)
        return weir_error_set(err, -ENOENT, "Node '%s' not found", name);
    if (!parent->driver->children)
        return weir_error_set(err, -ENOTSUP, "The node %s does not support adding a child", parent->name);
    if (!TAILQ_EMPTY(&node->parents))
        return weir_error_set(err, -EBUSY, "The node %s already has a parent", node->name);
    return parent->driver->children->add(parent, node, err);
}

/* With the graph-change lock held. */
static weir_co_fn int change(const struct weir_q_x_blockdev_change_args *args, struct weir_error **err)
{
    struct weir_node *parent = weir_node_lookup(args->parent, args->parent, err);
    struct weir_drain drain;
    int ret;

    if (!parent)
        return -ENODEV;
    if (args->child && args->node)
        return weir_error_set(err, -EINVAL, "The parameters child and node are in conflict");
    if (!args->child && !args->node)
        return weir_error_set(err, -EINVAL, "Either child or node must be specified");
    weir_node_ref(parent);
    ret = weir_drain_begin(&drain, &parent, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        ret = args->child ? del_child(parent, args->child, err) : add_child(parent, args->node, err);
        weir_drain_end(&drain);
    }
    weir_node_unref(parent);
    return ret;
}

weir_co_fn int qmp_x_blockdev_change(struct weir_qmp_context *ctx,
                                     const struct weir_q_x_blockdev_change_args *args, json_t **ret_value,
                                     struct weir_error **err)
{
    int ret;

    weir_graph_lock();
    ret = change(args, err);
    weir_graph_unlock();
    return ret;
}

/* ---- events ---- */

/* Events of one name about one node, for as long as the interval of the last one lasts. */
struct limited {
    struct weir_timer timer;
    const char *name;
    char *node_name;
    json_t *pending; /* or NULL */
    TAILQ_ENTRY(limited) link;
};

static TAILQ_HEAD(, limited) all_limited = TAILQ_HEAD_INITIALIZER(all_limited);
static struct weir_monitors *event_monitors;

static void forget(struct limited *limited)
{
    weir_timer_cancel(&limited->timer);
    TAILQ_REMOVE(&all_limited, limited, link);
    json_decref(limited->pending);
    free(limited->node_name);
    free(limited);
}

static void interval_over(struct weir_timer *timer)
{
    struct limited *limited = weir_container_of(timer, struct limited, timer);

    if (!limited->pending) {
        forget(limited);
        return;
    }
    weir_qmp_event(event_monitors, limited->name, weir_steal(&limited->pending));
    weir_timer_arm(&limited->timer, weir_sys->clock_ns() + INTERVAL_NS);
}

/* Takes @data over. */
static void send_limited(const char *name, const char *node_name, json_t *data)
{
    struct limited *limited;

    TAILQ_FOREACH (limited, &all_limited, link) {
        if (!strcmp(limited->name, name) && !strcmp(limited->node_name, node_name)) {
            json_decref(limited->pending);
            limited->pending = data;
            return;
        }
    }
    limited = weir_new(struct limited);
    limited->name = name;
    limited->node_name = weir_strdup(node_name);
    limited->timer.run = interval_over;
    TAILQ_INSERT_TAIL(&all_limited, limited, link);
    weir_timer_arm(&limited->timer, weir_sys->clock_ns() + INTERVAL_NS);
    weir_qmp_event(event_monitors, name, data);
}

static const char *type_of(enum weir_op op)
{
    return op == WEIR_OP_READ ? "read" : op == WEIR_OP_FLUSH ? "flush" : "write";
}

static json_t *sectors_of(const struct weir_dissent *dissent)
{
    uint64_t first = dissent->offset / SECTOR;
    uint64_t count = (dissent->offset + dissent->length + SECTOR - 1) / SECTOR - first;

    return json_pack("{s:I, s:I}", "sector-num", (json_int_t)first, "sectors-count", (json_int_t)count);
}

static void report_child(const struct weir_dissent *dissent)
{
    json_t *data = sectors_of(dissent);

    json_object_set_new(data, "type", json_string(type_of(dissent->op)));
    json_object_set_new(data, "node-name", json_string(dissent->node->name));
    if (dissent->error)
        json_object_set_new(data, "error", json_string(strerror(-dissent->error)));
    send_limited("QUORUM_REPORT_BAD", dissent->node->name, data);
}

static void report_failure(const struct weir_dissent *dissent)
{
    json_t *data = sectors_of(dissent);

    json_object_set_new(data, "reference", json_string(dissent->node->name));
    send_limited("QUORUM_FAILURE", dissent->node->name, data);
}

/* Two that must hold the same: there is no event for that, but a line for the operator. */
static void log_mismatch(const struct weir_dissent *dissent)
{
    weir_autofree char *what =
        dissent->at < 0 ? weir_strdup_printf("return value mismatch (%s)", strerror(-dissent->error))
                        : weir_strdup_printf("contents mismatch at offset %" PRId64, dissent->at);
    weir_autofree char *line = weir_strdup_printf(
        "%s: node '%s': %s offset=%" PRIu64 " bytes=%" PRIu64 " %s", dissent->node->driver->name,
        dissent->node->name, type_of(dissent->op), dissent->offset, dissent->length, what);

    weir_qmp_log(event_monitors, line);
}

static void on_dissent(const struct weir_dissent *dissent)
{
    if (!event_monitors)
        return;
    switch (dissent->kind) {
    case WEIR_DISSENT_CHILD:
        report_child(dissent);
        break;
    case WEIR_DISSENT_FAILURE:
        report_failure(dissent);
        break;
    case WEIR_DISSENT_MISMATCH:
        log_mismatch(dissent);
        break;
    }
}

void weir_qmp_connect_quorum_events(struct weir_monitors *monitors)
{
    struct limited *limited;

    while ((limited = TAILQ_FIRST(&all_limited)))
        forget(limited);
    event_monitors = monitors;
    weir_graph_on_dissent(on_dissent);
}

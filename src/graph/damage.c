/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Word of damaged images, of children that do not hold the same, and of writes that went far, goes to the control loop,
 * and from there to whoever listens.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"

static struct {
    void (*damage)(const struct weir_damage *damage);
    void (*dissent)(const struct weir_dissent *dissent);
    void (*excess)(const struct weir_excess *excess);
} listeners;

void weir_graph_on_damage(void (*listener)(const struct weir_damage *damage))
{
    listeners.damage = listener;
}

void weir_graph_on_dissent(void (*listener)(const struct weir_dissent *dissent))
{
    listeners.dissent = listener;
}

void weir_graph_on_excess(void (*listener)(const struct weir_excess *excess))
{
    listeners.excess = listener;
}

struct report {
    struct weir_call call;
    enum { DAMAGE, DISSENT, EXCESS } kind;
    struct weir_node *node; /* reference */
    union {
        struct weir_damage damage;
        struct weir_dissent dissent;
        struct weir_excess excess;
    } what;
};

static void deliver(struct weir_call *call)
{
    struct report *report = weir_container_of(call, struct report, call);

    if (report->kind == DAMAGE && listeners.damage)
        listeners.damage(&report->what.damage);
    else if (report->kind == DISSENT && listeners.dissent)
        listeners.dissent(&report->what.dissent);
    else if (report->kind == EXCESS && listeners.excess)
        listeners.excess(&report->what.excess);
    weir_node_unref(report->node);
    free(report);
}

static void send(const struct report *report)
{
    struct report *own = weir_new(struct report);

    *own = *report;
    weir_node_ref(own->node);
    own->call.run = deliver;
    weir_loop_call(weir_loop_control(), &own->call);
}

void weir_node_damaged(struct weir_node *node, const char *text, uint64_t offset, bool fatal)
{
    send(&(struct report){ .kind = DAMAGE, .node = node, .what.damage = { node, text, offset, fatal } });
}

void weir_node_dissent(const struct weir_dissent *dissent)
{
    send(&(struct report){ .kind = DISSENT, .node = dissent->node, .what.dissent = *dissent });
}

void weir_node_exceeded(struct weir_node *node, uint64_t threshold, uint64_t amount)
{
    send(&(struct report){ .kind = EXCESS, .node = node, .what.excess = { node, threshold, amount } });
}

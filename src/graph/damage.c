/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Word of damaged images, of children that do not hold the same, and of writes that went far, goes to the control loop,
 * and from there to whoever listens.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"

struct report {
    struct weir_call call;
    struct weir_damage damage;
};

static void (*damage_listener)(const struct weir_damage *damage);

void weir_graph_on_damage(void (*listener)(const struct weir_damage *damage))
{
    damage_listener = listener;
}

static void deliver(struct weir_call *call)
{
    struct report *report = weir_container_of(call, struct report, call);

    if (damage_listener)
        damage_listener(&report->damage);
    weir_node_unref(report->damage.node);
    free(report);
}

void weir_node_damaged(struct weir_node *node, const char *text, uint64_t offset, bool fatal)
{
    struct report *report = weir_new(struct report);

    report->damage = (struct weir_damage){ weir_node_ref(node), text, offset, fatal };
    report->call.run = deliver;
    weir_loop_call(weir_loop_control(), &report->call);
}

/* ---- children that disagree ---- */

struct dissent_report {
    struct weir_call call;
    struct weir_dissent dissent;
};

static void (*dissent_listener)(const struct weir_dissent *dissent);

void weir_graph_on_dissent(void (*listener)(const struct weir_dissent *dissent))
{
    dissent_listener = listener;
}

static void deliver_dissent(struct weir_call *call)
{
    struct dissent_report *report = weir_container_of(call, struct dissent_report, call);

    if (dissent_listener)
        dissent_listener(&report->dissent);
    weir_node_unref(report->dissent.node);
    free(report);
}

void weir_node_dissent(const struct weir_dissent *dissent)
{
    struct dissent_report *report = weir_new(struct dissent_report);

    report->dissent = *dissent;
    weir_node_ref(report->dissent.node);
    report->call.run = deliver_dissent;
    weir_loop_call(weir_loop_control(), &report->call);
}

/* ---- writes beyond a threshold ---- */

struct excess_report {
    struct weir_call call;
    struct weir_excess excess;
};

static void (*excess_listener)(const struct weir_excess *excess);

void weir_graph_on_excess(void (*listener)(const struct weir_excess *excess))
{
    excess_listener = listener;
}

static void deliver_excess(struct weir_call *call)
{
    struct excess_report *report = weir_container_of(call, struct excess_report, call);

    if (excess_listener)
        excess_listener(&report->excess);
    weir_node_unref(report->excess.node);
    free(report);
}

void weir_node_exceeded(struct weir_node *node, uint64_t threshold, uint64_t amount)
{
    struct excess_report *report = weir_new(struct excess_report);

    report->excess = (struct weir_excess){ weir_node_ref(node), threshold, amount };
    report->call.run = deliver_excess;
    weir_loop_call(weir_loop_control(), &report->call);
}

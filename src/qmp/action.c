/* SPDX-License-Identifier: BSD-2-Clause */
#include "qmp/action.h"

#include "base/alloc.h"
#include <errno.h>

struct concerned {
    struct weir_node *nodes[WEIR_DRAIN_NODES_MAX];
    unsigned count;
};

static int add_node(struct concerned *concerned, struct weir_node *node, struct weir_error **err)
{
    for (unsigned i = 0; i < concerned->count; i++) {
        if (concerned->nodes[i] == node)
            return 0;
    }
    if (concerned->count == WEIR_DRAIN_NODES_MAX)
        return weir_error_set(err, -E2BIG, "A transaction may concern %d nodes at most",
                              WEIR_DRAIN_NODES_MAX);
    concerned->nodes[concerned->count++] = node;
    return 0;
}

static int find_all(struct weir_action *actions, unsigned count, struct concerned *concerned,
                    struct weir_error **err)
{
    int ret = 0;

    for (unsigned i = 0; i < count && !ret; i++) {
        if (actions[i].kind->find)
            ret = actions[i].kind->find(&actions[i], err);
        for (unsigned j = 0; j < actions[i].more_count && !ret; j++)
            ret = add_node(concerned, actions[i].more[j], err);
        for (unsigned j = 0; j < WEIR_ACTION_NODES_MAX && actions[i].nodes[j] && !ret; j++)
            ret = add_node(concerned, actions[i].nodes[j], err);
    }
    return ret;
}

static weir_co_fn int edit_all(struct weir_action *actions, unsigned count, struct weir_error **err)
{
    struct weir_tran *tran = weir_tran_new();
    int ret = 0;

    for (unsigned i = 0; i < count && !ret; i++) {
        if (actions[i].kind->edit)
            ret = actions[i].kind->edit(&actions[i], tran, err);
    }
    for (unsigned i = 0; i < count && !ret; i++) {
        if (actions[i].kind->check)
            ret = actions[i].kind->check(&actions[i], err);
    }
    ret = weir_tran_end(tran, ret, err);
    for (unsigned i = 0; i < count && !ret; i++) {
        if (actions[i].kind->commit)
            actions[i].kind->commit(&actions[i]);
    }
    return ret;
}

/* All that has been opened, at one moment. */
static weir_co_fn int apply(struct weir_action *actions, unsigned count, struct weir_error **err)
{
    struct concerned concerned = { .count = 0 };
    struct weir_drain drain = { 0 };
    int ret;

    weir_graph_lock();
    ret = find_all(actions, count, &concerned, err);
    if (!ret && concerned.count)
        ret = weir_drain_begin(&drain, concerned.nodes, concerned.count, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret)
        ret = edit_all(actions, count, err);
    if (drain.active)
        weir_drain_end(&drain);
    weir_graph_unlock();
    return ret;
}

int weir_actions_run(struct weir_action *actions, unsigned count, struct weir_error **err)
{
    unsigned opened = 0;
    int ret = 0;

    while (opened < count && !ret) {
        if (actions[opened].kind->open)
            ret = actions[opened].kind->open(&actions[opened], err);
        if (!ret)
            opened++;
    }
    if (!ret)
        ret = apply(actions, count, err);
    while (opened-- > 0) {
        if (actions[opened].kind->end)
            actions[opened].kind->end(&actions[opened], !ret);
    }
    return ret;
}

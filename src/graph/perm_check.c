/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Permissions of the whole graph.
 *
 * A node's cumulative permissions are what its parents' edges together take, and what all of them share. From them
 * follows what the node takes from its own children: so everything is computed from the top down, for the graph as
 * it is now, checked edge against edge, and offered to the drivers (OS locks). Old values are kept with each edge
 * and node, for the way back.
 *
 * Edges that are detached while requests were left behind on them count: such a write may still happen.
 */
#include "base/alloc.h"
#include "graph/internal.h"

#define WRITES (WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED | WEIR_PERM_RESIZE)

/* All edges whose permissions count on @node: a new array of *ret_count. */
static const struct weir_edge **users_of(const struct weir_node *node, unsigned *ret_count)
{
    const struct weir_edge *edge, **users;
    const struct weir_lingering *lingering;
    unsigned count = 0;

    TAILQ_FOREACH (edge, &node->parents, in_node)
        count++;
    TAILQ_FOREACH (lingering, &node->graph->lingering, link)
        count++;
    users = weir_new_array(const struct weir_edge *, count + 1);
    count = 0;
    TAILQ_FOREACH (edge, &node->parents, in_node)
        users[count++] = edge;
    TAILQ_FOREACH (lingering, &node->graph->lingering, link)
        users[count++] = lingering->edge;
    *ret_count = count;
    return users;
}

/* What @taker takes and @sharer does not share. */
static unsigned conflict(const struct weir_edge *taker, const struct weir_edge *sharer)
{
    unsigned denied = taker->perm & ~sharer->shared;

    if (!denied && (taker->perm & WEIR_PERM_WRITE))
        denied = WEIR_PERM_WRITE_UNCHANGED & ~sharer->shared; /* implied */
    return denied;
}

static int report_conflict(const struct weir_node *node, const struct weir_edge *taker,
                           const struct weir_edge *sharer, unsigned denied, struct weir_error **err)
{
    weir_autofree char *perms = weir_perm_names(denied);
    weir_autofree char *by = weir_edge_describe_parent(taker);
    weir_autofree char *against = weir_edge_describe_parent(sharer);

    return weir_error_set(
        err, -EPERM,
        "Permission conflict on node '%s': permissions '%s' are both required by %s (uses node "
        "'%s' as '%s' child) and unshared by %s (uses node '%s' as '%s' child).",
        node->name, perms, by, node->name, taker->name, against, node->name, sharer->name);
}

/* Who came last asks for too much, rather than those who were there. */
static int check_conflicts(const struct weir_node *node, const struct weir_edge *const *users, unsigned count,
                           struct weir_error **err)
{
    for (unsigned i = count; i-- > 0;) {
        for (unsigned j = 0; j < count; j++) {
            unsigned denied = i == j ? 0 : conflict(users[i], users[j]);

            if (denied)
                return report_conflict(node, users[i], users[j], denied, err);
        }
    }
    return 0;
}

/* A node that is read-only for the time being only is made writable by its driver. */
static bool can_write(const struct weir_node *node)
{
    if (!node->read_only)
        return true;
    return node->auto_read_only && !node->read_only_asked && node->driver->perm_prepare;
}

static int check_node(const struct weir_node *node, const struct weir_edge *const *users, unsigned count,
                      struct weir_error **err)
{
    unsigned implied = node->perm & WEIR_PERM_WRITE ? WEIR_PERM_WRITE_UNCHANGED : 0;

    if ((node->perm & WRITES) && !can_write(node))
        return node->graph->turning
                   ? weir_error_set(err, -EACCES, "Read-only block node '%s' cannot support read-write users",
                                    node->name)
                   : weir_error_set(err, -EACCES, "Block node is read-only");
    if (!((node->perm | implied) & ~node->shared))
        return 0;
    return check_conflicts(node, users, count, err);
}

/* From the edges above @node to those below. */
static int compute_node(struct weir_node *node, bool check, struct weir_error **err)
{
    unsigned count;
    weir_autofree const struct weir_edge **users = users_of(node, &count);
    struct weir_edge *edge;

    node->perm = 0;
    node->shared = WEIR_PERM_ALL;
    for (unsigned i = 0; i < count; i++) {
        node->perm |= users[i]->perm;
        node->shared &= users[i]->shared;
    }
    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (node->driver->child_perm)
            node->driver->child_perm(node, edge, node->perm, node->shared, &edge->perm, &edge->shared);
        else
            weir_perm_default(node, edge, node->perm, node->shared, &edge->perm, &edge->shared);
        if (edge->node->force_share)
            edge->shared = WEIR_PERM_ALL;
    }
    return check ? check_node(node, users, count, err) : 0;
}

/* ---- the way back ---- */

static void save(struct weir_node *const *order, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct weir_edge *edge;

        order[i]->graph->old_perm = order[i]->perm;
        order[i]->graph->old_shared = order[i]->shared;
        TAILQ_FOREACH (edge, &order[i]->children, in_parent) {
            edge->old_perm = edge->perm;
            edge->old_shared = edge->shared;
        }
    }
}

static void restore(struct weir_node *const *order, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        struct weir_edge *edge;

        order[i]->perm = order[i]->graph->old_perm;
        order[i]->shared = order[i]->graph->old_shared;
        TAILQ_FOREACH (edge, &order[i]->children, in_parent) {
            edge->perm = edge->old_perm;
            edge->shared = edge->old_shared;
        }
    }
}

/* ---- drivers ---- */

static bool concerns_driver(const struct weir_node *node)
{
    const struct weir_node_graph *own = node->graph;

    if (!node->driver->perm_prepare || !own->opened || own->closing)
        return false;
    return node->perm != own->old_perm || node->shared != own->old_shared;
}

/* Ends what prepare() began, for all nodes. */
static weir_co_fn void end_prepared(struct weir_node *const *order, unsigned count, bool commit)
{
    for (unsigned i = 0; i < count; i++) {
        struct weir_node *node = order[i];

        if (!node->graph->prepared)
            continue;
        node->graph->prepared = false;
        if (commit && node->driver->perm_commit)
            node->driver->perm_commit(node);
        if (!commit && node->driver->perm_abort)
            node->driver->perm_abort(node);
    }
}

static weir_co_fn int prepare(struct weir_node *const *order, unsigned count, bool must,
                              struct weir_error **err)
{
    for (unsigned i = 0; i < count; i++) {
        struct weir_node *node = order[i];
        int ret;

        if (!concerns_driver(node))
            continue;
        ret = node->driver->perm_prepare(node, node->perm, node->shared, must ? err : NULL);
        if (ret < 0 && must)
            return ret;
        node->graph->prepared = ret >= 0;
    }
    return 0;
}

static int compute(struct weir_node *const *order, unsigned count, bool check, struct weir_error **err)
{
    int ret = 0;

    save(order, count);
    for (unsigned i = 0; i < count && !ret; i++)
        ret = compute_node(order[i], check, err);
    return ret;
}

static weir_co_fn int refresh(bool must, struct weir_error **err)
{
    unsigned count;
    weir_autofree struct weir_node **order = weir_graph_order(&count);
    int ret;

    WEIR_ASSERT(order && weir_graph_locked_here());
    ret = compute(order, count, must, err);
    if (!ret)
        ret = prepare(order, count, must, err);
    end_prepared(order, count, ret >= 0);
    if (ret < 0)
        restore(order, count);
    return ret;
}

int weir_perm_try(struct weir_error **err)
{
    unsigned count;
    weir_autofree struct weir_node **order = weir_graph_order(&count);
    int ret;

    WEIR_ASSERT(order && weir_graph_locked_here());
    ret = compute(order, count, true, err);
    restore(order, count);
    return ret;
}

int weir_perm_refresh(struct weir_error **err)
{
    return refresh(true, err);
}

void weir_perm_refresh_less(void)
{
    (void)refresh(false, NULL);
}

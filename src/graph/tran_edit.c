/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Edits of the graph as steps of a transaction: attach, detach, replace, set permissions.
 *
 * An edit takes effect in the lists at once; its step remembers the place that an edge had, which is right again
 * when steps are undone in reverse order. What an edge no longer points at is let go at the end, either way.
 */
#include "graph/graph.h"
#include "base/alloc.h"
#include "graph/internal.h"

/* What lies below the parent of @edge has changed for good. */
static void tell_parent(struct weir_edge *edge)
{
    if (edge->parent) {
        weir_node_refresh(edge->parent);
        if (edge->role & WEIR_ROLE_FILTERED)
            weir_node_follow_size(edge->parent);
    } else if (edge->root_ops && edge->root_ops->replaced) {
        edge->root_ops->replaced(edge);
    }
}

/*
 * @parent has @now (NULL: nothing) in place of the child that was defined inside its options: nothing is inherited any
 * more, unless that is a filter above it.
 */
static void disown(const struct weir_node *parent, struct weir_node *child, const struct weir_node *now)
{
    const struct weir_edge *edge;

    if (!parent || child->graph->maker != parent)
        return;
    while (now && now != child)
        now = (edge = weir_node_filtered(now)) ? edge->node : NULL;
    if (!now)
        child->graph->maker = NULL;
}

/* Drops a reference to a node that may have lost its last user. */
static void let_go(struct weir_node *node)
{
    weir_node_check_unused(node);
    weir_node_unref(node);
}

/* ---- attach ---- */

struct attach_step {
    struct weir_edge *edge;
};

static void attach_commit(void *data)
{
    struct attach_step *step = data;

    tell_parent(step->edge);
}

static void attach_abort(void *data)
{
    struct attach_step *step = data;

    weir_edge_unlink(step->edge);
    weir_edge_drop(step->edge);
}

static const struct weir_tran_ops attach_ops = { .commit = attach_commit, .abort = attach_abort };

static int check_present(const struct weir_node *node, struct weir_error **err)
{
    if (node->in_limbo)
        return weir_error_set(err, -ENOENT, "Node '%s' is being removed", node->name);
    return 0;
}

int weir_tran_attach(struct weir_tran *tran, struct weir_node *parent, struct weir_node *child,
                     const char *name, unsigned role, struct weir_edge **ret_edge, struct weir_error **err)
{
    void *last = weir_tran_last(tran);
    struct attach_step *step;
    int ret = check_present(child, err);

    WEIR_ASSERT(weir_graph_locked_here());
    if (ret < 0)
        return ret;
    step = weir_new(struct attach_step);
    step->edge = weir_edge_new(parent, child, name, role);
    weir_edge_link(step->edge, NULL, NULL);
    weir_tran_add(tran, &attach_ops, step);
    ret = weir_graph_check_shape(parent, child, err);
    if (ret < 0) {
        weir_tran_undo_to(tran, last);
        return ret;
    }
    if (role & WEIR_ROLE_FILTERED)
        weir_node_follow_size(parent); /* before anybody comes to look at the parent */
    if (ret_edge)
        *ret_edge = step->edge;
    return 0;
}

/* ---- detach ---- */

struct detach_step {
    struct weir_edge *edge;
    struct weir_edge *next_in_parent, *next_in_node; /* its place */
};

static void detach_commit(void *data)
{
    struct detach_step *step = data;

    disown(step->edge->parent, step->edge->node, NULL);
    if (step->edge->parent)
        weir_node_refresh(step->edge->parent);
    weir_drain_forget(step->edge);
    weir_edge_drop(step->edge);
}

static void detach_abort(void *data)
{
    struct detach_step *step = data;

    weir_edge_link(step->edge, step->next_in_parent, step->next_in_node);
}

static const struct weir_tran_ops detach_ops = { .commit = detach_commit, .abort = detach_abort };

void weir_tran_detach(struct weir_tran *tran, struct weir_edge *edge)
{
    struct detach_step *step = weir_new(struct detach_step);

    WEIR_ASSERT(weir_graph_locked_here());
    WEIR_ASSERT(!edge->frozen);
    step->edge = edge;
    step->next_in_parent = edge->parent ? TAILQ_NEXT(edge, in_parent) : NULL;
    step->next_in_node = TAILQ_NEXT(edge, in_node);
    weir_edge_unlink(edge);
    weir_tran_add(tran, &detach_ops, step);
}

/* ---- replace ---- */

struct replace_step {
    struct weir_edge *edge;
    struct weir_node *old; /* the reference that the edge had */
    struct weir_edge *next_in_old;
};

static void replace_commit(void *data)
{
    struct replace_step *step = data;

    tell_parent(step->edge);
    disown(step->edge->parent, step->old, step->edge->node);
    let_go(step->old);
}

/* Points @edge, whose place among its parent's children stays, at @node. Whose references count is the caller's. */
static void point_at(struct weir_edge *edge, struct weir_node *node, struct weir_edge *in_node)
{
    struct weir_edge *next = edge->parent ? TAILQ_NEXT(edge, in_parent) : NULL;

    weir_edge_unlink(edge);
    edge->node = node;
    weir_edge_link(edge, next, in_node);
}

static void replace_abort(void *data)
{
    struct replace_step *step = data;
    struct weir_node *node = step->edge->node;

    point_at(step->edge, step->old, step->next_in_old);
    let_go(node);
}

static const struct weir_tran_ops replace_ops = { .commit = replace_commit, .abort = replace_abort };

static int replace(struct weir_tran *tran, struct weir_edge *edge, struct weir_node *node,
                   struct weir_error **err)
{
    struct replace_step *step;
    int ret = weir_edge_check_thawed(edge, err);

    if (ret < 0)
        return ret;
    step = weir_new(struct replace_step);
    step->edge = edge;
    step->old = edge->node;
    step->next_in_old = TAILQ_NEXT(edge, in_node);
    point_at(edge, weir_node_ref(node), NULL);
    weir_tran_add(tran, &replace_ops, step);
    return edge->parent ? weir_graph_check_shape(edge->parent, node, err) : 0;
}

int weir_tran_replace(struct weir_tran *tran, struct weir_edge *edge, struct weir_node *node,
                      struct weir_error **err)
{
    void *last = weir_tran_last(tran);
    int ret = check_present(node, err);

    WEIR_ASSERT(weir_graph_locked_here());
    if (ret < 0)
        return ret;
    ret = replace(tran, edge, node, err);
    if (ret < 0)
        weir_tran_undo_to(tran, last);
    return ret;
}

/* Edges of a node on its way out are left alone: a request left behind there may still use them. */
static bool follows(const struct weir_edge *edge, const struct weir_node *to, const struct weir_node *except)
{
    const struct weir_node *parent = edge->parent;

    return !parent || (parent != to && parent != except && !parent->in_limbo);
}

int weir_tran_replace_parents(struct weir_tran *tran, struct weir_node *from, struct weir_node *to,
                              const struct weir_node *except, struct weir_error **err)
{
    void *last = weir_tran_last(tran);
    struct weir_edge *edge, *next;
    int ret = check_present(to, err);

    WEIR_ASSERT(weir_graph_locked_here() && from != to);
    if (ret < 0)
        return ret;
    for (edge = TAILQ_FIRST(&from->parents); edge && !ret; edge = next) {
        next = TAILQ_NEXT(edge, in_node);
        if (follows(edge, to, except))
            ret = replace(tran, edge, to, err);
    }
    if (ret < 0)
        weir_tran_undo_to(tran, last);
    return ret;
}

/* ---- permissions of a root edge ---- */

struct perm_step {
    struct weir_edge *edge;
    unsigned perm, shared;
};

static void perm_abort(void *data)
{
    struct perm_step *step = data;

    step->edge->perm = step->perm;
    step->edge->shared = step->shared;
}

static const struct weir_tran_ops perm_ops = { .abort = perm_abort };

void weir_tran_set_perm(struct weir_tran *tran, struct weir_edge *edge, unsigned perm, unsigned shared)
{
    struct perm_step *step = weir_new(struct perm_step);

    WEIR_ASSERT(weir_graph_locked_here() && !edge->parent);
    *step = (struct perm_step){ .edge = edge, .perm = edge->perm, .shared = edge->shared };
    edge->perm = perm;
    edge->shared = shared;
    weir_tran_add(tran, &perm_ops, step);
}

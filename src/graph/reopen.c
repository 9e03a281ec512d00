/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making a reopening: children first, then options.
 *
 * What becomes writable is told so from the storage upwards: storage before the permissions are computed, formats once
 * they hold, as those write something at once. What becomes read-only is told in the other direction, formats while
 * they can still write, and storage when nobody can. So until all that may fail has succeeded each node has the union
 * of what it had and what it is to have, and going back is possible; only then permissions are given up.
 */
#include "graph/reopen_plan.h"

#include "base/alloc.h"

static bool is_protocol(const struct weir_reopen_entry *entry)
{
    return entry->node->driver->flags & WEIR_DRIVER_PROTOCOL;
}

static weir_co_fn int call_driver(struct weir_reopen_entry *entry, bool read_only, struct weir_error **err)
{
    const struct weir_driver *driver = entry->node->driver;

    return driver->set_read_only ? driver->set_read_only(entry->node, read_only, err) : 0;
}

/* ---- children ---- */

/* Earlier steps of a transaction may have changed the child since the plan was made: it is looked for once more. */
static int edit_child(const struct weir_reopen_child *change, struct weir_tran *tran, struct weir_error **err)
{
    struct weir_edge *edge = weir_node_child(change->parent, change->name);
    int ret = edge ? weir_edge_check_thawed(edge, err) : 0;

    if (ret)
        return ret;
    if (!edge && change->child)
        return weir_tran_attach(tran, change->parent, change->child, change->name, WEIR_ROLE_COW, NULL, err);
    if (edge && !change->child)
        weir_tran_detach(tran, edge);
    if (!edge || !change->child)
        return 0;
    ret = weir_edge_check_size(edge, change->child, err);
    return ret ? ret : weir_tran_replace(tran, edge, change->child, err);
}

/* ---- options ---- */

/* Also one that could only be opened read-only becomes writable, when that is no longer left to the driver. */
static bool becomes_writable(const struct weir_node *node, const struct weir_common *to)
{
    return !to->read_only && (node->read_only_asked || (node->read_only && !to->auto_read_only));
}

/* A node that becomes read-only is not yet: it has to write what only it knows. */
static weir_co_fn int apply(struct weir_reopen_entry *entry, struct weir_error **err)
{
    const struct weir_common *to = &entry->options.common;
    struct weir_node *node = entry->node;
    bool opens = becomes_writable(node, to), closes = to->read_only && !node->read_only_asked;
    int ret;

    if (node->graph->reopening)
        return weir_error_set(err, -EBUSY, "Node '%s' is reopened by an earlier step", node->name);
    entry->old = weir_node_common(node);
    entry->old_read_only = node->read_only;
    entry->opens = opens;
    entry->closes = closes;
    if (opens && is_protocol(entry)) {
        ret = call_driver(entry, false, err);
        if (ret < 0)
            return ret;
        entry->told = true;
    }
    entry->applied = node->graph->reopening = true;
    weir_node_set_common(node, to);
    if (closes) {
        node->read_only_asked = false;
        node->auto_read_only = entry->old.auto_read_only;
    }
    node->read_only = opens ? false : entry->old_read_only;
    /* Storage opened for reading gets a descriptor for writing when somebody asks for it. */
    if (opens && is_protocol(entry) && node->driver->set_read_only)
        node->auto_read_only = true;
    entry->own =
        (struct weir_reopening){ .options = entry->options.typed, .writable = !opens && !node->read_only };
    ret = node->driver->reopen->prepare ? node->driver->reopen->prepare(node, &entry->own, err) : 0;
    entry->prepared = !ret;
    weir_node_refresh(node);
    return ret;
}

static weir_co_fn void take_back(struct weir_reopen_entry *entry)
{
    struct weir_node *node = entry->node;

    if (!entry->told && !entry->applied)
        return;
    if (entry->told && !is_protocol(entry))
        (void)!call_driver(entry, entry->opens, NULL);
    if (entry->prepared && node->driver->reopen->abort)
        node->driver->reopen->abort(node, &entry->own);
    free(weir_steal(&entry->own.undo));
    if (entry->applied) {
        node->graph->reopening = false;
        weir_node_set_common(node, &entry->old);
        node->read_only = entry->old_read_only;
    }
    if (entry->told && is_protocol(entry))
        (void)!call_driver(entry, entry->opens, NULL);
    weir_node_refresh(node);
    entry->told = entry->prepared = entry->applied = false;
}

/* ---- once the permissions hold ---- */

static weir_co_fn int open_formats(struct weir_reopen *reopen, struct weir_error **err)
{
    int ret = 0;

    for (unsigned i = reopen->count; i-- > 0 && !ret;) {
        struct weir_reopen_entry *entry = &reopen->entries[i];

        if (!entry->opens || is_protocol(entry))
            continue;
        ret = call_driver(entry, false, err);
        entry->told = !ret;
    }
    return ret;
}

static void turn(struct weir_reopen *reopen, bool read_only)
{
    for (unsigned i = 0; i < reopen->count; i++) {
        struct weir_reopen_entry *entry = &reopen->entries[i];

        if (!entry->closes)
            continue;
        entry->node->graph->turning = read_only;
        entry->node->read_only_asked = read_only;
        entry->node->read_only = read_only || entry->old_read_only;
        entry->node->auto_read_only =
            read_only ? entry->options.common.auto_read_only : entry->old.auto_read_only;
    }
}

static bool any_closes(const struct weir_reopen *reopen)
{
    for (unsigned i = 0; i < reopen->count; i++) {
        if (reopen->entries[i].closes)
            return true;
    }
    return false;
}

/* Whether nobody would mind. */
static int try_close(struct weir_reopen *reopen, struct weir_error **err)
{
    int ret;

    if (!any_closes(reopen))
        return 0;
    turn(reopen, true);
    ret = weir_perm_try(err);
    turn(reopen, false);
    return ret;
}

/* Then what has to be written first. */
static weir_co_fn int close_formats(struct weir_reopen *reopen, struct weir_error **err)
{
    int ret = try_close(reopen, err);

    for (unsigned i = 0; i < reopen->count && !ret; i++) {
        struct weir_reopen_entry *entry = &reopen->entries[i];

        if (!entry->closes || entry->old_read_only || is_protocol(entry))
            continue;
        ret = call_driver(entry, true, NULL);
        if (ret)
            weir_error_set_errno(err, ret, "Node '%s' could not write what is left to be written",
                                 entry->node->name);
        /* Also after a failure: what it has begun is to be undone. */
        entry->told = true;
    }
    return ret;
}

static weir_co_fn int reopen_ready(void *data, struct weir_error **err)
{
    struct weir_reopen *reopen = *(struct weir_reopen **)data;
    int ret = open_formats(reopen, err);

    return ret ? ret : close_formats(reopen, err);
}

static weir_co_fn void close_storage(struct weir_reopen *reopen)
{
    if (!any_closes(reopen))
        return;
    turn(reopen, true);
    weir_perm_refresh_less();
    for (unsigned i = 0; i < reopen->count; i++) {
        reopen->entries[i].node->graph->turning = false;
        if (reopen->entries[i].closes && is_protocol(&reopen->entries[i]))
            (void)!call_driver(&reopen->entries[i], true, NULL);
    }
}

static weir_co_fn void reopen_commit(void *data)
{
    struct weir_reopen *reopen = *(struct weir_reopen **)data;

    close_storage(reopen);
    for (unsigned i = 0; i < reopen->count; i++) {
        struct weir_reopen_entry *entry = &reopen->entries[i];
        struct weir_node *node = entry->node;

        if (node->driver->reopen->commit)
            node->driver->reopen->commit(node, &entry->own);
        free(entry->own.undo);
        json_decref(node->options);
        json_decref(node->graph->given);
        node->options = json_incref(entry->options.json);
        node->graph->given = json_incref(entry->given);
        node->graph->reopening = false;
        weir_node_refresh(node);
    }
}

static weir_co_fn void reopen_abort(void *data)
{
    struct weir_reopen *reopen = *(struct weir_reopen **)data;

    /* Formats that were to become read-only first: they may write again before those below them change. */
    for (unsigned i = 0; i < reopen->count; i++)
        take_back(&reopen->entries[i]);
}

static const struct weir_tran_ops reopen_ops = { .ready = reopen_ready,
                                                 .commit = reopen_commit,
                                                 .abort = reopen_abort };

static int by_depth(const void *a, const void *b)
{
    const struct weir_reopen_entry *one = a, *other = b;
    unsigned depth = one->node->graph->depth, other_depth = other->node->graph->depth;

    return (depth > other_depth) - (depth < other_depth);
}

/* Parents first: what is below a node is deeper. */
static void sort_entries(struct weir_reopen *reopen)
{
    unsigned count;
    weir_autofree struct weir_node **order = weir_graph_order(&count);

    WEIR_ASSERT(order);
    if (reopen->count)
        qsort(reopen->entries, reopen->count, sizeof(*reopen->entries), by_depth);
}

int weir_reopen_edit(struct weir_reopen *reopen, struct weir_tran *tran, struct weir_error **err)
{
    struct weir_reopen **data = weir_new(struct weir_reopen *);
    int ret = 0;

    WEIR_ASSERT(weir_graph_locked_here());
    *data = reopen;
    for (unsigned i = 0; i < reopen->child_count && !ret; i++)
        ret = edit_child(&reopen->children[i], tran, err);
    weir_tran_add(tran, &reopen_ops, data);
    if (!ret)
        sort_entries(reopen);
    for (unsigned i = reopen->count; i-- > 0 && !ret;)
        ret = apply(&reopen->entries[i], err);
    /* Known before anything is given up: later steps may still change it. */
    return ret ? ret : try_close(reopen, err);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a reopening would change, and what of it is not possible.
 *
 * An option that names a child says what becomes of it: an object reopens the child that the node was made with, the
 * name of another node puts that in its place, null takes it away, and its own name leaves it as it is. Children that
 * a node was made with inherit from it: they are reopened too when what they inherit changes.
 */
#include "graph/reopen_plan.h"

#include "base/alloc.h"
#include "base/schema.h"
#include <string.h>

/* ---- options of the driver ---- */

static bool may_change(const struct weir_driver *driver, const char *name)
{
    for (const char *const *option = driver->reopen->options; option && *option; option++) {
        if (!strcmp(*option, name))
            return true;
    }
    return false;
}

/* What @json says of @member, or its default: a new reference; NULL: nothing. */
static json_t *value_of(json_t *json, const struct weir_schema_member *member)
{
    json_t *value = json_object_get(json, member->name), *text, *typed = NULL;

    if (value || !member->preset)
        return json_incref(value);
    text = json_string(member->preset);
    if (weir_schema_normalize(member->type, text, &typed, NULL) < 0)
        typed = NULL;
    json_decref(text);
    return typed;
}

static bool is_child(const struct weir_schema_member *member)
{
    if (member->type->kind != WEIR_SCHEMA_ALTERNATE)
        return false;
    for (unsigned i = 0; i < member->type->branch_count; i++) {
        if (member->type->branches[i].type && member->type->branches[i].type->kind == WEIR_SCHEMA_UNION)
            return true;
    }
    return false;
}

static int check_member(const struct weir_node *node, const struct weir_options *options,
                        const struct weir_schema_member *member, struct weir_error **err)
{
    json_t *before = value_of(node->options, member), *after = value_of(options->json, member);
    bool same = before == after || (before && after && json_equal(before, after));
    int ret = 0;

    if (!same && !may_change(node->driver, member->name))
        ret = after ? weir_error_set(err, -EINVAL, "Cannot change the option '%s'", member->name)
                    : weir_error_set(err, -EINVAL, "Option '%s' cannot be reset to its default value",
                                     member->name);
    json_decref(before);
    json_decref(after);
    return ret;
}

static int check_reopens(const struct weir_node *node, struct weir_error **err)
{
    if (node->driver->reopen)
        return 0;
    return weir_error_set(err, -ENOTSUP,
                          "Block format '%s' used by node '%s' does not support reopening files",
                          node->driver->name, node->name);
}

static int check_options(const struct weir_node *node, const struct weir_options *options,
                         struct weir_error **err)
{
    const struct weir_schema_type *type = node->driver->options;
    int ret = 0;

    if (options->driver != node->driver && strcmp(options->driver->name, node->driver->name) != 0)
        return weir_error_set(err, -EINVAL, "Cannot change the option 'driver'");
    ret = check_reopens(node, err);
    if (ret)
        return ret;
    if (node->graph->lent && options->common.read_only != node->read_only_asked)
        return weir_error_set(err, -EBUSY, "Node '%s' is writable for the time of a job", node->name);
    if (options->node_name && strcmp(options->node_name, node->name) != 0)
        return weir_error_set(err, -EINVAL, "Cannot change the option 'node-name'");
    if (options->common.force_share != node->force_share)
        return weir_error_set(err, -EINVAL, "Cannot change the option 'force-share'");
    for (unsigned i = 0; type && i < type->member_count && !ret; i++) {
        if (!is_child(&type->members[i]))
            ret = check_member(node, options, &type->members[i], err);
    }
    return ret;
}

/* ---- the lists ---- */

static struct weir_reopen_entry *entry_of(struct weir_reopen *reopen, const struct weir_node *node)
{
    for (unsigned i = 0; i < reopen->count; i++) {
        if (reopen->entries[i].node == node)
            return &reopen->entries[i];
    }
    return NULL;
}

/* What a node inherits gives way to what is said of it. */
static int add_entry(struct weir_reopen *reopen, struct weir_node *node, json_t *given,
                     struct weir_options *options, bool heir, struct weir_error **err)
{
    struct weir_reopen_entry *entry = entry_of(reopen, node);

    if (entry && !entry->heir)
        return weir_error_set(err, -EINVAL, "Node '%s' is to be reopened twice", node->name);
    if (entry) {
        weir_options_done(&entry->options);
        json_decref(entry->given);
    } else {
        reopen->entries = weir_realloc(reopen->entries, (reopen->count + 1) * sizeof(*reopen->entries));
        entry = &reopen->entries[reopen->count++];
        *entry = (struct weir_reopen_entry){ .node = weir_node_ref(node) };
    }
    entry->given = json_incref(given);
    entry->options = *options;
    entry->heir = heir;
    return 0;
}

static void add_child(struct weir_reopen *reopen, struct weir_node *parent, const char *name,
                      struct weir_node *child)
{
    reopen->children = weir_realloc(reopen->children, (reopen->child_count + 1) * sizeof(*reopen->children));
    reopen->children[reopen->child_count++] = (struct weir_reopen_child){
        .parent = parent, .name = name, .child = child ? weir_node_ref(child) : NULL
    };
}

/* ---- children ---- */

static int plan_node(struct weir_reopen *reopen, struct weir_node *node, json_t *given,
                     const struct weir_common *parent, unsigned role, struct weir_error **err);

static int plan_reference(struct weir_reopen *reopen, struct weir_node *node, struct weir_edge *edge,
                          const char *name, const char *child_name, struct weir_error **err)
{
    bool backing = !strcmp(name, "backing");
    struct weir_node *child;
    int ret = 0;

    if (edge && (!strcmp(edge->node->name, child_name) ||
                 !strcmp(weir_node_skip_implicit(edge->node)->name, child_name)))
        return 0;
    child = weir_node_lookup(NULL, child_name, err);
    if (!child)
        return -ENOENT;
    if (edge ? !backing && strcmp(name, "file") != 0 : !backing)
        return weir_error_set(err, -EINVAL, "Cannot change the option '%s'", name);
    if (edge)
        ret = weir_edge_check_thawed(edge, err);
    if (!ret)
        add_child(reopen, node, name, child);
    return ret;
}

static int plan_none(struct weir_reopen *reopen, struct weir_node *node, struct weir_edge *edge,
                     const char *name, struct weir_error **err)
{
    int ret = edge ? weir_edge_check_thawed(edge, err) : 0;

    if (!ret && edge)
        add_child(reopen, node, name, NULL);
    return ret;
}

static int plan_child(struct weir_reopen *reopen, struct weir_node *node, const struct weir_options *options,
                      const char *name, struct weir_error **err)
{
    json_t *value = json_object_get(options->json, name);
    struct weir_edge *edge = weir_node_child(node, name);

    if (!value) {
        bool named = node->driver->reopen->names_backing && node->driver->reopen->names_backing(node);

        if (!strcmp(name, "backing") && (edge || named))
            return weir_error_set(err, -EINVAL, "backing is missing for '%s'", node->name);
        return 0;
    }
    if (json_is_string(value))
        return plan_reference(reopen, node, edge, name, json_string_value(value), err);
    if (json_is_null(value))
        return plan_none(reopen, node, edge, name, err);
    if (!edge || edge->node->graph->maker != node)
        return weir_error_set(err, -EINVAL, "Cannot change the option '%s.driver'", name);
    return plan_node(reopen, edge->node, value, &options->common, edge->role, err);
}

static bool is_same(const struct weir_common *a, const struct weir_common *b)
{
    return a->detect_zeroes == b->detect_zeroes && a->discard_unmap == b->discard_unmap &&
           a->read_only == b->read_only && a->auto_read_only == b->auto_read_only &&
           a->force_share == b->force_share && a->cache_direct == b->cache_direct &&
           a->cache_no_flush == b->cache_no_flush;
}

static int plan_heirs(struct weir_reopen *reopen, struct weir_node *node, const struct weir_common *common,
                      struct weir_error **err);

/*
 * @edge stays; what its node inherits from the parent's new options may be something else now. Its own options and
 * children stay: they may be others by now than it was given.
 */
static int plan_heir(struct weir_reopen *reopen, const struct weir_edge *edge,
                     const struct weir_common *parent, struct weir_error **err)
{
    struct weir_node *node = edge->node;
    struct weir_common now = weir_node_common(node), common;
    struct weir_options options;
    bool same;
    int ret = weir_options_parse(node->graph->given, parent, edge->role, &options, err);

    if (ret < 0)
        return ret;
    if (node->graph->lent) /* a job has made it writable for its time */
        options.common.read_only = now.read_only;
    common = options.common;
    same = is_same(&common, &now);
    ret = same ? 0 : check_reopens(node, err);
    if (!ret && !same)
        ret = add_entry(reopen, node, node->graph->given, &options, true, err);
    if (ret || same)
        weir_options_done(&options);
    return ret || same ? ret : plan_heirs(reopen, node, &common, err);
}

static bool stays(const struct weir_reopen *reopen, const struct weir_node *node, const char *name)
{
    for (unsigned i = 0; i < reopen->child_count; i++) {
        if (reopen->children[i].parent == node && !strcmp(reopen->children[i].name, name))
            return false;
    }
    return true;
}

/* Those that were made with @node and stay, and of which nothing else is said. */
static int plan_heirs(struct weir_reopen *reopen, struct weir_node *node, const struct weir_common *common,
                      struct weir_error **err)
{
    const struct weir_reopen_entry *entry;
    struct weir_edge *edge;
    int ret = 0;

    TAILQ_FOREACH (edge, &node->children, in_parent) {
        if (ret || edge->node->graph->maker != node || !stays(reopen, node, edge->name))
            continue;
        entry = entry_of(reopen, edge->node);
        if (!entry || entry->heir)
            ret = plan_heir(reopen, edge, common, err);
    }
    return ret;
}

static int plan_children(struct weir_reopen *reopen, struct weir_node *node,
                         const struct weir_options *options, struct weir_error **err)
{
    const struct weir_schema_type *type = node->driver->options;
    int ret = 0;

    for (unsigned i = 0; type && i < type->member_count && !ret; i++) {
        if (is_child(&type->members[i]))
            ret = plan_child(reopen, node, options, type->members[i].name, err);
    }
    return ret ? ret : plan_heirs(reopen, node, &options->common, err);
}

/* ---- nodes ---- */

static int plan_node(struct weir_reopen *reopen, struct weir_node *node, json_t *given,
                     const struct weir_common *parent, unsigned role, struct weir_error **err)
{
    struct weir_options options;
    int ret = weir_options_parse(given, parent, role, &options, err);

    if (ret < 0)
        return ret;
    ret = check_options(node, &options, err);
    if (!ret)
        ret = add_entry(reopen, node, given, &options, false, err);
    if (ret < 0) {
        weir_options_done(&options);
        return ret;
    }
    /* The entry, which keeps what `options` points at, may move. */
    return plan_children(reopen, node, &options, err);
}

/* The node that made @node, as long as it still has it as a child: that edge. */
static const struct weir_edge *maker_edge(const struct weir_node *node)
{
    const struct weir_edge *edge;

    TAILQ_FOREACH (edge, &node->parents, in_node) {
        if (edge->parent && edge->parent == node->graph->maker)
            return edge;
    }
    return NULL;
}

static int plan_top(struct weir_reopen *reopen, json_t *given, struct weir_error **err)
{
    json_t *name = json_object_get(given, "node-name");
    const struct weir_edge *edge;
    struct weir_common common;
    struct weir_node *node;

    if (!name)
        return weir_error_set(err, -EINVAL, "node-name not specified");
    if (!json_is_string(name))
        return weir_error_set(err, -EINVAL, "Invalid parameter type for 'node-name', expected: string");
    node = weir_node_find(json_string_value(name));
    if (!node)
        return weir_error_set(err, -ENOENT, "Failed to find node with node-name='%s'",
                              json_string_value(name));
    if (!node->graph->given)
        return weir_error_set(err, -EPERM, "Node '%s' belongs to a job: its options stay as they are",
                              node->name);
    edge = maker_edge(node);
    if (!edge)
        return plan_node(reopen, node, given, NULL, 0, err);
    common = entry_of(reopen, edge->parent) ? entry_of(reopen, edge->parent)->options.common
                                            : weir_node_common(edge->parent);
    return plan_node(reopen, node, given, &common, edge->role, err);
}

static void add_node(struct weir_reopen *reopen, struct weir_node *node)
{
    for (unsigned i = 0; i < reopen->node_count; i++) {
        if (reopen->nodes[i] == node)
            return;
    }
    reopen->nodes[reopen->node_count++] = node;
}

static void list_nodes(struct weir_reopen *reopen)
{
    reopen->nodes = weir_new_array(struct weir_node *, reopen->count + 3 * reopen->child_count + 1);
    for (unsigned i = 0; i < reopen->count; i++)
        add_node(reopen, reopen->entries[i].node);
    for (unsigned i = 0; i < reopen->child_count; i++) {
        const struct weir_reopen_child *change = &reopen->children[i];
        const struct weir_edge *edge = weir_node_child(change->parent, change->name);

        add_node(reopen, change->parent);
        if (edge)
            add_node(reopen, edge->node);
        if (change->child)
            add_node(reopen, change->child);
    }
}

int weir_reopen_plan(json_t *const *options, size_t count, struct weir_reopen **ret_reopen,
                     struct weir_error **err)
{
    struct weir_reopen *reopen = weir_new(struct weir_reopen);
    int ret = 0;

    WEIR_ASSERT(weir_graph_locked_here());
    for (size_t i = 0; i < count && !ret; i++)
        ret = plan_top(reopen, options[i], err);
    if (ret < 0) {
        weir_reopen_free(reopen);
        return ret;
    }
    list_nodes(reopen);
    *ret_reopen = reopen;
    return 0;
}

struct weir_node *const *weir_reopen_nodes(const struct weir_reopen *reopen, unsigned *ret_count)
{
    *ret_count = reopen->node_count;
    return reopen->nodes;
}

void weir_reopen_free(struct weir_reopen *reopen)
{
    if (!reopen)
        return;
    for (unsigned i = 0; i < reopen->count; i++) {
        weir_options_done(&reopen->entries[i].options);
        json_decref(reopen->entries[i].given);
        weir_node_unref(reopen->entries[i].node);
    }
    for (unsigned i = 0; i < reopen->child_count; i++)
        weir_node_unref(reopen->children[i].child);
    free(reopen->entries);
    free(reopen->children);
    free(reopen->nodes);
    free(reopen);
}

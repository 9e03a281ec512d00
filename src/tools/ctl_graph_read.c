/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph as weir ctl shows it, put together from four answers of the daemon: who uses whom comes from the graph with
 * its permissions, what the nodes are from the list of nodes, and what stands behind a user's name from the lists of
 * exports and jobs. A user has an entry of its own for each of its edges there; here they are one.
 */
#include "tools/ctl.h"

#include <stdio.h>
#include <string.h>

struct answers {
    json_t *graph, *nodes, *exports, *jobs;
};

static void answers_free(struct answers *answers)
{
    json_decref(answers->graph);
    json_decref(answers->nodes);
    json_decref(answers->exports);
    json_decref(answers->jobs);
}

static weir_co_fn int ask(struct ctl *ctl, struct answers *answers, struct weir_error **err)
{
    int ret = ctl_call(ctl, "x-debug-query-block-graph", NULL, &answers->graph, err);

    if (!ret)
        ret = ctl_call(ctl, "query-named-block-nodes", json_pack("{s:b}", "flat", 1), &answers->nodes, err);
    if (!ret)
        ret = ctl_call(ctl, "query-block-exports", NULL, &answers->exports, err);
    if (!ret)
        ret = ctl_query_jobs(ctl, &answers->jobs, err);
    return ret;
}

static struct ctl_graph_node *add_node(struct ctl_graph *graph, int64_t id)
{
    struct ctl_graph_node *node;

    graph->nodes = weir_realloc(graph->nodes, (graph->node_count + 1) * sizeof(*graph->nodes));
    node = &graph->nodes[graph->node_count++];
    *node = (struct ctl_graph_node){ .id = id };
    return node;
}

/* ---- nodes ---- */

static char *describe_node(const json_t *info)
{
    struct ctl_buffer text = { NULL, 0 };
    weir_autofree char *driver = ctl_clean(ctl_member_text(info, "drv"));
    char size[32];

    ctl_size_text(ctl_member_number(json_object_get(info, "image"), "virtual-size"), size);
    ctl_add(&text, "%s, %s", driver, size);
    if (ctl_member_true(info, "ro"))
        ctl_add(&text, ", read-only");
    if (ctl_member_true(info, "limbo"))
        ctl_add(&text, ", in limbo: a request of it hangs");
    return text.text;
}

/* Nodes above a file have the same name of a file, and filters a description: the file's own node is enough. */
static char *file_of(const json_t *info)
{
    const char *driver = ctl_member_text(info, "drv");
    bool host = !strcmp(driver, "file") || !strcmp(driver, "host_device");

    return ctl_clean(host ? ctl_member_text(info, "file") : "");
}

static void add_graph_node(struct ctl_graph *graph, const struct answers *answers, const json_t *entry)
{
    const char *name = ctl_member_text(entry, "name");
    const json_t *info = ctl_find(answers->nodes, "node-name", name);
    struct ctl_graph_node *node = add_node(graph, json_integer_value(json_object_get(entry, "id")));

    node->title = ctl_clean(name);
    node->detail = info ? describe_node(info) : weir_strdup("");
    node->file = file_of(info);
}

/* They are in no graph any more, but hold their files. */
static void add_limbo(struct ctl_graph *graph, const struct answers *answers)
{
    for (size_t i = 0; i < json_array_size(answers->nodes); i++) {
        const json_t *info = json_array_get(answers->nodes, i);
        struct ctl_graph_node *node;

        if (!ctl_member_true(info, "limbo"))
            continue;
        node = add_node(graph, -1);
        node->title = ctl_clean(ctl_member_text(info, "node-name"));
        node->detail = describe_node(info);
        node->file = file_of(info);
    }
}

/* ---- users ---- */

/* The export that shows @child, for a daemon whose exports have no names in the graph. */
static const char *export_of(const struct answers *answers, int64_t child)
{
    const json_t *entries = json_object_get(answers->graph, "nodes");

    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);

        if (json_integer_value(json_object_get(entry, "id")) == child)
            return ctl_member_text(ctl_find(answers->exports, "node-name", ctl_member_text(entry, "name")),
                                   "id");
    }
    return "";
}

static int64_t child_of(const struct answers *answers, int64_t parent)
{
    const json_t *edges = json_object_get(answers->graph, "edges");

    for (size_t i = 0; i < json_array_size(edges); i++) {
        const json_t *edge = json_array_get(edges, i);

        if (json_integer_value(json_object_get(edge, "parent")) == parent)
            return json_integer_value(json_object_get(edge, "child"));
    }
    return -1;
}

static unsigned find_title(const struct ctl_graph *graph, const char *title)
{
    unsigned i = 0;

    while (i < graph->node_count && (!graph->nodes[i].user || strcmp(graph->nodes[i].title, title) != 0))
        i++;
    return i;
}

/* The place of the user behind @entry: a new one, or that of another edge of the same user. */
static unsigned add_user(struct ctl_graph *graph, const struct answers *answers, const json_t *entry)
{
    int64_t id = json_integer_value(json_object_get(entry, "id"));
    bool job = !strcmp(ctl_member_text(entry, "type"), "block-job");
    const char *name = ctl_member_text(entry, "name");
    const json_t *info;
    weir_autofree char *clean = NULL, *title = NULL;
    struct ctl_graph_node *node;
    unsigned place;

    if (!*name && !job)
        name = export_of(answers, child_of(answers, id));
    clean = ctl_clean(name);
    info = ctl_find(job ? answers->jobs : answers->exports, "id", name);
    title = weir_strdup_printf("%s '%s'", job ? "job" : info ? "export" : "user", clean);
    place = find_title(graph, title);
    if (place < graph->node_count)
        return place;
    node = add_node(graph, id);
    node->user = true;
    node->title = weir_steal(&title);
    node->detail = ctl_clean(ctl_member_text(info, "type"));
    if (job && info) {
        free(node->detail);
        node->detail =
            weir_strdup_printf("%s, %s", ctl_member_text(info, "type"), ctl_member_text(info, "status"));
    }
    node->file = weir_strdup("");
    return place;
}

/* ---- edges ---- */

/* Where the thing with that number of the answer is; node_count: nowhere. */
static unsigned place_of(struct ctl_graph *graph, const struct answers *answers, int64_t id)
{
    const json_t *entries = json_object_get(answers->graph, "nodes");
    unsigned place = 0;

    while (place < graph->node_count && graph->nodes[place].id != id)
        place++;
    for (size_t i = 0; place == graph->node_count && i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);

        if (json_integer_value(json_object_get(entry, "id")) == id)
            return add_user(graph, answers, entry);
    }
    return place;
}

static void add_edge(struct ctl_graph *graph, const struct answers *answers, const json_t *entry)
{
    unsigned parent = place_of(graph, answers, json_integer_value(json_object_get(entry, "parent")));
    unsigned child = place_of(graph, answers, json_integer_value(json_object_get(entry, "child")));

    if (parent == graph->node_count || child == graph->node_count)
        return;
    graph->edges = weir_realloc(graph->edges, (graph->edge_count + 1) * sizeof(*graph->edges));
    graph->edges[graph->edge_count++] =
        (struct ctl_graph_edge){ parent, child, ctl_clean(ctl_member_text(entry, "name")) };
    graph->nodes[child].parents++;
}

weir_co_fn int ctl_graph_read(struct ctl *ctl, struct ctl_graph *graph, struct weir_error **err)
{
    struct answers answers = { 0 };
    const json_t *entries;
    int ret = ask(ctl, &answers, err);

    entries = json_object_get(answers.graph, "nodes");
    for (size_t i = 0; !ret && i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);

        if (!strcmp(ctl_member_text(entry, "type"), "block-driver"))
            add_graph_node(graph, &answers, entry);
    }
    entries = json_object_get(answers.graph, "edges");
    for (size_t i = 0; !ret && i < json_array_size(entries); i++)
        add_edge(graph, &answers, json_array_get(entries, i));
    if (!ret)
        add_limbo(graph, &answers);
    answers_free(&answers);
    return ret;
}

void ctl_graph_free(struct ctl_graph *graph)
{
    for (unsigned i = 0; i < graph->node_count; i++) {
        free(graph->nodes[i].title);
        free(graph->nodes[i].detail);
        free(graph->nodes[i].file);
    }
    for (unsigned i = 0; i < graph->edge_count; i++)
        free(graph->edges[i].role);
    free(graph->nodes);
    free(graph->edges);
}

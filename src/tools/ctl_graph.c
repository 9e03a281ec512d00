/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl graph: the graph as a tree of text, or as a picture (ctl_svg.c).
 */
#include "tools/ctl.h"

#include "sys/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* ---- the tree ---- */

static void print_node(const struct ctl_graph_node *node)
{
    printf("%s", node->title);
    if (*node->detail)
        printf(" (%s)", node->detail);
    if (*node->file)
        printf(" %s", node->file);
}

/* @before: what stands in front of the lines below @place. A graph has no circles, and whoever was printed ends it. */
static void print_below(struct ctl_graph *graph, unsigned place, const char *before)
{
    unsigned left = 0;

    for (unsigned i = 0; i < graph->edge_count; i++)
        left += graph->edges[i].parent == place;
    for (unsigned i = 0; left && i < graph->edge_count; i++) {
        const struct ctl_graph_edge *edge = &graph->edges[i];
        struct ctl_graph_node *child = &graph->nodes[edge->child];
        weir_autofree char *further = NULL;

        if (edge->parent != place)
            continue;
        left--;
        printf("%s%s %s: ", before, left ? "|--" : "`--", edge->role);
        if (child->printed) {
            printf("%s (see above)\n", child->title);
            continue;
        }
        child->printed = true;
        print_node(child);
        printf("\n");
        further = weir_strdup_printf("%s%s   ", before, left ? "|" : " ");
        print_below(graph, edge->child, further);
    }
}

static void print_root(struct ctl_graph *graph, unsigned place)
{
    graph->nodes[place].printed = true;
    print_node(&graph->nodes[place]);
    printf("%s\n", graph->nodes[place].user ? "" : ", used by nobody");
    print_below(graph, place, "");
}

static void print_tree(struct ctl_graph *graph)
{
    for (unsigned i = 0; i < graph->node_count; i++) {
        if (graph->nodes[i].user)
            print_root(graph, i);
    }
    for (unsigned i = 0; i < graph->node_count; i++) {
        if (!graph->nodes[i].printed && !graph->nodes[i].parents)
            print_root(graph, i);
    }
    if (!graph->node_count)
        printf("no nodes\n");
}

/* ---- the picture ---- */

static int write_file(const char *path, const struct ctl_buffer *buffer, struct weir_error **err)
{
    int fd = weir_sys->file.open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    size_t done = 0;

    if (fd < 0)
        return weir_error_set_errno(err, fd, "%s", path);
    while (done < buffer->length) {
        ssize_t written = weir_sys->file.pwrite(fd, buffer->text + done, buffer->length - done, done);

        if (written <= 0) {
            weir_sys->file.close(fd);
            return weir_error_set_errno(err, written ? (int)written : -EIO, "%s", path);
        }
        done += (size_t)written;
    }
    weir_sys->file.close(fd);
    return 0;
}

static int draw(const struct ctl_graph *graph, const char *path, struct weir_error **err)
{
    struct ctl_buffer svg = { NULL, 0 };
    int ret = 0;

    ctl_graph_svg(graph, &svg);
    if (!strcmp(path, "-"))
        printf("%s", svg.text);
    else
        ret = write_file(path, &svg, err);
    free(svg.text);
    return ret;
}

/* -1 to go on, or the exit status. */
static int parse(struct ctl *ctl, int argc, char **argv, const char **ret_svg)
{
    static const char *const none[] = { NULL };
    static const struct option longs[] = { { "svg", required_argument, NULL, 'v' }, CTL_LONG_OPTIONS };
    int c;

    while ((c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs)) != -1) {
        if (c != 'v')
            return c == 'h' ? 0 : 1;
        *ret_svg = optarg;
    }
    return ctl_arguments(ctl, argc, argv, none);
}

weir_co_fn int ctl_graph(struct ctl *ctl, int argc, char **argv)
{
    struct ctl_graph graph = { 0 };
    struct weir_error *err = NULL;
    const char *svg = NULL;
    int status = parse(ctl, argc, argv, &svg);

    if (status >= 0)
        return status;
    if (ctl_connect(ctl, &err) || ctl_graph_read(ctl, &graph, &err) || (svg && draw(&graph, svg, &err)))
        status = ctl_fail(ctl, err);
    else if (!svg)
        print_tree(&graph);
    ctl_graph_free(&graph);
    return WEIR_MAX(status, 0);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The graph as a picture: SVG that needs nothing else.
 *
 * Layers: the rank of a box is the longest way to it from a root, so all arrows point down. An arrow over several ranks
 * gets a place in each rank between, a bend, so that it passes between the boxes and not through them. In each rank
 * boxes and bends stand in the order of the mean place of what they hang on, taken a few times down and up; ranks are
 * centred. Widths are counted in characters of a fixed pitch: close enough, whatever font the viewer has.
 */
#include "tools/ctl.h"

#include <string.h>

#define CHAR_WIDTH 7.3
#define LINE_HEIGHT 16
#define PAD 10
#define GAP_X 36
#define GAP_Y 64
#define BEND_WIDTH 12
#define SWEEPS 8
#define FILE_CHARS_MAX 48

/* A box, or a bend of an arrow. */
struct item {
    int node; /* -1: a bend */
    unsigned rank, place;
    double width, x, y, key; /* x, y: middle, and top */
};

/* An arrow or a part of one, from one rank to the next. */
struct part {
    unsigned from, to;
};

struct layout {
    const struct ctl_graph *graph;
    struct item *items;
    struct part *parts;
    unsigned item_count, part_count, rank_count;
    unsigned *first_part; /* of each edge; its parts follow each other */
    double width, height;
};

/* ---- the text in a box ---- */

static const char *line_of(const struct ctl_graph_node *node, unsigned line)
{
    return line == 0 ? node->title : line == 1 ? node->detail : node->file;
}

/* Long paths lose their beginning, so that boxes stay boxes. In bytes: at the start of a character. */
static const char *shorten(const char *text, bool *ret_cut)
{
    size_t length = strlen(text);

    *ret_cut = length > FILE_CHARS_MAX;
    if (*ret_cut) {
        text += length - (FILE_CHARS_MAX - 3);
        while ((*text & 0xc0) == 0x80)
            text++;
    }
    return text;
}

static double box_width(const struct ctl_graph_node *node)
{
    size_t widest = 8;

    for (unsigned line = 0; line < 3; line++) {
        bool cut;
        size_t length = strlen(shorten(line_of(node, line), &cut)) + (cut ? 3 : 0);

        widest = WEIR_MAX(widest, length);
    }
    return (double)widest * CHAR_WIDTH + 2 * PAD;
}

static const double box_height = 3 * LINE_HEIGHT + PAD;

/* ---- ranks, bends ---- */

static void add_item(struct layout *layout, int node, unsigned rank, double width)
{
    layout->items = weir_realloc(layout->items, (layout->item_count + 1) * sizeof(*layout->items));
    layout->items[layout->item_count++] = (struct item){ .node = node, .rank = rank, .width = width };
    layout->rank_count = WEIR_MAX(layout->rank_count, rank + 1);
}

static void add_part(struct layout *layout, unsigned from, unsigned to)
{
    layout->parts = weir_realloc(layout->parts, (layout->part_count + 1) * sizeof(*layout->parts));
    layout->parts[layout->part_count++] = (struct part){ from, to };
}

/* No way is longer than there are nodes: the loop ends whatever the daemon says. */
static void rank_nodes(const struct ctl_graph *graph)
{
    for (unsigned round = 0; round < graph->node_count; round++) {
        bool changed = false;

        for (unsigned i = 0; i < graph->edge_count; i++) {
            unsigned below = graph->nodes[graph->edges[i].parent].rank + 1;
            struct ctl_graph_node *child = &graph->nodes[graph->edges[i].child];

            if (child->rank < below && below < graph->node_count) {
                child->rank = below;
                changed = true;
            }
        }
        if (!changed)
            return;
    }
}

static void place_items(struct layout *layout)
{
    const struct ctl_graph *graph = layout->graph;

    for (unsigned i = 0; i < graph->node_count; i++)
        add_item(layout, (int)i, graph->nodes[i].rank, box_width(&graph->nodes[i]));
    layout->first_part = weir_new_array(unsigned, graph->edge_count + 1);
    for (unsigned i = 0; i < graph->edge_count; i++) {
        const struct ctl_graph_edge *edge = &graph->edges[i];
        unsigned from = edge->parent;

        layout->first_part[i] = layout->part_count;
        for (unsigned rank = graph->nodes[from].rank + 1; rank < graph->nodes[edge->child].rank; rank++) {
            add_item(layout, -1, rank, BEND_WIDTH);
            add_part(layout, from, layout->item_count - 1);
            from = layout->item_count - 1;
        }
        add_part(layout, from, edge->child);
    }
    layout->first_part[graph->edge_count] = layout->part_count;
}

/* ---- the order in a rank ---- */

/* The mean place of the items that @at hangs on, above or below it; its own where there are none. */
static double mean_place(const struct layout *layout, unsigned at, bool above)
{
    double sum = 0;
    unsigned count = 0;

    for (unsigned i = 0; i < layout->part_count; i++) {
        const struct part *part = &layout->parts[i];

        if ((above ? part->to : part->from) != at)
            continue;
        sum += layout->items[above ? part->from : part->to].x;
        count++;
    }
    return count ? sum / count : layout->items[at].x;
}

/* Puts the items of a rank next to each other, in the order of their keys, around x = 0. */
static void spread_rank(struct layout *layout, unsigned rank)
{
    double total = -GAP_X, x;
    unsigned count = 0;
    weir_autofree unsigned *order = weir_new_array(unsigned, layout->item_count + 1);

    for (unsigned i = 0; i < layout->item_count; i++) {
        unsigned at = count;

        if (layout->items[i].rank != rank)
            continue;
        for (; at && layout->items[order[at - 1]].key > layout->items[i].key; at--)
            order[at] = order[at - 1];
        order[at] = i;
        count++;
        total += layout->items[i].width + GAP_X;
    }
    x = -total / 2;
    for (unsigned at = 0; at < count; at++) {
        struct item *item = &layout->items[order[at]];

        item->x = x + item->width / 2;
        item->place = at;
        x += item->width + GAP_X;
    }
    layout->width = WEIR_MAX(layout->width, total);
}

static void sweep(struct layout *layout, bool down)
{
    for (unsigned i = 0; i < layout->rank_count; i++) {
        unsigned rank = down ? i : layout->rank_count - 1 - i;

        for (unsigned at = 0; at < layout->item_count; at++) {
            if (layout->items[at].rank == rank)
                layout->items[at].key = mean_place(layout, at, down);
        }
        spread_rank(layout, rank);
    }
}

static void arrange(struct layout *layout)
{
    for (unsigned i = 0; i < layout->item_count; i++)
        layout->items[i].key = i;
    for (unsigned rank = 0; rank < layout->rank_count; rank++)
        spread_rank(layout, rank);
    for (unsigned i = 0; i < SWEEPS; i++)
        sweep(layout, i % 2 == 0);
    for (unsigned i = 0; i < layout->item_count; i++) {
        layout->items[i].x += layout->width / 2 + GAP_X;
        layout->items[i].y = GAP_X + layout->items[i].rank * (box_height + GAP_Y);
    }
    layout->width += 2 * GAP_X;
    layout->height = 2 * GAP_X + layout->rank_count * (box_height + GAP_Y) - GAP_Y;
}

/* ---- drawing ---- */

static void add_escaped(struct ctl_buffer *svg, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '&':
            ctl_add(svg, "&amp;");
            break;
        case '<':
            ctl_add(svg, "&lt;");
            break;
        case '>':
            ctl_add(svg, "&gt;");
            break;
        case '"':
            ctl_add(svg, "&quot;");
            break;
        default:
            ctl_add(svg, "%c", *text);
        }
    }
}

static void draw_box(struct ctl_buffer *svg, const struct item *item, const struct ctl_graph_node *node)
{
    ctl_add(svg, "<g class=\"%s\"><title>", node->user ? "user" : "node");
    add_escaped(svg, *node->file ? node->file : node->title);
    ctl_add(svg, "</title><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"%d\"/>\n",
            item->x - item->width / 2, item->y, item->width, box_height, node->user ? 14 : 3);
    for (unsigned line = 0; line < 3; line++) {
        bool cut;
        const char *text = shorten(line_of(node, line), &cut);

        if (!*text)
            continue;
        ctl_add(svg, "<text x=\"%.1f\" y=\"%.1f\"%s>%s", item->x, item->y + (line + 1) * LINE_HEIGHT,
                line ? "" : " class=\"name\"", cut ? "..." : "");
        add_escaped(svg, text);
        ctl_add(svg, "</text>\n");
    }
    ctl_add(svg, "</g>\n");
}

/* Where a part leaves or meets an item: those of one box share its edge, in the order of their other ends. */
static double port(const struct layout *layout, unsigned which, bool leaving)
{
    const struct part *part = &layout->parts[which];
    unsigned at = leaving ? part->from : part->to, before = 0, count = 0;
    double other = layout->items[leaving ? part->to : part->from].x;

    for (unsigned i = 0; i < layout->part_count; i++) {
        const struct part *beside = &layout->parts[i];
        double x = layout->items[leaving ? beside->to : beside->from].x;

        if ((leaving ? beside->from : beside->to) != at)
            continue;
        count++;
        before += x < other || (x == other && i < which);
    }
    return layout->items[at].x + layout->items[at].width * ((before + 1.0) / (count + 1.0) - 0.5);
}

static void draw_edge(struct ctl_buffer *svg, const struct layout *layout, unsigned which)
{
    unsigned first = layout->first_part[which], end = layout->first_part[which + 1];
    double label_x = 0, label_y = 0;

    ctl_add(svg, "<path d=\"");
    for (unsigned i = first; i < end; i++) {
        const struct item *from = &layout->items[layout->parts[i].from],
                          *to = &layout->items[layout->parts[i].to];
        double x1 = port(layout, i, true), x2 = port(layout, i, false);
        double y1 = from->y + box_height, y2 = to->y, middle = (y1 + y2) / 2;

        if (i == first) {
            ctl_add(svg, "M%.1f,%.1f", x1, y1);
            label_x = (x1 + x2) / 2;
            label_y = middle + 4;
        } else {
            ctl_add(svg, " L%.1f,%.1f", x1, y1); /* straight down beside the boxes of the rank */
        }
        ctl_add(svg, " C%.1f,%.1f %.1f,%.1f %.1f,%.1f", x1, middle, x2, middle, x2, y2);
    }
    ctl_add(svg, "\" marker-end=\"url(#arrow)\"/>\n<text class=\"role\" x=\"%.1f\" y=\"%.1f\">", label_x,
            label_y);
    add_escaped(svg, layout->graph->edges[which].role);
    ctl_add(svg, "</text>\n");
}

static void draw_all(struct ctl_buffer *svg, const struct layout *layout)
{
    ctl_add(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
        "%.0f\">\n"
        "<title>block graph</title>\n<defs><marker id=\"arrow\" viewBox=\"0 0 10 10\" refX=\"9\" refY=\"5\" "
        "markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0,0 L10,5 L0,10 "
        "z\"/></marker></defs>\n"
        "<style>text { font: 12px monospace; text-anchor: middle; fill: #222 } .name { font-weight: bold }\n"
        "rect { fill: #eef3fa; stroke: #46648c } .user rect { fill: #fdf3dc; stroke: #9a7520 }\n"
        "path { fill: none; stroke: #555 } .head { fill: #555; stroke: none }\n"
        ".role { font-size: 11px; stroke: #fff; stroke-width: 4px; paint-order: stroke }</style>\n"
        "<rect width=\"100%%\" height=\"100%%\" style=\"fill: #fff; stroke: none\"/>\n",
        layout->width, layout->height, layout->width, layout->height);
    for (unsigned i = 0; i < layout->graph->edge_count; i++)
        draw_edge(svg, layout, i);
    for (unsigned i = 0; i < layout->graph->node_count; i++)
        draw_box(svg, &layout->items[i], &layout->graph->nodes[i]);
    ctl_add(svg, "</svg>\n");
}

void ctl_graph_svg(const struct ctl_graph *graph, struct ctl_buffer *svg)
{
    struct layout layout = { .graph = graph };

    rank_nodes(graph);
    place_items(&layout);
    arrange(&layout);
    draw_all(svg, &layout);
    free(layout.items);
    free(layout.parts);
    free(layout.first_part);
}

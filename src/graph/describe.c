/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * ImageInfo: what every node has is filled in here, the rest by the driver (driver->describe).
 */
#include "graph/describe.h"

int64_t weir_node_allocated_size(struct weir_node *node)
{
    struct weir_edge *edge;
    int64_t sum = -1;

    if (node->driver->allocated_size)
        return node->driver->allocated_size(node);
    TAILQ_FOREACH (edge, &node->children, in_parent) {
        int64_t one;

        if (!(edge->role & (WEIR_ROLE_DATA | WEIR_ROLE_METADATA | WEIR_ROLE_FILTERED)))
            continue;
        one = weir_node_allocated_size(edge->node);
        if (one >= 0)
            sum = WEIR_MAX(sum, 0) + one;
    }
    return sum;
}

json_t *weir_node_image_info(struct weir_node *node, int64_t allocated)
{
    json_t *image = json_pack("{s:I, s:s, s:s}", "virtual-size", (json_int_t)weir_node_size(node), "filename",
                              weir_node_file_name(node), "format", node->driver->name);

    if (allocated >= 0)
        json_object_set_new(image, "actual-size", json_integer(allocated));
    if (node->limits.lock_unit)
        json_object_set_new(image, "cluster-size", json_integer((json_int_t)node->limits.lock_unit));
    if (node->driver->describe)
        node->driver->describe(node, image);
    return image;
}

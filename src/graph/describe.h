/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A node as people and programs see it from outside: QMP's ImageInfo.
 */
#ifndef WEIR_GRAPH_DESCRIBE_H
#define WEIR_GRAPH_DESCRIBE_H

#include "graph/node.h"

/*
 * Bytes on the host: a leaf's own word, else the sum of the children that hold data; negative where nobody can say.
 * Asks the host, with a limit in time. The caller holds a reference. Control loop.
 */
int64_t weir_node_allocated_size(struct weir_node *node) weir_co_fn;
/* ImageInfo of the node, without "actual-size" where @allocated is negative; a new reference. Control loop. */
json_t *weir_node_image_info(struct weir_node *node, int64_t allocated);

#endif

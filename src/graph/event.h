/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Events: places that a request comes by, for test filters (blkdebug) that fail or hold requests there.
 *
 * The core, the tables and the formats say where they are by weir_event() on the edge that they are about to use. The
 * first node below that listens, through filters, is told; it may hold the caller. Where nobody listens in the whole
 * program an event costs one look at a variable, and it is raised at cold places only. The names are those of QMP's
 * BlkdebugEvent.
 */
#ifndef WEIR_GRAPH_EVENT_H
#define WEIR_GRAPH_EVENT_H

#include "graph/node.h"

#define WEIR_EVENT_LIST(X)                                        \
    X(L1_UPDATE, "l1_update")                                     \
    X(L1_GROW_ALLOC_TABLE, "l1_grow_alloc_table")                 \
    X(L1_GROW_WRITE_TABLE, "l1_grow_write_table")                 \
    X(L1_GROW_ACTIVATE_TABLE, "l1_grow_activate_table")           \
    X(L2_LOAD, "l2_load")                                         \
    X(L2_UPDATE, "l2_update")                                     \
    X(L2_UPDATE_COMPRESSED, "l2_update_compressed")               \
    X(L2_ALLOC_COW_READ, "l2_alloc_cow_read")                     \
    X(L2_ALLOC_WRITE, "l2_alloc_write")                           \
    X(READ_AIO, "read_aio")                                       \
    X(READ_BACKING_AIO, "read_backing_aio")                       \
    X(READ_COMPRESSED, "read_compressed")                         \
    X(WRITE_AIO, "write_aio")                                     \
    X(WRITE_COMPRESSED, "write_compressed")                       \
    X(VMSTATE_LOAD, "vmstate_load")                               \
    X(VMSTATE_SAVE, "vmstate_save")                               \
    X(COW_READ, "cow_read")                                       \
    X(COW_WRITE, "cow_write")                                     \
    X(REFTABLE_LOAD, "reftable_load")                             \
    X(REFTABLE_GROW, "reftable_grow")                             \
    X(REFTABLE_UPDATE, "reftable_update")                         \
    X(REFBLOCK_LOAD, "refblock_load")                             \
    X(REFBLOCK_UPDATE, "refblock_update")                         \
    X(REFBLOCK_UPDATE_PART, "refblock_update_part")               \
    X(REFBLOCK_ALLOC, "refblock_alloc")                           \
    X(REFBLOCK_ALLOC_HOOKUP, "refblock_alloc_hookup")             \
    X(REFBLOCK_ALLOC_WRITE, "refblock_alloc_write")               \
    X(REFBLOCK_ALLOC_WRITE_BLOCKS, "refblock_alloc_write_blocks") \
    X(REFBLOCK_ALLOC_WRITE_TABLE, "refblock_alloc_write_table")   \
    X(REFBLOCK_ALLOC_SWITCH_TABLE, "refblock_alloc_switch_table") \
    X(CLUSTER_ALLOC, "cluster_alloc")                             \
    X(CLUSTER_ALLOC_BYTES, "cluster_alloc_bytes")                 \
    X(CLUSTER_FREE, "cluster_free")                               \
    X(FLUSH_TO_OS, "flush_to_os")                                 \
    X(FLUSH_TO_DISK, "flush_to_disk")                             \
    X(PWRITEV_RMW_HEAD, "pwritev_rmw_head")                       \
    X(PWRITEV_RMW_AFTER_HEAD, "pwritev_rmw_after_head")           \
    X(PWRITEV_RMW_TAIL, "pwritev_rmw_tail")                       \
    X(PWRITEV_RMW_AFTER_TAIL, "pwritev_rmw_after_tail")           \
    X(PWRITEV, "pwritev")                                         \
    X(PWRITEV_ZERO, "pwritev_zero")                               \
    X(PWRITEV_DONE, "pwritev_done")                               \
    X(EMPTY_IMAGE_PREPARE, "empty_image_prepare")                 \
    X(L1_SHRINK_WRITE_TABLE, "l1_shrink_write_table")             \
    X(L1_SHRINK_FREE_L2_CLUSTERS, "l1_shrink_free_l2_clusters")   \
    X(COR_WRITE, "cor_write")                                     \
    X(CLUSTER_ALLOC_SPACE, "cluster_alloc_space")                 \
    X(NONE, "none")

enum weir_event {
#define WEIR_EVENT_VALUE(name, text) WEIR_EVENT_##name,
    WEIR_EVENT_LIST(WEIR_EVENT_VALUE)
#undef WEIR_EVENT_VALUE
        WEIR_EVENT_COUNT
};
/* A set of events. */
#define WEIR_EVENT_BIT(event) ((uint64_t)1 << (event))

/* How many nodes listen, of the whole program. */
extern atomic_uint weir_event_listeners;

/* Whether anybody listens at all. Any thread. */
static inline bool weir_event_heard(void)
{
    return weir_unlikely(atomic_load_explicit(&weir_event_listeners, memory_order_relaxed) != 0);
}

/* Tells the first node from @node downwards that listens. Below a root operation, or drained. Any loop. */
void weir_event_raise(struct weir_node *node, enum weir_event event) weir_co_fn;
/* The same for each event of a set, in the order of the list. */
void weir_event_raise_set(struct weir_node *node, uint64_t events) weir_co_fn;

/* Says that @event is about to happen on @edge. */
static inline weir_co_fn void weir_event(struct weir_edge *edge, enum weir_event event)
{
    if (weir_event_heard())
        weir_event_raise(edge->node, event);
}

/* The event of that name, or WEIR_EVENT_COUNT. */
enum weir_event weir_event_find(const char *name);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The quarantine (law 4): space that was given up waits here until the metadata that dropped it is durable, is then
 * discarded on the child, and only then returned to the driver's allocator.
 *
 * A keeper, started when the quarantine first has something in it, works it off without any guest's flush when
 * it is large or old. It is background work of the node: a drain stops it.
 */
#include "meta/internal.h"

#include "base/alloc.h"
#include "base/law.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/mapped.h"
#include "sys/sys.h"

static void quarantine(struct weir_node *node, const struct weir_freed *freed)
{
    struct weir_meta *meta = node->meta;
    struct weir_meta_quarantined *entry = weir_new(struct weir_meta_quarantined);

    entry->freed = *freed;
    entry->since_ns = weir_sys->clock_ns();
    STAILQ_INSERT_TAIL(&meta->quarantine, entry, link);
    meta->quarantine_count++;
    meta->quarantine_bytes += freed->length;
}

void weir_meta_give_up(struct weir_node *node, struct weir_edge *edge, uint64_t offset, uint64_t length,
                       bool discard, uint64_t cookie)
{
    struct weir_freed freed = {
        .edge = edge, .offset = offset, .length = length, .discard = discard, .cookie = cookie
    };

    quarantine(node, &freed);
}

void weir_meta_discard_later(struct weir_node *node, struct weir_edge *edge, uint64_t offset, uint64_t length)
{
    struct weir_freed freed = {
        .edge = edge, .offset = offset, .length = length, .discard = true, .fixed = true
    };

    quarantine(node, &freed);
}

static void take_entries(struct weir_meta *meta, uint64_t count, struct weir_meta_quarantine *taken)
{
    STAILQ_INIT(taken);
    weir_meta_enter(meta);
    while (count-- && !STAILQ_EMPTY(&meta->quarantine)) {
        struct weir_meta_quarantined *entry = STAILQ_FIRST(&meta->quarantine);

        STAILQ_REMOVE_HEAD(&meta->quarantine, link);
        STAILQ_INSERT_TAIL(taken, entry, link);
        meta->quarantine_count--;
        meta->quarantine_bytes -= entry->freed.length;
        meta->draining++;
    }
    weir_meta_leave(meta);
}

/* Whether nothing in the range of the node is data; false also where that is not known at once. */
static bool unmapped(struct weir_node *node, uint64_t offset, uint64_t length)
{
    uint64_t end = offset + length;

    while (offset < end) {
        struct weir_extent extent = { 0 };
        struct weir_need need;

        if (weir_map_once(node, WEIR_OP_READ, offset, end - offset, 0, &extent, &need, NULL) ||
            extent.where == WEIR_DATA)
            return false;
        offset = extent.offset + extent.length;
    }
    return true;
}

/*
 * Space that nobody allocates is guarded by the lock on the node's own range. The lock is not waited for: who holds it
 * may be waiting for this write-back. It is advice that is not taken then.
 */
static bool guard(struct weir_meta *meta, const struct weir_freed *freed, struct weir_range_lock *lock)
{
    if (!freed->fixed)
        return true;
    return weir_range_try_lock(meta->node->io->ranges, lock, freed->offset, freed->length, true) &&
           unmapped(meta->node, freed->offset, freed->length);
}

static weir_co_fn void discard_entry(struct weir_meta *meta, const struct weir_freed *freed)
{
    struct weir_request request =
        weir_request_make(WEIR_OP_DISCARD, freed->offset, freed->length, NULL, 0, 0);
    struct weir_range_lock lock = { 0 };

    if (!freed->discard || !freed->length)
        return;
    /* Advice: a child that cannot discard keeps its space, nothing is wrong. */
    if (guard(meta, freed, &lock))
        (void)!weir_io(freed->edge, &request);
    weir_range_unlock(&lock);
    weir_meta_enter(meta);
    meta->stats.discarded++;
    weir_meta_leave(meta);
}

/* Hands one entry back to the driver, with the tables it needs. */
static weir_co_fn int release_entry(struct weir_meta *meta, const struct weir_freed *freed)
{
    struct weir_node *node = meta->node;
    struct weir_meta_pins pins = { .count = 0 };
    struct weir_meta_block *block;
    struct weir_need need;
    int ret;

    if (freed->fixed)
        return 0;
    for (;;) {
        weir_meta_enter(meta);
        meta->collector = &pins;
        ret = node->driver->release(node, freed, &need);
        meta->collector = NULL;
        weir_meta_leave(meta);
        if (ret != WEIR_NEED)
            break;
        if (pins.count >= WEIR_META_PINS_MAX / 2)
            weir_meta_ops_table.unpin(node, &pins);
        ret = weir_meta_block_load(meta, need.offset, need.length, need.level, false, &block);
        if (ret)
            break;
        pins.blocks[pins.count++] = block;
    }
    weir_meta_ops_table.unpin(node, &pins);
    return ret;
}

/* Puts entries that could not be released back to the front: they are durable, only their table was not there. */
static void put_back(struct weir_meta *meta, struct weir_meta_quarantine *taken)
{
    struct weir_meta_quarantined *entry;

    weir_meta_enter(meta);
    STAILQ_FOREACH (entry, taken, link) {
        meta->quarantine_count++;
        meta->quarantine_bytes += entry->freed.length;
        meta->draining--;
    }
    STAILQ_CONCAT(taken, &meta->quarantine);
    STAILQ_CONCAT(&meta->quarantine, taken);
    weir_co_queue_wake_all(&meta->changed);
    weir_meta_leave(meta);
}

int weir_meta_release(struct weir_meta *meta, uint64_t count)
{
    struct weir_meta_quarantine taken;
    int ret = 0;

    take_entries(meta, count, &taken);
    while (!STAILQ_EMPTY(&taken)) {
        struct weir_meta_quarantined *entry = STAILQ_FIRST(&taken);

        discard_entry(meta, &entry->freed);
        entry->freed.discard = false; /* done, should the release have to be tried again */
        weir_event(meta->options.edge, WEIR_EVENT_CLUSTER_FREE);
        ret = release_entry(meta, &entry->freed);
        if (ret) {
            put_back(meta, &taken);
            return ret;
        }
        STAILQ_REMOVE_HEAD(&taken, link);
        weir_meta_enter(meta);
        meta->draining--;
        meta->stats.released++;
        weir_co_queue_wake_all(&meta->changed);
        weir_meta_leave(meta);
        free(entry);
    }
    return 0;
}

int weir_meta_make_room(struct weir_node *node)
{
    struct weir_meta *meta = node->meta;
    uint64_t released;
    bool waiting, draining;
    int ret;

    weir_meta_enter(meta);
    meta->stats.rooms++;
    waiting = meta->quarantine_count;
    draining = meta->draining;
    released = meta->stats.released;
    if (!waiting && draining)
        weir_co_queue_wait(&meta->changed, &node->io->monitor);
    weir_meta_leave(meta);
    if (!waiting)
        return draining ? 0 : -ENOSPC;
    ret = weir_meta_write_back(node);
    weir_meta_enter(meta);
    if (!ret && meta->stats.released == released)
        ret = -EIO; /* the tables that would have to change cannot be read */
    weir_meta_leave(meta);
    return ret;
}

/* When the keeper has to act, or -1 while there is nothing to keep. Inside the monitor. */
static int64_t keeper_due(const struct weir_meta *meta)
{
    const struct weir_meta_quarantined *oldest = STAILQ_FIRST(&meta->quarantine);

    if (!oldest)
        return -1;
    if (meta->quarantine_bytes > WEIR_META_QUARANTINE_BYTES)
        return 0;
    return oldest->since_ns + WEIR_META_QUARANTINE_NS;
}

/* One round of the keeper, outside the monitor; returns how long to rest after it (ns). */
static weir_co_fn int64_t keeper_round(struct weir_node *node)
{
    int ret;

    if (!weir_node_background_begin(node))
        return 100 * 1000000LL; /* drained: look again soon */
    ret = weir_meta_write_back(node);
    weir_node_background_end(node);
    /* An error is the next flush's to report: it meets the same one. */
    return ret ? WEIR_META_QUARANTINE_NS : 0;
}

static weir_co_fn void keeper_run(void *arg)
{
    struct weir_meta *meta = arg;
    struct weir_mutex *monitor = &meta->node->io->monitor;
    int64_t due;

    weir_meta_enter(meta);
    while (!meta->keeper_stop && (due = keeper_due(meta)) >= 0) {
        int64_t rest;

        if (due > weir_sys->clock_ns()) {
            (void)!weir_co_queue_wait_until(&meta->keeper_queue, monitor, due);
            continue;
        }
        weir_meta_leave(meta);
        rest = keeper_round(meta->node);
        weir_meta_enter(meta);
        meta->stats.self_syncs++;
        if (rest && !meta->keeper_stop)
            (void)!weir_co_queue_wait_until(&meta->keeper_queue, monitor, weir_sys->clock_ns() + rest);
    }
    meta->keeper_running = false;
    weir_co_queue_wake_all(&meta->changed);
    weir_meta_leave(meta);
}

void weir_meta_changed(struct weir_node *node)
{
    struct weir_meta *meta = node->meta;
    bool start = false;

    if (!WEIR_LAW(WEIR_LAW_QUARANTINE))
        (void)!weir_meta_release(meta, UINT64_MAX);
    weir_meta_enter(meta);
    if (!STAILQ_EMPTY(&meta->quarantine) && !meta->keeper_stop) {
        if (!meta->keeper_running)
            start = meta->keeper_running = true;
        else if (meta->quarantine_bytes > WEIR_META_QUARANTINE_BYTES)
            weir_co_queue_wake_all(&meta->keeper_queue);
    }
    weir_meta_leave(meta);
    if (start)
        weir_co_start(weir_loop_control(), keeper_run, meta);
}

void weir_meta_keeper_end(struct weir_meta *meta)
{
    weir_meta_enter(meta);
    meta->keeper_stop = true;
    weir_co_queue_wake_all(&meta->keeper_queue);
    while (meta->keeper_running || meta->cleaner_running)
        weir_co_queue_wait(&meta->changed, &meta->node->io->monitor);
    weir_meta_leave(meta);
}

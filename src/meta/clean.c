/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Tables that nobody has used for a while leave the memory.
 *
 * The cleaner looks once in an interval: what was used since the last look stays and loses its mark, the rest goes,
 * unless it is dirty, being written or pinned. It takes the monitor for one walk of the list and never waits in it.
 */
#include "meta/internal.h"

#include "sys/sys.h"

/* Inside the monitor. */
static void clean(struct weir_meta *meta)
{
    struct weir_meta_block *block, *next;

    for (block = TAILQ_FIRST(&meta->lru); block; block = next) {
        next = TAILQ_NEXT(block, lru);
        if (block->used || block->dirty || block->writing || block->loading || block->pins) {
            block->used = false;
            continue;
        }
        meta->stats.evictions++;
        weir_meta_block_drop(meta, block);
    }
}

static weir_co_fn void run(void *arg)
{
    struct weir_meta *meta = arg;
    struct weir_mutex *monitor = &meta->node->io->monitor;

    weir_meta_enter(meta);
    while (!meta->keeper_stop && meta->options.clean_interval_ns) {
        int64_t due = weir_sys->clock_ns() + meta->options.clean_interval_ns;
        unsigned number = meta->options_number;

        while (!meta->keeper_stop && number == meta->options_number && weir_sys->clock_ns() < due)
            (void)!weir_co_queue_wait_until(&meta->keeper_queue, monitor, due);
        if (number == meta->options_number)
            clean(meta);
    }
    meta->cleaner_running = false;
    weir_co_queue_wake_all(&meta->changed);
    weir_meta_leave(meta);
}

void weir_meta_cleaner_start(struct weir_meta *meta)
{
    if (!meta->options.clean_interval_ns || meta->cleaner_running)
        return;
    meta->cleaner_running = true;
    weir_co_start(weir_loop_control(), run, meta);
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/filter.h"

#include "co/co.h"
#include <errno.h>

/* How long the first try to take a filter out may take, the longest, and how many times that is rested after each. */
#define FIRST_NS (500 * 1000000LL)
#define AGAIN_NS (50 * 1000000LL)
#define AGAIN_MAX_NS (1000 * 1000000LL)
#define AGAIN_REST 20

int weir_job_filter_insert(struct weir_node *below, struct weir_node *filter, struct weir_error **err)
{
    struct weir_drain drain = { 0 };
    struct weir_tran *tran;
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &below, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        tran = weir_tran_new();
        ret = weir_tran_replace_parents(tran, below, filter, filter, err);
        ret = weir_tran_end(tran, ret, err);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

int weir_job_filter_take_out(struct weir_tran *tran, struct weir_node *filter, struct weir_node *below,
                             struct weir_error **err)
{
    struct weir_edge *edge;
    int ret = 0;

    TAILQ_FOREACH (edge, &filter->children, in_parent)
        ret = ret ? ret : weir_edge_check_thawed(edge, err);
    if (!ret)
        ret = weir_tran_replace_parents(tran, filter, below, filter, err);

    while (!ret && (edge = TAILQ_FIRST(&filter->children)))
        weir_tran_detach(tran, edge);
    return ret;
}

/* Down to what it stands on now: another job's filter may have been taken out between. */
static weir_co_fn int try_remove(struct weir_node *filter, int64_t limit_ns)
{
    const struct weir_edge *edge;
    struct weir_drain drain = { 0 };
    struct weir_tran *tran;
    int ret;

    weir_graph_lock();
    ret = weir_drain_begin(&drain, &filter, 1, limit_ns, NULL);
    if (!ret) {
        tran = weir_tran_new();
        edge = weir_node_filtered(filter);
        ret = edge ? weir_job_filter_take_out(tran, filter, edge->node, NULL) : 0;
        ret = weir_tran_end(tran, ret, NULL);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

static weir_co_fn void remove_later(void *arg)
{
    struct weir_node *filter = arg;
    int64_t limit = AGAIN_NS;

    do {
        weir_co_sleep(limit * AGAIN_REST);
        limit = WEIR_MIN(2 * limit, AGAIN_MAX_NS);
    } while (try_remove(filter, limit));
    weir_node_unref(filter);
}

void weir_job_filter_remove(struct weir_node *filter)
{
    if (try_remove(filter, FIRST_NS))
        weir_co_start(weir_loop_control(), remove_later, filter);
    else
        weir_node_unref(filter);
}

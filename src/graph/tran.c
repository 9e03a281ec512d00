/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transactions: a list of steps, all committed or all undone.
 *
 * Edits of the graph (tran_edit.c) take effect at once and are steps like any other.
 */
#include "graph/graph.h"
#include "base/alloc.h"
#include "graph/internal.h"

struct tran_step {
    const struct weir_tran_ops *ops;
    void *data;
    TAILQ_ENTRY(tran_step) link;
};

struct weir_tran {
    TAILQ_HEAD(tran_steps, tran_step) steps;
};

struct weir_tran *weir_tran_new(void)
{
    struct weir_tran *tran = weir_new(struct weir_tran);

    TAILQ_INIT(&tran->steps);
    return tran;
}

void weir_tran_add(struct weir_tran *tran, const struct weir_tran_ops *ops, void *data)
{
    struct tran_step *step = weir_new(struct tran_step);

    step->ops = ops;
    step->data = data;
    TAILQ_INSERT_TAIL(&tran->steps, step, link);
}

static void free_step(struct weir_tran *tran, struct tran_step *step)
{
    TAILQ_REMOVE(&tran->steps, step, link);
    free(step->data);
    free(step);
}

void *weir_tran_last(struct weir_tran *tran)
{
    return TAILQ_LAST(&tran->steps, tran_steps);
}

void weir_tran_undo_to(struct weir_tran *tran, void *last)
{
    struct tran_step *step;

    while ((step = TAILQ_LAST(&tran->steps, tran_steps)) != last) {
        if (step->ops->abort)
            step->ops->abort(step->data);
        free_step(tran, step);
    }
}

void weir_tran_abort(struct weir_tran *tran)
{
    weir_graph_assert();
    weir_tran_undo_to(tran, NULL);
    free(tran);
}

int weir_tran_finish(struct weir_tran *tran, struct weir_error **err)
{
    struct tran_step *step;
    int ret;

    weir_graph_assert();
    ret = weir_perm_refresh(err);
    if (ret < 0) {
        weir_tran_abort(tran);
        return ret;
    }
    TAILQ_FOREACH (step, &tran->steps, link) {
        ret = step->ops->ready ? step->ops->ready(step->data, err) : 0;
        if (ret < 0) {
            weir_tran_abort(tran);
            weir_perm_refresh_less();
            return ret;
        }
    }
    weir_drain_extend();
    while ((step = TAILQ_FIRST(&tran->steps))) {
        if (step->ops->commit)
            step->ops->commit(step->data);
        free_step(tran, step);
    }
    free(tran);
    return 0;
}

int weir_tran_end(struct weir_tran *tran, int ret, struct weir_error **err)
{
    if (!ret)
        return weir_tran_finish(tran, err);
    weir_tran_abort(tran);
    return ret;
}

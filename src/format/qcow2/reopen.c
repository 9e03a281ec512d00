/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Other options for an open image.
 */
#include "base/alloc.h"
#include "format/qcow2/qcow2.h"
#include "gen/schema.h"
#include <string.h>

/* What options say. */
struct settings {
    unsigned overlap;
    bool discard[QCOW2_DISCARDS], discard_no_unref, lazy_refcounts;
    struct weir_meta_options meta;
};

struct undo {
    struct settings old;
    bool lazy_switched; /* on disk, too */
};

static struct settings settings_of(struct weir_node *node)
{
    const struct qcow2 *q = node->state;
    struct settings settings = { .overlap = q->overlap,
                                 .discard_no_unref = q->discard_no_unref,
                                 .lazy_refcounts = q->lazy_refcounts,
                                 .meta = weir_meta_options(node) };

    memcpy(settings.discard, q->discard, sizeof(settings.discard));
    return settings;
}

static void set(struct weir_node *node, const struct settings *settings)
{
    struct qcow2 *q = node->state;

    q->overlap = settings->overlap;
    q->discard_no_unref = settings->discard_no_unref;
    q->lazy_refcounts = settings->lazy_refcounts;
    memcpy(q->discard, settings->discard, sizeof(q->discard));
    weir_meta_set_cache(node, settings->meta.cache_max, settings->meta.clean_interval_ns);
}

/* Of an image that is being written to: its header says whether its counts can be trusted. */
static weir_co_fn int switch_lazy(struct weir_node *node, bool lazy, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret = 0;

    q->lazy_refcounts = true;
    if (lazy)
        ret = qcow2_begin_writing(node, err);
    if (!lazy || ret)
        qcow2_end_writing(node);
    q->lazy_refcounts = lazy && !ret;
    return ret;
}

static weir_co_fn int prepare(struct weir_node *node, struct weir_reopening *reopening,
                              struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct undo undo = { .old = settings_of(node) };
    struct weir_meta_options meta = { 0 };
    int ret = qcow2_options_take(node, reopening->options, &meta, err);

    if (!ret) {
        weir_meta_set_cache(node, meta.cache_max, meta.clean_interval_ns);
        ret = qcow2_guard_snapshots(node);
        if (ret)
            weir_error_set_errno(err, ret, "Could not read tables");
    }
    undo.lazy_switched = !ret && reopening->writable && q->lazy_refcounts != undo.old.lazy_refcounts;
    if (undo.lazy_switched)
        ret = switch_lazy(node, q->lazy_refcounts, err);
    if (ret) {
        set(node, &undo.old);
        return ret;
    }
    reopening->undo = weir_new(struct undo);
    *(struct undo *)reopening->undo = undo;
    return 0;
}

static weir_co_fn void abort_reopening(struct weir_node *node, struct weir_reopening *reopening)
{
    struct undo *undo = reopening->undo;

    /* Where the switch fails its counts are written at once, though the header calls them lazy. */
    if (undo->lazy_switched)
        (void)!switch_lazy(node, undo->old.lazy_refcounts, NULL);
    undo->old.lazy_refcounts = ((struct qcow2 *)node->state)->lazy_refcounts;
    set(node, &undo->old);
}

static bool names_backing(struct weir_node *node)
{
    const struct qcow2 *q = node->state;

    return q->backing_name && *q->backing_name;
}

static const char *const changes[] = { "lazy-refcounts",
                                       "pass-discard-request",
                                       "pass-discard-snapshot",
                                       "pass-discard-other",
                                       "discard-no-unref",
                                       "overlap-check",
                                       "cache-size",
                                       "l2-cache-size",
                                       "refcount-cache-size",
                                       "cache-clean-interval",
                                       NULL };
const struct weir_reopen_ops qcow2_reopen_ops = {
    .options = changes, .prepare = prepare, .abort = abort_reopening, .names_backing = names_backing
};

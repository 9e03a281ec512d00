/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options of an open image: what is guarded, what is passed on, how much is cached.
 */
#include "format/qcow2/qcow2.h"

#include "gen/schema.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define L2_CACHE_DEFAULT ((uint64_t)32 << 20)
#define REFCOUNT_CACHE_TABLES 4u
#define SECOND_NS 1000000000LL

/* ---- overlap-check ---- */

static unsigned overlap_mode(const char *mode)
{
    if (!strcmp(mode, "none"))
        return 0;
    if (!strcmp(mode, "constant"))
        return QCOW2_OVERLAP_CONSTANT;
    return strcmp(mode, "all") ? QCOW2_OVERLAP_CACHED : QCOW2_OVERLAP_ALL;
}

static unsigned overlap_flags(json_t *value)
{
    static const struct {
        const char *name;
        unsigned flag;
    } names[] = {
        { "main-header", QCOW2_OVERLAP_HEADER },
        { "active-l1", QCOW2_OVERLAP_ACTIVE_L1 },
        { "active-l2", QCOW2_OVERLAP_ACTIVE_L2 },
        { "refcount-block", QCOW2_OVERLAP_REFCOUNT_BLOCK },
        { "refcount-table", QCOW2_OVERLAP_REFCOUNT_TABLE },
        { "snapshot-table", QCOW2_OVERLAP_SNAPSHOT_TABLE },
        { "inactive-l1", QCOW2_OVERLAP_INACTIVE_L1 },
        { "inactive-l2", QCOW2_OVERLAP_INACTIVE_L2 },
        { "bitmap-directory", QCOW2_OVERLAP_BITMAP_DIRECTORY },
    };
    json_t *template = json_object_get(value, "template");
    unsigned flags = template ? overlap_mode(json_string_value(template)) : QCOW2_OVERLAP_CACHED;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(names); i++) {
        json_t *flag = json_object_get(value, names[i].name);

        if (flag)
            flags = json_is_true(flag) ? flags | names[i].flag : flags & ~names[i].flag;
    }
    return flags;
}

/* ---- caches ---- */

static int check_cache_size(bool given, int64_t value, const char *name, struct weir_error **err)
{
    if (given && value < 0)
        return weir_error_set(err, -EINVAL, "Parameter '%s' expects a non-negative number below 2^64", name);
    return 0;
}

static int check_caches(const struct weir_opts_qcow2 *opts, struct weir_error **err)
{
    int ret = check_cache_size(opts->has_cache_size, opts->cache_size, "cache-size", err);

    if (!ret)
        ret = check_cache_size(opts->has_l2_cache_size, opts->l2_cache_size, "l2-cache-size", err);
    if (!ret)
        ret = check_cache_size(opts->has_refcount_cache_size, opts->refcount_cache_size,
                               "refcount-cache-size", err);
    if (ret || !opts->has_cache_size)
        return ret;
    if (opts->has_l2_cache_size && opts->has_refcount_cache_size)
        return weir_error_set(
            err, -EINVAL,
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    if (opts->has_l2_cache_size && opts->l2_cache_size > opts->cache_size)
        return weir_error_set(err, -EINVAL, "l2-cache-size may not exceed cache-size");
    if (opts->has_refcount_cache_size && opts->refcount_cache_size > opts->cache_size)
        return weir_error_set(err, -EINVAL, "refcount-cache-size may not exceed cache-size");
    return 0;
}

/* One cache holds both kinds of tables: the sizes add up. No more than all tables of the disk need. */
static uint64_t cache_bytes(const struct qcow2_header *h, const struct weir_opts_qcow2 *opts)
{
    uint64_t size = qcow2_cluster_size(h), all = qcow2_clusters(h, h->size) * qcow2_l2_entry_size(h);
    uint64_t l2 = opts->has_l2_cache_size ? (uint64_t)opts->l2_cache_size : L2_CACHE_DEFAULT;
    uint64_t refcounts =
        opts->has_refcount_cache_size ? (uint64_t)opts->refcount_cache_size : REFCOUNT_CACHE_TABLES * size;

    if (opts->has_cache_size)
        return (uint64_t)opts->cache_size;
    return WEIR_MIN(l2, weir_align_up(all, size)) + refcounts;
}

int qcow2_options_take(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                       struct weir_meta_options *meta, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret = check_caches(opts, err);

    if (!ret && (opts->cache_clean_interval < 0 || opts->cache_clean_interval > (int64_t)UINT32_MAX))
        ret = weir_error_set(err, -EINVAL, "Cache clean interval too big");
    if (ret)
        return ret;
    q->overlap = QCOW2_OVERLAP_CACHED;
    if (opts->has_overlap_check)
        q->overlap = json_is_string(opts->overlap_check)
                         ? overlap_mode(json_string_value(opts->overlap_check))
                         : overlap_flags(opts->overlap_check);
    q->discard[QCOW2_DISCARD_REQUEST] =
        opts->has_pass_discard_request ? opts->pass_discard_request : node->discard_unmap;
    q->discard[QCOW2_DISCARD_SNAPSHOT] = opts->pass_discard_snapshot;
    q->discard[QCOW2_DISCARD_OTHER] = opts->pass_discard_other;
    q->discard_no_unref = opts->discard_no_unref;
    q->lazy_refcounts =
        opts->has_lazy_refcounts ? opts->lazy_refcounts : q->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (q->lazy_refcounts && q->header.version < 3)
        return weir_error_set(
            err, -EINVAL, "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level");
    if (q->discard_no_unref && q->header.version < 3)
        return weir_error_set(err, -EINVAL, "discard-no-unref is only supported since qcow2 version 3");
    meta->cache_max = cache_bytes(&q->header, opts);
    meta->clean_interval_ns = opts->cache_clean_interval * SECOND_NS;
    return 0;
}

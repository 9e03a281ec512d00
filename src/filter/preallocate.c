/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * preallocate: makes the file below grow in large steps, ahead of the writes.
 *
 * A write that would make the file longer first lengthens it by zeroes that take their space: up to `size` bytes behind
 * the end of the write, rounded up to `align`. Above, the node is as long as was written, so that nobody sees what is
 * ahead. What was not used is given back when nobody writes any more, before the file's locks are let go; a killed
 * daemon leaves it to the file. Everything but a write or zero at the end passes by.
 *
 * The end of the file moves under a mutex, one step at a time: who comes meanwhile waits and mostly finds room. A file
 * system that cannot reserve space, or has none left, is asked again only once the file has grown by itself as far.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include <errno.h>
#include <inttypes.h>

#define SECTOR 512u
#define ALIGN_DEFAULT ((uint64_t)1 << 20)
#define SIZE_DEFAULT ((uint64_t)128 << 20)
#define LENGTH_MAX (INT64_MAX / 4) /* of both, and of files: sums of them stay in range */

extern const struct weir_driver weir_driver_preallocate;

struct preallocate_state {
    struct weir_edge *file;
    uint64_t align, size;           /* bytes; align 0: none */
    struct weir_co_mutex step;      /* one at a time */
    _Atomic bool ahead;             /* the file may be longer than the node */
    _Atomic uint64_t no_use_before; /* a step failed: none until the file is that long */
};

static int set_length(const char *name, bool given, int64_t value, uint64_t otherwise, uint64_t *ret_length,
                      struct weir_error **err)
{
    if (given && (value < 0 || value > LENGTH_MAX))
        return weir_error_set(err, -EINVAL,
                              value < 0 ? "Parameter '%s' expects a non-negative number below 2^64"
                                        : "Parameter '%s' is too large",
                              name);
    *ret_length = given ? (uint64_t)value : otherwise;
    return 0;
}

static int set_options(struct preallocate_state *pre, const struct weir_opts_preallocate *opts,
                       struct weir_error **err)
{
    int ret = set_length("prealloc-align", opts->has_prealloc_align, opts->prealloc_align, ALIGN_DEFAULT,
                         &pre->align, err);

    if (!ret)
        ret = set_length("prealloc-size", opts->has_prealloc_size, opts->prealloc_size, SIZE_DEFAULT,
                         &pre->size, err);
    if (!ret && pre->align % SECTOR)
        return weir_error_set(err, -EINVAL,
                              "prealloc-align parameter of preallocate filter is not aligned to %u", SECTOR);
    return ret;
}

static weir_co_fn int preallocate_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_preallocate *opts = options;
    struct preallocate_state *pre = weir_node_state(node);
    int ret = set_options(pre, opts, err);

    if (!ret)
        ret = weir_node_open_child(node, opts->file, "file", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                                   &pre->file, err);
    if (ret)
        return ret;
    weir_co_mutex_init(&pre->step);
    weir_node_set_size(node, weir_node_size(pre->file->node));
    return 0;
}

/* ---- giving back ---- */

static weir_co_fn void give_back(struct weir_node *node)
{
    struct preallocate_state *pre = weir_node_state(node);

    if (!atomic_exchange(&pre->ahead, false))
        return;
    /* Failing it stays as long as it is, which does no harm but to the space. */
    if (weir_node_size(pre->file->node) > weir_node_size(node))
        weir_node_give_back(pre->file, weir_node_size(node));
}

static weir_co_fn int preallocate_perm_prepare(struct weir_node *node, unsigned perm, unsigned shared,
                                               struct weir_error **err)
{
    if (!(perm & (WEIR_PERM_WRITE | WEIR_PERM_WRITE_UNCHANGED | WEIR_PERM_RESIZE)))
        give_back(node);
    return 0;
}

static void preallocate_perm_done(struct weir_node *node)
{
    (void)node; /* what was given back stays so */
}

static weir_co_fn void preallocate_close(struct weir_node *node)
{
    struct preallocate_state *pre = weir_node_state(node);

    give_back(node);
    weir_co_mutex_done(&pre->step);
}

/* ---- permissions ---- */

/* Any writer makes the file grow, and nobody else may move its end: the node would not follow. */
static void preallocate_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                   unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    weir_perm_default(node, edge, perm, shared, ret_perm, ret_shared);
    *ret_shared &= ~(unsigned)WEIR_PERM_RESIZE;
    if (perm & (WEIR_PERM_WRITE | WEIR_PERM_RESIZE)) {
        *ret_perm |= WEIR_PERM_WRITE | WEIR_PERM_RESIZE;
        *ret_shared &= ~(unsigned)WEIR_PERM_WRITE;
    }
}

static void preallocate_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->write_flags |= WEIR_REQUEST_FUA | WEIR_REQUEST_UNSTABLE | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = WEIR_REQUEST_FUA | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

static unsigned preallocate_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO);
}

static weir_co_fn int preallocate_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct preallocate_state *pre = weir_node_state(node);
    int ret = weir_node_resize(pre->file, size, err);

    if (ret)
        return ret;
    atomic_store(&pre->ahead, false);
    weir_node_set_size(node, size);
    return 0;
}

/* ---- going ahead ---- */

static uint64_t round_up(uint64_t value, uint64_t align)
{
    return align ? (value + align - 1) / align * align : value;
}

static bool needs_step(struct preallocate_state *pre, uint64_t end)
{
    return end > weir_node_size(pre->file->node) && end >= atomic_load(&pre->no_use_before);
}

static weir_co_fn void go_ahead(struct preallocate_state *pre, uint64_t end)
{
    uint64_t start, wanted = round_up(end + pre->size, pre->align);
    struct weir_request zero;

    weir_co_mutex_lock(&pre->step);
    start = weir_node_size(pre->file->node);
    if (needs_step(pre, end) && wanted > start) {
        atomic_store(&pre->ahead, true);
        zero = weir_request_make(WEIR_OP_ZERO, start, wanted - start, NULL, 0, WEIR_REQUEST_NO_FALLBACK);
        if (weir_io(pre->file, &zero))
            atomic_store(&pre->no_use_before, wanted);
    }
    weir_co_mutex_unlock(&pre->step);
}

static weir_co_fn int preallocate_submit(struct weir_node *node, struct weir_request *request)
{
    struct preallocate_state *pre = weir_node_state(node);
    uint64_t end = request->offset + request->length;

    if (needs_step(pre, end) && end < LENGTH_MAX)
        go_ahead(pre, end);
    return weir_io(pre->file, request);
}

static int preallocate_try_submit(struct weir_node *node, struct weir_request *request)
{
    struct preallocate_state *pre = weir_node_state(node);

    return needs_step(pre, request->offset + request->length) ? -EAGAIN : weir_io_try(pre->file, request);
}

/* ---- reopening: other steps ---- */

struct preallocate_undo {
    uint64_t align, size;
};

static weir_co_fn int preallocate_prepare(struct weir_node *node, struct weir_reopening *reopening,
                                          struct weir_error **err)
{
    struct preallocate_state *pre = weir_node_state(node);
    struct preallocate_undo was = { pre->align, pre->size }, *undo;
    int ret = set_options(pre, reopening->options, err);

    if (ret) {
        pre->align = was.align;
        pre->size = was.size;
        return ret;
    }
    undo = weir_new(struct preallocate_undo);
    *undo = was;
    reopening->undo = undo;
    return 0;
}

static void preallocate_abort(struct weir_node *node, struct weir_reopening *reopening)
{
    struct preallocate_state *pre = weir_node_state(node);
    const struct preallocate_undo *undo = reopening->undo;

    pre->align = undo->align;
    pre->size = undo->size;
}

static const char *const preallocate_changes[] = { "prealloc-align", "prealloc-size", NULL };
static const struct weir_reopen_ops preallocate_reopen = { .options = preallocate_changes,
                                                           .prepare = preallocate_prepare,
                                                           .abort = preallocate_abort };

const struct weir_driver weir_driver_preallocate = {
    .name = "preallocate",
    .flags = WEIR_DRIVER_FILTER | WEIR_DRIVER_OWN_SIZE,
    .state_size = sizeof(struct preallocate_state),
    .options = &weir_schema_opts_preallocate,
    .open = preallocate_open,
    .close = preallocate_close,
    .limits = preallocate_limits,
    .resize = preallocate_resize,
    .child_perm = preallocate_child_perm,
    .perm_prepare = preallocate_perm_prepare,
    .perm_commit = preallocate_perm_done,
    .perm_abort = preallocate_perm_done,
    .cares = preallocate_cares,
    .submit = preallocate_submit,
    .try_submit = preallocate_try_submit,
    .reopen = &preallocate_reopen,
};

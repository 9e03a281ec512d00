/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * raw: the bytes of the child as they are.
 *
 * Without offset and size the node is a filter without a slot of its own: requests pass it as if it were
 * not there. With offset or size it is a window onto the child: a shift that has map() and therefore
 * another table (raw_window), which open() puts into node->driver before the node can be seen by anybody, and a
 * reopening while it is drained.
 */
#include "base/alloc.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include <errno.h>
#include <inttypes.h>

#define SECTOR 512u

extern const struct weir_driver weir_driver_raw;
static const struct weir_driver raw_window;

struct raw_state {
    struct weir_edge *file;
    uint64_t offset; /* bytes of the child in front of the window */
    bool fixed;      /* the size was given */
};

static int check_window(const struct weir_opts_raw *opts, uint64_t child_size, struct weir_error **err)
{
    uint64_t offset = opts->has_offset ? (uint64_t)opts->offset : 0;

    if ((opts->has_offset && opts->offset < 0) || (opts->has_size && opts->size < 0))
        return weir_error_set(err, -EINVAL, "Parameter '%s' expects a non-negative number below 2^64",
                              opts->has_offset && opts->offset < 0 ? "offset" : "size");
    if (offset > child_size)
        return weir_error_set(err, -EINVAL,
                              "Offset (%" PRIu64 ") cannot be greater than size of the containing file "
                              "(%" PRIu64 ")",
                              offset, child_size);
    if (!opts->has_size)
        return 0;
    if ((uint64_t)opts->size > child_size - offset)
        return weir_error_set(err, -EINVAL,
                              "The sum of offset (%" PRIu64 ") and size (%" PRId64 ") has to be smaller or "
                              "equal to the actual size of the containing file (%" PRIu64 ")",
                              offset, opts->size, child_size);
    if (opts->size % SECTOR)
        return weir_error_set(err, -EINVAL, "Specified size is not multiple of %u", SECTOR);
    return 0;
}

static bool is_window(const struct weir_opts_raw *opts)
{
    return (opts->has_offset && opts->offset) || opts->has_size;
}

static void set_window(struct weir_node *node, const struct weir_opts_raw *opts, uint64_t child_size)
{
    struct raw_state *raw = weir_node_state(node);

    node->driver = is_window(opts) ? &raw_window : &weir_driver_raw;
    raw->offset = opts->has_offset ? (uint64_t)opts->offset : 0;
    raw->fixed = opts->has_size;
    weir_node_set_size(node, raw->fixed ? (uint64_t)opts->size : child_size - raw->offset);
}

static weir_co_fn int raw_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_raw *opts = options;
    struct raw_state *raw = weir_node_state(node);
    unsigned role = WEIR_ROLE_DATA | WEIR_ROLE_PRIMARY | (is_window(opts) ? 0 : WEIR_ROLE_FILTERED);
    uint64_t child_size;
    int ret;

    ret = weir_node_open_child(node, opts->file, "file", role, &raw->file, err);
    if (ret < 0)
        return ret;
    child_size = weir_node_size(raw->file->node);
    ret = check_window(opts, child_size, err);
    if (ret < 0)
        return ret;
    set_window(node, opts, child_size);
    return 0;
}

/* ---- reopening: another window ---- */

struct raw_undo {
    struct raw_state state;
    const struct weir_driver *driver;
    unsigned role;
    uint64_t size;
};

/* Users that do not share resizing rely on the size, jobs on the way that a frozen link is. */
static int check_change(struct weir_node *node, const struct weir_opts_raw *opts, uint64_t child_size,
                        struct weir_error **err)
{
    const struct raw_state *raw = weir_node_state(node);
    uint64_t offset = opts->has_offset ? (uint64_t)opts->offset : 0,
             size = opts->has_size ? (uint64_t)opts->size : child_size - offset;
    bool was_window = node->driver == &raw_window;

    if (offset == raw->offset && opts->has_size == raw->fixed && size == weir_node_size(node))
        return 0;
    if (raw->file->frozen && (offset != raw->offset || is_window(opts) != was_window))
        return weir_edge_check_thawed(raw->file, err);
    if (size != weir_node_size(node) && !(node->shared & WEIR_PERM_RESIZE))
        return weir_error_set(err, -EPERM, "Node '%s' has users that do not share the permission 'resize'",
                              node->name);
    return 0;
}

static weir_co_fn int raw_prepare(struct weir_node *node, struct weir_reopening *reopening,
                                  struct weir_error **err)
{
    const struct weir_opts_raw *opts = reopening->options;
    struct raw_state *raw = weir_node_state(node);
    uint64_t child_size = weir_node_size_now(raw->file->node);
    struct raw_undo *undo;
    int ret = check_window(opts, child_size, err);

    if (!ret)
        ret = check_change(node, opts, child_size, err);
    if (ret < 0)
        return ret;
    undo = weir_new(struct raw_undo);
    *undo = (struct raw_undo){ *raw, node->driver, raw->file->role, weir_node_size(node) };
    reopening->undo = undo;
    raw->file->role &= ~(unsigned)WEIR_ROLE_FILTERED;
    if (!is_window(opts))
        raw->file->role |= WEIR_ROLE_FILTERED;
    set_window(node, opts, child_size);
    return 0;
}

static void raw_abort(struct weir_node *node, struct weir_reopening *reopening)
{
    const struct raw_undo *undo = reopening->undo;
    struct raw_state *raw = weir_node_state(node);

    *raw = undo->state;
    raw->file->role = undo->role;
    node->driver = undo->driver;
    weir_node_set_size(node, undo->size);
}

static const char *const raw_changes[] = { "offset", "size", NULL };
static const struct weir_reopen_ops raw_reopen = { .options = raw_changes,
                                                   .prepare = raw_prepare,
                                                   .abort = raw_abort };

static void raw_close(struct weir_node *node)
{
}

static int raw_map(struct weir_node *node, enum weir_op op, uint64_t offset, uint64_t length, unsigned flags,
                   struct weir_extent *extent, struct weir_need *need)
{
    const struct raw_state *raw = weir_node_state(node);
    /* A format above makes a window without an end grow with its file; one with an end takes no such request. */
    uint64_t end = raw->fixed ? weir_node_size(node) : INT64_MAX - raw->offset;

    *extent = (struct weir_extent){
        .where = WEIR_DATA,
        .offset = 0,
        .length = end,
        .edge = raw->file,
        .child_offset = raw->offset,
        .child_length = end,
    };
    return 0;
}

static void raw_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct raw_state *raw = weir_node_state(node);

    limits->grows = limits->grows && !raw->fixed;
}

static weir_co_fn int raw_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    const struct raw_state *raw = weir_node_state(node);
    int ret;

    if (raw->fixed)
        return weir_error_set(err, -ENOTSUP, "Cannot resize fixed-size raw disks");
    if (size > INT64_MAX - raw->offset)
        return weir_error_set(err, -EINVAL, "Disk size too large for the chosen offset");
    ret = weir_node_resize(raw->file, raw->offset + size, err);
    if (ret < 0)
        return ret;
    weir_node_set_size(node, size);
    return 0;
}

const struct weir_driver weir_driver_raw = {
    .name = "raw",
    .flags = WEIR_DRIVER_FORMAT,
    .state_size = sizeof(struct raw_state),
    .options = &weir_schema_opts_raw,
    .open = raw_open,
    .close = raw_close,
    .resize = raw_resize,
    .reopen = &raw_reopen,
};

static const struct weir_driver raw_window = {
    .name = "raw",
    .flags = WEIR_DRIVER_FORMAT,
    .state_size = sizeof(struct raw_state),
    .options = &weir_schema_opts_raw,
    .open = raw_open,
    .close = raw_close,
    .limits = raw_limits,
    .map = raw_map,
    .resize = raw_resize,
    .reopen = &raw_reopen,
};

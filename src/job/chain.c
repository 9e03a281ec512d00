/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/chain.h"

#include "base/alloc.h"
#include "graph/describe.h"
#include "graph/filename.h"
#include "io/async.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>

/* ---- the name in the image ---- */

struct name_step {
    struct weir_node *node;
    char *file, *format; /* as it was */
};

static weir_co_fn void name_abort(void *data)
{
    struct name_step *step = data;

    /* As it was a moment ago: where that fails too, the storage has failed, and the job says why. */
    (void)!step->node->driver->set_backing_name(step->node, step->file, step->format, NULL);
    free(step->file);
    free(step->format);
}

static weir_co_fn void name_commit(void *data)
{
    struct name_step *step = data;

    free(step->file);
    free(step->format);
}

static const struct weir_tran_ops name_ops = { .commit = name_commit, .abort = name_abort };

static char *text_of(json_t *image, const char *name)
{
    const char *text = json_string_value(json_object_get(image, name));

    return text ? weir_strdup(text) : NULL;
}

static weir_co_fn int set_name(struct weir_tran *tran, struct weir_node *node, const char *file,
                               const char *format, struct weir_error **err)
{
    json_t *image = json_object();
    struct name_step *step;
    int ret;

    if (node->read_only) {
        json_decref(image);
        return weir_error_set(err, -EACCES, "Cannot change the backing file of '%s': Block node is read-only",
                              node->name);
    }
    step = weir_new(struct name_step);
    if (node->driver->describe)
        node->driver->describe(node, image);
    *step = (struct name_step){ node, text_of(image, "backing-filename"),
                                text_of(image, "backing-filename-format") };
    json_decref(image);
    ret = node->driver->set_backing_name(node, file, format, err);
    if (!ret) {
        weir_tran_add(tran, &name_ops, step);
        return 0;
    }
    free(step->file);
    free(step->format);
    free(step);
    return ret;
}

/* ---- the link ---- */

int weir_chain_set_name(struct weir_tran *tran, struct weir_node *overlay, struct weir_node *base,
                        const char *file, bool mask_protocol, struct weir_error **err)
{
    const struct weir_driver *driver = base ? weir_node_skip_filters(base)->driver : NULL;
    const char *format = driver ? driver->name : NULL;

    struct weir_request flush = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    int ret;

    if (!overlay->driver->set_backing_name)
        return 0;
    /* Storage that hangs is met here, with a limit, rather than in the middle of the header. */
    ret = weir_io_abandonable(weir_node_primary(overlay), &flush, weir_sys->clock_ns() + WEIR_DRAIN_LIMIT_NS);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not flush '%s'", weir_node_file_name(overlay));
    if (mask_protocol && driver && (driver->flags & WEIR_DRIVER_PROTOCOL))
        format = "raw";
    return set_name(tran, overlay, base ? (file ? file : weir_node_file_name(base)) : NULL, format, err);
}

int weir_chain_set_backing(struct weir_tran *tran, struct weir_node *overlay, struct weir_node *base,
                           const char *file, bool mask_protocol, struct weir_error **err)
{
    struct weir_edge *cow = weir_node_cow(overlay);
    int ret = weir_edge_check_thawed(cow, err);

    if (!ret && base)
        ret = cow->node == base ? 0 : weir_tran_replace(tran, cow, base, err);
    else if (!ret)
        weir_tran_detach(tran, cow);
    return ret ? ret : weir_chain_set_name(tran, overlay, base, file, mask_protocol, err);
}

/* ---- by file name ---- */

/* A name as it stands in the image above, or as it is meant from here, or the file's own. */
static bool is_called(struct weir_node *node, struct weir_node *above, const char *file)
{
    weir_autofree char *resolved = weir_filename_resolve(file, weir_node_file_name(above));
    const char *own = weir_node_file_name(node);

    return !strcmp(own, file) || !strcmp(own, resolved);
}

struct weir_node *weir_chain_find_file(struct weir_node *top, const char *file)
{
    struct weir_node *above = weir_node_skip_filters(top), *node;

    for (; above && (node = weir_node_backing_chain_next(above)); above = node) {
        if (is_called(node, above, file))
            return node;
    }
    return NULL;
}

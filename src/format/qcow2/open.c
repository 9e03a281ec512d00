/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening an image: the header with its extensions, what this code may do with it, its children, its directories.
 */
#include "format/qcow2/qcow2.h"

#include "base/alloc.h"
#include "format/qcow2/check.h"
#include "gen/schema.h"
#include "graph/filename.h"
#include "graph/graph.h"
#include "io/io.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- header ---- */

/* Names of unknown features, from the image's own table where it has one. */
static char *feature_names(const struct qcow2 *q, const uint8_t *first, size_t length, uint64_t unknown)
{
    struct qcow2_extension_at extension;
    char *names = weir_strdup("");
    size_t at = 0;

    while (qcow2_extension_next(&q->header, first, length, &at, &extension) > 0) {
        if (extension.type != QCOW2_EXT_FEATURE_NAMES)
            continue;
        for (uint32_t i = 0; i + 48 <= extension.length; i += 48) {
            const uint8_t *entry = extension.data + i;
            char *longer;

            if (entry[0] != 0 || entry[1] > 63 || !(unknown >> entry[1] & 1) || !entry[2])
                continue;
            longer = weir_strdup_printf("%s%s%.46s", names, *names ? ", " : "", (const char *)entry + 2);
            free(names);
            names = longer;
            unknown &= ~((uint64_t)1 << entry[1]);
        }
    }
    if (unknown) {
        char *longer = weir_strdup_printf("%s%sUnknown incompatible feature: %llx", names, *names ? ", " : "",
                                          (unsigned long long)unknown);

        free(names);
        names = longer;
    }
    return names;
}

static int check_features(const struct qcow2 *q, const uint8_t *first, size_t length, struct weir_error **err)
{
    uint64_t unknown = q->header.incompatible & ~(uint64_t)QCOW2_INCOMPAT_KNOWN;

    if (unknown) {
        weir_autofree char *names = feature_names(q, first, length, unknown);

        return weir_error_set(err, -ENOTSUP, "Unsupported qcow2 feature(s): %s", names);
    }
    if (q->header.crypt_method)
        return weir_error_set(err, -ENOTSUP, "Encrypted images are not supported (encryption method %s)",
                              q->header.crypt_method == 1   ? "AES"
                              : q->header.crypt_method == 2 ? "LUKS"
                                                            : "unknown");
    return 0;
}

static char *text_of(const struct qcow2_extension_at *extension)
{
    char *text = weir_alloc((size_t)extension->length + 1);

    memcpy(text, extension->data, extension->length);
    return text;
}

static weir_co_fn int take_extension(struct weir_node *node, const struct qcow2_extension_at *extension,
                                     struct weir_error **err)
{
    struct qcow2 *q = node->state;

    switch (extension->type) {
    case QCOW2_EXT_BACKING_FORMAT:
        free(q->backing_format);
        q->backing_format = text_of(extension);
        return 0;
    case QCOW2_EXT_DATA_FILE:
        free(q->data_file_name);
        q->data_file_name = text_of(extension);
        return 0;
    case QCOW2_EXT_BITMAPS:
        /* Without the bit whoever wrote last did not know bitmaps: the list is out of date. */
        return q->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS && !q->bitmaps
                   ? qcow2_bitmaps_load(node, extension, err)
                   : 0;
    default:
        return 0;
    }
}

static weir_co_fn int read_extensions(struct weir_node *node, const uint8_t *first, size_t length,
                                      struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_extension_at extension;
    size_t at = 0;
    int ret;

    while ((ret = qcow2_extension_next(&q->header, first, length, &at, &extension)) > 0) {
        ret = take_extension(node, &extension, err);
        if (ret)
            return ret;
    }
    if (ret < 0)
        return weir_error_set(err, ret, "Header extension too large");
    if (q->header.backing_offset) {
        if (q->header.backing_offset + q->header.backing_size > length)
            return weir_error_set(err, -EINVAL, "Could not read the backing file name");
        q->backing_name = weir_alloc((size_t)q->header.backing_size + 1);
        memcpy(q->backing_name, first + q->header.backing_offset, q->header.backing_size);
    }
    return 0;
}

static weir_co_fn int read_header(struct weir_node *node, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    uint64_t file_size = weir_node_size(q->file->node),
             length = WEIR_MIN(file_size, (uint64_t)QCOW2_HEADER_MAX);
    weir_autofree uint8_t *first = NULL;
    int ret = length ? weir_io_read(q->file, 0, length, q->header_bytes) : 0;

    if (ret)
        return weir_error_set_errno(err, ret, "Could not read qcow2 header");
    ret = qcow2_header_parse(q->header_bytes, length, &q->header, err);
    if (ret)
        return ret;
    length = WEIR_MIN(file_size, qcow2_cluster_size(&q->header));
    first = weir_try_alloc(length, 8);
    if (!first)
        return weir_error_set_errno(err, -ENOMEM, "Could not read qcow2 header");
    ret = weir_io_read(q->file, 0, length, first);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not read header extensions");
    ret = check_features(q, first, length, err);
    return ret ? ret : read_extensions(node, first, length, err);
}

/* What an image does not allow to write to. */
static int check_image_writable(const struct weir_node *node, struct weir_error **err)
{
    const struct qcow2 *q = node->state;

    if (q->header.incompatible & QCOW2_INCOMPAT_CORRUPT)
        return weir_error_set(err, -EACCES, "qcow2: Image is corrupt; cannot be opened read/write");
    if (!q->bitmap_count)
        return 0;
    return weir_error_set(
        err, -ENOTSUP,
        "The image has %u persistent dirty bitmaps (the first is '%s'), which writing would "
        "make invalid; open it with read-only=on, or remove them first: qemu-img bitmap "
        "--remove IMAGE BITMAP",
        q->bitmap_count, q->bitmaps[0].name);
}

/* Such an image becomes read-only where the user leaves that open. */
static int check_writable(struct weir_node *node, const struct weir_opts_qcow2 *opts, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret;

    if (opts->x_repair)
        q->failed = true; /* open for the repair alone: nobody writes */
    if (node->read_only || opts->x_repair)
        return 0;
    ret = check_image_writable(node, node->auto_read_only ? NULL : err);
    if (ret && node->auto_read_only) {
        node->read_only = true;
        ret = 0;
    }
    return ret;
}

/* ---- children ---- */

static weir_co_fn int probe(json_t *protocol, const char **ret_format, struct weir_error **err)
{
    struct weir_node *file;
    struct weir_edge *edge;
    uint8_t magic[4] = { 0 };
    json_t *options = json_deep_copy(protocol);
    int ret;

    json_object_set_new(options, "read-only", json_true());
    ret = weir_node_add(options, false, &file, err);
    json_decref(options);
    if (ret)
        return ret;
    ret = weir_root_attach(file, "probe", WEIR_PERM_CONSISTENT_READ, WEIR_PERM_ALL, NULL, NULL, &edge, err);
    if (!ret) {
        if (weir_node_size(file) >= sizeof(magic))
            ret = weir_io_read(edge, 0, sizeof(magic), magic);
        if (ret)
            weir_error_set_errno(err, ret, "Could not read image for determining its format");
        weir_root_detach(edge, -1);
    }
    weir_node_unref(file);
    *ret_format = memcmp(magic, "QFI\xfb", 4) ? "raw" : "qcow2";
    return ret;
}

/* The options of a node on the file that the header names. */
static weir_co_fn int named_child(struct weir_node *node, const char *name, const char *format,
                                  json_t **ret_options, struct weir_error **err)
{
    json_t *protocol;
    bool is_tree;
    int ret = weir_filename_options(name, weir_node_file_name(node), &protocol, &is_tree, err);

    if (ret)
        return ret;
    if (is_tree && !format) {
        *ret_options = protocol;
        return 0;
    }
    if (!format)
        ret = probe(protocol, &format, err);
    if (!ret && is_tree && json_object_get(protocol, "driver") &&
        !strcmp(json_string_value(json_object_get(protocol, "driver")) ?: "", format)) {
        *ret_options = protocol;
        return 0;
    }
    if (!ret)
        *ret_options = json_pack("{s:s, s:O}", "driver", format, "file", protocol);
    /* Never to be taken for "none": the disk would read as something else. */
    if (!ret && !*ret_options)
        ret = weir_error_set(err, -EINVAL, "The name of the backing format is not UTF-8");
    json_decref(protocol);
    return ret;
}

/* What the option says, else what the header names; *ret_options is a new reference, NULL: no backing file. */
static weir_co_fn int choose_backing(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                                     json_t **ret_options, struct weir_error **err)
{
    const struct qcow2 *q = node->state;

    *ret_options = NULL;
    if (opts->has_backing) {
        *ret_options = json_is_null(opts->backing) ? NULL : json_incref(opts->backing);
        return 0;
    }
    if (!q->backing_name || !*q->backing_name)
        return 0;
    return named_child(node, q->backing_name, q->backing_format, ret_options, err);
}

static weir_co_fn int open_backing(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                                   struct weir_error **err)
{
    json_t *options;
    int ret = choose_backing(node, opts, &options, err);

    if (!ret && options)
        ret = weir_node_open_child(node, options, "backing", WEIR_ROLE_COW, NULL, err);
    json_decref(options);
    if (ret)
        weir_error_prefix(err, "Could not open backing file: ");
    return ret;
}

static weir_co_fn int open_data_file(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                                     struct weir_error **err)
{
    struct qcow2 *q = node->state;
    json_t *options = NULL;
    bool is_tree;
    int ret;

    q->data = q->file;
    if (!qcow2_has_data_file(&q->header)) {
        if (opts->has_data_file)
            return weir_error_set(err, -EINVAL,
                                  "'data-file' can only be set for images with an external data file");
        return 0;
    }
    if (!opts->has_data_file && !q->data_file_name)
        return weir_error_set(err, -EINVAL, "'data-file' is required for this image");
    if (opts->has_data_file) {
        options = json_incref(opts->data_file);
        ret = 0;
    } else {
        /* Unlike a backing file's, its name is not relative to the image: others read it so. */
        ret = weir_filename_options(q->data_file_name, NULL, &options, &is_tree, err);
    }
    if (!ret)
        ret = weir_node_open_child(node, options, "data-file", WEIR_ROLE_DATA, &q->data, err);
    json_decref(options);
    return ret;
}

/* ---- directories ---- */

/* Reads a table in whole pieces; what lies behind the end of the file is zero. */
static weir_co_fn int read_table(struct weir_node *node, uint64_t offset, uint64_t bytes,
                                 uint64_t **ret_table)
{
    struct qcow2 *q = node->state;
    uint64_t room = weir_align_up(WEIR_MAX(bytes, (uint64_t)1), qcow2_directory_piece(&q->header)), inside;
    uint64_t size = weir_node_size(q->file->node);
    int ret;

    *ret_table = weir_try_alloc(room, 8);
    if (!*ret_table)
        return -ENOMEM;
    memset(*ret_table, 0, room);
    if (bytes && (offset > size || bytes > size - offset))
        return -EINVAL;
    inside = bytes ? WEIR_MIN(room, size - offset) : 0;
    ret = inside ? weir_io_read(q->file, offset, inside, *ret_table) : 0;
    return ret;
}

static int guard_tables(struct weir_node *node)
{
    struct qcow2 *q = node->state;
    unsigned bits = q->header.cluster_bits;
    int ret = 0;

    for (uint64_t i = 0; i < q->header.l1_size && !ret; i++)
        ret = qcow2_set_add(&q->l2_tables, (be64toh(q->l1[i]) & QCOW2_OFFSET_MASK) >> bits);
    for (uint64_t i = 0; i < q->refcount_entries && !ret; i++) {
        uint64_t block = (be64toh(q->refcount_table[i]) & QCOW2_REFCOUNT_OFFSET_MASK) >> bits;

        if (qcow2_set_has(&q->blocks, block))
            q->shared_block = block << bits;
        ret = qcow2_set_add(&q->blocks, block);
    }
    return ret;
}

weir_co_fn int qcow2_guard_snapshots(struct weir_node *node)
{
    struct qcow2 *q = node->state;
    int ret = 0;

    for (uint32_t i = 0; (q->overlap & QCOW2_OVERLAP_INACTIVE_L2) && i < q->header.snapshot_count && !ret;
         i++) {
        weir_autofree uint64_t *l1 = NULL;

        ret = read_table(node, q->snapshots[i].l1_offset, q->snapshots[i].l1_size * (uint64_t)8, &l1);
        for (uint64_t n = 0; n < q->snapshots[i].l1_size && !ret; n++)
            ret = qcow2_set_add(&q->inactive_l2,
                                (be64toh(l1[n]) & QCOW2_OFFSET_MASK) >> q->header.cluster_bits);
    }
    return ret;
}

static weir_co_fn int load_tables(struct weir_node *node, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_header *h = &q->header;
    uint64_t bytes = (uint64_t)h->refcount_table_clusters << h->cluster_bits;
    int ret = read_table(node, h->l1_offset, h->l1_size * (uint64_t)8, &q->l1);

    if (ret)
        return weir_error_set_errno(err, ret, "Could not read L1 table");
    weir_event(q->file, WEIR_EVENT_REFTABLE_LOAD);
    ret = read_table(node, h->refcount_table_offset, bytes, &q->refcount_table);
    q->refcount_entries = bytes / 8;
    if (ret)
        return weir_error_set_errno(err, ret, "Could not initialize refcount handling");
    ret = qcow2_snapshots_load(node, err);
    if (ret)
        return ret;
    q->high_water = qcow2_clusters(h, weir_node_size(q->file->node));
    ret = guard_tables(node);
    if (!ret)
        ret = qcow2_guard_snapshots(node);
    return ret ? weir_error_set_errno(err, ret, "Could not read tables") : 0;
}

/* ---- life ---- */

static void free_all(struct qcow2 *q)
{
    qcow2_snapshots_free(q);
    qcow2_bitmaps_free(q);
    qcow2_counts_done(q);
    free(weir_steal(&q->l1));
    free(weir_steal(&q->refcount_table));
    free(weir_steal(&q->l2_tables.slots));
    free(weir_steal(&q->blocks.slots));
    free(weir_steal(&q->inactive_l2.slots));
    free(weir_steal(&q->backing_name));
    free(weir_steal(&q->backing_format));
    free(weir_steal(&q->data_file_name));
}

/* After a crash with lazy counts they are made anew before anybody allocates. */
static weir_co_fn int repair(struct weir_node *node, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_check_source source = { .file = q->file, .data = q->data, .header = &q->header };
    struct weir_check_result result;
    int ret = qcow2_check(&source, WEIR_CHECK_FIX_ERRORS | WEIR_CHECK_FIX_LEAKS, &result, NULL, NULL, err);

    if (ret)
        return ret;
    if (result.check_errors || result.corruptions) /* what is left */
        return weir_error_set(err, -EIO, "Could not repair dirty image");
    ret = weir_io_read(q->file, 0, QCOW2_HEADER_MAX, q->header_bytes);
    return ret ? weir_error_set_errno(err, ret, "Could not read qcow2 header")
               : qcow2_header_parse(q->header_bytes, QCOW2_HEADER_MAX, &q->header, err);
}

/* What opening for writing changes on disk at once. */
weir_co_fn int qcow2_begin_writing(struct weir_node *node, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    struct qcow2_header *h = &q->header, old = q->header;
    uint64_t autoclear = h->autoclear & QCOW2_AUTOCLEAR_KNOWN;
    int ret = 0;

    if (node->read_only || q->failed || (autoclear == h->autoclear && !q->lazy_refcounts))
        return 0;
    h->autoclear = autoclear; /* features that we do not keep up */
    if (q->lazy_refcounts)
        h->incompatible |= QCOW2_INCOMPAT_DIRTY;
    ret = qcow2_header_put(node);
    if (!ret)
        ret = weir_meta_sync(node);
    if (ret) {
        h->autoclear = old.autoclear;
        h->incompatible = old.incompatible;
        (void)!qcow2_header_put(node); /* in memory, where it could be put before */
        return weir_error_set_errno(err, ret, "Could not update qcow2 header");
    }
    weir_meta_lazy_counts(node, q->lazy_refcounts);
    return 0;
}

static weir_co_fn int open_image(struct weir_node *node, const struct weir_opts_qcow2 *opts,
                                 struct weir_meta_options *meta, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret = read_header(node, err);

    if (!ret)
        ret = check_writable(node, opts, err);
    if (!ret)
        ret = open_data_file(node, opts, err);
    if (!ret && (q->header.incompatible & QCOW2_INCOMPAT_DIRTY) && !node->read_only && !q->failed)
        ret = repair(node, err);
    if (!ret)
        ret = qcow2_options_take(node, opts, meta, err);
    if (!ret)
        ret = load_tables(node, err);
    if (!ret)
        ret = open_backing(node, opts, err);
    return ret;
}

int qcow2_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_qcow2 *opts = options;
    struct qcow2 *q = node->state;
    struct weir_meta_options meta = { 0 };
    int ret = weir_node_open_child(node, opts->file, "file",
                                   WEIR_ROLE_METADATA | WEIR_ROLE_PRIMARY | WEIR_ROLE_DATA, &q->file, err);

    if (!ret)
        ret = open_image(node, opts, &meta, err);
    if (!ret) {
        meta.edge = q->file;
        meta.data_edge = qcow2_data_apart(q) ? q->data : NULL;
        weir_meta_init(node, &meta);
        ret = qcow2_begin_writing(node, err);
        if (ret)
            weir_meta_done(node);
    }
    if (ret) {
        free_all(q);
        return ret;
    }
    weir_node_set_size(node, q->header.size);
    return 0;
}

/* What closing an image that was writable still says on disk. */
weir_co_fn void qcow2_end_writing(struct weir_node *node)
{
    struct qcow2 *q = node->state;

    if (node->read_only || !q->lazy_refcounts || q->failed)
        return;
    weir_meta_lazy_counts(node, false);
    /* The counts, what they free, and only then the word that they can be trusted. */
    if (!weir_meta_sync(node) && !weir_meta_sync(node)) {
        q->header.incompatible &= ~(uint64_t)QCOW2_INCOMPAT_DIRTY;
        if (!qcow2_header_put(node))
            (void)!weir_meta_sync(node); /* failed: the next one repairs */
    }
}

int qcow2_set_read_only(struct weir_node *node, bool read_only, struct weir_error **err)
{
    struct qcow2 *q = node->state;
    int ret;

    if (!read_only) {
        if (q->failed)
            return weir_error_set(err, -EIO, "Image of node '%s' is damaged, or open for repair only",
                                  node->name);
        if (q->header.incompatible & QCOW2_INCOMPAT_DIRTY)
            return weir_error_set(err, -EIO,
                                  "Image of node '%s' is dirty: it is repaired when it is opened for writing",
                                  node->name);
        ret = check_image_writable(node, err);
        return ret ? ret : qcow2_begin_writing(node, err);
    }
    /* The first one releases what was given up, the second makes the lower counts durable. */
    ret = weir_meta_sync(node);
    if (!ret)
        ret = weir_meta_sync(node);
    qcow2_end_writing(node);
    return ret;
}

void qcow2_close(struct weir_node *node)
{
    struct qcow2 *q = node->state;

    qcow2_end_writing(node);
    weir_meta_done(node);
    free_all(q);
}

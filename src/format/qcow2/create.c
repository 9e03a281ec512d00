/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blockdev-create of a qcow2 image: a coroutine of the control loop.
 *
 * Everything that can be wrong with the options is found before anything is changed. Then the old header is erased for
 * good; the file is emptied and gets its full length, its tables, its data where that is to be preallocated, and after
 * a flush the sector with the header: at no time does a half made file look like an image, and a crash leaves the old
 * image, none, or the new one. What a failed attempt leaves behind stays there.
 */
#include "format/qcow2/create.h"

#include "base/alloc.h"
#include "base/iov.h"
#include "format/qcow2/compose.h"
#include "format/qcow2/plan.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include <errno.h>
#include <string.h>

#define SECTOR 512u
#define CHUNK ((uint64_t)2 << 20)     /* bytes of zeroes written at once */
#define TABLE_CHUNK ((uint64_t)65536) /* tables of zeroes stay holes at this granularity */
#define HEADER_PIECE 4096u
#define ZERO_CHUNK ((uint64_t)1 << 30)
#define EXTENDED_L2_CLUSTER_MIN 16384u

/* A node that is written to. */
struct target {
    struct weir_node *node; /* own reference */
    struct weir_edge *edge;
};

struct create {
    const struct weir_q_blockdev_create_options_qcow2 *options;
    enum weir_q_prealloc_mode preallocation;
    struct target file, data; /* data.node: NULL without a data file */
    struct qcow2_plan plan;
    uint8_t *first; /* the first cluster */
    uint8_t *chunk; /* CHUNK bytes */
};

/* ---- the nodes ---- */

static weir_co_fn int target_open(struct target *target, json_t *reference, struct weir_error **err)
{
    const char *name = json_string_value(reference);

    if (!name)
        return weir_node_add(reference, false, &target->node, err);
    target->node = weir_node_lookup(name, name, err);
    if (!target->node)
        return -ENOENT;
    (void)weir_node_ref(target->node);
    return 0;
}

static weir_co_fn int target_attach(struct target *target, struct weir_error **err)
{
    return weir_root_attach(
        target->node, "root", WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE | WEIR_PERM_RESIZE,
        WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED, NULL, NULL, &target->edge, err);
}

static weir_co_fn void target_close(struct target *target)
{
    if (target->edge)
        weir_root_detach(target->edge, WEIR_DRAIN_LIMIT_NS);
    if (target->node)
        weir_node_unref(target->node);
}

/* The name that the image finds its data file by, or NULL. Borrowed from a node. */
static const char *data_file_name(struct weir_node *node)
{
    struct weir_edge *below;

    while (!node->driver->filename && (below = weir_node_primary(node)))
        node = below->node;
    return node->driver->filename ? node->driver->filename(node) : NULL;
}

/* ---- the options ---- */

static bool is_v2(const struct weir_q_blockdev_create_options_qcow2 *opts)
{
    return opts->has_version && opts->version == WEIR_Q_BLOCKDEV_QCOW2_VERSION_V2;
}

static int needs_v3(const char *what, const char *verb, const char *level, struct weir_error **err)
{
    return weir_error_set(err, -EINVAL, "%s %s compatibility level 1.1 %s above (use version=v3 or greater)",
                          what, verb, level);
}

static int check_clusters(const struct weir_q_blockdev_create_options_qcow2 *opts, uint64_t cluster_size,
                          struct weir_error **err)
{
    bool extended = opts->has_extended_l2 && opts->extended_l2;

    if (opts->size % SECTOR)
        return weir_error_set(err, -EINVAL, "Image size must be a multiple of 512 bytes");
    if (extended && is_v2(opts))
        return needs_v3("Extended L2 entries", "are only supported with", "and", err);
    if (!weir_is_power_of_2(cluster_size) || cluster_size < (uint64_t)1 << QCOW2_CLUSTER_BITS_MIN ||
        cluster_size > (uint64_t)1 << QCOW2_CLUSTER_BITS_MAX)
        return weir_error_set(err, -EINVAL, "Cluster size must be a power of two between 512 and 2048k");
    if (extended && cluster_size < EXTENDED_L2_CLUSTER_MIN)
        return weir_error_set(
            err, -EINVAL, "Extended L2 entries are only supported with cluster sizes of at least %u bytes",
            EXTENDED_L2_CLUSTER_MIN);
    if (opts->has_preallocation && opts->preallocation != WEIR_Q_PREALLOC_MODE_OFF && opts->backing_file &&
        !extended)
        return weir_error_set(err, -EINVAL,
                              "Backing file and preallocation can only be used at the same time if "
                              "extended_l2 is on");
    return 0;
}

static int check_features(const struct weir_q_blockdev_create_options_qcow2 *opts, int64_t refcount_bits,
                          struct weir_error **err)
{
    bool raw = opts->has_data_file_raw && opts->data_file_raw;

    if (opts->has_backing_fmt && !opts->backing_file)
        return weir_error_set(err, -EINVAL, "Backing format cannot be used without backing file");
    if (opts->has_lazy_refcounts && opts->lazy_refcounts && is_v2(opts))
        return needs_v3("Lazy refcounts", "only supported with", "and", err);
    if (refcount_bits < 1 || refcount_bits > 64 || !weir_is_power_of_2((uint64_t)refcount_bits))
        return weir_error_set(err, -EINVAL,
                              "Refcount width must be a power of two and may not exceed 64 bits");
    if (refcount_bits != 16 && is_v2(opts))
        return needs_v3("Different refcount widths than 16 bits", "require", "or", err);
    if (raw && !opts->data_file)
        return weir_error_set(err, -EINVAL, "data-file-raw requires data-file");
    if (raw && opts->backing_file)
        return weir_error_set(err, -EINVAL, "Backing file and data-file-raw cannot be used at the same time");
    if (opts->data_file && is_v2(opts))
        return needs_v3("External data files", "are only supported with", "and", err);
    if (opts->has_compression_type && opts->compression_type != WEIR_Q_QCOW2_COMPRESSION_TYPE_ZLIB &&
        is_v2(opts))
        return needs_v3("Non-zlib compression type", "is only supported with", "and", err);
    return 0;
}

static struct qcow2_header wanted_header(const struct weir_q_blockdev_create_options_qcow2 *opts,
                                         uint64_t cluster_size, int64_t refcount_bits)
{
    struct qcow2_header h = {
        .version = is_v2(opts) ? 2 : 3,
        .size = opts->size,
        .cluster_bits = (unsigned)__builtin_ctzll(cluster_size),
        .refcount_order = (unsigned)__builtin_ctzll((uint64_t)refcount_bits),
        .header_length = is_v2(opts) ? QCOW2_HEADER_SIZE_V2 : sizeof(struct qcow2_disk_header),
    };

    if (opts->has_extended_l2 && opts->extended_l2)
        h.incompatible |= QCOW2_INCOMPAT_EXTENDED_L2;
    if (opts->data_file)
        h.incompatible |= QCOW2_INCOMPAT_DATA_FILE;
    if (opts->has_data_file_raw && opts->data_file_raw)
        h.autoclear |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (opts->has_lazy_refcounts && opts->lazy_refcounts)
        h.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (opts->has_compression_type && opts->compression_type == WEIR_Q_QCOW2_COMPRESSION_TYPE_ZSTD) {
        h.compression = QCOW2_COMPRESSION_ZSTD;
        h.incompatible |= QCOW2_INCOMPAT_COMPRESSION;
    }
    return h;
}

/* ---- the plan ---- */

static int compose(struct create *create, const char *data_file, struct weir_error **err)
{
    const struct weir_q_blockdev_create_options_qcow2 *opts = create->options;
    bool backed = opts->backing_file && opts->backing_file[0];
    struct qcow2_texts texts = {
        .backing = backed ? opts->backing_file : NULL,
        .backing_format =
            backed && opts->has_backing_fmt ? weir_schema_blockdev_driver.values[opts->backing_fmt] : NULL,
        .data_file = data_file,
    };
    int ret;

    create->first = weir_alloc(qcow2_cluster_size(&create->plan.header));
    ret = qcow2_compose(&create->plan.header, &texts, create->first);
    if (!ret)
        return 0;
    if (!texts.backing)
        return weir_error_set_errno(err, ret, "Could not store the name of the data file '%s'", data_file);
    if (!texts.backing_format)
        return weir_error_set_errno(err, ret, "Could not assign backing file '%s'", texts.backing);
    return weir_error_set_errno(err, ret, "Could not assign backing file '%s' with format '%s'",
                                texts.backing, texts.backing_format);
}

/* A raw data file is mapped from the start, since it always holds what the guest sees. */
static weir_co_fn int prepare(struct create *create, struct weir_error **err)
{
    const struct weir_q_blockdev_create_options_qcow2 *opts = create->options;
    uint64_t cluster_size = opts->has_cluster_size ? opts->cluster_size : 65536;
    int64_t refcount_bits = opts->has_refcount_bits ? opts->refcount_bits : 16;
    const char *data_file = NULL;
    struct qcow2_header header;
    int ret = target_open(&create->file, opts->file, err);

    if (!ret)
        ret = check_clusters(opts, cluster_size, err);
    if (!ret)
        ret = check_features(opts, refcount_bits, err);
    if (!ret && opts->data_file)
        ret = target_open(&create->data, opts->data_file, err);
    if (ret)
        return ret;
    if (create->data.node) {
        data_file = data_file_name(create->data.node);
        if (!data_file)
            return weir_error_set(
                err, -EINVAL, "Node '%s' has no file name that an image could find it by as its data file",
                create->data.node->name);
    }
    create->preallocation = opts->has_preallocation ? opts->preallocation : WEIR_Q_PREALLOC_MODE_OFF;
    header = wanted_header(opts, cluster_size, refcount_bits);
    ret = qcow2_plan_make(&header,
                          create->preallocation != WEIR_Q_PREALLOC_MODE_OFF || qcow2_data_file_raw(&header),
                          &create->plan, err);
    if (ret)
        return ret;
    create->chunk = weir_try_alloc(CHUNK, 4096);
    if (!create->chunk)
        return weir_error_set_errno(err, -ENOMEM, "Could not create the image");
    return compose(create, data_file, err);
}

/* ---- requests ---- */

static weir_co_fn int request(const struct target *target, enum weir_op op, uint64_t offset, uint64_t length,
                              void *bytes, unsigned flags)
{
    struct iovec iov = { bytes, length };
    struct weir_request req = weir_request_make(op, offset, length, bytes ? &iov : NULL, !!bytes, flags);

    return weir_root_io(target->edge, &req);
}

static weir_co_fn int flush(const struct target *target)
{
    return request(target, WEIR_OP_FLUSH, 0, 0, NULL, 0);
}

/* In pieces, between which the loop serves others. */
static weir_co_fn int zero(const struct target *target, uint64_t from, uint64_t to, unsigned flags)
{
    int ret = 0;

    for (uint64_t at = from; !ret && at < to; at += ZERO_CHUNK) {
        ret = request(target, WEIR_OP_ZERO, at, WEIR_MIN(to - at, ZERO_CHUNK), NULL, flags);
        weir_io_pause();
    }
    return ret;
}

static weir_co_fn int write_zeroes(const struct create *create, const struct target *target, uint64_t from,
                                   uint64_t to)
{
    int ret = 0;

    memset(create->chunk, 0, CHUNK);
    for (uint64_t at = from; !ret && at < to; at += CHUNK) {
        ret = request(target, WEIR_OP_WRITE, at, WEIR_MIN(to - at, CHUNK), create->chunk, 0);
        weir_io_pause();
    }
    return ret;
}

/* What is there already reads as zero. */
static weir_co_fn int preallocate(const struct create *create, const struct target *target, uint64_t from,
                                  uint64_t to)
{
    switch (create->preallocation) {
    case WEIR_Q_PREALLOC_MODE_FALLOC:
        return zero(target, from, to, 0);
    case WEIR_Q_PREALLOC_MODE_FULL:
        return write_zeroes(create, target, from, to);
    default:
        return 0;
    }
}

/* ---- steps ---- */

static weir_co_fn int resize(const struct target *target, uint64_t size, struct weir_error **err)
{
    int ret = weir_node_resize(target->edge, size, err);

    if (ret)
        weir_error_prefix(err, "Could not resize image: ");
    return ret;
}

/* A device has the size it has, and keeps its contents where a file loses them. */
static bool is_device(struct weir_node *node)
{
    return weir_node_skip_filters(node)->driver == weir_driver_find("host_device");
}

static weir_co_fn int make_empty_device(const struct target *target, uint64_t size, struct weir_error **err)
{
    int ret;

    if (size > weir_node_size(target->node))
        return weir_error_set(err, -ENOSPC, "Could not resize image: Cannot grow device files");
    ret = zero(target, 0, size, WEIR_REQUEST_MAY_UNMAP);
    if (!ret)
        ret = flush(target);
    return ret ? weir_error_set_errno(err, ret, "Could not write zeroes to '%s'",
                                      weir_node_file_name(target->node))
               : 0;
}

/* Afterwards all of it reads as zero. */
static weir_co_fn int make_empty(const struct target *target, uint64_t size, struct weir_error **err)
{
    int ret;

    if (is_device(target->node))
        return make_empty_device(target, size, err);
    ret = resize(target, 0, err);
    return ret ? ret : resize(target, size, err);
}

/* Zeroes are there already. Where space is to be taken they are written all the same. */
static weir_co_fn int write_tables(const struct create *create)
{
    const struct qcow2_plan *plan = &create->plan;
    bool holes = create->preallocation == WEIR_Q_PREALLOC_MODE_OFF ||
                 create->preallocation == WEIR_Q_PREALLOC_MODE_METADATA;
    int ret = 0;

    for (uint64_t at = qcow2_cluster_size(&plan->header); !ret && at < plan->data_offset; at += TABLE_CHUNK) {
        uint64_t length = WEIR_MIN(plan->data_offset - at, TABLE_CHUNK);

        qcow2_plan_fill(plan, at, length, create->chunk);
        if (!holes || !weir_buffer_is_zero(create->chunk, length))
            ret = request(&create->file, WEIR_OP_WRITE, at, length, create->chunk, 0);
        weir_io_pause();
    }
    return ret;
}

/* What follows the first sector, without the zeroes at the end of the cluster. */
static weir_co_fn int write_names(const struct create *create)
{
    uint64_t length = qcow2_cluster_size(&create->plan.header);

    while (length > HEADER_PIECE && weir_buffer_is_zero(create->first + length - HEADER_PIECE, HEADER_PIECE))
        length -= HEADER_PIECE;
    if (length <= SECTOR)
        return 0;
    return request(&create->file, WEIR_OP_WRITE, SECTOR, length - SECTOR, create->first + SECTOR, 0);
}

static weir_co_fn int make_data_file(const struct create *create, struct weir_error **err)
{
    const struct target *data = &create->data;
    uint64_t size = create->plan.header.size, kept = 0;
    int ret = 0;

    if (qcow2_data_file_raw(&create->plan.header)) {
        kept = WEIR_MIN(weir_node_size(data->node), size);
        if (kept < size)
            ret = resize(data, size, err);
    } else {
        ret = make_empty(data, size, err);
    }
    if (ret)
        return ret;
    ret = preallocate(create, data, kept, size);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not preallocate data clusters");
    ret = flush(data);
    return ret ? weir_error_set_errno(err, ret, "Could not flush the data file") : 0;
}

/* Without its first sector an old image is none, whatever becomes of the rest, and in which order. */
static weir_co_fn int erase_header(const struct create *create, struct weir_error **err)
{
    const struct target *file = &create->file;
    uint64_t length = WEIR_MIN(weir_node_size(file->node), SECTOR);
    int ret = 0;

    memset(create->chunk, 0, SECTOR);
    if (length)
        ret = request(file, WEIR_OP_WRITE, 0, length, create->chunk, 0);
    if (!ret)
        ret = flush(file);
    return ret ? weir_error_set_errno(err, ret, "Could not empty '%s'", weir_node_file_name(file->node)) : 0;
}

static weir_co_fn int make_image(const struct create *create, struct weir_error **err)
{
    const struct qcow2_plan *plan = &create->plan;
    const struct target *file = &create->file;
    int ret = erase_header(create, err);

    if (!ret)
        ret = make_empty(file, plan->end, err);
    if (!ret && create->data.node)
        ret = make_data_file(create, err);
    if (ret)
        return ret;
    ret = write_tables(create);
    if (!ret)
        ret = write_names(create);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not write the tables of the image");
    ret = preallocate(create, file, plan->data_offset, plan->end);
    if (ret)
        return weir_error_set_errno(err, ret, "Could not preallocate data clusters");
    ret = flush(file);
    if (!ret)
        ret = request(file, WEIR_OP_WRITE, 0, SECTOR, create->first, 0);
    if (!ret)
        ret = flush(file);
    return ret ? weir_error_set_errno(err, ret, "Could not write qcow2 header") : 0;
}

static weir_co_fn int qcow2_create(const void *options, struct weir_error **err)
{
    struct create create = { .options = options };
    int ret = prepare(&create, err);

    if (!ret)
        ret = target_attach(&create.file, err);
    if (!ret && create.data.node)
        ret = target_attach(&create.data, err);
    if (!ret)
        ret = make_image(&create, err);
    target_close(&create.data);
    target_close(&create.file);
    free(create.first);
    free(create.chunk);
    return ret;
}

const struct weir_create_ops qcow2_create_ops = {
    .create = qcow2_create,
    .options = &weir_schema_blockdev_create_options_qcow2,
};

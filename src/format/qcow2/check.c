/* SPDX-License-Identifier: BSD-2-Clause */
/* The order of things: find, count, compare, repair; look again; and what the header says at last. Everything waits. */
#include "format/qcow2/check_state.h"

#include "io/io.h"
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

static void done(struct qcow2_checker *c)
{
    qcow2_counts_reset(&c->counts, 0);
    free(c->tables);
    free(c->regions);
    free(c->l2);

    free(c->blocks);
}

static weir_co_fn int flush_changed(struct qcow2_checker *c)
{
    return c->changed ? weir_io_flush(c->file) : 0;
}

static weir_co_fn int repair_counts(struct qcow2_checker *c)
{
    int ret = 0;

    if (!c->fix || c->r.check_errors)
        return 0;
    if (c->rebuild && c->fix & WEIR_CHECK_FIX_ERRORS)
        ret = qcow2_rebuild(c);
    else if (c->rebuild)
        qcow2_note(c, "ERROR refcounts must be rebuilt before anything can be freed");
    else if (c->r.leaks || c->count_faults)
        ret = qcow2_fix_counts(c);
    return ret;
}

static void figures(struct qcow2_checker *c)
{
    c->r.total_clusters = qcow2_clusters(&c->h, c->h.size);
    if (qcow2_has_data_file(&c->h) && qcow2_data_file_raw(&c->h))
        c->r.allocated_clusters = c->r.total_clusters; /* all of the raw file is the disk */
    c->r.image_end_offset = c->end_cluster << c->h.cluster_bits;
}

static weir_co_fn int run(struct qcow2_checker *c)
{
    int ret = qcow2_find_tables(c);

    if (!ret)
        ret = qcow2_find_blocks(c);
    if (!ret)
        ret = qcow2_compare(c);
    if (!ret)
        ret = repair_counts(c);
    /* Counts before flags: a flag that is set means that the count is known to be one. */
    if (!ret)
        ret = flush_changed(c);
    if (!ret)
        ret = qcow2_check_copied(c);
    if (!ret)
        ret = flush_changed(c);
    figures(c);
    return ret;
}

/* The image is clean: it needs no repair at the next open, and may be written again. */
static weir_co_fn int clear_marks(struct qcow2_checker *c)
{
    uint64_t marks = c->h.incompatible & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT), disk;
    int ret;

    if (!marks)
        return 0;
    disk = htobe64(c->h.incompatible & ~marks);
    ret =
        qcow2_check_write(c, offsetof(struct qcow2_disk_header, incompatible_features), sizeof(disk), &disk);
    if (!ret)
        ret = weir_io_flush(c->file);
    if (!ret)
        c->h.incompatible &= ~marks;
    return ret;
}

static int begin(struct qcow2_checker *c, const struct qcow2_check_source *source,
                 const struct qcow2_header *header)
{
    uint64_t size = weir_node_size(source->file->node);

    *c = (struct qcow2_checker){ .file = source->file, .h = *header };
    if (source->data && source->data != source->file)
        c->data = source->data;
    c->file_clusters = qcow2_clusters(&c->h, size);
    return c->file_clusters > QCOW2_CHECK_CLUSTERS_MAX ? -EFBIG : 0;
}

/* Without repairs and without a word. */
static weir_co_fn int look(struct qcow2_checker *c, const struct qcow2_check_source *source,
                           const struct qcow2_header *header)
{
    int ret = begin(c, source, header);

    return ret ? ret : run(c);
}

/* What is left is what a second look finds; what was repaired has been counted. */
static weir_co_fn int look_again(struct qcow2_checker *c, const struct qcow2_check_source *source)
{
    struct qcow2_checker second;
    int ret = look(&second, source, &c->h);

    second.r.corruptions_fixed = c->r.corruptions_fixed;
    second.r.leaks_fixed = c->r.leaks_fixed;
    c->r = second.r;
    done(&second);
    return ret;
}

/* What must be known before the first write: whether it could change more than it is meant to. */
static weir_co_fn int look_before(struct qcow2_checker *c, const struct qcow2_check_source *source)
{
    struct qcow2_checker before;
    int ret = look(&before, source, &c->h);

    c->tangled = before.tangled;
    if (before.knotted)
        c->fix = 0;
    done(&before);
    return ret;
}

int qcow2_check(const struct qcow2_check_source *source, unsigned fix, struct weir_check_result *ret_result,
                void (*report)(void *arg, const char *line), void *arg, struct weir_error **err)
{
    struct qcow2_checker c;
    int ret = begin(&c, source, source->header);

    c.fix = fix;
    c.report = report;
    c.arg = arg;
    if (!ret && fix)
        ret = look_before(&c, source);
    if (!ret)
        ret = run(&c);
    if (!ret && c.knotted && fix)
        qcow2_note(&c, "ERROR tables share clusters, so that nothing can be repaired without a guess");
    if (!ret && c.changed)
        ret = look_again(&c, source);
    if (!ret && fix & WEIR_CHECK_FIX_ERRORS && !c.r.corruptions && !c.r.check_errors)
        ret = clear_marks(&c);
    if (!ret) {
        *ret_result = c.r;
        if (source->ret_header)
            *source->ret_header = c.h;
    }
    done(&c);
    if (ret == -EFBIG)
        return weir_error_set(err, ret, "Image is too large to be checked");
    return ret ? weir_error_set_errno(err, ret, "Check failed") : 0;
}

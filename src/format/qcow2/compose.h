/* SPDX-License-Identifier: BSD-2-Clause */
/* The first cluster of an image: header, extensions, backing file name. Pure functions; any thread. */
#ifndef WEIR_FORMAT_QCOW2_COMPOSE_H
#define WEIR_FORMAT_QCOW2_COMPOSE_H

#include "format/qcow2/layout.h"

/* Texts in the header; NULL: none. */
struct qcow2_texts {
    const char *backing, *backing_format, *data_file;
};

/*
 * Writes the first cluster of an image (qcow2_cluster_size(@header) bytes) and puts the place of the backing file's
 * name into @header. -EINVAL for a name that is too long, -ENOSPC where all of it does not fit.
 */
int qcow2_compose(struct qcow2_header *header, const struct qcow2_texts *texts,
                  uint8_t *bytes) weir_must_check;

#endif

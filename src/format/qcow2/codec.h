/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters: stored bytes to a cluster and back. Pure functions on buffers; any thread, nothing waits.
 */
#ifndef WEIR_FORMAT_QCOW2_CODEC_H
#define WEIR_FORMAT_QCOW2_CODEC_H

#include "base/macros.h"
#include "format/qcow2/layout.h"

/*
 * Decodes @stored bytes, which may be followed by anything (the length on disk counts whole sectors), to exactly
 * @length bytes. -EIO where they do not hold that many or are no such stream (@out then has any content), -ENOMEM.
 */
int qcow2_decode(enum qcow2_compression type, const void *in, size_t stored, void *out,
                 size_t length) weir_must_check;
/*
 * Encodes @length bytes to at most @room. Returns the stored length, 0 where that is not less than @length, does
 * not fit, or there is no memory for it: then the cluster is stored as it is.
 */
size_t qcow2_encode(enum qcow2_compression type, const void *in, size_t length, void *out, size_t room);

/* Gives back what is kept for the next use. Any thread. */
void qcow2_codec_trim(void);

#endif

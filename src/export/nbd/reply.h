/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One answer: a header that lives in the struct, and a body elsewhere. Pure functions.
 */
#ifndef WEIR_EXPORT_NBD_REPLY_H
#define WEIR_EXPORT_NBD_REPLY_H

#include "export/nbd/parse.h"

struct weir_nbd_reply {
    uint8_t head[28];
    uint32_t head_length;
    uint32_t body_length;
    const void *body; /* borrowed until it was sent */
};

/* The context id that SET_META_CONTEXT gives to base:allocation. */
#define WEIR_NBD_BASE_ALLOCATION_ID 1u

/* Success; @data: what a READ has read. */
void weir_nbd_reply_success(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                            bool structured, const void *data);
/* @message (static text) goes along where structured replies were negotiated. */
void weir_nbd_reply_error(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                          bool structured, int error, const char *message);
/* Answer to BLOCK_STATUS: @descriptors of 8 bytes each, already in the order of bytes of the wire. */
void weir_nbd_reply_status(struct weir_nbd_reply *reply, const struct weir_nbd_command *command,
                           const void *descriptors, unsigned count);

#endif

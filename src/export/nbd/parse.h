/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request header: from 28 bytes to a command, and whether the client may ask that. Pure functions.
 */
#ifndef WEIR_EXPORT_NBD_PARSE_H
#define WEIR_EXPORT_NBD_PARSE_H

#include "base/macros.h"

struct weir_buffer;

/* What was negotiated, as far as it decides which requests are right. */
struct weir_nbd_rules {
    uint64_t size; /* bytes of the export */
    bool read_only;
    bool structured;      /* structured replies */
    bool base_allocation; /* the context base:allocation is selected */
};

struct weir_nbd_command {
    uint16_t type, flags; /* NBD_CMD_*, NBD_CMD_FLAG_* */
    uint32_t length;      /* bytes */
    uint64_t cookie, offset;
    int error;           /* 0, or the -errno that answers it without doing anything */
    const char *message; /* with error: static text */
    /* WRITE without error: the data, in a buffer of which the command owns a reference. */
    struct weir_buffer *buffer;
    void *payload;
};

/* Reads a header. False when it does not start with the magic number: the stream makes no sense any more. */
bool weir_nbd_parse_request(const uint8_t header[28], struct weir_nbd_command *ret_command) weir_must_check;
/* Fills error and message where the request is against the rules. */
void weir_nbd_check_request(const struct weir_nbd_rules *rules, struct weir_nbd_command *command);

/* The code on the wire for a -errno (0 for 0). Only eight exist: what has none is EINVAL or EIO. */
uint32_t weir_nbd_wire_error(int error);
/* "read", "write" ... for people; "unknown request" for others. */
const char *weir_nbd_command_name(unsigned type);

#endif

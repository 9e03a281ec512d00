/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The client's side of the NBD negotiation, as a machine that is fed what the server sends and says what to send. It
 * knows no socket and waits for nothing. Whatever the server sends is checked: what the protocol does not allow is the
 * end.
 */
#ifndef WEIR_PROTOCOL_NBD_HANDSHAKE_H
#define WEIR_PROTOCOL_NBD_HANDSHAKE_H

#include "base/error.h"
#include "base/nbd_proto.h"

/* The most that a server may send in answer to one option, and that one step looks at. */
#define NBD_ANSWER_MAX 65536u
/* Bytes of one read or write where the server does not say. */
#define NBD_TRANSFER_DEFAULT (32u << 20)

/* What the server has said about the export. */
struct nbd_export_info {
    uint64_t size;                            /* bytes */
    unsigned flags;                           /* NBD_FLAG_SEND_... */
    uint32_t block_min, block_opt, block_max; /* bytes; block_opt 0: not said */
    bool structured;                          /* structured replies */
    bool has_context;                         /* the metadata context was selected */
    uint32_t context_id;
};

enum nbd_step {
    NBD_STEP_MORE,   /* bytes are missing */
    NBD_STEP_SEND,   /* send the output, then go on */
    NBD_STEP_DONE,   /* the export is there; nothing is to be sent */
    NBD_STEP_FAILED, /* *err says why */
};

enum nbd_handshake_state {
    NBD_WAITS_GREETING,
    NBD_WAITS_STRUCTURED,
    NBD_WAITS_CONTEXT,
    NBD_WAITS_GO,
    NBD_WAITS_EXPORT, /* of the old way, EXPORT_NAME */
};

struct nbd_handshake {
    const char *export, *context; /* at most NBD_STRING_MAX bytes each */
    enum nbd_handshake_state state;
    bool no_zeroes, got_export;
    unsigned answers; /* to the option that waits */
    struct nbd_export_info info;
    uint8_t output[3 * NBD_STRING_MAX];
    size_t output_length;
};

void nbd_handshake_init(struct nbd_handshake *handshake, const char *export, const char *context);
/*
 * Looks at the @length bytes at @data that the server has sent; *ret_used of them are done with, also in failure.
 * @data holds NBD_ANSWER_MAX + 20 bytes at least, when there are so many.
 */
enum nbd_step nbd_handshake_step(struct nbd_handshake *handshake, const uint8_t *data, size_t length,
                                 size_t *ret_used, struct weir_error **err);

#endif

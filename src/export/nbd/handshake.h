/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The negotiation, as a machine that is fed a stream and produces replies. It knows no socket and no graph: it sees
 * the exports through a directory, whose functions may wait.
 */
#ifndef WEIR_EXPORT_NBD_HANDSHAKE_H
#define WEIR_EXPORT_NBD_HANDSHAKE_H

#include "export/nbd/reply.h"
#include "export/nbd/stream.h"

/* What a client is told about an export. The text is owned by whoever holds the struct. */
struct weir_nbd_info {
    uint64_t size;           /* bytes */
    uint32_t preferred_size; /* bytes */
    bool read_only, multi_conn;
    char *description; /* NULL: none */
};

/* One line of LIST. */
struct weir_nbd_listing {
    char *name, *description; /* description NULL: none */
};

struct weir_nbd_directory {
    /*
     * Looks @name up; with @attach the client now uses it. 0 or -ENOENT; fills *ret_info, whose description the caller
     * frees.
     */
    int (*find)(void *arg, const char *name, bool attach, struct weir_nbd_info *ret_info) weir_co_fn;
    /* All exports: a new array of new strings; returns how many. */
    unsigned (*list)(void *arg, struct weir_nbd_listing **ret_listings) weir_co_fn;
};

enum weir_nbd_step {
    WEIR_NBD_STEP_MORE,         /* bytes are missing */
    WEIR_NBD_STEP_NEXT,         /* send the output, then go on */
    WEIR_NBD_STEP_TRANSMISSION, /* send the output; the negotiation has succeeded */
    WEIR_NBD_STEP_END,          /* send the output, then hang up; `reason` says why */
};

struct weir_nbd_handshake {
    const struct weir_nbd_directory *directory;
    void *directory_arg;
    bool got_flags, fixed, no_zeroes, structured;
    char *context_export;      /* for which export contexts are selected; NULL: none */
    bool base_allocation;      /* selected for context_export; in the end: for the export in use */
    char *export_name;         /* in the end: the export in use */
    struct weir_nbd_info info; /* in the end: of the export in use */
    uint8_t *output;           /* to be sent */
    size_t output_length, output_room;
    const char *reason; /* static text */
};

/* Begins with the greeting in the output. */
void weir_nbd_handshake_init(struct weir_nbd_handshake *handshake, const struct weir_nbd_directory *directory,
                             void *directory_arg);
void weir_nbd_handshake_done(struct weir_nbd_handshake *handshake);
/* Deals with the next message of @stream, if it is there as a whole. */
enum weir_nbd_step weir_nbd_handshake_step(struct weir_nbd_handshake *handshake,
                                           struct weir_nbd_stream *stream) weir_co_fn;

/* ---- between handshake.c, options.c and metactx.c ---- */
struct weir_nbd_option {
    uint32_t number;
    const uint8_t *data; /* in the stream */
    uint32_t length;     /* bytes */
};
/* Reads from the data of an option; false when it is too short. */
bool weir_nbd_option_take32(struct weir_nbd_option *option, uint32_t *ret_value);
/* A string with its length in front, as a new C string; -EINVAL when it is too short, too long, or has a NUL in it. */
int weir_nbd_option_take_string(struct weir_nbd_option *option, char **ret_text);
uint8_t *weir_nbd_handshake_put(struct weir_nbd_handshake *handshake, size_t length);
/* A reply with @length bytes of content, to be filled by the caller. */
uint8_t *weir_nbd_handshake_reply(struct weir_nbd_handshake *handshake, uint32_t number, uint32_t kind,
                                  size_t length);
/* A reply with text. */
void weir_nbd_handshake_refuse(struct weir_nbd_handshake *handshake, uint32_t number, uint32_t kind,
                               const char *text);
enum weir_nbd_step weir_nbd_option_handle(struct weir_nbd_handshake *handshake,
                                          struct weir_nbd_option *option) weir_co_fn;
void weir_nbd_option_contexts(struct weir_nbd_handshake *handshake,
                              struct weir_nbd_option *option) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a kind of export is, and what export.c does for all of them. Control loop, except where said.
 */
#ifndef WEIR_EXPORT_EXPORT_TYPE_H
#define WEIR_EXPORT_EXPORT_TYPE_H

#include "export/export.h"
#include "sys/mutex.h"
#include <stdatomic.h>
#include <sys/queue.h>

struct weir_export;
struct weir_iothread;

struct weir_export_type {
    const char *name;
    /* Checks the options and reserves names; sets export->state. The edge is not there yet. */
    int (*open)(struct weir_export *at, const struct weir_export_options *options, struct weir_error **err);
    /* Clients may come from now on. */
    void (*start)(struct weir_export *at);
    /* No client may come any more; those that are there are sent away. Does not wait. */
    void (*drop)(struct weir_export *at);
    /* Frees the state. After a failed add, or when the export ends; clients left behind may still hold references. */
    void (*close)(struct weir_export *at);
};

struct weir_export {
    const struct weir_export_type *type;
    char *id;
    bool writable, writethrough;
    bool ready; /* false: being added */
    bool shutting_down;
    struct weir_edge *edge;         /* NULL until ready */
    struct weir_iothread *iothread; /* whose loop serves the clients */
    unsigned clients, refs;
    /* Of the node, for any loop. */
    _Atomic uint64_t size;
    _Atomic uint32_t preferred_size;
    struct weir_mutex file_mutex;
    char *file;  /* name of the file behind the node, for messages; file_mutex */
    void *state; /* the kind's own */
    TAILQ_ENTRY(weir_export) link;
};

/* A client uses the export: it holds a reference, and the end of the export waits for it. */
void weir_export_client_enter(struct weir_export *at);
void weir_export_client_leave(struct weir_export *at);

/* The name of the file that the export shows, for messages, in @text. Any thread. Returns @text. */
const char *weir_export_file(struct weir_export *at, char *text, size_t size);
/* One line to whoever listens. Any thread. */
void weir_export_log(const char *format, ...) weir_printf(1, 2);

/* The kinds. */
extern const struct weir_export_type weir_export_nbd;

#endif

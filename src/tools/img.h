/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img: what its subcommands share.
 *
 * A subcommand is a coroutine of the control loop: it parses its arguments, opens images, works, and returns the exit
 * status. Everything it prints goes to the standard streams; messages begin with the name the program was called by.
 */
#ifndef WEIR_TOOLS_IMG_H
#define WEIR_TOOLS_IMG_H

#include "base/alloc.h"
#include "base/error.h"
#include "graph/node.h"
#include "io/io.h"
#include <getopt.h>
#include <inttypes.h>

struct img;

struct img_command {
    const char *name;
    int (*run)(struct img *img, int argc, char **argv) weir_co_fn;
    const char *syntax; /* behind the name, for the help */
};

struct img {
    const char *program; /* messages begin with it */
    const struct img_command *command;
    int argc;
    char **argv;
    int status; /* exit status */
};

/* ---- messages (img_text.c) ---- */
/* "PROGRAM: TEXT" to the standard error. */
void img_complain(const struct img *img, const char *format, ...) weir_printf(2, 3);
/* The same with where to find help; returns 1. */
int img_usage(const struct img *img, const char *format, ...) weir_printf(2, 3);
/* "PROGRAM: PREFIX: TEXT OF @err", and its hint on a line of its own. Frees @err. */
void img_fail(const struct img *img, struct weir_error *err, const char *prefix, ...) weir_printf(3, 4);
/* "1.38 MiB" */
void img_human_size(uint64_t bytes, char text[32]);
/* Prints JSON as qemu-img does: indented by four, members in the order that its readers know. */
void img_print_json(const json_t *value);

/* "    (12.34/100%)", rewritten in place. Guarded by whoever calls. */
struct img_progress {
    bool on, begun;
    double last; /* percent printed */
};
void img_progress_set(struct img_progress *progress, uint64_t done, uint64_t total);
void img_progress_end(struct img_progress *progress);

/* ---- arguments (img_args.c) ---- */
/* Values of long options that have no letter. */
enum {
    IMG_OPT_OBJECT = 256,
    IMG_OPT_IMAGE_OPTS,
    IMG_OPT_TARGET_IMAGE_OPTS,
    IMG_OPT_TARGET_IS_ZERO,
    IMG_OPT_OUTPUT,
    IMG_OPT_BACKING_CHAIN,
    IMG_OPT_BITMAPS,
    IMG_OPT_SKIP_BROKEN,
    IMG_OPT_SALVAGE,
};
/*
 * getopt_long() with the messages of qemu-img: -1 at the end, '?' after a complaint; help is printed here and answered
 * by 'h': the caller returns 0. @shorts begins with ':'.
 */
int img_getopt(struct img *img, int argc, char **argv, const char *shorts, const struct option *longs);
/* Bytes with a suffix; complains and returns false otherwise. @what: "image size". */
bool img_size(const struct img *img, const char *what, const char *text, uint64_t *ret_size);
/* "human" or "json"; complains and returns false otherwise. */
bool img_output(const struct img *img, const char *text, bool *ret_json);
/* No object of a tool has an effect here: refused, with the reason. Returns 1. */
int img_refuse_object(const struct img *img, const char *text);
/* The help of all subcommands. */
void img_help(const struct img *img);

struct img_cache {
    bool direct, no_flush, write_through;
};
/* "none", "writeback", "writethrough", "directsync", "unsafe". */
bool img_cache_parse(const char *text, struct img_cache *ret_cache);

/* ---- opening (img_open.c) ---- */
struct img_open {
    const char *format; /* NULL: look at the first bytes */
    bool options;       /* the name is keyval text (--image-opts) */
    bool writable;
    bool force_share;
    bool no_backing;      /* the image alone, without what it is based on */
    bool exclude_writers; /* nobody else may change it meanwhile */
    bool repair;          /* marked as damaged or not: it is to be repaired */
    struct img_cache cache;
    const char
        *discard;    /* what becomes of discards ("ignore", "unmap"); NULL: "unmap" where it is writable */
    const char *aio; /* how files are read and written ("threads", "native", "io_uring"); NULL: as is best */
    const char *extra; /* more options of the node, as keyval text; NULL: none */
};
/* Opens the image and attaches to it: *ret_edge is the caller's until img_close(). */
/* @name may be NULL where how->extra says it all. */
int img_open(const char *name, const struct img_open *how, struct weir_edge **ret_edge,
             struct weir_error **err) weir_co_fn weir_must_check;
/* Requests must have ended. NULL is fine. */
void img_close(struct weir_edge *edge) weir_co_fn;
/* The path that @name stands for ("file:" taken off), or NULL and an error for names of unknown protocols. */
const char *img_path(const char *name, struct weir_error **err);
enum img_file_kind { IMG_FILE_REGULAR, IMG_FILE_DEVICE, IMG_FILE_MISSING };
/* What is at @path, and whether it begins like a qcow2 image. @ret_qcow2 may be NULL. */
enum img_file_kind img_look(const char *path, bool *ret_qcow2) weir_co_fn;
/* {"driver": "file", "filename": path}, or host_device. */
json_t *img_file_definition(const char *path, enum img_file_kind kind);

/* Options that most subcommands have. */
struct img_common {
    struct img_open how;
    bool json, quiet, progress;
};
/*
 * Takes option @c (-h -f -q -p -U --output --image-opts --object): -1 to go on, or the exit status; what it does not
 * know was complained about already and ends in a status of 1.
 */
int img_common_option(const struct img *img, int c, struct img_common *common);
/* -1 unless the options of an image contradict each other: complains. */
int img_common_check(const struct img *img, bool options, const char *format);

/* ---- creating (img_formats.c, img_make.c) ---- */
struct img_option {
    const char *name, *help;
    enum { IMG_VALUE_STRING, IMG_VALUE_SIZE, IMG_VALUE_NUMBER, IMG_VALUE_BOOL } type;
    const char *preset; /* default, as text; NULL: none */
    const char *member; /* of the create options in QMP; NULL: the tool does it itself */
};
struct img_format {
    const char *name;
    const struct img_option *options; /* in the order in which they are printed */
    unsigned count;
    bool layered; /* a format in a file; otherwise the file itself */
};
/* The format that images can be created in; NULL after setting @err. */
const struct img_format *img_format_find(const char *name, struct weir_error **err);
const struct img_option *img_option_find(const struct img_format *format, const char *name);
/* Whether text of -o asks for help. */
bool img_options_help_wanted(const char *text);
void img_options_help(const struct img_format *format, bool with_file);
/* Puts the options of -o text into @values: name -> integer or string. */
int img_options_parse(const struct img_format *format, const char *text, json_t *values,
                      struct weir_error **err) weir_must_check;
/* Fills in the defaults of what is not there. */
void img_options_preset(const struct img_format *format, json_t *values);
/* "Formatting 'x', fmt=..." */
void img_options_print(const struct img_format *format, const char *name, const json_t *values);
/* Makes the image; @values are complete. */
int img_make(const char *name, const struct img_format *format, const json_t *values,
             struct weir_error **err) weir_co_fn weir_must_check;

/* ---- many coroutines at one image (img_workers.c) ---- */
/*
 * Runs @run(@arg) @count times at once, on two loops in turn, so that one can copy while the other waits or compares;
 * returns when all have ended. With @here (or NULL) they share one loop, and the other, the caller's, runs @here(@arg).
 */
int img_workers(unsigned count, void (*run)(void *arg) weir_co_fn, void (*here)(void *arg) weir_co_fn,
                void *arg, struct weir_error **err) weir_co_fn weir_must_check;
/* Reads into a plain buffer. */
int img_read(struct weir_edge *edge, uint64_t offset, uint64_t length, struct weir_buffer *buffer,
             uint64_t skip) weir_co_fn weir_must_check;

int img_check(struct img *img, int argc, char **argv) weir_co_fn;
int img_compare(struct img *img, int argc, char **argv) weir_co_fn;
int img_convert(struct img *img, int argc, char **argv) weir_co_fn;
int img_create(struct img *img, int argc, char **argv) weir_co_fn;
int img_info(struct img *img, int argc, char **argv) weir_co_fn;
int img_map(struct img *img, int argc, char **argv) weir_co_fn;

#endif

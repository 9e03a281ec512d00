/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of the shell share.
 */
#ifndef WEIR_QMP_SHELL_INTERNAL_H
#define WEIR_QMP_SHELL_INTERNAL_H

#include "base/alloc.h"
#include "co/co.h"
#include "io/io.h"
#include "qmp/shell.h"
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

/* The longest buffer of a request (bytes). */
#define SHELL_BYTES_MAX 2147483136u

struct weir_shell {
    const struct weir_shell_host *host;
    struct weir_edge *edge;
    struct weir_shell_mode mode;
    struct weir_mutex mutex;      /* outstanding, and shell_op.done */
    struct weir_co_queue changed; /* a request has ended */
    unsigned outstanding;
};

static inline uint32_t shell_bytes_max(const struct weir_shell *shell)
{
    return shell->host->bytes_max ? shell->host->bytes_max : SHELL_BYTES_MAX;
}

/* ---- requests (shell_op.c) ---- */
/* One request, from its making to its report. */
struct shell_op {
    struct weir_shell *shell;
    struct weir_edge *edge; /* referenced */
    struct weir_request request;
    struct iovec *iov;
    char *memory, *data;     /* memory: what is to be freed */
    const char *verb, *call; /* "wrote", and what failed: "write" */
    bool quiet, csv, dump;
    int pattern; /* what must have been read; -1: anything */
    uint64_t pattern_offset, pattern_length;
    bool report_alone; /* nobody waits: it reports by itself */
    bool left_behind;  /* who waited has given up */
    bool done;
    int result;
    int64_t start_ns, end_ns;
};

/* For one range of the edge; no buffer yet. */
struct shell_op *shell_op_new(struct weir_shell *shell, enum weir_op op, uint64_t offset, uint64_t length);
/* Gives it a buffer, filled with @fill, in pieces of @lengths (@count 0: one). false after a complaint. */
bool shell_op_buffer(struct shell_op *op, int fill, const uint64_t *lengths, unsigned count);
void shell_op_free(struct shell_op *op);
/* Runs it, reports and frees it: 0 or -errno. */
int shell_op_run(struct shell_op *op) weir_co_fn;
/* Starts it; it reports and is freed when it has ended. */
void shell_op_start(struct shell_op *op) weir_co_fn;

/* ---- text (shell_text.c) ---- */
/* "64 KiB", "1.500 KiB", "147.185295 bytes" */
void shell_human(double bytes, char text[32]);
void shell_report(struct weir_shell *shell, const struct shell_op *op, int64_t duration_ns);
void shell_dump(struct weir_shell *shell, const char *data, uint64_t offset, uint64_t length);

/* ---- commands ---- */
extern const struct weir_shell_command shell_rw_commands[], shell_node_commands[];
extern const unsigned shell_rw_command_count, shell_node_command_count;
/* The bytes that -P gives; -1 after a complaint. */
int shell_pattern(struct weir_shell *shell, const char *text);
/* Of shell_info.c. */
int shell_info(struct weir_shell *shell, int argc, char **argv) weir_co_fn;

#endif

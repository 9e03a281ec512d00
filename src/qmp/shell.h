/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command language of the I/O tool, on one root edge: a line becomes requests, what they do becomes text.
 *
 * Used by the tool on an image of its own, and by human-monitor-command on a node of the running graph. All output goes
 * through the host's print(). Control loop; one line at a time, but requests of aio_read and aio_write go on after
 * their line and print when they end.
 */
#ifndef WEIR_QMP_SHELL_H
#define WEIR_QMP_SHELL_H

#include "graph/node.h"

struct weir_shell;

enum weir_shell_stream { WEIR_SHELL_OUT, WEIR_SHELL_ERR };

struct weir_shell_command {
    const char *name, *alias; /* alias: another name, or NULL */
    /* A coroutine; 0 or -errno after it has said what is wrong. */
    int (*run)(struct weir_shell *shell, int argc, char **argv) weir_co_fn;
    int least, most;    /* arguments behind the name; most -1: any number */
    const char *syntax; /* of the arguments, or NULL */
    const char *summary;
    const char *help; /* more text, or NULL */
    unsigned perm;    /* enum weir_perm: what it needs of the node */
    bool without_node;
};

/* Who runs the shell. */
struct weir_shell_host {
    const char *program; /* some messages begin with it */
    void (*print)(void *arg, enum weir_shell_stream stream, const char *text);
    void *arg;
    const struct weir_shell_command *commands; /* more of them: open, quit ... */
    unsigned command_count;
    int64_t limit_ns;   /* longest wait for one request; 0: any */
    uint32_t bytes_max; /* longest buffer of one request; 0: as long as one can be */
};

/* How requests are made. */
struct weir_shell_mode {
    bool write_through; /* every write is durable when it is answered */
    bool misalign;      /* buffers are not aligned in memory */
};

/* The host is borrowed. */
struct weir_shell *weir_shell_new(const struct weir_shell_host *host);
/* No request may be outstanding. */
void weir_shell_free(struct weir_shell *shell);
/* What commands work on; NULL: nothing. Borrowed. */
void weir_shell_set_edge(struct weir_shell *shell, struct weir_edge *edge, struct weir_shell_mode mode);
struct weir_edge *weir_shell_edge(const struct weir_shell *shell);
void *weir_shell_arg(const struct weir_shell *shell);

/* Runs one line (words between spaces): 0, or -errno when it failed and was told so. */
int weir_shell_run(struct weir_shell *shell, const char *line) weir_co_fn;
/* What the command of @line needs of the node (enum weir_perm); 0 for unknown ones too. */
unsigned weir_shell_perm(const struct weir_shell *shell, const char *line);
/* Requests that go on. */
unsigned weir_shell_outstanding(const struct weir_shell *shell);
/* Waits until there are none. */
void weir_shell_settle(struct weir_shell *shell) weir_co_fn;

/* ---- for commands ---- */
void weir_shell_print(struct weir_shell *shell, const char *format, ...) weir_printf(2, 3);
/* To the error stream, as it is. */
void weir_shell_complain(struct weir_shell *shell, const char *format, ...) weir_printf(2, 3);
/* "PROGRAM: TEXT" to the error stream; frees @err. Returns its code. */
int weir_shell_fail(struct weir_shell *shell, struct weir_error *err);
/* The line that says how @argv[0] is used; returns -EINVAL. */
int weir_shell_usage(struct weir_shell *shell, char **argv);
/* getopt() with its complaints told here; '?' after one. Begin with optind = 0. */
int weir_shell_getopt(struct weir_shell *shell, int argc, char **argv, const char *options);
/* Bytes with a suffix; complains and returns false otherwise. */
bool weir_shell_size(struct weir_shell *shell, const char *text, uint64_t *ret_size);

#endif

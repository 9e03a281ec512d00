/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl: what its commands share.
 *
 * A command is a coroutine of the control loop: it parses its arguments, connects to the monitor, works, and returns
 * the exit status. Two more coroutines live beside it: one receives (ctl_qmp.c), one waits for signals (ctl.c).
 * Results go to the standard output, messages to the standard error and begin with the program's name.
 */
#ifndef WEIR_TOOLS_CTL_H
#define WEIR_TOOLS_CTL_H

#include "base/alloc.h"
#include "base/error.h"
#include "co/co.h"
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>

/* Exit status after Ctrl-C, as shells have it: 128 and the number of the signal. */
#define CTL_STATUS_INTERRUPTED 130

struct ctl;
struct ctl_qmp;

struct ctl_command {
    const char *name;
    int (*run)(struct ctl *ctl, int argc, char **argv) weir_co_fn;
    const char *syntax, *summary; /* behind the name, in help */
    const char *help;             /* lines of the command's own help */
};

struct ctl {
    const char *program;
    const struct ctl_command *command;
    int argc;
    char **argv;
    int status;
    const char *address; /* of the monitor; NULL: that of the environment */
    struct ctl_qmp *qmp; /* NULL before ctl_connect() */
    int signal_fd;
    /* Guards nothing but the queue: all coroutines share one loop. */
    struct weir_mutex lock;
    struct weir_co_queue changed; /* a message came, the connection ended, or somebody pressed Ctrl-C */
    bool
        patient; /* the first signal sets `interrupted`, and the command ends in its own time; else at once */
    bool interrupted; /* ... a second one ends the process in any case */
};

/* ---- arguments (ctl.c) ---- */
/* Every command takes these: at the end of its tables. */
#define CTL_SHORT_OPTIONS "hs:"
#define CTL_LONG_OPTIONS                                                            \
    { "help", no_argument, NULL, 'h' }, { "socket", required_argument, NULL, 's' }, \
    {                                                                               \
        NULL, 0, NULL, 0                                                            \
    }
/* getopt_long(): -1 at the end, '?' after a complaint; 'h' after the help was printed: the caller returns 0. */
int ctl_getopt(struct ctl *ctl, int argc, char **argv, const char *shorts, const struct option *longs);
/* -1 where as many arguments are left as @names (ended by NULL) has, else the exit status, after a complaint. */
int ctl_arguments(const struct ctl *ctl, int argc, char **argv, const char *const *names);
/* Options of commands that have none of their own: -1 to go on, or the exit status. */
int ctl_no_options(struct ctl *ctl, int argc, char **argv, const char *const *names);

/* ---- messages and text (ctl_text.c) ---- */
/* "PROGRAM: TEXT" to the standard error. */
void ctl_complain(const struct ctl *ctl, const char *format, ...) weir_printf(2, 3);
/* The same with where to find help; returns the exit status. */
int ctl_usage(const struct ctl *ctl, const char *format, ...) weir_printf(2, 3);
/* The text and hint of @err, which it frees; returns the exit status. */
int ctl_fail(const struct ctl *ctl, struct weir_error *err);
/* How this program is called for the same monitor, to be pasted into a shell. */
char *ctl_invocation(const struct ctl *ctl);
/* "64.0 MiB": always one digit behind the point, so that a line that is written again and again does not jump. */
void ctl_size_text(uint64_t bytes, char text[32]);
/* Names and paths come from outside: a new text without control characters, which a terminal would obey. */
char *ctl_clean(const char *text);

/* A text that grows. */
struct ctl_buffer {
    char *text; /* NULL while empty */
    size_t length;
};
void ctl_add(struct ctl_buffer *buffer, const char *format, ...) weir_printf(2, 3);

/* Rows of @columns texts, the first one the titles; prints them in columns and frees them. */
struct ctl_table {
    unsigned columns, count;
    char **cells; /* row by row */
};
void ctl_table_add(struct ctl_table *table, const char *format, ...) weir_printf(2, 3);
void ctl_table_print(struct ctl_table *table);

/* Members of answers; a missing or wrong one reads as "" or 0 or false. */
const char *ctl_member_text(const json_t *object, const char *name);
uint64_t ctl_member_number(const json_t *object, const char *name);
bool ctl_member_true(const json_t *object, const char *name);
/* The object of @array whose member @name is @value, or NULL. Borrowed. */
json_t *ctl_find(const json_t *array, const char *name, const char *value);

/* ---- the monitor (ctl_qmp.c) ---- */
/* Connects to the address of the options or of the environment, and negotiates. */
int ctl_connect(struct ctl *ctl, struct weir_error **err) weir_co_fn weir_must_check;
void ctl_disconnect(struct ctl *ctl) weir_co_fn;
/* Whether the monitor is at the other end of a network, where paths of this host mean nothing. */
bool ctl_is_remote(const struct ctl *ctl);
/* Runs a command; @arguments (stolen, may be NULL). The answer is a new reference; @ret_value may be NULL. */
int ctl_call(struct ctl *ctl, const char *command, json_t *arguments, json_t **ret_value,
             struct weir_error **err) weir_co_fn weir_must_check;
/* The oldest event that was not taken yet, a new reference; NULL: there is none. */
json_t *ctl_take_event(struct ctl *ctl);
/* Before a job is started that will be followed: what came before may be about an earlier one of the same id. */
void ctl_drop_events(struct ctl *ctl);
bool ctl_has_events(const struct ctl *ctl);
bool ctl_is_closed(const struct ctl *ctl);
/* Waits for an event, the end of the connection, Ctrl-C or @deadline_ns. May come back early. */
void ctl_wait(struct ctl *ctl, int64_t deadline_ns) weir_co_fn;
void ctl_wake(struct ctl *ctl);

/* ---- jobs (ctl_jobs.c) ---- */
/* What query-jobs and query-block-jobs say together: a new array of objects. */
int ctl_query_jobs(struct ctl *ctl, json_t **ret_jobs, struct weir_error **err) weir_co_fn weir_must_check;
/* Whether it is ready or stands by while it is. */
bool ctl_job_is_ready(const json_t *job);
/* "move, backup" of an array of objects that have the member @name. */
char *ctl_names(const json_t *array, const char *name);

/* ---- following a job (ctl_watch.c, ctl_progress.c) ---- */
enum ctl_until { CTL_UNTIL_END, CTL_UNTIL_READY, CTL_UNTIL_SYNCED };
enum ctl_outcome {
    CTL_OUTCOME_NONE,
    CTL_OUTCOME_GOOD,
    CTL_OUTCOME_FAILED,
    CTL_OUTCOME_CANCELLED,
    CTL_OUTCOME_REACHED,     /* what --until waits for */
    CTL_OUTCOME_INTERRUPTED, /* Ctrl-C: the job goes on */
};
struct ctl_follow {
    const char *job;
    enum ctl_until until;
    bool quiet; /* no progress; Ctrl-C is kept for later */
    bool own;   /* was started by this program: every event of it came here */
    enum ctl_outcome outcome;
    char *reason; /* of CTL_OUTCOME_FAILED, or NULL */
};
/* Returns when the outcome is known; an error means that the connection failed. Free `reason`. */
int ctl_follow_job(struct ctl *ctl, struct ctl_follow *follow,
                   struct weir_error **err) weir_co_fn weir_must_check;
/* Says how it ended, and returns the exit status. @good: an outcome that is good beside those that always are. */
int ctl_tell_outcome(const struct ctl *ctl, const struct ctl_follow *follow, enum ctl_outcome good);

struct ctl_progress;
struct ctl_progress *ctl_progress_new(const char *job);
/* What query-jobs says now. */
void ctl_progress_show(struct ctl_progress *progress, const json_t *job);
/* A line of its own among those of the progress. */
void ctl_progress_note(struct ctl_progress *progress, const char *format, ...) weir_printf(2, 3);
/* ns until it should be asked again. */
int64_t ctl_progress_period(const struct ctl_progress *progress);
/* Shows the last state for good; NULL is fine. */
void ctl_progress_free(struct ctl_progress *progress);

/* ---- the target of a mirror (ctl_target.c) ---- */
struct ctl_target {
    const char *given;  /* a node, or a path */
    const char *format; /* of the path: raw or qcow2 */
    bool format_given, create;
    char *path; /* absolute; NULL: the target is a node that was there */
    char *node;
    bool added; /* the node is ours */
};
/* Finds or makes the node that is written to. @nodes: answer of query-named-block-nodes. */
int ctl_target_open(struct ctl *ctl, struct ctl_target *target, const json_t *nodes, uint64_t size,
                    struct weir_error **err) weir_co_fn weir_must_check;
/* Removes what ctl_target_open() added, never what is in files; tells if it could not. */
void ctl_target_undo(struct ctl *ctl, struct ctl_target *target) weir_co_fn;
void ctl_target_free(struct ctl_target *target);
/* A valid id made of @text that @taken does not have under @member. */
char *ctl_free_name(const char *text, const json_t *taken, const char *member);

/* ---- the graph (ctl_graph_read.c, ctl_svg.c) ---- */
struct ctl_graph_node {
    int64_t id;   /* of the answer */
    char *title;  /* for people: "export 'e0'", or the name of a node */
    char *detail; /* driver, size ...; "" */
    char *file;   /* its file, "" for others */
    bool user;    /* an export, a job: no node */
    unsigned parents, rank;
    bool printed;
};
struct ctl_graph_edge {
    unsigned parent, child; /* indices */
    char *role;
};
struct ctl_graph {
    struct ctl_graph_node *nodes;
    struct ctl_graph_edge *edges;
    unsigned node_count, edge_count;
};
int ctl_graph_read(struct ctl *ctl, struct ctl_graph *graph,
                   struct weir_error **err) weir_co_fn weir_must_check;
void ctl_graph_free(struct ctl_graph *graph);
/* The graph as a picture. */
void ctl_graph_svg(const struct ctl_graph *graph, struct ctl_buffer *svg);

int ctl_cancel(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_complete(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_graph(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_jobs(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_mirror(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_pause(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_resume(struct ctl *ctl, int argc, char **argv) weir_co_fn;
int ctl_watch(struct ctl *ctl, int argc, char **argv) weir_co_fn;

#endif

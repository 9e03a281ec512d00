/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The daemon's state, shared by its files: options.c reads the command line, setup.c carries it out in order,
 * stop.c ends everything within a limit.
 */
#ifndef WEIR_TOOLS_DAEMON_H
#define WEIR_TOOLS_DAEMON_H

#include "base/error.h"
#include "co/co.h"
#include "qmp/chardev.h"
#include "qmp/cmd.h"

/* How long the whole stop may take before the process ends without the rest. */
#define DAEMON_STOP_LIMIT_NS (10 * 1000000000LL)

enum daemon_option_kind {
    DAEMON_OBJECT,
    DAEMON_BLOCKDEV,
    DAEMON_EXPORT,
    DAEMON_NBD_SERVER,
    DAEMON_CHARDEV,
    DAEMON_MONITOR,
};

struct daemon_option {
    enum daemon_option_kind kind;
    const char *name; /* "--blockdev" */
    const char *text;
};

struct daemon_chardev {
    struct weir_chardev *chardev;
    struct daemon_chardev *next;
};

struct daemon {
    const char *program;
    struct daemon_option *options; /* in order */
    unsigned option_count;
    const char *pid_file;
    bool daemonize;

    struct weir_qmp_host host; /* ctx->opaque of commands */
    struct weir_monitors *monitors;
    struct daemon_chardev *chardevs; /* newest first */
    int pid_fd;
    int signal_fd;
    int status; /* exit status */

    struct weir_mutex mutex;
    struct weir_co_queue stop_queue;
    bool stopping;
    bool setting_up; /* options are being carried out; one may wait for a client */
};

/* Fills in what the command line says. Returns -1 to go on, or the exit status (help, version, bad usage). */
int daemon_parse(struct daemon *daemon, int argc, char **argv);

/* Carries one option out. */
int daemon_apply(struct daemon *daemon, const struct daemon_option *option,
                 struct weir_error **err) weir_co_fn weir_must_check;

/* Asks for the end. Any coroutine of the control loop. */
void daemon_stop(struct daemon *daemon);
/* Ends everything, in order and within the limit. */
void daemon_shut_down(struct daemon *daemon) weir_co_fn;

/* One line to standard error, with the time in front. Any thread. */
void daemon_log(const char *line);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir daemon: start, wait, stop.
 */
#include "tools/daemon.h"

#include "base/alloc.h"
#include "co/iothread.h"
#include "export/export.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "io/io.h"
#include "sys/sys.h"
#include "tools/tools.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>

void daemon_log(const char *line)
{
    int64_t now = weir_sys->wall_ns();
    time_t seconds = (time_t)(now / 1000000000);
    struct tm tm;
    char stamp[32], text[1200];
    int length;

    gmtime_r(&seconds, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    length = snprintf(text, sizeof(text), "%s.%03dZ %s\n", stamp, (int)(now / 1000000 % 1000), line);
    if (length >= (int)sizeof(text)) {
        length = (int)sizeof(text) - 1;
        text[length - 1] = '\n';
    }
    weir_sys->process.log_line(text, (size_t)length);
}

static void log_for_monitors(void *opaque, const char *line)
{
    (void)opaque;
    daemon_log(line);
}

static void quit(struct weir_qmp_host *host)
{
    daemon_stop(weir_container_of(host, struct daemon, host));
}

/* Waits for one of the signals that end the daemon. */
static weir_co_fn void watch_signals(void *arg)
{
    struct daemon *daemon = arg;
    struct signalfd_siginfo info;
    struct iovec iov = { &info, sizeof(info) };
    char line[64];

    for (;;) {
        struct weir_sys_io poll = { .op = WEIR_SYS_POLL, .fd = daemon->signal_fd, .flags = 1 /* POLLIN */ };
        struct weir_sys_io read = { .op = WEIR_SYS_READ, .fd = daemon->signal_fd, .iov = &iov, .iovcnt = 1 };

        if (weir_co_io(&poll) < 0 || weir_co_io(&read) != (int)sizeof(info))
            return;
        snprintf(line, sizeof(line), "signal %d: stopping", (int)info.ssi_signo);
        daemon_log(line);
        daemon_stop(daemon);
    }
}

static void complain(const struct daemon *daemon, const char *what, const char *text,
                     const struct weir_error *err)
{
    fprintf(stderr, "%s: %s%s%s: %s\n", daemon->program, what, *text ? " " : "", text, weir_error_text(err));
    if (weir_error_hint_text(err))
        fprintf(stderr, "%s\n", weir_error_hint_text(err));
}

/* In their order, the monitors or the others; 1 after a complaint. */
static weir_co_fn int apply_options(struct daemon *daemon, bool monitors)
{
    for (unsigned i = 0; i < daemon->option_count && !daemon->stopping; i++) {
        WEIR_AUTO_ERROR err = NULL;

        if ((daemon->options[i].kind == DAEMON_MONITOR) != monitors ||
            !daemon_apply(daemon, &daemon->options[i], &err))
            continue;
        if (daemon->stopping)
            return 0; /* a stop ended the wait for a client: no error */
        complain(daemon, daemon->options[i].name, daemon->options[i].text, err);
        return 1;
    }
    return 0;
}

static weir_co_fn int set_up(struct daemon *daemon)
{
    daemon->setting_up = true;
    /* Who gets an answer from a monitor may rely on it that everything on the command line is there. */
    if (apply_options(daemon, false) || apply_options(daemon, true))
        return 1;
    if (daemon->pid_file) {
        daemon->pid_fd = weir_sys->process.pid_file_create(daemon->pid_file);
        if (daemon->pid_fd < 0) {
            fprintf(stderr, "%s: cannot create PID file: %s: %s\n", daemon->program, daemon->pid_file,
                    strerror(-daemon->pid_fd));
            return 1;
        }
    }
    return 0;
}

static weir_co_fn void daemon_main(void *arg)
{
    struct daemon *daemon = arg;

    weir_co_start(weir_loop_control(), watch_signals, daemon);
    daemon->status = set_up(daemon);
    daemon->setting_up = false;
    weir_sys->process.daemonize_ready(daemon->status);
    if (!daemon->status) {
        (void)weir_sys->process.notify("READY=1");
        weir_mutex_lock(&daemon->mutex);
        while (!daemon->stopping)
            weir_co_queue_wait(&daemon->stop_queue, &daemon->mutex);
        weir_mutex_unlock(&daemon->mutex);
    }
    daemon_shut_down(daemon);
    weir_loop_stop(weir_loop_control());
}

/* What has to happen before the first thread. */
static int prepare(struct daemon *daemon)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGPIPE };
    WEIR_AUTO_ERROR err = NULL;
    int ret;

    (void)weir_sys->process.passed_fds();
    if (daemon->daemonize) {
        ret = weir_sys->process.daemonize_begin();
        if (ret < 0) {
            fprintf(stderr, "%s: could not go to the background: %s\n", daemon->program, strerror(-ret));
            return 1;
        }
    }
    daemon->signal_fd = weir_sys->process.signal_fd(signals, WEIR_ARRAY_SIZE(signals));
    if (daemon->signal_fd < 0) {
        fprintf(stderr, "%s: could not wait for signals: %s\n", daemon->program,
                strerror(-daemon->signal_fd));
        return 1;
    }
    ret = weir_runtime_init(&err);
    if (ret)
        fprintf(stderr, "%s: %s\n", daemon->program, weir_error_text(err));
    return ret ? 1 : 0;
}

int weir_tool_daemon(const char *program, int argc, char **argv)
{
    struct daemon daemon = {
        .program = program,
        .host = { .package = "weir " WEIR_VERSION_TEXT, .quit = quit },
        .pid_fd = -1,
    };
    int status = daemon_parse(&daemon, argc, argv);

    if (status < 0) {
        status = prepare(&daemon);
        status = status ? status : -1;
    }
    if (status >= 0) {
        free(daemon.options);
        return status;
    }
    weir_mutex_init(&daemon.mutex);
    weir_co_queue_init(&daemon.stop_queue);
    weir_drivers_register();
    weir_graph_init(&weir_io_hooks);
    weir_iothread_set_at_end(weir_buffer_trim);
    weir_export_on_log(daemon_log);
    daemon.monitors =
        weir_monitors_new(&weir_qmp_commands, daemon.host.package, &daemon.host, log_for_monitors);
    weir_qmp_connect_events(daemon.monitors);
    weir_co_start(weir_loop_control(), daemon_main, &daemon);
    weir_runtime_run();
    free(daemon.options);
    return daemon.status;
}

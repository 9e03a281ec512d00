/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir ctl: looks at a running daemon through its monitor, mirrors its disks and follows its jobs.
 *
 * The table of commands, the help, options that all have, signals, and the runtime around the coroutine that does the
 * work. All of it is an ordinary client of QMP: the daemon knows nothing of this tool.
 */
#include "tools/ctl.h"

#include "sys/sys.h"
#include "tools/tools.h"
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

static const struct ctl_command commands[] = {
    { "cancel", ctl_cancel, "[--force] [--wait] JOB", "ends a job early",
      "A mirror that is ready ends well: the target stays as it is then, the source stays in use.\n"
      "Any other job is given up.\n\n"
      "  --force     gives up a mirror that is ready, too, and what it has in flight\n"
      "  --wait      waits for the end, and says what it was\n" },
    { "complete", ctl_complete, "[--wait] JOB", "switches the users of a mirror's source to its target",
      "The job must be ready ('jobs' shows that, 'watch --until ready' waits for it).\n\n"
      "  --wait      waits for the end: exit status 0 when it was a good one\n" },
    { "graph", ctl_graph, "[--svg FILE]", "shows exports, jobs and nodes, and who uses whom",
      "Exports and jobs come first, below them what they use, each with the name of its role. A node that\n"
      "has several users is shown below the first one, and named ('see above') below the others.\n\n"
      "  --svg FILE  writes a picture to FILE instead; - is the standard output\n" },
    { "jobs", ctl_jobs, "[--json]", "lists jobs and how far they are",
      "  --json      what query-jobs and query-block-jobs answer, merged\n" },
    { "mirror", ctl_mirror, "[OPTION]... SRC TARGET", "copies a node to another while it is in use",
      "SRC is a node. TARGET is a node, or the path of a file that exists: a node is made for it, and its\n"
      "name told. Everything that was in the target is lost. The sizes must be equal.\n"
      "Waits until the mirror is ready; it then keeps the target equal to the source until it is completed\n"
      "or cancelled. When something fails, nodes that were made here are removed again.\n\n"
      "  --active         a write is answered only when both sides have it; default: the source alone\n"
      "  --create         makes the file, as large as the source; it must not exist\n"
      "  --format FORMAT  of the file: raw (default) or qcow2; nobody looks what is in it\n"
      "  --job ID         id of the job; default: mirror-SRC\n"
      "  --no-wait        returns when the job has started\n"
      "  --pivot          completes the job when it is ready: users of SRC then use TARGET\n"
      "  --speed RATE     bytes a second at most; suffixes k, M, G, T are powers of 1024\n" },
    { "pause", ctl_pause, "JOB", "stops a job for a while", "" },
    { "resume", ctl_resume, "JOB", "lets a paused job go on, also one that has stopped for an error", "" },
    { "watch", ctl_watch, "[--until STATE] [JOB]", "follows a job to its end",
      "Without JOB: the only one. On a terminal one line is drawn again and again, otherwise a line is "
      "printed\n"
      "for each change, at most one a second. Ctrl-C leaves the job alone.\n"
      "The exit status is 0 when the job ended well, 1 when it failed or was cancelled.\n\n"
      "  --until ready    ends when the job may be completed\n"
      "  --until synced   ends when every write reaches the target before it is answered\n"
      "  --until end      (default)\n" },
};

static void help(const struct ctl *ctl)
{
    printf("usage: %s [-s ADDR] COMMAND [OPTION]...\n"
           "       %s --help | --version\n\n"
           "Looks at a running daemon, mirrors its disks and follows its jobs.\n\nCommands:\n",
           ctl->program, ctl->program);
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(commands); i++)
        printf("  %-9s %s\n", commands[i].name, commands[i].summary);
    printf("\n'%s COMMAND --help' tells the options of a command.\n\n"
           "  -s, --socket ADDR  the daemon's monitor: the path of a socket, or HOST:PORT.\n"
           "                     Without it the environment's WEIR_MONITOR is taken.\n\n"
           "A monitor serves one client at a time: give the daemon one for each that stays, 'watch' among "
           "them.\n"
           "A daemon with two monitors that serves disk.img, and its disk moved to another file:\n\n"
           "  mkdir -p /run/weir\n"
           "  weir daemon --daemonize \\\n"
           "    --chardev socket,id=c0,path=/run/weir/monitor,server=on,wait=off --monitor chardev=c0 \\\n"
           "    --chardev socket,id=c1,path=/run/weir/monitor2,server=on,wait=off --monitor chardev=c1 \\\n"
           "    --nbd-server addr.type=unix,addr.path=/run/weir/nbd \\\n"
           "    --blockdev driver=raw,node-name=disk,file.driver=file,file.filename=/srv/disk.img \\\n"
           "    --export type=nbd,id=e0,node-name=disk,name=disk,writable=on\n"
           "  export WEIR_MONITOR=/run/weir/monitor\n"
           "  weir ctl graph\n"
           "  weir ctl mirror disk /mnt/new.img --create --active --pivot\n\n"
           "Exit status: 0 done, 1 failed (a message says what and why), 130 left by Ctrl-C.\n",
           ctl->program);
}

static void command_help(const struct ctl *ctl)
{
    const struct ctl_command *command = ctl->command;

    printf("usage: %s [-s ADDR] %s %s\n\n", ctl->program, command->name, command->syntax);
    printf("'%s' %s.\n%s%s\n", command->name, command->summary, *command->help ? "\n" : "", command->help);
    printf("The daemon's monitor is named by -s ADDR or in WEIR_MONITOR: '%s --help' tells more.\n",
           ctl->program);
}

static const struct ctl_command *find(const char *name)
{
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(commands); i++) {
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    }
    return NULL;
}

/* ---- arguments ---- */

int ctl_getopt(struct ctl *ctl, int argc, char **argv, const char *shorts, const struct option *longs)
{
    for (;;) {
        int c = getopt_long(argc, argv, shorts, longs, NULL);

        if (c == 's') {
            ctl->address = optarg;
            continue;
        }
        if (c == ':')
            ctl_usage(ctl, "missing argument for option '%s'", argv[optind - 1]);
        else if (c == '?')
            ctl_usage(ctl, "unrecognized option '%s'", argv[optind - 1]);
        else if (c == 'h' && ctl->command)
            command_help(ctl);
        else if (c == 'h')
            help(ctl);
        return c == ':' ? '?' : c;
    }
}

int ctl_arguments(const struct ctl *ctl, int argc, char **argv, const char *const *names)
{
    int at = optind;

    for (; *names; names++, at++) {
        if (at >= argc)
            return ctl_usage(ctl, "%s: %s is missing", ctl->command->name, *names);
        if (!*argv[at])
            return ctl_usage(ctl, "%s: %s is empty", ctl->command->name, *names);
    }
    return at < argc ? ctl_usage(ctl, "%s: unexpected argument '%s'", ctl->command->name, argv[at]) : -1;
}

int ctl_no_options(struct ctl *ctl, int argc, char **argv, const char *const *names)
{
    static const struct option longs[] = { CTL_LONG_OPTIONS };
    int c = ctl_getopt(ctl, argc, argv, ":" CTL_SHORT_OPTIONS, longs);

    if (c != -1)
        return c == 'h' ? 0 : 1;
    return ctl_arguments(ctl, argc, argv, names);
}

/* ---- the runtime ---- */

/* A command that changes nothing ends at once; one that cleans up, or has something to say, ends by itself. */
static weir_co_fn void watch_signals(void *arg)
{
    struct ctl *ctl = arg;
    struct signalfd_siginfo info;
    struct iovec iov = { &info, sizeof(info) };

    for (;;) {
        struct weir_sys_io poll = { .op = WEIR_SYS_POLL, .fd = ctl->signal_fd, .flags = POLLIN };
        struct weir_sys_io read = { .op = WEIR_SYS_READ, .fd = ctl->signal_fd, .iov = &iov, .iovcnt = 1 };

        if (weir_co_io(&poll) < 0 || weir_co_io(&read) != (int)sizeof(info))
            return;
        if (!ctl->patient || ctl->interrupted) {
            (void)!weir_sys->process.flush_output();
            weir_sys->process.exit_now(128 + (int)info.ssi_signo);
        }
        ctl->interrupted = true;
        ctl_wake(ctl);
    }
}

static weir_co_fn void ctl_main(void *arg)
{
    struct ctl *ctl = arg;

    ctl->status = ctl->command->run(ctl, ctl->argc, ctl->argv);
    ctl_disconnect(ctl);
    weir_loop_stop(weir_loop_control());
}

static int run(struct ctl *ctl)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    WEIR_AUTO_ERROR err = NULL;

    ctl->signal_fd = weir_sys->process.signal_fd(signals, WEIR_ARRAY_SIZE(signals));
    if (ctl->signal_fd < 0) {
        ctl_complain(ctl, "could not wait for signals: %s", strerror(-ctl->signal_fd));
        return 1;
    }
    if (weir_runtime_init(&err)) {
        ctl_complain(ctl, "%s", weir_error_text(err));
        return 1;
    }
    weir_mutex_init(&ctl->lock);
    weir_co_queue_init(&ctl->changed);
    weir_co_start(weir_loop_control(), watch_signals, ctl);
    weir_co_start(weir_loop_control(), ctl_main, ctl);
    weir_runtime_run();
    if (weir_sys->process.flush_output() < 0 && !ctl->status) {
        ctl_complain(ctl, "could not write the output");
        return 1;
    }
    return ctl->status;
}

int weir_tool_ctl(const char *program, int argc, char **argv)
{
    static const struct option longs[] = { { "version", no_argument, NULL, 'V' }, CTL_LONG_OPTIONS };
    struct ctl ctl = { .program = program };
    int c;

    opterr = 0;
    /* '+': what comes behind the command is the command's. */
    while ((c = ctl_getopt(&ctl, argc, argv, "+:V" CTL_SHORT_OPTIONS, longs)) != -1) {
        if (c == 'V')
            printf("%s version %s\n", program, WEIR_VERSION_TEXT);
        return c == '?' ? 1 : 0;
    }
    if (optind == argc)
        return ctl_usage(&ctl, "no command was given");
    ctl.command = find(argv[optind]);
    if (!ctl.command)
        return ctl_usage(&ctl, "there is no command '%s'", argv[optind]);
    ctl.argc = argc - optind;
    ctl.argv = argv + optind;
    optind = 0; /* begins anew, with the order of arguments free */
    return run(&ctl);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The daemon's command line. Options are kept in their order: what one defines, a later one may use.
 */
#include "base/alloc.h"
#include "tools/daemon.h"
#include "tools/tools.h"

#include <getopt.h>
#include <stdio.h>

static void usage(const struct daemon *daemon, FILE *to)
{
    fprintf(to,
            "usage: %s [OPTION]...\n\n"
            "Serves block nodes over NBD and is controlled over QMP. Options are carried out in order; the\n"
            "value of each is key=value[,...] or a JSON object.\n\n"
            "  --blockdev [driver=]DRIVER,node-name=NAME[,OPTION=VALUE...]\n"
            "                   open a node: file, host_device, null-co, raw, blkdebug, throttle\n"
            "  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N][,handshake-max-seconds=N]\n"
            "  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,...]\n"
            "  --nbd-server addr.type=fd,addr.str=N[,...]\n"
            "                   listen for NBD clients\n"
            "  --export [type=]nbd,id=ID,node-name=NAME[,name=EXPORT][,writable=on][,writethrough=on]\n"
            "           [,description=TEXT][,iothread=ID]\n"
            "                   make a node reachable\n"
            "  --chardev [backend=]socket,id=ID,path=PATH[,server=on][,wait=off]\n"
            "  --chardev [backend=]socket,id=ID,host=HOST,port=PORT[,server=on][,wait=off]\n"
            "  --chardev [backend=]stdio,id=ID\n"
            "                   a way for a monitor to be reached\n"
            "  --monitor [chardev=]ID[,mode=control][,pretty=on]\n"
            "                   QMP on a chardev\n"
            "  --object [qom-type=]iothread,id=ID\n"
            "  --object [qom-type=]throttle-group,id=ID[,limits.iops-total=N...]\n"
            "                   an object for nodes and exports to use\n"
            "  --pidfile PATH   write the process id to PATH when everything is ready\n"
            "  --daemonize      go to the background when everything is ready\n"
            "  -h, --help       this text\n"
            "  -V, --version    the version\n\n"
            "The end: QMP 'quit', SIGINT, SIGTERM or SIGHUP. See weir-daemon(1).\n",
            daemon->program);
}

static void add(struct daemon *daemon, enum daemon_option_kind kind, const char *name, const char *text)
{
    daemon->options =
        weir_realloc(daemon->options, (daemon->option_count + 1) * sizeof(struct daemon_option));
    daemon->options[daemon->option_count++] = (struct daemon_option){ kind, name, text };
}

enum { OPTION_PIDFILE = 256, OPTION_DAEMONIZE, OPTION_FIRST };

int daemon_parse(struct daemon *daemon, int argc, char **argv)
{
    static const char *const names[] = { "--object",     "--blockdev", "--export",
                                         "--nbd-server", "--chardev",  "--monitor" };
    static const struct option longs[] = {
        { "object", required_argument, NULL, OPTION_FIRST + DAEMON_OBJECT },
        { "blockdev", required_argument, NULL, OPTION_FIRST + DAEMON_BLOCKDEV },
        { "export", required_argument, NULL, OPTION_FIRST + DAEMON_EXPORT },
        { "nbd-server", required_argument, NULL, OPTION_FIRST + DAEMON_NBD_SERVER },
        { "chardev", required_argument, NULL, OPTION_FIRST + DAEMON_CHARDEV },
        { "monitor", required_argument, NULL, OPTION_FIRST + DAEMON_MONITOR },
        { "pidfile", required_argument, NULL, OPTION_PIDFILE },
        { "daemonize", no_argument, NULL, OPTION_DAEMONIZE },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    int c;

    argv[0] = (char *)(uintptr_t)daemon->program; /* getopt's messages begin with it */
    while ((c = getopt_long(argc, argv, "hV", longs, NULL)) != -1) {
        switch (c) {
        case 'h':
            usage(daemon, stdout);
            return 0;
        case 'V':
            printf("%s version %s\n", daemon->program, WEIR_VERSION_TEXT);
            return 0;
        case OPTION_PIDFILE:
            daemon->pid_file = optarg;
            break;
        case OPTION_DAEMONIZE:
            daemon->daemonize = true;
            break;
        case '?':
            return 1;
        default:
            add(daemon, (enum daemon_option_kind)(c - OPTION_FIRST), names[c - OPTION_FIRST], optarg);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "%s: Unexpected argument: %s\n", daemon->program, argv[optind]);
        return 1;
    }
    return -1;
}

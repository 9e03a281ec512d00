/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Arguments of weir io.
 */
#include "tools/io.h"

#include "tools/tools.h"
#include <stdio.h>
#include <string.h>

enum { OPT_OBJECT = 256, OPT_IMAGE_OPTS };

static void help(const struct io_tool *io)
{
    printf("usage: %s [option]... [-c command]... [image]\n\n"
           "Reads and writes a disk image by commands: those of -c, or lines of the standard input.\n\n"
           "Options:\n"
           "  -c, --cmd COMMAND    runs the command; may be given several times\n"
           "  -f, --format FMT     the format; without it the first bytes of the image say it\n"
           "      --image-opts     the image is key=value,...\n"
           "  -r, --read-only      opens it read-only\n"
           "  -n, --nocache        the same as -t none\n"
           "  -t, --cache MODE     none, writeback, writethrough (default), directsync or unsafe\n"
           "  -i, --aio MODE       threads, native or io_uring\n"
           "  -k, --native-aio     the same as -i native\n"
           "  -d, --discard MODE   unmap (default), on, ignore or off\n"
           "  -m, --misalign       buffers are not aligned in memory\n"
           "  -U, --force-share    lets other processes write to the image meanwhile; with -r\n"
           "  -h, --help; -V, --version\n\n"
           "Refused, as there is no such thing here: -s (--snapshot), -C (--copy-on-read), -T (--trace),\n"
           "--object.\n\n"
           "'%s -c help' tells the commands.\n",
           io->program, io->program);
}

bool io_take_cache(const struct io_tool *io, const char *text, struct io_mode *mode)
{
    if (!img_cache_parse(text, &mode->how.cache)) {
        img_complain(&io->img, "Invalid cache option: %s", text);
        return false;
    }
    mode->shell.write_through = mode->how.cache.write_through;
    return true;
}

bool io_take_discard(const struct io_tool *io, const char *text, struct io_mode *mode)
{
    if (!strcmp(text, "unmap") || !strcmp(text, "on")) {
        mode->how.discard = "unmap";
    } else if (!strcmp(text, "ignore") || !strcmp(text, "off")) {
        mode->how.discard = "ignore";
    } else {
        img_complain(&io->img, "Invalid discard option: %s", text);
        return false;
    }
    return true;
}

bool io_take_aio(const struct io_tool *io, const char *text, struct io_mode *mode)
{
    static const char *const modes[] = { "threads", "native", "io_uring" };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(modes); i++) {
        if (!strcmp(text, modes[i])) {
            mode->how.aio = modes[i];
            return true;
        }
    }
    img_complain(&io->img, "Invalid aio option: %s", text);
    return false;
}

static int refuse(const struct io_tool *io, const char *option, const char *why)
{
    img_complain(&io->img, "%s is not supported: %s", option, why);
    return 1;
}

static void add_command(struct io_tool *io, const char *text)
{
    io->commands = weir_realloc(io->commands, (io->command_count + 1) * sizeof(*io->commands));
    io->commands[io->command_count++] = text;
}

/* Options without an argument; -1 to go on, or the exit status. */
static int take_flag(struct io_tool *io, int c)
{
    switch (c) {
    case 'r':
        io->mode.how.writable = false;
        return -1;
    case 'n':
        return io_take_cache(io, "none", &io->mode) ? -1 : 1;
    case 'm':
        io->mode.shell.misalign = true;
        return -1;
    case 'k':
        return io_take_aio(io, "native", &io->mode) ? -1 : 1;
    case 'U':
        io->mode.how.force_share = true;
        return -1;
    case OPT_IMAGE_OPTS:
        io->mode.how.options = true;
        return -1;
    case 's':
        return refuse(io, "--snapshot", "there are no temporary overlays");
    case 'C':
        return refuse(io, "--copy-on-read", "images are opened without a filter for it");
    case 'V':
        printf("%s version %s\n", io->program, WEIR_VERSION_TEXT);
        return 0;
    default:
        help(io);
        return 0;
    }
}

static int take_option(struct io_tool *io, int c)
{
    switch (c) {
    case 'c':
        add_command(io, optarg);
        return -1;
    case 'f':
        io->mode.how.format = optarg;
        return -1;
    case 't':
        return io_take_cache(io, optarg, &io->mode) ? -1 : 1;
    case 'd':
        return io_take_discard(io, optarg, &io->mode) ? -1 : 1;
    case 'i':
        return io_take_aio(io, optarg, &io->mode) ? -1 : 1;
    case 'T':
        return refuse(io, "--trace", "there are no trace points");
    case OPT_OBJECT:
        return img_refuse_object(&io->img, optarg);
    default:
        return take_flag(io, c);
    }
}

static int misused(const struct io_tool *io, int c, const char *word)
{
    if (c == ':')
        img_complain(&io->img, "option '%s' requires an argument", word);
    else if (optopt)
        img_complain(&io->img, "invalid option -- '%c'", optopt);
    else
        img_complain(&io->img, "unrecognized option '%s'", word);
    help(io);
    return 1;
}

int io_parse(struct io_tool *io, int argc, char **argv)
{
    static const struct option longs[] = {
        { "cmd", required_argument, NULL, 'c' },
        { "format", required_argument, NULL, 'f' },
        { "read-only", no_argument, NULL, 'r' },
        { "snapshot", no_argument, NULL, 's' },
        { "nocache", no_argument, NULL, 'n' },
        { "copy-on-read", no_argument, NULL, 'C' },
        { "misalign", no_argument, NULL, 'm' },
        { "native-aio", no_argument, NULL, 'k' },
        { "aio", required_argument, NULL, 'i' },
        { "cache", required_argument, NULL, 't' },
        { "discard", required_argument, NULL, 'd' },
        { "trace", required_argument, NULL, 'T' },
        { "force-share", no_argument, NULL, 'U' },
        { "object", required_argument, NULL, OPT_OBJECT },
        { "image-opts", no_argument, NULL, OPT_IMAGE_OPTS },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },
        { NULL, 0, NULL, 0 },
    };
    int c, status = -1;

    while (status < 0 && (c = getopt_long(argc, argv, ":c:f:rsnCmki:t:d:T:UhV", longs, NULL)) != -1)
        status = c == ':' || c == '?' ? misused(io, c, argv[optind - 1]) : take_option(io, c);
    if (status >= 0)
        return status;
    if (argc - optind > 1) {
        help(io);
        return 1;
    }
    if (io->mode.how.options && io->mode.how.format) {
        img_complain(&io->img, "--image-opts and -f are mutually exclusive");
        return 1;
    }
    io->name = optind < argc ? argv[optind] : NULL;
    return -1;
}

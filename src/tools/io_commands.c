/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands of weir io that are about the program and the image that is open, not about a node of a running graph.
 */
#include "tools/io.h"

#include "base/schema_text.h"
#include "sys/sys.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

/* ---- open and close ---- */

static char *copy_of(const char *text)
{
    return text ? weir_strdup(text) : NULL;
}

/* Keeps what @mode and @name say, as they may be words of a line that goes. */
static void remember(struct io_tool *io, const char *name, const struct io_mode *mode)
{
    char *new_name = copy_of(name), *new_extra = copy_of(mode->how.extra);

    free(io->open_name);
    free(io->open_extra);
    io->open_name = new_name;
    io->open_extra = new_extra;
    io->open_mode = *mode;
    io->open_mode.how.extra = new_extra;
}

static weir_co_fn int open_image(struct io_tool *io, const char *name, const struct io_mode *mode,
                                 struct weir_error **err)
{
    struct weir_edge *edge;
    int ret = img_open(name, &mode->how, &edge, err);

    if (ret)
        return ret;
    io->edge = edge;
    weir_shell_set_edge(io->shell, edge, mode->shell);
    return 0;
}

int io_open(struct io_tool *io, const char *name, const struct io_mode *mode)
{
    struct weir_error *err = NULL;
    int ret = open_image(io, name, mode, &err);

    if (!ret) {
        remember(io, name, mode);
        return 0;
    }
    if (name && !mode->how.options)
        weir_error_prefix(&err, "can't open device %s: ", name);
    else
        weir_error_prefix(&err, "can't open: ");
    return weir_shell_fail(io->shell, err);
}

void io_close(struct io_tool *io)
{
    weir_shell_settle(io->shell);
    weir_shell_set_edge(io->shell, NULL, (struct weir_shell_mode){ .misalign = false });
    img_close(weir_steal(&io->edge));
}

static weir_co_fn int run_close(struct weir_shell *shell, int argc, char **argv)
{
    io_close(weir_shell_arg(shell));
    return 0;
}

static int refuse(struct weir_shell *shell, char **argv, int option)
{
    weir_shell_complain(shell, "%s: -%c is not supported\n", argv[0], option);
    return -ENOTSUP;
}

/* Takes one option of open; false after a complaint. */
static bool take_open_option(struct weir_shell *shell, int c, char **argv, struct io_mode *mode)
{
    const struct io_tool *io = weir_shell_arg(shell);

    switch (c) {
    case 'r':
        mode->how.writable = false;
        return true;
    case 'n':
        return io_take_cache(io, "none", mode);
    case 'k':
        return io_take_aio(io, "native", mode);
    case 'U':
        mode->how.force_share = true;
        return true;
    case 't':
        return io_take_cache(io, optarg, mode);
    case 'd':
        return io_take_discard(io, optarg, mode);
    case 'i':
        return io_take_aio(io, optarg, mode);
    case 'o':
        mode->how.extra = optarg;
        return true;
    case 's':
    case 'C':
        (void)refuse(shell, argv, c);
        return false;
    default:
        (void)weir_shell_usage(shell, argv);
        return false;
    }
}

static weir_co_fn int run_open(struct weir_shell *shell, int argc, char **argv)
{
    struct io_tool *io = weir_shell_arg(shell);
    struct io_mode mode = { .how.writable = true, .shell = { true, io->mode.shell.misalign } };
    int c;

    while ((c = weir_shell_getopt(shell, argc, argv, "rsCnkUt:d:i:o:")) != -1) {
        if (!take_open_option(shell, c, argv, &mode))
            return -EINVAL;
    }
    if (io->edge) {
        img_complain(&io->img, "file open already, try 'help close'");
        return -EBUSY;
    }
    if (optind < argc - 1 || (optind == argc && !mode.how.extra))
        return weir_shell_usage(shell, argv);
    return io_open(io, optind < argc ? argv[optind] : NULL, &mode);
}

/* ---- reopen: the image is closed and opened in the new way, or in the old one if that fails ---- */

static weir_co_fn int reopen(struct io_tool *io, const struct io_mode *mode)
{
    struct weir_error *err = NULL, *again = NULL;
    weir_autofree char *name = copy_of(io->open_name);
    int ret;

    io_close(io);
    ret = open_image(io, name, mode, &err);
    if (!ret) {
        remember(io, name, mode);
        return 0;
    }
    if (open_image(io, name, &io->open_mode, &again))
        (void)weir_shell_fail(io->shell, again);
    return weir_shell_fail(io->shell, err);
}

static weir_co_fn int run_reopen(struct weir_shell *shell, int argc, char **argv)
{
    struct io_tool *io = weir_shell_arg(shell);
    struct io_mode mode = io->open_mode;
    weir_autofree char *extra = NULL;
    int c, access = 0;

    while ((c = weir_shell_getopt(shell, argc, argv, "rwc:o:")) != -1) {
        if (c == 'r' || c == 'w') {
            if (access) {
                img_complain(&io->img, "Only one -r/-w option may be given");
                return -EINVAL;
            }
            access = c;
        } else if (c == 'c') {
            if (!io_take_cache(io, optarg, &mode))
                return -EINVAL;
        } else if (c == 'o') {
            free(extra);
            extra =
                mode.how.extra ? weir_strdup_printf("%s,%s", mode.how.extra, optarg) : weir_strdup(optarg);
            mode.how.extra = extra;
        } else {
            return weir_shell_usage(shell, argv);
        }
    }
    if (optind != argc)
        return weir_shell_usage(shell, argv);
    if (access)
        mode.how.writable = access == 'w';
    if (extra && mode.how.options) {
        img_complain(&io->img, "reopen -o is not supported for an image that --image-opts named");
        return -ENOTSUP;
    }
    return reopen(io, &mode);
}

/* ---- the program ---- */

static int run_quit(struct weir_shell *shell, int argc, char **argv)
{
    struct io_tool *io = weir_shell_arg(shell);

    io->quit = true;
    return 0;
}

static int deliver(struct weir_shell *shell, int signal)
{
    int ret;

    (void)!weir_sys->process.flush_output();
    ret = weir_sys->process.raise_signal(signal);
    if (ret)
        weir_shell_print(shell, "Could not raise signal %d: %s\n", signal, strerror(-ret));
    return ret;
}

static int run_abort(struct weir_shell *shell, int argc, char **argv)
{
    return deliver(shell, SIGABRT);
}

static int run_sigraise(struct weir_shell *shell, int argc, char **argv)
{
    uint64_t signal;

    if (!weir_shell_size(shell, argv[1], &signal))
        return -EINVAL;
    if (signal > (uint64_t)SIGRTMAX) {
        weir_shell_print(shell, "signal argument '%s' is too large to be a valid signal\n", argv[1]);
        return -EINVAL;
    }
    return deliver(shell, (int)signal);
}

const struct weir_shell_command io_commands[] = {
    { "abort", NULL, run_abort, 0, 0, NULL, "simulate a program crash using abort(3)", NULL, 0, true },
    { "close", "c", run_close, 0, 0, NULL, "close the current open file", NULL, 0, false },
    { "open", "o", run_open, 1, -1, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
      "open the file specified by path",
      " -r  read-only\n -n  past the page cache\n -t  the cache mode\n -d  what becomes of discards\n"
      " -k, -i MODE  how its I/O is done\n -U  others may write meanwhile; with -r\n"
      " -o  options of the node, key=value,...\n -s, -C  refused",
      0, true },
    { "quit", "q", run_quit, 0, 0, NULL, "exit the program", NULL, 0, true },
    { "reopen", NULL, run_reopen, 0, -1, "[(-r|-w)] [-c cache] [-o options]",
      "reopens an image with new options",
      "Closes the image and opens it in the new way; in the old one if that is not possible.\n"
      " -r, -w  read-only, or writable\n -c  the cache mode\n -o  options of the node, key=value,...",
      0, false },
    { "sigraise", NULL, run_sigraise, 1, 1, "signal", "raises a signal", NULL, 0, true },
};
const unsigned io_command_count = WEIR_ARRAY_SIZE(io_commands);

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir img: looks at, compares and converts disk images.
 *
 * The table of subcommands, the help, and the runtime around the one coroutine that does the work.
 */
#include "tools/img.h"

#include "co/co.h"
#include "co/iothread.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "sys/sys.h"
#include "tools/tools.h"
#include <stdio.h>
#include <string.h>

/* How long what hangs in the host is waited for at the end. */
#define STOP_LIMIT_NS (10 * 1000000000LL)

static const struct img_command commands[] = {
    { "check", img_check,
      "[--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename" },
    { "compare", img_compare,
      "[--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2" },
    { "convert", img_convert,
      "[--image-opts] [--target-image-opts] [--target-is-zero] [-U] [-c] [-p] [-q] [-n] [-f fmt] [-t cache]\n"
      "          [-T src_cache] [-O output_fmt] [-B backing_file -F backing_fmt] [-o options] [-S "
      "sparse_size]\n"
      "          [-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] "
      "output_filename" },
    { "create", img_create,
      "[-q] [-f fmt] [-b backing_file -F backing_fmt] [-u] [-o options] filename [size]" },
    { "info", img_info, "[--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename" },
    { "map", img_map,
      "[--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename" },
};

void img_help(const struct img *img)
{
    printf("usage: %s command [command options]\n"
           "       %s --help | --version\n\n"
           "Looks at, compares, creates and converts disk images.\n\nCommands:\n",
           img->program, img->program);
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(commands); i++)
        printf("  %s %s\n", commands[i].name, commands[i].syntax);
    printf("\nParameters:\n"
           "  filename    a file, a block device, file:PATH, json:{...}; with --image-opts key=value,...\n"
           "  fmt         the format; without it the first bytes of the image say it\n"
           "  cache       none, writeback, writethrough, directsync or unsafe (default for convert)\n"
           "  size        bytes; suffixes k, M, G, T, P, E are powers of 1024\n"
           "  options     name=value,... of the output format; '-o help' lists them\n"
           "  ofmt        human or json\n"
           "  -S          bytes of zeroes in a row that make a hole (default 4k); 0 allocates everything\n"
           "  -m          coroutines that copy at the same time, 1 to 16 (default 8)\n"
           "  -W          write out of order\n"
           "  -n          write into an image that exists\n"
           "  -u          do not look whether the backing file can be opened\n"
           "  -U          let other processes write to the image meanwhile\n\n"
           "Supported formats: file host_device qcow2 raw\n");
}

static const struct img_command *find(const char *name)
{
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(commands); i++) {
        if (!strcmp(commands[i].name, name))
            return &commands[i];
    }
    return NULL;
}

/* Nothing that the images still had to write may be lost: the graph ends before the process does. */
static weir_co_fn void img_main(void *arg)
{
    struct img *img = arg;

    img->status = img->command->run(img, img->argc, img->argv);
    weir_graph_done(STOP_LIMIT_NS);
    if (weir_graph_limbo_count() || weir_iothreads_done(STOP_LIMIT_NS)) {
        (void)!weir_sys->process.flush_output();
        img_complain(img, "requests that hang in the host are left behind");
        weir_sys->process.exit_now(img->status ? img->status : 1);
    }
    weir_loop_stop(weir_loop_control());
}

static int run(struct img *img)
{
    WEIR_AUTO_ERROR err = NULL;

    if (weir_runtime_init(&err)) {
        img_complain(img, "%s", weir_error_text(err));
        return 1;
    }
    weir_drivers_register();
    weir_graph_init(&weir_io_hooks);
    weir_iothread_set_at_end(weir_buffer_trim);
    weir_co_start(weir_loop_control(), img_main, img);
    weir_runtime_run();
    weir_buffer_trim();
    if (weir_sys->process.flush_output() < 0 && !img->status) {
        img_complain(img, "could not write the output");
        return 1;
    }
    return img->status;
}

int weir_tool_img(const char *program, int argc, char **argv)
{
    struct img img = { .program = program };

    if (argc < 2)
        return img_usage(&img, "Not enough arguments");
    if (!strcmp(argv[1], "-h") || !strcmp(argv[1], "--help")) {
        img_help(&img);
        return 0;
    }
    if (!strcmp(argv[1], "-V") || !strcmp(argv[1], "--version")) {
        printf("%s version %s\n", program, WEIR_VERSION_TEXT);
        return 0;
    }
    if (argv[1][0] == '-')
        return img_usage(&img, "unrecognized option '%s'", argv[1]);
    img.command = find(argv[1]);
    if (!img.command)
        return img_usage(&img, "Command not found: %s", argv[1]);
    img.argc = argc - 1;
    img.argv = argv + 1;
    return run(&img);
}

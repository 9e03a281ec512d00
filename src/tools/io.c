/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir io: reads and writes a disk image by commands.
 *
 * The commands are the shell's (qmp/shell.h) and a few of the program's own; here is the runtime around them: where
 * lines come from, where output goes, and the end. Requests that a breakpoint holds are let go at the end.
 */
#include "tools/io.h"

#include "co/co.h"
#include "co/iothread.h"
#include "filter/blkdebug.h"
#include "graph/graph.h"
#include "io/buffer.h"
#include "sys/sys.h"
#include "tools/tools.h"
#include <stdio.h>
#include <string.h>

/* How long what hangs in the host is waited for at the end. */
#define STOP_LIMIT_NS (10 * 1000000000LL)

static void print(void *arg, enum weir_shell_stream stream, const char *text)
{
    if (stream == WEIR_SHELL_ERR)
        (void)!weir_sys->process.flush_output();
    fputs(text, stream == WEIR_SHELL_ERR ? stderr : stdout);
}

/* Everything runs on the control loop here, so that lines do not mix. */
static void request_held(const char *tag, bool held)
{
    printf("blkdebug: %s request '%s'\n", held ? "Suspended" : "Resuming", tag);
}

static weir_co_fn void run_line(struct io_tool *io, const char *line)
{
    if (weir_shell_run(io->shell, line))
        io->status = 1;
}

struct reading {
    char *line;
};

static int read_line(void *arg)
{
    struct reading *reading = arg;

    return weir_sys->process.read_line(&reading->line);
}

/* Requests go on while the next line is waited for. */
static weir_co_fn void run_input(struct io_tool *io)
{
    while (!io->quit) {
        struct reading reading = { NULL };
        int ret;

        printf("%s> ", io->program);
        (void)!weir_sys->process.flush_output();
        ret = weir_co_work(read_line, &reading);
        if (ret < 0) {
            img_complain(&io->img, "could not read the input: %s", strerror(-ret));
            io->status = 1;
        }
        if (ret <= 0)
            break;
        run_line(io, reading.line);
        free(reading.line);
    }
}

static weir_co_fn void run_all(struct io_tool *io)
{
    if (io->name && io_open(io, io->name, &io->mode)) {
        io->status = 1;
        return;
    }
    for (unsigned i = 0; i < io->command_count && !io->quit; i++)
        run_line(io, io->commands[i]);
    if (!io->command_count)
        run_input(io);
}

/* Nothing that the image still had to write may be lost: the graph ends before the process does. */
static weir_co_fn void io_main(void *arg)
{
    struct io_tool *io = arg;

    io->shell = weir_shell_new(&io->host);
    run_all(io);
    weir_graph_let_go();
    io_close(io);
    weir_shell_free(io->shell);
    weir_graph_done(STOP_LIMIT_NS);
    if (weir_graph_limbo_count() || weir_iothreads_done(STOP_LIMIT_NS)) {
        (void)!weir_sys->process.flush_output();
        img_complain(&io->img, "requests that hang in the host are left behind");
        weir_sys->process.exit_now(1);
    }
    weir_loop_stop(weir_loop_control());
}

static int run(struct io_tool *io)
{
    WEIR_AUTO_ERROR err = NULL;

    if (weir_runtime_init(&err)) {
        img_complain(&io->img, "%s", weir_error_text(err));
        return 1;
    }
    weir_drivers_register();
    weir_graph_init(&weir_io_hooks);
    weir_iothread_set_at_end(weir_buffer_trim);
    weir_blkdebug_on_hold(request_held);
    weir_co_start(weir_loop_control(), io_main, io);
    weir_runtime_run();
    weir_buffer_trim();
    if (weir_sys->process.flush_output() < 0 && !io->status) {
        img_complain(&io->img, "could not write the output");
        return 1;
    }
    return io->status;
}

int weir_tool_io(const char *program, int argc, char **argv)
{
    struct io_tool io = {
        .program = program,
        .img.program = program,
        .mode = { .how.writable = true, .shell.write_through = true },
    };
    int status = io_parse(&io, argc, argv);

    io.host = (struct weir_shell_host){ .program = program,
                                        .print = print,
                                        .arg = &io,
                                        .commands = io_commands,
                                        .command_count = io_command_count };
    if (status < 0)
        status = run(&io);
    free(io.commands);
    free(io.open_name);
    free(io.open_extra);
    return status;
}

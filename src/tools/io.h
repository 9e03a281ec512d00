/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir io: what its files share.
 */
#ifndef WEIR_TOOLS_IO_H
#define WEIR_TOOLS_IO_H

#include "qmp/shell.h"
#include "tools/img.h"

/* How images are opened that the command line or a command names. */
struct io_mode {
    struct img_open how;
    struct weir_shell_mode shell;
};

struct io_tool {
    const char *program; /* messages begin with it */
    struct img img;      /* the same for what is shared with the image tool */
    const char **commands;
    unsigned command_count;
    const char *name; /* of the image on the command line; NULL: none */
    struct io_mode mode;
    struct weir_shell_host host;
    struct weir_shell *shell;
    struct weir_edge *edge; /* of what is open */
    /* What is open now, to be opened again in another way. */
    struct io_mode open_mode;
    char *open_name, *open_extra;
    bool quit;
    int status;
};

/* ---- arguments (io_options.c) ---- */
/* -1 to go on, or the exit status. */
int io_parse(struct io_tool *io, int argc, char **argv);
/* Each takes the text of an option; false after a complaint. */
bool io_take_cache(const struct io_tool *io, const char *text, struct io_mode *mode);
bool io_take_discard(const struct io_tool *io, const char *text, struct io_mode *mode);
bool io_take_aio(const struct io_tool *io, const char *text, struct io_mode *mode);

/* ---- commands (io_commands.c) ---- */
extern const struct weir_shell_command io_commands[];
extern const unsigned io_command_count;
/* Opens @name (may be NULL with mode->how.extra) for the commands that follow: 0 or -errno after a complaint. */
int io_open(struct io_tool *io, const char *name, const struct io_mode *mode) weir_co_fn weir_must_check;
/* NULL is fine. */
void io_close(struct io_tool *io) weir_co_fn;

#endif

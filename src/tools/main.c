/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * weir: one program, several tools. Which one is said by the first argument, or by the name it was called by, so
 * that a symbolic link named like the tool it stands in for is a drop-in.
 */
#include "tools/tools.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct tool {
    const char *name, *called; /* called: the tool it stands in for; NULL: none */
    int (*run)(const char *program, int argc, char **argv);
    const char *summary;
};

static const struct tool tools[] = {
    { "daemon", "qemu-storage-daemon", weir_tool_daemon, "serve block nodes; control over QMP" },
    { "img", "qemu-img", weir_tool_img, "look at, compare and convert disk images" },
    { "io", "qemu-io", weir_tool_io, "read and write a disk image by commands, for tests" },
    { "ctl", NULL, weir_tool_ctl, "look at a running daemon, mirror its disks, follow its jobs" },
};
#define TOOL_COUNT (sizeof(tools) / sizeof(tools[0]))

static void usage(FILE *to)
{
    fprintf(to, "usage: weir TOOL [OPTION]...\n"
                "       weir --help | --version\n\n"
                "A live block layer: nodes, exports and jobs outside any VMM.\n\nTools:\n");
    for (size_t i = 0; i < TOOL_COUNT; i++) {
        fprintf(to, "  %-8s %s", tools[i].name, tools[i].summary);
        if (tools[i].called)
            fprintf(to, " (also under the name %s)", tools[i].called);
        fprintf(to, "\n");
    }
    fprintf(to, "\n'weir TOOL --help' tells the options of a tool.\n");
}

int main(int argc, char **argv)
{
    const char *slash = argc ? strrchr(argv[0], '/') : NULL;
    const char *program = slash ? slash + 1 : argc ? argv[0] : "weir";
    char name[64];

    for (size_t i = 0; i < TOOL_COUNT; i++) {
        if (tools[i].called && !strcmp(program, tools[i].called))
            return tools[i].run(program, argc, argv);
    }
    if (argc < 2) {
        usage(stderr);
        return 1;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")) {
        usage(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
        printf("weir %s\n", WEIR_VERSION_TEXT);
        return 0;
    }
    for (size_t i = 0; i < TOOL_COUNT; i++) {
        if (!strcmp(argv[1], tools[i].name)) {
            snprintf(name, sizeof(name), "weir %s", tools[i].name);
            return tools[i].run(name, argc - 1, argv + 1);
        }
    }
    fprintf(stderr, "weir: there is no tool '%s'; see 'weir --help'\n", argv[1]);
    return 1;
}

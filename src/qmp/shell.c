/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shell: finds the command of a line, checks what is the same for all commands, and runs it.
 */
#include "qmp/shell_internal.h"

#include <stdarg.h>
#include <stdio.h>

struct weir_shell *weir_shell_new(const struct weir_shell_host *host)
{
    struct weir_shell *shell = weir_new(struct weir_shell);

    shell->host = host;
    weir_mutex_init(&shell->mutex);
    weir_co_queue_init(&shell->changed);
    return shell;
}

void weir_shell_free(struct weir_shell *shell)
{
    WEIR_ASSERT(!shell->outstanding);
    weir_mutex_done(&shell->mutex);
    free(shell);
}

void weir_shell_set_edge(struct weir_shell *shell, struct weir_edge *edge, struct weir_shell_mode mode)
{
    shell->edge = edge;
    shell->mode = mode;
}

struct weir_edge *weir_shell_edge(const struct weir_shell *shell)
{
    return shell->edge;
}

void *weir_shell_arg(const struct weir_shell *shell)
{
    return shell->host->arg;
}

/* ---- what is said ---- */

static void say(struct weir_shell *shell, enum weir_shell_stream stream, const char *format, va_list args)
{
    weir_autofree char *text = weir_strdup_vprintf(format, args);

    shell->host->print(shell->host->arg, stream, text);
}

void weir_shell_print(struct weir_shell *shell, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(shell, WEIR_SHELL_OUT, format, args);
    va_end(args);
}

void weir_shell_complain(struct weir_shell *shell, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    say(shell, WEIR_SHELL_ERR, format, args);
    va_end(args);
}

int weir_shell_fail(struct weir_shell *shell, struct weir_error *err)
{
    int ret = weir_error_code(err);

    weir_shell_complain(shell, "%s: %s\n", shell->host->program, weir_error_text(err));
    if (weir_error_hint_text(err))
        weir_shell_complain(shell, "%s\n", weir_error_hint_text(err));
    weir_error_free(err);
    return ret;
}

int weir_shell_getopt(struct weir_shell *shell, int argc, char **argv, const char *options)
{
    int c;

    opterr = 0;
    c = getopt(argc, argv, options);
    if (c == '?')
        weir_shell_complain(shell, "%s: %s -- '%c'\n", argv[0],
                            strchr(options, optopt) ? "option requires an argument" : "invalid option",
                            optopt);
    return c;
}

/* ---- commands ---- */

static int run_help(struct weir_shell *shell, int argc, char **argv);

static const struct weir_shell_command help_command = {
    .name = "help",
    .alias = "?",
    .run = run_help,
    .most = 1,
    .syntax = "[command]",
    .summary = "help for one or all commands",
    .without_node = true,
};

/* The tables one behind the other; NULL behind the last. */
static const struct weir_shell_command *command_at(const struct weir_shell *shell, unsigned index)
{
    if (!index--)
        return &help_command;
    if (index < shell_rw_command_count)
        return &shell_rw_commands[index];
    index -= shell_rw_command_count;
    if (index < shell_node_command_count)
        return &shell_node_commands[index];
    index -= shell_node_command_count;
    return index < shell->host->command_count ? &shell->host->commands[index] : NULL;
}

static const struct weir_shell_command *find(const struct weir_shell *shell, const char *name)
{
    const struct weir_shell_command *command;

    for (unsigned i = 0; (command = command_at(shell, i)); i++) {
        if (!strcmp(command->name, name) || (command->alias && !strcmp(command->alias, name)))
            return command;
    }
    return NULL;
}

static void print_usage(struct weir_shell *shell, const struct weir_shell_command *command)
{
    weir_shell_print(shell, "%s %s%s-- %s\n", command->name, command->syntax ? command->syntax : "",
                     command->syntax ? " " : "", command->summary);
}

int weir_shell_usage(struct weir_shell *shell, char **argv)
{
    const struct weir_shell_command *command = find(shell, argv[0]);

    WEIR_ASSERT(command);
    print_usage(shell, command);
    return -EINVAL;
}

/* By name; commands have different ones. */
static void help_for_all(struct weir_shell *shell)
{
    const struct weir_shell_command *last = NULL;

    for (;;) {
        const struct weir_shell_command *next = NULL, *command;

        for (unsigned i = 0; (command = command_at(shell, i)); i++) {
            if ((!last || strcmp(command->name, last->name) > 0) &&
                (!next || strcmp(command->name, next->name) < 0))
                next = command;
        }
        if (!next)
            break;
        print_usage(shell, next);
        last = next;
    }
    weir_shell_print(shell, "\nUse 'help commandname' for extended help.\n");
}

static int run_help(struct weir_shell *shell, int argc, char **argv)
{
    const struct weir_shell_command *command;

    if (argc < 2) {
        help_for_all(shell);
        return 0;
    }
    command = find(shell, argv[1]);
    if (!command) {
        weir_shell_print(shell, "command %s not found\n", argv[1]);
        return -EINVAL;
    }
    print_usage(shell, command);
    if (command->help)
        weir_shell_print(shell, "\n%s\n", command->help);
    return 0;
}

/* ---- lines ---- */

/* Words between spaces: a new array whose strings point into @line. */
static char **split(char *line, int *ret_count)
{
    char **words = weir_new_array(char *, strlen(line) / 2 + 2), *save = NULL;
    int count = 0;

    for (char *word = strtok_r(line, " ", &save); word; word = strtok_r(NULL, " ", &save))
        words[count++] = word;
    *ret_count = count;
    return words;
}

static bool count_fits(struct weir_shell *shell, const struct weir_shell_command *command, int count)
{
    if (count >= command->least && (command->most < 0 || count <= command->most))
        return true;
    if (command->most < 0)
        weir_shell_complain(shell, "bad argument count %d to %s, expected at least %d arguments\n", count,
                            command->name, command->least);
    else if (command->least == command->most)
        weir_shell_complain(shell, "bad argument count %d to %s, expected %d arguments\n", count,
                            command->name, command->least);
    else
        weir_shell_complain(shell, "bad argument count %d to %s, expected between %d and %d arguments\n",
                            count, command->name, command->least, command->most);
    return false;
}

static bool may_run(struct weir_shell *shell, const struct weir_shell_command *command, int count)
{
    const unsigned changes = WEIR_PERM_WRITE | WEIR_PERM_RESIZE;

    if (!command->without_node && !shell->edge) {
        weir_shell_complain(shell, "no file open, try 'help open'\n");
        return false;
    }
    if (!count_fits(shell, command, count))
        return false;
    if ((command->perm & changes) && shell->edge->node->read_only) {
        weir_shell_complain(shell, "%s: Block node is read-only\n", shell->host->program);
        return false;
    }
    return true;
}

int weir_shell_run(struct weir_shell *shell, const char *line)
{
    weir_autofree char *copy = weir_strdup(line);
    const struct weir_shell_command *command;
    weir_autofree char **words = NULL;
    int count;

    words = split(copy, &count);
    if (!count)
        return 0;
    command = find(shell, words[0]);
    if (!command) {
        weir_shell_complain(shell, "command \"%s\" not found\n", words[0]);
        return -EINVAL;
    }
    if (!may_run(shell, command, count - 1))
        return -EINVAL;
    optind = 0;
    return command->run(shell, count, words);
}

unsigned weir_shell_perm(const struct weir_shell *shell, const char *line)
{
    weir_autofree char *copy = weir_strdup(line);
    const struct weir_shell_command *command;
    weir_autofree char **words = NULL;
    int count;

    words = split(copy, &count);
    command = count ? find(shell, words[0]) : NULL;
    return command ? command->perm : 0;
}

unsigned weir_shell_outstanding(const struct weir_shell *shell)
{
    return shell->outstanding;
}

void weir_shell_settle(struct weir_shell *shell)
{
    weir_mutex_lock(&shell->mutex);
    while (shell->outstanding)
        weir_co_queue_wait(&shell->changed, &shell->mutex);
    weir_mutex_unlock(&shell->mutex);
}

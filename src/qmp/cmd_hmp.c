/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: human-monitor-command, of which one command is known here: qemu-io, which runs a line of the I/O tool at a node.
 *
 * The command is a user of the node with the permissions that its line needs. Requests that go on after it (aio_write,
 * or one that takes longer than a command may) keep this user until they have ended; what they would print is lost.
 */
#include "base/alloc.h"
#include "co/co.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "qmp/cmd.h"
#include "qmp/shell.h"
#include <ctype.h>
#include <errno.h>
#include <string.h>

/* Longest time that one request is waited for. */
#define REQUEST_LIMIT_NS (10 * 1000000000LL)
/* The longest buffer of one: it is filled on the control loop (bytes). */
#define BUFFER_MAX (64u << 20)
/* What a command says beyond this is cut off (bytes). */
#define OUTPUT_MAX (1u << 20)

/* One command, and what goes on after it. */
struct session {
    struct weir_shell_host host;
    struct weir_shell *shell;
    struct weir_edge *edge;
    char *output;
    size_t length;
};

/* Sessions whose requests go on; control loop. */
static unsigned going_on;

/* Lines end as on a terminal: that is how clients of this command know them. */
static void take_output(void *arg, enum weir_shell_stream stream, const char *text)
{
    struct session *session = arg;
    size_t more = 2 * strlen(text);

    if (session->length + more > OUTPUT_MAX)
        return;
    session->output = weir_realloc(session->output, session->length + more + 1);
    for (; *text; text++) {
        if (*text == '\n')
            session->output[session->length++] = '\r';
        session->output[session->length++] = *text;
    }
    session->output[session->length] = 0;
}

static weir_co_fn void end_session(struct session *session)
{
    weir_shell_settle(session->shell);
    if (session->edge)
        weir_root_detach(session->edge, -1);
    weir_shell_free(session->shell);
    free(session->output);
    free(session);
}

static weir_co_fn void end_later(void *arg)
{
    end_session(arg);
    going_on--;
}

/* ---- the command line ---- */

/* The next word, which may stand in double quotes with \" \\ and \n inside; a new string, NULL at the end. */
static char *next_word(const char **line)
{
    const char *at = *line;
    bool quoted;
    size_t n = 0;
    char *word;

    while (isspace((unsigned char)*at))
        at++;
    if (!*at)
        return NULL;
    word = weir_alloc(strlen(at) + 1);
    quoted = *at == '"';
    at += quoted;
    while (*at && (quoted ? *at != '"' : !isspace((unsigned char)*at))) {
        if (quoted && *at == '\\' && at[1]) {
            at++;
            word[n++] = *at == 'n' ? '\n' : *at;
        } else {
            word[n++] = *at;
        }
        at++;
    }
    *line = at + (quoted && *at);
    word[n] = 0;
    return word;
}

struct words {
    char *command, *node, *line;
};

static void words_done(struct words *words)
{
    free(words->command);
    free(words->node);
    free(words->line);
}

static int take_words(const char *text, struct words *words, struct weir_error **err)
{
    weir_autofree char *more = NULL;

    words->command = next_word(&text);
    if (!words->command || strcmp(words->command, "qemu-io") != 0)
        return weir_error_set(err, -EINVAL, "The command '%s' is not known here; only 'qemu-io' is",
                              words->command ? words->command : "");
    words->node = next_word(&text);
    if (words->node && !strcmp(words->node, "-d")) {
        free(words->node);
        words->node = next_word(&text);
    }
    words->line = next_word(&text);
    more = next_word(&text);
    if (!words->line || more)
        return weir_error_set(err, -EINVAL,
                              "qemu-io expects a node and one command: qemu-io NODE \"COMMAND\"");
    return 0;
}

/* ---- running it ---- */

static weir_co_fn int attach(struct session *session, const struct words *words, struct weir_error **err)
{
    struct weir_node *node = weir_node_lookup(words->node, words->node, err);

    if (!node)
        return -ENOENT;
    return weir_root_attach(node, "root", weir_shell_perm(session->shell, words->line), WEIR_PERM_ALL,
                            &weir_qmp_root_ops, NULL, &session->edge, err);
}

static weir_co_fn void run(struct session *session, const struct words *words)
{
    WEIR_AUTO_ERROR err = NULL;

    if (attach(session, words, &err)) {
        weir_autofree char *text = weir_strdup_printf("Error: %s\n", weir_error_text(err));

        take_output(session, WEIR_SHELL_OUT, text);
        return;
    }
    weir_shell_set_edge(session->shell, session->edge, (struct weir_shell_mode){ .misalign = false });
    (void)weir_shell_run(session->shell, words->line); /* it has said what was wrong */
}

weir_co_fn int qmp_human_monitor_command(struct weir_qmp_context *ctx,
                                         const struct weir_q_human_monitor_command_args *args,
                                         json_t **ret_value, struct weir_error **err)
{
    struct words words = { NULL, NULL, NULL };
    struct session *session;
    int ret = take_words(args->command_line, &words, err);

    if (ret) {
        words_done(&words);
        return ret;
    }
    session = weir_new(struct session);
    session->host = (struct weir_shell_host){ .program = "qemu-io",
                                              .print = take_output,
                                              .arg = session,
                                              .limit_ns = REQUEST_LIMIT_NS,
                                              .bytes_max = BUFFER_MAX };
    session->shell = weir_shell_new(&session->host);
    run(session, &words);
    words_done(&words);
    *ret_value = json_string(session->output ? session->output : "");
    if (!*ret_value) /* a word of the line that is no text came back */
        *ret_value = json_string("");
    if (weir_shell_outstanding(session->shell)) {
        going_on++;
        weir_co_start(weir_loop_control(), end_later, session);
    } else {
        end_session(session);
    }
    return 0;
}

void weir_hmp_settle(int64_t deadline_ns)
{
    while (going_on && weir_loop_now(weir_loop_self()) < deadline_ns)
        weir_co_sleep(1000000);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands of the shell that look at a node or do something to it other than reading and writing.
 */
#include "qmp/shell_internal.h"

#include "base/schema_text.h"
#include "filter/blkdebug.h"
#include "graph/graph.h"
#include "sys/sys.h"

#define SECTOR 512u

/* ---- where data is ---- */

/* How far the answer for @offset reaches, within @length: whether there is data in the image itself. */
static weir_co_fn int next_run(struct weir_shell *shell, uint64_t offset, uint64_t length,
                               bool *ret_allocated, uint64_t *ret_length)
{
    uint64_t done = 0;

    while (done < length) {
        struct weir_status status;
        int ret = weir_root_status(shell->edge, offset + done, length - done, WEIR_REQUEST_DEEP, &status);
        bool allocated;

        if (ret)
            return ret;
        allocated = status.allocated && !status.depth;
        if (done && allocated != *ret_allocated)
            break;
        *ret_allocated = allocated;
        done += status.length;
    }
    *ret_length = done;
    return 0;
}

static weir_co_fn int run_map(struct weir_shell *shell, int argc, char **argv)
{
    uint64_t size = weir_node_size(shell->edge->node), length;

    for (uint64_t offset = 0; offset < size; offset += length) {
        char length_text[32], offset_text[32];
        bool allocated;
        int ret = next_run(shell, offset, size - offset, &allocated, &length);

        if (ret) {
            weir_shell_complain(shell, "%s: Failed to query allocation status: %s\n", shell->host->program,
                                strerror(-ret));
            return ret;
        }
        shell_human((double)length, length_text);
        shell_human((double)offset, offset_text);
        weir_shell_print(shell, "%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n",
                         length_text, length, allocated ? "   " : "not", offset_text, offset);
    }
    return 0;
}

static weir_co_fn int run_alloc(struct weir_shell *shell, int argc, char **argv)
{
    uint64_t size = weir_node_size(shell->edge->node), offset, count = SECTOR, found = 0, length;
    char offset_text[32];

    if (!weir_shell_size(shell, argv[1], &offset) || (argc > 2 && !weir_shell_size(shell, argv[2], &count)))
        return -EINVAL;
    count = offset < size ? WEIR_MIN(count, size - offset) : 0;
    for (uint64_t done = 0; done < count; done += length) {
        bool allocated = false;
        int ret = next_run(shell, offset + done, count - done, &allocated, &length);

        if (ret) {
            weir_shell_print(shell, "is_allocated failed: %s\n", strerror(-ret));
            return ret;
        }
        found += allocated ? length : 0;
    }
    shell_human((double)offset, offset_text);
    weir_shell_print(shell, "%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", found, count,
                     offset_text);
    return 0;
}

/* ---- size ---- */

static int run_length(struct weir_shell *shell, int argc, char **argv)
{
    char text[32];

    shell_human((double)weir_node_size(shell->edge->node), text);
    weir_shell_print(shell, "%s\n", text);
    return 0;
}

/* Takes the permission for the time of the change. */
static weir_co_fn int resize(struct weir_shell *shell, uint64_t size, struct weir_error **err)
{
    struct weir_edge *edge = shell->edge;
    unsigned perm = edge->perm, shared = edge->shared;
    int ret = weir_root_set_perm(edge, perm | WEIR_PERM_RESIZE, shared, err);

    if (!ret) {
        ret = weir_node_resize(edge, size, err);
        (void)!weir_root_set_perm(edge, perm, shared, NULL); /* less than before */
    }
    return ret;
}

static weir_co_fn int run_truncate(struct weir_shell *shell, int argc, char **argv)
{
    static const char *const modes[] = { "off", "metadata", "falloc", "full" };
    struct weir_error *err = NULL;
    unsigned mode = 0;
    uint64_t size;
    int c;

    while ((c = weir_shell_getopt(shell, argc, argv, "m:")) != -1) {
        if (c != 'm')
            return weir_shell_usage(shell, argv);
        for (mode = 0; mode < WEIR_ARRAY_SIZE(modes) && strcmp(modes[mode], optarg) != 0; mode++)
            ;
        if (mode == WEIR_ARRAY_SIZE(modes)) {
            (void)!weir_error_set(&err, -EINVAL, "Invalid preallocation mode '%s'", optarg);
            return weir_shell_fail(shell, err);
        }
    }
    if (optind >= argc)
        return weir_shell_usage(shell, argv);
    if (!weir_shell_size(shell, argv[optind], &size))
        return -EINVAL;
    if (mode)
        (void)!weir_error_set(&err, -ENOTSUP,
                              "Preallocation mode '%s' is not supported where the size changes", modes[mode]);
    if (err || resize(shell, size, &err))
        return weir_shell_fail(shell, err);
    return 0;
}

/* ---- flush, sleep ---- */

static weir_co_fn int run_flush(struct weir_shell *shell, int argc, char **argv)
{
    struct shell_op *op = shell_op_new(shell, WEIR_OP_FLUSH, 0, 0);

    op->quiet = true;
    op->call = "flush";
    return shell_op_run(op);
}

static weir_co_fn int run_sleep(struct weir_shell *shell, int argc, char **argv)
{
    int64_t ms;

    if (!weir_text_to_int(argv[1], &ms) || ms < 0 || ms > INT32_MAX) {
        weir_shell_print(shell, "%s is not a valid number\n", argv[1]);
        return -EINVAL;
    }
    if (shell->host->limit_ns && ms > shell->host->limit_ns / 1000000) {
        weir_shell_print(shell, "%s is longer than a command may take\n", argv[1]);
        return -EINVAL;
    }
    weir_co_sleep(ms * 1000000);
    return 0;
}

/* ---- breakpoints ---- */

/* Says that it failed, where it did. */
static int tell(struct weir_shell *shell, int ret, const char *what)
{
    if (ret)
        weir_shell_print(shell, "Could not %s: %s\n", what, strerror(-ret));
    return ret;
}

static int run_break(struct weir_shell *shell, int argc, char **argv)
{
    struct weir_node *node = weir_blkdebug_find(shell->edge->node);

    return tell(shell, node ? weir_blkdebug_break(node, argv[1], argv[2]) : -ENOTSUP, "set breakpoint");
}

static int run_remove_break(struct weir_shell *shell, int argc, char **argv)
{
    struct weir_node *node = weir_blkdebug_find(shell->edge->node);
    weir_autofree char *what = weir_strdup_printf("remove breakpoint %s", argv[1]);

    return tell(shell, node ? weir_blkdebug_remove(node, argv[1]) : -ENOTSUP, what);
}

static int run_resume(struct weir_shell *shell, int argc, char **argv)
{
    struct weir_node *node = weir_blkdebug_find(shell->edge->node);

    return tell(shell, node ? weir_blkdebug_resume(node, argv[1]) : -ENOTSUP, "resume request");
}

static weir_co_fn int run_wait_break(struct weir_shell *shell, int argc, char **argv)
{
    struct weir_node *node = weir_blkdebug_find(shell->edge->node);
    int64_t limit = shell->host->limit_ns;
    int ret = -ENOTSUP;

    if (node)
        ret = weir_blkdebug_wait(node, argv[1], limit ? weir_sys->clock_ns() + limit : -1);
    return tell(shell, ret, "wait for breakpoint");
}

#define READS WEIR_PERM_CONSISTENT_READ

const struct weir_shell_command shell_node_commands[] = {
    { "map", NULL, run_map, 0, 0, "", "prints the allocated areas of a file", NULL, READS, false },
    { "alloc", NULL, run_alloc, 1, 2, "offset [count]", "checks if offset is allocated in the file", NULL,
      READS, false },
    { "length", "l", run_length, 0, 0, NULL, "gets the length of the current file", NULL, 0, false },
    { "info", "i", shell_info, 0, 0, NULL, "prints information about the current file", NULL, 0, false },
    { "truncate", "t", run_truncate, 1, 3, "[-m prealloc_mode] off",
      "truncates the current file at the given offset", NULL, WEIR_PERM_WRITE | WEIR_PERM_RESIZE, false },
    { "flush", "f", run_flush, 0, 0, NULL, "flush all in-core file state to disk", NULL, 0, false },
    { "sleep", NULL, run_sleep, 1, 1, NULL, "waits for the given value in milliseconds", NULL, 0, true },
    { "break", NULL, run_break, 2, 2, "event tag",
      "sets a breakpoint on event and tags the stopped request as tag", NULL, 0, false },
    { "remove_break", NULL, run_remove_break, 1, 1, "tag", "remove a breakpoint by tag", NULL, 0, false },
    { "resume", NULL, run_resume, 1, 1, "tag", "resumes the request tagged as tag", NULL, 0, false },
    { "wait_break", NULL, run_wait_break, 1, 1, "tag", "waits for the suspension of a request", NULL, 0,
      false },
};
const unsigned shell_node_command_count = WEIR_ARRAY_SIZE(shell_node_commands);

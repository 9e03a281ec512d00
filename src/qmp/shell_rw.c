/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands of the shell that read and write.
 */
#include "qmp/shell_internal.h"

#include "sys/sys.h"
#include <fcntl.h>

#define DEFAULT_PATTERN 0xcd
#define SECTOR 512u

/* What the options of all of them say. */
struct rw_options {
    bool csv, quiet, dump, fua, zero, unmap, compress, no_fallback;
    int pattern; /* -1: not given */
    const char *source;
    bool has_start, has_length;
    uint64_t start, length; /* of the pattern */
};

/* Takes one option; false after a complaint. -p has been without a meaning for long, and scripts still give it. */
static bool take_option(struct weir_shell *shell, int c, char **argv, struct rw_options *options)
{
    switch (c) {
    case 'p':
        return true;
    case 'C':
        options->csv = true;
        return true;
    case 'q':
        options->quiet = true;
        return true;
    case 'v':
        options->dump = true;
        return true;
    case 'f':
        options->fua = true;
        return true;
    case 'z':
        options->zero = true;
        return true;
    case 'u':
        options->unmap = true;
        return true;
    case 'c':
        options->compress = true;
        return true;
    case 'n':
        options->no_fallback = true;
        return true;
    case 'P':
        options->pattern = shell_pattern(shell, optarg);
        return options->pattern >= 0;
    case 'i':
        weir_shell_print(shell, "%s: -i is not supported: invalid requests are not counted here\n", argv[0]);
        return false;
    default:
        (void)weir_shell_usage(shell, argv);
        return false;
    }
}

/* Ranges of one command: an offset, and one or more lengths. */
struct ranges {
    uint64_t offset, total;
    uint64_t *lengths;
    unsigned count;
};

static void ranges_done(struct ranges *ranges)
{
    free(ranges->lengths);
}

static bool take_ranges(struct weir_shell *shell, int count, char **words, struct ranges *ranges)
{
    ranges->lengths = weir_new_array(uint64_t, count);
    if (!weir_shell_size(shell, words[0], &ranges->offset))
        return false;
    for (int i = 1; i < count; i++) {
        uint64_t length;

        if (!weir_shell_size(shell, words[i], &length))
            return false;
        if (length > shell_bytes_max(shell) || ranges->total + length > shell_bytes_max(shell)) {
            weir_shell_print(shell, "Argument '%s' exceeds maximum size %u\n", words[i],
                             shell_bytes_max(shell));
            return false;
        }
        ranges->lengths[ranges->count++] = length;
        ranges->total += length;
    }
    return true;
}

static void set_report(struct shell_op *op, const struct rw_options *options, const char *verb,
                       const char *call)
{
    op->csv = options->csv;
    op->quiet = options->quiet;
    op->dump = options->dump;
    op->verb = verb;
    op->call = call;
}

static void set_write_flags(struct shell_op *op, const struct rw_options *options)
{
    if (options->fua || op->shell->mode.write_through)
        op->request.flags |= WEIR_REQUEST_FUA;
    if (options->unmap)
        op->request.flags |= WEIR_REQUEST_MAY_UNMAP;
    if (options->no_fallback)
        op->request.flags |= WEIR_REQUEST_NO_FALLBACK;
    if (options->compress && !options->zero)
        op->request.flags |= WEIR_REQUEST_COMPRESSED;
}

/* An offset and a length; false after a complaint. */
static bool take_range(struct weir_shell *shell, char **words, uint64_t *ret_offset, uint64_t *ret_length)
{
    return weir_shell_size(shell, words[0], ret_offset) && weir_shell_size(shell, words[1], ret_length);
}

/* ---- read ---- */

static bool take_read_option(struct weir_shell *shell, int c, char **argv, struct rw_options *options)
{
    switch (c) {
    case 's':
        options->has_start = true;
        return weir_shell_size(shell, optarg, &options->start);
    case 'l':
        options->has_length = true;
        return weir_shell_size(shell, optarg, &options->length);
    case 'b':
        weir_shell_print(shell, "read failed: %s\n", strerror(ENOTSUP));
        return false;
    default:
        return take_option(shell, c, argv, options);
    }
}

/* Which part must hold the pattern. */
static bool set_pattern(struct shell_op *op, const struct rw_options *options)
{
    uint64_t length = op->request.length;

    op->pattern = options->pattern;
    op->pattern_offset = options->start;
    op->pattern_length = options->has_length ? options->length : length - WEIR_MIN(options->start, length);
    if (options->start <= length && op->pattern_length <= length - options->start)
        return true;
    weir_shell_print(op->shell, "pattern verification range exceeds end of read data\n");
    return false;
}

static weir_co_fn int run_read(struct weir_shell *shell, int argc, char **argv)
{
    struct rw_options options = { .pattern = -1 };
    uint64_t offset, length;
    struct shell_op *op;
    int c;

    while ((c = weir_shell_getopt(shell, argc, argv, "bCl:pP:qs:v")) != -1) {
        if (!take_read_option(shell, c, argv, &options))
            return -EINVAL;
    }
    if (optind != argc - 2 || ((options.has_start || options.has_length) && options.pattern < 0))
        return weir_shell_usage(shell, argv);
    if (!take_range(shell, argv + optind, &offset, &length))
        return -EINVAL;
    if (length > shell_bytes_max(shell)) {
        weir_shell_print(shell, "length cannot exceed %u, given %s\n", shell_bytes_max(shell),
                         argv[optind + 1]);
        return -EINVAL;
    }
    op = shell_op_new(shell, WEIR_OP_READ, offset, length);
    set_report(op, &options, "read", "read");
    if ((options.pattern >= 0 && !set_pattern(op, &options)) || !shell_op_buffer(op, 0xab, NULL, 0)) {
        shell_op_free(op);
        return -EINVAL;
    }
    return shell_op_run(op);
}

/* What was prepared with @ret is run, or started; or given up. @op: may be NULL when it failed. */
static weir_co_fn int finish(struct shell_op *op, int ret, bool async)
{
    if (ret && op)
        shell_op_free(op);
    else if (!ret && async)
        shell_op_start(op);
    else if (!ret)
        ret = shell_op_run(op);
    return ret;
}

/* readv and aio_read: they differ in when they are answered. */
static weir_co_fn int read_ranges(struct weir_shell *shell, int argc, char **argv, const char *letters,
                                  bool async)
{
    struct rw_options options = { .pattern = -1 };
    struct ranges ranges = { 0 };
    struct shell_op *op = NULL;
    int c, ret = -EINVAL;

    while ((c = weir_shell_getopt(shell, argc, argv, letters)) != -1) {
        if (!take_option(shell, c, argv, &options))
            return -EINVAL;
    }
    if (optind > argc - 2)
        return weir_shell_usage(shell, argv);
    if (take_ranges(shell, argc - optind, argv + optind, &ranges)) {
        op = shell_op_new(shell, WEIR_OP_READ, ranges.offset, ranges.total);
        set_report(op, &options, "read", "readv");
        ret = (options.pattern < 0 || set_pattern(op, &options)) &&
                      shell_op_buffer(op, 0xab, ranges.lengths, ranges.count)
                  ? 0
                  : -EINVAL;
    }
    ranges_done(&ranges);
    return finish(op, ret, async);
}

static weir_co_fn int run_readv(struct weir_shell *shell, int argc, char **argv)
{
    return read_ranges(shell, argc, argv, "CP:qv", false);
}

static weir_co_fn int run_aio_read(struct weir_shell *shell, int argc, char **argv)
{
    return read_ranges(shell, argc, argv, "CP:iqv", true);
}

/* ---- write ---- */

struct source {
    const char *path;
    char *data; /* as many bytes as are written; the file over and over */
    uint64_t length;
};

static int read_source(void *arg)
{
    struct source *source = arg;
    int fd = weir_sys->file.open(source->path, O_RDONLY, 0);
    uint64_t got = 0;
    ssize_t piece = 1;

    if (fd < 0)
        return fd;
    while (piece > 0 && got < source->length) {
        piece = weir_sys->file.pread(fd, source->data + got, source->length - got, got);
        got += piece > 0 ? (uint64_t)piece : 0;
    }
    weir_sys->file.close(fd);
    if (piece < 0)
        return (int)piece;
    if (!got && source->length)
        return -ENODATA;
    for (uint64_t at = got; at < source->length; at++)
        source->data[at] = source->data[at - got];
    return 0;
}

static weir_co_fn int fill_from_file(struct shell_op *op, const char *path)
{
    struct source source = { path, op->data, op->request.length };
    int ret = weir_co_work(read_source, &source);

    if (ret == -ENODATA)
        weir_shell_complain(op->shell, "%s: file is empty\n", path);
    else if (ret)
        weir_shell_complain(op->shell, "%s: %s\n", path, strerror(-ret));
    return ret;
}

static bool aligned(struct weir_shell *shell, const char *what, const char *text, uint64_t value)
{
    if (!(value % SECTOR))
        return true;
    weir_shell_print(shell, "%s is not a sector-aligned value for '%s'\n", text, what);
    return false;
}

/* Options that exclude or need each other; false after a complaint. */
static bool write_options_fit(struct weir_shell *shell, const struct rw_options *options)
{
    const char *wrong = NULL;

    if (options->fua && options->compress)
        wrong = "-f and -b or -c cannot be specified at the same time";
    else if (options->no_fallback && !options->zero)
        wrong = "-n requires -z to be specified";
    else if (options->unmap && !options->zero)
        wrong = "-u requires -z to be specified";
    else if (options->zero + (options->pattern >= 0) + (options->source != NULL) > 1)
        wrong = "Only one of -z, -P, and -s can be specified at the same time";
    if (wrong)
        weir_shell_print(shell, "%s\n", wrong);
    return !wrong;
}

static bool can_compress(const struct weir_shell *shell)
{
    struct weir_node *node = weir_node_skip_filters(shell->edge->node);

    return node && node->driver->encode;
}

static bool write_range_fits(struct weir_shell *shell, const struct rw_options *options, char **words,
                             uint64_t offset, uint64_t length)
{
    if (length > shell_bytes_max(shell) && !options->no_fallback) {
        weir_shell_print(shell, "length cannot exceed %u without -n, given %s\n", shell_bytes_max(shell),
                         words[1]);
        return false;
    }
    return !options->compress ||
           (aligned(shell, "offset", words[0], offset) && aligned(shell, "count", words[1], length));
}

static weir_co_fn int write_range(struct weir_shell *shell, const struct rw_options *options, uint64_t offset,
                                  uint64_t length)
{
    struct shell_op *op = shell_op_new(shell, options->zero ? WEIR_OP_ZERO : WEIR_OP_WRITE, offset, length);
    int fill = options->pattern >= 0 ? options->pattern : DEFAULT_PATTERN, ret = 0;

    set_report(op, options, "wrote", "write");
    set_write_flags(op, options);
    if (!options->zero && !shell_op_buffer(op, fill, NULL, 0))
        ret = -ENOMEM;
    if (!ret && options->source)
        ret = fill_from_file(op, options->source);
    if (ret) {
        shell_op_free(op);
        return ret;
    }
    return shell_op_run(op);
}

static weir_co_fn int run_write(struct weir_shell *shell, int argc, char **argv)
{
    struct rw_options options = { .pattern = -1 };
    bool vm_state = false;
    uint64_t offset, length;
    int c;

    while ((c = weir_shell_getopt(shell, argc, argv, "bcCfnpP:qs:uz")) != -1) {
        if (c == 'b')
            vm_state = true;
        else if (c == 's')
            options.source = optarg;
        else if (!take_option(shell, c, argv, &options))
            return -EINVAL;
    }
    if (optind != argc - 2)
        return weir_shell_usage(shell, argv);
    if (vm_state && options.zero) {
        weir_shell_print(shell, "-b and -z cannot be specified at the same time\n");
        return -EINVAL;
    }
    if (!write_options_fit(shell, &options) || !take_range(shell, argv + optind, &offset, &length) ||
        !write_range_fits(shell, &options, argv + optind, offset, length))
        return -EINVAL;
    if (vm_state || (options.compress && !options.zero && !can_compress(shell))) {
        weir_shell_print(shell, "write failed: %s\n", strerror(ENOTSUP));
        return -ENOTSUP;
    }
    return write_range(shell, &options, offset, length);
}

/* writev and aio_write. */
static weir_co_fn int write_ranges(struct weir_shell *shell, int argc, char **argv, const char *letters,
                                   bool async)
{
    struct rw_options options = { .pattern = -1 };
    struct ranges ranges = { 0 };
    struct shell_op *op = NULL;
    int c, ret = -EINVAL;

    while ((c = weir_shell_getopt(shell, argc, argv, letters)) != -1) {
        if (!take_option(shell, c, argv, &options))
            return -EINVAL;
    }
    if (optind > argc - 2)
        return weir_shell_usage(shell, argv);
    if (options.zero && optind != argc - 2) {
        weir_shell_print(shell, "-z supports only a single length parameter\n");
        return -EINVAL;
    }
    if (options.zero)
        options.pattern = -1; /* of no use then, and never refused here */
    if (!write_options_fit(shell, &options))
        return -EINVAL;
    if (take_ranges(shell, argc - optind, argv + optind, &ranges)) {
        op = shell_op_new(shell, options.zero ? WEIR_OP_ZERO : WEIR_OP_WRITE, ranges.offset, ranges.total);
        set_report(op, &options, "wrote", async ? "aio_write" : "writev");
        set_write_flags(op, &options);
        ret = options.zero || shell_op_buffer(op, options.pattern >= 0 ? options.pattern : DEFAULT_PATTERN,
                                              ranges.lengths, ranges.count)
                  ? 0
                  : -ENOMEM;
    }
    ranges_done(&ranges);
    return finish(op, ret, async);
}

static weir_co_fn int run_writev(struct weir_shell *shell, int argc, char **argv)
{
    return write_ranges(shell, argc, argv, "CfP:q", false);
}

static weir_co_fn int run_aio_write(struct weir_shell *shell, int argc, char **argv)
{
    return write_ranges(shell, argc, argv, "CfiP:quz", true);
}

/* ---- discard ---- */

static weir_co_fn int run_discard(struct weir_shell *shell, int argc, char **argv)
{
    struct rw_options options = { .pattern = -1 };
    uint64_t offset, length;
    struct shell_op *op;
    int c;

    while ((c = weir_shell_getopt(shell, argc, argv, "Cq")) != -1) {
        if (!take_option(shell, c, argv, &options))
            return -EINVAL;
    }
    if (optind != argc - 2)
        return weir_shell_usage(shell, argv);
    if (!take_range(shell, argv + optind, &offset, &length))
        return -EINVAL;
    if (length > shell_bytes_max(shell)) {
        weir_shell_print(shell, "length cannot exceed %u, given %s\n", shell_bytes_max(shell),
                         argv[optind + 1]);
        return -EINVAL;
    }
    op = shell_op_new(shell, WEIR_OP_DISCARD, offset, length);
    set_report(op, &options, "discard", "discard");
    return shell_op_run(op);
}

static int run_aio_flush(struct weir_shell *shell, int argc, char **argv);

#define READS WEIR_PERM_CONSISTENT_READ
#define WRITES WEIR_PERM_WRITE
#define REPORT_HELP " -C  statistics that a program can read\n -q  no statistics\n"

const struct weir_shell_command shell_rw_commands[] = {
    { "read", "r", run_read, 2, -1, "[-abCqv] [-P pattern [-s off] [-l len]] off len",
      "reads a number of bytes at a specified offset",
      REPORT_HELP " -v  shows what was read\n -P  a byte that all of it must be\n"
                  " -s  where in the buffer that begins\n -l  for how many bytes it holds\n"
                  " -b  refused: there is no VM state\n -p  does nothing",
      READS, false },
    { "readv", "rv", run_readv, 2, -1, "[-Cqv] [-P pattern] off len [len..]",
      "reads a number of bytes at a specified offset",
      "Into a buffer for each length, by one request.\n" REPORT_HELP
      " -v  shows what was read\n -P  a byte that all of it must be",
      READS, false },
    { "aio_read", NULL, run_aio_read, 2, -1, "[-Ciqv] [-P pattern] off len [len..]",
      "asynchronously reads a number of bytes",
      "Goes on beside the next commands, and reports when it ends; aio_flush waits for it.\n" REPORT_HELP
      " -v  shows what was read\n -P  a byte that all of it must be\n -i  refused",
      READS, false },
    { "write", "w", run_write, 2, -1, "[-bcCfnquz] [-P pattern | -s source_file] off len",
      "writes a number of bytes at a specified offset",
      REPORT_HELP " -P  the byte that is written (0xcd)\n -s  a file whose bytes are written, over and over\n"
                  " -z  writes zeroes without a buffer\n -u  with -z: may give up the space\n"
                  " -n  with -z: fails where that is not cheap\n -c  compressed\n"
                  " -f  answered when it is durable\n -b  refused: there is no VM state\n -p  does nothing",
      WRITES, false },
    { "writev", "wv", run_writev, 2, -1, "[-Cfq] [-P pattern] off len [len..]",
      "writes a number of bytes at a specified offset",
      "From a buffer for each length, by one request.\n" REPORT_HELP
      " -P  the byte that is written (0xcd)\n -f  answered when it is durable",
      WRITES, false },
    { "aio_write", NULL, run_aio_write, 2, -1, "[-Cfiquz] [-P pattern] off len [len..]",
      "asynchronously writes a number of bytes",
      "Goes on beside the next commands, and reports when it ends; aio_flush waits for it.\n" REPORT_HELP
      " -P  the byte that is written (0xcd)\n -z  zeroes\n -u  with -z: may give up the space\n"
      " -f  answered when it is durable\n -i  refused",
      WRITES, false },
    { "aio_flush", NULL, run_aio_flush, 0, 0, NULL, "completes all outstanding aio requests", NULL, 0,
      false },
    { "discard", "d", run_discard, 2, -1, "[-Cq] off len", "discards a number of bytes at a specified offset",
      REPORT_HELP, WRITES, false },
};
const unsigned shell_rw_command_count = WEIR_ARRAY_SIZE(shell_rw_commands);

static weir_co_fn int run_aio_flush(struct weir_shell *shell, int argc, char **argv)
{
    weir_shell_settle(shell);
    return 0;
}

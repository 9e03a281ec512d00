/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request of the shell. It owns its buffer and a reference to the edge, so that whoever waits for it can give up:
 * it then ends alone.
 */
#include "qmp/shell_internal.h"

#include "sys/sys.h"

#define BUFFER_ALIGN 4096u
#define MISALIGN 16u /* bytes, with -m */

struct shell_op *shell_op_new(struct weir_shell *shell, enum weir_op op, uint64_t offset, uint64_t length)
{
    struct shell_op *new_op = weir_new(struct shell_op);

    new_op->shell = shell;
    new_op->edge = weir_edge_ref(shell->edge);
    new_op->request = weir_request_make(op, offset, length, NULL, 0, 0);
    new_op->pattern = -1;
    return new_op;
}

bool shell_op_buffer(struct shell_op *op, int fill, const uint64_t *lengths, unsigned count)
{
    uint64_t length = op->request.length, at = 0;
    uint64_t skip = op->shell->mode.misalign ? MISALIGN : 0;

    op->memory = weir_try_alloc(WEIR_MAX(length + skip, (uint64_t)1), BUFFER_ALIGN);
    if (!op->memory) {
        weir_shell_print(op->shell, "%s failed: %s\n", op->call, strerror(ENOMEM));
        return false;
    }
    op->data = op->memory + skip;
    memset(op->data, fill, length);
    op->iov = weir_new_array(struct iovec, WEIR_MAX(count, 1u));
    op->iov[0] = (struct iovec){ op->data, length };
    for (unsigned i = 0; i < count; at += lengths[i++])
        op->iov[i] = (struct iovec){ op->data + at, lengths[i] };
    op->request.iov = op->iov;
    op->request.iovcnt = WEIR_MAX(count, 1u);
    return true;
}

void shell_op_free(struct shell_op *op)
{
    weir_edge_unref(op->edge);
    free(op->memory);
    free(op->iov);
    free(op);
}

/* Users of this tool know one error for what lies beyond the end. */
static bool beyond_end(const struct shell_op *op)
{
    uint64_t size = weir_node_size(op->edge->node);

    return op->request.op != WEIR_OP_FLUSH &&
           (op->request.offset > size || op->request.length > size - op->request.offset);
}

static int verify(struct shell_op *op)
{
    const char *data = op->data + op->pattern_offset;

    for (uint64_t i = 0; i < op->pattern_length; i++) {
        if ((unsigned char)data[i] == op->pattern)
            continue;
        weir_shell_print(op->shell, "Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
                         op->request.offset + op->pattern_offset, op->pattern_length);
        return -EINVAL;
    }
    return 0;
}

/* What the user is told; 0 or -errno of the command. */
static int report(struct shell_op *op)
{
    int ret = 0;

    if (op->result) {
        weir_shell_print(op->shell, "%s failed: %s\n", op->call, strerror(-op->result));
        return op->result;
    }
    if (op->request.op == WEIR_OP_READ && op->pattern >= 0)
        ret = verify(op);
    if (op->quiet)
        return ret;
    if (op->dump)
        shell_dump(op->shell, op->data, op->request.offset, op->request.length);
    shell_report(op->shell, op, op->end_ns - op->start_ns);
    return ret;
}

static weir_co_fn void run(void *arg)
{
    struct shell_op *op = arg;
    struct weir_shell *shell = op->shell;
    bool alone;

    op->start_ns = weir_sys->clock_ns();
    op->result = beyond_end(op) ? -EIO : weir_root_io(op->edge, &op->request);
    op->end_ns = weir_sys->clock_ns();
    if (op->report_alone && !op->left_behind)
        (void)report(op);
    weir_mutex_lock(&shell->mutex);
    op->done = true;
    alone = op->report_alone || op->left_behind;
    if (alone) {
        shell_op_free(op);
        shell->outstanding--;
    }
    weir_co_queue_wake_all(&shell->changed);
    weir_mutex_unlock(&shell->mutex);
}

void shell_op_start(struct shell_op *op)
{
    op->report_alone = true;
    op->shell->outstanding++;
    weir_co_run(run, op);
}

int shell_op_run(struct shell_op *op)
{
    struct weir_shell *shell = op->shell;
    int64_t limit = shell->host->limit_ns;
    int64_t deadline = limit ? weir_sys->clock_ns() + limit : -1;
    bool done;
    int ret = 0;

    weir_co_run(run, op);
    weir_mutex_lock(&shell->mutex);
    while (!op->done && !ret)
        ret = weir_co_queue_wait_until(&shell->changed, &shell->mutex, deadline);
    done = op->done;
    if (!done) {
        op->left_behind = true;
        shell->outstanding++;
        weir_shell_print(shell, "%s goes on: it was not done within %" PRId64 " s\n", op->call,
                         limit / 1000000000);
    }
    weir_mutex_unlock(&shell->mutex);
    if (!done)
        return -ETIMEDOUT;
    ret = report(op);
    shell_op_free(op);
    return ret;
}

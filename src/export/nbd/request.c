/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One request: from the client's command to a request of the core, and from its result to the answer.
 *
 * Reads, changes and flushes go in batches without a coroutine. Block status and cache need several steps and run
 * in one of their own.
 */
#include "base/alloc.h"
#include "export/nbd/internal.h"
#include "io/io.h"
#include <errno.h>

#define FILE_NAME_MAX 256
#define CACHE_CHUNK ((uint64_t)1 << 20) /* bytes that CACHE reads at a time */
#define STATUS_STEPS 64u                /* steps of BLOCK_STATUS before others get their turn */

/* Bytes that the request holds in memory. */
static uint64_t weight(const struct weir_nbd_command *command)
{
    bool data = command->type == NBD_CMD_READ || command->type == NBD_CMD_WRITE;

    return data && !command->error ? command->length : 0;
}

struct weir_nbd_request *weir_nbd_request_new(struct weir_nbd_connection *connection,
                                              const struct weir_nbd_command *command)
{
    struct weir_nbd_request *request = STAILQ_FIRST(&connection->idle);

    if (request)
        STAILQ_REMOVE_HEAD(&connection->idle, link);
    else
        request = weir_new(struct weir_nbd_request);
    request->connection = connection;
    request->command = *command;
    request->buffer = command->buffer;
    connection->in_flight++;
    connection->unanswered++;
    connection->bytes += weight(command);
    connection->requests++;
    return request;
}

void weir_nbd_request_free(struct weir_nbd_request *request)
{
    struct weir_nbd_connection *connection = request->connection;

    weir_buffer_unref(weir_steal(&request->buffer));
    connection->in_flight--;
    connection->bytes -= weight(&request->command);
    STAILQ_INSERT_HEAD(&connection->idle, request, link);
}

/* ---- answers ---- */

static void answer(struct weir_nbd_request *request)
{
    struct weir_nbd_connection *connection = request->connection;

    connection->unanswered--;
    STAILQ_INSERT_TAIL(&connection->answered, request, link);
    if (!connection->in_turn)
        weir_nbd_queue_turn(connection);
}

static void answer_error(struct weir_nbd_request *request, int error, const char *message)
{
    struct weir_nbd_connection *connection = request->connection;
    const struct weir_nbd_command *command = &request->command;

    if (!connection->failed++) {
        char file[FILE_NAME_MAX];

        weir_export_log("nbd: %s: export '%s' (%s): %s of %u bytes at %llu: %s", connection->peer,
                        connection->export->id, weir_export_file(connection->export, file, sizeof(file)),
                        weir_nbd_command_name(command->type), command->length,
                        (unsigned long long)command->offset, message);
    }
    weir_nbd_reply_error(&request->reply, command, connection->rules.structured, error, message);
    answer(request);
}

/* -errno as a person knows it: static text. */
static const char *describe(int error)
{
    const char *text = strerrordesc_np(-error);

    if (error == -ESTALE)
        return "another process has changed the file: it is shorter than it was";
    return text ? text : "Unknown error";
}

static void answer_result(struct weir_nbd_request *request, int result)
{
    /* What was written is of no use any more; the receive buffer may be waiting for it. */
    if (request->command.type == NBD_CMD_WRITE)
        weir_buffer_unref(weir_steal(&request->buffer));
    if (weir_unlikely(result < 0)) {
        answer_error(request, result, describe(result));
        return;
    }
    weir_nbd_reply_success(&request->reply, &request->command, request->connection->rules.structured,
                           request->buffer ? request->buffer->data : NULL);
    answer(request);
}

static void done(struct weir_request *request, int result)
{
    answer_result(weir_container_of(request, struct weir_nbd_request, request), result);
}

/* A trim that shall be durable: not every driver can do that in one step. */
static void done_then_flush(struct weir_request *request, int result)
{
    struct weir_nbd_request *own = weir_container_of(request, struct weir_nbd_request, request);

    if (result < 0) {
        done(request, result);
        return;
    }
    *request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
    request->done = done;
    weir_root_batch(own->connection->edge, &request, 1);
}

/* ---- block status ---- */

static uint32_t state_of(const struct weir_status *status)
{
    return (status->data ? 0 : NBD_STATE_HOLE) | (status->zero ? NBD_STATE_ZERO : 0);
}

/* Writes descriptors of 8 bytes to @out, at most @max; returns how many, or the error when there is none. */
static weir_co_fn int collect_status(struct weir_nbd_request *request, uint8_t *out, unsigned max)
{
    uint64_t offset = request->command.offset, end = offset + request->command.length;
    uint32_t state = 0, length = 0;
    unsigned count = 0;

    for (unsigned step = 1; offset < end; step++) {
        struct weir_status status;
        int ret =
            weir_root_status(request->connection->edge, offset, end - offset, WEIR_REQUEST_DEEP, &status);

        if (ret < 0 && !count)
            return ret;
        if (ret < 0)
            break; /* the client asks again, from there on */
        status.length = WEIR_MIN(status.length, end - offset);
        if (!count || state_of(&status) != state) {
            if (count == max)
                break;
            state = state_of(&status);
            length = 0;
            count++;
        }
        length += (uint32_t)status.length;
        weir_nbd_put32(out + 8 * (size_t)(count - 1), length);
        weir_nbd_put32(out + 8 * (size_t)(count - 1) + 4, state);
        offset += status.length;
        if (step % STATUS_STEPS == 0)
            weir_co_pause();
    }
    return (int)count;
}

static weir_co_fn void run_status(void *arg)
{
    struct weir_nbd_request *request = arg;
    bool one = request->command.flags & NBD_CMD_FLAG_REQ_ONE;
    int ret = -ENOMEM;

    request->buffer = weir_buffer_new(8ull * WEIR_NBD_EXTENTS_MAX);
    if (request->buffer)
        ret = collect_status(request, request->buffer->data, one ? 1 : WEIR_NBD_EXTENTS_MAX);
    if (ret < 0) {
        answer_error(request, ret, describe(ret));
        return;
    }
    weir_nbd_reply_status(&request->reply, &request->command, request->buffer->data, (unsigned)ret);
    answer(request);
}

/* ---- cache ---- */

/* Reads the range and forgets it: it is then as near as it can be brought. */
static weir_co_fn void run_cache(void *arg)
{
    struct weir_nbd_request *request = arg;
    uint64_t offset = request->command.offset, end = offset + request->command.length;
    int ret = 0;

    request->buffer = weir_buffer_new(WEIR_MIN(CACHE_CHUNK, WEIR_MAX(end - offset, (uint64_t)1)));
    if (!request->buffer)
        ret = -ENOMEM;
    while (ret == 0 && offset < end && !atomic_load(&request->connection->dropped)) {
        uint64_t length = WEIR_MIN(CACHE_CHUNK, end - offset);
        struct iovec iov = { request->buffer->data, length };
        struct weir_request read = weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, 0);

        read.buffer = request->buffer;
        ret = weir_root_io(request->connection->edge, &read);
        offset += length;
        weir_co_pause();
    }
    answer_result(request, ret);
}

/* ---- to the core ---- */

static unsigned durable(const struct weir_nbd_request *request)
{
    bool fua = (request->command.flags & NBD_CMD_FLAG_FUA) || request->connection->export->writethrough;

    return fua ? WEIR_REQUEST_FUA : 0;
}

static bool prepare_read(struct weir_nbd_request *request)
{
    const struct weir_nbd_command *command = &request->command;

    if (!command->length) {
        answer_result(request, 0);
        return false;
    }
    request->buffer = weir_buffer_new(command->length);
    if (!request->buffer) {
        answer_error(request, -ENOMEM, describe(-ENOMEM));
        return false;
    }
    request->iov = (struct iovec){ request->buffer->data, command->length };
    request->request = weir_request_make(WEIR_OP_READ, command->offset, command->length, &request->iov, 1, 0);
    request->request.buffer = request->buffer;
    return true;
}

static bool prepare_write(struct weir_nbd_request *request)
{
    const struct weir_nbd_command *command = &request->command;

    request->iov = (struct iovec){ command->payload, command->length };
    request->request = weir_request_make(WEIR_OP_WRITE, command->offset, command->length, &request->iov, 1,
                                         durable(request));
    request->request.buffer = request->buffer;
    return true;
}

static bool prepare_zero(struct weir_nbd_request *request)
{
    const struct weir_nbd_command *command = &request->command;
    unsigned flags = durable(request);

    if (!(command->flags & NBD_CMD_FLAG_NO_HOLE))
        flags |= WEIR_REQUEST_MAY_UNMAP;
    if (command->flags & NBD_CMD_FLAG_FAST_ZERO)
        flags |= WEIR_REQUEST_NO_FALLBACK;
    request->request = weir_request_make(WEIR_OP_ZERO, command->offset, command->length, NULL, 0, flags);
    return true;
}

bool weir_nbd_request_prepare(struct weir_nbd_request *request)
{
    const struct weir_nbd_command *command = &request->command;
    bool batched;

    if (weir_unlikely(command->error)) {
        answer_error(request, command->error, command->message);
        return false;
    }
    switch (command->type) {
    case NBD_CMD_READ:
        batched = prepare_read(request);
        break;
    case NBD_CMD_WRITE:
        batched = prepare_write(request);
        break;
    case NBD_CMD_WRITE_ZEROES:
        batched = prepare_zero(request);
        break;
    case NBD_CMD_TRIM:
        request->request = weir_request_make(WEIR_OP_DISCARD, command->offset, command->length, NULL, 0, 0);
        request->request.done = durable(request) ? done_then_flush : done;
        return true;
    case NBD_CMD_FLUSH:
        request->request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);
        batched = true;
        break;
    case NBD_CMD_CACHE:
        weir_co_run(run_cache, request);
        return false;
    default:
        WEIR_ASSERT(command->type == NBD_CMD_BLOCK_STATUS); /* the parser refuses others */
        weir_co_run(run_status, request);
        return false;
    }
    request->request.done = done;
    return batched;
}

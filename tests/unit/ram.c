/* SPDX-License-Identifier: BSD-2-Clause */
#include "ram.h"

#include "base/iov.h"
#include "io/async.h"

static char log_text[16384], log_taken[16384];

static struct ram *state(struct weir_node *node)
{
    return weir_node_state(node);
}

static uint64_t number(const struct weir_node *node, const char *name, uint64_t otherwise)
{
    json_t *value = json_object_get(node->options, name);

    return value ? (uint64_t)json_integer_value(value) : otherwise;
}

static bool flag(const struct weir_node *node, const char *name)
{
    return json_is_true(json_object_get(node->options, name));
}

/* ---- the driver ---- */

static weir_co_fn int ram_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct ram *ram = state(node);
    uint64_t size = number(node, "size", MIB);

    ram->node = node;
    ram->data = weir_alloc(weir_align_up(size, 64 * KIB));
    memset(ram->data, 0, weir_align_up(size, 64 * KIB));
    ram->can_try = flag(node, "try");
    ram->can_zero = flag(node, "zero");
    ram->can_status = flag(node, "status");
    ram->error = -EIO;
    weir_mutex_init(&ram->mutex);
    weir_co_queue_init(&ram->queue);
    weir_node_set_size(node, size);
    return 0;
}

static void ram_close(struct weir_node *node)
{
    struct ram *ram = state(node);

    WEIR_ASSERT(!ram->held);
    weir_mutex_done(&ram->mutex);
    free(ram->data);
}

static void ram_limits(struct weir_node *node, struct weir_limits *limits)
{
    limits->request_align = (uint32_t)number(node, "align", 1);
    limits->memory_align = (uint32_t)number(node, "memory-align", 1);
    limits->iov_max = (uint32_t)number(node, "iov-max", 1024);
    limits->transfer_max = number(node, "max", 0);
    limits->zero_align = number(node, "zero-align", 0);
    limits->zero_max = number(node, "zero-max", 0);
    limits->discard_align = number(node, "discard-align", 0);
    limits->discard_max = number(node, "discard-max", 0);
    limits->write_flags = (flag(node, "fua") ? WEIR_REQUEST_FUA : 0) | WEIR_REQUEST_UNCHANGED;
    limits->zero_flags = (flag(node, "unmap") ? WEIR_REQUEST_MAY_UNMAP : 0) |
                         (flag(node, "quick") ? WEIR_REQUEST_NO_FALLBACK : 0);
    limits->apart = flag(node, "apart");
    state(node)->limits = *limits;
}

/* With the first letter of the node's name where several nodes want to be told apart. */
static void note(const struct weir_node *node, const struct weir_request *request)
{
    static const char *const names[] = { "read", "write", "zero", "discard", "flush", "status" };
    size_t used = strlen(log_text);
    char *at = log_text + used;
    size_t room = sizeof(log_text) - used;
    char tag[] = { node->name[0], ' ', '\0' };

    if (!flag(node, "tag"))
        tag[0] = '\0';
    if (request->op == WEIR_OP_FLUSH)
        (void)snprintf(at, room, "%s%sflush", used ? ", " : "", tag);
    else
        (void)snprintf(at, room, "%s%s%s %llu+%llu%s%s%s", used ? ", " : "", tag, names[request->op],
                       (unsigned long long)request->offset, (unsigned long long)request->length,
                       request->flags & WEIR_REQUEST_FUA ? " fua" : "",
                       request->flags & WEIR_REQUEST_MAY_UNMAP ? " unmap" : "",
                       request->flags & WEIR_REQUEST_UNCHANGED ? " unchanged" : "");
}

/* The core has promised all of this. */
static void check_limits(const struct ram *ram, const struct weir_request *request)
{
    const struct weir_limits *limits = &ram->limits;
    uint64_t mask = limits->request_align - 1, sum = 0;

    WEIR_ASSERT(request->length && !(request->offset & mask));
    WEIR_ASSERT(!(request->length & mask) || request->offset + request->length == weir_node_size(ram->node));
    if (request->op == WEIR_OP_ZERO) {
        WEIR_ASSERT(!limits->zero_max || request->length <= limits->zero_max);
        WEIR_ASSERT(!limits->zero_align || !(request->offset % limits->zero_align));
    } else if (request->op == WEIR_OP_DISCARD) {
        WEIR_ASSERT(!limits->discard_max || request->length <= limits->discard_max);
        WEIR_ASSERT(!limits->discard_align || !(request->offset % limits->discard_align));
    } else {
        WEIR_ASSERT(!limits->transfer_max || request->length <= limits->transfer_max);
        WEIR_ASSERT(request->iovcnt && request->iovcnt <= limits->iov_max);
        for (unsigned i = 0; i < request->iovcnt; i++) {
            WEIR_ASSERT(!((uintptr_t)request->iov[i].iov_base & (limits->memory_align - 1)));
            sum += request->iov[i].iov_len;
        }
        WEIR_ASSERT(sum == request->length);
    }
}

static bool fails(struct ram *ram, const struct weir_request *request)
{
    if (ram->fail_in[request->op] && !--ram->fail_in[request->op])
        return true;
    return request->op == WEIR_OP_WRITE && request->offset < ram->bad_offset + ram->bad_length &&
           ram->bad_offset < request->offset + request->length;
}

static int perform(struct ram *ram, const struct weir_request *request)
{
    char *at = ram->data + request->offset;

    if (fails(ram, request))
        return ram->error;
    switch (request->op) {
    case WEIR_OP_READ:
        weir_iov_from_buffer(request->iov, request->iovcnt, 0, at, request->length);
        return 0;
    case WEIR_OP_WRITE:
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, at, request->length);
        return 0;
    case WEIR_OP_ZERO:
    case WEIR_OP_DISCARD:
        if (!ram->can_zero)
            return -ENOTSUP;
        memset(at, 0, request->length);
        return 0;
    case WEIR_OP_FLUSH:
        ram->flushes++;
        return 0;
    case WEIR_OP_STATUS:
        if (!ram->can_status)
            return -ENOTSUP;
        if (ram->status.length)
            *request->status = ram->status;
        return 0;
    }
    return -EINVAL;
}

static weir_co_fn int ram_submit(struct weir_node *node, struct weir_request *request)
{
    struct ram *ram = state(node);

    note(node, request);
    if (request->op != WEIR_OP_FLUSH && request->op != WEIR_OP_STATUS)
        check_limits(ram, request);
    if (ram->hold & WEIR_OP_BIT(request->op)) {
        weir_mutex_lock(&ram->mutex);
        ram->held++;
        weir_co_queue_wait(&ram->queue, &ram->mutex);
        ram->held--;
        weir_mutex_unlock(&ram->mutex);
    }
    for (unsigned i = 0; i < ram->pauses; i++)
        weir_co_pause();
    return perform(ram, request);
}

static int ram_try_submit(struct weir_node *node, struct weir_request *request)
{
    struct ram *ram = state(node);

    if (!ram->can_try)
        return -EAGAIN;
    note(node, request);
    check_limits(ram, request);
    return perform(ram, request);
}

static const struct weir_driver ram_driver = {
    .name = "ram",
    .flags = WEIR_DRIVER_PROTOCOL,
    .state_size = sizeof(struct ram),
    .open = ram_open,
    .close = ram_close,
    .limits = ram_limits,
    .submit = ram_submit,
    .try_submit = ram_try_submit,
};

/* ---- a filter without wishes ---- */

static weir_co_fn int pass_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct weir_edge *file;
    int ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file",
                                   WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &file, err);

    if (!ret)
        weir_node_set_size(node, weir_node_size(file->node));
    return ret;
}

static const struct weir_driver pass_driver = {
    .name = "pass",
    .flags = WEIR_DRIVER_FILTER,
    .open = pass_open,
};

void ram_register(void)
{
    log_text[0] = '\0';
    weir_driver_register(&ram_driver);
    weir_driver_register(&pass_driver);
}

/* ---- for tests ---- */

struct ram *ram_of(const char *node_name)
{
    struct weir_node *node = weir_node_find(node_name);

    WEIR_ASSERT(node && node->driver == &ram_driver);
    return state(node);
}

const char *ram_log(struct ram *ram)
{
    (void)ram;
    memcpy(log_taken, log_text, sizeof(log_taken));
    log_text[0] = '\0';
    return log_taken;
}

void ram_expect(struct ram *ram, const char *text)
{
    const char *got = ram_log(ram);

    if (strcmp(got, text) != 0)
        (void)fprintf(stderr, "it was asked:  %s\nexpected:      %s\n", got, text ? text : "");
    WEIR_ASSERT(!strcmp(got, text));
}

void ram_let_go(struct ram *ram)
{
    WEIR_SCOPE_LOCK(&ram->mutex);
    weir_co_queue_wake_all(&ram->queue);
}

void ram_release(struct ram *ram)
{
    ram->hold = 0;
    ram_let_go(ram);
}

weir_co_fn void ram_wait_held(struct ram *ram, unsigned count)
{
    while (ram->held != count)
        weir_co_pause();
}

static weir_co_fn void run_task(void *arg)
{
    struct task *task = arg;

    task->result = weir_root_io(task->edge, &task->request);
    task->over = true;
}

static weir_co_fn void run_abandonable(void *arg)
{
    struct task *task = arg;

    task->result = weir_io_abandonable(task->edge, &task->request, task->deadline_ns);
    task->over = true;
}

static void prepare(struct task *task, struct weir_edge *edge, enum weir_op op, uint64_t offset,
                    uint64_t length, void *buffer)
{
    task->edge = edge;
    task->over = false;
    task->iov = (struct iovec){ buffer, length };
    task->request = weir_request_make(op, offset, length, buffer ? &task->iov : NULL, buffer ? 1 : 0, 0);
}

void task_start(struct task *task, struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length,
                void *buffer)
{
    prepare(task, edge, op, offset, length, buffer);
    weir_co_run(run_task, task);
}

void task_start_abandonable(struct task *task, struct weir_edge *edge, enum weir_op op, uint64_t offset,
                            uint64_t length, void *buffer, int64_t deadline_ns)
{
    prepare(task, edge, op, offset, length, buffer);
    task->deadline_ns = deadline_ns;
    weir_co_run(run_abandonable, task);
}

weir_co_fn int task_wait(struct task *task)
{
    while (!task->over)
        weir_co_pause();
    return task->result;
}

weir_co_fn void settle(void)
{
    for (unsigned i = 0; i < 64; i++)
        weir_co_pause();
}

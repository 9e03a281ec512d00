/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices of the embedding program: one root edge each.
 *
 * A request is one allocation that travels: from the caller's thread to the loop for I/O, through the core, to the
 * completion. The device counts those under way, from before the first until after the completion has returned;
 * close waits for the count to be zero.
 */
#include "weir/device.h"

#include "base/alloc.h"
#include "co/co.h"
#include "embed/embed.h"
#include "graph/graph.h"
#include "io/io.h"
#include "sys/latch.h"
#include <jansson.h>
#include <stdio.h>

struct weir_device {
    struct weir_edge *edge;
    struct weir_loop *loop;
    _Atomic uint64_t size;
    struct weir_mutex mutex;
    struct weir_co_queue idle;
    uint64_t under_way; /* mutex */
};

/* ---- opening and closing: coroutines of the control loop ---- */

static char *describe(struct weir_edge *edge)
{
    (void)edge;
    return weir_strdup("the embedding program");
}

static void resized(struct weir_edge *edge)
{
    struct weir_device *device = edge->root;

    atomic_store(&device->size, weir_node_size(edge->node));
}

static const struct weir_root_ops root_ops = { .kind = "block-backend",
                                               .describe = describe,
                                               .resized = resized };

struct opening {
    json_t *json;
    bool read_only;
    struct weir_device *device;
    struct weir_error *err;
};

static weir_co_fn int attach(struct opening *opening, struct weir_node *node)
{
    struct weir_device *device = weir_new(struct weir_device);
    unsigned perm = WEIR_PERM_CONSISTENT_READ | (opening->read_only ? 0 : WEIR_PERM_WRITE);
    unsigned shared = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE_UNCHANGED;
    int ret = weir_root_attach(node, "root", perm, opening->read_only ? WEIR_PERM_ALL : shared, &root_ops,
                               device, &device->edge, &opening->err);

    if (ret) {
        free(device);
        return ret;
    }
    device->loop = weir_embed_loop();
    atomic_init(&device->size, weir_node_size(node));
    weir_mutex_init(&device->mutex);
    weir_co_queue_init(&device->idle);
    weir_embed_count(1);
    opening->device = device;
    return 0;
}

static weir_co_fn int open_device(void *arg)
{
    struct opening *opening = arg;
    struct weir_node *node;
    int ret = weir_node_add(opening->json, false, &node, &opening->err);

    if (ret)
        return ret;
    ret = attach(opening, node);
    weir_node_unref(node); /* the edge holds it */
    return ret;
}

int weir_device_open(const char *json, unsigned flags, struct weir_device **ret_device, char *error,
                     size_t error_size)
{
    struct opening opening = { .read_only = flags & WEIR_DEVICE_READ_ONLY };
    json_error_t where;
    int ret;

    opening.json = json_loads(json, JSON_REJECT_DUPLICATES, &where);
    if (!opening.json)
        ret = weir_error_set(&opening.err, -EINVAL, "JSON parse error, %s", where.text);
    else if (!json_is_object(opening.json))
        ret = weir_error_set(&opening.err, -EINVAL, "A device is described by a JSON object");
    else if (flags & ~WEIR_DEVICE_READ_ONLY)
        ret = weir_error_set(&opening.err, -EINVAL, "Unknown flags");
    else
        ret = weir_embed_run(open_device, &opening);
    json_decref(opening.json);
    if (!ret)
        *ret_device = opening.device;
    else if (error && error_size)
        (void)snprintf(error, error_size, "%s",
                       opening.err ? weir_error_text(opening.err) : "The library is not ready for this");
    weir_error_free(opening.err);
    return ret;
}

static weir_co_fn int close_device(void *arg)
{
    struct weir_device *device = arg;

    weir_mutex_lock(&device->mutex);
    while (device->under_way)
        weir_co_queue_wait(&device->idle, &device->mutex);
    weir_mutex_unlock(&device->mutex);
    weir_root_detach(device->edge, -1);
    weir_mutex_done(&device->mutex);
    free(device);
    weir_embed_count(-1);
    return 0;
}

int weir_device_close(struct weir_device *device)
{
    return device ? weir_embed_run(close_device, device) : 0;
}

uint64_t weir_device_size(const struct weir_device *device)
{
    return atomic_load(&device->size);
}

/* ---- requests ---- */

struct device_request {
    struct weir_call call;
    struct weir_request request;
    struct iovec iov;
    struct weir_device *device;
    void (*done)(void *arg, int result);
    void *arg;
};

/* On the loop that issued. The completion belongs to the request: who closes the device waits for it too. */
static void request_done(struct weir_request *request, int result)
{
    struct device_request *one = weir_container_of(request, struct device_request, request);
    struct weir_device *device = one->device;

    one->done(one->arg, result);
    free(one);
    WEIR_SCOPE_LOCK(&device->mutex);
    if (!--device->under_way)
        weir_co_queue_wake_all(&device->idle);
}

static void request_start(struct weir_call *call)
{
    struct device_request *one = weir_container_of(call, struct device_request, call);
    struct weir_request *request = &one->request;

    weir_root_batch(one->device->edge, &request, 1);
}

static void issue(struct weir_device *device, const struct weir_request *request, void *buffer,
                  void (*done)(void *arg, int result), void *arg)
{
    struct device_request *one = weir_new(struct device_request);

    one->request = *request;
    one->request.done = request_done;
    if (buffer) {
        one->iov = (struct iovec){ buffer, request->length };
        one->request.iov = &one->iov;
        one->request.iovcnt = 1;
    }
    one->device = device;
    one->done = done;
    one->arg = arg;
    one->call.run = request_start;
    weir_mutex_lock(&device->mutex);
    device->under_way++;
    weir_mutex_unlock(&device->mutex);
    weir_loop_call(device->loop, &one->call);
}

/* The core's flags for ours; those that are not @allowed end the request at once. */
static bool translate(unsigned flags, unsigned allowed, unsigned *ret_flags)
{
    *ret_flags = (flags & WEIR_DEVICE_FUA ? WEIR_REQUEST_FUA : 0) |
                 (flags & WEIR_DEVICE_UNMAP ? WEIR_REQUEST_MAY_UNMAP : 0);
    return !(flags & ~allowed);
}

void weir_device_read(struct weir_device *device, uint64_t offset, uint64_t length, void *buffer,
                      void (*done)(void *arg, int result), void *arg)
{
    struct weir_request request = weir_request_make(WEIR_OP_READ, offset, length, NULL, 0, 0);

    issue(device, &request, buffer, done, arg);
}

void weir_device_write(struct weir_device *device, uint64_t offset, uint64_t length, const void *buffer,
                       unsigned flags, void (*done)(void *arg, int result), void *arg)
{
    struct weir_request request = weir_request_make(WEIR_OP_WRITE, offset, length, NULL, 0, 0);

    if (translate(flags, WEIR_DEVICE_FUA, &request.flags))
        issue(device, &request, (void *)(uintptr_t)buffer, done, arg);
    else
        done(arg, -EINVAL);
}

void weir_device_flush(struct weir_device *device, void (*done)(void *arg, int result), void *arg)
{
    struct weir_request request = weir_request_make(WEIR_OP_FLUSH, 0, 0, NULL, 0, 0);

    issue(device, &request, NULL, done, arg);
}

void weir_device_zero(struct weir_device *device, uint64_t offset, uint64_t length, unsigned flags,
                      void (*done)(void *arg, int result), void *arg)
{
    struct weir_request request = weir_request_make(WEIR_OP_ZERO, offset, length, NULL, 0, 0);

    if (translate(flags, WEIR_DEVICE_FUA | WEIR_DEVICE_UNMAP, &request.flags))
        issue(device, &request, NULL, done, arg);
    else
        done(arg, -EINVAL);
}

void weir_device_discard(struct weir_device *device, uint64_t offset, uint64_t length,
                         void (*done)(void *arg, int result), void *arg)
{
    struct weir_request request = weir_request_make(WEIR_OP_DISCARD, offset, length, NULL, 0, 0);

    issue(device, &request, NULL, done, arg);
}

/* ---- the same, waiting ---- */

struct waiting {
    struct weir_latch latch;
    int result;
};

static void wake(void *arg, int result)
{
    struct waiting *waiting = arg;

    waiting->result = result;
    weir_latch_open(&waiting->latch);
}

/* False on a thread of the library. */
static bool begin(struct waiting *waiting)
{
    if (weir_loop_self())
        return false;
    weir_latch_init(&waiting->latch);
    return true;
}

static int finish(struct waiting *waiting)
{
    weir_latch_wait(&waiting->latch);
    weir_latch_done(&waiting->latch);
    return waiting->result;
}

int weir_device_read_wait(struct weir_device *device, uint64_t offset, uint64_t length, void *buffer)
{
    struct waiting waiting;

    if (!begin(&waiting))
        return -EDEADLK;
    weir_device_read(device, offset, length, buffer, wake, &waiting);
    return finish(&waiting);
}

int weir_device_write_wait(struct weir_device *device, uint64_t offset, uint64_t length, const void *buffer,
                           unsigned flags)
{
    struct waiting waiting;

    if (!begin(&waiting))
        return -EDEADLK;
    weir_device_write(device, offset, length, buffer, flags, wake, &waiting);
    return finish(&waiting);
}

int weir_device_flush_wait(struct weir_device *device)
{
    struct waiting waiting;

    if (!begin(&waiting))
        return -EDEADLK;
    weir_device_flush(device, wake, &waiting);
    return finish(&waiting);
}

int weir_device_zero_wait(struct weir_device *device, uint64_t offset, uint64_t length, unsigned flags)
{
    struct waiting waiting;

    if (!begin(&waiting))
        return -EDEADLK;
    weir_device_zero(device, offset, length, flags, wake, &waiting);
    return finish(&waiting);
}

int weir_device_discard_wait(struct weir_device *device, uint64_t offset, uint64_t length)
{
    struct waiting waiting;

    if (!begin(&waiting))
        return -EDEADLK;
    weir_device_discard(device, offset, length, wake, &waiting);
    return finish(&waiting);
}

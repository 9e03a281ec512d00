/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many coroutines at one image, spread over two loops.
 *
 * Transfers of files that are in memory are done by the loop that asks, so one loop alone would be one processor:
 * the control loop, which has nothing else to do in a tool, and the default loop for data share the work.
 */
#include "tools/img.h"

#include "co/co.h"
#include "co/iothread.h"
#include "io/buffer.h"

struct workers {
    void (*run)(void *arg) weir_co_fn;
    void *arg;
    struct weir_mutex mutex;
    struct weir_co_queue ended;
    unsigned running;
};

static weir_co_fn void worker_main(void *arg)
{
    struct workers *workers = arg;

    workers->run(workers->arg);
    WEIR_SCOPE_LOCK(&workers->mutex);
    if (!--workers->running)
        weir_co_queue_wake_all(&workers->ended);
}

int img_workers(unsigned count, void (*run)(void *arg) weir_co_fn, void (*here)(void *arg) weir_co_fn,
                void *arg, struct weir_error **err)
{
    struct workers workers = { .run = run, .arg = arg, .running = count };
    struct weir_iothread *iothread = NULL;
    int ret;

    if (count > 1) {
        ret = weir_iothread_default(&iothread, err);
        if (ret)
            return ret;
    }
    weir_mutex_init(&workers.mutex);
    weir_co_queue_init(&workers.ended);
    for (unsigned i = 0; i < count; i++)
        weir_co_start(iothread && (here || i % 2) ? weir_iothread_loop(iothread) : weir_loop_control(),
                      worker_main, &workers);
    if (here)
        here(arg);
    weir_mutex_lock(&workers.mutex);
    while (workers.running)
        weir_co_queue_wait(&workers.ended, &workers.mutex);
    weir_mutex_unlock(&workers.mutex);
    weir_mutex_done(&workers.mutex);
    weir_iothread_unref(iothread);
    return 0;
}

int img_read(struct weir_edge *edge, uint64_t offset, uint64_t length, struct weir_buffer *buffer,
             uint64_t skip)
{
    struct iovec iov = { (char *)buffer->data + skip, length };
    struct weir_request request = weir_request_make(WEIR_OP_READ, offset, length, &iov, 1, 0);

    return weir_root_io(edge, &request);
}

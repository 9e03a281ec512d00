/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Threads and the pool of workers.
 *
 * All threads start with every signal blocked: signals are taken by one descriptor (real_process.c).
 *
 * The pool: one mutex guards the queue and the counts. Invariant: while fewer than the limit exist, there is an
 * idle worker for every queued piece of work (one that exists or one that is starting), so that a call which never
 * returns delays nobody; past the limit the queue is first in, first out. A worker without work for
 * WEIR_REAL_WORKER_IDLE_NS ends. Workers are detached: the end of the process does not wait for stuck ones
 * (real_worker.c).
 */
#include "sys/real.h"
#include "base/alloc.h"
#include <pthread.h>
#include <signal.h>
#include <time.h>

struct thread {
    pthread_t id;
    void (*run)(void *arg);
    void *arg;
    char name[16];
};

static void *thread_main(void *arg)
{
    struct thread *thread = arg;

    /* Again: ThreadSanitizer names a new thread after its maker, at a time of its own. */
    (void)pthread_setname_np(pthread_self(), thread->name);
    thread->run(thread->arg);
    return NULL;
}

/* pthread_create() with all signals blocked in the new thread. */
static int create(pthread_t *ret_id, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    int ret;

    (void)sigfillset(&all);
    WEIR_ASSERT(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    ret = pthread_create(ret_id, attributes, run, arg);
    WEIR_ASSERT(pthread_sigmask(SIG_SETMASK, &old, NULL) == 0);
    return -ret;
}

int weir_real_thread_start(const char *name, void (*run)(void *arg), void *arg, void **ret_thread)
{
    struct thread *thread = weir_new(struct thread);
    int ret;

    thread->run = run;
    thread->arg = arg;
    for (size_t i = 0; i < sizeof(thread->name) - 1 && name[i]; i++)
        thread->name[i] = name[i];
    ret = create(&thread->id, NULL, thread_main, thread);
    if (ret < 0) {
        free(thread);
        return ret;
    }
    /* Here and not in the thread: whoever looks after this call sees it. For people only. */
    (void)pthread_setname_np(thread->id, thread->name);
    *ret_thread = thread;
    return 0;
}

void weir_real_thread_join(void *handle)
{
    struct thread *thread = handle;

    WEIR_ASSERT(pthread_join(thread->id, NULL) == 0);
    free(thread);
}

void weir_real_thread_preempt(void)
{
    /* The kernel does that. */
}

/* ---- workers ---- */

enum { LINK_NEXT }; /* in weir_sys_work.backend */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct weir_sys_work *first, *last;
    unsigned queued, total;
    unsigned idle; /* waiting for work, woken ones that have not taken theirs and starting ones included */
    int64_t idle_ns;
} pool = {
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .wake = PTHREAD_COND_INITIALIZER,
    .idle_ns = WEIR_REAL_WORKER_IDLE_NS,
};

/* Under the lock. */
static struct weir_sys_work *take_work(void)
{
    struct weir_sys_work *work = pool.first;

    if (work) {
        pool.first = work->backend[LINK_NEXT];
        if (!pool.first)
            pool.last = NULL;
        pool.queued--;
    }
    return work;
}

/* Under the lock, which it gives up while it waits. NULL: nothing came for too long. */
static struct weir_sys_work *await_work(void)
{
    int64_t end_ns = weir_sys_real.clock_ns() + pool.idle_ns;
    struct timespec end = { .tv_sec = end_ns / 1000000000, .tv_nsec = end_ns % 1000000000 };
    int ret = 0;

    while (!pool.first && ret == 0) {
        ret = pthread_cond_clockwait(&pool.wake, &pool.lock, CLOCK_MONOTONIC, &end);
        WEIR_ASSERT(ret == 0 || ret == ETIMEDOUT);
    }
    return take_work();
}

static void worker_run(void)
{
    struct weir_sys_work *work;

    WEIR_ASSERT(pthread_mutex_lock(&pool.lock) == 0);
    while ((work = await_work())) {
        pool.idle--;
        WEIR_ASSERT(pthread_mutex_unlock(&pool.lock) == 0);
        work->run(work);
        work->done(work);
        WEIR_ASSERT(pthread_mutex_lock(&pool.lock) == 0);
        pool.idle++;
    }
    pool.idle--;
    pool.total--;
    WEIR_ASSERT(pthread_mutex_unlock(&pool.lock) == 0);
}

static void *worker_main(void *arg)
{
    (void)arg;
    (void)pthread_setname_np(pthread_self(), "weir-worker"); /* for people only */
    weir_real_run_apart(worker_run);
    return NULL;
}

/* Under the lock. */
static void add_worker(void)
{
    pthread_attr_t attributes;
    pthread_t id;
    int ret;

    WEIR_ASSERT(pthread_attr_init(&attributes) == 0);
    WEIR_ASSERT(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0);
    ret = create(&id, &attributes, worker_main, NULL);
    WEIR_ASSERT(pthread_attr_destroy(&attributes) == 0);
    if (ret == 0) {
        pool.total++;
        pool.idle++;
    }
    /* Work can wait for those that exist; where there is none nothing would ever happen again. */
    WEIR_ASSERT(pool.total > 0);
}

void weir_real_thread_work(struct weir_sys_work *work)
{
    WEIR_ASSERT(pthread_mutex_lock(&pool.lock) == 0);
    work->backend[LINK_NEXT] = NULL;
    if (pool.last)
        pool.last->backend[LINK_NEXT] = work;
    else
        pool.first = work;
    pool.last = work;
    pool.queued++;
    if (pool.queued > pool.idle && pool.total < WEIR_REAL_WORKERS_MAX)
        add_worker();
    WEIR_ASSERT(pthread_cond_signal(&pool.wake) == 0);
    WEIR_ASSERT(pthread_mutex_unlock(&pool.lock) == 0);
}

unsigned weir_real_workers(unsigned *ret_idle)
{
    unsigned total;

    WEIR_ASSERT(pthread_mutex_lock(&pool.lock) == 0);
    total = pool.total;
    *ret_idle = pool.idle;
    WEIR_ASSERT(pthread_mutex_unlock(&pool.lock) == 0);
    return total;
}

void weir_real_set_worker_idle(int64_t idle_ns)
{
    WEIR_ASSERT(pthread_mutex_lock(&pool.lock) == 0);
    pool.idle_ns = idle_ns;
    WEIR_ASSERT(pthread_mutex_unlock(&pool.lock) == 0);
}

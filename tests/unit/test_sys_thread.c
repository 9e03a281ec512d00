/* SPDX-License-Identifier: BSD-2-Clause */
/* Threads, workers and mutexes: stuck work delays nobody, past the limit it queues in order, idle workers go. */
#include "sys_temp.h"
#include "sys/mutex.h"
#include "sys/real.h"
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

static const struct weir_sys_thread_ops *const threads = &weir_sys_real.thread;

/* ---- threads ---- */

struct seen {
    char name[16];
    bool blocked;
};

static void look(void *arg)
{
    struct seen *seen = arg;
    sigset_t set;

    (void)pthread_getname_np(pthread_self(), seen->name, sizeof(seen->name));
    (void)pthread_sigmask(SIG_BLOCK, NULL, &set);
    seen->blocked = sigismember(&set, SIGTERM) && sigismember(&set, SIGINT);
}

static void starts_and_joins(void **state)
{
    struct seen seen = { .name = "" };
    sigset_t set;
    void *thread;

    assert_int_equal(threads->start("a-name-longer-than-it-may-be", look, &seen, &thread), 0);
    threads->join(thread);
    assert_string_equal(seen.name, "a-name-longer-t");
    assert_true(seen.blocked);
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &set), 0);
    assert_false(sigismember(&set, SIGTERM)); /* the caller keeps its own */
    threads->preempt();
}

/* ---- workers ---- */

struct job {
    struct weir_sys_work work;
    sem_t *gate;        /* run() waits there, unless NULL */
    sem_t *started;     /* run() has begun, unless NULL */
    sem_t *ended;       /* done() was called */
    atomic_uint *order; /* counts runs */
    unsigned position;  /* of this one */
};

static void wait_for(sem_t *semaphore)
{
    struct timespec end;

    WEIR_ASSERT(clock_gettime(CLOCK_REALTIME, &end) == 0);
    end.tv_sec += 20;
    WEIR_ASSERT(sem_timedwait(semaphore, &end) == 0);
}

static void job_run(struct weir_sys_work *work)
{
    struct job *job = weir_container_of(work, struct job, work);

    if (job->order)
        job->position = atomic_fetch_add(job->order, 1);
    if (job->started)
        WEIR_ASSERT(sem_post(job->started) == 0);
    if (job->gate)
        wait_for(job->gate);
}

static void job_done(struct weir_sys_work *work)
{
    WEIR_ASSERT(sem_post(weir_container_of(work, struct job, work)->ended) == 0);
}

static void start_job(struct job *job, sem_t *gate, sem_t *started, sem_t *ended, atomic_uint *order)
{
    *job = (struct job){ { job_run, job_done, { NULL } }, gate, started, ended, order, 0 };
    threads->work(&job->work);
}

static void stuck_work_delays_nobody(void **state)
{
    enum { MAX = WEIR_REAL_WORKERS_MAX, MORE = 40 };
    static struct job stuck[MAX], queued[MORE], quick;
    sem_t gate, started, ended;
    atomic_uint order = 0;
    unsigned idle;

    assert_int_equal(sem_init(&gate, 0, 0), 0);
    assert_int_equal(sem_init(&started, 0, 0), 0);
    assert_int_equal(sem_init(&ended, 0, 0), 0);
    for (unsigned i = 0; i < MAX; i++) {
        start_job(&quick, NULL, NULL, &ended, NULL);
        wait_for(&ended); /* whatever is stuck already, there is a worker for this one */
        start_job(&stuck[i], &gate, &started, &ended, NULL);
        wait_for(&started);
    }
    assert_int_equal(weir_real_workers(&idle), MAX);
    assert_int_equal(idle, 0);

    for (unsigned i = 0; i < MORE; i++)
        start_job(&queued[i], NULL, NULL, &ended, &order);
    assert_int_equal(weir_real_workers(&idle), MAX);
    assert_int_equal(atomic_load(&order), 0);
    /* With one worker free again the queue runs in its order. */
    assert_int_equal(sem_post(&gate), 0);
    for (unsigned i = 0; i < MORE + 1; i++)
        wait_for(&ended);
    for (unsigned i = 0; i < MORE; i++)
        assert_int_equal(queued[i].position, i);
    for (unsigned i = 1; i < MAX; i++)
        assert_int_equal(sem_post(&gate), 0);
    for (unsigned i = 1; i < MAX; i++)
        wait_for(&ended);
    (void)sem_destroy(&gate);
    (void)sem_destroy(&started);
    (void)sem_destroy(&ended);
}

/* One after the other needs one worker; many at once more of them, which end when there is no work. */
static void idle_workers_are_used_and_go(void **state)
{
    struct job job;
    sem_t ended;
    unsigned idle, total, most;
    int64_t end = weir_sys_real.clock_ns() + 20 * INT64_C(1000000000);

    assert_int_equal(sem_init(&ended, 0, 0), 0);
    most = weir_real_workers(&idle);
    assert_true(most > 0);
    for (unsigned i = 0; i < 1000; i++) {
        start_job(&job, NULL, NULL, &ended, NULL);
        wait_for(&ended);
    }
    assert_true(weir_real_workers(&idle) <= most);
    /* Those that wait already keep their time, so make each come back for work. */
    weir_real_set_worker_idle(1000000);
    do {
        struct job jobs[WEIR_REAL_WORKERS_MAX];
        sem_t gate, started;

        assert_int_equal(sem_init(&gate, 0, 0), 0);
        assert_int_equal(sem_init(&started, 0, 0), 0);
        for (unsigned i = 0; i < WEIR_REAL_WORKERS_MAX; i++)
            start_job(&jobs[i], &gate, &started, &ended, NULL);
        for (unsigned i = 0; i < WEIR_REAL_WORKERS_MAX; i++)
            wait_for(&started);
        for (unsigned i = 0; i < WEIR_REAL_WORKERS_MAX; i++)
            assert_int_equal(sem_post(&gate), 0);
        for (unsigned i = 0; i < WEIR_REAL_WORKERS_MAX; i++)
            wait_for(&ended);
        (void)sem_destroy(&gate);
        (void)sem_destroy(&started);
    } while (0);
    do
        total = weir_real_workers(&idle);
    while (total > 0 && weir_sys_real.clock_ns() < end && sched_yield() == 0);
    assert_int_equal(total, 0);
    assert_int_equal(idle, 0);
    weir_real_set_worker_idle(WEIR_REAL_WORKER_IDLE_NS);
    start_job(&job, NULL, NULL, &ended, NULL); /* and come back */
    wait_for(&ended);
    (void)sem_destroy(&ended);
}

/* ---- mutexes ---- */

struct counter {
    struct weir_mutex mutex;
    unsigned value;
};

static void count(void *arg)
{
    struct counter *counter = arg;

    for (unsigned i = 0; i < 50000; i++) {
        WEIR_SCOPE_LOCK(&counter->mutex);
        WEIR_ASSERT(weir_mutex_held() == 1);
        counter->value++;
    }
}

static void mutexes_exclude(void **state)
{
    struct counter counter = { .value = 0 };
    struct weir_mutex other;
    void *handles[3];

    weir_mutex_init(&counter.mutex);
    weir_mutex_init(&other);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(threads->start("counter", count, &counter, &handles[i]), 0);
    for (unsigned i = 0; i < 3; i++)
        threads->join(handles[i]);
    assert_int_equal(counter.value, 150000);
    weir_mutex_lock(&counter.mutex);
    weir_mutex_lock(&other);
    assert_int_equal(weir_mutex_held(), 2);
    assert_int_equal(weir_mutex_swap_held(0), 2);
    assert_int_equal(weir_mutex_held(), 0);
    assert_int_equal(weir_mutex_swap_held(2), 0);
    weir_mutex_unlock(&other);
    weir_mutex_unlock(&counter.mutex);
    assert_int_equal(weir_mutex_held(), 0);
    weir_mutex_done(&counter.mutex);
    weir_mutex_done(&other);
}

/* A world whose scheduler is told of every lock and unlock, and which lets the holder run on. */
static unsigned preemptions;
static struct weir_mutex contended;

static void preempt_and_release(void)
{
    if (++preemptions == 3)
        contended.taken = false; /* what another thread would have done */
}

static void simulated_mutexes_give_way(void **state)
{
    struct weir_sys simulated = { .simulated = true, .thread.preempt = preempt_and_release };

    weir_mutex_init(&contended);
    weir_sys = &simulated;
    contended.taken = true; /* by somebody else */
    weir_mutex_lock(&contended);
    assert_int_equal(preemptions, 3);
    assert_true(contended.taken);
    assert_int_equal(weir_mutex_held(), 1);
    weir_mutex_unlock(&contended);
    assert_int_equal(preemptions, 4);
    assert_false(contended.taken);
    assert_int_equal(weir_mutex_held(), 0);
    weir_sys = &weir_sys_real;
    weir_mutex_done(&contended);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_and_joins),
        cmocka_unit_test(stuck_work_delays_nobody),
        cmocka_unit_test(idle_workers_are_used_and_go),
        cmocka_unit_test(mutexes_exclude),
        cmocka_unit_test(simulated_mutexes_give_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

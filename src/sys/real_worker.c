/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Workers that the end of the process does not wait for.
 *
 * A call that a dead file system has taken from its queue cannot be interrupted, not even by SIGKILL: a thread in it
 * keeps its whole process, which then stays a zombie that nobody can wait for. So a worker's thread lends its place to
 * a process of its own that shares everything with this one - memory, descriptors - but does not belong to its
 * thread group, and sleeps until that has ended. The C library sees one thread: the two never run at the same time,
 * and share the thread's own storage. When this process ends, the kernel kills the worker, at once or when its call
 * returns; until then only the file that hangs is kept open.
 *
 * Closing a file of such a file system hangs as well, and the end of a process closes its files. So the end that leaves
 * something behind first makes one more such process, which holds the descriptors for a moment longer.
 *
 * Under sanitizers and valgrind, which follow threads and not such processes, it is an ordinary call.
 */
#include "sys/real.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#endif
#endif
#ifndef RUNNING_ON_VALGRIND
#define RUNNING_ON_VALGRIND 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOLLOWED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define FOLLOWED 1
#endif
#endif
#ifndef FOLLOWED
#define FOLLOWED 0
#endif

#define STACK_SIZE ((size_t)256 << 10)

struct apart {
    void (*run)(void);
    pid_t parent;
};

static int apart_main(void *arg)
{
    const struct apart *apart = arg;

    /* The signal comes when the thread that sleeps for us ends: with its process. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != apart->parent)
        _exit(0);
    (void)prctl(PR_SET_NAME, "weir-worker"); /* for people only */
    apart->run();
    /* Not exit(): what that would tear down belongs to the process we share it with. */
    _exit(0);
}

/*
 * Keeps the descriptors until the last thread of the process has let go of them. The signal that other workers wait
 * for would come too early: when the thread that made us ends, which may be before others have.
 */
static int hold_main(void *arg)
{
    const struct apart *apart = arg;
    struct pollfd ended = { .fd = (int)syscall(SYS_pidfd_open, apart->parent, 0), .events = POLLIN };

    if (ended.fd >= 0 && getppid() == apart->parent)
        while (poll(&ended, 1, -1) < 0 && errno == EINTR)
            ;
    _exit(0);
}

void weir_real_exit_apart(int status)
{
    static char stack[16384] __attribute__((aligned(4096)));
    struct apart apart = { NULL, getpid() };

    if (!FOLLOWED && !RUNNING_ON_VALGRIND)
        (void)clone(hold_main, stack + sizeof(stack), CLONE_VM | CLONE_FILES, &apart);
    _exit(status);
}

void weir_real_run_apart(void (*run)(void))
{
    struct apart apart = { run, getpid() };
    const int flags = CLONE_VM | CLONE_FILES | CLONE_FS | CLONE_SYSVSEM;
    char *stack = MAP_FAILED;
    pid_t pid = -1;
    int status = 0;

    if (!FOLLOWED && !RUNNING_ON_VALGRIND)
        stack =
            mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    /* The lowest page is the guard. */
    if (stack != MAP_FAILED && !mprotect(stack, 4096, PROT_NONE))
        pid = clone(apart_main, stack + STACK_SIZE, flags, &apart);
    if (pid < 0) {
        run(); /* not possible here: as a thread it does the same work */
    } else {
        while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
            ;
        /* A failed assertion there is a failed assertion of this program. */
        if (WIFSIGNALED(status))
            abort();
    }
    if (stack != MAP_FAILED)
        (void)munmap(stack, STACK_SIZE);
}

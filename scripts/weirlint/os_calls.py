# SPDX-License-Identifier: BSD-2-Clause
"""No OS call outside src/sys: whatever waits, fails or differs between two runs goes through struct weir_sys."""

BANNED = set('''
    open openat creat read write pread pwrite readv writev preadv pwritev preadv2 pwritev2 close lseek dup dup2 dup3
    stat fstat lstat statx fstatfs statfs truncate ftruncate fallocate fsync fdatasync sync_file_range unlink rename
    mkdir rmdir opendir readdir access chmod fchmod link symlink readlink realpath mkstemp flock lockf fcntl ioctl
    mmap munmap mprotect madvise mlock memfd_create
    socket bind listen accept accept4 connect send sendto sendmsg recv recvfrom recvmsg shutdown setsockopt getsockopt
    getsockname getpeername getaddrinfo freeaddrinfo gethostbyname socketpair pipe pipe2 eventfd poll ppoll select
    epoll_wait epoll_create1 epoll_ctl timerfd_create signalfd inotify_init
    fork vfork execve execv execvp posix_spawn system popen waitpid wait kill raise sigaction signal sigprocmask
    pthread_sigmask setsid daemon getpid gettid getuid chdir setrlimit getrlimit sched_yield sched_setaffinity
    clock_gettime clock_nanosleep gettimeofday time nanosleep usleep sleep alarm
    rand srand random srandom rand_r drand48 getrandom arc4random
    fopen freopen fdopen fclose fread fwrite fgets fgetc getline fflush tmpfile
    io_uring_queue_init io_uring_submit io_uring_enter syscall thrd_create mtx_lock
'''.split())
PREFIXES = ('pthread_', 'sem_', 'aio_', 'io_uring_')
# base is below sys; its short locks never cover anything that waits.
ALLOWED = {('base', name) for name in ('pthread_mutex_init', 'pthread_mutex_destroy', 'pthread_mutex_lock',
                                       'pthread_mutex_unlock')}


def check(tree):
    for path in tree.c_files('src', 'include'):
        if path.parts[:2] == ('src', 'sys'):
            continue
        source = tree.c(path)
        own = {f.name for f in source.functions} | {name for name, _ in source.prototypes}
        for function in source.functions:
            for name, line, member in function.calls():
                if member or name in own or (path.parts[1], name) in ALLOWED:
                    continue
                if name in BANNED or name.startswith(PREFIXES):
                    yield path, line, f'{function.name} calls {name}(): OS calls live in src/sys'

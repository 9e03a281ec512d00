/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The parts of the real world, one file each, put together in real.c. Private to src/sys and its tests.
 */
#ifndef WEIR_SYS_REAL_H
#define WEIR_SYS_REAL_H

#include "sys/sys.h"
#include <errno.h>

/* The members of weir_sys_real; struct weir_sys_*_ops say what they do. */

/* real_loop.c */
int weir_real_loop_open(struct weir_sys_loop **ret_loop) weir_must_check;
void weir_real_loop_close(struct weir_sys_loop *loop);
void weir_real_loop_submit(struct weir_sys_loop *loop, struct weir_sys_io *io);
void weir_real_loop_cancel(struct weir_sys_loop *loop, struct weir_sys_io *io);
void weir_real_loop_poll(struct weir_sys_loop *loop, int64_t deadline_ns);
void weir_real_loop_kick(struct weir_sys_loop *loop);

/* real_file.c */
int weir_real_file_open(const char *path, int flags, unsigned mode);
void weir_real_file_close(int fd);
int weir_real_file_stat(int fd, struct weir_sys_stat *ret_stat);
int weir_real_file_unlink(const char *path);
int weir_real_file_truncate(int fd, uint64_t size);
int weir_real_file_fallocate(int fd, int mode, uint64_t offset, uint64_t length);
int weir_real_file_fsync(int fd, bool data_only);
ssize_t weir_real_file_pread(int fd, void *buffer, size_t length, uint64_t offset);
ssize_t weir_real_file_pwrite(int fd, const void *buffer, size_t length, uint64_t offset);
ssize_t weir_real_file_preadv(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
ssize_t weir_real_file_pwritev(int fd, const struct iovec *iov, unsigned iovcnt, uint64_t offset, int flags);
int weir_real_file_extent(int fd, uint64_t offset, uint64_t most, bool *ret_data, uint64_t *ret_end);
int weir_real_file_discard(int fd, uint64_t offset, uint64_t length);
int weir_real_file_zero_out(int fd, uint64_t offset, uint64_t length);
int weir_real_file_lock(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
int weir_real_file_lock_test(int fd, enum weir_sys_lock kind, uint64_t start, uint64_t length);
int weir_real_file_rename(const char *from, const char *to);

/* real_net.c */
int weir_real_net_listen(const struct sockaddr *address, unsigned address_length, int backlog, bool reuse);
int weir_real_net_connect(const struct sockaddr *address, unsigned address_length);
ssize_t weir_real_net_send_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
ssize_t weir_real_net_recv_now(int fd, const struct iovec *iov, unsigned iovcnt, int flags);
int weir_real_net_shutdown(int fd);
void weir_real_net_close(int fd);
int weir_real_net_set_nodelay(int fd, bool on);
int weir_real_net_set_nonblocking(int fd);
int weir_real_net_resolve(const char *host, const char *port, int family, bool passive,
                          struct weir_sys_address *ret_addresses, unsigned count);
int weir_real_net_name(int fd, bool peer, char *text, size_t size);
int weir_real_net_is_listening(int fd);

/* real_thread.c */
int weir_real_thread_start(const char *name, void (*run)(void *arg), void *arg, void **ret_thread);
void weir_real_thread_join(void *handle);
void weir_real_thread_work(struct weir_sys_work *work);
void weir_real_thread_preempt(void);

/* real_process.c */
int weir_real_process_signal_fd(const int *signals, unsigned count);
int weir_real_process_daemonize_begin(void);
void weir_real_process_daemonize_ready(int status);
int weir_real_process_pid_file_create(const char *path);
void weir_real_process_pid_file_remove(const char *path, int fd);
void weir_real_process_exit_now(int status) __attribute__((noreturn));
const char *weir_real_process_getenv(const char *name);
int weir_real_process_pid(void);
int weir_real_process_passed_fds(void);
int weir_real_process_notify(const char *state);
void weir_real_process_log_line(const char *text, size_t length);
int weir_real_process_flush_output(void);
unsigned weir_real_process_output_columns(void);
int weir_real_process_working_directory(char *path, size_t size);
int weir_real_process_read_line(char **ret_line);
int weir_real_process_raise_signal(int signal);

/* The most worker threads, and how long one without work stays (ns). */
#define WEIR_REAL_WORKERS_MAX 64
#define WEIR_REAL_WORKER_IDLE_NS (10 * INT64_C(1000000000))

/* Worker threads that exist at this moment, and how many of them have no work. Any thread. */
unsigned weir_real_workers(unsigned *ret_idle);
/* Changes the time that workers without work stay; for tests. Those that wait already keep theirs. */
void weir_real_set_worker_idle(int64_t idle_ns);

/* The value of a system call that is started again while signals interrupt it; -errno where it fails. */
#define WEIR_REAL_RETRY(call)                                       \
    ({                                                              \
        __typeof__(call) retry_result;                              \
        do                                                          \
            retry_result = (call);                                  \
        while (retry_result < 0 && errno == EINTR);                 \
        retry_result < 0 ? (__typeof__(call))-errno : retry_result; \
    })

/* ---- real_worker.c ---- */
/* Runs @run as if on the calling thread, but so that the end of the process does not wait for it. */
void weir_real_run_apart(void (*run)(void));
/* _exit(2), also where closing a descriptor hangs. */
_Noreturn void weir_real_exit_apart(int status);

#endif

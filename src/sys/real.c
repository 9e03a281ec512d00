/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The real world: the table, clocks and randomness.
 */
#include "sys/real.h"
#include <sys/random.h>
#include <time.h>

static int64_t clock_read(clockid_t clock)
{
    struct timespec now;

    WEIR_ASSERT(clock_gettime(clock, &now) == 0);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int64_t real_clock_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

static int64_t real_wall_ns(void)
{
    return clock_read(CLOCK_REALTIME);
}

static uint64_t real_random(void)
{
    uint64_t value;

    /* Up to 256 bytes come whole or not at all; only the very first call after boot can be interrupted. */
    WEIR_ASSERT(WEIR_REAL_RETRY(getrandom(&value, sizeof(value), 0)) == sizeof(value));
    return value;
}

const struct weir_sys weir_sys_real = {
    .name = "real",
    .clock_ns = real_clock_ns,
    .wall_ns = real_wall_ns,
    .random = real_random,
    .loop = {
        .open = weir_real_loop_open,
        .close = weir_real_loop_close,
        .submit = weir_real_loop_submit,
        .cancel = weir_real_loop_cancel,
        .poll = weir_real_loop_poll,
        .kick = weir_real_loop_kick,
    },
    .file = {
        .open = weir_real_file_open,
        .close = weir_real_file_close,
        .stat = weir_real_file_stat,
        .unlink = weir_real_file_unlink,
        .truncate = weir_real_file_truncate,
        .fallocate = weir_real_file_fallocate,
        .fsync = weir_real_file_fsync,
        .pread = weir_real_file_pread,
        .pwrite = weir_real_file_pwrite,
        .preadv = weir_real_file_preadv,
        .pwritev = weir_real_file_pwritev,
        .extent = weir_real_file_extent,
        .discard = weir_real_file_discard,
        .zero_out = weir_real_file_zero_out,
        .lock = weir_real_file_lock,
        .lock_test = weir_real_file_lock_test,
        .rename = weir_real_file_rename,
    },
    .net = {
        .listen = weir_real_net_listen,
        .connect = weir_real_net_connect,
        .send_now = weir_real_net_send_now,
        .recv_now = weir_real_net_recv_now,
        .shutdown = weir_real_net_shutdown,
        .close = weir_real_net_close,
        .set_nodelay = weir_real_net_set_nodelay,
        .set_nonblocking = weir_real_net_set_nonblocking,
        .resolve = weir_real_net_resolve,
        .name = weir_real_net_name,
        .is_listening = weir_real_net_is_listening,
    },
    .thread = {
        .start = weir_real_thread_start,
        .join = weir_real_thread_join,
        .work = weir_real_thread_work,
        .preempt = weir_real_thread_preempt,
    },
    .process = {
        .signal_fd = weir_real_process_signal_fd,
        .daemonize_begin = weir_real_process_daemonize_begin,
        .daemonize_ready = weir_real_process_daemonize_ready,
        .pid_file_create = weir_real_process_pid_file_create,
        .pid_file_remove = weir_real_process_pid_file_remove,
        .exit_now = weir_real_process_exit_now,
        .getenv = weir_real_process_getenv,
        .pid = weir_real_process_pid,
        .passed_fds = weir_real_process_passed_fds,
        .notify = weir_real_process_notify,
        .log_line = weir_real_process_log_line,
        .flush_output = weir_real_process_flush_output,
        .output_columns = weir_real_process_output_columns,
        .working_directory = weir_real_process_working_directory,
        .read_line = weir_real_process_read_line,
        .raise_signal = weir_real_process_raise_signal,
    },
};

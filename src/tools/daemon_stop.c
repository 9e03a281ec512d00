/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end of the daemon: clients first, then jobs, monitors, nodes, objects, threads. One deadline for all of it; what
 * hangs in the host beyond it is left behind, as the process ends anyway.
 */
#include "base/alloc.h"
#include "co/iothread.h"
#include "export/export.h"
#include "export/nbd/server.h"
#include "graph/graph.h"
#include "job/job.h"
#include "job/loop.h"
#include "sys/sys.h"
#include "tools/daemon.h"

void daemon_stop(struct daemon *daemon)
{
    if (daemon->setting_up) {
        for (struct daemon_chardev *entry = daemon->chardevs; entry; entry = entry->next)
            weir_chardev_stop(entry->chardev);
    }
    WEIR_SCOPE_LOCK(&daemon->mutex);
    daemon->stopping = true;
    weir_co_queue_wake_all(&daemon->stop_queue);
}

static int64_t left(int64_t deadline)
{
    return WEIR_MAX(deadline - weir_sys->clock_ns(), 1000000);
}

static weir_co_fn void free_monitors(struct daemon *daemon, int64_t deadline)
{
    while (daemon->chardevs) {
        struct daemon_chardev *entry = daemon->chardevs;

        daemon->chardevs = entry->next;
        weir_chardev_free(entry->chardev, WEIR_MIN(deadline, weir_sys->clock_ns() + 1000000000LL));
        free(entry);
    }
    weir_qmp_connect_events(NULL);
    weir_monitors_free(weir_steal(&daemon->monitors));
}

void daemon_shut_down(struct daemon *daemon)
{
    int64_t deadline = weir_sys->clock_ns() + DAEMON_STOP_LIMIT_NS;
    bool jobs_ended;

    (void)weir_sys->process.notify("STOPPING=1");
    weir_graph_let_go();
    if (weir_nbd_server_running())
        (void)!weir_nbd_server_stop(DAEMON_STOP_LIMIT_NS / 4, NULL);
    weir_export_close_all(NULL, WEIR_MIN(left(deadline), DAEMON_STOP_LIMIT_NS / 4));
    jobs_ended = weir_job_cancel_all(WEIR_MIN(left(deadline), DAEMON_STOP_LIMIT_NS / 4));
    free_monitors(daemon, deadline);
    weir_hmp_settle(weir_sys->clock_ns() + WEIR_MIN(left(deadline), DAEMON_STOP_LIMIT_NS / 4));
    if (jobs_ended) {
        weir_graph_done(WEIR_MIN(left(deadline), DAEMON_STOP_LIMIT_NS / 4));
        weir_objects_done();
    }
    if (daemon->pid_fd >= 0)
        weir_sys->process.pid_file_remove(daemon->pid_file, daemon->pid_fd);
    /*
     * Threads that still run something hang in the host. Everything that had to be written was; waiting for them
     * would only let the operator wait.
     */
    if (!jobs_ended || weir_graph_limbo_count()) {
        daemon_log("requests that hang in the host are left behind");
        weir_sys->process.exit_now(daemon->status);
    }
    weir_job_done();
    weir_job_loop_done();
    if (weir_iothreads_done(left(deadline)))
        weir_sys->process.exit_now(daemon->status);
}

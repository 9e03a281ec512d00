/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A QMP monitor: one conversation at a time over some transport of bytes.
 *
 * The transport (chardev.c, a test, a fuzz target) connects, feeds what it receives and takes what is to be sent.
 * Requests wait in a queue of WEIR_MONITOR_QUEUE_MAX and are executed one after the other by a coroutine that lives
 * only while there are some. What is unfinished when a client goes is forgotten, except the command that runs: it
 * goes on, and its reply goes nowhere. A client that sends and does not read stops being listened to; one that
 * listens to events and does not read is dropped. Control loop only.
 */
#ifndef WEIR_QMP_MONITOR_H
#define WEIR_QMP_MONITOR_H

#include "base/macros.h"
#include "qmp/events.h"

/* Requests that wait for execution. */
#define WEIR_MONITOR_QUEUE_MAX 8
/* Bytes of output that wait; beyond it no more requests are executed. */
#define WEIR_MONITOR_OUTPUT_HIGH (1u << 20)
/* Bytes of output that wait when one more event drops the client. */
#define WEIR_MONITOR_OUTPUT_MAX (16u << 20)

struct weir_monitor_transport {
    /* There are bytes to be sent, where there were none. Must not yield. */
    void (*output)(void *arg);
    /* The client is to be disconnected, for the reason that was logged. Must not yield. */
    void (*drop)(void *arg);
};

/* @id is for people. Everything but @monitors is copied, or lives as long as the program. */
struct weir_monitor *weir_monitor_new(struct weir_monitors *monitors, const char *id, bool pretty,
                                      const struct weir_monitor_transport *transport, void *arg);
/* Disconnects, waits until no command runs, frees. */
void weir_monitor_free(struct weir_monitor *monitor) weir_co_fn;

/* A client has come: the greeting is put out. None may be there. */
void weir_monitor_connect(struct weir_monitor *monitor);
/* The client has gone. Nothing when there is none. */
void weir_monitor_disconnect(struct weir_monitor *monitor);
/*
 * Bytes from the client. Waits for as long as the queue is full; returns early when the client is disconnected
 * meanwhile. One call at a time.
 */
void weir_monitor_feed(struct weir_monitor *monitor, const char *data, size_t length) weir_co_fn;

/* The bytes that are to be sent next; 0 when there are none. Valid until the next call on the monitor. */
size_t weir_monitor_output(struct weir_monitor *monitor, const char **ret_data);
/* @length bytes of them are sent. */
void weir_monitor_output_taken(struct weir_monitor *monitor, size_t length);
/*
 * Waits until every request is executed and every byte taken, or the client is disconnected. 0, or -ETIMEDOUT past
 * @deadline_ns (-1: no limit).
 */
int weir_monitor_wait_idle(struct weir_monitor *monitor, int64_t deadline_ns) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Character devices: what monitors talk over. A listening socket with one client at a time, a connected socket, or
 * standard input and output.
 *
 * Life: new, open, attach a monitor, free. A server takes the next client when the last one has gone; what a client
 * still sent before it closed its sending side is executed and answered. Control loop only.
 */
#ifndef WEIR_QMP_CHARDEV_H
#define WEIR_QMP_CHARDEV_H

#include "base/error.h"
#include "gen/schema.h"
#include "qmp/events.h"

struct weir_chardev;

/* @options is borrowed, its JSON kept. Fails when the options contradict each other. */
int weir_chardev_new(const struct weir_q_chardev_options *options, struct weir_chardev **ret_chardev,
                     struct weir_error **err) weir_must_check;
const char *weir_chardev_id(const struct weir_chardev *chardev);

/*
 * Listens or connects; a server with wait=on waits for its first client, for as long as that takes. -ECANCELED
 * when weir_chardev_stop() was called meanwhile.
 */
int weir_chardev_open(struct weir_chardev *chardev, struct weir_error **err) weir_co_fn weir_must_check;
/* "unix:/path", "127.0.0.1:4444": where an open server listens (port 0 resolved); "stdio" otherwise. */
void weir_chardev_address(const struct weir_chardev *chardev, char *text, size_t size);

/* Puts a monitor on an open device and begins to serve. A device has one (-EBUSY). */
int weir_chardev_attach(struct weir_chardev *chardev, struct weir_monitors *monitors, const char *id,
                        bool pretty, struct weir_error **err) weir_must_check;

/* Ends everything that waits, at once. The device is good for weir_chardev_free() only. Does not yield. */
void weir_chardev_stop(struct weir_chardev *chardev);
/*
 * Lets what was asked be answered until @deadline_ns, then stops, waits for the command that runs, and frees.
 * NULL is fine.
 */
void weir_chardev_free(struct weir_chardev *chardev, int64_t deadline_ns) weir_co_fn;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The library as a whole.
 *
 * It runs on threads of its own: one that controls (opens, closes), and one that does the I/O of all devices, each
 * with an io_uring; and workers for calls that block. The program's own threads only hand requests over. Nothing is
 * ever printed, no signal handler is installed.
 */
#ifndef WEIR_LIBRARY_H
#define WEIR_LIBRARY_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Starts the threads. Once before anything else, or again after weir_done(); not at the same time as another call of
 * the two. Returns 0 or a negative errno: -EBUSY when it is started already, or what the OS says (-ENOSYS without
 * io_uring, -EAGAIN without another thread).
 */
int weir_init(void);

/*
 * Ends the threads. Returns 0, or a negative errno: -EBUSY while a device is open, -EDEADLK on a thread of the library
 * (in a completion), -ENODEV when it was not started. -ETIMEDOUT: some I/O hangs in the OS; its threads are left alone
 * until the process ends, and weir_init() will say -EBUSY. Waits at most about 20 seconds.
 */
int weir_done(void);

#ifdef __cplusplus
}
#endif

#endif

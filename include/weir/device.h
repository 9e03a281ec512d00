/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Devices: disks that a program reads and writes.
 *
 * A device is opened from a JSON object such as QMP's blockdev-add takes, with everything below it:
 * {"driver": "raw", "file": {"driver": "file", "filename": "disk.img"}}.
 *
 * Requests may have any alignment, and any thread may issue them at any time, as many as it likes; they run at the
 * same time, and requests that overlap take effect in any order. A request sees all that was answered before it
 * was issued. Answered is not yet durable: that is what weir_device_flush() is for, or WEIR_DEVICE_FUA.
 *
 * Results are 0 or a negative errno: -EINVAL for reads beyond the end of the device and -ENOSPC for changes there,
 * -EPERM for changes of a device opened read-only, -EINVAL for unknown flags, and what the storage says.
 *
 * Each operation exists twice. The plain one returns at once and calls done(arg, result) exactly once, on a thread
 * of the library, maybe before it returns; until then the buffer belongs to the request. done() must not block; it
 * may issue further requests. The other one, with _wait, blocks the caller and returns the result; called from a
 * done() it returns -EDEADLK, as it would wait for itself.
 */
#ifndef WEIR_DEVICE_H
#define WEIR_DEVICE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct weir_device;

/* Flags of weir_device_open(). */
#define WEIR_DEVICE_READ_ONLY 1u /* do not ask for writing; others may write */

/* Flags of changes. */
#define WEIR_DEVICE_FUA 1u   /* answered only when durable; not for discard */
#define WEIR_DEVICE_UNMAP 2u /* zero: giving up the space is welcome */

/*
 * Opens what @json describes (a text; not kept) and stores the device at @ret_device. Blocks, at most some
 * seconds. On failure it returns a negative errno, leaves *ret_device alone and, where @error is not NULL, puts a
 * sentence for a person there, cut to @error_size bytes with the end.
 */
int weir_device_open(const char *json, unsigned flags, struct weir_device **ret_device, char *error,
                     size_t error_size);
/*
 * Waits for all requests, writes back what the format holds, closes and frees. NULL is fine. Returns 0, or -EDEADLK
 * in a done() (nothing was done). No request may be issued meanwhile or afterwards.
 */
int weir_device_close(struct weir_device *device);

/* Bytes, now: a file can grow. Any thread. */
uint64_t weir_device_size(const struct weir_device *device);

/* Reads [@offset, @offset + @length) into @buffer. */
void weir_device_read(struct weir_device *device, uint64_t offset, uint64_t length, void *buffer,
                      void (*done)(void *arg, int result), void *arg);
int weir_device_read_wait(struct weir_device *device, uint64_t offset, uint64_t length, void *buffer);

/* Writes @buffer, which must not change meanwhile. @flags: WEIR_DEVICE_FUA. */
void weir_device_write(struct weir_device *device, uint64_t offset, uint64_t length, const void *buffer,
                       unsigned flags, void (*done)(void *arg, int result), void *arg);
int weir_device_write_wait(struct weir_device *device, uint64_t offset, uint64_t length, const void *buffer,
                           unsigned flags);

/* Makes durable what was answered before. */
void weir_device_flush(struct weir_device *device, void (*done)(void *arg, int result), void *arg);
int weir_device_flush_wait(struct weir_device *device);

/* Makes the range read as zeroes. @flags: WEIR_DEVICE_FUA, WEIR_DEVICE_UNMAP. */
void weir_device_zero(struct weir_device *device, uint64_t offset, uint64_t length, unsigned flags,
                      void (*done)(void *arg, int result), void *arg);
int weir_device_zero_wait(struct weir_device *device, uint64_t offset, uint64_t length, unsigned flags);

/* Says that the contents are not needed any more: advice, after which any bytes may be read there. */
void weir_device_discard(struct weir_device *device, uint64_t offset, uint64_t length,
                         void (*done)(void *arg, int result), void *arg);
int weir_device_discard_wait(struct weir_device *device, uint64_t offset, uint64_t length);

#ifdef __cplusplus
}
#endif

#endif

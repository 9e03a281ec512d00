/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From an address to listening sockets. Control loop.
 */
#ifndef WEIR_EXPORT_NBD_LISTEN_H
#define WEIR_EXPORT_NBD_LISTEN_H

#include "base/error.h"
#include "base/macros.h"

struct weir_nbd_server_options;

#define WEIR_NBD_LISTENERS_MAX 8u /* addresses that one host name may have */

/* Opens the sockets: fills @ret_fds and returns how many, at least one. Limited in time. */
int weir_nbd_listen(const struct weir_nbd_server_options *options, int ret_fds[WEIR_NBD_LISTENERS_MAX],
                    struct weir_error **err) weir_co_fn weir_must_check;
/* Removes the file of a unix socket. Failure is nobody's concern: the next one to listen replaces it. */
void weir_nbd_unlink(const char *path) weir_co_fn;

#endif

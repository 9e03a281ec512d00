/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server: one per process; exports of type nbd are reachable through it.
 *
 * Limits: connections and time of the handshake are options; what one connection may have in flight stands in proto.h
 * (256 requests; no more is read from a connection that has 64 MiB or more in flight). Control loop.
 */
#ifndef WEIR_EXPORT_NBD_SERVER_H
#define WEIR_EXPORT_NBD_SERVER_H

#include "base/error.h"
#include "base/macros.h"

enum weir_nbd_address_type { WEIR_NBD_INET, WEIR_NBD_UNIX, WEIR_NBD_FD };

/* Texts are borrowed for the time of the call. */
struct weir_nbd_server_options {
    enum weir_nbd_address_type type;
    const char *host, *port;  /* INET */
    const char *path;         /* UNIX */
    const char *fd;           /* FD: a listening socket, its number in decimal; the server takes it over */
    uint32_t connections_max; /* 0: no limit; 1: clients are told not to use several connections */
    uint32_t handshake_max_s; /* 0: no limit */
};
#define WEIR_NBD_CONNECTIONS_MAX 100u /* the defaults */
#define WEIR_NBD_HANDSHAKE_MAX_S 10u

int weir_nbd_server_start(const struct weir_nbd_server_options *options,
                          struct weir_error **err) weir_co_fn weir_must_check;
/*
 * Stops listening, ends all nbd exports and sends away every client. Requests that are still stuck after @limit_ns are
 * left behind.
 */
int weir_nbd_server_stop(int64_t limit_ns, struct weir_error **err) weir_co_fn weir_must_check;
bool weir_nbd_server_running(void);
unsigned weir_nbd_server_connections(void);
/* Where it listens, for people and tests ("127.0.0.1:10809"); "" when it does not. Borrowed. */
const char *weir_nbd_server_address(void);

#endif

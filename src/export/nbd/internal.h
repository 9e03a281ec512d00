/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection, seen by the files that share the work: server.c (control loop), connection.c (life and handshake),
 * transmission.c (requests in), request.c (one request), send.c (answers out).
 *
 * A connection belongs to one loop at a time: the default data loop until the export is known, then the export's.
 * Fields are touched on that loop only, except where said. It ends on the control loop, which alone closes the
 * descriptor: so the control loop may shut the socket down at any time.
 */
#ifndef WEIR_EXPORT_NBD_INTERNAL_H
#define WEIR_EXPORT_NBD_INTERNAL_H

#include "co/co.h"
#include "export/nbd/handshake.h"
#include "export/nbd/pace.h"
#include "export/nbd/proto.h"
#include "export/nbd/reply.h"
#include "export/nbd/stream.h"
#include "export/export_type.h"
#include "io/request.h"
#include "sys/sys.h"

#define WEIR_NBD_SEND_IOVS 512u

struct weir_nbd_connection;
struct weir_nbd_server;

/* One request in flight, from the parser until its answer was sent. */
struct weir_nbd_request {
    struct weir_request request; /* to the core */
    struct weir_nbd_connection *connection;
    struct weir_nbd_command command;
    struct weir_buffer *buffer; /* owner of the data, or of the answer's body */
    struct iovec iov;
    struct weir_nbd_reply reply;
    STAILQ_ENTRY(weir_nbd_request) link;
};
STAILQ_HEAD(weir_nbd_requests, weir_nbd_request);

struct weir_nbd_connection {
    /* ---- fixed, or control loop ---- */
    struct weir_nbd_server *server;
    struct weir_export *export;
    int fd;
    char peer[108]; /* name of the other end, cut */
    TAILQ_ENTRY(weir_nbd_connection) link;
    struct weir_call gone; /* to the control loop, last of all */
    atomic_bool dropped;   /* any thread: no further request is begun */

    /* ---- its loop ---- */
    struct weir_loop *loop; /* of transmission */
    struct weir_nbd_stream stream;
    struct weir_nbd_handshake handshake;
    struct weir_timer limit; /* of the handshake */
    bool timed_out;
    struct weir_edge *edge; /* a reference */
    struct weir_nbd_rules rules;
    const char *reason; /* why it ends; static text */
    int error;          /* with reason: -errno or 0 */
    bool ending;        /* nothing is read any more */
    bool broken;        /* nothing can be sent any more */

    struct weir_call turn; /* goes on with reading and sending */
    bool turn_queued, in_turn;
    struct weir_sys_io receive_io, send_io;
    bool receiving, sending;
    struct iovec receive_iov[2], send_iov[WEIR_NBD_SEND_IOVS];
    size_t receive_room;          /* bytes asked for */
    bool full;                    /* the last receive got all it asked for */
    struct weir_sys_io poll_io;   /* instead of a receive, see pace.h */
    struct weir_timer rest_limit; /* of the rest of number watched_rest */
    bool resting, polling, watched;
    uint64_t rests, watched_rest;
    struct weir_nbd_pace pace;
    unsigned luck, probes;             /* of finding more requests before answering */
    struct weir_nbd_requests idle;     /* for reuse */
    struct weir_nbd_requests answered; /* to be sent, in this order */
    size_t sent;                       /* bytes of the first that are on the wire */
    unsigned in_flight;                /* requests taken and not sent back; bounded */
    unsigned unanswered;               /* of these: those that the core still has */
    uint64_t bytes;                    /* of their data */
    uint64_t requests, failed;         /* so far */
};

/* ---- server.c; control loop ---- */
/* A connection has ended: forgets and frees it. */
void weir_nbd_server_gone(struct weir_nbd_connection *connection);
/* NULL: the first one of the server that runs. */
struct weir_nbd_connection *weir_nbd_server_next(struct weir_nbd_connection *at);
bool weir_nbd_server_multi_conn(void);
/* Any loop. */
uint32_t weir_nbd_server_handshake_s(const struct weir_nbd_server *server);

/* ---- nbd.c: the exports by name ---- */
extern const struct weir_nbd_directory weir_nbd_directory; /* its arg: the connection */

/* ---- connection.c ---- */
/* Control loop: takes @fd over and begins the handshake on @loop. */
struct weir_nbd_connection *weir_nbd_connection_new(struct weir_nbd_server *server, int fd,
                                                    struct weir_loop *loop);
/* Control loop: sends the client away. */
void weir_nbd_connection_drop(struct weir_nbd_connection *connection);
/* Control loop; last of all. */
void weir_nbd_connection_free(struct weir_nbd_connection *connection);
/* Nothing more is read; what was asked is answered. The first reason counts. */
void weir_nbd_connection_end(struct weir_nbd_connection *connection, const char *reason, int error);
/* Nothing can be sent either. */
void weir_nbd_connection_break(struct weir_nbd_connection *connection, const char *reason, int error);
/* Hands it back to the control loop once nothing of it is in use any more. */
void weir_nbd_connection_finish(struct weir_nbd_connection *connection);

/* ---- transmission.c ---- */
void weir_nbd_transmission_start(struct weir_nbd_connection *connection);
/* Goes on at the end of the loop's queue. */
void weir_nbd_queue_turn(struct weir_nbd_connection *connection);
/* The client has read most of what it was sent: takes what it has sent meanwhile. */
void weir_nbd_rest_over(struct weir_nbd_connection *connection);

/* ---- request.c ---- */
struct weir_nbd_request *weir_nbd_request_new(struct weir_nbd_connection *connection,
                                              const struct weir_nbd_command *command);
void weir_nbd_request_free(struct weir_nbd_request *request);
/* Prepares it for weir_root_batch(): true; false when it is dealt with otherwise. */
bool weir_nbd_request_prepare(struct weir_nbd_request *request);

/* ---- send.c ---- */
/* Sends what has been answered, as far as the socket takes it; the rest follows by itself. */
void weir_nbd_send(struct weir_nbd_connection *connection);
/* Forgets what was not sent. */
void weir_nbd_send_drop(struct weir_nbd_connection *connection);

#endif

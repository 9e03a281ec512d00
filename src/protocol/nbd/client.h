/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD client, seen by the files that share the work: nbd.c (the driver), request.c (one request of the core),
 * keeper.c (who keeps connections up), connect.c (address to connection), connection.c and receive.c (commands on one).
 *
 * Commands may come from any loop. Nobody reads for all of them: of the coroutines that wait for an answer on a
 * connection one reads, on its own loop, and gives every answer to whom it belongs; when it has its own, it hands the
 * reading over. So a command that is alone costs no other thread anything, and nothing is left on a loop that may go.
 *
 * A *keeper* is a coroutine on the control loop, one for each connection. It connects, looks whether the other end has
 * hung up while nobody asks anything, and connects again. A command whose connection is lost does not fail but is sent
 * again: reads for want of an answer, changes because they are the same when they are done twice. Its caller waits all
 * the time and holds what locks it holds, so nothing newer on its range is overtaken by what is sent here. With
 * reconnect-delay 0 such a command fails with -EIO, and so does every one until there is a connection again.
 *
 * What the protocol cannot prevent: a server that lives on may still be busy with a change from a connection that it
 * lost, after it has answered the same change and a newer one on another. So a change is never sent again on a
 * connection that was there when it was sent first, which would make this likely. When the server's process has ended
 * it cannot happen.
 */
#ifndef WEIR_PROTOCOL_NBD_CLIENT_H
#define WEIR_PROTOCOL_NBD_CLIENT_H

#include "co/co.h"
#include "graph/node.h"
#include "protocol/nbd/handshake.h"
#include "protocol/nbd/reply.h"
#include "sys/sys.h"
#include <stdatomic.h>

#define NBD_CONNECTIONS_MAX 16u
#define NBD_IN_FLIGHT_MAX 128u /* commands of one connection */
#define NBD_IOV_MAX 512u       /* elements of a vector: there must be room for a head, and less than 1024 */
#define NBD_RX_SIZE (NBD_ANSWER_MAX + 4096u)

/* The answer of nbd_connection_do() when the connection was lost before there was one. */
#define NBD_LOST 1

/* ---- one command, on the stack of the coroutine that waits for it ---- */
struct nbd_command {
    unsigned type, flags; /* NBD_CMD_..., NBD_CMD_FLAG_... */
    uint64_t offset;      /* bytes, as the length */
    uint32_t length;
    const struct iovec *iov; /* READ, WRITE */
    unsigned iovcnt;
    /* The answer. */
    int error;                            /* the first one, -errno */
    uint32_t status_length, status_flags; /* BLOCK_STATUS; length 0: none has come */
    /* The connection's own. `done` under its mutex; what is read into belongs to whoever reads until then. */
    uint64_t cookie;
    struct nbd_pieces pieces;
    bool done, lost, waiting;
    struct weir_co_queue queue;
    TAILQ_ENTRY(nbd_command) link;
};
TAILQ_HEAD(nbd_commands, nbd_command);

/* ---- a connection that is through the negotiation ---- */
struct nbd_client;
struct nbd_connection {
    struct nbd_client *client;
    int fd;
    atomic_uint refs;
    uint64_t number; /* the later it was made, the higher */
    struct nbd_export_info info;

    struct weir_mutex mutex;
    struct nbd_commands commands;                 /* in flight, the oldest first */
    struct nbd_command *slots[NBD_IN_FLIGHT_MAX]; /* the same by the low bits of their cookies */
    atomic_uint in_flight;                        /* changed under the mutex */
    uint64_t serial;                              /* of cookies */
    struct weir_co_queue room;                    /* for one more command */
    bool reading;                                 /* one of them reads */
    bool hung_up; /* the other end sends nothing more: the last one to leave breaks it */
    bool broken;

    struct weir_co_mutex send_mutex; /* one command at a time */
    struct iovec tx_iov[NBD_IOV_MAX + 1];

    /* Of whoever reads. */
    struct iovec rx_iov[NBD_IOV_MAX + 1];
    size_t rx_start, rx_end; /* of what has come and is not looked at */
    uint8_t rx[NBD_RX_SIZE];
};

/* ---- a node ---- */
struct nbd_address {
    bool local; /* a unix socket: path; else host and port */
    char *host, *port, *path;
};

/* An attempt to connect, which nbd_attempt_stop() ends. Control loop. */
struct nbd_attempt {
    struct weir_co_cancel cancel; /* of the look-up and connect on a worker */
    int fd;                       /* of the negotiation, -1: none */
};

struct nbd_keeper {
    struct nbd_client *client;
    unsigned index;
    struct nbd_attempt attempt;
    struct nbd_connection *connection; /* a reference */
};

struct nbd_client {
    struct nbd_address address;
    char *export, *context, *filename;
    bool own_context; /* x-dirty-bitmap: a server without it will not do */
    int64_t reconnect_ns;
    struct nbd_export_info info; /* as it was when the node was opened */
    bool writable;               /* opened for writing: the export must not become read-only */
    unsigned connections;        /* keepers */
    struct nbd_keeper keepers[NBD_CONNECTIONS_MAX];

    struct weir_mutex mutex;
    struct weir_co_queue queue;        /* for a connection */
    struct weir_co_queue keeper_queue; /* keepers at rest, and who waits for their end */
    struct nbd_connection *up[NBD_CONNECTIONS_MAX];
    unsigned up_count, running; /* connections in `up`, keepers */
    uint64_t numbers;           /* connections so far */
    int64_t lost_ns;            /* since when there is none */
    bool closing;
};

/* ---- connect.c; control loop ---- */
/* Looks the address up, connects and negotiates, within WEIR_OPEN_LIMIT_NS. */
int nbd_connect(struct nbd_client *client, struct nbd_attempt *attempt,
                struct nbd_connection **ret_connection, struct weir_error **err) weir_co_fn weir_must_check;
/* Ends an attempt that goes on, or the next one, soon. */
void nbd_attempt_stop(struct nbd_attempt *attempt);

/* ---- connection.c; any loop ---- */
/* Takes @fd over, and the @length bytes at @data that have come behind the negotiation. */
struct nbd_connection *nbd_connection_new(struct nbd_client *client, int fd,
                                          const struct nbd_export_info *info, const uint8_t *data,
                                          size_t length);
struct nbd_connection *nbd_connection_ref(struct nbd_connection *connection);
void nbd_connection_unref(struct nbd_connection *connection);
/* Sends @command and waits for its answer: 0, the server's -errno, or NBD_LOST. */
int nbd_connection_do(struct nbd_connection *connection, struct nbd_command *command) weir_co_fn;
/* Nothing more comes or goes; all commands on it are lost. */
void nbd_connection_break(struct nbd_connection *connection);
/* The other end has hung up: breaks it, once those who may still find their answers in it have left. */
void nbd_connection_hung_up(struct nbd_connection *connection);
/* Takes leave, as far as that is possible at once; no command may be in flight. */
void nbd_connection_take_leave(struct nbd_connection *connection);
/* The command with that cookie, or NULL. By whoever reads. */
struct nbd_command *nbd_connection_find(struct nbd_connection *connection, uint64_t cookie);
/* @command has its whole answer: its coroutine may go on and must not be touched any more. */
void nbd_connection_answer(struct nbd_connection *connection, struct nbd_command *command);

/* ---- receive.c ---- */
/* Reads answers until @command is done: 0, or negative when the connection is of no use any more. */
int nbd_receive(struct nbd_connection *connection, struct nbd_command *command) weir_co_fn weir_must_check;

/* ---- keeper.c ---- */
/* Connects for the first time, trying for @limit_s seconds, and starts the keepers. Control loop. */
int nbd_client_start(struct nbd_client *client, unsigned connections, uint32_t limit_s,
                     struct weir_error **err) weir_co_fn weir_must_check;
/* Ends all connections; there are no requests any more. Control loop. */
void nbd_client_stop(struct nbd_client *client) weir_co_fn;
/*
 * A new reference to a connection with a number above @above; NULL past @limit_ns (-1: reconnect-delay after the last
 * one was lost). Any loop.
 */
struct nbd_connection *nbd_client_get(struct nbd_client *client, uint64_t above, int64_t limit_ns) weir_co_fn;
/* The number of the latest connection. Any loop. */
uint64_t nbd_client_latest(struct nbd_client *client);
/* The connection does not take commands any more. Any loop; once for each. */
void nbd_client_lost(struct nbd_client *client, struct nbd_connection *connection);

/* ---- request.c ---- */
int nbd_submit(struct weir_node *node, struct weir_request *request) weir_co_fn;

#endif

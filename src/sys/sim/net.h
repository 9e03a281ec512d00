/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to the simulator's sockets: listeners, connections, and the pipes that these consist of.
 */
#ifndef WEIR_SYS_SIM_NET_H
#define WEIR_SYS_SIM_NET_H

#include "sys/sim/world.h"

#define SIM_NAME_SIZE 128

/* An address as the simulator compares it. */
struct sim_address {
    char text[SIM_NAME_SIZE]; /* for people, complete */
    int family;
    bool any; /* of inet: every address of this host */
    unsigned port;
};

/* One direction of a connection. */
struct sim_pipe {
    struct sim_connection *connection;
    uint8_t *bytes; /* a ring */
    uint32_t size, head, used;
    uint32_t visible;       /* of @used: have arrived */
    bool closed_in;         /* the sender sends no more */
    bool eof;               /* the receiver has seen that */
    bool closed_out;        /* the receiver takes no more */
    bool reset;             /* the receiver gets -ECONNRESET */
    struct sim_event event; /* bytes arrive */
    struct sim_ios receivers, senders;
};

struct sim_connection {
    unsigned serial;
    unsigned refs; /* ends */
    bool stalled;
    struct sim_pipe pipe[2]; /* pipe[i]: what end i sends */
    struct sim_end *end[2];
    struct sim_address address[2]; /* of end i */
};

struct sim_end {
    struct sim_connection *connection;
    unsigned side;
    struct sim_ios pollers;
    TAILQ_ENTRY(sim_end) link; /* listener->arrived */
};
TAILQ_HEAD(sim_ends, sim_end);

struct sim_connector {
    struct sim_thread *thread;
    bool listener_gone;
    TAILQ_ENTRY(sim_connector) link;
};

struct sim_listener {
    struct sim_address address;
    unsigned backlog, arrived_count;
    struct sim_ends arrived; /* not yet accepted */
    struct sim_ios acceptors;
    TAILQ_HEAD(, sim_connector) connectors; /* wait for a place in the backlog */
    TAILQ_ENTRY(sim_listener) link;
};

/* ---- net_pipe.c ---- */

/* What the ends of a new connection are; each belongs to the caller. */
void sim_connection_new(struct sim_end *ret_ends[2]);
void sim_end_free(struct sim_end *end); /* closes it */
void sim_end_shutdown(struct sim_end *end);
/* The pipe that this end sends to, the one that it receives from. */
struct sim_pipe *sim_end_out(struct sim_end *end);
struct sim_pipe *sim_end_in(struct sim_end *end);
/* Moves what can be moved now; -EAGAIN: nothing. @skip: bytes of the vector that were moved before. */
int64_t sim_pipe_send(struct sim_pipe *pipe, const struct iovec *iov, unsigned iovcnt, uint64_t skip);
int64_t sim_pipe_receive(struct sim_pipe *pipe, const struct iovec *iov, unsigned iovcnt, uint64_t skip);
/* Bytes have been taken out or in: those who wait may go on. */
void sim_end_look_again(struct sim_end *end);
void sim_connection_stall(struct sim_connection *connection, bool stalled);
unsigned sim_end_events(struct sim_end *end); /* POLL* */
/* One of a loop's operations on a connection. */
void sim_end_io_start(struct sim_end *end, struct sim_io *op);
/* Puts an operation on a list of waiting ones, from which it may be cancelled. */
void sim_io_wait(struct sim_io *op, struct sim_ios *list);
/* Takes it off and ends it. */
void sim_io_wait_end(struct sim_io *op, int result);

#endif

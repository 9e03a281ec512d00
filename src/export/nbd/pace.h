/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whether a connection that has answered everything waits for the next request, or rests first, until the client has
 * read most of what it was sent.
 *
 * A client that keeps many requests in flight, on another CPU, sends them one by one; a server that is faster wakes for
 * each, and pays three system calls and a switch a request. A client that has answers to read will send more when it
 * has read them: so the rest ends when the socket can be written to again, which for a unix socket is when three
 * quarters of its memory are free, and one wake-up takes many requests. Where so much is never on its way the rest is
 * over at once. It is only right while the client has more to send: a rest must have brought WEIR_NBD_REST_GAIN
 * requests, else the next ones are tried ever more rarely, so that a client with one request in flight pays for one
 * rest in thousands.
 *
 * A client may send without reading, until we have taken what it sends: a rest ends after WEIR_NBD_REST_MAX_NS in any
 * case, and is not tried again for long.
 */
#ifndef WEIR_EXPORT_NBD_PACE_H
#define WEIR_EXPORT_NBD_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define WEIR_NBD_REST_MAX_NS (20 * 1000000LL)
#define WEIR_NBD_REST_GAIN 3u

/* Begins zeroed. Of one connection; its loop only. */
struct weir_nbd_pace {
    bool rested;      /* since the last question */
    uint64_t before;  /* requests of the connection when that rest began */
    unsigned trust;   /* rests that may still bring too little before they end */
    unsigned waits;   /* waits without a rest until the next trial */
    unsigned backoff; /* how many of them the next trial earns, should it fail */
};

/* Everything is answered, @requests of this connection so far: whether to rest now. */
bool weir_nbd_pace_rests(struct weir_nbd_pace *pace, uint64_t requests);
/* The rest had to be ended by its limit. */
void weir_nbd_pace_fails(struct weir_nbd_pace *pace);

#endif

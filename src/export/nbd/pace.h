/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Whether a connection that has answered everything waits for the next request, or rests a moment first.
 *
 * A client that keeps many requests in flight, on another CPU, sends them one by one; a server that is faster
 * wakes for each, and pays three system calls and a switch a request. After a rest of a few microseconds one wake-up
 * takes many, and the client is disturbed less. That is only right while the client has more to send: a rest must
 * have brought WEIR_NBD_REST_GAIN requests, else the next ones are tried ever more rarely, so that a client with one
 * request in flight pays for one rest in thousands.
 */
#ifndef WEIR_EXPORT_NBD_PACE_H
#define WEIR_EXPORT_NBD_PACE_H

#include <stdbool.h>
#include <stdint.h>

#define WEIR_NBD_REST_NS 12000
#define WEIR_NBD_REST_GAIN 3u

/* Begins zeroed. Of one connection; its loop only. */
struct weir_nbd_pace {
    bool rested;      /* since the last question */
    uint64_t before;  /* requests of the connection when that rest began */
    unsigned trust;   /* rests that may still bring too little before they end */
    unsigned waits;   /* waits without a rest until the next trial */
    unsigned backoff; /* how many of them the next trial earns, should it fail */
};

/* Everything is answered and sent, @requests of this connection so far: whether to rest now. */
bool weir_nbd_pace_rests(struct weir_nbd_pace *pace, uint64_t requests);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How hard a copy may work beside guests: how many chunks at a time, how large, and how long it rests between them.
 *
 * Plain arithmetic on what the guests' requests went through; no time of its own, no lock. Time is cut into windows.
 * Steps go from one small chunk with rests between to several larger ones. A window in which the guests' mean latency
 * stayed near what it is at the lowest step allows the next step; one in which it rose takes half of the steps away.
 * The lowest step is entered again and again, for that measure grows old. Guests that ask for nothing leave all to
 * the copy.
 */
#ifndef WEIR_JOB_PACE_H
#define WEIR_JOB_PACE_H

#include "base/macros.h"
#include <stdbool.h>
#include <stdint.h>

/* Guests count as busy for so long after a request, and for longer where requests take long. */
#define WEIR_PACE_BUSY_NS (20 * 1000000LL)
#define WEIR_PACE_WORKERS_MAX 16u
/* Default of the share of time that the copy works at the lowest step, in percent. */
#define WEIR_PACE_SHARE_DEFAULT 20u

/* What the guests' requests have gone through, since any beginning. */
struct weir_pace_guests {
    uint64_t ended;     /* requests */
    uint64_t waited_ns; /* for them, together */
    int64_t last_ns;    /* when the last one ended; 0: none did */
    unsigned waiting;   /* requests that are known to be under way */
};

struct weir_pace_limits {
    unsigned workers; /* chunks at a time */
    uint64_t chunk;   /* bytes of one */
    unsigned share;   /* percent of the time that a worker works; it rests for the others. 100: no rest */
    bool apart;       /* nobody minds a second processor: writes are done there, beside the next reads */
};

struct weir_pace {
    unsigned share;
    bool direct; /* requests reach the device: it likes many, and large ones */
    unsigned step;
    bool busy;
    int64_t window_ns;            /* when the window began */
    struct weir_pace_guests then; /* what there was at that time */
    int64_t mean_ns;              /* the guests' mean latency in the last window in which requests ended */
    int64_t settled_ns;           /* windows at the lowest step that began earlier say nothing of it */
    int64_t calm_ns, calm_at_ns;  /* the last such mean at the lowest step, and when that was */
};

/* @share: 1 to 100. */
void weir_pace_init(struct weir_pace *pace, unsigned share, bool direct);
/* Takes a look at what guests went through until @now_ns, and returns what the copy may do. */
struct weir_pace_limits weir_pace_look(struct weir_pace *pace, int64_t now_ns,
                                       const struct weir_pace_guests *guests);
/* How long to rest after a chunk that took @took_ns. */
int64_t weir_pace_rest(const struct weir_pace_limits *limits, int64_t took_ns);

#endif

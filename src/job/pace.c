/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/pace.h"

#define WINDOW_NS (20 * 1000000LL)
/* How long a measure of the calm stands. */
#define CALM_NS (2000 * 1000000LL)
/* A mean latency that much above the calm one is the guests' cost of the copy: too much of it. */
#define RISE_FACTOR 2
#define RISE_NS 100000
/* Guests are still there for so many of their mean latencies after a request, but not for longer than this. */
#define BUSY_MEANS 4
#define BUSY_MAX_NS (1000 * 1000000LL)
/* Requests that are longer than this may have begun before a window, under what the step before allowed. */
#define SHORT_NS (WINDOW_NS / 8)
#define SETTLE_MAX_NS (1000 * 1000000LL)
/* A rest is never longer: a chunk that took long in a storage that hung for a while is no reason to sleep for long. */
#define REST_MAX_NS (1000 * 1000000LL)

#define KIB(n) ((uint64_t)(n) << 10)

/*
 * Beside guests. A write of theirs may have to wait for one chunk: in the range lock, or in the host, which lets one
 * write at a time into a file.
 */
static const struct weir_pace_limits buffered_steps[] = {
    { .workers = 1, .chunk = KIB(64), .share = 0 /* an option */ },
    { .workers = 1, .chunk = KIB(64), .share = 100 },
    { .workers = 2, .chunk = KIB(64), .share = 100 },
    { .workers = 4, .chunk = KIB(128), .share = 100 },
};
static const struct weir_pace_limits direct_steps[] = {
    { .workers = 1, .chunk = KIB(64), .share = 0 },    { .workers = 1, .chunk = KIB(64), .share = 100 },
    { .workers = 1, .chunk = KIB(256), .share = 100 }, { .workers = 2, .chunk = KIB(256), .share = 100 },
    { .workers = 4, .chunk = KIB(256), .share = 100 }, { .workers = 8, .chunk = KIB(256), .share = 100 },
};

/* Alone. What is copied by the processor goes in pieces that stay in its cache. */
static const struct weir_pace_limits buffered_alone = {
    .workers = 4, .chunk = KIB(256), .share = 100, .apart = true
};
static const struct weir_pace_limits direct_alone = { .workers = WEIR_PACE_WORKERS_MAX,
                                                      .chunk = KIB(1024),
                                                      .share = 100 };

void weir_pace_init(struct weir_pace *pace, unsigned share, bool direct)
{
    *pace = (struct weir_pace){ .share = share, .direct = direct };
}

static void begin_window(struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    pace->window_ns = now_ns;
    pace->then = *guests;
}

/* The lowest step says what the calm is like, once the requests have ended that were begun before. */
static void go_lowest(struct weir_pace *pace, int64_t now_ns)
{
    pace->step = 0;
    pace->settled_ns = now_ns + (pace->mean_ns > SHORT_NS ? WEIR_MIN(pace->mean_ns, SETTLE_MAX_NS) : 0);
}

/* The mean latency since the window began: whether there is one, as requests have ended. */
static bool learn_mean(struct weir_pace *pace, const struct weir_pace_guests *guests)
{
    uint64_t ended = guests->ended - pace->then.ended;

    if (ended)
        pace->mean_ns = (int64_t)((guests->waited_ns - pace->then.waited_ns) / ended);
    return ended;
}

static void lower(struct weir_pace *pace, int64_t now_ns)
{
    if (pace->step / 2)
        pace->step /= 2;
    else if (pace->step)
        go_lowest(pace, now_ns);
}

/* A window may have come to its end. */
static void look_at_window(struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    unsigned count = pace->direct ? WEIR_ARRAY_SIZE(direct_steps) : WEIR_ARRAY_SIZE(buffered_steps);
    int64_t most = RISE_FACTOR * pace->calm_ns + RISE_NS;

    if (now_ns - pace->window_ns < WINDOW_NS)
        return;
    if (!learn_mean(pace, guests)) {
        /* They all wait, for longer than they would in the calm; or it is too early to tell. */
        if (!guests->waiting || now_ns - pace->window_ns < WINDOW_NS + most)
            return;
        lower(pace, now_ns);
    } else if (!pace->step && pace->window_ns >= pace->settled_ns) {
        pace->calm_ns = pace->mean_ns;
        pace->calm_at_ns = now_ns;
        pace->step = 1;
    } else if (pace->step && pace->mean_ns > most) {
        lower(pace, now_ns);
    } else if (pace->step && now_ns - pace->calm_at_ns > CALM_NS) {
        go_lowest(pace, now_ns);
    } else if (pace->step && pace->step + 1 < count) {
        pace->step++;
    }
    begin_window(pace, now_ns, guests);
}

static bool are_busy(const struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    int64_t horizon = WEIR_MAX(WEIR_PACE_BUSY_NS, WEIR_MIN(BUSY_MEANS * pace->mean_ns, BUSY_MAX_NS));

    return guests->waiting || (guests->last_ns && now_ns - guests->last_ns < horizon);
}

struct weir_pace_limits weir_pace_look(struct weir_pace *pace, int64_t now_ns,
                                       const struct weir_pace_guests *guests)
{
    struct weir_pace_limits limits;
    bool busy = are_busy(pace, now_ns, guests);

    if (busy && !pace->busy) {
        (void)!learn_mean(pace, guests); /* how long they are there for after a request follows from it */
        go_lowest(pace, now_ns);
        begin_window(pace, now_ns, guests);
    } else if (busy) {
        look_at_window(pace, now_ns, guests);
    }
    pace->busy = busy;
    if (!busy)
        return pace->direct ? direct_alone : buffered_alone;
    limits = pace->direct ? direct_steps[pace->step] : buffered_steps[pace->step];
    if (!limits.share)
        limits.share = pace->share;
    return limits;
}

int64_t weir_pace_rest(const struct weir_pace_limits *limits, int64_t took_ns)
{
    int64_t rest = took_ns / limits->share * (100 - limits->share);

    return WEIR_MIN(rest, REST_MAX_NS);
}

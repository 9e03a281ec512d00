/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/pace.h"

#define WINDOW_NS (20 * 1000000LL)
/* How long a measure of the calm stands. */
#define CALM_NS (2000 * 1000000LL)
/* A mean latency that much above the calm one is the guests' cost of the copy: too much of it. */
#define RISE_FACTOR 2
#define RISE_NS 100000
/* Guests are still there for so many of their mean latencies after a request. */
#define BUSY_MEANS 4
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

/* Whether the guests of this window waited too long because of us; also learns what the calm is like. */
static bool too_hard(struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    uint64_t ended = guests->ended - pace->then.ended;

    /* None has ended: either none was there for it, or all of them wait. */
    if (!ended)
        return guests->waiting;
    pace->mean_ns = (int64_t)((guests->waited_ns - pace->then.waited_ns) / ended);
    if (!pace->step) {
        pace->calm_ns = pace->mean_ns;
        pace->calm_at_ns = now_ns;
        return false;
    }
    return pace->mean_ns > RISE_FACTOR * pace->calm_ns + RISE_NS;
}

static bool are_busy(const struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    int64_t horizon = WEIR_MAX(WEIR_PACE_BUSY_NS, BUSY_MEANS * pace->mean_ns);

    return guests->waiting || (guests->last_ns && now_ns - guests->last_ns < horizon);
}

static void end_window(struct weir_pace *pace, int64_t now_ns, const struct weir_pace_guests *guests)
{
    unsigned count = pace->direct ? WEIR_ARRAY_SIZE(direct_steps) : WEIR_ARRAY_SIZE(buffered_steps);

    if (too_hard(pace, now_ns, guests))
        pace->step /= 2;
    else if (pace->step && now_ns - pace->calm_at_ns > CALM_NS)
        pace->step = 0;
    else if (pace->step + 1 < count)
        pace->step++;
    begin_window(pace, now_ns, guests);
}

struct weir_pace_limits weir_pace_look(struct weir_pace *pace, int64_t now_ns,
                                       const struct weir_pace_guests *guests)
{
    struct weir_pace_limits limits;
    bool busy = are_busy(pace, now_ns, guests);

    if (busy && !pace->busy) {
        pace->step = 0;
        begin_window(pace, now_ns, guests);
    } else if (busy && now_ns - pace->window_ns >= WINDOW_NS) {
        end_window(pace, now_ns, guests);
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

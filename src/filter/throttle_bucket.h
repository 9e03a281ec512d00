/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Leaky buckets, and the limits of a throttle group as six of them. Plain functions; the caller guards the
 * data.
 *
 * A bucket fills by what passes and leaks `average` units a second. A request may pass while the level is
 * at most the bucket's capacity; it may overfill it, and who comes next waits until the surplus has leaked
 * out. Without a burst rate the capacity is a tenth of a second's leak. With one, a burst may last
 * `seconds` at that rate: the capacity is rate * seconds, and for bursts longer than a second a second
 * bucket, which leaks at the burst rate and holds a tenth of a second of it, keeps the burst from being
 * faster than it says.
 */
#ifndef WEIR_FILTER_THROTTLE_BUCKET_H
#define WEIR_FILTER_THROTTLE_BUCKET_H

#include "base/error.h"
#include "base/macros.h"

struct weir_q_throttle_limits;

enum weir_throttle_kind {
    WEIR_THROTTLE_BPS_TOTAL,
    WEIR_THROTTLE_BPS_READ,
    WEIR_THROTTLE_BPS_WRITE,
    WEIR_THROTTLE_OPS_TOTAL,
    WEIR_THROTTLE_OPS_READ,
    WEIR_THROTTLE_OPS_WRITE,
};
#define WEIR_THROTTLE_KINDS 6

struct weir_throttle_bucket {
    double average, burst; /* units a second; 0: no limit, no burst */
    double seconds;        /* that a burst may last, >= 1 */
    double level, burst_level;
};

struct weir_throttle_buckets {
    struct weir_throttle_bucket bucket[WEIR_THROTTLE_KINDS];
    double ops_size;   /* bytes that count as one operation; 0: any length */
    int64_t leaked_ns; /* until when the levels are */
};

/* Checks @limits and makes empty buckets of them. */
int weir_throttle_buckets_init(struct weir_throttle_buckets *buckets,
                               const struct weir_q_throttle_limits *limits, int64_t now_ns,
                               struct weir_error **err) weir_must_check;
/* Whether any limit is set / one on totals is. */
bool weir_throttle_buckets_limit(const struct weir_throttle_buckets *buckets);
bool weir_throttle_buckets_total(const struct weir_throttle_buckets *buckets);
/* How long a read or write has to wait at @now_ns: 0, it may pass; else ns. Leaks first. */
int64_t weir_throttle_buckets_wait(struct weir_throttle_buckets *buckets, bool write, int64_t now_ns);
/* A read or write of @length bytes passes. */
void weir_throttle_buckets_pass(struct weir_throttle_buckets *buckets, bool write, uint64_t length);

#endif

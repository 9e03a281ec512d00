/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * See throttle_bucket.h for the model.
 */
#include "filter/throttle_bucket.h"

#include "gen/schema.h"
#include <errno.h>

#define VALUE_MAX 1000000000000000LL /* of any limit, and of what a burst may hold */
#define NS_PER_SECOND 1e9
#define TENTH 0.1

struct values {
    int64_t average, burst, seconds;
};

/* In the order of enum weir_throttle_kind. */
static void limits_values(const struct weir_q_throttle_limits *l,
                          struct values ret_values[WEIR_THROTTLE_KINDS])
{
    const struct values values[WEIR_THROTTLE_KINDS] = {
        { l->bps_total, l->bps_total_max, l->bps_total_max_length },
        { l->bps_read, l->bps_read_max, l->bps_read_max_length },
        { l->bps_write, l->bps_write_max, l->bps_write_max_length },
        { l->iops_total, l->iops_total_max, l->iops_total_max_length },
        { l->iops_read, l->iops_read_max, l->iops_read_max_length },
        { l->iops_write, l->iops_write_max, l->iops_write_max_length },
    };

    for (unsigned i = 0; i < WEIR_THROTTLE_KINDS; i++)
        ret_values[i] = values[i];
}

/* Totals and a direction of the same kind exclude each other. */
static bool mixed(const struct values *total)
{
    return (total[0].average && (total[1].average || total[2].average)) ||
           (total[0].burst && (total[1].burst || total[2].burst));
}

static int check_one(const struct values *v, struct weir_error **err)
{
    if (v->average < 0 || v->burst < 0 || v->average > VALUE_MAX || v->burst > VALUE_MAX)
        return weir_error_set(err, -EINVAL, "bps/iops/max values must be within [0, %lld]", VALUE_MAX);
    if (v->seconds <= 0)
        return weir_error_set(err, -EINVAL, "the burst length cannot be 0");
    if (v->seconds > 1 && !v->burst)
        return weir_error_set(err, -EINVAL, "burst length set without burst rate");
    if (v->burst && v->seconds > VALUE_MAX / v->burst)
        return weir_error_set(err, -EINVAL, "burst length too high for this burst rate");
    if (v->burst && !v->average)
        return weir_error_set(err, -EINVAL, "bps_max/iops_max require corresponding bps/iops values");
    if (v->burst && v->burst < v->average)
        return weir_error_set(err, -EINVAL, "bps_max/iops_max cannot be lower than bps/iops");
    return 0;
}

static int check(const struct weir_q_throttle_limits *limits, const struct values *values,
                 struct weir_error **err)
{
    if (mixed(&values[WEIR_THROTTLE_BPS_TOTAL]) || mixed(&values[WEIR_THROTTLE_OPS_TOTAL]))
        return weir_error_set(
            err, -EINVAL, "bps/iops/max total values and read/write values cannot be used at the same time");
    if (limits->iops_size < 0)
        return weir_error_set(err, -EINVAL, "bps/iops/max values must be within [0, %lld]", VALUE_MAX);
    if (limits->iops_size && !values[WEIR_THROTTLE_OPS_TOTAL].average &&
        !values[WEIR_THROTTLE_OPS_READ].average && !values[WEIR_THROTTLE_OPS_WRITE].average)
        return weir_error_set(err, -EINVAL, "iops size requires an iops value to be set");
    for (unsigned i = 0; i < WEIR_THROTTLE_KINDS; i++) {
        int ret = check_one(&values[i], err);

        if (ret < 0)
            return ret;
    }
    return 0;
}

int weir_throttle_buckets_init(struct weir_throttle_buckets *buckets,
                               const struct weir_q_throttle_limits *limits, int64_t now_ns,
                               struct weir_error **err)
{
    struct values values[WEIR_THROTTLE_KINDS];
    int ret;

    limits_values(limits, values);
    ret = check(limits, values, err);
    if (ret < 0)
        return ret;
    *buckets = (struct weir_throttle_buckets){ .ops_size = (double)limits->iops_size, .leaked_ns = now_ns };
    for (unsigned i = 0; i < WEIR_THROTTLE_KINDS; i++) {
        buckets->bucket[i].average = (double)values[i].average;
        buckets->bucket[i].burst = (double)values[i].burst;
        buckets->bucket[i].seconds = (double)values[i].seconds;
    }
    return 0;
}

bool weir_throttle_buckets_limit(const struct weir_throttle_buckets *buckets)
{
    for (unsigned i = 0; i < WEIR_THROTTLE_KINDS; i++) {
        if (buckets->bucket[i].average > 0)
            return true;
    }
    return false;
}

bool weir_throttle_buckets_total(const struct weir_throttle_buckets *buckets)
{
    return buckets->bucket[WEIR_THROTTLE_BPS_TOTAL].average > 0 ||
           buckets->bucket[WEIR_THROTTLE_OPS_TOTAL].average > 0;
}

static void leak(struct weir_throttle_buckets *buckets, int64_t now_ns)
{
    double seconds = (double)(now_ns - buckets->leaked_ns) / NS_PER_SECOND;

    if (seconds <= 0)
        return;
    buckets->leaked_ns = now_ns;
    for (unsigned i = 0; i < WEIR_THROTTLE_KINDS; i++) {
        struct weir_throttle_bucket *bucket = &buckets->bucket[i];

        bucket->level = WEIR_MAX(bucket->level - bucket->average * seconds, 0.0);
        bucket->burst_level = WEIR_MAX(bucket->burst_level - bucket->burst * seconds, 0.0);
    }
}

/* Seconds until the bucket lets something pass. */
static double bucket_wait(const struct weir_throttle_bucket *bucket)
{
    double capacity = bucket->burst > 0 ? bucket->burst * bucket->seconds : bucket->average * TENTH;
    double wait = 0;

    if (!(bucket->average > 0))
        return 0;
    if (bucket->level > capacity)
        wait = (bucket->level - capacity) / bucket->average;
    if (bucket->seconds > 1 && bucket->burst_level > bucket->burst * TENTH)
        wait = WEIR_MAX(wait, (bucket->burst_level - bucket->burst * TENTH) / bucket->burst);
    return wait;
}

/* The buckets that a read or write goes through: totals and its direction, bytes and operations. */
static unsigned bucket_of(unsigned i, bool write)
{
    const enum weir_throttle_kind kinds[2][4] = {
        { WEIR_THROTTLE_BPS_TOTAL, WEIR_THROTTLE_OPS_TOTAL, WEIR_THROTTLE_BPS_READ, WEIR_THROTTLE_OPS_READ },
        { WEIR_THROTTLE_BPS_TOTAL, WEIR_THROTTLE_OPS_TOTAL, WEIR_THROTTLE_BPS_WRITE,
          WEIR_THROTTLE_OPS_WRITE },
    };

    return kinds[write][i];
}

int64_t weir_throttle_buckets_wait(struct weir_throttle_buckets *buckets, bool write, int64_t now_ns)
{
    double wait = 0;

    leak(buckets, now_ns);
    for (unsigned i = 0; i < 4; i++) {
        double one = bucket_wait(&buckets->bucket[bucket_of(i, write)]);

        wait = WEIR_MAX(wait, one);
    }
    if (!(wait > 0))
        return 0;
    /* Rounded up, so that waiting so long is enough. */
    return wait * NS_PER_SECOND < (double)(INT64_MAX / 4) ? (int64_t)(wait * NS_PER_SECOND) + 1
                                                          : INT64_MAX / 4;
}

void weir_throttle_buckets_pass(struct weir_throttle_buckets *buckets, bool write, uint64_t length)
{
    double bytes = (double)length, ops = 1;

    if (buckets->ops_size > 0 && bytes > buckets->ops_size)
        ops = bytes / buckets->ops_size;
    for (unsigned i = 0; i < 4; i++) {
        enum weir_throttle_kind kind = bucket_of(i, write);
        double units = kind >= WEIR_THROTTLE_OPS_TOTAL ? ops : bytes;

        buckets->bucket[kind].level += units;
        buckets->bucket[kind].burst_level += units;
    }
}

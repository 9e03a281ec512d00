/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Throttle groups: who may pass when.
 *
 * Requests that must wait stand in rows: one for reads and one for writes, or a common one when there is a
 * limit on totals. In each row of a group one waiter has the *turn*: it alone sleeps on a deadline, takes
 * its share of the buckets, and hands the turn to the first waiter of the next member. So members get equal
 * numbers of turns, on whatever loops they are, and nobody overtakes within a member.
 *
 * Limits can change at any time, under the mutex; whoever waits is woken and looks again. Whether a node's
 * submit() is asked at all (`cares`) may change in a drained section only. Therefore a node cares from the
 * moment on at which its group has limits for the first time, and stays so; without limits it passes
 * requests on at the price of one load.
 *
 * The mutex guards members, rows, turns and buckets; it is held for a few instructions.
 */
#include "filter/throttle_group.h"

#include "base/alloc.h"
#include "co/co.h"
#include "filter/throttle_bucket.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "sys/sys.h"
#include <errno.h>
#include <string.h>

struct weir_throttle_waiter {
    struct weir_throttle_member *member;
    bool write;
    unsigned row;
    struct weir_co_queue queue; /* of itself alone */
    TAILQ_ENTRY(weir_throttle_waiter) link;
};

struct weir_throttle_group {
    char *name;
    struct weir_q_throttle_limits limits; /* as given; control loop */
    struct weir_mutex mutex;
    atomic_bool limited;
    bool joined; /* limits on totals: one row */
    struct weir_throttle_buckets buckets;
    struct weir_throttle_waiter *turn[WEIR_THROTTLE_ROWS];
    TAILQ_HEAD(, weir_throttle_member) members;
    TAILQ_ENTRY(weir_throttle_group) link;
};

static TAILQ_HEAD(, weir_throttle_group) groups = TAILQ_HEAD_INITIALIZER(groups);

/* ---- rows and turns; mutex held ---- */

static void wake(struct weir_throttle_waiter *waiter)
{
    (void)weir_co_queue_wake_one(&waiter->queue);
}

static struct weir_throttle_member *next_member(struct weir_throttle_member *member)
{
    struct weir_throttle_member *next = TAILQ_NEXT(member, link);

    return next ? next : TAILQ_FIRST(&member->group->members);
}

/* Gives the turn of @row to the first waiter of the first member after @last that has one. */
static void pass_turn(struct weir_throttle_group *group, unsigned row, struct weir_throttle_member *last)
{
    struct weir_throttle_member *member = last;

    group->turn[row] = NULL;
    do {
        member = next_member(member);
        group->turn[row] = TAILQ_FIRST(&member->rows[row]);
    } while (!group->turn[row] && member != last);
    if (group->turn[row])
        wake(group->turn[row]);
}

static unsigned row_of(const struct weir_throttle_group *group, bool write)
{
    return !group->joined && write ? 1 : 0;
}

static void enqueue(struct weir_throttle_waiter *waiter)
{
    struct weir_throttle_member *member = waiter->member;

    waiter->row = row_of(member->group, waiter->write);
    TAILQ_INSERT_TAIL(&member->rows[waiter->row], waiter, link);
    if (!member->group->turn[waiter->row])
        member->group->turn[waiter->row] = waiter;
}

static void dequeue(struct weir_throttle_waiter *waiter)
{
    struct weir_throttle_group *group = waiter->member->group;

    TAILQ_REMOVE(&waiter->member->rows[waiter->row], waiter, link);
    if (group->turn[waiter->row] == waiter)
        pass_turn(group, waiter->row, waiter->member);
}

/* Puts every waiter into the row where it belongs now, in the order in which it stood, and wakes it. */
static void sort_rows(struct weir_throttle_group *group)
{
    struct weir_throttle_member *member;
    struct weir_throttle_waiter *waiter;

    group->turn[0] = group->turn[1] = NULL;
    TAILQ_FOREACH (member, &group->members, link) {
        struct weir_throttle_waiters all = TAILQ_HEAD_INITIALIZER(all);

        TAILQ_CONCAT(&all, &member->rows[0], link);
        TAILQ_CONCAT(&all, &member->rows[1], link);
        while ((waiter = TAILQ_FIRST(&all))) {
            TAILQ_REMOVE(&all, waiter, link);
            enqueue(waiter);
            wake(waiter);
        }
    }
}

static bool goes_free(const struct weir_throttle_member *member)
{
    return member->released || !atomic_load_explicit(&member->group->limited, memory_order_relaxed);
}

/* ---- requests ---- */

bool weir_throttle_unlimited(const struct weir_throttle_member *member)
{
    return !atomic_load_explicit(&member->group->limited, memory_order_acquire);
}

/* In the row until it may pass. */
static weir_co_fn void wait_turn(struct weir_throttle_waiter *waiter, uint64_t length)
{
    struct weir_throttle_group *group = waiter->member->group;

    enqueue(waiter);
    while (!goes_free(waiter->member)) {
        int64_t deadline = -1;

        if (group->turn[waiter->row] == waiter) {
            int64_t now = weir_sys->clock_ns();
            int64_t wait = weir_throttle_buckets_wait(&group->buckets, waiter->write, now);

            if (!wait) {
                weir_throttle_buckets_pass(&group->buckets, waiter->write, length);
                break;
            }
            deadline = now + wait;
        }
        /* Woken or late: both mean to look again. */
        (void)weir_co_queue_wait_until(&waiter->queue, &group->mutex, deadline);
    }
    dequeue(waiter);
}

void weir_throttle_wait(struct weir_throttle_member *member, bool write, uint64_t length)
{
    struct weir_throttle_group *group = member->group;
    struct weir_throttle_waiter waiter = { .member = member, .write = write };

    weir_co_queue_init(&waiter.queue);
    weir_mutex_lock(&group->mutex);
    if (!goes_free(member)) {
        bool first = !group->turn[row_of(group, write)];

        if (first && !weir_throttle_buckets_wait(&group->buckets, write, weir_sys->clock_ns()))
            weir_throttle_buckets_pass(&group->buckets, write, length);
        else
            wait_turn(&waiter, length);
    }
    weir_mutex_unlock(&group->mutex);
}

static void wake_member(struct weir_throttle_member *member)
{
    struct weir_throttle_waiter *waiter;

    for (unsigned row = 0; row < WEIR_THROTTLE_ROWS; row++) {
        TAILQ_FOREACH (waiter, &member->rows[row], link)
            wake(waiter);
    }
}

void weir_throttle_release(struct weir_throttle_member *member)
{
    WEIR_SCOPE_LOCK(&member->group->mutex);
    if (!member->released++)
        wake_member(member);
}

void weir_throttle_hold(struct weir_throttle_member *member)
{
    WEIR_SCOPE_LOCK(&member->group->mutex);
    WEIR_ASSERT(member->released > 0);
    member->released--;
}

/* ---- members ---- */

void weir_throttle_join(struct weir_throttle_group *group, struct weir_throttle_member *member,
                        struct weir_node *node)
{
    member->group = group;
    member->node = node;
    for (unsigned row = 0; row < WEIR_THROTTLE_ROWS; row++)
        TAILQ_INIT(&member->rows[row]);
    WEIR_SCOPE_LOCK(&group->mutex);
    member->cares = atomic_load_explicit(&group->limited, memory_order_relaxed);
    TAILQ_INSERT_TAIL(&group->members, member, link);
}

void weir_throttle_leave(struct weir_throttle_member *member)
{
    struct weir_throttle_group *group = member->group;

    WEIR_SCOPE_LOCK(&group->mutex);
    for (unsigned row = 0; row < WEIR_THROTTLE_ROWS; row++)
        WEIR_ASSERT(TAILQ_EMPTY(&member->rows[row]));
    TAILQ_REMOVE(&group->members, member, link);
}

/* ---- groups ---- */

static const struct weir_q_throttle_limits no_limits = {
    .iops_total_max_length = 1,
    .iops_read_max_length = 1,
    .iops_write_max_length = 1,
    .bps_total_max_length = 1,
    .bps_read_max_length = 1,
    .bps_write_max_length = 1,
};

struct weir_throttle_group *weir_throttle_group_find(const char *name)
{
    struct weir_throttle_group *group;

    TAILQ_FOREACH (group, &groups, link) {
        if (!strcmp(group->name, name))
            return group;
    }
    return NULL;
}

const char *weir_throttle_group_name(const struct weir_throttle_group *group)
{
    return group->name;
}

static void apply(struct weir_throttle_group *group, const struct weir_q_throttle_limits *limits,
                  const struct weir_throttle_buckets *buckets)
{
    group->limits = *limits;
    WEIR_SCOPE_LOCK(&group->mutex);
    group->buckets = *buckets;
    group->joined = weir_throttle_buckets_total(buckets);
    atomic_store_explicit(&group->limited, weir_throttle_buckets_limit(buckets), memory_order_release);
    sort_rows(group);
}

int weir_throttle_group_new(const char *name, const struct weir_q_throttle_limits *limits,
                            struct weir_error **err)
{
    struct weir_throttle_buckets buckets;
    struct weir_throttle_group *group;
    int ret;

    limits = limits ? limits : &no_limits;
    if (weir_throttle_group_find(name))
        return weir_error_set(err, -EEXIST, "A throttle group with the name '%s' exists already", name);
    ret = weir_throttle_buckets_init(&buckets, limits, weir_sys->clock_ns(), err);
    if (ret < 0)
        return ret;
    group = weir_new(struct weir_throttle_group);
    group->name = weir_strdup(name);
    weir_mutex_init(&group->mutex);
    TAILQ_INIT(&group->members);
    apply(group, limits, &buckets);
    TAILQ_INSERT_TAIL(&groups, group, link);
    return 0;
}

int weir_throttle_group_del(struct weir_throttle_group *group, struct weir_error **err)
{
    if (!TAILQ_EMPTY(&group->members))
        return weir_error_set(err, -EBUSY, "object '%s' is in use, can not be deleted", group->name);
    TAILQ_REMOVE(&groups, group, link);
    weir_mutex_done(&group->mutex);
    free(group->name);
    free(group);
    return 0;
}

/* A member whose node has to be drained before it can be limited. */
static struct weir_throttle_member *next_careless(struct weir_throttle_group *group)
{
    struct weir_throttle_member *member;

    TAILQ_FOREACH (member, &group->members, link) {
        /* A node in limbo gets no new requests. */
        if (!member->cares && !member->node->in_limbo)
            return member;
    }
    return NULL;
}

/* Membership can change while a drain waits: after each one, the search begins anew. */
static weir_co_fn int make_members_care(struct weir_throttle_group *group, struct weir_error **err)
{
    struct weir_throttle_member *member;

    while ((member = next_careless(group))) {
        struct weir_node *node = weir_node_ref(member->node);
        struct weir_drain drain;
        int ret = weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, err);

        if (!ret) {
            member->cares = true;
            weir_node_refresh_cares(node);
            weir_drain_end(&drain);
        }
        weir_node_unref(node);
        if (ret)
            return ret;
    }
    return 0;
}

int weir_throttle_group_set_limits(struct weir_throttle_group *group,
                                   const struct weir_q_throttle_limits *limits, struct weir_error **err)
{
    struct weir_throttle_buckets buckets;
    int ret = weir_throttle_buckets_init(&buckets, limits, weir_sys->clock_ns(), err);

    if (ret < 0)
        return ret;
    weir_graph_lock();
    if (weir_throttle_buckets_limit(&buckets))
        ret = make_members_care(group, err);
    if (!ret)
        apply(group, limits, &buckets);
    weir_graph_unlock();
    return ret;
}

void weir_throttle_group_limits(struct weir_throttle_group *group, struct weir_q_throttle_limits *ret_limits)
{
    struct weir_q_throttle_limits *l = ret_limits;

    *l = group->limits;
    l->has_bps_total = l->has_bps_total_max = l->has_bps_total_max_length = true;
    l->has_bps_read = l->has_bps_read_max = l->has_bps_read_max_length = true;
    l->has_bps_write = l->has_bps_write_max = l->has_bps_write_max_length = true;
    l->has_iops_total = l->has_iops_total_max = l->has_iops_total_max_length = true;
    l->has_iops_read = l->has_iops_read_max = l->has_iops_read_max_length = true;
    l->has_iops_write = l->has_iops_write_max = l->has_iops_write_max_length = true;
    l->has_iops_size = true;
}

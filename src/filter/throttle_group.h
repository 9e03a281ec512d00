/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Throttle groups: limits that several nodes share.
 *
 * A group holds leaky buckets (see throttle_group.c). Its members are the throttle nodes that name it; each
 * has its own queue, and members take turns. Groups live in a registry by name.
 *
 * Threads: registry, limits and membership on the control loop; weir_throttle_wait() on any loop.
 */
#ifndef WEIR_FILTER_THROTTLE_GROUP_H
#define WEIR_FILTER_THROTTLE_GROUP_H

#include "base/error.h"
#include "base/macros.h"
#include <stdatomic.h>
#include <sys/queue.h>

struct weir_node;
struct weir_q_throttle_limits;
struct weir_throttle_group;
struct weir_throttle_waiter;
TAILQ_HEAD(weir_throttle_waiters, weir_throttle_waiter);

/* Requests that wait for the same buckets in one row: reads and writes, or (limits on totals) all. */
#define WEIR_THROTTLE_ROWS 2

/* A node's place in its group; in the node's state. Guarded by the group's mutex, except where said. */
struct weir_throttle_member {
    struct weir_throttle_group *group;
    struct weir_node *node;
    bool cares;        /* its submit() is asked; control loop, changes while drained */
    unsigned released; /* drains that let its requests go; nesting */
    struct weir_throttle_waiters rows[WEIR_THROTTLE_ROWS];
    TAILQ_ENTRY(weir_throttle_member) link;
};

/* ---- groups; control loop ---- */
/* @limits NULL: none. Fails when the name is taken or the limits make no sense. */
int weir_throttle_group_new(const char *name, const struct weir_q_throttle_limits *limits,
                            struct weir_error **err) weir_must_check;
struct weir_throttle_group *weir_throttle_group_find(const char *name); /* or NULL */
const char *weir_throttle_group_name(const struct weir_throttle_group *group);
/* The group of a throttle node; NULL for other nodes. */
struct weir_throttle_group *weir_throttle_group_of(struct weir_node *node);
/* Refuses while nodes use it. */
int weir_throttle_group_del(struct weir_throttle_group *group, struct weir_error **err) weir_must_check;
/*
 * From now on these are the limits. Requests that wait are looked at again at once. The first limits that a
 * group ever gets make its nodes ask for requests, inside a drained section of each: if that cannot be had,
 * the limits stay as they were. Takes the graph-change lock.
 */
int weir_throttle_group_set_limits(struct weir_throttle_group *group,
                                   const struct weir_q_throttle_limits *limits,
                                   struct weir_error **err) weir_co_fn weir_must_check;
/* As they were given; every has_ flag is set. */
void weir_throttle_group_limits(struct weir_throttle_group *group, struct weir_q_throttle_limits *ret_limits);

/* ---- members ---- */
/* Control loop. @member is zeroed memory. Sets member->cares if the group has limits. */
void weir_throttle_join(struct weir_throttle_group *group, struct weir_throttle_member *member,
                        struct weir_node *node);
/* Control loop; no request waits. */
void weir_throttle_leave(struct weir_throttle_member *member);
/* Waits until @length bytes may be read or written, and counts them. Any loop. */
void weir_throttle_wait(struct weir_throttle_member *member, bool write, uint64_t length) weir_co_fn;
/* Whether nothing has to wait now as the group has no limits. Any loop. */
bool weir_throttle_unlimited(const struct weir_throttle_member *member);
/* While released, the member's requests neither wait nor count. Control loop; nests. */
void weir_throttle_release(struct weir_throttle_member *member);
void weir_throttle_hold(struct weir_throttle_member *member);

#endif

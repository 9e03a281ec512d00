/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the files of blkdebug share: its rules and its breakpoints. Guarded by the node's mutex.
 */
#ifndef WEIR_FILTER_BLKDEBUG_INTERNAL_H
#define WEIR_FILTER_BLKDEBUG_INTERNAL_H

#include "co/co.h"
#include "filter/blkdebug.h"
#include "graph/event.h"
#include "io/request.h"

struct weir_q_blkdebug_inject_error_options;
struct weir_q_blkdebug_set_state_options;

/* ---- rules (blkdebug_rules.c) ---- */
struct blkdebug_rule {
    enum weir_event event;
    bool sets_state;          /* otherwise it injects an error */
    int64_t state, new_state; /* state 0: any */
    unsigned ops;             /* WEIR_OP_BIT */
    int error;                /* -errno, or 0: only the delay */
    uint64_t sector;          /* UINT64_MAX: any */
    int64_t delay_ns;
    bool once, immediately;
    bool armed, spent;
};
struct blkdebug_rules {
    struct blkdebug_rule *list;
    unsigned count;
    int64_t state;
};

/* An empty set in state 1. */
void blkdebug_rules_init(struct blkdebug_rules *rules);
void blkdebug_rules_done(struct blkdebug_rules *rules);
int blkdebug_rules_inject(struct blkdebug_rules *rules,
                          const struct weir_q_blkdebug_inject_error_options *opts,
                          struct weir_error **err) weir_must_check;
void blkdebug_rules_set_state(struct blkdebug_rules *rules,
                              const struct weir_q_blkdebug_set_state_options *opts);
/* What an event does to the rules: those of the present state are armed, then the state changes. */
void blkdebug_rules_event(struct blkdebug_rules *rules, enum weir_event event);
/* The first rule that fails @request, or NULL. A rule for once is spent by this. */
const struct blkdebug_rule *blkdebug_rules_match(struct blkdebug_rules *rules,
                                                 const struct weir_request *request, bool immediately);
/* Whether a rule can fail requests of this kind. */
bool blkdebug_rules_want(const struct blkdebug_rules *rules, enum weir_op op);

/* ---- the file of rules (blkdebug_config.c) ---- */
int blkdebug_config_read(const char *path, struct blkdebug_rules *rules,
                         struct weir_error **err) weir_co_fn weir_must_check;

/* ---- breakpoints (blkdebug_break.c) ---- */
struct blkdebug_break {
    char *tag;
    enum weir_event event;
    bool held;                       /* somebody is here */
    bool resumed;                    /* and may leave: it frees the breakpoint */
    struct weir_co_queue held_queue; /* of the one who is held */
    TAILQ_ENTRY(blkdebug_break) link;
};
TAILQ_HEAD(blkdebug_break_list, blkdebug_break);
struct blkdebug_breaks {
    struct blkdebug_break_list list; /* newest first: the first that fits holds */
    struct weir_co_queue arrived;    /* those who wait for somebody to be held */
    bool over;                       /* let_go(): nobody is held any more */
};

void blkdebug_breaks_init(struct blkdebug_breaks *breaks);
void blkdebug_breaks_done(struct blkdebug_breaks *breaks);
/* Mutex held, given back while the caller is held. */
void blkdebug_breaks_hold(struct blkdebug_breaks *breaks, enum weir_event event,
                          struct weir_mutex *mutex) weir_co_fn;
/* Lets everybody go, and holds nobody from now on. */
void blkdebug_breaks_let_go(struct blkdebug_breaks *breaks);

/* Of a blkdebug node: its breakpoints and the mutex for them. */
struct blkdebug_breaks *blkdebug_breaks_of(struct weir_node *node, struct weir_mutex **ret_mutex);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Switches that take one law out of force, so that the simulator can prove that it would notice.
 *
 * In the product every WEIR_LAW() is the constant true. In the simulator's build each stands around exactly the
 * call that enforces the law.
 */
#ifndef WEIR_BASE_LAW_H
#define WEIR_BASE_LAW_H

enum weir_law {
    WEIR_LAW_PENDING,    /* 1: an allocation is invisible until its data is written */
    WEIR_LAW_EXCLUSIVE,  /* 2: lock units held exclusively from the allocating map to its commit */
    WEIR_LAW_PIN,        /* 3: reads and overwrites hold their range shared */
    WEIR_LAW_QUARANTINE, /* 4: freed space is discarded and reused only after the metadata is durable */
    WEIR_LAW_MONITOR,    /* 5: map, commit, abort, release of a node never interleave */
    WEIR_LAW_BARRIER,    /* 6: data is flushed before the table that points to it is written */
    WEIR_LAW_ORDER,      /* 7: counts are durable before the tables that need them */
    /* Of a mirror; the rules are those of docs/architecture.md. */
    WEIR_LAW_INNER,   /* M4: an active write clears only granules that lie wholly inside it */
    WEIR_LAW_COPY,    /* M2: a copy and an active write exclude each other */
    WEIR_LAW_MODE,    /* M7: a request has one mode */
    WEIR_LAW_REMARK,  /* M6: what an active write did not bring to the target is marked */
    WEIR_LAW_INSERT,  /* M1: everything is marked when the filter is inserted */
    WEIR_LAW_RECHECK, /* M8: the marks are looked at again before the filter is removed */
    /* Of copies that do not change what is read. */
    WEIR_LAW_UNCHANGED, /* copy-on-read: only what is not mapped is filled in, checked under the lock */
};

/* What the simulator counts in the library, to know that a run has reached it. */
enum weir_law_count { WEIR_LAW_COUNT_RANGE_WAITS, WEIR_LAW_COUNTS };

#ifdef WEIR_LAW_SWITCHES
#include <stdint.h>
extern unsigned weir_laws_off;
extern uint64_t weir_law_counts[WEIR_LAW_COUNTS];
#define WEIR_LAW(law) (!(weir_laws_off & (1u << (law))))
#define WEIR_LAW_COUNT(what) (weir_law_counts[what]++)
/* Another loop may run here, were it not for the monitor. For code that stands above src/sys. */
#define WEIR_LAW_PREEMPT() (weir_sys->thread.preempt())
#else
#define WEIR_LAW(law) 1
#define WEIR_LAW_COUNT(what) ((void)0)
#define WEIR_LAW_PREEMPT() ((void)0)
#endif

#endif

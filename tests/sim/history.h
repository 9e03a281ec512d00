/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The oracle for disks that several guests write at once: which values may a sector hold?
 *
 * Each change of a sector is known by its value, when it began and when it ended (0 while open), and whether it
 * certainly took effect. Value v may be seen by an observation in [from, to] if a change to v began before `to` and
 * no certain change that began after v's end was over before `from`. One rule serves reads, snapshots, copies of a
 * point in time, and power cuts: there `from` is when the last good flush was issued, and changes that were
 * answered as durable (FUA) count as well. The clock only orders events; it is not time.
 */
#ifndef WEIR_TESTS_SIM_HISTORY_H
#define WEIR_TESTS_SIM_HISTORY_H

#include "base/macros.h"

#define HISTORY_SECTORS_MAX 4096u
#define HISTORY_EVENTS_MAX 400000u

/* Once per process, before seeds are run: the memory. */
void history_alloc(void);
/* Forgets everything; the clock starts anew. */
void history_reset(void);
uint64_t history_now(void);
uint64_t history_tick(void);

/* A change of @sector begins; what it returns names it. */
int history_begin(uint64_t sector, uint64_t value);
/* It has ended. @certain: it took effect; @durable: and no power cut undoes it. */
void history_end(int event, bool certain, bool durable);
bool history_allowed(uint64_t sector, uint64_t value, uint64_t from, uint64_t to);
/* After a power cut: @flushed is when the last good flush was issued. */
bool history_survives(uint64_t sector, uint64_t value, uint64_t flushed);
/*
 * For a copy of one moment: narrows [*low, *high] to the moments at which the sector can have held @value, where that
 * is one stretch of time. The moment lies between all calls.
 */
void history_narrow(uint64_t sector, uint64_t value, uint64_t *low, uint64_t *high);
/* From now on the sector is known to hold @value, for good. */
void history_settle(uint64_t sector, uint64_t value);
/* Shows what is known of a sector, for a failing seed. */
void history_show(uint64_t sector);

#endif

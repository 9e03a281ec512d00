/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Counts live heap allocations of a program, to check that a life that ended orderly gave everything back.
 *
 * For programs linked with sim_heap_dep, which sends the program's own calls of malloc() and its kin (not those
 * inside of shared libraries) through here. One OS thread only.
 */
#ifndef WEIR_SYS_SIM_HEAP_H
#define WEIR_SYS_SIM_HEAP_H

#include "base/macros.h"

/* Forgets what is there and counts from now on. */
void weir_sim_heap_begin(void);
/* Allocations made since then and not yet freed. */
size_t weir_sim_heap_live(void);
/* Shows them, in the order in which they were made: @caller is a code address. */
void weir_sim_heap_each(void (*show)(const void *memory, size_t size, const void *caller));
/*
 * After a power cut: what is there now is not counted any more, and LeakSanitizer does not report what the
 * abandoned life had allocated. It is not given back.
 */
void weir_sim_heap_forget(void);
/* Stops counting. */
void weir_sim_heap_end(void);

#endif

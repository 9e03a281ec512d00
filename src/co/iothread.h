/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Named loops: what `object-add iothread` makes, and the default loop for data.
 *
 * The control loop must stay responsive, so nothing that serves guests runs there: who names no iothread gets the
 * default one, "io", which is made at its first use, is never listed and cannot be deleted.
 * Everything here runs on the control loop.
 */
#ifndef WEIR_CO_IOTHREAD_H
#define WEIR_CO_IOTHREAD_H

#include "base/error.h"
#include "base/macros.h"

struct weir_iothread;
struct weir_loop;

/* Starts a loop under the name @id; names must be unique. */
int weir_iothread_add(const char *id, struct weir_error **err) weir_must_check;
/* Ends it; refused while somebody holds a reference. */
int weir_iothread_del(const char *id, struct weir_error **err) weir_co_fn weir_must_check;
/* NULL when there is none; the default one is never found. Borrowed. */
struct weir_iothread *weir_iothread_find(const char *id);
/* The next one after @iothread in the order of creation, without the default one; NULL: the first. */
struct weir_iothread *weir_iothread_next(struct weir_iothread *iothread);
/* The default loop for data, with a reference. */
int weir_iothread_default(struct weir_iothread **ret_iothread, struct weir_error **err) weir_must_check;

struct weir_iothread *weir_iothread_ref(struct weir_iothread *iothread);
void weir_iothread_unref(struct weir_iothread *iothread); /* NULL is fine; the loop lives on */
struct weir_loop *weir_iothread_loop(const struct weir_iothread *iothread);
const char *weir_iothread_id(const struct weir_iothread *iothread);

/* What each loop runs when it ends, on its own thread (to give back what it keeps for reuse). NULL: nothing. */
void weir_iothread_set_at_end(void (*run)(void));
/*
 * Ends all of them, also those in use, and waits at most @limit_ns. Returns how many still run something that does
 * not end; those are left alone. Once, at the end of the process.
 */
unsigned weir_iothreads_done(int64_t limit_ns) weir_co_fn;

#endif

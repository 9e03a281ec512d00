/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers and switches written as text: the leaves of keyval options and of command lines.
 *
 * Each function is true when the whole of @text is one value, and leaves *ret_value alone otherwise. Plain
 * memory work; any thread.
 */
#ifndef WEIR_BASE_SCHEMA_TEXT_H
#define WEIR_BASE_SCHEMA_TEXT_H

#include "base/macros.h"

/* on, yes, true, y; off, no, false, n. */
bool weir_text_to_bool(const char *text, bool *ret_value) weir_must_check;
/* Decimal, 0x or leading-0 octal; sign and white space in front allowed. */
bool weir_text_to_int(const char *text, int64_t *ret_value) weir_must_check;
bool weir_text_to_double(const char *text, double *ret_value) weir_must_check;
/*
 * Bytes: decimal with an optional suffix b, k, M, G, T, P, E (powers of 1024, either case) and, before a suffix
 * other than b, a fraction; or 0x without either.
 */
bool weir_text_to_size(const char *text, uint64_t *ret_value) weir_must_check;

#endif

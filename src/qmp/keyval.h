/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option text of the command line: "a=b,c.d=e,list.0=x", or a JSON object.
 *
 * A comma inside a value is written twice. Dots in a key make objects, numbers in it arrays. Where the option has an
 * implied key, a first part without '=' is its value. Of equal keys the last counts. All values are strings: the
 * schema turns them into what they mean. Plain memory work; any thread.
 */
#ifndef WEIR_QMP_KEYVAL_H
#define WEIR_QMP_KEYVAL_H

#include "base/error.h"
#include "base/schema.h"
#include <jansson.h>

/* Bytes of one part of a dotted key. */
#define WEIR_KEYVAL_FRAGMENT_MAX 127

/* Parses keyval text into an object of strings, objects and arrays. @implied_key may be NULL. */
int weir_keyval_parse(const char *text, const char *implied_key, json_t **ret_object,
                      struct weir_error **err) weir_must_check;

/*
 * Parses an option of type @type, keyval or JSON (when it starts with '{'), and checks it. *ret_value is typed JSON:
 * what the same words in a QMP command would have been.
 */
int weir_option_parse(const char *text, const char *implied_key, const struct weir_schema_type *type,
                      json_t **ret_value, struct weir_error **err) weir_must_check;

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Parses one JSON value that is wholly in memory. Private to json_stream.c, which finds its ends.
 */
#ifndef WEIR_QMP_JSON_PARSE_H
#define WEIR_QMP_JSON_PARSE_H

#include "base/error.h"
#include "base/macros.h"
#include <jansson.h>

/*
 * Parses the value at *text (white space before it is skipped) and moves *text behind it. @end is one past the
 * last byte. Fails with the texts that managers know: "JSON parse error, ...".
 */
int weir_json_parse_value(const char **text, const char *end, json_t **ret_value,
                          struct weir_error **err) weir_must_check;

static inline bool weir_json_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

#endif

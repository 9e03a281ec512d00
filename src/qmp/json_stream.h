/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * JSON as a QMP client sends it: a stream of values, fed in pieces of any size.
 *
 * Beside plain JSON, strings may stand in single quotes. Values need no separator. A byte 0xFF, which no text
 * holds, throws away what is unfinished: a client resynchronises with it. After an error the stream goes on behind
 * the bytes that were refused. Limits: nesting, values and bytes of one message. Plain memory work; any thread,
 * one at a time for a stream.
 */
#ifndef WEIR_QMP_JSON_STREAM_H
#define WEIR_QMP_JSON_STREAM_H

#include "base/error.h"
#include "base/macros.h"
#include <jansson.h>

/* Arrays and objects within each other: what parsing, printing and freeing take of a coroutine's stack. */
#define WEIR_JSON_DEPTH_MAX 256
/* Bytes of one message. */
#define WEIR_JSON_MESSAGE_MAX (64u << 20)
/* Values (members of objects and arrays, at every level) of one message. */
#define WEIR_JSON_VALUES_MAX (256u << 10)

struct weir_json_stream;

enum weir_json_result {
    WEIR_JSON_MORE,  /* all input is consumed, no value is complete */
    WEIR_JSON_VALUE, /* *ret_value is a new reference */
    WEIR_JSON_ERROR, /* *err is set */
};

struct weir_json_stream *weir_json_stream_new(void);
void weir_json_stream_free(struct weir_json_stream *stream); /* NULL is fine */
/*
 * Consumes bytes up to the end of the next value or error; *data and *length move on. Call it again until it
 * returns WEIR_JSON_MORE. Of ret_value and err the one that the result names is set, the other left alone.
 */
enum weir_json_result weir_json_stream_next(struct weir_json_stream *stream, const char **data,
                                            size_t *length, json_t **ret_value,
                                            struct weir_error **err) weir_must_check;
/* Whether a value is begun but not complete. */
bool weir_json_stream_pending(const struct weir_json_stream *stream);

/* Parses @length bytes that hold exactly one value (an option on the command line). */
int weir_json_parse(const char *text, size_t length, json_t **ret_value,
                    struct weir_error **err) weir_must_check;

#endif

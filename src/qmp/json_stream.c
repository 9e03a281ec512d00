/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Finds where the values of a JSON stream begin and end.
 *
 * A small automaton looks at every byte once: strings, escapes, and a stack of open braces and brackets (one bit
 * each). Bytes of the unfinished value are kept; when its last byte arrives the parser gets the whole. What no
 * JSON text can hold (control bytes, 0xFF, other bytes outside strings) is refused on the spot and takes the
 * unfinished value with it, so that an unbalanced client can always get back into step.
 */
#include "qmp/json_stream.h"
#include "base/alloc.h"
#include "qmp/json_parse.h"
#include <errno.h>
#include <string.h>

/* The buffer is given back after a value when it has grown beyond this. */
#define BUFFER_KEEP 65536

enum state {
    BETWEEN,   /* no value begun */
    WORD,      /* in a number or word that is a value by itself */
    STRUCTURE, /* inside an object or array */
    STRING,    /* inside a string, at any depth */
    ESCAPE,    /* behind a backslash in a string */
};

struct weir_json_stream {
    enum state state;
    char quote;
    unsigned depth;
    uint8_t braces[WEIR_JSON_DEPTH_MAX / 8]; /* bit n: level n is an object */
    char *buffer;
    size_t length, capacity;
};

/* What one byte means. */
enum step {
    STEP_NEXT,        /* nothing yet */
    STEP_DONE,        /* the value ends with this byte */
    STEP_DONE_BEFORE, /* the value ended before this byte */
    STEP_STRAY,       /* the byte has no place here */
    STEP_DEPTH,       /* too deep */
};

struct weir_json_stream *weir_json_stream_new(void)
{
    return weir_new(struct weir_json_stream);
}

void weir_json_stream_free(struct weir_json_stream *stream)
{
    if (!stream)
        return;
    free(stream->buffer);
    free(stream);
}

bool weir_json_stream_pending(const struct weir_json_stream *stream)
{
    return stream->state != BETWEEN;
}

static void reset(struct weir_json_stream *stream)
{
    stream->state = BETWEEN;
    stream->depth = 0;
    stream->length = 0;
    if (stream->capacity > BUFFER_KEEP) {
        free(stream->buffer);
        stream->buffer = NULL;
        stream->capacity = 0;
    }
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' || c == '+' ||
           c == '.' || c == '_';
}

static enum step open_level(struct weir_json_stream *stream, bool brace)
{
    unsigned level = stream->depth;

    if (level == WEIR_JSON_DEPTH_MAX)
        return STEP_DEPTH;
    stream->braces[level / 8] &= (uint8_t) ~(1u << level % 8);
    stream->braces[level / 8] |= (uint8_t)((unsigned)brace << level % 8);
    stream->depth++;
    stream->state = STRUCTURE;
    return STEP_NEXT;
}

/* A closing byte that does not fit ends the value too: the parser will say what is wrong with it. */
static enum step close_level(struct weir_json_stream *stream, bool brace)
{
    unsigned level;

    if (!stream->depth)
        return STEP_DONE;
    level = --stream->depth;
    if ((stream->braces[level / 8] >> level % 8 & 1) != brace)
        return STEP_DONE;
    return stream->depth ? STEP_NEXT : STEP_DONE;
}

static enum step step_plain(struct weir_json_stream *stream, char c)
{
    switch (c) {
    case '{':
    case '[':
        return open_level(stream, c == '{');
    case '}':
    case ']':
        return close_level(stream, c == '}');
    case '"':
    case '\'':
        stream->quote = c;
        stream->state = STRING;
        return STEP_NEXT;
    case ',':
    case ':':
        return stream->depth ? STEP_NEXT : STEP_DONE;
    default:
        break;
    }
    if (weir_json_is_space(c))
        return STEP_NEXT;
    if (!is_word(c))
        return STEP_STRAY;
    if (!stream->depth)
        stream->state = WORD;
    return STEP_NEXT;
}

static enum step step_string(struct weir_json_stream *stream, char c)
{
    if ((unsigned char)c < 0x20 || (unsigned char)c == 0xff)
        return STEP_STRAY;
    if (stream->state == ESCAPE) {
        stream->state = STRING;
    } else if (c == '\\') {
        stream->state = ESCAPE;
    } else if (c == stream->quote) {
        stream->state = STRUCTURE;
        return stream->depth ? STEP_NEXT : STEP_DONE;
    }
    return STEP_NEXT;
}

static enum step step(struct weir_json_stream *stream, char c)
{
    switch (stream->state) {
    case STRING:
    case ESCAPE:
        return step_string(stream, c);
    case WORD:
        return is_word(c) ? STEP_NEXT : STEP_DONE_BEFORE;
    default:
        return step_plain(stream, c);
    }
}

static void keep(struct weir_json_stream *stream, char c)
{
    if (stream->length == stream->capacity) {
        stream->capacity = WEIR_MAX(stream->capacity * 2, (size_t)256);
        stream->buffer = weir_realloc(stream->buffer, stream->capacity);
    }
    stream->buffer[stream->length++] = c;
}

static enum weir_json_result finish(struct weir_json_stream *stream, json_t **ret_value,
                                    struct weir_error **err)
{
    const char *text = stream->buffer;
    int ret = weir_json_parse_value(&text, stream->buffer + stream->length, ret_value, err);

    reset(stream);
    return ret < 0 ? WEIR_JSON_ERROR : WEIR_JSON_VALUE;
}

static enum weir_json_result refuse(struct weir_json_stream *stream, enum step why, char c,
                                    struct weir_error **err)
{
    if (why == STEP_DEPTH)
        (void)weir_error_set(err, -EINVAL, "JSON nesting depth limit exceeded");
    else if ((unsigned char)c >= 0x80)
        (void)weir_error_set(err, -EINVAL, "JSON parse error, stray '\xef\xbf\xbd'");
    else
        (void)weir_error_set(err, -EINVAL, "JSON parse error, stray '%c'", c ? c : ' ');
    reset(stream);
    return WEIR_JSON_ERROR;
}

enum weir_json_result weir_json_stream_next(struct weir_json_stream *stream, const char **data,
                                            size_t *length, json_t **ret_value, struct weir_error **err)
{
    while (*length) {
        char c = **data;
        enum step what = step(stream, c);

        if (what == STEP_DONE_BEFORE)
            return finish(stream, ret_value, err);
        (*data)++;
        (*length)--;
        if (what == STEP_STRAY || what == STEP_DEPTH)
            return refuse(stream, what, c, err);
        if (stream->state == BETWEEN && what == STEP_NEXT)
            continue; /* white space in front of a value */
        if (stream->length == WEIR_JSON_MESSAGE_MAX) {
            (void)weir_error_set(err, -EINVAL, "JSON token size limit exceeded");
            reset(stream);
            return WEIR_JSON_ERROR;
        }
        keep(stream, c);
        if (what == STEP_DONE)
            return finish(stream, ret_value, err);
    }
    return WEIR_JSON_MORE;
}

int weir_json_parse(const char *text, size_t length, json_t **ret_value, struct weir_error **err)
{
    const char *at = text, *end = text + length;
    json_t *value;
    int ret = weir_json_parse_value(&at, end, &value, err);

    if (ret < 0)
        return ret;
    while (at < end && weir_json_is_space(*at))
        at++;
    if (at < end) {
        json_decref(value);
        return weir_error_set(err, -EINVAL, "Expecting at most one JSON value");
    }
    *ret_value = value;
    return 0;
}

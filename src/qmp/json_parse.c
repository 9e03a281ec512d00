/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A recursive-descent JSON parser that builds jansson values.
 *
 * jansson's own parser knows neither single-quoted strings nor the limits and texts that a monitor owes its
 * clients. Depth is bounded, so recursion is; the count of values bounds memory, which for small values is a
 * large multiple of the text.
 */
#include "qmp/json_parse.h"
#include "base/alloc.h"
#include "qmp/json_stream.h"
#include <errno.h>
#include <string.h>

struct parse {
    const char *at, *end;
    unsigned depth, values;
    struct weir_error **err;
};

static json_t *parse_any(struct parse *parse);

static json_t *fail(struct parse *parse, const char *what)
{
    (void)weir_error_set(parse->err, -EINVAL, "JSON parse error, %s", what);
    return NULL;
}

static bool refuse(struct parse *parse, const char *what)
{
    fail(parse, what);
    return false;
}

static json_t *fail_limit(struct parse *parse, const char *what)
{
    (void)weir_error_set(parse->err, -EINVAL, "JSON %s limit exceeded", what);
    return NULL;
}

static void skip_space(struct parse *parse)
{
    while (parse->at < parse->end && weir_json_is_space(*parse->at))
        parse->at++;
}

/* The next byte that is no white space, or 0 at the end. */
static char peek(struct parse *parse)
{
    skip_space(parse);
    return parse->at < parse->end ? *parse->at : 0;
}

/* ---- strings ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Four hex digits at @text, or -1. */
static int32_t hex4(const char *text, const char *end)
{
    int32_t value = 0;

    if (end - text < 4)
        return -1;
    for (unsigned i = 0; i < 4; i++) {
        int digit = hex_digit(text[i]);

        if (digit < 0)
            return -1;
        value = value << 4 | digit;
    }
    return value;
}

static size_t put_utf8(char *out, uint32_t code)
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

static bool is_high_surrogate(int32_t code)
{
    return code >= 0xd800 && code < 0xdc00;
}

static bool is_low_surrogate(int32_t code)
{
    return code >= 0xdc00 && code < 0xe000;
}

/* What follows "\u": one code unit or a pair. -1 and an error for anything that is no character. */
static int32_t take_unicode(struct parse *parse)
{
    int32_t code = hex4(parse->at, parse->end);
    const char *low_at = parse->at + 6;

    if (code < 0) {
        fail(parse, "invalid hex escape sequence in string");
        return -1;
    }
    if (is_high_surrogate(code) && parse->end - parse->at >= 10 && parse->at[4] == '\\' &&
        parse->at[5] == 'u') {
        int32_t low = hex4(low_at, parse->end);

        if (is_low_surrogate(low)) {
            parse->at += 10;
            return 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        }
    }
    if (is_high_surrogate(code) || is_low_surrogate(code)) {
        (void)weir_error_set(parse->err, -EINVAL,
                             "JSON parse error, \\u%.4s is not a valid Unicode character", parse->at);
        return -1;
    }
    parse->at += 4;
    return code;
}

/* One escape behind its backslash; bytes written to @out, or 0 and an error. */
static size_t take_escape(struct parse *parse, char *out)
{
    static const char from[] = "\"'\\/bfnrt", to[] = "\"'\\/\b\f\n\r\t";
    const char *found;
    int32_t code;

    if (parse->at == parse->end || !*parse->at) {
        fail(parse, "invalid escape sequence in string");
        return 0;
    }
    if (*parse->at == 'u') {
        parse->at++;
        code = take_unicode(parse);
        return code < 0 ? 0 : put_utf8(out, (uint32_t)code);
    }
    found = strchr(from, *parse->at);
    if (!found) {
        fail(parse, "invalid escape sequence in string");
        return 0;
    }
    parse->at++;
    *out = to[found - from];
    return 1;
}

/* Decodes the string at the quote into @out, which has room for its encoded length. False with an error. */
static bool take_string(struct parse *parse, char *out, size_t *ret_length)
{
    char quote = *parse->at++;
    size_t length = 0;

    while (parse->at < parse->end && *parse->at != quote) {
        size_t n = 1;

        if ((unsigned char)*parse->at < 0x20)
            return refuse(parse, "control character in string");
        if (*parse->at == '\\') {
            parse->at++;
            n = take_escape(parse, out + length);
            if (!n)
                return false;
        } else {
            out[length] = *parse->at++;
        }
        length += n;
    }
    if (parse->at == parse->end)
        return refuse(parse, "premature EOI");
    parse->at++;
    *ret_length = length;
    return true;
}

/* Bytes up to the closing quote or the end: more than the decoded string can have. */
static size_t string_room(const struct parse *parse)
{
    const char *at = parse->at + 1;

    while (at < parse->end && *at != *parse->at)
        at += *at == '\\' && at + 1 < parse->end ? 2 : 1;
    return (size_t)(at - parse->at) + 1;
}

static json_t *parse_string(struct parse *parse)
{
    weir_autofree char *text = weir_alloc(string_room(parse));
    size_t length = 0;
    json_t *value;

    if (!take_string(parse, text, &length))
        return NULL;
    value = json_stringn(text, length);
    return value ? value : fail(parse, "invalid UTF-8 sequence in string");
}

/* ---- numbers and words ---- */

static const char *skip_digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

/* Where the number at @at ends by JSON's grammar, or NULL; *ret_real: it has a fraction or an exponent. */
static const char *number_end(const char *at, const char *end, bool *ret_real)
{
    const char *digits = at + (at < end && *at == '-');
    const char *next = skip_digits(digits, end);

    if (next == digits || (*digits == '0' && next - digits > 1))
        return NULL;
    *ret_real = false;
    if (next < end && *next == '.') {
        digits = next + 1;
        next = skip_digits(digits, end);
        if (next == digits)
            return NULL;
        *ret_real = true;
    }
    if (next < end && (*next | 0x20) == 'e') {
        digits = next + 1;
        digits += digits < end && (*digits == '+' || *digits == '-');
        next = skip_digits(digits, end);
        if (next == digits)
            return NULL;
        *ret_real = true;
    }
    return next;
}

static json_t *parse_number(struct parse *parse, size_t length)
{
    weir_autofree char *text = weir_alloc(length + 1);
    bool real;
    long long number;
    json_t *value;

    memcpy(text, parse->at, length);
    if (number_end(text, text + length, &real) != text + length) {
        (void)weir_error_set(parse->err, -EINVAL, "JSON parse error, stray '%s'", text);
        return NULL;
    }
    parse->at += length;
    errno = 0;
    number = strtoll(text, NULL, 10);
    if (!real && !errno)
        return json_integer(number);
    /* A whole number beyond 64 bits keeps its size, not its last digits. */
    value = json_real(strtod(text, NULL));
    return value ? value : fail(parse, "number out of range");
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' || c == '+' ||
           c == '.' || c == '_';
}

static json_t *parse_word(struct parse *parse)
{
    const char *at = parse->at;
    size_t length;

    while (at < parse->end && is_word(*at))
        at++;
    length = (size_t)(at - parse->at);
    if (!length)
        return fail(parse, parse->at == parse->end ? "premature EOI" : "expecting value");
    if (*parse->at == '-' || (*parse->at >= '0' && *parse->at <= '9'))
        return parse_number(parse, length);
    at = parse->at;
    parse->at += length;
    if (length == 4 && !memcmp(at, "true", 4))
        return json_true();
    if (length == 5 && !memcmp(at, "false", 5))
        return json_false();
    if (length == 4 && !memcmp(at, "null", 4))
        return json_null();
    (void)weir_error_set(parse->err, -EINVAL, "JSON parse error, invalid keyword '%.*s'",
                         (int)WEIR_MIN(length, 64), at);
    return NULL;
}

/* ---- arrays and objects ---- */

/* Behind a member: 1 = another follows, 0 = the closing @close was taken, -1 = error. */
static int take_separator(struct parse *parse, char close, const char *what)
{
    char c = peek(parse);

    if (c == close || c == ',') {
        parse->at++;
        return c == ',';
    }
    fail(parse, parse->at == parse->end ? "premature EOI" : what);
    return -1;
}

static json_t *parse_array(struct parse *parse)
{
    json_t *array = json_array();
    int more = 1;

    parse->at++;
    if (peek(parse) == ']') {
        parse->at++;
        return array;
    }
    while (more > 0) {
        json_t *value = parse_any(parse);

        more = -1;
        if (value && json_array_append_new(array, value) == 0)
            more = take_separator(parse, ']', "expected separator in list");
    }
    if (more == 0)
        return array;
    json_decref(array);
    return NULL;
}

static bool parse_pair(struct parse *parse, json_t *object)
{
    json_t *key, *value;
    bool done = false;
    char c = peek(parse);

    if (c != '"' && c != '\'') {
        key = parse_any(parse);
        if (key)
            fail(parse, "key is not a string in object");
        json_decref(key);
        return false;
    }
    key = parse_string(parse);
    if (!key)
        return false;
    if (strlen(json_string_value(key)) != json_string_length(key)) {
        fail(parse, "NUL byte in key");
    } else if (json_object_get(object, json_string_value(key))) {
        fail(parse, "duplicate key");
    } else if (peek(parse) != ':') {
        fail(parse, parse->at == parse->end ? "premature EOI" : "missing : in object pair");
    } else {
        parse->at++;
        value = parse_any(parse);
        done = value && json_object_set_new(object, json_string_value(key), value) == 0;
    }
    json_decref(key);
    return done;
}

static json_t *parse_object(struct parse *parse)
{
    json_t *object = json_object();
    int more = 1;

    parse->at++;
    if (peek(parse) == '}') {
        parse->at++;
        return object;
    }
    while (more > 0)
        more = parse_pair(parse, object) ? take_separator(parse, '}', "expected separator in dict") : -1;
    if (more == 0)
        return object;
    json_decref(object);
    return NULL;
}

static json_t *parse_any(struct parse *parse)
{
    char c = peek(parse);
    json_t *value;

    if (++parse->values > WEIR_JSON_VALUES_MAX)
        return fail_limit(parse, "token count");
    if (parse->depth == WEIR_JSON_DEPTH_MAX)
        return fail_limit(parse, "nesting depth");
    parse->depth++;
    if (c == '{')
        value = parse_object(parse);
    else if (c == '[')
        value = parse_array(parse);
    else if (c == '"' || c == '\'')
        value = parse_string(parse);
    else
        value = parse_word(parse);
    parse->depth--;
    return value;
}

int weir_json_parse_value(const char **text, const char *end, json_t **ret_value, struct weir_error **err)
{
    struct parse parse = { .at = *text, .end = end, .err = err };
    json_t *value = parse_any(&parse);

    *text = parse.at;
    if (!value)
        return -EINVAL;
    *ret_value = value;
    return 0;
}

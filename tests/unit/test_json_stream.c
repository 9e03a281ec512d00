/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The JSON stream: where values end, what is refused, and getting back into step.
 */
#include "unit.h"
#include "base/alloc.h"
#include "qmp/json_stream.h"
#include <stdio.h>
#include <string.h>

struct row {
    const char *input;
    const char *output; /* values as compact JSON and errors as !text, each with a ';' */
};

static const struct row rows[] = {
    { "", "" },
    { "{}", "{};" },
    { " {} \t\r\n[]{}", "{};[];{};" },
    { "{'a':'b'}", "{\"a\":\"b\"};" },
    { "{'a':\"it's\"}", "{\"a\":\"it's\"};" },
    { "{'a':'say \"x\" \\'y\\' \\/ \\\\'}", "{\"a\":\"say \\\"x\\\" 'y' / \\\\\"};" },
    { "'}{'", "\"}{\";" },
    { "'\\b\\f\\n\\r\\t\\u0041\\ud834\\udd1e'", "\"\\b\\f\\n\\r\\tA\xf0\x9d\x84\x9e\";" },
    { "'\\u00e9\\u20ac'", "\"\xc3\xa9\xe2\x82\xac\";" },
    { "5 ", "5;" },
    { "5", "" },
    { "5[", "5;" },
    { "true false null ", "true;false;null;" },
    { "nope ", "!JSON parse error, invalid keyword 'nope';" },
    { "[1,-2,1.5,-1e3,9223372036854775807,-9223372036854775808]",
      "[1,-2,1.5,-1000.0,9223372036854775807,-9223372036854775808];" },
    { "9223372036854775808 ", "9.2233720368547758e18;" },
    { "1e999 ", "!JSON parse error, number out of range;" },
    { "01 ", "!JSON parse error, stray '01';" },
    { "1. ", "!JSON parse error, stray '1.';" },
    { "- ", "!JSON parse error, stray '-';" },
    { "1e ", "!JSON parse error, stray '1e';" },
    { "0x10 ", "!JSON parse error, stray '0x10';" },
    { "+1 ", "!JSON parse error, invalid keyword '+1';" },
    { "{'a':1,}", "!JSON parse error, expecting value;" },
    { "[1,]", "!JSON parse error, expecting value;" },
    { "{'a' 1}", "!JSON parse error, missing : in object pair;" },
    { "{'a':1 'b':2}", "!JSON parse error, expected separator in dict;" },
    { "[1 2]", "!JSON parse error, expected separator in list;" },
    { "{1:2}", "!JSON parse error, key is not a string in object;" },
    { "{a:2}", "!JSON parse error, invalid keyword 'a';" },
    { "{'a':1,'a':2}", "!JSON parse error, duplicate key;" },
    { "{'a\\u0000':1}", "!JSON parse error, NUL byte in key;" },
    { "{'a':[}{}", "!JSON parse error, expecting value;{};" },
    { "}{}", "!JSON parse error, expecting value;{};" },
    { ",{}", "!JSON parse error, expecting value;{};" },
    { "'\\x'", "!JSON parse error, invalid escape sequence in string;" },
    { "'\\u12g4'", "!JSON parse error, invalid hex escape sequence in string;" },
    { "'\\u1'", "!JSON parse error, invalid hex escape sequence in string;" },
    { "'\\ud834'", "!JSON parse error, \\ud834 is not a valid Unicode character;" },
    { "'\\udd1e'", "!JSON parse error, \\udd1e is not a valid Unicode character;" },
    { "'\\ud834\\u0041'", "!JSON parse error, \\ud834 is not a valid Unicode character;" },
    { "'\xc3'", "!JSON parse error, invalid UTF-8 sequence in string;" },
    { "'a\nb' ", "!JSON parse error, stray '\n';!JSON parse error, invalid keyword 'b';" },
    { "\x01{}", "!JSON parse error, stray '\x01';{};" },
    { "/", "!JSON parse error, stray '/';" },
    { "{'a':{'b':\xff{'c':1}", "!JSON parse error, stray '\xef\xbf\xbd';{\"c\":1};" },
    { "{'a':'b\xff{'c':1}", "!JSON parse error, stray '\xef\xbf\xbd';{\"c\":1};" },
    { "'a\\\xff[]", "!JSON parse error, stray '\xef\xbf\xbd';[];" },
};

struct collected {
    char text[4096];
};

static void collect(struct collected *out, struct weir_json_stream *stream, const char *data, size_t length)
{
    for (;;) {
        json_t *value = NULL;
        WEIR_AUTO_ERROR err = NULL;
        enum weir_json_result result = weir_json_stream_next(stream, &data, &length, &value, &err);
        char *dump;

        if (result == WEIR_JSON_MORE)
            break;
        if (result == WEIR_JSON_ERROR) {
            sprintf(out->text + strlen(out->text), "!%s;", weir_error_text(err));
            continue;
        }
        dump = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
        sprintf(out->text + strlen(out->text), "%s;", dump);
        free(dump);
        json_decref(value);
    }
    assert_int_equal(length, 0);
}

/* In one piece, and byte by byte. */
static void test_rows(void **state)
{
    for (size_t i = 0; i < WEIR_ARRAY_SIZE(rows); i++) {
        struct collected whole = { "" }, bytes = { "" };
        struct weir_json_stream *stream = weir_json_stream_new();

        collect(&whole, stream, rows[i].input, strlen(rows[i].input));
        weir_json_stream_free(stream);
        stream = weir_json_stream_new();
        for (const char *at = rows[i].input; *at; at++)
            collect(&bytes, stream, at, 1);
        weir_json_stream_free(stream);
        if (strcmp(whole.text, rows[i].output) != 0 || strcmp(bytes.text, rows[i].output) != 0)
            fail_msg("%s\n expected %s\n whole    %s\n bytes    %s", rows[i].input, rows[i].output,
                     whole.text, bytes.text);
    }
}

static void test_pending(void **state)
{
    struct weir_json_stream *stream = weir_json_stream_new();
    struct collected out = { "" };

    assert_false(weir_json_stream_pending(stream));
    collect(&out, stream, " {", 2);
    assert_true(weir_json_stream_pending(stream));
    collect(&out, stream, "}", 1);
    assert_false(weir_json_stream_pending(stream));
    weir_json_stream_free(stream);
}

static void test_depth(void **state)
{
    struct weir_json_stream *stream = weir_json_stream_new();
    char text[2 * WEIR_JSON_DEPTH_MAX + 2];
    struct collected out = { "" };

    memset(text, '[', WEIR_JSON_DEPTH_MAX + 1);
    memset(text + WEIR_JSON_DEPTH_MAX, ']', WEIR_JSON_DEPTH_MAX);
    collect(&out, stream, text, 2 * WEIR_JSON_DEPTH_MAX);
    assert_int_equal(out.text[0], '[');
    out.text[0] = 0;
    memset(text, '[', WEIR_JSON_DEPTH_MAX + 1);
    collect(&out, stream, text, WEIR_JSON_DEPTH_MAX + 1);
    assert_string_equal(out.text, "!JSON nesting depth limit exceeded;");
    weir_json_stream_free(stream);
}

static void test_limits(void **state)
{
    struct weir_json_stream *stream = weir_json_stream_new();
    size_t length = WEIR_JSON_VALUES_MAX * 2 + 4;
    char *text = weir_alloc(length + 1);
    struct collected out = { "" };

    for (size_t i = 0; i < length; i += 2)
        memcpy(text + i, "1,", 2);
    text[0] = '[';
    text[1] = '1';
    text[2] = ',';
    text[length - 1] = ']';
    text[length - 2] = '1';
    for (size_t i = 3; i < length - 2; i++)
        text[i] = i % 2 ? '1' : ',';
    collect(&out, stream, text, length);
    assert_string_equal(out.text, "!JSON token count limit exceeded;");
    weir_json_stream_free(stream);
    free(text);
}

/* One string that never ends is refused at the limit, and the stream goes on. */
static void test_size(void **state)
{
    struct weir_json_stream *stream = weir_json_stream_new();
    size_t block = 1 << 20;
    char *text = weir_alloc(block);
    struct collected out = { "" };

    memset(text, 'x', block);
    collect(&out, stream, "'", 1);
    for (size_t sent = 0; sent < WEIR_JSON_MESSAGE_MAX - block; sent += block)
        collect(&out, stream, text, block);
    assert_string_equal(out.text, "");
    collect(&out, stream, text, block - 1);
    assert_string_equal(out.text, "");
    collect(&out, stream, "x", 1);
    assert_string_equal(out.text, "!JSON token size limit exceeded;");
    out.text[0] = 0;
    collect(&out, stream, "{}", 2);
    assert_string_equal(out.text, "{};");
    weir_json_stream_free(stream);
    free(text);
}

static void test_parse_one(void **state)
{
    WEIR_AUTO_ERROR first = NULL;
    WEIR_AUTO_ERROR second = NULL;
    WEIR_AUTO_ERROR third = NULL;
    json_t *value = NULL;

    assert_int_equal(weir_json_parse(" [1] ", 5, &value, NULL), 0);
    json_decref(value);
    assert_true(weir_json_parse("{", 1, &value, &first) < 0);
    assert_string_equal(weir_error_text(first), "JSON parse error, premature EOI");
    assert_true(weir_json_parse("{}{", 3, &value, &second) < 0);
    assert_string_equal(weir_error_text(second), "Expecting at most one JSON value");
    assert_true(weir_json_parse("'a", 2, &value, &third) < 0);
    assert_string_equal(weir_error_text(third), "JSON parse error, premature EOI");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),   cmocka_unit_test(test_pending), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_size),    cmocka_unit_test(test_parse_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

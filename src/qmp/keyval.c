/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The keyval parser.
 *
 * First every "key=value" goes into a tree of objects, numbers in keys being ordinary members. Then objects whose
 * members are all numbers become arrays; a mixture is refused, and so is a gap. Keys that name both a value and
 * something below it are refused as soon as they meet, in whichever order.
 */
#include "qmp/keyval.h"
#include "base/alloc.h"
#include "qmp/json_stream.h"
#include <errno.h>
#include <string.h>

/* A piece of the text that is being parsed. */
struct piece {
    const char *at;
    size_t length;
};

static bool is_letter(char c)
{
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "__org.example_" in front of a downstream name: may hold dots. Bytes of it, 0 where there is none. */
static size_t vendor_prefix(const char *at, const char *end)
{
    const char *next = at + 2;

    if (end - at < 3 || at[0] != '_' || at[1] != '_')
        return 0;
    while (next < end && (is_letter(*next) || is_digit(*next) || *next == '-' || *next == '.'))
        next++;
    return next < end && *next == '_' ? (size_t)(next + 1 - at) : 0;
}

/* Bytes of the part of a key at @at: a number or a name. 0 when it is neither. */
static size_t fragment_length(const char *at, const char *end)
{
    const char *next = at;

    while (next < end && is_digit(*next))
        next++;
    if (next > at && (next == end || *next == '.'))
        return (size_t)(next - at);
    next = at + vendor_prefix(at, end);
    if (next == end || !is_letter(*next))
        return 0;
    while (next < end && (is_letter(*next) || is_digit(*next) || *next == '-' || *next == '_'))
        next++;
    return next == end || *next == '.' ? (size_t)(next - at) : 0;
}

static int invalid_key(struct piece key, struct weir_error **err)
{
    return weir_error_set(err, -EINVAL, "Invalid parameter '%.*s'", (int)WEIR_MIN(key.length, (size_t)1024),
                          key.at);
}

static int check_fragment(struct piece key, struct piece fragment, struct weir_error **err)
{
    if (!fragment.length || (fragment.at == key.at && is_digit(*key.at)))
        return invalid_key(key, err);
    if (fragment.length > WEIR_KEYVAL_FRAGMENT_MAX)
        return weir_error_set(err, -EINVAL, "Parameter%s '%.*s' is too long",
                              fragment.length == key.length ? "" : " fragment",
                              (int)WEIR_MIN(fragment.length, (size_t)1024), fragment.at);
    return 0;
}

static int check_key(struct piece key, struct weir_error **err)
{
    const char *at = key.at, *end = key.at + key.length;

    for (unsigned depth = 0;; depth++) {
        struct piece fragment = { at, fragment_length(at, end) };
        int ret = check_fragment(key, fragment, err);

        if (ret < 0)
            return ret;
        if (depth == WEIR_SCHEMA_DEPTH_MAX)
            return weir_error_set(err, -EINVAL, "Parameter '%.*s' is nested too deeply", 64, key.at);
        at += fragment.length;
        if (at == end)
            return 0;
        at++; /* the dot; what follows must be another fragment */
    }
}

static int inconsistent(const char *path, size_t length, struct weir_error **err)
{
    return weir_error_set(err, -EINVAL, "Parameters '%.*s.*' used inconsistently", (int)length, path);
}

/* A new reference, or NULL where the bytes are no UTF-8. */
static json_t *value_string(struct piece value)
{
    weir_autofree char *text = weir_alloc(value.length + 1);
    size_t length = 0;

    for (size_t i = 0; i < value.length; i++) {
        text[length++] = value.at[i];
        if (value.at[i] == ',')
            i++; /* the second of a pair */
    }
    return json_stringn(text, length);
}

/* Puts @value (taken over) at the place that the checked @key names. */
static int store(json_t *tree, struct piece key, json_t *value, struct weir_error **err)
{
    const char *at = key.at, *end = key.at + key.length;

    for (;;) {
        size_t length = fragment_length(at, end);
        json_t *here = json_object_getn(tree, at, length);
        const char *next = at + length;

        if (next == end) {
            int ret = here && !json_is_string(here) ? inconsistent(key.at, key.length, err) : 0;

            if (ret == 0)
                json_object_setn(tree, at, length, value);
            json_decref(value);
            return ret;
        }
        if (here && !json_is_object(here)) {
            json_decref(value);
            return inconsistent(key.at, (size_t)(next - key.at), err);
        }
        if (!here) {
            here = json_object();
            json_object_setn_new(tree, at, length, here);
        }
        tree = here;
        at = next + 1;
    }
}

static struct piece cut_key(const char *text)
{
    return (struct piece){ text, strcspn(text, "=,") };
}

/* Up to the next single comma. */
static struct piece cut_value(const char *text)
{
    const char *at = text;

    while (*at && (*at != ',' || at[1] == ','))
        at += *at == ',' ? 2 : 1;
    return (struct piece){ text, (size_t)(at - text) };
}

static bool asks_for_help(struct piece key)
{
    return (key.length == 4 && !memcmp(key.at, "help", 4)) || (key.length == 1 && *key.at == '?');
}

/* Parses one "key=value" and moves *text behind it and its comma. */
static int parse_one(const char **text, const char *implied_key, json_t *tree, struct weir_error **err)
{
    struct piece key = cut_key(*text), value;
    const char *behind = key.at + key.length;
    json_t *string;
    int ret;

    if (*behind != '=' && asks_for_help(key))
        return weir_error_set(err, -EINVAL, "Help is not available for this option");
    if (implied_key && key.length && *behind != '=') {
        value = cut_value(*text);
        key = (struct piece){ implied_key, strlen(implied_key) };
    } else {
        ret = check_key(key, err);
        if (ret < 0)
            return ret;
        if (*behind != '=')
            return weir_error_set(err, -EINVAL, "Expected '=' after parameter '%.*s'", (int)key.length,
                                  key.at);
        value = cut_value(behind + 1);
    }
    string = value_string(value);
    if (!string)
        return weir_error_set(err, -EINVAL, "Parameter '%.*s' is not valid UTF-8", (int)key.length, key.at);
    *text = value.at + value.length;
    if (**text == ',')
        (*text)++;
    return store(tree, key, string, err);
}

/* ---- objects of numbers become arrays ---- */

static int to_arrays(json_t *value, const char *path, json_t **ret_value, struct weir_error **err);

static int convert_members(json_t *object, const char *path, struct weir_error **err)
{
    const char *name;
    json_t *member;
    void *next;

    json_object_foreach_safe(object, next, name, member)
    {
        weir_autofree char *inner = weir_strdup_printf("%s%s%s", path, *path ? "." : "", name);
        json_t *converted = NULL;
        int ret = json_is_object(member) ? to_arrays(member, inner, &converted, err) : 0;

        if (ret < 0)
            return ret;
        if (converted)
            json_object_set_new(object, name, converted);
    }
    return 0;
}

static size_t count_numbers(json_t *object)
{
    size_t count = 0;
    const char *name;
    json_t *member;

    json_object_foreach(object, name, member) count += is_digit(*name);
    return count;
}

/* Fills an array of @count from members whose names are numbers (leading zeroes allowed). */
static int collect(json_t *object, size_t count, const char *path, json_t **ret_array,
                   struct weir_error **err)
{
    weir_autofree json_t **items = weir_new_array(json_t *, count);
    const char *name;
    json_t *member, *array;

    json_object_foreach(object, name, member)
    {
        unsigned long long index;

        errno = 0;
        index = strtoull(name, NULL, 10);
        if (!errno && index < count)
            items[index] = member;
    }
    for (size_t i = 0; i < count; i++)
        if (!items[i])
            return weir_error_set(err, -EINVAL, "Parameter '%s.%zu' missing", path, i);
    array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append(array, items[i]);
    *ret_array = array;
    return 0;
}

/* *ret_value: the array that takes the place of @value, or unchanged when it stays an object. */
static int to_arrays(json_t *value, const char *path, json_t **ret_value, struct weir_error **err)
{
    size_t numbers = count_numbers(value);
    int ret = convert_members(value, path, err);

    if (ret < 0 || !numbers)
        return ret;
    if (numbers != json_object_size(value))
        return inconsistent(path, strlen(path), err);
    return collect(value, numbers, path, ret_value, err);
}

int weir_keyval_parse(const char *text, const char *implied_key, json_t **ret_object, struct weir_error **err)
{
    json_t *tree = json_object();
    int ret = 0;

    while (ret == 0 && *text) {
        ret = parse_one(&text, implied_key, tree, err);
        implied_key = NULL;
    }
    if (ret == 0)
        ret = convert_members(tree, "", err);
    if (ret < 0)
        json_decref(tree);
    else
        *ret_object = tree;
    return ret;
}

int weir_option_parse(const char *text, const char *implied_key, const struct weir_schema_type *type,
                      json_t **ret_value, struct weir_error **err)
{
    json_t *value;
    int ret;

    if (*text == '{') {
        ret = weir_json_parse(text, strlen(text), &value, err);
        if (ret < 0)
            return ret;
        ret = weir_schema_validate(type, value, err);
        if (ret < 0)
            json_decref(value);
        else
            *ret_value = value;
        return ret;
    }
    ret = weir_keyval_parse(text, implied_key, &value, err);
    if (ret < 0)
        return ret;
    ret = weir_schema_normalize(type, value, ret_value, err);
    json_decref(value);
    return ret;
}

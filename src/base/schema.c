/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table-driven parser behind the generated descriptors.
 *
 * One walk over descriptor and value does everything: checks, conversion of keyval text and filling of the C
 * struct; with no struct it only checks. Members are looked at in the order of the schema, then whatever the
 * schema does not know is refused, so that the first error is always the same one. In keyval input converted
 * leaves replace their text in the tree that is walked (a private copy): what an alternate keeps as JSON is then
 * typed as well.
 *
 * The struct is zeroed first and everything reachable from it is at any time in a state that
 * weir_schema_free() understands, so a failure anywhere frees the whole and nothing else.
 */
#include "base/schema.h"
#include "base/alloc.h"
#include "base/schema_text.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Where in the value we are; lives on the stack of the walk. */
struct path {
    const struct path *up;
    const char *name; /* NULL: an element of an array */
    size_t index;
};

struct walk {
    enum weir_schema_input input;
    struct weir_error **err;
    unsigned depth;
};

struct text {
    char bytes[WEIR_SCHEMA_PATH_MAX];
    size_t length;
};

static int parse_value(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                       const struct path *path, json_t **ret_converted);

static void append(struct text *text, const char *format, const char *name, size_t index)
{
    size_t room = sizeof(text->bytes) - text->length;
    int n = name ? snprintf(text->bytes + text->length, room, format, name)
                 : snprintf(text->bytes + text->length, room, "[%zu]", index);

    text->length = WEIR_MIN(text->length + (size_t)n, sizeof(text->bytes) - 1);
}

static void render(const struct walk *walk, const struct path *path, struct text *text)
{
    if (!path)
        return;
    render(walk, path->up, text);
    if (path->name) {
        append(text, text->length ? ".%s" : "%s", path->name, 0);
    } else if (walk->input == WEIR_SCHEMA_KEYVAL) {
        char number[24];

        snprintf(number, sizeof(number), "%zu", path->index);
        append(text, ".%s", number, 0);
    } else {
        append(text, NULL, NULL, path->index);
    }
}

/* "a.b[0].c" of a path; a value that is no member of anything has no name of its own. */
static struct text path_text(const struct walk *walk, const struct path *path)
{
    struct text text = { .length = 0 };

    render(walk, path, &text);
    if (!text.length)
        append(&text, "%s", "value", 0);
    return text;
}

static int type_error(struct walk *walk, const struct path *path, const char *expected)
{
    struct text text = path_text(walk, path);

    return weir_error_set(walk->err, -EINVAL, "Invalid parameter type for '%s', expected: %s", text.bytes,
                          expected);
}

/* "Parameter 'X' <what>". */
static int parameter_error(struct walk *walk, const struct path *path, const char *what)
{
    struct text text = path_text(walk, path);

    return weir_error_set(walk->err, -EINVAL, "Parameter '%s' %s", text.bytes, what);
}

/* Managers compare this text, which names the last part of the path only. */
static int enum_error(struct walk *walk, const struct path *path, const char *value)
{
    struct path last = { .name = path && path->name ? path->name : NULL };
    struct text text = path_text(walk, last.name ? &last : path);

    return weir_error_set(walk->err, -EINVAL, "Parameter '%s' does not accept value '%s'", text.bytes, value);
}

/* ---- leaves ---- */

static bool holds_nul(json_t *value)
{
    return strlen(json_string_value(value)) != json_string_length(value);
}

static int parse_string(struct walk *walk, json_t *value, char **out, const struct path *path)
{
    if (!json_is_string(value))
        return type_error(walk, path, "string");
    if (holds_nul(value))
        return parameter_error(walk, path, "must not contain a NUL byte");
    if (out)
        *out = weir_strdup(json_string_value(value));
    return 0;
}

static int parse_enum(struct walk *walk, const struct weir_schema_type *type, json_t *value, int *out,
                      const struct path *path)
{
    int found;

    if (!json_is_string(value))
        return type_error(walk, path, "string");
    found = holds_nul(value) ? -1 : weir_schema_enum_find(type, json_string_value(value));
    if (found < 0)
        return enum_error(walk, path, json_string_value(value));
    if (out)
        *out = found;
    return 0;
}

static void store_uint(const struct weir_schema_type *type, uint64_t number, void *out)
{
    /* Little and big endian alike: the width decides, so go through the typed store. */
    if (type->size == 1)
        *(uint8_t *)out = (uint8_t)number;
    else if (type->size == 2)
        *(uint16_t *)out = (uint16_t)number;
    else if (type->size == 4)
        *(uint32_t *)out = (uint32_t)number;
    else
        *(uint64_t *)out = number;
}

static int range_error(struct walk *walk, const struct weir_schema_type *type, const struct path *path)
{
    char what[48];
    bool wide = type->size == sizeof(uint64_t);

    if (wide)
        return parameter_error(walk, path,
                               type->kind == WEIR_SCHEMA_UINT ? "expects uint64" : "expects integer");
    snprintf(what, sizeof(what), "expects %s_t", type->name);
    return parameter_error(walk, path, what);
}

static int parse_int(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                     const struct path *path)
{
    int64_t number;

    if (!json_is_integer(value))
        return type->kind == WEIR_SCHEMA_UINT ? parameter_error(walk, path, "expects uint64")
                                              : type_error(walk, path, "integer");
    number = json_integer_value(value);
    if (type->kind == WEIR_SCHEMA_UINT ? number < 0 || (uint64_t)number > type->int_max
                                       : number < type->int_min || number > (int64_t)type->int_max)
        return range_error(walk, type, path);
    if (out)
        store_uint(type, (uint64_t)number, out);
    return 0;
}

/* Keyval text of a number or switch becomes typed JSON. */
static int convert_leaf(struct walk *walk, const struct weir_schema_type *type, json_t *value,
                        const struct path *path, json_t **ret_converted)
{
    const char *text = json_string_value(value);
    int64_t number;
    uint64_t size;
    double real;
    bool flag;

    switch (type->kind) {
    case WEIR_SCHEMA_BOOL:
        if (!weir_text_to_bool(text, &flag))
            return parameter_error(walk, path, "expects 'on' or 'off'");
        *ret_converted = json_boolean(flag);
        return 0;
    case WEIR_SCHEMA_NUMBER:
        if (!weir_text_to_double(text, &real))
            return parameter_error(walk, path, "expects number");
        *ret_converted = json_real(real);
        return 0;
    default:
        if (type->suffixes) {
            if (!weir_text_to_size(text, &size) || size > INT64_MAX)
                return parameter_error(walk, path, "expects size");
            number = (int64_t)size;
        } else if (!weir_text_to_int(text, &number)) {
            return parameter_error(walk, path, "expects integer");
        }
        *ret_converted = json_integer(number);
        return 0;
    }
}

static int parse_scalar(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                        const struct path *path)
{
    switch (type->kind) {
    case WEIR_SCHEMA_STRING:
        return parse_string(walk, value, out, path);
    case WEIR_SCHEMA_ENUM:
        return parse_enum(walk, type, value, out, path);
    case WEIR_SCHEMA_BOOL:
        if (!json_is_boolean(value))
            return type_error(walk, path, "boolean");
        if (out)
            *(bool *)out = json_is_true(value);
        return 0;
    case WEIR_SCHEMA_NUMBER:
        if (!json_is_number(value))
            return type_error(walk, path, "number");
        if (out)
            *(double *)out = json_number_value(value);
        return 0;
    default:
        return parse_int(walk, type, value, out, path);
    }
}

static bool is_text_kind(const struct weir_schema_type *type)
{
    return type->kind == WEIR_SCHEMA_STRING || type->kind == WEIR_SCHEMA_ENUM;
}

static int parse_leaf(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                      const struct path *path, json_t **ret_converted)
{
    struct text text;
    int ret;

    if (walk->input == WEIR_SCHEMA_JSON)
        return parse_scalar(walk, type, value, out, path);
    if (json_is_object(value) || json_is_array(value)) {
        text = path_text(walk, path);
        return weir_error_set(walk->err, -EINVAL, "Parameters '%s.*' are unexpected", text.bytes);
    }
    if (!json_is_string(value) || is_text_kind(type))
        return parse_scalar(walk, type, value, out, path);
    ret = convert_leaf(walk, type, value, path, ret_converted);
    return ret < 0 ? ret : parse_scalar(walk, type, *ret_converted, out, path);
}

/* ---- objects ---- */

/* Fills the defaults of members that are absent, those of nested structs included. */
static void apply_presets(const struct weir_schema_type *type, char *out);

static void apply_preset(const struct weir_schema_member *member, char *out)
{
    struct walk walk = { .input = WEIR_SCHEMA_KEYVAL };
    json_t *text, *converted = NULL;
    int ret;

    if (member->type->kind == WEIR_SCHEMA_STRUCT) {
        apply_presets(member->type, out + member->offset);
        return;
    }
    if (!member->preset)
        return;
    text = json_string(member->preset);
    ret = parse_leaf(&walk, member->type, text, out + member->offset, NULL, &converted);
    /* The schema's own text: a bad default is a programmer's error. */
    WEIR_ASSERT(ret == 0);
    json_decref(converted);
    json_decref(text);
}

static void apply_presets(const struct weir_schema_type *type, char *out)
{
    if (type->base)
        apply_presets(type->base, out);
    for (unsigned i = 0; i < type->member_count; i++)
        if (type->members[i].optional)
            apply_preset(&type->members[i], out);
}

static int parse_member(struct walk *walk, const struct weir_schema_member *member, json_t *object, char *out,
                        const struct path *up)
{
    struct path path = { .up = up, .name = member->name };
    json_t *value = json_object_get(object, member->name);
    json_t *converted = NULL;
    int ret;

    if (!value) {
        if (!member->optional)
            return parameter_error(walk, &path, "is missing");
        if (out)
            apply_preset(member, out);
        return 0;
    }
    ret = parse_value(walk, member->type, value, out ? out + member->offset : NULL, &path, &converted);
    if (ret == 0 && out && member->has_offset != WEIR_SCHEMA_NO_HAS)
        *(bool *)(out + member->has_offset) = true;
    if (ret == 0 && converted)
        json_object_set(object, member->name, converted);
    json_decref(converted);
    return ret;
}

static int parse_members(struct walk *walk, const struct weir_schema_type *type, json_t *object, char *out,
                         const struct path *path)
{
    int ret = type->base ? parse_members(walk, type->base, object, out, path) : 0;

    for (unsigned i = 0; ret == 0 && i < type->member_count; i++)
        ret = parse_member(walk, &type->members[i], object, out, path);
    return ret;
}

static const struct weir_schema_member *find_member(const struct weir_schema_type *type, const char *name)
{
    for (; type; type = type->base)
        for (unsigned i = 0; i < type->member_count; i++)
            if (!strcmp(type->members[i].name, name))
                return &type->members[i];
    return NULL;
}

static const struct weir_schema_branch *find_branch(const struct weir_schema_type *type, int value)
{
    for (unsigned i = 0; i < type->branch_count; i++)
        if (type->branches[i].value == value)
            return &type->branches[i];
    return NULL;
}

static int refuse_unknown(struct walk *walk, const struct weir_schema_type *type,
                          const struct weir_schema_branch *branch, json_t *object, const struct path *path)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value)
    {
        struct path inner = { .up = path, .name = name };

        if (!find_member(type, name) && !(branch && find_member(branch->type, name)))
            return parameter_error(walk, &inner, "is unexpected");
    }
    return 0;
}

static int parse_object(struct walk *walk, const struct weir_schema_type *type, json_t *value, char *out,
                        const struct path *path)
{
    const struct weir_schema_branch *branch = NULL;
    int ret;

    if (!json_is_object(value))
        return type_error(walk, path, "object");
    ret = parse_members(walk, type, value, out, path);
    if (ret == 0 && type->kind == WEIR_SCHEMA_UNION) {
        const struct weir_schema_member *tag = find_member(type, type->discriminator);
        const char *name = json_string_value(json_object_get(value, type->discriminator));

        branch = find_branch(type, weir_schema_enum_find(tag->type, name));
        if (out)
            *(json_t **)(void *)(out + type->json_offset) = json_incref(value);
    }
    if (ret == 0 && branch) {
        bool stored = out && branch->offset != WEIR_SCHEMA_NO_STORAGE;

        ret = parse_members(walk, branch->type, value, stored ? out + branch->offset : NULL, path);
    }
    return ret == 0 ? refuse_unknown(walk, type, branch, value, path) : ret;
}

/* ---- arrays and alternates ---- */

/* How an array looks in C. */
struct array {
    char *items;
    size_t count;
};

static int parse_array(struct walk *walk, const struct weir_schema_type *type, json_t *value,
                       struct array *out, const struct path *up)
{
    size_t count = json_array_size(value);
    int ret = 0;

    if (!json_is_array(value))
        return type_error(walk, up, "array");
    if (out && count) {
        out->items = weir_alloc_array(type->element->size, count);
        out->count = count;
    }
    for (size_t i = 0; ret == 0 && i < count; i++) {
        struct path path = { .up = up, .index = i };
        json_t *converted = NULL;

        ret = parse_value(walk, type->element, json_array_get(value, i),
                          out ? out->items + i * type->element->size : NULL, &path, &converted);
        if (ret == 0 && converted)
            json_array_set(value, i, converted);
        json_decref(converted);
    }
    return ret;
}

static bool accepts(const struct weir_schema_type *type, const json_t *value)
{
    switch (type->kind) {
    case WEIR_SCHEMA_NULL:
        return json_is_null(value);
    case WEIR_SCHEMA_STRING:
    case WEIR_SCHEMA_ENUM:
        return json_is_string(value);
    case WEIR_SCHEMA_BOOL:
        return json_is_boolean(value);
    case WEIR_SCHEMA_INT:
    case WEIR_SCHEMA_UINT:
        return json_is_integer(value);
    case WEIR_SCHEMA_NUMBER:
        return json_is_number(value);
    case WEIR_SCHEMA_STRUCT:
    case WEIR_SCHEMA_UNION:
        return json_is_object(value);
    case WEIR_SCHEMA_ARRAY:
        return json_is_array(value);
    default:
        return true;
    }
}

/* Checked as the branch that fits, kept as JSON. */
static int parse_alternate(struct walk *walk, const struct weir_schema_type *type, json_t *value,
                           json_t **out, const struct path *path, json_t **ret_converted)
{
    for (unsigned i = 0; i < type->branch_count; i++) {
        int ret;

        if (!accepts(type->branches[i].type, value))
            continue;
        ret = parse_value(walk, type->branches[i].type, value, NULL, path, ret_converted);
        if (ret == 0 && out)
            *out = json_incref(*ret_converted ? *ret_converted : value);
        return ret;
    }
    return type_error(walk, path, type->name);
}

static int parse_kind(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                      const struct path *path, json_t **ret_converted)
{
    switch (type->kind) {
    case WEIR_SCHEMA_ANY:
        if (out)
            *(json_t **)out = json_incref(value);
        return 0;
    case WEIR_SCHEMA_NULL:
        return json_is_null(value) ? 0 : type_error(walk, path, "null");
    case WEIR_SCHEMA_STRUCT:
    case WEIR_SCHEMA_UNION:
        return parse_object(walk, type, value, out, path);
    case WEIR_SCHEMA_ARRAY:
        return parse_array(walk, type, value, out, path);
    case WEIR_SCHEMA_ALTERNATE:
        return parse_alternate(walk, type, value, out, path, ret_converted);
    default:
        return parse_leaf(walk, type, value, out, path, ret_converted);
    }
}

static int parse_value(struct walk *walk, const struct weir_schema_type *type, json_t *value, void *out,
                       const struct path *path, json_t **ret_converted)
{
    int ret;

    if (walk->depth == WEIR_SCHEMA_DEPTH_MAX)
        return parameter_error(walk, path, "is nested too deeply");
    walk->depth++;
    ret = parse_kind(walk, type, value, out, path, ret_converted);
    walk->depth--;
    return ret;
}

/* ---- entry points ---- */

int weir_schema_parse_at(const struct weir_schema_type *type, const char *path, json_t *value,
                         enum weir_schema_input input, void *ret_struct, struct weir_error **err)
{
    struct walk walk = { .input = input, .err = err };
    struct path top = { .name = path };
    json_t *tree = input == WEIR_SCHEMA_KEYVAL ? json_deep_copy(value) : json_incref(value);
    json_t *converted = NULL;
    int ret;

    memset(ret_struct, 0, type->size);
    ret = parse_value(&walk, type, tree, ret_struct, path ? &top : NULL, &converted);
    json_decref(converted);
    json_decref(tree);
    if (ret < 0)
        weir_schema_free(type, ret_struct);
    return ret;
}

int weir_schema_parse(const struct weir_schema_type *type, json_t *value, enum weir_schema_input input,
                      void *ret_struct, struct weir_error **err)
{
    return weir_schema_parse_at(type, NULL, value, input, ret_struct, err);
}

int weir_schema_validate(const struct weir_schema_type *type, json_t *value, struct weir_error **err)
{
    struct walk walk = { .input = WEIR_SCHEMA_JSON, .err = err };
    json_t *converted = NULL;

    return parse_value(&walk, type, value, NULL, NULL, &converted);
}

int weir_schema_normalize(const struct weir_schema_type *type, json_t *value, json_t **ret_value,
                          struct weir_error **err)
{
    struct walk walk = { .input = WEIR_SCHEMA_KEYVAL, .err = err };
    json_t *tree = json_deep_copy(value);
    json_t *converted = NULL;
    int ret = parse_value(&walk, type, tree, NULL, NULL, &converted);

    if (ret == 0)
        *ret_value = json_incref(converted ? converted : tree);
    json_decref(converted);
    json_decref(tree);
    return ret;
}

static void free_members(const struct weir_schema_type *type, char *parsed)
{
    if (type->base)
        free_members(type->base, parsed);
    for (unsigned i = 0; i < type->member_count; i++)
        weir_schema_free(type->members[i].type, parsed + type->members[i].offset);
}

static void free_union(const struct weir_schema_type *type, char *parsed)
{
    const struct weir_schema_member *tag = find_member(type, type->discriminator);
    const struct weir_schema_branch *branch = find_branch(type, *(int *)(void *)(parsed + tag->offset));

    if (branch && branch->offset != WEIR_SCHEMA_NO_STORAGE)
        free_members(branch->type, parsed + branch->offset);
    json_decref(*(json_t **)(void *)(parsed + type->json_offset));
}

void weir_schema_free(const struct weir_schema_type *type, void *parsed)
{
    struct array *array = parsed;

    if (!parsed)
        return;
    switch (type->kind) {
    case WEIR_SCHEMA_STRING:
        free(*(char **)parsed);
        break;
    case WEIR_SCHEMA_ANY:
    case WEIR_SCHEMA_NULL:
    case WEIR_SCHEMA_ALTERNATE:
        json_decref(*(json_t **)parsed);
        break;
    case WEIR_SCHEMA_ARRAY:
        for (size_t i = 0; i < array->count; i++)
            weir_schema_free(type->element, array->items + i * type->element->size);
        free(array->items);
        break;
    case WEIR_SCHEMA_UNION:
        free_union(type, parsed);
        free_members(type, parsed);
        break;
    case WEIR_SCHEMA_STRUCT:
        free_members(type, parsed);
        break;
    default:
        break;
    }
    memset(parsed, 0, type->size);
}

const char *weir_schema_enum_name(const struct weir_schema_type *type, int value)
{
    WEIR_ASSERT(type->kind == WEIR_SCHEMA_ENUM && value >= 0 && (unsigned)value < type->value_count);
    return type->values[value];
}

int weir_schema_enum_find(const struct weir_schema_type *type, const char *name)
{
    for (unsigned i = 0; i < type->value_count; i++)
        if (!strcmp(type->values[i], name))
            return (int)i;
    return -1;
}

#define BUILTIN(label, k, ctype, ...)                                 \
    const struct weir_schema_type weir_schema_##label = {             \
        .name = #label, .kind = k, .size = sizeof(ctype), __VA_ARGS__ \
    }

BUILTIN(str, WEIR_SCHEMA_STRING, char *);
BUILTIN(bool, WEIR_SCHEMA_BOOL, bool);
BUILTIN(number, WEIR_SCHEMA_NUMBER, double);
BUILTIN(any, WEIR_SCHEMA_ANY, json_t *);
BUILTIN(null, WEIR_SCHEMA_NULL, json_t *);
BUILTIN(int, WEIR_SCHEMA_INT, int64_t, .int_min = INT64_MIN, .int_max = INT64_MAX);
BUILTIN(int8, WEIR_SCHEMA_INT, int8_t, .int_min = INT8_MIN, .int_max = INT8_MAX);
BUILTIN(int16, WEIR_SCHEMA_INT, int16_t, .int_min = INT16_MIN, .int_max = INT16_MAX);
BUILTIN(int32, WEIR_SCHEMA_INT, int32_t, .int_min = INT32_MIN, .int_max = INT32_MAX);
BUILTIN(int64, WEIR_SCHEMA_INT, int64_t, .int_min = INT64_MIN, .int_max = INT64_MAX);
BUILTIN(uint8, WEIR_SCHEMA_UINT, uint8_t, .int_max = UINT8_MAX);
BUILTIN(uint16, WEIR_SCHEMA_UINT, uint16_t, .int_max = UINT16_MAX);
BUILTIN(uint32, WEIR_SCHEMA_UINT, uint32_t, .int_max = UINT32_MAX);
BUILTIN(uint64, WEIR_SCHEMA_UINT, uint64_t, .int_max = UINT64_MAX);
BUILTIN(size, WEIR_SCHEMA_UINT, uint64_t, .int_max = UINT64_MAX, .suffixes = true);

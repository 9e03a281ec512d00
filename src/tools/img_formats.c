/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The formats that images can be created in, with the options of -o.
 *
 * The names are those that qemu-img has always had; what a driver gets are the members of blockdev-create. Options are
 * kept as JSON by name: sizes and numbers as integers, the rest as the text that was given.
 */
#include "tools/img.h"

#include "base/schema_text.h"
#include "graph/driver.h"
#include <errno.h>
#include "sys/sys.h"
#include <stdio.h>
#include <string.h>

static const struct img_option raw_options[] = {
    { "size", "Virtual disk size", IMG_VALUE_SIZE, NULL, "size" },
    { "preallocation", "Preallocation mode (allowed values: off, falloc, full)", IMG_VALUE_STRING, NULL,
      "preallocation" },
};
static const struct img_option qcow2_options[] = {
    { "cluster_size", "qcow2 cluster size", IMG_VALUE_SIZE, "65536", "cluster-size" },
    { "extended_l2", "Extended L2 tables", IMG_VALUE_BOOL, "off", "extended-l2" },
    { "preallocation", "Preallocation mode (allowed values: off, metadata, falloc, full)", IMG_VALUE_STRING,
      NULL, "preallocation" },
    { "compression_type", "Compression method used for image cluster compression", IMG_VALUE_STRING, "zlib",
      "compression-type" },
    { "size", "Virtual disk size", IMG_VALUE_SIZE, NULL, "size" },
    { "compat", "Compatibility level (v2 [0.10] or v3 [1.1])", IMG_VALUE_STRING, NULL, "version" },
    { "backing_file", "File name of a base image", IMG_VALUE_STRING, NULL, "backing-file" },
    { "backing_fmt", "Image format of the base image", IMG_VALUE_STRING, NULL, "backing-fmt" },
    { "data_file", "File name of an external data file", IMG_VALUE_STRING, NULL, NULL },
    { "data_file_raw", "The external data file must stay valid as a raw image", IMG_VALUE_BOOL, NULL,
      "data-file-raw" },
    { "lazy_refcounts", "Postpone refcount updates", IMG_VALUE_BOOL, "off", "lazy-refcounts" },
    { "refcount_bits", "Width of a reference count entry in bits", IMG_VALUE_NUMBER, "16", "refcount-bits" },
};
static const struct img_format formats[] = {
    { "raw", raw_options, WEIR_ARRAY_SIZE(raw_options), false },
    { "file", raw_options, WEIR_ARRAY_SIZE(raw_options), false },
    { "qcow2", qcow2_options, WEIR_ARRAY_SIZE(qcow2_options), true },
};

const struct img_format *img_format_find(const char *name, struct weir_error **err)
{
    const struct weir_driver *driver = weir_driver_find(name);

    if (!driver || (driver->flags & WEIR_DRIVER_INTERNAL)) {
        (void)!weir_error_set(err, -ENOENT, "Unknown file format '%s'", name);
        return NULL;
    }
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(formats); i++) {
        if (!strcmp(formats[i].name, name))
            return &formats[i];
    }
    (void)!weir_error_set(err, -ENOTSUP, "Format driver '%s' does not support image creation", name);
    return NULL;
}

const struct img_option *img_option_find(const struct img_format *format, const char *name)
{
    for (unsigned i = 0; i < format->count; i++) {
        if (!strcmp(format->options[i].name, name))
            return &format->options[i];
    }
    return NULL;
}

/* ---- help ---- */

static bool is_help(const char *text, size_t length)
{
    return (length == 4 && !strncmp(text, "help", 4)) || (length == 1 && *text == '?');
}

bool img_options_help_wanted(const char *text)
{
    while (*text) {
        size_t length = strcspn(text, ",");

        if (is_help(text, length))
            return true;
        text += length + (text[length] == ',');
    }
    return false;
}

static int by_name(const void *a, const void *b)
{
    const struct img_option *const *one = a, *const *other = b;

    return strcmp((*one)->name, (*other)->name);
}

void img_options_help(const struct img_format *format, bool with_file)
{
    static const char *const types[] = { "str", "size", "num", "bool (on/off)" };
    weir_autofree const struct img_option **sorted = weir_new_array(const struct img_option *, format->count);

    for (unsigned i = 0; i < format->count; i++)
        sorted[i] = &format->options[i];
    qsort(sorted, format->count, sizeof(*sorted), by_name);
    if (with_file)
        printf("Supported options:\n");
    else
        printf("Supported %s options:\n", format->name);
    for (unsigned i = 0; i < format->count; i++) {
        char begin[80];

        (void)snprintf(begin, sizeof(begin), "%s=<%s>", sorted[i]->name, types[sorted[i]->type]);
        printf("  %-22s - %s\n", begin, sorted[i]->help);
    }
}

/* ---- values ---- */

static int set_size(const struct img_option *option, const char *text, json_t *values,
                    struct weir_error **err)
{
    uint64_t size;

    if (!weir_text_to_size(text, &size)) {
        (void)!weir_error_set(err, -EINVAL, "Parameter '%s' expects a non-negative number below 2^64",
                              option->name);
        weir_error_hint(err, "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                             "and exabytes, respectively.");
        return -EINVAL;
    }
    if (size > INT64_MAX)
        return weir_error_set(err, -EFBIG, "The value of '%s' is too large", option->name);
    json_object_set_new(values, option->name, json_integer((json_int_t)size));
    return 0;
}

static int set_value(const struct img_option *option, const char *text, json_t *values,
                     struct weir_error **err)
{
    int64_t number;
    bool on;

    switch (option->type) {
    case IMG_VALUE_SIZE:
        return set_size(option, text, values, err);
    case IMG_VALUE_NUMBER:
        if (!weir_text_to_int(text, &number) || number < 0)
            return weir_error_set(err, -EINVAL, "Parameter '%s' expects a number", option->name);
        json_object_set_new(values, option->name, json_integer(number));
        return 0;
    case IMG_VALUE_BOOL:
        if (!weir_text_to_bool(text, &on))
            return weir_error_set(err, -EINVAL, "Parameter '%s' expects 'on' or 'off'", option->name);
        break;
    default:
        break;
    }
    if (json_object_set_new(values, option->name, json_string(text)))
        return weir_error_set(err, -EINVAL, "The value of '%s' is not text", option->name);
    return 0;
}

/* Takes the text up to the next single comma; two of them are one. Moves *text behind it. A new string. */
static char *next_part(const char **text)
{
    char *part = weir_alloc(strlen(*text) + 1);
    size_t length = 0;
    const char *at = *text;

    for (; *at && (*at != ',' || at[1] == ','); at++) {
        if (*at == ',')
            at++;
        part[length++] = *at;
    }
    *text = *at ? at + 1 : at;
    return part;
}

int img_options_parse(const struct img_format *format, const char *text, json_t *values,
                      struct weir_error **err)
{
    int ret = 0;

    while (*text && !ret) {
        weir_autofree char *part = next_part(&text);
        char *value = strchr(part, '=');
        const struct img_option *option;

        if (value)
            *value++ = 0;
        option = img_option_find(format, part);
        ret = option ? set_value(option, value ? value : "on", values, err)
                     : weir_error_set(err, -EINVAL, "Invalid parameter '%s'", part);
    }
    return ret;
}

void img_options_preset(const struct img_format *format, json_t *values)
{
    for (unsigned i = 0; i < format->count; i++) {
        const struct img_option *option = &format->options[i];

        if (option->preset && !json_object_get(values, option->name))
            (void)!set_value(option, option->preset, values, NULL);
    }
}

static void print_text(const char *text)
{
    for (; *text; text++) {
        if (*text == ',')
            putchar(',');
        putchar(*text);
    }
}

void img_options_print(const struct img_format *format, const char *name, const json_t *values)
{
    printf("Formatting '%s', fmt=%s", name, format->name);
    for (unsigned i = 0; i < format->count; i++) {
        const json_t *value = json_object_get(values, format->options[i].name);

        if (!value)
            continue;
        printf(" %s=", format->options[i].name);
        if (json_is_integer(value))
            printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
        else
            print_text(json_string_value(value));
    }
    printf("\n");
    (void)!weir_sys->process.flush_output();
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What weir img prints: messages, sizes, JSON, progress.
 *
 * The members of JSON objects come in a fixed order, the one that qemu-img prints them in: people compare outputs
 * as text, and a few scripts take lines by number.
 */
#include "tools/img.h"

#include "qmp/json_order.h"
#include "sys/sys.h"
#include "tools/message.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void img_complain(const struct img *img, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    tool_complain(img->program, format, args);
    va_end(args);
}

int img_usage(const struct img *img, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    tool_usage(img->program, NULL, format, args);
    va_end(args);
    return 1;
}

void img_fail(const struct img *img, struct weir_error *err, const char *prefix, ...)
{
    weir_autofree char *before = NULL, *text = NULL;
    va_list args;

    va_start(args, prefix);
    before = weir_strdup_vprintf(prefix, args);
    va_end(args);
    text = weir_strdup_printf("%s%s%s", before, *before ? ": " : "", weir_error_text(err));
    tool_fail(img->program, text, err);
}

void img_human_size(uint64_t bytes, char text[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    unsigned unit = 0;

    for (; value >= 1000 && unit + 1 < WEIR_ARRAY_SIZE(units); unit++)
        value /= 1024;
    (void)snprintf(text, 32, "%0.3g %s", value, units[unit]);
}

/* ---- JSON ---- */

static void indent(unsigned level)
{
    printf("%*s", (int)(4 * level), "");
}

static void print_value(const json_t *value, unsigned level);

static void print_object(const json_t *object, unsigned level)
{
    weir_autofree const char **keys = weir_json_keys(object);

    printf("{\n");
    for (unsigned i = 0; keys[i]; i++) {
        indent(level + 1);
        printf("\"%s\": ", keys[i]);
        print_value(json_object_get(object, keys[i]), level + 1);
        printf("%s\n", keys[i + 1] ? "," : "");
    }
    indent(level);
    printf("}");
}

static void print_array(const json_t *array, unsigned level)
{
    size_t count = json_array_size(array);

    printf("[\n");
    for (size_t i = 0; i < count; i++) {
        indent(level + 1);
        print_value(json_array_get(array, i), level + 1);
        printf("%s\n", i + 1 < count ? "," : "");
    }
    indent(level);
    printf("]");
}

/* The depth is that of what the tool itself made. */
static void print_value(const json_t *value, unsigned level)
{
    weir_autofree char *text = NULL;

    if (json_is_object(value)) {
        print_object(value, level);
    } else if (json_is_array(value)) {
        print_array(value, level);
    } else {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        printf("%s", text ? text : "null");
    }
}

void img_print_json(const json_t *value)
{
    print_value(value, 0);
    printf("\n");
}

/* ---- progress ---- */

void img_progress_set(struct img_progress *progress, uint64_t done, uint64_t total)
{
    double percent = total ? 100.0 * (double)done / (double)total : 100;

    if (!progress->on)
        return;
    if (progress->begun && percent < 100 && percent < progress->last + 1)
        return;
    progress->begun = true;
    progress->last = percent;
    printf("    (%3.2f/100%%)\r", percent);
    (void)!weir_sys->process.flush_output();
}

void img_progress_end(struct img_progress *progress)
{
    if (progress->on && progress->begun)
        printf("\n");
}

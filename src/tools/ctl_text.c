/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What weir ctl says: messages, sizes, tables, and reading the members of answers.
 */
#include "tools/ctl.h"

#include "tools/message.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- messages ---- */

void ctl_complain(const struct ctl *ctl, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    tool_complain(ctl->program, format, args);
    va_end(args);
}

int ctl_usage(const struct ctl *ctl, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    tool_usage(ctl->program, ctl->command ? ctl->command->name : NULL, format, args);
    va_end(args);
    return 1;
}

int ctl_fail(const struct ctl *ctl, struct weir_error *err)
{
    weir_autofree char *text = ctl_clean(weir_error_text(err));

    tool_fail(ctl->program, text, err);
    return 1;
}

/* Whether a shell takes @text as it is. */
static bool is_plain(const char *text)
{
    return *text &&
           !text[strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%,=")];
}

char *ctl_invocation(const struct ctl *ctl)
{
    struct ctl_buffer buffer = { NULL, 0 };

    if (!ctl->address)
        return weir_strdup(ctl->program);
    if (is_plain(ctl->address))
        return weir_strdup_printf("%s -s %s", ctl->program, ctl->address);
    ctl_add(&buffer, "%s -s '", ctl->program);
    for (const char *at = ctl->address; *at; at++) {
        if (*at == '\'')
            ctl_add(&buffer, "'\\''");
        else
            ctl_add(&buffer, "%c", *at);
    }
    ctl_add(&buffer, "'");
    return buffer.text;
}

void ctl_size_text(uint64_t bytes, char text[32])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    double value = (double)bytes;
    unsigned unit = 0;

    /* 1023.95 would be printed as 1024.0 of the smaller unit. */
    for (; value >= 1023.95 && unit + 1 < WEIR_ARRAY_SIZE(units); unit++)
        value /= 1024;
    (void)snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

char *ctl_clean(const char *text)
{
    char *clean = weir_strdup(text);

    for (unsigned char *at = (unsigned char *)clean; *at; at++) {
        if (*at < ' ' || *at == 127)
            *at = '?';
    }
    return clean;
}

/* ---- texts that grow ---- */

void ctl_add(struct ctl_buffer *buffer, const char *format, ...)
{
    va_list args;
    int length;

    va_start(args, format);
    length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    WEIR_ASSERT(length >= 0);
    buffer->text = weir_realloc(buffer->text, buffer->length + (size_t)length + 1);
    va_start(args, format);
    (void)vsnprintf(buffer->text + buffer->length, (size_t)length + 1, format, args);
    va_end(args);
    buffer->length += (size_t)length;
}

/* ---- tables ---- */

void ctl_table_add(struct ctl_table *table, const char *format, ...)
{
    char text[256];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    table->cells = weir_realloc(table->cells, (table->count + 1) * sizeof(table->cells[0]));
    table->cells[table->count++] = ctl_clean(text);
}

void ctl_table_print(struct ctl_table *table)
{
    weir_autofree int *widths = weir_new_array(int, table->columns);

    for (unsigned i = 0; i < table->count; i++) {
        int length = (int)strlen(table->cells[i]);

        widths[i % table->columns] = WEIR_MAX(widths[i % table->columns], length);
    }
    for (unsigned i = 0; i < table->count; i++) {
        bool last = (i + 1) % table->columns == 0;

        /* No blanks at the ends of lines. */
        printf("%-*s%s", last ? 0 : widths[i % table->columns], table->cells[i], last ? "\n" : "  ");
        free(table->cells[i]);
    }
    free(table->cells);
    *table = (struct ctl_table){ .columns = table->columns };
}

/* ---- members of answers ---- */

const char *ctl_member_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));

    return text ? text : "";
}

uint64_t ctl_member_number(const json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));

    return value > 0 ? (uint64_t)value : 0;
}

bool ctl_member_true(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name));
}

json_t *ctl_find(const json_t *array, const char *name, const char *value)
{
    for (size_t i = 0; i < json_array_size(array); i++) {
        json_t *object = json_array_get(array, i);

        if (!strcmp(ctl_member_text(object, name), value))
            return object;
    }
    return NULL;
}

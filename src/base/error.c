/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors with a text. The text is one allocation that prefixes replace; errors are rare and short-lived.
 */
#include "base/error.h"
#include "base/alloc.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct weir_error {
    enum weir_error_class error_class;
    int code;
    char *text;
    char *hint; /* lines without a final newline, or NULL */
};

static char *format_text(const char *format, va_list args)
{
    char *text;

    if (vasprintf(&text, format, args) < 0)
        abort();
    return text;
}

/* Takes over @text. */
static int set_error(struct weir_error **err, enum weir_error_class error_class, int ret, char *text)
{
    struct weir_error *error = weir_new(struct weir_error);

    error->error_class = error_class;
    error->code = ret;
    error->text = text;
    *err = error;
    return ret;
}

int weir_error_set(struct weir_error **err, int ret, const char *format, ...)
{
    va_list args;

    WEIR_ASSERT(ret < 0);
    if (!err)
        return ret;
    va_start(args, format);
    (void)set_error(err, WEIR_ERROR_GENERIC, ret, format_text(format, args));
    va_end(args);
    return ret;
}

int weir_error_set_class(struct weir_error **err, enum weir_error_class error_class, int ret,
                         const char *format, ...)
{
    va_list args;

    WEIR_ASSERT(ret < 0);
    if (!err)
        return ret;
    va_start(args, format);
    (void)set_error(err, error_class, ret, format_text(format, args));
    va_end(args);
    return ret;
}

int weir_error_set_errno(struct weir_error **err, int ret, const char *format, ...)
{
    weir_autofree char *text = NULL;
    char buffer[128];
    va_list args;

    WEIR_ASSERT(ret < 0);
    if (!err)
        return ret;
    va_start(args, format);
    text = format_text(format, args);
    va_end(args);
    return set_error(err, WEIR_ERROR_GENERIC, ret,
                     weir_strdup_printf("%s: %s", text, strerror_r(-ret, buffer, sizeof(buffer))));
}

void weir_error_prefix(struct weir_error **err, const char *format, ...)
{
    weir_autofree char *prefix = NULL;
    char *text;
    va_list args;

    if (!err || !*err)
        return;
    va_start(args, format);
    prefix = format_text(format, args);
    va_end(args);
    text = weir_strdup_printf("%s%s", prefix, (*err)->text);
    free((*err)->text);
    (*err)->text = text;
}

void weir_error_hint(struct weir_error **err, const char *format, ...)
{
    weir_autofree char *before = NULL;
    char *line;
    va_list args;

    if (!err || !*err)
        return;
    va_start(args, format);
    line = format_text(format, args);
    va_end(args);
    before = weir_steal(&(*err)->hint);
    if (!before) {
        (*err)->hint = line;
        return;
    }
    (*err)->hint = weir_strdup_printf("%s\n%s", before, line);
    free(line);
}

void weir_error_propagate(struct weir_error **to, struct weir_error *from)
{
    if (to)
        *to = from;
    else
        weir_error_free(from);
}

const char *weir_error_text(const struct weir_error *error)
{
    return error->text;
}

const char *weir_error_hint_text(const struct weir_error *error)
{
    return error->hint;
}

const char *weir_error_class_name(const struct weir_error *error)
{
    static const char *const names[] = {
        [WEIR_ERROR_GENERIC] = "GenericError",
        [WEIR_ERROR_COMMAND_NOT_FOUND] = "CommandNotFound",
        [WEIR_ERROR_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
        [WEIR_ERROR_DEVICE_NOT_FOUND] = "DeviceNotFound",
    };

    return names[error->error_class];
}

int weir_error_code(const struct weir_error *error)
{
    return error->code;
}

void weir_error_free(struct weir_error *error)
{
    if (!error)
        return;
    free(error->text);
    free(error->hint);
    free(error);
}

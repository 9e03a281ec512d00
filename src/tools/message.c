/* SPDX-License-Identifier: BSD-2-Clause */
#include "tools/message.h"

#include "sys/sys.h"
#include <stdio.h>

static void begin(const char *program)
{
    (void)!weir_sys->process.flush_output();
    fprintf(stderr, "%s: ", program);
}

void tool_complain(const char *program, const char *format, va_list args)
{
    begin(program);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void tool_usage(const char *program, const char *command, const char *format, va_list args)
{
    tool_complain(program, format, args);
    fprintf(stderr, "Try '%s %s%s--help' for more information\n", program, command ? command : "",
            command ? " " : "");
}

void tool_fail(const char *program, const char *text, struct weir_error *err)
{
    begin(program);
    fprintf(stderr, "%s\n", text);
    if (weir_error_hint_text(err))
        fprintf(stderr, "%s\n", weir_error_hint_text(err));
    weir_error_free(err);
}

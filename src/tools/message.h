/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages of the tools: "PROGRAM: TEXT" to the standard error, behind whatever was printed before. Any thread.
 */
#ifndef WEIR_TOOLS_MESSAGE_H
#define WEIR_TOOLS_MESSAGE_H

#include "base/error.h"
#include <stdarg.h>

void tool_complain(const char *program, const char *format, va_list args) weir_printf(2, 0);
/* The same, with a line that says where to find help: of @command, or (NULL) of the whole program. */
void tool_usage(const char *program, const char *command, const char *format, va_list args) weir_printf(3, 0);
/* @text, the text of @err, and @err's hint on a line of its own. Frees @err. */
void tool_fail(const char *program, const char *text, struct weir_error *err);

#endif

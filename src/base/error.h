/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Errors of the control plane: a QMP class, an errno and a sentence for a person.
 *
 * A fallible function takes `struct weir_error **err` last and returns a negative errno; *err is set if and
 * only if the return is negative. The callee never reads *err; a caller that does not want the text passes NULL.
 * The data plane returns a bare -errno and never allocates one of these. Any thread; nothing yields.
 */
#ifndef WEIR_BASE_ERROR_H
#define WEIR_BASE_ERROR_H

#include "base/macros.h"

enum weir_error_class {
    WEIR_ERROR_GENERIC,
    WEIR_ERROR_COMMAND_NOT_FOUND,
    WEIR_ERROR_DEVICE_NOT_ACTIVE,
    WEIR_ERROR_DEVICE_NOT_FOUND,
};

struct weir_error;

/* Sets *err (unless @err is NULL) and returns @ret, which is a negative errno: `return weir_error_set(...)`. */
int weir_error_set(struct weir_error **err, int ret, const char *format, ...) weir_printf(3, 4);
/* The same with a class other than GenericError. */
int weir_error_set_class(struct weir_error **err, enum weir_error_class error_class, int ret,
                         const char *format, ...) weir_printf(4, 5);
/* Like weir_error_set(), with ": " and strerror(-ret) behind the text. */
int weir_error_set_errno(struct weir_error **err, int ret, const char *format, ...) weir_printf(3, 4);
/* Puts text in front of the message, on the way up. Does nothing where @err or *err is NULL. */
void weir_error_prefix(struct weir_error **err, const char *format, ...) weir_printf(2, 3);
/* Puts a hint line behind the message (shown by people-facing front ends). */
void weir_error_hint(struct weir_error **err, const char *format, ...) weir_printf(2, 3);
/* Moves @from into *to (freeing it when @to is NULL). */
void weir_error_propagate(struct weir_error **to, struct weir_error *from);

const char *weir_error_text(const struct weir_error *error);
const char *weir_error_hint_text(const struct weir_error *error);  /* NULL where there is none */
const char *weir_error_class_name(const struct weir_error *error); /* "GenericError" ... */
int weir_error_code(const struct weir_error *error);               /* the negative errno */
void weir_error_free(struct weir_error *error);                    /* NULL is fine */

static inline void weir_error_freep(struct weir_error **error)
{
    weir_error_free(*error);
}
#define WEIR_AUTO_ERROR __attribute__((cleanup(weir_error_freep))) struct weir_error *

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers and switches written as text.
 *
 * The C library's converters do the digits; what they let through silently (trailing text, overflow, a minus
 * sign in an unsigned number, "nan") is refused here.
 */
#include "base/schema_text.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool one_of(const char *text, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(text, words[i]))
            return true;
    return false;
}

bool weir_text_to_bool(const char *text, bool *ret_value)
{
    static const char *const on[] = { "on", "yes", "true", "y" };
    static const char *const off[] = { "off", "no", "false", "n" };

    if (one_of(text, on, WEIR_ARRAY_SIZE(on)))
        *ret_value = true;
    else if (one_of(text, off, WEIR_ARRAY_SIZE(off)))
        *ret_value = false;
    else
        return false;
    return true;
}

bool weir_text_to_int(const char *text, int64_t *ret_value)
{
    char *end;
    long long number;

    errno = 0;
    number = strtoll(text, &end, 0);
    if (errno || end == text || *end)
        return false;
    *ret_value = number;
    return true;
}

bool weir_text_to_double(const char *text, double *ret_value)
{
    char *end;
    double number;

    errno = 0;
    number = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(number))
        return false;
    *ret_value = number;
    return true;
}

/* Binary logarithm of the unit, -1 for no such suffix. */
static int suffix_shift(char suffix)
{
    static const char suffixes[] = "bkmgtpe";
    const char *found = suffix ? strchr(suffixes, suffix | 0x20) : NULL;

    return found ? 10 * (int)(found - suffixes) : -1;
}

/* The fraction .ddd behind the digits as a double below 1; *text moves on. */
static double take_fraction(const char **text)
{
    double fraction = 0, unit = 0.1;

    if (**text != '.')
        return 0;
    for ((*text)++; **text >= '0' && **text <= '9'; (*text)++, unit /= 10)
        fraction += unit * (**text - '0');
    return fraction;
}

static bool hex_size(const char *text, uint64_t *ret_value)
{
    char *end;
    unsigned long long number;

    errno = 0;
    number = strtoull(text, &end, 16);
    if (errno || end == text || *end)
        return false;
    *ret_value = number;
    return true;
}

bool weir_text_to_size(const char *text, uint64_t *ret_value)
{
    const char *end;
    char *digits_end;
    unsigned long long number;
    double fraction;
    bool has_fraction;
    int shift = 0;

    text += strspn(text, " \t");
    if (*text < '0' || *text > '9')
        return false;
    if (text[0] == '0' && (text[1] | 0x20) == 'x')
        return hex_size(text, ret_value);
    errno = 0;
    number = strtoull(text, &digits_end, 10);
    if (errno)
        return false;
    end = digits_end;
    has_fraction = *end == '.';
    fraction = take_fraction(&end);
    if (*end) {
        shift = suffix_shift(*end++);
        if (shift < 0 || *end)
            return false;
    }
    if ((has_fraction && !shift) || (shift && number >> (64 - shift)))
        return false;
    *ret_value = (number << shift) + (uint64_t)(fraction * (double)(UINT64_C(1) << shift));
    return true;
}

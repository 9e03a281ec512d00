/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Numbers in and out of the shell: sizes, rates, dumps. The forms are those that scripts read.
 */
#include "qmp/shell_internal.h"

#include "base/schema_text.h"
#include <ctype.h>
#include <stdio.h>

#define SECOND_NS 1000000000LL

void shell_human(double bytes, char text[32])
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
    char number[24], *point;
    unsigned unit = 0;

    for (; bytes >= 1024 && unit + 1 < WEIR_ARRAY_SIZE(units); unit++)
        bytes /= 1024;
    (void)snprintf(number, sizeof(number), unit ? "%.3f" : "%f", bytes);
    point = strchr(number, '.');
    if (point && strspn(point + 1, "0") == strlen(point + 1))
        *point = 0;
    (void)snprintf(text, 32, "%s %s", number, units[unit]);
}

/* "00.12 sec", or "1:02:03.04" (always with @hours). */
static void duration_text(int64_t ns, bool hours, char text[32])
{
    unsigned hundredths = (unsigned)(ns % SECOND_NS / 10000000), seconds = (unsigned)(ns / SECOND_NS);

    if (hours || seconds >= 60)
        (void)snprintf(text, 32, "%u:%02u:%02u.%02u", seconds / 3600, seconds / 60 % 60, seconds % 60,
                       hundredths);
    else
        (void)snprintf(text, 32, "%02u.%02u sec", seconds, hundredths);
}

void shell_report(struct weir_shell *shell, const struct shell_op *op, int64_t duration_ns)
{
    uint64_t bytes = op->request.length;
    double seconds = (double)WEIR_MAX(duration_ns, (int64_t)1) / (double)SECOND_NS;
    char time[32], size[32], rate[32];

    duration_text(duration_ns, op->csv, time);
    if (op->csv) { /* bytes, operations, time, bytes a second, operations a second */
        weir_shell_print(shell, "%" PRIu64 ",1,%s,%.3f,%.3f\n", bytes, time, (double)bytes / seconds,
                         1 / seconds);
        return;
    }
    shell_human((double)bytes, size);
    shell_human((double)bytes / seconds, rate);
    weir_shell_print(shell, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", op->verb, bytes,
                     bytes, op->request.offset);
    weir_shell_print(shell, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", size, time, rate, 1 / seconds);
}

void shell_dump(struct weir_shell *shell, const char *data, uint64_t offset, uint64_t length)
{
    for (uint64_t at = 0; at < length; at += 16) {
        uint64_t count = WEIR_MIN(length - at, (uint64_t)16);
        char bytes[16 * 3 + 1], chars[17];

        for (uint64_t i = 0; i < count; i++) {
            unsigned char c = (unsigned char)data[at + i];

            (void)snprintf(bytes + 3 * i, 4, "%02x ", c);
            chars[i] = isalnum(c) ? (char)c : '.';
        }
        chars[count] = 0;
        weir_shell_print(shell, "%08" PRIx64 ":  %s %s\n", offset + at, bytes, chars);
    }
}

/* A number with a suffix that 63 bits do not hold. */
static bool too_large(const char *text)
{
    static const char suffixes[] = "bKMGTPE";
    double value;
    char *end;
    const char *suffix;

    if (!isdigit((unsigned char)*text))
        return false;
    value = strtod(text, &end);
    suffix = *end ? strchr(suffixes, *end == 'b' ? 'b' : toupper((unsigned char)*end)) : suffixes;
    if (!suffix || (*end && end[1]))
        return false;
    for (; suffix > suffixes; suffix--)
        value *= 1024;
    return value >= 9223372036854775807.0;
}

bool weir_shell_size(struct weir_shell *shell, const char *text, uint64_t *ret_size)
{
    uint64_t size = 0;
    bool known = weir_text_to_size(text, &size);

    if (known && size <= INT64_MAX) {
        *ret_size = size;
        return true;
    }
    if (known || too_large(text))
        weir_shell_print(shell, "Parsing error: argument too large -- %s\n", text);
    else
        weir_shell_print(
            shell, "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n", text);
    return false;
}

int shell_pattern(struct weir_shell *shell, const char *text)
{
    int64_t value;

    if (weir_text_to_int(text, &value) && value >= 0 && value <= 255)
        return (int)value;
    weir_shell_print(shell, "%s is not a valid pattern byte\n", text);
    return -1;
}

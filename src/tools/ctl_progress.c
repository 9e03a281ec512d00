/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How far a job is, for people: one line that is drawn again and again on a terminal, else a line for each change.
 *
 * The rate is that of the last seconds: what an average from the start on says is wrong as soon as a limit changes, a
 * guest writes or the job pauses.
 */
#include "tools/ctl.h"

#include "sys/sys.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TERMINAL_PERIOD_NS (200 * 1000000LL)
#define PLAIN_PERIOD_NS 1000000000LL
/* The rate is taken over this many looks. */
#define SAMPLES 20
#define BAR_MAX 40
#define BAR_MIN 8
/* Longer waits are not worth a number. */
#define ETA_MAX_S (100 * 3600)

struct sample {
    int64_t when_ns;
    uint64_t done;
};

struct ctl_progress {
    char *job;
    unsigned columns; /* 0: no terminal */
    struct sample samples[SAMPLES];
    unsigned sample_count;
    bool drawn; /* the terminal's line is not ended */
    int drawn_length;
    char *text; /* what was to be said last; NULL: nothing yet */
    bool told;  /* ... and was printed */
    int64_t told_ns;
};

struct ctl_progress *ctl_progress_new(const char *job)
{
    struct ctl_progress *progress = weir_new(struct ctl_progress);

    progress->job = ctl_clean(job);
    progress->columns = weir_sys->process.output_columns();
    return progress;
}

int64_t ctl_progress_period(const struct ctl_progress *progress)
{
    return progress->columns ? TERMINAL_PERIOD_NS : PLAIN_PERIOD_NS;
}

/* Bytes a second. */
static double rate_of(struct ctl_progress *progress, const char *status, uint64_t done)
{
    struct sample now = { weir_sys->clock_ns(), done }, *first = progress->samples;
    bool moves = !strcmp(status, "running") || !strcmp(status, "ready");

    /* A pause ends what was measured, and so does progress that goes back. */
    if (!moves || (progress->sample_count && first[progress->sample_count - 1].done > done))
        progress->sample_count = 0;
    if (progress->sample_count == SAMPLES) {
        memmove(first, first + 1, (SAMPLES - 1) * sizeof(*first));
        progress->sample_count--;
    }
    first[progress->sample_count++] = now;
    if (now.when_ns <= first->when_ns)
        return 0;
    return (double)(now.done - first->done) * 1e9 / (double)(now.when_ns - first->when_ns);
}

static void add_eta(struct ctl_buffer *text, uint64_t left, double rate)
{
    double seconds = rate >= 1 ? (double)left / rate + 0.5 : ETA_MAX_S;
    unsigned whole = (unsigned)WEIR_MIN(seconds, ETA_MAX_S);

    if (whole >= ETA_MAX_S)
        ctl_add(text, ", ETA -");
    else if (whole >= 3600)
        ctl_add(text, ", ETA %u:%02u:%02u", whole / 3600, whole / 60 % 60, whole % 60);
    else
        ctl_add(text, ", ETA %u:%02u", whole / 60, whole % 60);
}

/* What is behind the bar. */
static char *describe(struct ctl_progress *progress, const json_t *job, double fraction)
{
    uint64_t done = ctl_member_number(job, "current-progress"),
             total = ctl_member_number(job, "total-progress");
    uint64_t left = total > done ? total - done : 0;
    double rate = rate_of(progress, ctl_member_text(job, "status"), done);
    struct ctl_buffer text = { NULL, 0 };
    char size[32];

    ctl_add(&text, "%5.1f %%", fraction * 100);
    if (left || !ctl_job_is_ready(job)) {
        ctl_size_text((uint64_t)rate, size);
        ctl_add(&text, ", %s/s", size);
        ctl_size_text(left, size);
        ctl_add(&text, ", %s left", size);
        add_eta(&text, left, rate);
    }
    if (ctl_member_true(job, "actively-synced"))
        ctl_add(&text, ", actively synced");
    else if (ctl_job_is_ready(job) && !left)
        ctl_add(&text, ", in sync");
    return text.text;
}

static void draw(struct ctl_progress *progress, const char *before, double fraction, const char *after)
{
    int room = (int)progress->columns - 1; /* the last column would wrap on some terminals */
    int bar = room - (int)strlen(before) - (int)strlen(after) - 4, filled, length;
    char line[512], marks[BAR_MAX + 1];

    bar = WEIR_MIN(bar, BAR_MAX);
    if (bar >= BAR_MIN) {
        filled = (int)(fraction * bar);
        memset(marks, '.', sizeof(marks));
        memset(marks, '#', (size_t)filled);
        (void)snprintf(line, sizeof(line), "%s [%.*s] %s", before, bar, marks, after);
    } else {
        (void)snprintf(line, sizeof(line), "%s %s", before, after);
    }
    length = (int)strnlen(line, (size_t)WEIR_MAX(room, 1));
    /* Blanks over what was longer before. */
    printf("\r%.*s%*s", length, line, WEIR_MAX(WEIR_MIN(progress->drawn_length, room) - length, 0), "");
    progress->drawn = true;
    progress->drawn_length = length;
    (void)!weir_sys->process.flush_output();
}

static void tell(struct ctl_progress *progress)
{
    if (!progress->text || progress->told)
        return;
    printf("%s\n", progress->text);
    (void)!weir_sys->process.flush_output();
    progress->told = true;
    progress->told_ns = weir_sys->clock_ns();
}

void ctl_progress_show(struct ctl_progress *progress, const json_t *job)
{
    uint64_t done = ctl_member_number(job, "current-progress"),
             total = ctl_member_number(job, "total-progress");
    /* In steps of 0.1 % that are complete: 100 % is when nothing is left. */
    double fraction =
        done < total ? (double)(unsigned)(done * 1000.0L / total) / 1000 : total || ctl_job_is_ready(job);
    weir_autofree char *before = weir_strdup_printf("%s: %s", progress->job, ctl_member_text(job, "status"));
    weir_autofree char *after = NULL, *text = NULL;

    after = describe(progress, job, fraction);
    progress->columns = progress->columns ? weir_sys->process.output_columns() : 0; /* a window may change */
    if (progress->columns) {
        draw(progress, before, fraction, after);
        return;
    }
    text = weir_strdup_printf("%s, %s", before, after + strspn(after, " "));
    if (!progress->text || strcmp(progress->text, text) != 0) {
        free(progress->text);
        progress->text = weir_steal(&text);
        progress->told = false;
    }
    if (!progress->told_ns || weir_sys->clock_ns() - progress->told_ns >= PLAIN_PERIOD_NS)
        tell(progress);
}

static void end_line(struct ctl_progress *progress)
{
    if (progress->drawn)
        printf("\n");
    progress->drawn = false;
    progress->drawn_length = 0;
    tell(progress);
}

void ctl_progress_note(struct ctl_progress *progress, const char *format, ...)
{
    va_list args;

    end_line(progress);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    (void)!weir_sys->process.flush_output();
}

void ctl_progress_free(struct ctl_progress *progress)
{
    if (!progress)
        return;
    end_line(progress);
    (void)!weir_sys->process.flush_output();
    free(progress->job);
    free(progress->text);
    free(progress);
}

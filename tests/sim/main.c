/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Many seeds, each in a process of its own, a few at a time.
 *
 *   sim [--seeds N] [--first K] [--list FILE] [--jobs J] [--commit ID]   seeds of the list, then K .. K + N - 1
 *   sim --seed N                                                         this one, with what it says
 *   sim --laws [--blocks B] [--block-size S]                             each law taken away must be noticed, by
 *                                                                        the qcow2 seeds of each block as well
 *
 * A seed that fails prints one line with how to replay it and why. One seed in a hundred runs twice, with another
 * layout of the heap, and must leave the same hash. At the end: totals, and floors below which a run proves too little.
 */
#include "base/law.h"
#include "seed.h"
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS_MAX 64u
/* Real seconds that one seed may take, even under a sanitizer on a busy machine. */
#define SEED_SECONDS 120u
#define FAILURES_MAX 10u
#define TWICE_EVERY 100u
#define HEAP_SHIFT 77u

WEIR_SIM_KEPT unsigned weir_laws_off;
WEIR_SIM_KEPT uint64_t weir_law_counts[WEIR_LAW_COUNTS];

static const char *const law_names[] = {
    [WEIR_LAW_PENDING] = "1 pending",
    [WEIR_LAW_EXCLUSIVE] = "2 exclusive",
    [WEIR_LAW_PIN] = "3 pin",
    [WEIR_LAW_QUARANTINE] = "4 quarantine",
    [WEIR_LAW_MONITOR] = "5 monitor",
    [WEIR_LAW_BARRIER] = "6 barrier",
    [WEIR_LAW_ORDER] = "7 order",
    [WEIR_LAW_INNER] = "mirror: inner",
    [WEIR_LAW_COPY] = "mirror: copy",
    [WEIR_LAW_MODE] = "mirror: mode",
    [WEIR_LAW_REMARK] = "mirror: remark",
    [WEIR_LAW_INSERT] = "mirror: insert",
    [WEIR_LAW_RECHECK] = "mirror: recheck",
    [WEIR_LAW_UNCHANGED] = "copy-on-read: unchanged",
};
#define LAWS WEIR_ARRAY_SIZE(law_names)

/* What a child leaves behind; shared memory. */
struct result {
    bool ended;
    uint64_t hash;
    struct totals totals;
};

struct slot {
    pid_t pid; /* 0: free */
    uint64_t seed, first_hash;
    bool again; /* the second run of two */
    int text;   /* what the child said */
};

static struct {
    uint64_t first, seeds, one, blocks, block_size;
    unsigned jobs;
    const char *list, *commit;
    bool laws;
} options = { .first = 1, .seeds = 2000, .blocks = 20, .block_size = 1000, .jobs = 2, .commit = "" };

static struct result *results;
static struct slot slots[JOBS_MAX];
static struct totals sum;
static uint64_t failures;
static bool quiet; /* laws: failures are what is hoped for */

/* ---- one child ---- */

static _Noreturn void child(struct slot *slot, struct result *result)
{
    alarm(SEED_SECONDS);
    if (!options.one) {
        if (dup2(slot->text, STDERR_FILENO) < 0)
            _exit(4);
    }
    seed_run(slot->seed, slot->again ? HEAP_SHIFT : 0, options.one);
    result->hash = seed.hash;
    result->totals = seed.totals;
    result->totals.range_lock_waits = weir_law_counts[WEIR_LAW_COUNT_RANGE_WAITS];
    result->ended = true;
    _exit(0);
}

static void start(struct slot *slot, uint64_t number, bool again)
{
    struct result *result = &results[slot - slots];

    slot->seed = number;
    slot->again = again;
    memset(result, 0, sizeof(*result));
    if (ftruncate(slot->text, 0) || lseek(slot->text, 0, SEEK_SET))
        exit(4);
    fflush(NULL);
    slot->pid = fork();
    if (slot->pid < 0) {
        perror("fork");
        exit(4);
    }
    if (!slot->pid)
        child(slot, result);
}

/* The last line that the child wrote. */
static void last_line(int text, char *line, size_t size)
{
    char all[4096];
    off_t end = lseek(text, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(all) - 1 ? end - ((off_t)sizeof(all) - 1) : 0;
    ssize_t got = pread(text, all, sizeof(all) - 1, from);
    char *at;

    line[0] = '\0';
    if (got <= 0)
        return;
    all[got] = '\0';
    while (got && all[got - 1] == '\n')
        all[--got] = '\0';
    at = strrchr(all, '\n');
    (void)snprintf(line, size, "%s", at ? at + 1 : all);
}

static void say_failed(const struct slot *slot, int status, const char *why)
{
    char line[4096];

    failures++;
    if (quiet || options.one)
        return;
    last_line(slot->text, line, sizeof(line));
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        (void)snprintf(line, sizeof(line), "no end after %u s of real time", SEED_SECONDS);
    else if (WIFSIGNALED(status) && !line[0])
        (void)snprintf(line, sizeof(line), "%s", strsignal(WTERMSIG(status)));
    printf("FAILED: make sim SEED=%llu %s%s: %s%s\n", (unsigned long long)slot->seed,
           options.commit[0] ? "at commit " : "", options.commit, why ? why : "", why ? "" : line);
    fflush(stdout);
}

static void add_totals(const struct totals *totals)
{
#define X(name, floor) sum.name += totals->name;
    TOTALS(X)
#undef X
}

/* Whether the seed has to run once more. */
static bool finish(struct slot *slot, int status)
{
    const struct result *result = &results[slot - slots];
    uint64_t hash = result->hash;

    if (status || !result->ended) {
        say_failed(slot, status, NULL);
        return false;
    }
    if (slot->again) {
        if (hash != slot->first_hash)
            say_failed(slot, 0, "another layout of the heap leads to another trace");
        sum.run_twice++;
        return false;
    }
    slot->first_hash = hash;
    add_totals(&result->totals);
    return slot->seed % TWICE_EVERY == 0;
}

/* ---- many ---- */

static struct slot *slot_of(pid_t pid)
{
    for (unsigned i = 0; i < options.jobs; i++) {
        if (slots[i].pid == pid)
            return &slots[i];
    }
    return NULL;
}

/* Waits for one child; its slot is free afterwards, or runs the second of two. */
static void reap(void)
{
    int status;
    pid_t pid = wait(&status);
    struct slot *slot = pid > 0 ? slot_of(pid) : NULL;

    if (!slot)
        exit(4);
    slot->pid = 0;
    if (finish(slot, status) && !quiet)
        start(slot, slot->seed, true);
}

static bool any_running(void)
{
    for (unsigned i = 0; i < options.jobs; i++) {
        if (slots[i].pid)
            return true;
    }
    return false;
}

static struct slot *free_slot(void)
{
    struct slot *slot;

    while (!(slot = slot_of(0)))
        reap();
    return slot;
}

enum which { SEEDS_ALL, SEEDS_QCOW2 };

static bool is_one_of(uint64_t number, enum which which)
{
    return which == SEEDS_ALL || plan_is_qcow2(number);
}

static void run_range(uint64_t first, uint64_t count, uint64_t failures_max, enum which which)
{
    for (uint64_t i = 0; i < count && failures < failures_max; i++) {
        if (is_one_of(first + i, which))
            start(free_slot(), first + i, false);
    }
    while (any_running())
        reap();
}

static void run_list(void)
{
    FILE *file = fopen(options.list, "re");
    char line[512];

    if (!file) {
        perror(options.list);
        exit(2);
    }
    while (fgets(line, sizeof(line), file)) {
        unsigned long long number = strtoull(line, NULL, 10);

        if (number)
            start(free_slot(), number, false);
    }
    (void)fclose(file);
    while (any_running())
        reap();
}

static double now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static int show_totals(double seconds)
{
    unsigned below = 0;

#define X(name, floor)                                                                                      \
    {                                                                                                       \
        uint64_t least = (uint64_t)(floor)*sum.seeds / 1000;                                                \
        bool low = sum.seeds >= 1000 && sum.name < least;                                                   \
        printf("  %-24s %12llu%s\n", #name, (unsigned long long)sum.name, low ? "   BELOW ITS FLOOR" : ""); \
        below += low;                                                                                       \
    }
    TOTALS(X)
#undef X
    printf("%llu seeds in %.1f s (%.0f a second), %llu failed, %u totals below their floors\n",
           (unsigned long long)sum.seeds, seconds, (double)sum.seeds / seconds, (unsigned long long)failures,
           below);
    return failures || below ? 1 : 0;
}

static int run_seeds(void)
{
    double begin = now();

    if (options.list)
        run_list();
    run_range(options.first, options.seeds, FAILURES_MAX, SEEDS_ALL);
    return show_totals(now() - begin);
}

/* ---- laws ---- */

/* All seeds, or those whose guests begin on qcow2: they must notice by themselves. */
static bool run_law(unsigned law, enum which which)
{
    uint64_t found = 0, tried = 0;

    weir_laws_off = 1u << law;
    for (uint64_t block = 0; block < options.blocks; block++) {
        uint64_t before = sum.seeds;

        failures = 0;
        run_range(1 + block * options.block_size, options.block_size, 1, which);
        found += failures != 0;
        tried += sum.seeds - before;
    }
    weir_laws_off = 0;
    printf(
        "law %s taken away%s: noticed in %llu of %llu blocks of %llu seeds, after %.1f seeds on average%s\n",
        law_names[law], which == SEEDS_QCOW2 ? ", on qcow2" : "", (unsigned long long)found,
        (unsigned long long)options.blocks, (unsigned long long)options.block_size,
        (double)tried / (double)options.blocks, found == options.blocks ? "" : "   NOT NOTICED EVERYWHERE");
    fflush(stdout);
    return found == options.blocks;
}

static int run_laws(void)
{
    bool all = true;

    quiet = true;
    for (unsigned law = 0; law < LAWS; law++) {
        all &= run_law(law, SEEDS_ALL);
        if (law <= WEIR_LAW_ORDER) /* the rules of a mirror know no format */
            all &= run_law(law, SEEDS_QCOW2);
    }
    return all ? 0 : 1;
}

static int run_single(void)
{
    start(&slots[0], options.one, false);
    while (any_running())
        reap();
    printf("seed %llu %s\n", (unsigned long long)options.one, failures ? "failed" : "passed");
    return failures ? 1 : 0;
}

static bool parse(int argc, char **argv)
{
    static const struct option names[] = {
        { "seeds", 1, NULL, 'n' },   { "first", 1, NULL, 'f' },  { "seed", 1, NULL, 's' },
        { "jobs", 1, NULL, 'j' },    { "list", 1, NULL, 'l' },   { "commit", 1, NULL, 'c' },
        { "laws", 0, NULL, 'L' },    { "blocks", 1, NULL, 'b' }, { "block-size", 1, NULL, 'B' },
        { "law-off", 1, NULL, 'O' }, { NULL, 0, NULL, 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (c) {
        case 'n':
            options.seeds = strtoull(optarg, NULL, 10);
            break;
        case 'f':
            options.first = strtoull(optarg, NULL, 10);
            break;
        case 's':
            options.one = strtoull(optarg, NULL, 10);
            break;
        case 'j':
            options.jobs = (unsigned)strtoul(optarg, NULL, 10);
            break;
        case 'l':
            options.list = optarg;
            break;
        case 'c':
            options.commit = optarg;
            break;
        case 'L':
            options.laws = true;
            break;
        case 'b':
            options.blocks = strtoull(optarg, NULL, 10);
            break;
        case 'B':
            options.block_size = strtoull(optarg, NULL, 10);
            break;
        case 'O':
            weir_laws_off = 1u << strtoul(optarg, NULL, 10);
            break;
        default:
            return false;
        }
    }
    return optind == argc && options.jobs >= 1 && options.jobs <= JOBS_MAX;
}

int main(int argc, char **argv)
{
    void *memory;

    if (!parse(argc, argv)) {
        (void)fprintf(stderr, "usage: see the head of tests/sim/main.c\n");
        return 2;
    }
    memory = mmap(NULL, JOBS_MAX * sizeof(struct result), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                  -1, 0);
    if (memory == MAP_FAILED)
        return 4;
    results = memory;
    history_alloc();
    for (unsigned i = 0; i < options.jobs; i++)
        slots[i].text = memfd_create("said", MFD_CLOEXEC);
    if (!weir_sim_statics_save()) {
        (void)fprintf(stderr, "this build cannot put static variables back\n");
        return 2;
    }
    if (options.one)
        return run_single();
    return options.laws ? run_laws() : run_seeds();
}

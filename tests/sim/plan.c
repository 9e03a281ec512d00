/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a seed is. Everything is drawn here, before anything runs: swarm testing, so each seed has a subset of the
 * operations and faults, with wild weights.
 */
#include "seed.h"

#include <stdio.h>

/* Chosen so that the seeds that once found something, tests/sim/seeds/list, are left alone. */
#define DRAW_SALT 5u
#define EDIT_SALT 23u

static bool chance(unsigned percent)
{
    return pick(100) < percent;
}

static void draw_image(struct image *image, unsigned index)
{
    static const unsigned caches[] = { 1, 1, 2, 3, 4, 8, 16 };

    image->name[0] = (char)('a' + index);
    image->kind = (index ? chance(50) : chance(80)) ? IMAGE_SIMFMT : IMAGE_RAW;
    image->direct = chance(35);
    image->remote = chance(40);
    image->large_sectors = chance(25);
    image->detect_zeroes = (unsigned)pick(5);
    image->keeps_discards = chance(15);
    image->cache = caches[pick(WEIR_ARRAY_SIZE(caches))];
    if (image->kind == IMAGE_SIMFMT) {
        image->data_file = chance(40);
        image->data_direct = chance(35);
        image->backing = chance(40);
    } else {
        image->window = chance(30);
        image->window_offset = pick(10) * SECTOR + seed.plan.phase;
    }
}

static void draw_kinds(struct plan *plan)
{
    static const uint32_t weights[] = { 0, 1, 1, 2, 4, 8 };

    for (unsigned kind = 0; kind < KINDS; kind++)
        plan->weight[kind] = weights[pick(WEIR_ARRAY_SIZE(weights))];
    plan->weight[KIND_READ] += 4;
    plan->weight[KIND_WRITE] += 4;
    plan->weight[KIND_WRITE_STORED] /= 2;
    plan->weight[KIND_BATCH] /= 2;
    plan->weight[KIND_FLUSH] = WEIR_MIN(plan->weight[KIND_FLUSH], 2u);
    plan->weight[KIND_WRITE_FUA] = WEIR_MIN(plan->weight[KIND_WRITE_FUA], 2u);
    for (unsigned kind = 0; kind < KINDS; kind++)
        plan->weight_sum += plan->weight[kind];
}

static void draw_guests(struct plan *plan)
{
    plan->loops = 1 + (unsigned)pick(LOOPS_MAX);
    plan->guests = 2 + (unsigned)pick(GUESTS_MAX - 1);
    plan->queues = plan->guests + (unsigned)pick(QUEUES_MAX - plan->guests + 1);
    plan->requests = 200 * plan->guests / plan->queues + 1;
    plan->zone = 3000 + pick(SHADOW_BYTES_MAX - 6000);
    plan->shared_ppm = 300000 + (uint32_t)pick(600000);
    plan->whole_units_ppm = (uint32_t)pick(2) * 400000;
    plan->hot_ppm = (uint32_t)pick(3) * 400000;
    plan->pause_ppm = (uint32_t)pick(3) * 100000;
    plan->gate_requests = chance(30) ? 1 + (unsigned)pick(2) : 0;
}

/* ---- qcow2: drawn from numbers of its own, so that seeds without it are what they were before there was any ---- */

static uint64_t draw_state;

static uint64_t also(uint64_t n)
{
    uint64_t z = draw_state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (z ^ z >> 31) % n;
}

static bool also_chance(unsigned percent)
{
    return also(100) < percent;
}

static void draw_version_3(struct image *image)
{
    struct qcow2_medium_params *params = &image->qcow2.params;

    params->refcount_order = also_chance(30) ? 4 : (unsigned)also(7);
    params->extended_l2 = also_chance(20);
    params->lazy_refcounts = also_chance(20);
    params->zstd = also_chance(25);
    params->short_header = also_chance(30);
    image->data_file = also_chance(35);
    image->qcow2.lazy = (unsigned)also(6);
    image->qcow2.no_unref = also_chance(15);
    /* Only large clusters can have subclusters. */
    if (params->extended_l2)
        params->cluster_bits = 14;
}

/* Small clusters, so that tables are many and grow. */
static void draw_qcow2(struct image *image)
{
    struct image_qcow2 *q = &image->qcow2;
    struct qcow2_medium_params *params = &q->params;

    image->kind = IMAGE_QCOW2;
    image->window = image->data_file = false;
    params->version = also_chance(80) ? 3 : 2;
    params->cluster_bits = 9 + (unsigned)also(4);
    params->refcount_order = 4;
    if (params->version == 3)
        draw_version_3(image);
    params->data_raw = image->data_file && also_chance(35);
    if (image->data_file && !params->extended_l2)
        params->cluster_bits += 2;
    params->l1_spare = (unsigned)also(3);
    /* So that a refcount table becomes too small. */
    if (params->cluster_bits == 9 && params->refcount_order > 4 && also_chance(40))
        params->skip = ((uint64_t)1 << (18 - params->refcount_order)) - 64 - also(300);
    image->data_direct = also_chance(35);
    image->backing = !params->data_raw && also_chance(image->data_file ? 80 : 40);
    q->pass_request = (unsigned)also(6);
    q->pass_snapshot = (unsigned)also(6);
    q->pass_other = (unsigned)also(6);
    q->laid = also_chance(40) ? 1 + (unsigned)also(24) : 0;
}

/* The guests' disk is one: what belongs to simfmt's snapshots goes, sizes and lives of its own come. */
static void draw_first(struct plan *plan)
{
    struct image *image = &seed.images[0];

    draw_qcow2(image);
    plan->guest_unit = WEIR_MAX(plan->unit, (uint64_t)1 << image->qcow2.params.cluster_bits);
    plan->snapshots = 0;
    plan->exact = false;
    plan->offline_snapshots = !image->data_file && also_chance(60);
    /* Version 2 does not know the size that a snapshot had. */
    if (image->qcow2.params.version == 3 || !plan->offline_snapshots)
        plan->resizes = also_chance(40) ? 1 + (unsigned)also(4) : 0;
    if (plan->offline_snapshots)
        plan->main_life = 1 + (unsigned)also(3);
    /* Where the data is apart, it takes a cut in the right moment to see that it is not there yet. */
    if (image->data_file && also_chance(75)) {
        plan->cut = true;
        plan->weight[KIND_FLUSH] += 2;
        plan->weight_sum += 2;
    }
    if (plan->cut_where == CUT_AT_MIRROR)
        return;
    plan->cut_where = plan->resizes && also_chance(50) ? CUT_AT_RESIZE : CUT_AT_REQUEST;
    plan->cut_after =
        plan->cut_where == CUT_AT_RESIZE ? 1 + also(3) : 20 + also((uint64_t)plan->requests * plan->queues);
    plan->cut_events = 1 + also(300);
    if (!image->data_file || plan->cut_where != CUT_AT_REQUEST || also_chance(30))
        return;
    plan->cut_where = CUT_AT_FLUSH;
    plan->cut_after = 2 + also(10);
    plan->cut_events = 1 + also(16);
}

enum share { SHARE_NONE, SHARE_TARGETS, SHARE_FIRST };

static enum share draw_share(uint64_t number)
{
    draw_state = number * 0xd1342543de82ef95ull + DRAW_SALT;
    if (!also_chance(45))
        return SHARE_NONE;
    return also_chance(80) ? SHARE_FIRST : SHARE_TARGETS;
}

bool plan_is_qcow2(uint64_t number)
{
    return draw_share(number) == SHARE_FIRST;
}

static void draw_again(struct plan *plan)
{
    enum share share = draw_share(seed.number);

    if (share == SHARE_NONE)
        return;
    plan->chain = also_chance(40) ? 2 : 1;
    if (share == SHARE_FIRST)
        draw_first(plan);
    for (unsigned i = 1; i < IMAGES_MAX; i++) {
        if (also_chance(45))
            draw_qcow2(&seed.images[i]);
    }
}

/* From numbers of their own again; the seeds of the list are left as they were. */
static void draw_edits(struct plan *plan)
{
    draw_state = seed.number * 0xd1342543de82ef95ull + EDIT_SALT;
    if (also_chance(30))
        plan->edits = 1 + (unsigned)also(12);
}

void plan_draw(void)
{
    struct plan *plan = &seed.plan;

    plan->unit = (uint64_t)4096 >> pick(2);
    plan->size = (64 + pick(193)) * plan->unit - (chance(30) ? pick(8) * SECTOR : 0);
    plan->phase = chance(50) ? 8 * (2 + pick(SECTOR / 8 - 3)) : 0;
    draw_guests(plan);
    draw_kinds(plan);
    for (unsigned i = 0; i < IMAGES_MAX; i++)
        draw_image(&seed.images[i], i);
    plan->drains = chance(50) ? 1 + (unsigned)pick(6) : 0;
    plan->snapshots = seed.images[0].kind == IMAGE_SIMFMT && chance(50) ? 1 + (unsigned)pick(6) : 0;
    plan->mirrors = chance(45) ? 1 + (unsigned)pick(IMAGES_MAX - 1) : 0;
    plan->faults = chance(35);
    plan->tight = chance(50);
    plan->exact = !plan->tight && !plan->snapshots && !plan->weight[KIND_WRITE_STORED] && !plan->mirrors;
    plan->enospc = plan->tight || plan->faults || plan->snapshots;
    plan->cut = chance(45);
    plan->cut_after = 20 + pick((uint64_t)plan->requests * plan->queues);
    if (plan->snapshots && chance(50))
        plan->cut_where = chance(50) ? CUT_AT_SNAPSHOT : CUT_AT_HEADER;
    else if (plan->mirrors && chance(40))
        plan->cut_where = CUT_AT_MIRROR;
    if (plan->cut_where)
        plan->cut_after = 1 + pick(3);
    plan->cut_events = 1 + pick(plan->cut_where == CUT_AT_HEADER ? 20 : 300);
    /* A cache that holds all tables writes them together with the header that makes them count. */
    if (plan->cut_where == CUT_AT_HEADER)
        seed.images[0].cache = 16;
    plan->main_life = plan->chain = 1;
    plan->guest_unit = plan->unit;
    draw_again(plan);
    draw_edits(plan);
}

void plan_profile(struct weir_sim_profile *profile)
{
    weir_sim_profile_random(profile, seed.number);
    /* Seeds in which everything is quick and seeds in which everything overlaps, but none that lasts for hours. */
    profile->io[WEIR_SIM_CONTROL].latency.mean_ns =
        WEIR_MIN(profile->io[WEIR_SIM_CONTROL].latency.mean_ns, 40000);
    /* A file that hangs may take 16 of them. */
    if (seed.plan.mirrors)
        profile->workers = 64;
    profile->flush_sticky = seed.number % 3 == 0;
    /* Sectors are torn by nothing but a raw window that begins inside of one. */
    profile->short_whole = true;
}

static void transient(struct weir_sim_profile *profile, enum weir_sim_kind kind, uint32_t most)
{
    if (chance(50))
        profile->io[kind].eio_ppm = (uint32_t)pick(most);
}

void plan_faults(void)
{
    struct weir_sim_profile profile;

    plan_profile(&profile);
    for (unsigned kind = 0; kind <= WEIR_SIM_WRITE; kind++)
        profile.io[kind].short_ppm = chance(40) ? (uint32_t)pick(50000) : 0;
    if (seed.plan.faults && seed.life == seed.plan.main_life) {
        transient(&profile, WEIR_SIM_READ, 10000);
        transient(&profile, WEIR_SIM_WRITE, 20000);
        transient(&profile, WEIR_SIM_ALLOCATE, 20000);
        if (chance(20))
            profile.io[WEIR_SIM_FLUSH].eio_ppm = 40000;
        if (chance(20))
            weir_sim_file_bad_range(seed.images[0].file, pick(seed.plan.size / SECTOR) * SECTOR,
                                    (1 + pick(40)) * SECTOR, true, chance(50));
        if (chance(20))
            weir_sim_file_budget(seed.images[0].file, seed.plan.size / 4 + pick(seed.plan.size));
    }
    weir_sim_set_profile(&profile);
}

static void show_image(const struct image *image)
{
    static const char *const kinds[] = { "raw", "simfmt", "qcow2" };
    const struct qcow2_medium_params *p = &image->qcow2.params;

    (void)fprintf(stderr, "  %s: %s%s%s, cache of %u", image->name, kinds[image->kind],
                  image->data_file ? ", data apart" : "", image->backing ? ", backing" : "", image->cache);
    if (image->kind == IMAGE_QCOW2)
        (void)fprintf(
            stderr,
            ", version %u, clusters of %u, counts of %u bits%s%s%s%s, lazy %u%s, %u laid, %u snapshots",
            p->version, 1u << p->cluster_bits, 1u << p->refcount_order, p->extended_l2 ? ", subclusters" : "",
            p->data_raw ? ", raw" : "", p->zstd ? ", zstd" : "", p->lazy_refcounts ? ", lazy" : "",
            image->qcow2.lazy, image->qcow2.no_unref ? ", no unref" : "", image->qcow2.laid,
            image->qcow2.snapshots);
    (void)fprintf(stderr, "\n");
}

void plan_show(void)
{
    const struct plan *plan = &seed.plan;

    (void)fprintf(
        stderr,
        "%llu bytes, main life %u, chain of %u, %u mirrors, %u resizes, %u edits, %u snapshots%s%s%s%s\n",
        (unsigned long long)plan->size, plan->main_life, seed.middle ? 2 : 1, plan->mirrors, plan->resizes,
        plan->edits, plan->snapshots, plan->offline_snapshots ? ", offline snapshots" : "",
        plan->faults ? ", faults" : "", plan->tight ? ", tight" : "", plan->cut ? ", cut" : "");
    for (unsigned i = 0; i <= plan->mirrors; i++)
        show_image(&seed.images[i]);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to the disk model: the structures that disk.c (changing) and disk_durable.c (reading, flushing, cutting)
 * share.
 */
#ifndef WEIR_SYS_SIM_DISK_PAGE_H
#define WEIR_SYS_SIM_DISK_PAGE_H

#include "sys/sim/disk.h"
#include <uthash.h>

#define SIM_CHUNK_PAGES 64u

/* Drawn at a power cut that treats each change as a whole. */
enum sim_change_fate { SIM_CHANGE_UNDECIDED, SIM_CHANGE_KEPT, SIM_CHANGE_LOST };

struct sim_change {
    unsigned refs;
    enum sim_change_fate fate;
    uint64_t done; /* 0: not complete */
};

/* Some sectors of a page after one change. */
struct sim_version {
    struct sim_version *next; /* older */
    struct sim_change *change;
    uint8_t mask;   /* sectors it still stands for */
    uint8_t first;  /* sector that data[] begins with */
    bool zero;      /* no data: zeroes */
    bool allocated; /* the page had its space */
    bool lost;      /* a flush that failed dropped it */
    uint8_t data[];
};

struct sim_chunk;
struct sim_page {
    uint64_t index;
    struct sim_chunk *chunk;
    uint8_t *data; /* NULL: zeroes */
    uint8_t *base; /* durable, while dirty; NULL: zeroes */
    struct sim_version *versions;
    unsigned version_count;
    bool allocated, base_allocated, dirty;
    TAILQ_ENTRY(sim_page) link; /* disk->dirty */
};

struct sim_chunk {
    uint64_t index;
    uint64_t allocated; /* a bit for each page */
    unsigned pages;
    struct sim_page *page[SIM_CHUNK_PAGES];
    UT_hash_handle hh;
};

/* The size after one change. */
struct sim_size {
    uint64_t size;
    struct sim_change *change;
    bool lost;
};

struct sim_disk {
    uint64_t size, base_size;
    uint64_t allocated;
    struct sim_chunk *chunks, *last; /* last: found last */
    TAILQ_HEAD(, sim_page) dirty;
    struct sim_size *sizes; /* oldest first */
    unsigned size_count, size_room;
};

void sim_change_unref(struct sim_change *change);
/* NULL: a hole. */
struct sim_page *sim_page_find(struct sim_disk *disk, uint64_t index);
const uint8_t *sim_version_sector(const struct sim_version *version, unsigned sector);
/* Makes durable what @settles says yes to, and with it what is older. May free the page. */
typedef bool sim_settles(const struct sim_version *version, const void *arg);
void sim_page_settle(struct sim_disk *disk, struct sim_page *page, sim_settles *settles, const void *arg);
void sim_page_settle_oldest(struct sim_disk *disk, struct sim_page *page);
/* Makes it clean with these bytes (taken over; NULL: zeroes). May free it. */
void sim_page_become(struct sim_disk *disk, struct sim_page *page, uint8_t *data, bool allocated);
/* The lowest chunk above @index, UINT64_MAX: none. */
uint64_t sim_disk_next_chunk(struct sim_disk *disk, uint64_t index);
void sim_disk_set_size(struct sim_disk *disk, struct sim_change *change, uint64_t size);
void sim_disk_settle_size(struct sim_disk *disk);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a simulated file holds: sparse pages of 4 KiB, each with its current bytes, its durable bytes, and for
 * each of its 512-byte sectors the versions between the two.
 *
 * A *change* is one operation that alters bytes or the size. It may be applied in several steps; it is *complete*
 * when its operation has ended. A flush makes durable what was complete when it began. No world is needed here:
 * time, faults and descriptors are the caller's.
 */
#ifndef WEIR_SYS_SIM_DISK_H
#define WEIR_SYS_SIM_DISK_H

#include "sys/sim/world.h"

#define SIM_SECTOR 512u
#define SIM_PAGE 4096u

struct sim_disk;
struct sim_change;

struct sim_disk *sim_disk_new(uint64_t size);
void sim_disk_free(struct sim_disk *disk);
uint64_t sim_disk_size(const struct sim_disk *disk);
uint64_t sim_disk_allocated(const struct sim_disk *disk); /* bytes, now */

/* Begins a change; the caller holds it until sim_change_complete() or sim_change_forget(). */
struct sim_change *sim_change_new(void);
/* @serial grows with each completion and is not 0. */
void sim_change_complete(struct sim_change *change, uint64_t serial);
/* It never completes: no flush covers it. */
void sim_change_forget(struct sim_change *change);

/* Writes, growing the disk where necessary. */
void sim_disk_write(struct sim_disk *disk, struct sim_change *change, uint64_t offset, const void *data,
                    uint64_t length);
/* Zeroes a range inside of the disk. @allocate: whole pages get (or keep) their space, else they give it back. */
void sim_disk_zero(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length,
                   bool allocate);
/* Gives holes in the range their space, without a change of bytes. */
void sim_disk_allocate(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length);
void sim_disk_resize(struct sim_disk *disk, struct sim_change *change, uint64_t size);

/* Zero beyond the end. */
void sim_disk_read(struct sim_disk *disk, uint64_t offset, void *buffer, uint64_t length);
void sim_disk_read_durable(struct sim_disk *disk, uint64_t offset, void *buffer, uint64_t length);
/* The longest prefix of the range that can be written when at most @room more bytes may be allocated. */
uint64_t sim_disk_fits(struct sim_disk *disk, uint64_t offset, uint64_t length, uint64_t room);
/* Whether @offset (before the end) lies in data or in a hole, and where that ends. */
bool sim_disk_extent(struct sim_disk *disk, uint64_t offset, uint64_t *ret_end);

/* Makes durable what was complete at @serial. */
void sim_disk_flush(struct sim_disk *disk, uint64_t serial);
/* Makes @change durable. */
void sim_disk_settle(struct sim_disk *disk, struct sim_change *change, uint64_t offset, uint64_t length);
/* A flush of what was complete at @serial fails: with @ppm, what it should have written is never written. */
void sim_disk_lose(struct sim_disk *disk, uint64_t serial, uint32_t ppm);
/* Leaves each sector, and the size, at one version; counts the uncertain sectors and those left at an old one. */
void sim_disk_cut(struct sim_disk *disk, uint64_t *uncertain, uint64_t *old);
/* Whether sim_disk_cut() may leave these 512 bytes in the sector at @offset. */
bool sim_disk_possible(struct sim_disk *disk, uint64_t offset, const void *data);
/* Everything that is there now is durable. */
void sim_disk_settle_all(struct sim_disk *disk);

#endif

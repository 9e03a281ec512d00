/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files: names, what a test puts into them and does to them, and what a power cut leaves.
 */
#include "sys/sim/file.h"
#include <errno.h>
#include <string.h>

/* ---- names ---- */

struct weir_sim_file *weir_sim_file_new(const char *name, const struct weir_sim_file_options *options)
{
    struct weir_sim_file *file = weir_new(struct weir_sim_file);

    WEIR_ASSERT(!weir_sim_file_find(name));
    file->id = ++sim_world->file_serial;
    file->name = weir_strdup(name);
    if (options)
        file->options = *options;
    if (!file->options.logical_block)
        file->options.logical_block = 512;
    if (!file->options.memory_align)
        file->options.memory_align = 512;
    file->disk = sim_disk_new(file->options.size);
    file->budget = UINT64_MAX;
    TAILQ_INIT(&file->stuck);
    TAILQ_INIT(&file->locks);
    TAILQ_INSERT_TAIL(&sim_world->files, file, link);
    return file;
}

struct weir_sim_file *weir_sim_file_find(const char *name)
{
    struct weir_sim_file *file;

    TAILQ_FOREACH (file, &sim_world->files, link) {
        if (file->name && strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

void sim_files_drop(void)
{
    struct weir_sim_file *file;

    while ((file = TAILQ_FIRST(&sim_world->files))) {
        TAILQ_REMOVE(&sim_world->files, file, link);
        sim_locks_drop(file, NULL);
        sim_disk_free(file->disk);
        free(file->bad);
        free(file->name);
        free(file);
    }
}

/* ---- contents ---- */

uint64_t weir_sim_file_size(const struct weir_sim_file *file)
{
    return sim_disk_size(file->disk);
}

uint64_t weir_sim_file_allocated(const struct weir_sim_file *file)
{
    return sim_disk_allocated(file->disk);
}

void weir_sim_file_put(struct weir_sim_file *file, uint64_t offset, const void *data, size_t length)
{
    struct sim_change *change = sim_change_new();

    WEIR_ASSERT(!file->options.block || offset + length <= sim_disk_size(file->disk));
    sim_disk_write(file->disk, change, offset, data, length);
    sim_disk_settle(file->disk, change, offset, length);
    sim_change_forget(change);
}

void weir_sim_file_peek(struct weir_sim_file *file, uint64_t offset, void *buffer, size_t length)
{
    sim_disk_read(file->disk, offset, buffer, length);
}

void weir_sim_file_peek_durable(struct weir_sim_file *file, uint64_t offset, void *buffer, size_t length)
{
    sim_disk_read_durable(file->disk, offset, buffer, length);
}

bool weir_sim_file_possible(struct weir_sim_file *file, uint64_t offset, const void *data)
{
    return sim_disk_possible(file->disk, offset, data);
}

/* ---- faults ---- */

void weir_sim_file_faults(struct weir_sim_file *file, enum weir_sim_kind kind,
                          const struct weir_sim_faults *faults)
{
    file->faults[kind] = *faults;
    file->own_faults |= 1u << kind;
}

void weir_sim_file_bad_range(struct weir_sim_file *file, uint64_t offset, uint64_t length, bool read,
                             bool write)
{
    file->bad = weir_realloc(file->bad, (file->bad_count + 1) * sizeof(file->bad[0]));
    file->bad[file->bad_count++] = (struct sim_bad_range){ offset, length, read, write };
}

void weir_sim_file_budget(struct weir_sim_file *file, uint64_t bytes)
{
    file->budget = bytes;
}

void weir_sim_file_stick(struct weir_sim_file *file, unsigned kinds)
{
    file->stick = kinds;
}

void weir_sim_file_release(struct weir_sim_file *file, int error)
{
    struct sim_request *request;

    file->stick = 0;
    while ((request = TAILQ_FIRST(&file->stuck))) {
        TAILQ_REMOVE(&file->stuck, request, stuck_link);
        file->stuck_count--;
        request->stuck = false;
        if (error) {
            request->error = error;
            request->limit = request->moved;
        }
        sim_world->stats.released++;
        request->release(request);
    }
    /* Those that were going to get stuck: they end when their time has come. */
    TAILQ_FOREACH (request, &sim_world->requests, link)
        request->stuck &= request->file != file;
}

unsigned weir_sim_file_stuck(const struct weir_sim_file *file)
{
    return file->stuck_count;
}

void weir_sim_file_heal(struct weir_sim_file *file)
{
    file->own_faults = 0;
    file->bad_count = 0;
    file->budget = UINT64_MAX;
    file->flush_broken = false;
    weir_sim_file_release(file, 0);
}

void weir_sim_heal(void)
{
    struct weir_sim_file *file;

    for (unsigned kind = 0; kind < WEIR_SIM_KINDS; kind++) {
        struct weir_sim_faults *faults = &sim_world->profile.io[kind];

        faults->eio_ppm = faults->short_ppm = faults->stuck_ppm = 0;
    }
    TAILQ_FOREACH (file, &sim_world->files, link)
        weir_sim_file_heal(file);
}

/* ---- the end of a life ---- */

/* Requests in flight: each may take effect or not; with the kernel alive they do. */
static void cut_requests(bool survives)
{
    struct sim_request *request;

    while ((request = TAILQ_FIRST(&sim_world->requests))) {
        if (request->change && (survives || sim_below(SIM_DISK, 2))) {
            (void)sim_request_finish(request);
            continue;
        }
        sim_request_abandon(request);
    }
}

static void cut_operations(void)
{
    struct sim_io *op;

    while ((op = TAILQ_FIRST(&sim_world->flying))) {
        TAILQ_REMOVE(&sim_world->flying, op, flying);
        if (op->waiting_on)
            TAILQ_REMOVE(op->waiting_on, op, waiting);
        free(op->request);
        sim_open_unref(op->open);
        free(op);
    }
}

void sim_files_cut(bool survives)
{
    struct weir_sim_file *file;

    cut_requests(survives);
    cut_operations();
    TAILQ_FOREACH (file, &sim_world->files, link) {
        if (!survives)
            sim_disk_cut(file->disk, &sim_world->stats.cut_sectors, &sim_world->stats.cut_old_sectors);
        TAILQ_INIT(&file->stuck);
        file->stuck_count = 0;
        file->flush_broken = false;
        /* A call in flight had a reference to its description, which therefore never lets go of its locks. */
        sim_locks_drop(file, NULL);
    }
}

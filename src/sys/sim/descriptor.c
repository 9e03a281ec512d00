/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Descriptors and what they stand for. As in a real process the lowest free number is given out, so that a
 * descriptor that is used after its close soon names something else.
 */
#include "sys/sim/world.h"

/* Far from any descriptor of the real process. */
#define DESCRIPTOR_BASE 1000

struct sim_open *sim_open_new(enum sim_open_type type)
{
    struct sim_open *open = weir_new(struct sim_open);

    open->type = type;
    open->refs = 1;
    open->serial = ++sim_world->open_serial;
    return open;
}

struct sim_open *sim_open_ref(struct sim_open *open)
{
    open->refs++;
    return open;
}

void sim_open_unref(struct sim_open *open)
{
    if (--open->refs)
        return;
    if (open->type == SIM_OPEN_FILE)
        sim_file_forget(open);
    else
        sim_net_forget(open);
    free(open);
}

int sim_descriptor_new(struct sim_open *open)
{
    struct sim_world *world = sim_world;
    unsigned slot = 0;

    while (slot < world->descriptor_room && world->descriptors[slot])
        slot++;
    if (slot == world->descriptor_room) {
        unsigned room = 2 * slot + 16;

        world->descriptors = weir_realloc(world->descriptors, room * sizeof(world->descriptors[0]));
        while (world->descriptor_room < room)
            world->descriptors[world->descriptor_room++] = NULL;
    }
    world->descriptors[slot] = open;
    world->descriptor_count++;
    return DESCRIPTOR_BASE + (int)slot;
}

static struct sim_open **place(int fd)
{
    struct sim_world *world = sim_world;

    if (fd < DESCRIPTOR_BASE || (unsigned)(fd - DESCRIPTOR_BASE) >= world->descriptor_room)
        return NULL;
    return &world->descriptors[fd - DESCRIPTOR_BASE];
}

struct sim_open *sim_descriptor(int fd)
{
    struct sim_open **slot = place(fd);

    return slot ? *slot : NULL;
}

void sim_descriptor_close(int fd)
{
    struct sim_open **slot = place(fd);

    /* Closing twice is how one part of a program closes a file of another. */
    WEIR_ASSERT(slot && *slot);
    sim_world->descriptor_count--;
    sim_open_unref(weir_steal(slot));
}

void sim_descriptors_drop(void)
{
    for (unsigned slot = 0; slot < sim_world->descriptor_room; slot++)
        if (sim_world->descriptors[slot])
            sim_descriptor_close(DESCRIPTOR_BASE + (int)slot);
}

unsigned weir_sim_descriptors(void)
{
    return sim_world->descriptor_count;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/* Helpers of the simulator's tests of files. */
#ifndef WEIR_TESTS_SIM_FILES_H
#define WEIR_TESTS_SIM_FILES_H

#include "sim_world.h"
#include <fcntl.h>

#define SECTOR 512u

static inline struct weir_sim_file *new_file(const char *name, uint64_t size)
{
    struct weir_sim_file_options options = { .size = size };

    return weir_sim_file_new(name, &options);
}

static inline int open_file(const char *name)
{
    int fd = weir_sys->file.open(name, O_RDWR, 0);

    WEIR_ASSERT(fd >= 0);
    return fd;
}

static inline struct weir_sys_loop *open_ring(void)
{
    struct weir_sys_loop *ring;

    WEIR_ASSERT(weir_sys->loop.open(&ring) == 0);
    return ring;
}

/* Runs @run in a fresh world with a file "disk" of 64 KiB; true: every thread ended. */
static inline bool run_with(uint64_t seed, const struct weir_sim_profile *profile, void (*run)(void *arg))
{
    bool over;

    if (profile)
        weir_sim_begin(seed, profile);
    else
        sim_begin(seed);
    (void)new_file("disk", 65536);
    weir_sim_spawn("main", run, weir_sim_file_find("disk"));
    over = weir_sim_run(&sim_limits) == WEIR_SIM_FINISHED;
    return over;
}

#endif

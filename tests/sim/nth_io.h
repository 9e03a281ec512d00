/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "nth-io": a filter of the tests' own that counts what goes through it, and fails the n-th request, or stops the
 * world in front of it. One at a time in a program; its state survives power cuts.
 */
#ifndef WEIR_TESTS_SIM_NTH_IO_H
#define WEIR_TESTS_SIM_NTH_IO_H

#include "graph/node.h"

enum nth_io_what {
    NTH_IO_COUNT,     /* nothing happens */
    NTH_IO_FAIL,      /* request number `at` fails */
    NTH_IO_FAIL_EVER, /* so do all that come after it */
    NTH_IO_STOP,      /* the world stops in front of request number `at` */
};

struct nth_io {
    unsigned ops; /* WEIR_OP_BIT: those that are counted */
    uint64_t count, at;
    enum nth_io_what what;
    bool hit;
};

extern struct nth_io nth_io;
/* Options: file. */
extern const struct weir_driver weir_driver_nth_io;

#endif

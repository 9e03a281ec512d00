/* SPDX-License-Identifier: BSD-2-Clause */
/* An image of the test format (tests/sim/simfmt.h) on leaves that keep a log: for the tests of maps and tables. */
#ifndef WEIR_TESTS_IMAGE_WORLD_H
#define WEIR_TESTS_IMAGE_WORLD_H

#include "../sim/simfmt.h"
#include "meta/meta.h"
#include "ram.h"

#define UNIT 4096u

struct image {
    struct weir_node *node; /* "i" */
    struct weir_edge *edge;
    struct ram *file; /* "f" */
    struct ram *data; /* "d", or the same */
    struct simfmt_header header;
};

struct image_options {
    uint64_t size;       /* bytes of the guest's disk; 0: 1 MiB */
    uint64_t unit;       /* bytes; 0: UNIT */
    uint64_t room;       /* host units for data; 0: 64 */
    unsigned cache;      /* tables in memory; 0: 64 */
    bool data_file;      /* the data on a leaf of its own */
    const char *backing; /* name of a node, or NULL */
};

weir_co_fn struct image image_new(const struct image_options *options);
weir_co_fn void image_end(struct image *image);
/* Opens the image again: what was not written back is seen to be missing. The log is emptied. */
weir_co_fn void image_reopen(struct image *image, const struct image_options *options);
weir_co_fn int image_flush(struct image *image);
/* Changes guest unit @index. */
weir_co_fn int image_write(struct image *image, uint64_t index, int byte);
weir_co_fn int image_discard(struct image *image, uint64_t index);
/* On the disk: the entry of guest unit @index; the count of host unit @unit. */
uint64_t image_entry(const struct image *image, uint64_t index);
uint32_t image_count(const struct image *image, uint64_t unit);
/* Host unit of the first data. */
static inline uint64_t image_place(const struct image *image, uint64_t nth)
{
    return (image->header.first_unit + nth) * image->header.unit;
}
struct weir_meta_stats image_stats(const struct image *image);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
#include "image_world.h"

static uint64_t or (uint64_t value, uint64_t otherwise)
{
    return value ? value : otherwise;
}

static weir_co_fn void open_image(struct image *image, const struct image_options *options)
{
    char backing[64] = "";

    if (options->backing)
        (void)snprintf(backing, sizeof(backing), ",'backing':'%s'", options->backing);
    image->node = add("{'driver':'simfmt','node-name':'i','discard':'unmap','x-cache':%u,'file':'f'%s%s}",
                      (unsigned) or (options->cache, 64) * SIMFMT_BLOCK,
                      options->data_file ? ",'data-file':'d'" : "", backing);
    image->edge = user(image->node, R | W, ALL);
    (void)ram_log(image->file);
}

weir_co_fn struct image image_new(const struct image_options *options)
{
    uint64_t unit = or (options->unit, UNIT), size = or (options->size, MIB), room = or (options->room, 64);
    const char *tag = options->data_file ? ",'tag':true" : "";
    struct image image;

    ram_register();
    weir_driver_register(&weir_driver_simfmt);
    /* Twice: where the data begins is known only when the counts of all units have their place. */
    (void)simfmt_layout(size, unit, room, options->data_file, &image.header);
    (void)simfmt_layout(size, unit, room + image.header.first_unit, options->data_file, &image.header);
    add("{'driver':'ram','node-name':'f','discard':'unmap','zero':true,'size':%llu%s}",
        (unsigned long long)(image.header.host_units * unit), tag);
    image.file = image.data = ram_of("f");
    if (options->data_file) {
        add("{'driver':'ram','node-name':'d','discard':'unmap','zero':true,'size':%llu%s}",
            (unsigned long long)(image.header.host_units * unit), tag);
        image.data = ram_of("d");
    }
    memcpy(image.file->data, &image.header, sizeof(image.header));
    open_image(&image, options);
    return image;
}

static weir_co_fn void close_image(struct image *image)
{
    leave(image->edge);
    del("i");
}

weir_co_fn void image_end(struct image *image)
{
    bool data_file = image->data != image->file;

    close_image(image);
    del("f");
    if (data_file)
        del("d");
}

weir_co_fn void image_reopen(struct image *image, const struct image_options *options)
{
    close_image(image);
    open_image(image, options);
}

weir_co_fn int image_flush(struct image *image)
{
    return io(image->edge, WEIR_OP_FLUSH, 0, 0, NULL, 0);
}

weir_co_fn int image_write(struct image *image, uint64_t index, int byte)
{
    uint64_t unit = image->header.unit;
    weir_autofree char *bytes = weir_alloc(unit);

    memset(bytes, byte, unit);
    return io(image->edge, WEIR_OP_WRITE, index * unit, unit, bytes, 0);
}

weir_co_fn int image_discard(struct image *image, uint64_t index)
{
    return io(image->edge, WEIR_OP_DISCARD, index * image->header.unit, image->header.unit, NULL, 0);
}

uint64_t image_entry(const struct image *image, uint64_t index)
{
    uint64_t entry;

    memcpy(&entry, image->file->data + image->header.table_offset + 8 * index, 8);
    return entry;
}

uint32_t image_count(const struct image *image, uint64_t unit)
{
    uint32_t count;

    memcpy(&count, image->file->data + image->header.counts_offset + 4 * unit, 4);
    return count;
}

struct weir_meta_stats image_stats(const struct image *image)
{
    struct weir_meta_stats stats;

    weir_meta_stats(image->node, &stats);
    return stats;
}

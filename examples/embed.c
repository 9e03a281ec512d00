/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A program with a disk in it: opens one from JSON, fills it with many requests at a time, and reads it back.
 *
 *   cc embed.c -lweir -o embed
 *   ./embed '{"driver": "file", "filename": "disk.img"}'
 *
 * Without an argument it uses a disk that holds nothing and reads as zeroes.
 */
#include <weir/device.h>
#include <weir/library.h>
#include <weir/version.h>

#include <inttypes.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK ((uint64_t)65536)
#define BLOCKS_MAX 64

/* One request: its memory, and whom it tells. */
struct block {
    sem_t *finished;
    int result;
    unsigned char *bytes;
};

/* On a thread of the library: only take note, never block. */
static void block_done(void *arg, int result)
{
    struct block *block = arg;

    block->result = result;
    sem_post(block->finished);
}

/* Waits for @count requests; returns the first error. */
static int collect(struct block *blocks, uint64_t count, sem_t *finished)
{
    int result = 0;

    for (uint64_t i = 0; i < count; i++)
        while (sem_wait(finished))
            continue;
    for (uint64_t i = 0; i < count && !result; i++)
        result = blocks[i].result;
    return result;
}

/* Writes all blocks at once, flushes, reads all at once. @ret_same: how many came back as they were written. */
static int write_and_read(struct weir_device *device, struct block *blocks, uint64_t count, sem_t *finished,
                          uint64_t *ret_same)
{
    int result;

    for (uint64_t i = 0; i < count; i++) {
        memset(blocks[i].bytes, (int)(i + 1), BLOCK);
        weir_device_write(device, i * BLOCK, BLOCK, blocks[i].bytes, 0, block_done, &blocks[i]);
    }
    result = collect(blocks, count, finished);
    if (!result)
        result = weir_device_flush_wait(device);
    if (result)
        return result;
    for (uint64_t i = 0; i < count; i++) {
        memset(blocks[i].bytes, 0xff, BLOCK);
        weir_device_read(device, i * BLOCK, BLOCK, blocks[i].bytes, block_done, &blocks[i]);
    }
    result = collect(blocks, count, finished);
    *ret_same = 0;
    for (uint64_t i = 0; i < count; i++)
        *ret_same += blocks[i].bytes[0] == i + 1 && blocks[i].bytes[BLOCK - 1] == i + 1;
    return result;
}

static int use(struct weir_device *device)
{
    struct block blocks[BLOCKS_MAX];
    uint64_t size = weir_device_size(device), count = size / BLOCK, same = 0;
    unsigned char *memory;
    sem_t finished;
    int result;

    if (count > BLOCKS_MAX)
        count = BLOCKS_MAX;
    memory = malloc(BLOCKS_MAX * BLOCK);
    if (!memory || sem_init(&finished, 0, 0))
        exit(1);
    for (uint64_t i = 0; i < count; i++)
        blocks[i] = (struct block){ &finished, 0, memory + i * BLOCK };
    result = write_and_read(device, blocks, count, &finished, &same);
    if (!result)
        result = weir_device_zero_wait(device, 0, count * BLOCK, WEIR_DEVICE_UNMAP);
    if (!result)
        result = weir_device_discard_wait(device, 0, count * BLOCK);
    printf("%" PRIu64 " bytes; of %" PRIu64 " blocks written %" PRIu64 " read back the same\n", size, count,
           same);
    sem_destroy(&finished);
    free(memory);
    return result;
}

int main(int argc, char **argv)
{
    const char *json =
        argc > 1 ? argv[1] : "{\"driver\": \"null-co\", \"read-zeroes\": true, \"size\": 1048576}";
    struct weir_device *device;
    char error[256];
    int result = weir_init();

    printf("weir %s\n", weir_version());
    if (result) {
        fprintf(stderr, "weir does not start: %s\n", strerror(-result));
        return 1;
    }
    result = weir_device_open(json, 0, &device, error, sizeof(error));
    if (result) {
        fprintf(stderr, "%s\n", error);
        (void)weir_done();
        return 1;
    }
    result = use(device);
    if (result)
        fprintf(stderr, "%s\n", strerror(-result));
    if (weir_device_close(device) || weir_done())
        return 1;
    return result ? 1 : 0;
}

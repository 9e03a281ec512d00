/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters: what is encoded comes back, what is broken does not, and other people's programs read what is
 * written here and write what is read here.
 */
#include "format/qcow2/codec.h"

#include "base/alloc.h"
#include "unit.h"
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TYPES 2
#define TAIL 600 /* garbage behind the stored bytes */
#define CLUSTER_MAX ((size_t)1 << QCOW2_CLUSTER_BITS_MAX)

static const char *const type_names[TYPES] = { "zlib", "zstd" };

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

enum kind { ZEROES, ONE_BYTE, TEXT, FAR_REPEATS, HALF_RANDOM, RANDOM, KINDS };

static void fill(enum kind kind, uint8_t *bytes, size_t length)
{
    uint64_t seed = length + kind;

    for (size_t i = 0; i < length; i++) {
        uint8_t byte = (uint8_t)next_random(&seed);

        switch (kind) {
        case ZEROES:
            bytes[i] = 0;
            break;
        case ONE_BYTE:
            bytes[i] = 0xcd;
            break;
        case TEXT:
            bytes[i] = "etaoin shrdlu\n"[byte % 14];
            break;
        case FAR_REPEATS: /* what a window of 32 KiB would still reach and one of 4 KiB does not */
            bytes[i] = i < 5000 ? byte : bytes[i - 5000];
            break;
        case HALF_RANDOM:
            bytes[i] = i < length / 2 ? byte : 0;
            break;
        default:
            bytes[i] = byte;
        }
    }
}

/* Exactly as large as it may become, so that a sanitizer sees each byte beyond. */
static uint8_t *buffer(size_t length)
{
    uint8_t *bytes = weir_alloc(length);

    memset(bytes, 0xa5, length);
    return bytes;
}

static void check_round_trip(enum qcow2_compression type, enum kind kind, size_t length)
{
    weir_autofree uint8_t *in = buffer(length), *stored = buffer(length + TAIL), *out = buffer(length);
    size_t n;

    fill(kind, in, length);
    n = qcow2_encode(type, in, length, stored, length);
    assert_true(n < length);
    assert_int_equal(stored[length], 0xa5);
    if (kind == RANDOM) {
        assert_int_equal(n, 0);
        return;
    }
    if (kind == ZEROES || kind == ONE_BYTE)
        assert_in_range(n, 1, length / 8);
    if (kind == TEXT) /* 3.8 bits a byte */
        assert_in_range(n, 1, length * 3 / 4);
    if (kind == HALF_RANDOM)
        assert_in_range(n, length / 2, length - 1);
    if (!n) {
        assert_true(kind == FAR_REPEATS);
        return;
    }
    /* With nothing behind, and with garbage behind. */
    for (size_t tail = 0; tail <= TAIL; tail += TAIL) {
        memset(out, 0, length);
        assert_int_equal(qcow2_decode(type, stored, n + tail, out, length), 0);
        assert_memory_equal(in, out, length);
    }
}

static void round_trips(void **state)
{
    for (enum qcow2_compression type = 0; type < TYPES; type++) {
        for (size_t length = 512; length <= CLUSTER_MAX; length *= 2) {
            for (enum kind kind = 0; kind < KINDS; kind++)
                check_round_trip(type, kind, length);
        }
    }
}

/* Matches that are further away than 4 KiB would be lost on other readers. */
static void zlib_stays_in_its_window(void **state)
{
    const size_t length = 65536;
    weir_autofree uint8_t *in = buffer(length), *out = buffer(length);

    size_t n;

    fill(FAR_REPEATS, in, length);
    n = qcow2_encode(QCOW2_COMPRESSION_ZLIB, in, length, out, length);
    assert_true(!n || n > length * 9 / 10);
    /* zstd has no such limit. */
    assert_in_range(qcow2_encode(QCOW2_COMPRESSION_ZSTD, in, length, out, length), 1, 10000);
}

static void too_little_room(void **state)
{
    const size_t length = 4096;
    weir_autofree uint8_t *in = buffer(length), *out = buffer(length), *back = buffer(length);

    fill(TEXT, in, length);
    for (enum qcow2_compression type = 0; type < TYPES; type++) {
        size_t n = qcow2_encode(type, in, length, out, length);

        assert_true(n > 0);
        for (size_t room = 0; room < n; room++) {
            weir_autofree uint8_t *tight = buffer(room + 1);

            assert_int_equal(qcow2_encode(type, in, length, tight, room), 0);
            assert_int_equal(tight[room], 0xa5);
        }
        /* Encoders may want some room beyond what they use in the end. */
        for (size_t room = n, again = 0; !again; room++) {
            assert_true(room <= n + 64);
            again = qcow2_encode(type, in, length, out, room);
            assert_true(!again || again == n);
        }
        assert_int_equal(qcow2_decode(type, out, n, back, length), 0);
        assert_memory_equal(in, back, length);
    }
}

static void other_lengths_are_errors(void **state)
{
    const size_t length = 4096;
    weir_autofree uint8_t *in = buffer(length), *out = buffer(length), *longer = buffer(2 * length);

    fill(TEXT, in, length);
    for (enum qcow2_compression type = 0; type < TYPES; type++) {
        size_t n = qcow2_encode(type, in, length, out, length);
        const size_t wrong[] = { 0, 1, 512, length - 1, length + 1, 2 * length };

        for (size_t i = 0; i < WEIR_ARRAY_SIZE(wrong); i++)
            assert_int_equal(qcow2_decode(type, out, n, longer, wrong[i]), -EIO);
        /* A stream that was cut off; the context must be good for the next one. */
        for (size_t cut = 0; cut < n; cut++)
            assert_int_equal(qcow2_decode(type, out, cut, longer, length), -EIO);
        assert_int_equal(qcow2_decode(type, out, n, longer, length), 0);
        assert_memory_equal(in, longer, length);
    }
}

/* Any bytes at all may be stored: -EIO, or by chance a stream of that length. */
static void corruption_is_survived(void **state)
{
    const size_t length = 4096;
    weir_autofree uint8_t *in = buffer(length), *stored = buffer(length), *back = buffer(length);
    uint64_t seed = 7;
    unsigned errors = 0;

    fill(TEXT, in, length);
    for (enum qcow2_compression type = 0; type < TYPES; type++) {
        for (unsigned round = 0; round < 3000; round++) {
            size_t n = qcow2_encode(type, in, length, stored, length);
            int ret;

            for (unsigned i = 0; i <= round % 5; i++)
                stored[next_random(&seed) % n] ^= (uint8_t)(1 << next_random(&seed) % 8);
            ret = qcow2_decode(type, stored, round % 2 ? n : length, back, length);
            assert_true(ret == 0 || ret == -EIO);
            errors += ret == -EIO;
        }
        fill(RANDOM, stored, length);
        assert_int_equal(qcow2_decode(type, stored, length, back, length), -EIO);
        memset(stored, 0, length);
        assert_int_equal(qcow2_decode(type, stored, length, back, length), -EIO);
    }
    assert_true(errors > 1000);
}

/* A frame says how large a window it needs: more than any cluster is refused before memory is taken for it. */
static void zstd_window_is_limited(void **state)
{
    /* Magic, descriptor (no sizes), window 2 GiB; then one block that is the last: raw, of one byte. */
    uint8_t frame[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x09, 0x00, 0x00, 'x' };
    uint8_t out;

    assert_int_equal(qcow2_decode(QCOW2_COMPRESSION_ZSTD, frame, sizeof(frame), &out, 1), -EIO);
    frame[5] = 11 << 3; /* 2 MiB: what a writer that does not know the length may say */
    assert_int_equal(qcow2_decode(QCOW2_COMPRESSION_ZSTD, frame, sizeof(frame), &out, 1), 0);
    assert_int_equal(out, 'x');
    frame[5] = 12 << 3;
    assert_int_equal(qcow2_decode(QCOW2_COMPRESSION_ZSTD, frame, sizeof(frame), &out, 1), -EIO);
}

/* ---- many at once: more threads than the pool has places ---- */

#define THREADS 40

static void *use_codec(void *arg)
{
    size_t length = (size_t)512 << (uintptr_t)arg % 8;

    for (unsigned round = 0; round < 20; round++) {
        for (enum qcow2_compression type = 0; type < TYPES; type++)
            check_round_trip(type, TEXT, length);
    }
    return NULL;
}

static void many_threads(void **state)
{
    pthread_t threads[THREADS];

    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, use_codec, (void *)i), 0);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* ---- with other people's programs ---- */

#define DISK ((size_t)256 << 10)

static void write_file(const char *path, const void *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* @ret_length: bytes read, at most @room. */
static void read_file(const char *path, void *bytes, size_t room, size_t *ret_length)
{
    FILE *file = fopen(path, "rb");

    assert_non_null(file);
    *ret_length = fread(bytes, 1, room, file);
    assert_int_equal(fclose(file), 0);
}

static void run(const char *command)
{
    assert_int_equal(system(command), 0);
}

static uint64_t word(const uint8_t *image, uint64_t offset)
{
    uint64_t value;

    memcpy(&value, image + offset, sizeof(value));
    return be64toh(value);
}

/* Compares each compressed cluster with @disk; returns how many there were. */
static unsigned check_image(const uint8_t *image, size_t length, const uint8_t *disk)
{
    struct qcow2_header h;
    unsigned compressed = 0;

    assert_int_equal(qcow2_header_parse(image, length, &h, NULL), 0);
    for (uint64_t at = 0; at < h.size; at += qcow2_cluster_size(&h)) {
        uint64_t index = at >> h.cluster_bits, stored_at, stored;
        uint64_t l2 = word(image, h.l1_offset + index / qcow2_l2_entries(&h) * 8) & QCOW2_OFFSET_MASK;
        uint64_t entry = word(image, l2 + index % qcow2_l2_entries(&h) * 8);
        weir_autofree uint8_t *out = buffer(qcow2_cluster_size(&h));

        if (!(entry & QCOW2_COMPRESSED))
            continue;
        qcow2_compressed_get(entry, h.cluster_bits, &stored_at, &stored);
        assert_true(stored_at < length);
        stored = WEIR_MIN(stored, length - stored_at);
        assert_int_equal(qcow2_decode(h.compression, image + stored_at, stored, out, qcow2_cluster_size(&h)),
                         0);
        assert_memory_equal(out, disk + at, qcow2_cluster_size(&h));
        compressed++;
    }
    return compressed;
}

static void reads_what_others_wrote(void **state)
{
    weir_autofree uint8_t *disk = buffer(DISK), *image = buffer(8 * DISK);
    char dir[] = "/tmp/weir-codec-XXXXXX", path[64], command[400];
    size_t length;

    assert_non_null(mkdtemp(dir));
    fill(TEXT, disk, DISK);
    snprintf(path, sizeof(path), "%s/raw", dir);
    write_file(path, disk, DISK);
    for (unsigned type = 0; type < TYPES; type++) {
        for (unsigned bits = QCOW2_CLUSTER_BITS_MIN; bits <= 18; bits += 3) {
            snprintf(command, sizeof(command),
                     "qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=%u,compression_type=%s %s/raw "
                     "%s/image",
                     1u << bits, type_names[type], dir, dir);
            run(command);
            snprintf(path, sizeof(path), "%s/image", dir);
            read_file(path, image, 8 * DISK, &length);
            assert_int_equal(check_image(image, length, disk), DISK >> bits);
        }
    }
    snprintf(command, sizeof(command), "rm -r %s", dir);
    run(command);
}

/* Clusters of an image made by hand: header, refcount table, refcount block, L1, L2, then what is compressed. */
enum { AT_HEADER, AT_REFTABLE, AT_REFBLOCK, AT_L1, AT_L2, AT_DATA };

static void put_word(uint8_t *image, uint64_t offset, uint64_t value)
{
    value = htobe64(value);
    memcpy(image + offset, &value, sizeof(value));
}

/* An image of @disk with clusters of 2^@bits bytes that has nothing but compressed ones. Returns its length. */
static size_t make_image(enum qcow2_compression type, unsigned bits, const uint8_t *disk, uint8_t *image)
{
    uint64_t cluster = (uint64_t)1 << bits, at = AT_DATA * cluster;
    struct qcow2_header h = {
        .version = 3,
        .cluster_bits = bits,
        .refcount_order = 4,
        .size = DISK,
        .l1_offset = AT_L1 * cluster,
        .l1_size = 1,
        .refcount_table_offset = AT_REFTABLE * cluster,
        .refcount_table_clusters = 1,
        .header_length = sizeof(struct qcow2_disk_header),
        .compression = type,
        .incompatible = type == QCOW2_COMPRESSION_ZSTD ? QCOW2_INCOMPAT_COMPRESSION : 0,
    };

    qcow2_header_write(&h, image);
    put_word(image, h.refcount_table_offset, AT_REFBLOCK * cluster);
    put_word(image, h.l1_offset, AT_L2 * cluster | QCOW2_COPIED);
    for (uint64_t i = 0; i < AT_DATA; i++)
        qcow2_refcount_set(image + AT_REFBLOCK * cluster, 4, i, 1);
    for (uint64_t i = 0; i < DISK >> bits; i++) {
        size_t n = qcow2_encode(type, disk + (i << bits), cluster, image + at, cluster);

        assert_true(n > 0);
        put_word(image, AT_L2 * cluster + i * 8, qcow2_compressed_make(at, n, bits));
        for (uint64_t c = at >> bits; c <= (at + n - 1) >> bits; c++) {
            uint8_t *block = image + AT_REFBLOCK * cluster;

            qcow2_refcount_set(block, 4, c, qcow2_refcount_get(block, 4, c) + 1);
        }
        at += n; /* stored back to back */
    }
    return weir_align_up(at, cluster);
}

static void others_read_what_is_written(void **state)
{
    weir_autofree uint8_t *disk = buffer(DISK), *image = weir_alloc(4 * DISK), *out = buffer(DISK + 1);
    char dir[] = "/tmp/weir-codec-XXXXXX", path[64], command[400];
    size_t length;

    assert_non_null(mkdtemp(dir));
    fill(TEXT, disk, DISK);
    for (unsigned type = 0; type < TYPES; type++) {
        for (unsigned bits = 12; bits <= 16; bits += 2) {
            memset(image, 0, 4 * DISK);
            length = make_image(type, bits, disk, image);
            snprintf(path, sizeof(path), "%s/image", dir);
            write_file(path, image, length);
            snprintf(command, sizeof(command),
                     "qemu-img check -q %s/image && qemu-img convert -f qcow2 -O raw %s/image %s/out", dir,
                     dir, dir);
            run(command);
            snprintf(path, sizeof(path), "%s/out", dir);
            read_file(path, out, DISK + 1, &length);
            assert_int_equal(length, DISK);
            assert_memory_equal(out, disk, DISK);
        }
    }
    snprintf(command, sizeof(command), "rm -r %s", dir);
    run(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trips),
        cmocka_unit_test(zlib_stays_in_its_window),
        cmocka_unit_test(too_little_room),
        cmocka_unit_test(other_lengths_are_errors),
        cmocka_unit_test(corruption_is_survived),
        cmocka_unit_test(zstd_window_is_limited),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(reads_what_others_wrote),
        cmocka_unit_test(others_read_what_is_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

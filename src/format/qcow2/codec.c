/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compressed clusters.
 *
 * zlib is a raw deflate stream that other readers inflate with a window of 4 KiB: it is written by ISA-L, which can be
 * told so and is 20 to 30 times faster than zlib at the same size, and read by libdeflate. zstd is one frame.
 *
 * Contexts are dear to make, so they are kept: whoever needs one takes a set out of the pool and puts it back. The
 * pool is a few slots that are exchanged atomically. A thread that finds none makes a set of its own, which is freed
 * afterwards if all slots are taken. What is in the pool stays until the process ends, or until qcow2_codec_trim().
 */
#include "format/qcow2/codec.h"

#include "base/alloc.h"
#include <errno.h>
#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <stdatomic.h>
#include <zstd.h>

#define POOL_SIZE 16
#define ZLIB_WINDOW_BITS 12
#define ISAL_LEVEL 2
#define ISAL_LEVEL_BUFFER ISAL_DEF_LVL2_DEFAULT
/* Writers that do not tell the encoder how much will come choose the window for any length, not for the cluster. */
#define ZSTD_WINDOW_LOG_MAX ((int)QCOW2_CLUSTER_BITS_MAX)

/* Made when they are first needed. */
struct codec {
    struct libdeflate_decompressor *inflate;
    void *deflate_level; /* ISAL_LEVEL_BUFFER bytes */
    ZSTD_CCtx *zstd_encode;
    ZSTD_DCtx *zstd_decode;
};

static _Atomic(struct codec *) pool[POOL_SIZE];

static struct codec *codec_take(void)
{
    for (unsigned i = 0; i < POOL_SIZE; i++) {
        struct codec *codec = atomic_exchange_explicit(&pool[i], NULL, memory_order_acquire);

        if (codec)
            return codec;
    }
    return weir_new(struct codec);
}

static void codec_free(struct codec *codec)
{
    libdeflate_free_decompressor(codec->inflate);
    free(codec->deflate_level);
    (void)ZSTD_freeCCtx(codec->zstd_encode);
    (void)ZSTD_freeDCtx(codec->zstd_decode);
    free(codec);
}

void qcow2_codec_trim(void)
{
    for (unsigned i = 0; i < POOL_SIZE; i++) {
        struct codec *codec = atomic_exchange_explicit(&pool[i], NULL, memory_order_acquire);

        if (codec)
            codec_free(codec);
    }
}

static void codec_give(struct codec *codec)
{
    for (unsigned i = 0; i < POOL_SIZE; i++) {
        struct codec *expected = NULL;

        if (atomic_compare_exchange_strong_explicit(&pool[i], &expected, codec, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    codec_free(codec);
}

/* ---- zlib ---- */

static int zlib_decode(struct codec *codec, const void *in, size_t stored, void *out, size_t length)
{
    enum libdeflate_result result;
    size_t used, got = 0;

    if (!codec->inflate)
        codec->inflate = libdeflate_alloc_decompressor();
    if (!codec->inflate)
        return -ENOMEM;
    result = libdeflate_deflate_decompress_ex(codec->inflate, in, stored, out, length, &used, &got);
    return result == LIBDEFLATE_SUCCESS && got == length ? 0 : -EIO;
}

static size_t zlib_encode(struct codec *codec, const void *in, size_t length, void *out, size_t room)
{
    struct isal_zstream stream;

    if (!codec->deflate_level)
        codec->deflate_level = weir_alloc(ISAL_LEVEL_BUFFER);
    isal_deflate_stateless_init(&stream);
    stream.level = ISAL_LEVEL;
    stream.level_buf = codec->deflate_level;
    stream.level_buf_size = ISAL_LEVEL_BUFFER;
    stream.hist_bits = ZLIB_WINDOW_BITS;
    stream.gzip_flag = IGZIP_DEFLATE;
    stream.flush = NO_FLUSH;
    stream.end_of_stream = 1;
    stream.next_in = (uint8_t *)(uintptr_t)in;
    stream.avail_in = (uint32_t)length;
    stream.next_out = out;
    stream.avail_out = (uint32_t)room;
    return isal_deflate_stateless(&stream) == COMP_OK ? stream.total_out : 0;
}

/* ---- zstd ---- */

static int zstd_decode(struct codec *codec, const void *in, size_t stored, void *out, size_t length)
{
    ZSTD_inBuffer input = { .src = in, .size = stored };
    ZSTD_outBuffer output = { .dst = out, .size = length };
    size_t before, left;

    if (!codec->zstd_decode)
        codec->zstd_decode = ZSTD_createDCtx();
    if (!codec->zstd_decode)
        return -ENOMEM;
    /* A frame that was cut off leaves the context in the middle of it. */
    (void)ZSTD_DCtx_reset(codec->zstd_decode, ZSTD_reset_session_and_parameters);
    if (ZSTD_isError(ZSTD_DCtx_setParameter(codec->zstd_decode, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX)))
        return -EIO;
    do {
        before = input.pos + output.pos;
        left = ZSTD_decompressStream(codec->zstd_decode, &output, &input);
        if (ZSTD_isError(left))
            return -EIO;
    } while (left && input.pos + output.pos > before);
    /* left: the frame goes on, but the input has ended or there is no room. */
    return !left && output.pos == length ? 0 : -EIO;
}

static size_t zstd_encode(struct codec *codec, const void *in, size_t length, void *out, size_t room)
{
    size_t stored;

    if (!codec->zstd_encode)
        codec->zstd_encode = ZSTD_createCCtx();
    if (!codec->zstd_encode)
        return 0;
    stored = ZSTD_compress2(codec->zstd_encode, out, room, in, length);
    return ZSTD_isError(stored) ? 0 : stored;
}

/* ---- both ---- */

int qcow2_decode(enum qcow2_compression type, const void *in, size_t stored, void *out, size_t length)
{
    struct codec *codec = codec_take();
    int ret = type == QCOW2_COMPRESSION_ZSTD ? zstd_decode(codec, in, stored, out, length)
                                             : zlib_decode(codec, in, stored, out, length);

    codec_give(codec);
    return ret;
}

size_t qcow2_encode(enum qcow2_compression type, const void *in, size_t length, void *out, size_t room)
{
    struct codec *codec;
    size_t stored;

    if (length < 2 || !room)
        return 0;
    room = WEIR_MIN(room, length - 1);
    codec = codec_take();
    stored = type == QCOW2_COMPRESSION_ZSTD ? zstd_encode(codec, in, length, out, room)
                                            : zlib_encode(codec, in, length, out, room);
    codec_give(codec);
    return stored;
}

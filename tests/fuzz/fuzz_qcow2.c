/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Foreign qcow2 images: checked, opened by the driver, read and written, and checked again. An image that is clean
 * stays clean whatever is done to it, and a check that does not repair writes nothing.
 *
 * An input is a list of pieces of an image, so that the inputs are small and mean something wherever they are changed:
 *   u8 what to do, u8 what to do with it, u16 sectors in all; then for each piece u16 sector, u8 word, u8 words, words
 * of 8 bytes; little endian. Everything else is zeroes. The mutator changes words to what may stand in a table: places
 * of clusters, flags, small numbers.
 */
#include "fuzz.h"
#include "base/alloc.h"
#include "base/iov.h"
#include "format/qcow2/check.h"
#include "graph/graph.h"
#include "io/io.h"
#include "../unit/world.h"
#include <errno.h>
#include <string.h>

#define SECTOR 512u
#define SECTORS_MAX 1024u
#define ROOM ((size_t)2 << 20) /* the file may grow to that */
#define READ_MAX ((uint64_t)256 << 10)
#define HEAD 4u

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak));
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

/* What to do, in the first byte. */
enum {
    RAW_MAGIC = 1 << 0, /* the magic is left as it is */
    FIX_LEAKS = 1 << 1,
    FIX_ERRORS = 1 << 2,
    WRITE = 1 << 3,
    COMPRESS = 1 << 4,
    RESIZE = 1 << 5,
    DATA_FILE = 1 << 6,
};

/* ---- the file: memory that grows ---- */

static uint8_t memory[2][ROOM];
static struct file {
    uint8_t *bytes;
    size_t size;
    unsigned writes;
} files[2]; /* the image, external data */

static weir_co_fn int memory_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    (void)options, (void)err;
    weir_node_set_size(node, files[node->name[0] == 'd'].size);
    return 0;
}

static void memory_limits(struct weir_node *node, struct weir_limits *limits)
{
    (void)node;
    limits->request_align = limits->memory_align = 1;
    limits->iov_max = 1024;
    limits->grows = true;
}

static weir_co_fn int memory_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    struct file *file = &files[node->name[0] == 'd'];

    if (size > ROOM)
        return weir_error_set(err, -ENOSPC, "no space");
    if (size < file->size)
        memset(file->bytes + size, 0, file->size - size);
    file->size = size;
    weir_node_set_size(node, size);
    return 0;
}

static weir_co_fn int memory_submit(struct weir_node *node, struct weir_request *request)
{
    struct file *file = &files[node->name[0] == 'd'];

    switch (request->op) {
    case WEIR_OP_READ:
        if (request->offset + request->length > file->size)
            return -EIO;
        weir_iov_from_buffer(request->iov, request->iovcnt, 0, file->bytes + request->offset,
                             request->length);
        return 0;
    case WEIR_OP_WRITE:
        file->writes++;
        if (request->length > ROOM || request->offset > ROOM - request->length)
            return -ENOSPC;
        weir_iov_to_buffer(request->iov, request->iovcnt, 0, file->bytes + request->offset, request->length);
        file->size = WEIR_MAX(file->size, (size_t)(request->offset + request->length));
        return 0;
    case WEIR_OP_FLUSH:
    case WEIR_OP_DISCARD:
        return 0;
    default:
        return -ENOTSUP;
    }
}

static const struct weir_driver memory_driver = {
    .name = "memory",
    .flags = WEIR_DRIVER_PROTOCOL,
    .open = memory_open,
    .limits = memory_limits,
    .resize = memory_resize,
    .submit = memory_submit,
};

/* ---- the graph ---- */

static weir_co_fn struct weir_node *add(const char *text)
{
    json_t *options = json_loads(text, 0, NULL);
    struct weir_node *node = NULL;
    int ret;

    WEIR_ASSERT(options);
    ret = weir_node_add(options, true, &node, NULL);
    json_decref(options);
    return ret ? NULL : node;
}

static weir_co_fn struct weir_edge *use(struct weir_node *node, unsigned perm)
{
    static const struct weir_root_ops ops = { .kind = "block-backend" };
    struct weir_edge *edge;

    return weir_root_attach(node, "root", perm, WEIR_PERM_ALL, &ops, NULL, &edge, NULL) ? NULL : edge;
}

/* ---- check ---- */

static uint64_t costs_a_copy; /* of the last check: flags that are missing */

static void count_line(void *arg, const char *line)
{
    const char flag[] = "ERROR copied flag is wrong", once[] = "refcount=1";
    size_t length = strlen(line);
    uint64_t *lines = arg;

    WEIR_ASSERT(line[0] && !strchr(line, '\n'));
    ++*lines;
    if (!strncmp(line, flag, sizeof(flag) - 1) && length > sizeof(once) &&
        !strcmp(line + length - sizeof(once) + 1, once))
        costs_a_copy++;
}

/* False: the image cannot be checked at all. */
static weir_co_fn bool check(unsigned fix, struct weir_check_result *ret_result)
{
    const unsigned perm = WEIR_PERM_CONSISTENT_READ | WEIR_PERM_WRITE | WEIR_PERM_RESIZE;
    struct weir_edge *edge = use(weir_node_find("f"), perm), *data = NULL;
    struct qcow2_header header, after;
    struct qcow2_check_source source = { edge, NULL, &header, &after };
    unsigned writes = files[0].writes;
    uint64_t lines = 0;
    bool ok = false;

    costs_a_copy = 0;
    WEIR_ASSERT(edge);
    if (weir_node_find("d"))
        source.data = data = use(weir_node_find("d"), WEIR_PERM_CONSISTENT_READ);
    if (!qcow2_header_parse(files[0].bytes, WEIR_MIN(files[0].size, (size_t)QCOW2_HEADER_MAX), &header, NULL))
        ok = !qcow2_check(&source, fix, ret_result, count_line, &lines, NULL);
    WEIR_ASSERT(fix || files[0].writes == writes);
    if (ok && !fix)
        WEIR_ASSERT(lines == ret_result->corruptions + ret_result->leaks + ret_result->check_errors);
    weir_root_detach(edge, -1);
    if (data)
        weir_root_detach(data, -1);
    return ok;
}

static bool sound(const struct weir_check_result *result)
{
    return !result->corruptions && !result->check_errors;
}

/* A repair leaves nothing that it has promised to repair, and never more than there was. */
static weir_co_fn void repair(unsigned fix, const struct weir_check_result *before)
{
    struct weir_check_result repaired, again;

    if (!check(fix, &repaired))
        return;
    WEIR_ASSERT(repaired.corruptions <= before->corruptions);
    WEIR_ASSERT(check(0, &again));
    WEIR_ASSERT(again.corruptions == repaired.corruptions && again.leaks == repaired.leaks);
}

/* ---- the driver ---- */

static weir_co_fn int request(struct weir_edge *edge, enum weir_op op, uint64_t offset, uint64_t length,
                              uint8_t *buffer, unsigned flags)
{
    struct iovec iov = { buffer, length };
    struct weir_request one =
        weir_request_make(op, offset, length, buffer ? &iov : NULL, buffer ? 1 : 0, flags);

    return weir_root_io(edge, &one);
}

static weir_co_fn void write_some(struct weir_edge *edge, unsigned what, unsigned where, uint8_t *buffer)
{
    uint64_t size = weir_node_size(edge->node), length = WEIR_MIN(size, (uint64_t)20000);
    uint64_t offset = size ? where * (uint64_t)4099 % (size - length + 1) : 0;
    unsigned flags = what & COMPRESS ? WEIR_REQUEST_COMPRESSED : 0;

    if (!length)
        return;
    memset(buffer, 7, length);
    (void)request(edge, WEIR_OP_WRITE, offset, length, buffer, flags);
    (void)request(edge, WEIR_OP_ZERO, offset / 2, length, NULL, where & 1 ? WEIR_REQUEST_MAY_UNMAP : 0);
    (void)request(edge, WEIR_OP_DISCARD, offset / 3, length, NULL, 0);
    (void)request(edge, WEIR_OP_FLUSH, 0, 0, NULL, 0);
    (void)request(edge, WEIR_OP_WRITE, 0, WEIR_MIN(length, (uint64_t)100), buffer, 0);
    if (what & RESIZE && !weir_node_resize(edge, size + 70000, NULL))
        WEIR_ASSERT(weir_node_size(edge->node) == size + 70000);
}

static weir_co_fn void serve(unsigned what, unsigned where)
{
    struct weir_node *node =
        add(files[1].bytes ? "{\"driver\":\"qcow2\",\"node-name\":\"q\",\"file\":\"f\",\"data-file\":\"d\","
                             "\"backing\":null,\"discard\":\"unmap\"}"
                           : "{\"driver\":\"qcow2\",\"node-name\":\"q\",\"file\":\"f\",\"backing\":null,"
                             "\"discard\":\"unmap\"}");
    unsigned perm = WEIR_PERM_CONSISTENT_READ | (what & WRITE ? WEIR_PERM_WRITE | WEIR_PERM_RESIZE : 0);
    struct weir_edge *edge = node ? use(node, perm) : NULL;
    struct weir_status status;
    uint8_t *buffer;

    if (edge) {
        uint64_t size = weir_node_size(node), length = WEIR_MIN(size, READ_MAX);

        buffer = weir_alloc(READ_MAX);
        if (length) {
            (void)request(edge, WEIR_OP_READ, 0, length, buffer, 0);
            (void)request(edge, WEIR_OP_READ, size - length, length, buffer, 0);
            if (!weir_root_status(edge, 0, size, WEIR_REQUEST_DEEP, &status))
                WEIR_ASSERT(status.length && status.length <= size);
        }
        if (what & WRITE)
            write_some(edge, what, where, buffer);
        free(buffer);
        weir_root_detach(edge, -1);
    }
    if (node)
        WEIR_ASSERT(!weir_node_del("q", NULL));
}

/* ---- an input ---- */

struct input {
    const uint8_t *data;
    size_t size;
};

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static void build_image(const struct input *input)
{
    size_t at = HEAD, sectors = WEIR_MIN(get16(input->data + 2), SECTORS_MAX);

    files[0] = (struct file){ memory[0], sectors * SECTOR, 0 };
    while (input->size - at >= 4) {
        size_t sector = get16(input->data + at), word = input->data[at + 2] % 64;
        size_t length = WEIR_MIN((size_t)8 * (1 + input->data[at + 3] % 64), input->size - at - 4);

        length = WEIR_MIN(length, SECTOR - 8 * word);
        if (sector < sectors)
            memcpy(files[0].bytes + sector * SECTOR + 8 * word, input->data + at + 4, length);
        at += 4 + WEIR_MIN((size_t)8 * (1 + input->data[at + 3] % 64), input->size - at - 4);
    }
    if (!(input->data[0] & RAW_MAGIC))
        memcpy(files[0].bytes, "QFI\xfb", 4);
}

static weir_co_fn void run(void *arg)
{
    const struct input *input = arg;
    unsigned what = input->data[0], fix = (what & FIX_LEAKS ? WEIR_CHECK_FIX_LEAKS : 0) |
                                          (what & FIX_ERRORS ? WEIR_CHECK_FIX_ERRORS : 0);
    struct weir_check_result before = { 0 }, after;

    weir_graph_init(&weir_io_hooks);
    WEIR_ASSERT(add("{\"driver\":\"memory\",\"node-name\":\"f\"}"));
    if (files[1].bytes)
        WEIR_ASSERT(add("{\"driver\":\"memory\",\"node-name\":\"d\"}"));
    if (check(0, &before)) {
        if (fix)
            repair(fix, &before);
        if (fix && !check(0, &before))
            before.corruptions = 1;
        serve(what, input->data[1]);
        /*
         * An image may have two places of the guest in one cluster, rightly counted. When one of them goes, nobody
         * can know that the other is then the only one: its flag stays off, which is no harm.
         */
        if (sound(&before) && check(0, &after))
            WEIR_ASSERT(after.corruptions == costs_a_copy && !after.check_errors);
    } else {
        serve(what, input->data[1]);
    }
    WEIR_ASSERT(!weir_node_del("f", NULL));
    if (files[1].bytes)
        WEIR_ASSERT(!weir_node_del("d", NULL));
    weir_graph_done(5 * 1000000000LL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = { data, size };
    extern const struct weir_driver weir_driver_qcow2;

    if (size < HEAD)
        return 0;
    weir_driver_register(&memory_driver);
    weir_driver_register(&weir_driver_qcow2);
    build_image(&input);
    if (data[0] & DATA_FILE)
        files[1] = (struct file){ memory[1], ROOM / 4, 0 };
    run_world(run, &input);
    for (unsigned i = 0; i < 2; i++) {
        if (files[i].bytes)
            memset(files[i].bytes, 0, files[i].size);
        files[i] = (struct file){ 0 };
    }
    return 0;
}

/* ---- the mutator ---- */

static uint64_t interesting(unsigned *seed, uint64_t old, unsigned sectors)
{
    unsigned kind = rand_r(seed) % 10u, bit = rand_r(seed) % 64u;
    uint64_t place = (uint64_t)(rand_r(seed) % (sectors ? sectors : 1u)) * SECTOR;

    switch (kind) {
    case 0:
        return old ^ (uint64_t)1 << bit;
    case 1:
        return place;
    case 2:
        return place | QCOW2_COPIED;
    case 3:
        return place | QCOW2_COMPRESSED | (uint64_t)(bit & 7) << 61;
    case 4:
        return old ^ QCOW2_COPIED;
    case 5:
        return old ^ QCOW2_ZERO;
    case 6:
        return 0;
    case 7:
        return (uint64_t)rand_r(seed) << 32 | (uint32_t)rand_r(seed);
    case 8:
        return old + SECTOR;
    default:
        return bit;
    }
}

/* Changes a word of one piece to something that may stand in a table. */
static void change_word(uint8_t *data, size_t size, unsigned *seed)
{
    size_t at = HEAD, pieces[256], count = 0, words, where;
    uint64_t value;

    while (size - at >= 12 && count < 256) {
        pieces[count++] = at;
        at += WEIR_MIN((size_t)4 + 8 * (1 + data[at + 3] % 64), size - at);
    }
    if (!count)
        return;
    at = pieces[(unsigned)rand_r(seed) % count];
    words = WEIR_MIN((size_t)1 + data[at + 3] % 64, (size - at - 4) / 8);
    where = at + 4 + 8 * ((unsigned)rand_r(seed) % words);
    memcpy(&value, data + where, 8);
    value = htobe64(interesting(seed, be64toh(value), get16(data + 2)));
    memcpy(data + where, &value, 8);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    if (size < HEAD + 12 || !(rand_r(&seed) % 4))
        return LLVMFuzzerMutate(data, size, max_size);
    if (!(rand_r(&seed) % 8))
        (void)LLVMFuzzerMutate(data, HEAD, HEAD);
    for (unsigned i = (unsigned)rand_r(&seed) % 4 + 1; i; i--)
        change_word(data, size, &seed);
    return size;
}

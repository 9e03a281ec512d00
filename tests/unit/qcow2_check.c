/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * qcow2_check [leaks|all] [writes=N] [bad=OFFSET] FILE [DATA-FILE]: the check of an image as a program of its own, for
 * the tests that plant faults (tests/integration/test_qcow2_check.py). Prints what is found, then the result as
 * "result: NAME=NUMBER ...". With writes=N all writes after the N-th fail, as if the machine had stopped there; with
 * bad=OFFSET reads of that byte do.
 */
#include "driver_world.h"
#include "format/qcow2/check.h"
#include <inttypes.h>
#include <limits.h>

static const char *file_name, *data_name;
static unsigned fix;
static bool failed;
static unsigned long writes_left = ULONG_MAX, bad_offset = ULONG_MAX;

/* ---- a filter whose writes end, or that has a bad place ---- */

static weir_co_fn int cut_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    struct weir_edge *file;
    int ret = weir_node_open_child(node, json_object_get(node->options, "file"), "file",
                                   WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY, &file, err);

    if (!ret)
        weir_node_set_size(node, weir_node_size(file->node));
    return ret;
}

static unsigned cut_cares(struct weir_node *node)
{
    return WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_READ);
}

static weir_co_fn int cut_submit(struct weir_node *node, struct weir_request *request)
{
    if (request->op == WEIR_OP_READ && bad_offset >= request->offset &&
        bad_offset - request->offset < request->length)
        return -EIO;
    if (request->op == WEIR_OP_WRITE && !writes_left)
        return -EIO;
    writes_left -= request->op == WEIR_OP_WRITE;
    return weir_io(weir_node_filtered(node), request);
}

static const struct weir_driver cut_driver = {
    .name = "cut",
    .flags = WEIR_DRIVER_FILTER,
    .open = cut_open,
    .cares = cut_cares,
    .submit = cut_submit,
};

/* ---- the check ---- */

static void print(void *arg, const char *line)
{
    (void)arg;
    puts(line);
}

static weir_co_fn int run(struct weir_edge *file, struct weir_edge *data, struct weir_error **err)
{
    char bytes[QCOW2_HEADER_MAX] = { 0 };
    uint64_t length = WEIR_MIN(weir_node_size(file->node), (uint64_t)sizeof(bytes));
    struct weir_check_result r;
    struct qcow2_header header, after;
    const struct qcow2_check_source source = { file, data, &header, &after };
    int ret = weir_io_read(file, 0, length, bytes);

    if (ret)
        return weir_error_set_errno(err, ret, "header");
    ret = qcow2_header_parse(bytes, length, &header, err);
    if (!ret)
        ret = qcow2_check(&source, fix, &r, print, NULL, err);
    if (ret)
        return ret;
    printf("result: corruptions=%" PRIu64 " leaks=%" PRIu64 " check-errors=%" PRIu64
           " corruptions-fixed=%" PRIu64 " leaks-fixed=%" PRIu64 " image-end-offset=%" PRIu64
           " total-clusters=%" PRIu64 " allocated-clusters=%" PRIu64 " fragmented-clusters=%" PRIu64
           " compressed-clusters=%" PRIu64 "\n",
           r.corruptions, r.leaks, r.check_errors, r.corruptions_fixed, r.leaks_fixed, r.image_end_offset,
           r.total_clusters, r.allocated_clusters, r.fragmented_clusters, r.compressed_clusters);
    return 0;
}

static weir_co_fn struct weir_edge *open_file(const char *name, const char *node)
{
    const char *read_only = fix ? "false" : "true";

    return user(add("{'driver':'cut','node-name':'%s','read-only':%s,'file':{'driver':'file','filename':'%s',"
                    "'read-only':%s}}",
                    node, read_only, name, read_only),
                fix ? R | W | Z : R, ALL);
}

static weir_co_fn void body(void *arg)
{
    WEIR_AUTO_ERROR err = NULL;
    struct weir_edge *file = open_file(file_name, "f");
    struct weir_edge *data = data_name ? open_file(data_name, "d") : NULL;

    (void)arg;
    if (run(file, data, &err)) {
        (void)fprintf(stderr, "%s\n", weir_error_text(err));
        failed = true;
    }
    leave(file);
    del("f");
    if (data) {
        leave(data);
        del("d");
    }
}

int main(int argc, char **argv)
{
    int at = 1;

    if (argc > 1 && !strcmp(argv[1], "leaks"))
        fix = WEIR_CHECK_FIX_LEAKS;
    else if (argc > 1 && !strcmp(argv[1], "all"))
        fix = WEIR_CHECK_FIX_LEAKS | WEIR_CHECK_FIX_ERRORS;
    at += !!fix;
    if (at < argc && !strncmp(argv[at], "writes=", 7))
        writes_left = strtoul(argv[at++] + 7, NULL, 10);
    if (at < argc && !strncmp(argv[at], "bad=", 4))
        bad_offset = strtoul(argv[at++] + 4, NULL, 10);
    if (at >= argc)
        return 2;
    file_name = argv[at];
    data_name = argv[at + 1];
    weir_driver_register(&cut_driver);
    run_drivers(body);
    return failed;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The schema parser: error texts, conversions, defaults, ownership.
 *
 * The texts of the table were measured on qemu-storage-daemon 7.2; where a row departs from it a comment says so.
 */
#include "base/schema.h"
#include "base/schema_text.h"
#include "gen/schema.h"
#include "qmp/json_stream.h"
#include "qmp/keyval.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static json_t *json(const char *text)
{
    json_t *value = NULL;

    assert_int_equal(weir_json_parse(text, strlen(text), &value, NULL), 0);
    return value;
}

struct arguments {
    const char *command;
    const struct weir_schema_type *type;
};

static const struct arguments all_arguments[] = {
    { "blockdev-add", &weir_schema_blockdev_options },
    { "blockdev-del", &weir_schema_blockdev_del_args },
    { "query-version", &weir_schema_query_version_args },
    { "quit", &weir_schema_quit_args },
    { "block-export-add", &weir_schema_block_export_options },
    { "nbd-server-start", &weir_schema_nbd_server_start_args },
    { "object-add", &weir_schema_object_options },
    { "blockdev-mirror", &weir_schema_blockdev_mirror_args },
    { "blockdev-create", &weir_schema_blockdev_create_args },
    { "qmp_capabilities", &weir_schema_qmp_capabilities_args },
};

static const struct weir_schema_type *find_type(const char *command)
{
    for (size_t i = 0; i < WEIR_ARRAY_SIZE(all_arguments); i++)
        if (!strcmp(all_arguments[i].command, command))
            return all_arguments[i].type;
    fail_msg("no type for %s", command);
    return NULL;
}

struct row {
    const char *command, *arguments, *text; /* text NULL: accepted */
};

static const struct row rows[] = {
    /* clang-format off */
    { "blockdev-add", "{}", "Parameter 'driver' is missing" },
    { "blockdev-add", "{'driver': 'file'}", "Parameter 'filename' is missing" },
    { "blockdev-add", "{'driver': 5}", "Invalid parameter type for 'driver', expected: string" },
    { "blockdev-add", "{'driver': 'nope'}", "Parameter 'driver' does not accept value 'nope'" },
    { "blockdev-add", "{'driver': null}", "Invalid parameter type for 'driver', expected: string" },
    { "blockdev-add", "{'driver': 'file', 'filename': 5}",
      "Invalid parameter type for 'filename', expected: string" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'node-name': 5}",
      "Invalid parameter type for 'node-name', expected: string" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'zzz': 1}", "Parameter 'zzz' is unexpected" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'node-name': 'a', 'aio': 'bad'}",
      "Parameter 'aio' does not accept value 'bad'" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'aio': 1}",
      "Invalid parameter type for 'aio', expected: string" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'cache': 1}",
      "Invalid parameter type for 'cache', expected: object" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'cache': {'direct': 'on'}}",
      "Invalid parameter type for 'cache.direct', expected: boolean" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'cache': {'zz': true}}",
      "Parameter 'cache.zz' is unexpected" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'cache.direct': true}",
      "Parameter 'cache.direct' is unexpected" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'read-only': 'on'}",
      "Invalid parameter type for 'read-only', expected: boolean" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'read-only': 1}",
      "Invalid parameter type for 'read-only', expected: boolean" },
    { "blockdev-add", "{'driver': 'file', 'filename': '/x', 'read-only': null}",
      "Invalid parameter type for 'read-only', expected: boolean" },
    { "blockdev-add", "{'driver': 'raw'}", "Parameter 'file' is missing" },
    { "blockdev-add", "{'driver': 'raw', 'file': 5}",
      "Invalid parameter type for 'file', expected: BlockdevRef" },
    { "blockdev-add", "{'driver': 'raw', 'file': null}",
      "Invalid parameter type for 'file', expected: BlockdevRef" },
    { "blockdev-add", "{'driver': 'raw', 'file': []}",
      "Invalid parameter type for 'file', expected: BlockdevRef" },
    { "blockdev-add", "{'driver': 'raw', 'file': true}",
      "Invalid parameter type for 'file', expected: BlockdevRef" },
    { "blockdev-add", "{'driver': 'raw', 'file': 1.5}",
      "Invalid parameter type for 'file', expected: BlockdevRef" },
    { "blockdev-add", "{'driver': 'raw', 'file': {}}", "Parameter 'file.driver' is missing" },
    { "blockdev-add", "{'driver': 'raw', 'file': {'driver': 'file'}}",
      "Parameter 'file.filename' is missing" },
    { "blockdev-add", "{'driver': 'raw', 'file': {'driver': 'file', 'filename': 1}}",
      "Invalid parameter type for 'file.filename', expected: string" },
    { "blockdev-add", "{'driver': 'raw', 'file': {'driver': 'file', 'filename': 'x', 'zz': 1}}",
      "Parameter 'file.zz' is unexpected" },
    { "blockdev-add", "{'driver': 'raw', 'file': {'driver': 'zz'}}",
      "Parameter 'driver' does not accept value 'zz'" },
    { "blockdev-add", "{'driver': 'raw', 'file': {'driver': 'raw', 'file': {'driver': 'file'}}}",
      "Parameter 'file.file.filename' is missing" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'offset': -1}", NULL },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'offset': '1k'}",
      "Invalid parameter type for 'offset', expected: integer" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'size': 1.5}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'size': 1.0}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'size': 18446744073709551615}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'size': 18446744073709551616}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'raw', 'file': 'a', 'size': 9223372036854775808}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'null-co', 'size': 'x'}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'null-co', 'size': []}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'null-co', 'size': 18446744073709551615}",
      "Invalid parameter type for 'size', expected: integer" },
    { "blockdev-add", "{'driver': 'null-co', 'latency-ns': -5}",
      "Parameter 'latency-ns' expects uint64" }, /* theirs takes it */
    { "blockdev-add", "{'driver': 'null-co', 'read-zeroes': 0}",
      "Invalid parameter type for 'read-zeroes', expected: boolean" },
    { "blockdev-add", "{'driver': 'blkdebug', 'image': 'a', 'inject-error': 5}",
      "Invalid parameter type for 'inject-error', expected: array" },
    { "blockdev-add", "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [5]}",
      "Invalid parameter type for 'inject-error[0]', expected: object" },
    { "blockdev-add", "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{}]}",
      "Parameter 'inject-error[0].event' is missing" },
    { "blockdev-add", "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{'event': 'zz'}]}",
      "Parameter 'event' does not accept value 'zz'" },
    { "blockdev-add",
      "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{'event': 'read_aio', 'errno': 'x'}]}",
      "Invalid parameter type for 'inject-error[0].errno', expected: integer" },
    { "blockdev-add",
      "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{'event': 'read_aio', 'zz': 'x'}]}",
      "Parameter 'inject-error[0].zz' is unexpected" },
    { "blockdev-add",
      "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{'event': 'read_aio'}, "
      "{'event': 'read_aio', 'iotype': 'x'}]}",
      "Parameter 'iotype' does not accept value 'x'" },
    { "blockdev-add",
      "{'driver': 'blkdebug', 'image': 'a', 'inject-error': [{'event': 'read_aio', "
      "'errno': 9999999999}]}", NULL },
    { "blockdev-add", "{'driver': 'blkdebug', 'image': 'a', 'align': -1}",
      "Parameter 'align' expects uint64" }, /* theirs takes it, and the driver refuses it */
    { "blockdev-add", "{'driver': 'throttle', 'file': 'a'}", "Parameter 'throttle-group' is missing" },
    { "blockdev-add", "{'driver': 'throttle', 'throttle-group': 'a'}", "Parameter 'file' is missing" },
    { "blockdev-add", "{'driver': 'throttle', 'throttle-group': 'g', 'file': 'a', 'x': 1}",
      "Parameter 'x' is unexpected" },
    { "blockdev-add", "{'driver': 'null-co', 'node-name': 'a', 'detect-zeroes': 'x'}",
      "Parameter 'detect-zeroes' does not accept value 'x'" },
    { "blockdev-add", "{'driver': 'null-co', 'node-name': 'a', 'discard': true}",
      "Invalid parameter type for 'discard', expected: string" },
    { "blockdev-add", "{'zzz': 1}", "Parameter 'driver' is missing" },
    { "blockdev-add", "{'driver': 'null-co', 'zz': 1, 'yy': 2}",
      "Parameter 'zz' is unexpected" }, /* ours: the first one */
    { "blockdev-add", "{'driver': 'file', 'zz': 1}", "Parameter 'filename' is missing" },
    { "blockdev-add", "{'driver': 'null-co', 'size': 1, 'node-name': ''}", NULL },
    { "blockdev-del", "{}", "Parameter 'node-name' is missing" },
    { "blockdev-del", "{'node-name': 1}", "Invalid parameter type for 'node-name', expected: string" },
    { "blockdev-del", "{'node-name': 'x', 'z': 1}", "Parameter 'z' is unexpected" },
    { "query-version", "{'x': 1}", "Parameter 'x' is unexpected" },
    { "quit", "{'x': 1}", "Parameter 'x' is unexpected" },
    { "block-export-add", "{}", "Parameter 'type' is missing" },
    { "block-export-add", "{'type': 'nbd'}", "Parameter 'id' is missing" },
    { "block-export-add", "{'type': 'nbd', 'id': 'x', 'node-name': 'y', 'writable': 1}",
      "Invalid parameter type for 'writable', expected: boolean" },
    { "block-export-add", "{'type': 'x', 'id': 'x', 'node-name': 'y', 'writable': 1}",
      "Parameter 'type' does not accept value 'x'" },
    { "nbd-server-start", "{}", "Parameter 'addr' is missing" },
    { "nbd-server-start", "{'addr': {}}", "Parameter 'addr.type' is missing" },
    { "nbd-server-start", "{'addr': {'type': 'unix'}}", "Parameter 'addr.data' is missing" },
    { "nbd-server-start", "{'addr': {'type': 'unix', 'data': {}}}", "Parameter 'addr.data.path' is missing" },
    { "nbd-server-start", "{'addr': {'type': 'unix', 'data': {'path': '/x', 'z': 1}}}",
      "Parameter 'addr.data.z' is unexpected" },
    { "nbd-server-start", "{'addr': {'type': 'xx', 'data': {'path': '/x', 'z': 1}}}",
      "Parameter 'type' does not accept value 'xx'" },
    { "nbd-server-start", "{'addr': {'type': 'unix', 'data': {'path': '/x'}}, 'max-connections': -1}",
      "Parameter 'max-connections' expects uint32_t" },
    { "nbd-server-start", "{'addr': {'type': 'inet', 'data': {'host': '/x'}}}",
      "Parameter 'addr.data.port' is missing" },
    { "nbd-server-start", "{'addr': {'type': 'unix', 'data': {'path': '/x'}}, 'max-connections': 4294967296}",
      "Parameter 'max-connections' expects uint32_t" },
    { "nbd-server-start", "{'addr': {'type': 'unix', 'data': {'path': '/x'}}, 'max-connections': '1'}",
      "Parameter 'max-connections' expects uint64" },
    { "object-add", "{}", "Parameter 'qom-type' is missing" },
    { "object-add", "{'qom-type': 'iothread'}", "Parameter 'id' is missing" },
    { "object-add", "{'qom-type': 'zz', 'id': 'a'}", "Parameter 'qom-type' does not accept value 'zz'" },
    { "object-add", "{'qom-type': 'iothread', 'id': 'a', 'zz': 1}", "Parameter 'zz' is unexpected" },
    { "object-add", "{'qom-type': 'throttle-group', 'id': 'a', 'limits': 1}",
      "Invalid parameter type for 'limits', expected: object" },
    { "object-add", "{'qom-type': 'throttle-group', 'id': 'a', 'limits': {'zz': 1}}",
      "Parameter 'limits.zz' is unexpected" },
    { "object-add", "{'qom-type': 'throttle-group', 'id': 'a', 'limits': {'iops-total': '1'}}",
      "Invalid parameter type for 'limits.iops-total', expected: integer" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b'}", "Parameter 'sync' is missing" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'zz'}",
      "Parameter 'sync' does not accept value 'zz'" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'full', 'granularity': -1}",
      "Parameter 'granularity' expects uint32_t" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'full', 'granularity': 4294967296}",
      "Parameter 'granularity' expects uint32_t" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'full', 'copy-mode': 'x'}",
      "Parameter 'copy-mode' does not accept value 'x'" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'full', 'on-source-error': 'x'}",
      "Parameter 'on-source-error' does not accept value 'x'" },
    { "blockdev-mirror", "{'device': 'a', 'target': 'b', 'sync': 'full', 'speed': 9223372036854775808}",
      "Invalid parameter type for 'speed', expected: integer" },
    { "blockdev-create", "{'job-id': 'j'}", "Parameter 'options' is missing" },
    { "blockdev-create", "{'job-id': 'j', 'options': {}}", "Parameter 'options.driver' is missing" },
    { "blockdev-create", "{'job-id': 'j', 'options': {'driver': 'file'}}",
      "Parameter 'options.filename' is missing" },
    { "blockdev-create",
      "{'job-id': 'j', 'options': {'driver': 'file', 'filename': 'x', 'size': 1, 'zz': 2}}",
      "Parameter 'options.zz' is unexpected" },
    { "blockdev-create", "{'job-id': 'j', 'options': {'driver': 'null-co'}}", NULL },
    /* clang-format on */
};

/* Parse and validate must give the same verdict and the same text. */
static void test_error_texts(void **state)
{
    for (size_t i = 0; i < WEIR_ARRAY_SIZE(rows); i++) {
        const struct row *row = &rows[i];
        const struct weir_schema_type *type = find_type(row->command);
        WEIR_AUTO_ERROR first = NULL;
        WEIR_AUTO_ERROR second = NULL;
        json_t *value = json(row->arguments);
        void *parsed = test_malloc(type->size);
        int ret = weir_schema_parse(type, value, WEIR_SCHEMA_JSON, parsed, &first);

        assert_int_equal(ret, weir_schema_validate(type, value, &second));
        if ((row->text == NULL) != (ret == 0) || (ret < 0 && strcmp(weir_error_text(first), row->text) != 0))
            fail_msg("%s %s\n  expected %s\n  got      %s", row->command, row->arguments,
                     row->text ? row->text : "success", first ? weir_error_text(first) : "success");
        if (ret < 0)
            assert_string_equal(weir_error_text(first), weir_error_text(second));
        else
            weir_schema_free(type, parsed);
        assert_int_equal(value->refcount, 1);
        test_free(parsed);
        json_decref(value);
    }
}

static const struct row options[] = {
    /* clang-format off */
    { "--blockdev", "", "Parameter 'driver' is missing" },
    { "--blockdev", "driver=null-co,node-name=a", NULL },
    { "--blockdev", "null-co,node-name=a", NULL },
    { "--blockdev", "driver=null-co,node-name=a,", NULL },
    { "--blockdev", "foo", "Parameter 'driver' does not accept value 'foo'" },
    { "--blockdev", "driver,node-name=a", "Parameter 'driver' does not accept value 'driver'" },
    { "--blockdev", "driver=null-co,,node-name=a",
      "Parameter 'driver' does not accept value 'null-co,node-name=a'" },
    { "--blockdev", "=x", "Invalid parameter ''" },
    { "--blockdev", ",driver=null-co", "Invalid parameter ''" },
    { "--blockdev", "driver=null-co,=x", "Invalid parameter ''" },
    { "--blockdev", "driver=null-co,size=1k", "Parameter 'size' expects integer" },
    { "--blockdev", "driver=null-co,size=1 ", "Parameter 'size' expects integer" },
    { "--blockdev", "driver=null-co,size= 1", NULL },
    { "--blockdev", "driver=null-co,size=+1", NULL },
    { "--blockdev", "driver=null-co,size=0x10", NULL },
    { "--blockdev", "driver=null-co,size=", "Parameter 'size' expects integer" },
    { "--blockdev", "driver=null-co,size=9223372036854775808", "Parameter 'size' expects integer" },
    { "--blockdev", "driver=null-co,latency-ns=1.5", "Parameter 'latency-ns' expects integer" },
    { "--blockdev", "driver=null-co,latency-ns=-1",
      "Parameter 'latency-ns' expects uint64" }, /* theirs is later */
    { "--blockdev", "driver=null-co,read-zeroes=on", NULL },
    { "--blockdev", "driver=null-co,read-zeroes=yes", NULL },
    { "--blockdev", "driver=null-co,read-zeroes=n", NULL },
    { "--blockdev", "driver=null-co,read-zeroes=ON", "Parameter 'read-zeroes' expects 'on' or 'off'" },
    { "--blockdev", "driver=null-co,read-zeroes=1", "Parameter 'read-zeroes' expects 'on' or 'off'" },
    { "--blockdev", "driver=null-co,read-zeroes", "Expected '=' after parameter 'read-zeroes'" },
    { "--blockdev", "driver=null-co,cache.direct=zz", "Parameter 'cache.direct' expects 'on' or 'off'" },
    { "--blockdev", "driver=null-co,cache=x", "Invalid parameter type for 'cache', expected: object" },
    { "--blockdev", "driver=null-co,cache=x,cache.direct=on", "Parameters 'cache.*' used inconsistently" },
    { "--blockdev", "driver=null-co,cache.direct=on,cache=x", "Parameters 'cache.*' used inconsistently" },
    { "--blockdev", "driver=null-co,cache.zz=on", "Parameter 'cache.zz' is unexpected" },
    { "--blockdev", "driver=null-co,size.x=1", "Parameters 'size.*' are unexpected" },
    { "--blockdev", "driver.x=null-co", "Parameters 'driver.*' are unexpected" },
    { "--blockdev", "driver=null-co,node-name.0=a", "Parameters 'node-name.*' are unexpected" },
    { "--blockdev", "driver=raw,file=b", NULL },
    { "--blockdev", "driver=raw,file.driver=null-co", NULL },
    { "--blockdev", "driver=raw,file.driver=file", "Parameter 'file.filename' is missing" },
    { "--blockdev", "driver=raw,file.driver=null-co,file.size=x", "Parameter 'file.size' expects integer" },
    { "--blockdev", "driver=raw,file.zz=1", "Parameter 'file.driver' is missing" },
    { "--blockdev", "driver=raw,file.driver=null-co,file.zz=1", "Parameter 'file.zz' is unexpected" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=read_aio", NULL },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.1.event=read_aio",
      "Parameter 'inject-error.0' missing" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=read_aio,inject-error.2.event=read_aio",
      "Parameter 'inject-error.1' missing" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.99999999999999999999.event=none",
      "Parameter 'inject-error.0' missing" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0=zz",
      "Invalid parameter type for 'inject-error.0', expected: object" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error=zz",
      "Invalid parameter type for 'inject-error', expected: array" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=zz",
      "Parameter 'event' does not accept value 'zz'" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=none,inject-error.x.zz=1",
      "Parameters 'inject-error.*' used inconsistently" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=none,inject-error.0.errno=zz",
      "Parameter 'inject-error.0.errno' expects integer" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event=none,inject-error.0.zz=1",
      "Parameter 'inject-error.0.zz' is unexpected" },
    { "--blockdev", "driver=blkdebug,image=i,inject-error.0.event.x=none",
      "Parameters 'inject-error.0.event.*' are unexpected" },
    { "--blockdev", "driver=null-co,help", "Help is not available for this option" },
    { "--blockdev", "?", "Help is not available for this option" },
    { "--blockdev", "driver=?", "Parameter 'driver' does not accept value '?'" },
    { "--blockdev", "help=on", "Parameter 'driver' is missing" },
    { "--blockdev", "{", "JSON parse error, premature EOI" },
    { "--blockdev", "{}", "Parameter 'driver' is missing" },
    { "--blockdev", "{'driver':'null-co'}", NULL },
    { "--blockdev", "{'driver':'null-co'} ", NULL },
    { "--blockdev", "{'driver':'null-co'}x", "Expecting at most one JSON value" },
    { "--blockdev", "{'driver':'null-co','size':'1'}",
      "Invalid parameter type for 'size', expected: integer" },
    { "--blockdev", "{'driver':}", "JSON parse error, expecting value" },
    { "--blockdev", " {'driver':'null-co'}",
      "Parameter 'driver' does not accept value ' {'driver':'null-co'}'" },
    { "--monitor", "", "Parameter 'chardev' is missing" },
    { "--monitor", "a", NULL },
    { "--monitor", "a.b", NULL },
    { "--monitor", "a,mode=x", "Parameter 'mode' does not accept value 'x'" },
    { "--monitor", "a,zz=1", "Parameter 'zz' is unexpected" },
    { "--monitor", "a,pretty=x", "Parameter 'pretty' expects 'on' or 'off'" },
    { "--monitor", "a,b", "Expected '=' after parameter 'b'" },
    { "--monitor", "mode=control", "Parameter 'chardev' is missing" },
    { "--object", "iothread", "Parameter 'id' is missing" },
    { "--object", "throttle-group,id=a,limits.iops-total=1k",
      "Parameter 'limits.iops-total' expects integer" },
    { "--object", "throttle-group,id=a,limits.iops-total=1", NULL },
    { "--nbd-server", "", "Parameter 'addr' is missing" },
    { "--nbd-server", "addr.type=unix", "Parameter 'addr.path' is missing" },
    { "--nbd-server", "addr.type=unix,addr.path=/x,max-connections=x",
      "Parameter 'max-connections' expects integer" },
    { "--nbd-server", "addr.type=unix,addr.path=/x,max-connections=-1",
      "Parameter 'max-connections' expects uint32_t" },
    { "--nbd-server", "addr.type=unix,addr.path=/x,max-connections=4294967296",
      "Parameter 'max-connections' expects uint32_t" },
    { "--nbd-server", "addr=x", "Invalid parameter type for 'addr', expected: object" },
    { "--nbd-server", "addr.type=unix,addr.data.path=/x", "Parameter 'addr.path' is missing" },
    { "--export", "nbd,id=a,node-name=x,writable=zz", "Parameter 'writable' expects 'on' or 'off'" },
    { "--export", "zz,id=a", "Parameter 'type' does not accept value 'zz'" },
    /* clang-format on */
};

struct option {
    const char *name, *implied_key;
    const struct weir_schema_type *type;
};

static const struct option all_options[] = {
    { "--blockdev", "driver", &weir_schema_blockdev_options },
    { "--monitor", "chardev", &weir_schema_monitor_options },
    { "--object", "qom-type", &weir_schema_object_options },
    { "--nbd-server", NULL, &weir_schema_nbd_server_options },
    { "--export", "type", &weir_schema_block_export_options },
};

/* A normalized option must be what a QMP command of the same meaning is: it passes as JSON. */
static void test_option_texts(void **state)
{
    for (size_t i = 0; i < WEIR_ARRAY_SIZE(options); i++) {
        const struct row *row = &options[i];
        const struct option *option = all_options;
        WEIR_AUTO_ERROR err = NULL;
        json_t *value = NULL;
        int ret;

        while (strcmp(option->name, row->command) != 0)
            option++;
        ret = weir_option_parse(row->arguments, option->implied_key, option->type, &value, &err);
        if ((row->text == NULL) != (ret == 0) || (ret < 0 && strcmp(weir_error_text(err), row->text) != 0))
            fail_msg("%s %s\n  expected %s\n  got      %s", row->command, row->arguments,
                     row->text ? row->text : "success", err ? weir_error_text(err) : "success");
        if (ret == 0)
            assert_int_equal(weir_schema_validate(option->type, value, NULL), 0);
        json_decref(value);
    }
}

static void test_driver_struct(void **state)
{
    struct weir_opts_raw raw;
    json_t *value =
        json("{'driver':'raw','node-name':'r','file':{'driver':'null-co','size':4096},'offset':512,"
             "'cache':{'direct':true},'detect-zeroes':'unmap'}");

    assert_int_equal(weir_schema_parse(weir_schema_opts_find("raw"), value, WEIR_SCHEMA_JSON, &raw, NULL), 0);
    assert_string_equal(raw.base.driver, "raw");
    assert_string_equal(raw.base.node_name, "r");
    assert_true(raw.base.has_cache && raw.base.cache.has_direct && raw.base.cache.direct);
    assert_false(raw.base.cache.has_no_flush || raw.base.cache.no_flush);
    assert_int_equal(raw.base.detect_zeroes, WEIR_Q_BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP);
    assert_false(raw.base.has_discard);
    assert_int_equal(raw.base.discard, WEIR_Q_BLOCKDEV_DISCARD_OPTIONS_IGNORE);
    assert_true(raw.has_offset);
    assert_int_equal(raw.offset, 512);
    assert_false(raw.has_size);
    assert_true(json_is_object(raw.file));
    weir_schema_free(&weir_schema_opts_raw, &raw);
    assert_null(raw.file);
    json_decref(value);
    assert_null(weir_schema_opts_find("qcow9"));
}

/* Members below a struct that is absent as a whole have their defaults as well. */
static void test_defaults(void **state)
{
    struct weir_q_object_options object;
    struct weir_opts_null_co null;
    json_t *value = json("{'driver':'null-co'}");

    memset(&null, 0xff, sizeof(null));
    assert_int_equal(weir_schema_parse(&weir_schema_opts_null_co, value, WEIR_SCHEMA_JSON, &null, NULL), 0);
    assert_int_equal(null.size, 1 << 30);
    assert_int_equal(null.latency_ns, 0);
    assert_false(null.base.cache.direct);
    assert_null(null.base.node_name);
    weir_schema_free(&weir_schema_opts_null_co, &null);
    json_decref(value);

    value = json("{'qom-type':'throttle-group','id':'g'}");
    assert_int_equal(weir_schema_parse(&weir_schema_object_options, value, WEIR_SCHEMA_JSON, &object, NULL),
                     0);
    assert_int_equal(object.u.throttle_group.limits.iops_total, 0);
    assert_int_equal(object.u.throttle_group.limits.iops_total_max_length, 1);
    assert_ptr_equal(object.json, value);
    weir_schema_free(&weir_schema_object_options, &object);
    json_decref(value);
}

static void test_array(void **state)
{
    struct weir_opts_blkdebug blkdebug;
    json_t *value = NULL;

    assert_int_equal(
        weir_keyval_parse("driver=blkdebug,image.driver=null-co,image.size=5,inject-error.1.event=none,"
                          "inject-error.0.event=read_aio,inject-error.0.once=on,inject-error.0.sector=7",
                          NULL, &value, NULL),
        0);
    assert_int_equal(
        weir_schema_parse(&weir_schema_opts_blkdebug, value, WEIR_SCHEMA_KEYVAL, &blkdebug, NULL), 0);
    assert_int_equal(blkdebug.inject_error.count, 2);
    assert_int_equal(blkdebug.inject_error.items[0].event, WEIR_Q_BLKDEBUG_EVENT_READ_AIO);
    assert_true(blkdebug.inject_error.items[0].once);
    assert_int_equal(blkdebug.inject_error.items[0].sector, 7);
    assert_int_equal(blkdebug.inject_error.items[0].errno_, 5);
    assert_int_equal(blkdebug.inject_error.items[1].event, WEIR_Q_BLKDEBUG_EVENT_NONE);
    assert_false(blkdebug.inject_error.items[1].has_sector);
    /* What stays JSON below a keyval option is typed, and the input itself unchanged. */
    assert_true(json_is_integer(json_object_get(blkdebug.image, "size")));
    assert_true(json_is_string(json_object_get(json_object_get(value, "image"), "size")));
    weir_schema_free(&weir_schema_opts_blkdebug, &blkdebug);
    json_decref(value);
}

static void test_union(void **state)
{
    struct weir_q_nbd_server_start_args args;
    json_t *value = json("{'addr':{'type':'unix','data':{'path':'/s'}}}");

    assert_int_equal(
        weir_schema_parse(&weir_schema_nbd_server_start_args, value, WEIR_SCHEMA_JSON, &args, NULL), 0);
    assert_int_equal(args.addr.type, WEIR_Q_SOCKET_ADDRESS_TYPE_UNIX);
    assert_string_equal(args.addr.u.unix_.data.path, "/s");
    assert_int_equal(args.max_connections, 100);
    weir_schema_free(&weir_schema_nbd_server_start_args, &args);
    json_decref(value);
}

/* Drivers that the schema does not know put their members behind the common ones. */
struct own_options {
    struct weir_opts_node_common base;
    int16_t level;
};

static void test_hand_written_descriptor(void **state)
{
    static const struct weir_schema_member members[] = {
        { "level", &weir_schema_int16, true, "-3", offsetof(struct own_options, level), WEIR_SCHEMA_NO_HAS },
    };
    static const struct weir_schema_type type = { .name = "Own",
                                                  .kind = WEIR_SCHEMA_STRUCT,
                                                  .size = sizeof(struct own_options),
                                                  .base = &weir_schema_opts_node_common,
                                                  .members = members,
                                                  .member_count = 1 };
    struct own_options own;
    WEIR_AUTO_ERROR err = NULL;
    json_t *value = json("{'driver':'own','read-only':true}");

    assert_int_equal(weir_schema_parse(&type, value, WEIR_SCHEMA_JSON, &own, NULL), 0);
    assert_int_equal(own.level, -3);
    assert_true(own.base.read_only);
    weir_schema_free(&type, &own);
    json_object_set_new(value, "level", json_integer(40000));
    assert_true(weir_schema_parse(&type, value, WEIR_SCHEMA_JSON, &own, &err) < 0);
    assert_string_equal(weir_error_text(err), "Parameter 'level' expects int16_t");
    json_decref(value);
}

static void test_path_prefix_and_depth(void **state)
{
    struct weir_q_blockdev_options options_struct;
    WEIR_AUTO_ERROR err = NULL;
    WEIR_AUTO_ERROR deep_err = NULL;
    json_t *value = json("{'driver':'raw','file':{'driver':'file'}}"), *deep;

    assert_true(weir_schema_parse_at(&weir_schema_blockdev_options, "options", value, WEIR_SCHEMA_JSON,
                                     &options_struct, &err) < 0);
    assert_string_equal(weir_error_text(err), "Parameter 'options.file.filename' is missing");
    json_decref(value);
    deep = json("{'driver':'null-co'}");
    for (int i = 0; i < 500; i++)
        deep = json_pack("{s:s,s:o}", "driver", "raw", "file", deep);
    assert_true(weir_schema_validate(&weir_schema_blockdev_options, deep, &deep_err) < 0);
    assert_non_null(strstr(weir_error_text(deep_err), "is nested too deeply"));
    json_decref(deep);
}

static void test_enums(void **state)
{
    assert_string_equal(weir_schema_enum_name(&weir_schema_job_status, WEIR_Q_JOB_STATUS_STANDBY), "standby");
    assert_int_equal(weir_schema_enum_find(&weir_schema_job_status, "null"), WEIR_Q_JOB_STATUS_NULL);
    assert_int_equal(weir_schema_enum_find(&weir_schema_job_status, "nul"), -1);
}

static void check_size(const char *text, bool good, uint64_t expected)
{
    uint64_t value = 42;

    if (weir_text_to_size(text, &value) != good || value != (good ? expected : 42))
        fail_msg("size '%s' gave %llu", text, (unsigned long long)value);
}

static void test_sizes(void **state)
{
    check_size("0", true, 0);
    check_size("512B", true, 512);
    check_size("1b", true, 1);
    check_size("1k", true, 1024);
    check_size("1.5K", true, 1536);
    check_size("2M", true, 2 << 20);
    check_size("15E", true, UINT64_C(15) << 60);
    check_size("16E", false, 0);
    check_size("18446744073709551615", true, UINT64_MAX);
    check_size("18446744073709551616", false, 0);
    check_size("0x10", true, 16);
    check_size("0x", false, 0);
    check_size("0x1k", false, 0);
    check_size(" 1", true, 1);
    check_size("", false, 0);
    check_size("-1", false, 0);
    check_size("+1", false, 0);
    check_size("1.5", false, 0);
    check_size("1.5b", false, 0);
    check_size("1kk", false, 0);
    check_size("1e3", false, 0);
    check_size("nan", false, 0);
}

/* Every object that query-qmp-schema speaks of is valid by its own type. */
static void test_introspection(void **state)
{
    json_t *all = json(weir_schema_introspection), *entry;
    WEIR_AUTO_ERROR err = NULL;
    size_t i, found = 0;

    json_array_foreach(all, i, entry)
    {
        if (weir_schema_validate(&weir_schema_schema_info, entry, &err) < 0)
            fail_msg("entry %zu: %s", i, weir_error_text(err));
        found += !strcmp(json_string_value(json_object_get(entry, "name")), "blockdev-mirror");
    }
    assert_int_equal(found, 1);
    json_decref(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_texts),
        cmocka_unit_test(test_option_texts),
        cmocka_unit_test(test_driver_struct),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_array),
        cmocka_unit_test(test_union),
        cmocka_unit_test(test_hand_written_descriptor),
        cmocka_unit_test(test_path_prefix_and_depth),
        cmocka_unit_test(test_enums),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_introspection),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

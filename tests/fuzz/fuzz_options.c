/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Option strings of the command line: the first byte says which option, the rest is its text. What is accepted
 * must be accepted again in its JSON form, and mean the same.
 */
#include "fuzz.h"
#include "base/macros.h"
#include "gen/schema.h"
#include "qmp/keyval.h"
#include <stdlib.h>
#include <string.h>

static const struct {
    const struct weir_schema_type *type;
    const char *implied_key;
} options[] = {
    { &weir_schema_blockdev_options, "driver" },        { &weir_schema_block_export_options, "type" },
    { &weir_schema_nbd_server_options, NULL },          { &weir_schema_chardev_options, "backend" },
    { &weir_schema_monitor_options, "chardev" },        { &weir_schema_object_options, "qom-type" },
    { &weir_schema_blockdev_create_options, "driver" }, /* no option, but it has sizes with suffixes */
};

static void check_error(struct weir_error *error)
{
    WEIR_ASSERT(error && weir_error_text(error)[0]);
    weir_error_free(error);
}

/* What is accepted fits into the C struct that handlers get. */
static void fill_struct(const struct weir_schema_type *type, json_t *value)
{
    struct weir_error *error = NULL;
    void *parsed = malloc(type->size); /* not initialised: the parser must not look at it */

    WEIR_ASSERT(parsed);
    WEIR_ASSERT(weir_schema_parse(type, value, WEIR_SCHEMA_JSON, parsed, &error) >= 0 && !error);
    weir_schema_free(type, parsed);
    free(parsed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    unsigned which = data[0] % WEIR_ARRAY_SIZE(options);
    char *text = strndup((const char *)data + 1, size - 1);
    json_t *value = NULL, *again = NULL;
    struct weir_error *error = NULL;
    if (weir_option_parse(text, options[which].implied_key, options[which].type, &value, &error) < 0) {
        check_error(error);
    } else {
        WEIR_ASSERT(!error);
        char *dump = json_dumps(value, JSON_ENCODE_ANY);
        WEIR_ASSERT(dump);
        int ret = weir_option_parse(dump, options[which].implied_key, options[which].type, &again, &error);
        WEIR_ASSERT(ret >= 0 && json_equal(value, again));
        free(dump);
        fill_struct(options[which].type, value);
    }
    json_decref(value);
    json_decref(again);
    free(text);
    return 0;
}

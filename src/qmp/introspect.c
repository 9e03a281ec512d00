/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the daemon says about itself. The schema is the generator's text, parsed when it is asked for.
 */
#include "qmp/introspect.h"
#include "gen/schema.h"
#include "qmp/json_stream.h"
#include <string.h>

json_t *weir_qmp_introspection(void)
{
    json_t *value = NULL;
    int ret = weir_json_parse(weir_schema_introspection, strlen(weir_schema_introspection), &value, NULL);

    /* Our own text. */
    WEIR_ASSERT(ret == 0);
    return value;
}

json_t *weir_qmp_command_list(const struct weir_qmp_commands *commands)
{
    json_t *list = json_array();

    for (size_t i = 0; i < commands->count; i++)
        json_array_append_new(list, json_pack("{s:s}", "name", commands->list[i].name));
    return list;
}

json_t *weir_qmp_version(const char *package)
{
    return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "micro", WEIR_QMP_VERSION_MICRO, "minor",
                     WEIR_QMP_VERSION_MINOR, "major", WEIR_QMP_VERSION_MAJOR, "package", package);
}

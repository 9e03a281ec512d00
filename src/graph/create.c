/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Making images through the drivers' create operations.
 */
#include "base/alloc.h"
#include "base/schema.h"
#include "graph/driver.h"
#include <errno.h>

int weir_driver_create(const char *name, json_t *options, struct weir_error **err)
{
    const struct weir_driver *driver = weir_driver_find(name);
    weir_autofree void *typed = NULL;
    int ret;

    if (!driver || !driver->create) {
        json_decref(options);
        return weir_error_set(err, -ENOTSUP, "Format driver '%s' does not support image creation", name);
    }
    typed = weir_alloc(driver->create->options->size);
    ret = weir_schema_parse(driver->create->options, options, WEIR_SCHEMA_JSON, typed, err);
    json_decref(options);
    if (ret)
        return ret;
    ret = driver->create->create(typed, err);
    weir_schema_free(driver->create->options, typed);
    return ret;
}

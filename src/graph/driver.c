/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The drivers that this process knows. Written before any node exists, read on the control loop.
 */
#include "graph/driver.h"
#include <string.h>

#define DRIVERS_MAX 64

static const struct weir_driver *drivers[DRIVERS_MAX];
static unsigned driver_count;

const struct weir_driver *weir_driver_find(const char *name)
{
    for (unsigned i = 0; i < driver_count; i++) {
        if (!strcmp(drivers[i]->name, name))
            return drivers[i];
    }
    return NULL;
}

void weir_driver_register(const struct weir_driver *driver)
{
    const struct weir_driver *known = weir_driver_find(driver->name);

    WEIR_ASSERT(!known || known == driver);
    if (known)
        return;
    WEIR_ASSERT(driver_count < DRIVERS_MAX);
    drivers[driver_count++] = driver;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table of drivers: one line each. Not part of the graph library but of what links all drivers.
 */
#include "graph/driver.h"

extern const struct weir_driver weir_driver_blkdebug, weir_driver_blklogwrites, weir_driver_blkverify,
    weir_driver_commit_top, weir_driver_compress, weir_driver_copy_on_read, weir_driver_file,
    weir_driver_host_device, weir_driver_mirror_top, weir_driver_nbd, weir_driver_null_co,
    weir_driver_preallocate, weir_driver_qcow2, weir_driver_quorum, weir_driver_raw, weir_driver_throttle;

static const struct weir_driver *const table[] = {
    /* protocol/ */
    &weir_driver_file,
    &weir_driver_host_device,
    &weir_driver_nbd,
    &weir_driver_null_co,
    /* format/ */
    &weir_driver_qcow2,
    &weir_driver_raw,
    /* filter/ */
    &weir_driver_blkdebug,
    &weir_driver_blklogwrites,
    &weir_driver_blkverify,
    &weir_driver_commit_top,
    &weir_driver_compress,
    &weir_driver_copy_on_read,
    &weir_driver_mirror_top,
    &weir_driver_preallocate,
    &weir_driver_quorum,
    &weir_driver_throttle,
};

void weir_drivers_register(void)
{
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(table); i++)
        weir_driver_register(table[i]);
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * host_device: a block device of the host (or a character device that behaves like one).
 */
#include "gen/schema.h"
#include "protocol/host/host.h"
#include "protocol/host/options.h"

extern const struct weir_driver weir_driver_host_device;

static weir_co_fn int host_device_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_host_device *opts = options;
    struct weir_host_options host = {
        .driver = "host_device",
        .device = true,
        .path = opts->filename,
        .aio = weir_host_aio(opts->has_aio, opts->aio),
        .locking = weir_host_locking(opts->has_locking, opts->locking),
    };

    return weir_host_open(node, &host, err);
}

const struct weir_driver weir_driver_host_device = {
    .name = "host_device",
    .flags = WEIR_DRIVER_PROTOCOL,
    .state_size = sizeof(struct weir_host_file),
    .options = &weir_schema_opts_host_device,
    .open = host_device_open,
    .close = weir_host_close,
    .limits = weir_host_limits,
    .resize = weir_host_resize,
    .perm_prepare = weir_host_perm_prepare,
    .perm_commit = weir_host_perm_commit,
    .perm_abort = weir_host_perm_abort,
    .set_read_only = weir_host_set_read_only,
    .submit = weir_host_submit,
    .try_submit = weir_host_try_submit,
    .filename = weir_host_filename,
    .allocated_size = weir_host_allocated_size,
    .reopen = &weir_host_reopen_ops,
};

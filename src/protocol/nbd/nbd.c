/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nbd: an export of an NBD server. See client.h for how it works.
 */
#include "base/alloc.h"
#include "gen/schema.h"
#include "io/request.h"
#include "protocol/nbd/client.h"
#include <errno.h>
#include <sys/un.h>

extern const struct weir_driver weir_driver_nbd;

/* ---- options ---- */

static int set_address(struct nbd_address *address, const struct weir_q_socket_address *server,
                       struct weir_error **err)
{
    size_t path_max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    switch (server->type) {
    case WEIR_Q_SOCKET_ADDRESS_TYPE_UNIX:
        if (strlen(server->u.unix_.path) > path_max)
            return weir_error_set(err, -ENAMETOOLONG, "UNIX socket path '%s' is too long",
                                  server->u.unix_.path);
        address->local = true;
        address->path = weir_strdup(server->u.unix_.path);
        return 0;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_INET:
        address->host = weir_strdup(server->u.inet.host);
        address->port = weir_strdup(server->u.inet.port);
        return 0;
    case WEIR_Q_SOCKET_ADDRESS_TYPE_FD:
        break;
    }
    return weir_error_set(err, -ENOTSUP,
                          "A descriptor cannot be the server: there is no connecting to it again");
}

/* As QEMU shows it. */
static char *make_filename(const struct nbd_client *client)
{
    const struct nbd_address *address = &client->address;
    const char *slash = client->export[0] ? "/" : "";

    if (address->local)
        return weir_strdup_printf("nbd+unix://%s%s?socket=%s", slash, client->export, address->path);
    return weir_strdup_printf(strchr(address->host, ':') ? "nbd://[%s]:%s%s%s" : "nbd://%s:%s%s%s",
                              address->host, address->port, slash, client->export);
}

static int check_options(const struct weir_opts_nbd *opts, struct weir_error **err)
{
    if (opts->tls_creds || opts->tls_hostname)
        return weir_error_set(err, -ENOTSUP, "Parameter '%s' cannot be used: TLS is not supported yet",
                              opts->tls_creds ? "tls-creds" : "tls-hostname");
    if (strlen(opts->export) > NBD_STRING_MAX)
        return weir_error_set(err, -EINVAL, "export name too long to send to server");
    if (opts->x_dirty_bitmap && strlen(opts->x_dirty_bitmap) > NBD_STRING_MAX)
        return weir_error_set(err, -EINVAL, "x-dirty-bitmap query too long to send to server");
    if (opts->x_connections < 1 || opts->x_connections > NBD_CONNECTIONS_MAX)
        return weir_error_set(err, -EINVAL, "Parameter 'x-connections' expects a value from 1 to %u",
                              NBD_CONNECTIONS_MAX);
    return 0;
}

/* ---- life ---- */

static void free_client(struct nbd_client *client)
{
    weir_mutex_done(&client->mutex);
    free(client->address.host);
    free(client->address.port);
    free(client->address.path);
    free(client->export);
    free(client->context);
    free(client->filename);
    *client = (struct nbd_client){ 0 };
}

static int check_export(struct weir_node *node, const struct nbd_export_info *info, struct weir_error **err)
{
    if (info->size % info->block_min)
        return weir_error_set(err, -EINVAL,
                              "The export's size %llu is no multiple of its minimum block size %u",
                              (unsigned long long)info->size, info->block_min);
    if (!(info->flags & NBD_FLAG_READ_ONLY) || node->read_only_asked)
        return 0;
    if (node->auto_read_only) {
        node->read_only = true;
        return 0;
    }
    (void)weir_error_set_errno(err, -EACCES, "Could not open image");
    weir_error_hint(err, "The export is read-only; read-only=on or auto-read-only=on is needed");
    return -EACCES;
}

static weir_co_fn int nbd_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_nbd *opts = options;
    struct nbd_client *client = weir_node_state(node);
    int ret = check_options(opts, err);

    if (ret < 0)
        return ret;
    weir_mutex_init(&client->mutex);
    weir_co_queue_init(&client->queue);
    weir_co_queue_init(&client->keeper_queue);
    client->export = weir_strdup(opts->export);
    client->own_context = opts->x_dirty_bitmap;
    client->context = weir_strdup(client->own_context ? opts->x_dirty_bitmap : "base:allocation");
    client->reconnect_ns = opts->reconnect_delay * 1000000000LL;
    ret = set_address(&client->address, &opts->server, err);
    if (ret < 0) {
        free_client(client);
        return ret;
    }
    client->filename = make_filename(client);
    ret = nbd_client_start(client, (unsigned)opts->x_connections, opts->open_timeout, err);
    if (ret < 0) {
        free_client(client);
        return ret;
    }
    ret = check_export(node, &client->info, err);
    if (ret < 0) {
        nbd_client_stop(client);
        free_client(client);
        return ret;
    }
    client->writable = !node->read_only;
    weir_node_set_size(node, client->info.size);
    return 0;
}

static weir_co_fn void nbd_close(struct weir_node *node)
{
    struct nbd_client *client = weir_node_state(node);

    nbd_client_stop(client);
    free_client(client);
}

static void nbd_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct nbd_client *client = weir_node_state(node);
    const struct nbd_export_info *info = &client->info;
    unsigned durable = info->flags & NBD_FLAG_SEND_FUA ? WEIR_REQUEST_FUA : 0;

    limits->request_align = info->block_min;
    limits->transfer_max = weir_align_down(WEIR_MIN(info->block_max, NBD_TRANSFER_DEFAULT), info->block_min);
    limits->transfer_opt = info->block_opt;
    /* Without data the maximum does not count, only what 32 bits can say. */
    limits->zero_max = limits->discard_max = weir_align_down(UINT32_MAX, info->block_min);
    limits->iov_max = NBD_IOV_MAX;
    limits->grows = false;
    limits->write_flags = durable;
    limits->zero_flags = durable | WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK;
}

/* An export has the size it has: what may change is how much of it is known here. */
static weir_co_fn int nbd_resize(struct weir_node *node, uint64_t size, struct weir_error **err)
{
    const struct nbd_client *client = weir_node_state(node);

    if (size > client->info.size)
        return weir_error_set(err, -ENOTSUP, "Cannot grow NBD nodes");
    weir_node_set_size(node, size);
    return 0;
}

static const char *nbd_filename(struct weir_node *node)
{
    return ((struct nbd_client *)weir_node_state(node))->filename;
}

const struct weir_driver weir_driver_nbd = {
    .name = "nbd",
    .flags = WEIR_DRIVER_PROTOCOL | WEIR_DRIVER_REMOTE,
    .state_size = sizeof(struct nbd_client),
    .options = &weir_schema_opts_nbd,
    .open = nbd_open,
    .close = nbd_close,
    .limits = nbd_limits,
    .resize = nbd_resize,
    .submit = nbd_submit,
    .filename = nbd_filename,
};

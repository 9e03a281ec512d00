/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Exports of type nbd: the names under which the server shows them.
 *
 * The list lives on the control loop. A handshake, which runs elsewhere, goes there for each question and back.
 */
#include "base/alloc.h"
#include "co/iothread.h"
#include "export/nbd/internal.h"
#include "export/nbd/server.h"
#include "graph/node.h"
#include <errno.h>

struct named {
    struct weir_export *export;
    char *name, *description; /* description NULL: none */
    bool open;                /* clients may come */
    TAILQ_ENTRY(named) link;
};

static TAILQ_HEAD(, named) all = TAILQ_HEAD_INITIALIZER(all);

/* ---- the type ---- */

static int nbd_open(struct weir_export *at, const struct weir_export_options *options,
                    struct weir_error **err)
{
    const char *name = options->name ? options->name : options->node_name;
    struct named *named;

    if (!weir_nbd_server_running())
        return weir_error_set(err, -ENOTCONN, "NBD server not running");
    if (strlen(name) > WEIR_NBD_STRING_MAX)
        return weir_error_set(err, -EINVAL, "export name '%s' too long", name);
    if (options->description && strlen(options->description) > WEIR_NBD_STRING_MAX)
        return weir_error_set(err, -EINVAL, "description '%s' too long", options->description);
    TAILQ_FOREACH (named, &all, link) {
        if (!strcmp(named->name, name))
            return weir_error_set(err, -EEXIST, "NBD server already has export named '%s'", name);
    }
    named = weir_new(struct named);
    named->export = at;
    named->name = weir_strdup(name);
    named->description = options->description ? weir_strdup(options->description) : NULL;
    at->state = named;
    TAILQ_INSERT_TAIL(&all, named, link);
    return 0;
}

static void nbd_start(struct weir_export *at)
{
    ((struct named *)at->state)->open = true;
}

static void nbd_drop(struct weir_export *at)
{
    struct weir_nbd_connection *connection = NULL;

    ((struct named *)at->state)->open = false;
    while ((connection = weir_nbd_server_next(connection))) {
        if (connection->export == at)
            weir_nbd_connection_drop(connection);
    }
}

static void nbd_close(struct weir_export *at)
{
    struct named *named = weir_steal(&at->state);

    TAILQ_REMOVE(&all, named, link);
    free(named->name);
    free(named->description);
    free(named);
}

const struct weir_export_type weir_export_nbd = {
    .name = "nbd",
    .open = nbd_open,
    .start = nbd_start,
    .drop = nbd_drop,
    .close = nbd_close,
};

/* ---- the directory ---- */

static void attach(struct weir_nbd_connection *connection, struct weir_export *at)
{
    weir_export_client_enter(at);
    connection->export = at;
    connection->edge = weir_edge_ref(at->edge);
    connection->loop = weir_iothread_loop(at->iothread);
}

static int find_here(struct weir_nbd_connection *connection, const char *name, bool take,
                     struct weir_nbd_info *ret_info)
{
    struct named *named;

    TAILQ_FOREACH (named, &all, link) {
        if (named->open && !strcmp(named->name, name))
            break;
    }
    if (!named || atomic_load(&connection->dropped))
        return -ENOENT;
    *ret_info = (struct weir_nbd_info){
        .size = atomic_load_explicit(&named->export->size, memory_order_relaxed),
        .preferred_size = atomic_load_explicit(&named->export->preferred_size, memory_order_relaxed),
        .read_only = !named->export->writable,
        .multi_conn = weir_nbd_server_multi_conn(),
        .description = named->description ? weir_strdup(named->description) : NULL,
    };
    if (take)
        attach(connection, named->export);
    return 0;
}

static weir_co_fn int directory_find(void *arg, const char *name, bool take, struct weir_nbd_info *ret_info)
{
    struct weir_loop *home = weir_loop_self();
    int ret;

    weir_co_move(weir_loop_control());
    ret = find_here(arg, name, take, ret_info);
    weir_co_move(home);
    return ret;
}

static unsigned list_here(struct weir_nbd_listing **ret_listings)
{
    struct weir_nbd_listing *listings;
    struct named *named;
    unsigned count = 0;

    TAILQ_FOREACH (named, &all, link)
        count++;
    listings = weir_new_array(struct weir_nbd_listing, count + 1);
    count = 0;
    TAILQ_FOREACH (named, &all, link) {
        if (!named->open)
            continue;
        listings[count].name = weir_strdup(named->name);
        listings[count++].description = named->description ? weir_strdup(named->description) : NULL;
    }
    *ret_listings = listings;
    return count;
}

static weir_co_fn unsigned directory_list(void *arg, struct weir_nbd_listing **ret_listings)
{
    struct weir_loop *home = weir_loop_self();
    unsigned count;

    weir_co_move(weir_loop_control());
    count = list_here(ret_listings);
    weir_co_move(home);
    return count;
}

const struct weir_nbd_directory weir_nbd_directory = {
    .find = directory_find,
    .list = directory_list,
};

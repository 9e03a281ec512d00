/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Carries the options out: the same types, checks and functions as the QMP commands.
 */
#include "base/alloc.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "qmp/keyval.h"
#include "tools/daemon.h"

#include <errno.h>
#include <string.h>

/* Parses the option's text into the C struct of @type at @parsed. */
static int parse(const struct daemon_option *option, const char *implied, const struct weir_schema_type *type,
                 void *parsed, struct weir_error **err)
{
    json_t *json;
    int ret = weir_option_parse(option->text, implied, type, &json, err);

    if (ret)
        return ret;
    ret = weir_schema_parse(type, json, WEIR_SCHEMA_JSON, parsed, err);
    json_decref(json);
    return ret;
}

static weir_co_fn int apply_object(struct daemon *daemon, const struct daemon_option *option,
                                   struct weir_error **err)
{
    struct weir_q_object_options options;
    int ret = parse(option, "qom-type", &weir_schema_object_options, &options, err);

    if (ret)
        return ret;
    ret = weir_object_add(&options, err);
    weir_schema_free(&weir_schema_object_options, &options);
    return ret;
}

static weir_co_fn int apply_blockdev(struct daemon *daemon, const struct daemon_option *option,
                                     struct weir_error **err)
{
    json_t *json;
    int ret = weir_option_parse(option->text, "driver", &weir_schema_blockdev_options, &json, err);

    if (ret)
        return ret;
    ret = weir_node_add(json, true, NULL, err);
    json_decref(json);
    return ret;
}

static weir_co_fn int apply_export(struct daemon *daemon, const struct daemon_option *option,
                                   struct weir_error **err)
{
    struct weir_q_block_export_options options;
    int ret = parse(option, "type", &weir_schema_block_export_options, &options, err);

    if (ret)
        return ret;
    ret = qmp_block_export_add(NULL, &options, NULL, err);
    weir_schema_free(&weir_schema_block_export_options, &options);
    return ret;
}

static weir_co_fn int apply_nbd_server(struct daemon *daemon, const struct daemon_option *option,
                                       struct weir_error **err)
{
    struct weir_q_nbd_server_options options;
    int ret = parse(option, NULL, &weir_schema_nbd_server_options, &options, err);

    if (ret)
        return ret;
    ret = weir_nbd_server_apply(&options, err);
    weir_schema_free(&weir_schema_nbd_server_options, &options);
    return ret;
}

static weir_co_fn int apply_chardev(struct daemon *daemon, const struct daemon_option *option,
                                    struct weir_error **err)
{
    struct weir_q_chardev_options options;
    struct daemon_chardev *entry;
    struct weir_chardev *chardev;
    int ret = parse(option, "backend", &weir_schema_chardev_options, &options, err);

    if (ret)
        return ret;
    for (entry = daemon->chardevs; entry && !ret; entry = entry->next) {
        if (!strcmp(weir_chardev_id(entry->chardev), options.id))
            ret = weir_error_set(err, -EEXIST, "Chardev with id '%s' already exists", options.id);
    }
    if (!ret)
        ret = weir_chardev_new(&options, &chardev, err);
    weir_schema_free(&weir_schema_chardev_options, &options);
    if (ret)
        return ret;
    /* On the list before it waits for a client: a stop meanwhile finds it there. */
    entry = weir_new(struct daemon_chardev);
    *entry = (struct daemon_chardev){ chardev, daemon->chardevs };
    daemon->chardevs = entry;
    return weir_chardev_open(chardev, err);
}

static weir_co_fn int apply_monitor(struct daemon *daemon, const struct daemon_option *option,
                                    struct weir_error **err)
{
    struct weir_q_monitor_options options;
    struct daemon_chardev *entry;
    int ret = parse(option, "chardev", &weir_schema_monitor_options, &options, err);

    if (ret)
        return ret;
    for (entry = daemon->chardevs; entry; entry = entry->next) {
        if (!strcmp(weir_chardev_id(entry->chardev), options.chardev))
            break;
    }
    ret = entry ? weir_chardev_attach(entry->chardev, daemon->monitors,
                                      options.has_id ? options.id : options.chardev, options.pretty, err)
                : weir_error_set(err, -ENOENT, "chardev \"%s\" not found", options.chardev);
    weir_schema_free(&weir_schema_monitor_options, &options);
    return ret;
}

int daemon_apply(struct daemon *daemon, const struct daemon_option *option, struct weir_error **err)
{
    switch (option->kind) {
    case DAEMON_OBJECT:
        return apply_object(daemon, option, err);
    case DAEMON_BLOCKDEV:
        return apply_blockdev(daemon, option, err);
    case DAEMON_EXPORT:
        return apply_export(daemon, option, err);
    case DAEMON_NBD_SERVER:
        return apply_nbd_server(daemon, option, err);
    case DAEMON_CHARDEV:
        return apply_chardev(daemon, option, err);
    case DAEMON_MONITOR:
        return apply_monitor(daemon, option, err);
    }
    return -EINVAL;
}

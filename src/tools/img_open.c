/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the name of an image to a root edge.
 *
 * A name is a path, "file:PATH", "blkdebug:RULES:PATH", "json:{...}" or, with --image-opts, keyval text. All become
 * the definition of a node as blockdev-add takes it. Where the format is not said, the first bytes say it: qcow2 by
 * its magic, raw otherwise. Control loop.
 */
#include "tools/img.h"

#include "base/schema_text.h"
#include "co/co.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "qmp/json_stream.h"
#include "qmp/keyval.h"
#include "sys/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* ---- names ---- */

const char *img_path(const char *name, struct weir_error **err)
{
    size_t length = strcspn(name, ":/");

    if (!strncmp(name, "file:", 5))
        return name + 5;
    /* What has a colon before the first slash is a protocol, as in "nbd:..."; "./a:b" is a path. */
    if (name[length] == ':') {
        (void)!weir_error_set(err, -EINVAL, "Unknown protocol '%.*s'", (int)length, name);
        return NULL;
    }
    return name;
}

/* ---- what is there ---- */

struct look {
    const char *path;
    enum img_file_kind kind;
    bool probe, qcow2;
};

/* Opening a FIFO would wait for its other end: only what has been looked at is opened. */
static int look_run(void *arg)
{
    struct look *look = arg;
    struct weir_sys_stat stat;
    char magic[4];
    int fd = weir_sys->file.open(look->path, O_PATH, 0), ret;

    look->kind = IMG_FILE_MISSING;
    if (fd < 0)
        return 0;
    ret = weir_sys->file.stat(fd, &stat);
    weir_sys->file.close(fd);
    if (ret < 0)
        return 0;
    look->kind = stat.type == WEIR_SYS_FILE_BLOCK || stat.type == WEIR_SYS_FILE_CHAR ? IMG_FILE_DEVICE
                                                                                     : IMG_FILE_REGULAR;
    if (!look->probe || (stat.type != WEIR_SYS_FILE_REGULAR && stat.type != WEIR_SYS_FILE_BLOCK))
        return 0;
    fd = weir_sys->file.open(look->path, O_RDONLY, 0);
    if (fd < 0)
        return 0; /* the driver says why */
    look->qcow2 = weir_sys->file.pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
                  !memcmp(magic, "QFI\xfb", sizeof(magic));
    weir_sys->file.close(fd);
    return 0;
}

enum img_file_kind img_look(const char *path, bool *ret_qcow2)
{
    struct look look = { .path = path, .probe = ret_qcow2 };

    (void)weir_co_work(look_run, &look);
    if (ret_qcow2)
        *ret_qcow2 = look.qcow2;
    return look.kind;
}

json_t *img_file_definition(const char *path, enum img_file_kind kind)
{
    return json_pack("{s:s, s:s}", "driver", kind == IMG_FILE_DEVICE ? "host_device" : "file", "filename",
                     path);
}

/* ---- definitions ---- */

/* Whether nodes of the driver have a member @name among their options. */
static bool takes(const struct weir_driver *driver, const char *name)
{
    for (const struct weir_schema_type *type = driver->options; type; type = type->base) {
        for (unsigned i = 0; i < type->member_count; i++) {
            if (!strcmp(type->members[i].name, name))
                return true;
        }
    }
    return false;
}

/* The format that the bytes of a file say; NULL where it is none that this program can look at. */
static weir_co_fn const char *probe(const json_t *file)
{
    const char *path = json_string_value(json_object_get(file, "filename"));
    bool qcow2 = false;

    if (!path)
        return "raw";
    (void)img_look(path, &qcow2);
    return qcow2 ? "qcow2" : "raw";
}

/* Children that name a file need not name its driver. */
static weir_co_fn void complete_children(json_t *json, unsigned level)
{
    static const char *const children[] = { "file", "image", "backing", "data-file" };

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(children) && level < WEIR_GRAPH_DEPTH_MAX; i++) {
        json_t *child = json_object_get(json, children[i]);
        const char *path = json_string_value(json_object_get(child, "filename"));

        if (!json_is_object(child))
            continue;
        complete_children(child, level + 1);
        if (json_object_get(child, "driver"))
            continue;
        if (path)
            json_object_set_new(
                child, "driver",
                json_string(img_look(path, NULL) == IMG_FILE_DEVICE ? "host_device" : "file"));
        else if (json_is_object(json_object_get(child, "file")))
            json_object_set_new(child, "driver", json_string(probe(json_object_get(child, "file"))));
    }
}

static void set_default(json_t *json, const char *name, json_t *value)
{
    if (!json_object_get(json, name))
        json_object_set(json, name, value);
    json_decref(value);
}

/* On the command line sizes of raw may have a suffix, as sizes have everywhere else there. */
static void expand_size(json_t *json, const char *name)
{
    const char *text = json_string_value(json_object_get(json, name));
    uint64_t size;

    if (text && weir_text_to_size(text, &size) && size <= INT64_MAX) {
        weir_autofree char *digits = weir_strdup_printf("%" PRIu64, size);

        json_object_set_new(json, name, json_string(digits));
    }
}

static weir_co_fn int complete(json_t *json, struct weir_error **err)
{
    json_t *driver;

    complete_children(json, 0);
    driver = json_object_get(json, "driver");
    if (!driver && !json_object_get(json, "file"))
        return weir_error_set(err, -EINVAL, "Must specify either driver or file");
    if (!driver)
        json_object_set_new(json, "driver", json_string(probe(json_object_get(json, "file"))));
    else if (json_is_string(driver) && !weir_driver_find(json_string_value(driver)))
        return weir_error_set(err, -EINVAL, "Unknown driver '%s'", json_string_value(driver));
    return 0;
}

static weir_co_fn int define_by_keyval(const char *text, json_t **ret_json, struct weir_error **err)
{
    json_t *json;
    int ret;

    if (!strchr(text, '='))
        return weir_error_set(err, -ENOENT, "Cannot find device='%s' nor node-name='%s'", text, text);
    ret = weir_keyval_parse(text, NULL, &json, err);
    if (ret)
        return ret;
    expand_size(json, "offset");
    expand_size(json, "size");
    ret = complete(json, err);
    if (!ret)
        ret = weir_schema_normalize(&weir_schema_blockdev_options, json, ret_json, err);
    json_decref(json);
    return ret;
}

static weir_co_fn int define_by_json(const char *text, const char *format, json_t **ret_json,
                                     struct weir_error **err)
{
    json_t *json;
    int ret = weir_json_parse(text, strlen(text), &json, err);

    if (ret) {
        weir_error_prefix(err, "Could not parse the JSON options: ");
        return ret;
    }
    if (!json_is_object(json))
        ret = weir_error_set(err, -EINVAL, "Could not parse the JSON options: Object expected");
    else if (format && json_object_get(json, "driver"))
        ret = weir_error_set(err, -EINVAL, "Driver specified twice");
    if (!ret && format)
        json_object_set_new(json, "driver", json_string(format));
    if (!ret)
        ret = complete(json, err);
    if (ret)
        json_decref(json);
    else
        *ret_json = json;
    return ret;
}

/* "blkdebug:RULES:PATH" is the file PATH below a blkdebug node; RULES may be empty. Moves *name to PATH. */
static int take_rules(const char **name, char **ret_rules, struct weir_error **err)
{
    static const char prefix[] = "blkdebug:";
    const char *rules = *name + sizeof(prefix) - 1, *colon;

    *ret_rules = NULL;
    if (strncmp(*name, prefix, sizeof(prefix) - 1) != 0)
        return 0;
    colon = strchr(rules, ':');
    if (!colon)
        return weir_error_set(err, -EINVAL, "blkdebug requires both config file and image path");
    *ret_rules = weir_strdup_printf("%.*s", (int)(colon - rules), rules);
    *name = colon + 1;
    return 0;
}

static json_t *below_rules(json_t *file, const char *rules)
{
    json_t *json = json_pack("{s:s, s:o}", "driver", "blkdebug", "image", file);

    if (*rules)
        json_object_set_new(json, "config", json_string(rules));
    return json;
}

static weir_co_fn int define_by_path(const char *name, const char *format, json_t **ret_json,
                                     struct weir_error **err)
{
    weir_autofree char *rules = NULL;
    const char *path = take_rules(&name, &rules, err) ? NULL : img_path(name, err);
    const struct weir_driver *driver = format ? weir_driver_find(format) : NULL;
    enum img_file_kind kind;
    bool qcow2 = false;
    json_t *file;

    if (!path)
        return -EINVAL;
    if (format && (!driver || (driver->flags & WEIR_DRIVER_INTERNAL)))
        return weir_error_set(err, -EINVAL, "Unknown driver '%s'", format);
    kind = img_look(path, format ? NULL : &qcow2);
    file = img_file_definition(path, kind);
    if (driver && (driver->flags & WEIR_DRIVER_PROTOCOL)) {
        json_object_set_new(file, "driver", json_string(format));
        *ret_json = rules ? below_rules(file, rules) : file;
        return 0;
    }
    if (!format)
        format = qcow2 ? "qcow2" : "raw";
    if (rules)
        file = below_rules(file, rules);
    *ret_json = json_pack("{s:s, s:o}", "driver", format, "file", file);
    return 0;
}

/* Options beside a name: they may say the driver, and then where the file belongs. */
static weir_co_fn int define_by_extra(const char *name, const struct img_open *how, json_t **ret_json,
                                      struct weir_error **err)
{
    const char *path = name ? img_path(name, err) : NULL;
    const struct weir_driver *driver;
    json_t *json, *file;
    int ret;

    if (name && !path)
        return -EINVAL;
    ret = weir_keyval_parse(how->extra, NULL, &json, err);
    if (ret)
        return ret;
    expand_size(json, "offset");
    expand_size(json, "size");
    if (how->format)
        set_default(json, "driver", json_string(how->format));
    driver = weir_driver_find(json_string_value(json_object_get(json, "driver")));
    if (path && driver && (driver->flags & WEIR_DRIVER_PROTOCOL)) {
        set_default(json, "filename", json_string(path));
    } else if (path) {
        file = img_file_definition(path, img_look(path, NULL));
        set_default(json, driver && takes(driver, "image") ? "image" : "file", file);
    }
    ret = complete(json, err);
    if (!ret)
        ret = weir_schema_normalize(&weir_schema_blockdev_options, json, ret_json, err);
    json_decref(json);
    return ret;
}

/* Files below say how they do their I/O. */
static void apply_aio(json_t *json, const char *aio)
{
    static const char *const children[] = { "file", "image" };
    const struct weir_driver *driver = weir_driver_find(json_string_value(json_object_get(json, "driver")));

    if (driver && takes(driver, "aio"))
        set_default(json, "aio", json_string(aio));
    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(children); i++) {
        if (json_is_object(json_object_get(json, children[i])))
            apply_aio(json_object_get(json, children[i]), aio);
    }
}

/* What the arguments of the command say about every image. */
static void apply(json_t *json, const struct img_open *how)
{
    const struct weir_driver *driver = weir_driver_find(json_string_value(json_object_get(json, "driver")));
    json_t *cache;

    if (how->force_share)
        json_object_set_new(json, "force-share", json_true());
    if (!how->writable)
        json_object_set_new(json, "read-only", json_true());
    if (how->discard)
        json_object_set_new(json, "discard", json_string(how->discard));
    else if (how->writable)
        set_default(json, "discard", json_string("unmap"));
    if (how->aio)
        apply_aio(json, how->aio);
    if (how->cache.direct || how->cache.no_flush) {
        set_default(json, "cache", json_object());
        cache = json_object_get(json, "cache");
        set_default(cache, "direct", json_boolean(how->cache.direct));
        set_default(cache, "no-flush", json_boolean(how->cache.no_flush));
    }
    if (how->repair && driver && takes(driver, "x-repair"))
        set_default(json, "x-repair", json_true());
    if (how->no_backing && driver && takes(driver, "backing"))
        set_default(json, "backing", json_null());
}

/* ---- open and close ---- */

static char *describe(struct weir_edge *edge)
{
    return weir_strdup("this program");
}

static const struct weir_root_ops root_ops = { .kind = "block-backend", .describe = describe };

static weir_co_fn int attach(struct weir_node *node, const struct img_open *how, struct weir_edge **ret_edge,
                             struct weir_error **err)
{
    unsigned perm = WEIR_PERM_CONSISTENT_READ | (how->writable ? WEIR_PERM_WRITE : 0);
    unsigned shared = WEIR_PERM_ALL;

    if (how->exclude_writers && !how->force_share)
        shared &= ~(unsigned)(WEIR_PERM_WRITE | WEIR_PERM_RESIZE);
    return weir_root_attach(node, "root", perm, shared, &root_ops, NULL, ret_edge, err);
}

int img_open(const char *name, const struct img_open *how, struct weir_edge **ret_edge,
             struct weir_error **err)
{
    json_t *json = NULL;
    struct weir_node *node;
    int ret;

    if (how->extra)
        ret = define_by_extra(name, how, &json, err);
    else if (how->options)
        ret = define_by_keyval(name, &json, err);
    else if (!strncmp(name, "json:", 5))
        ret = define_by_json(name + 5, how->format, &json, err);
    else
        ret = define_by_path(name, how->format, &json, err);
    if (ret)
        return ret;
    apply(json, how);
    ret = weir_node_add(json, false, &node, err);
    json_decref(json);
    if (ret)
        return ret;
    ret = attach(node, how, ret_edge, err);
    weir_node_unref(node); /* the edge holds it */
    return ret;
}

void img_close(struct weir_edge *edge)
{
    if (edge)
        weir_root_detach(edge, -1);
}

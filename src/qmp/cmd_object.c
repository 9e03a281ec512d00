/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP: objects (iothread, throttle-group), each kind kept by its own registry; here only who has which id.
 */
#include "base/alloc.h"
#include "co/iothread.h"
#include "filter/throttle_group.h"
#include "gen/commands.h"
#include "graph/graph.h"
#include "qmp/cmd.h"
#include <ctype.h>
#include <errno.h>
#include <string.h>

struct object {
    char *id;
    enum weir_q_object_type type;
    TAILQ_ENTRY(object) link;
};
static TAILQ_HEAD(, object) objects = TAILQ_HEAD_INITIALIZER(objects);

static struct object *find_object(const char *id)
{
    struct object *object;

    TAILQ_FOREACH (object, &objects, link) {
        if (!strcmp(object->id, id))
            return object;
    }
    return NULL;
}

static bool id_wellformed(const char *id)
{
    if (!isalpha((unsigned char)*id))
        return false;
    for (; *id; id++) {
        if (!isalnum((unsigned char)*id) && !strchr("-._", *id))
            return false;
    }
    return true;
}

int weir_object_add(const struct weir_q_object_options *options, struct weir_error **err)
{
    struct object *object;
    int ret = -EINVAL;

    if (!id_wellformed(options->id))
        return weir_error_set(err, -EINVAL, "Parameter 'id' expects an identifier");
    if (find_object(options->id))
        return weir_error_set(
            err, -EEXIST, "attempt to add duplicate property '%s' to object (type 'container')", options->id);
    switch (options->qom_type) {
    case WEIR_Q_OBJECT_TYPE_IOTHREAD:
        ret = weir_iothread_add(options->id, err);
        break;
    case WEIR_Q_OBJECT_TYPE_THROTTLE_GROUP: {
        const struct weir_q_throttle_group_properties *properties = &options->u.throttle_group;

        ret = weir_throttle_group_new(options->id, properties->has_limits ? &properties->limits : NULL, err);
        break;
    }
    }
    if (ret)
        return ret;
    object = weir_new(struct object);
    object->id = weir_strdup(options->id);
    object->type = options->qom_type;
    TAILQ_INSERT_TAIL(&objects, object, link);
    return 0;
}

static weir_co_fn int object_del(struct object *object, struct weir_error **err)
{
    int ret = object->type == WEIR_Q_OBJECT_TYPE_IOTHREAD
                  ? weir_iothread_del(object->id, err)
                  : weir_throttle_group_del(weir_throttle_group_find(object->id), err);

    if (ret)
        return ret;
    TAILQ_REMOVE(&objects, object, link);
    free(object->id);
    free(object);
    return 0;
}

void weir_objects_done(void)
{
    struct object *object, *next;

    for (object = TAILQ_FIRST(&objects); object; object = next) {
        next = TAILQ_NEXT(object, link);
        (void)!object_del(object, NULL);
    }
}

weir_co_fn int qmp_object_add(struct weir_qmp_context *ctx, const struct weir_q_object_options *args,
                              json_t **ret_value, struct weir_error **err)
{
    return weir_object_add(args, err);
}

weir_co_fn int qmp_object_del(struct weir_qmp_context *ctx, const struct weir_q_object_del_args *args,
                              json_t **ret_value, struct weir_error **err)
{
    struct object *object = find_object(args->id);

    if (!object)
        return weir_error_set(err, -ENOENT, "object '%s' not found", args->id);
    return object_del(object, err);
}

/* ---- properties ---- */

static struct object *object_at(const char *path, struct weir_error **err)
{
    struct object *object = find_object(!strncmp(path, "/objects/", 9) ? path + 9 : path);

    if (!object)
        (void)weir_error_set_class(err, WEIR_ERROR_DEVICE_NOT_FOUND, -ENOENT, "Device '%s' not found", path);
    return object;
}

static int no_property(const struct object *object, const char *property, struct weir_error **err)
{
    return weir_error_set(err, -ENOENT, "Property '%s.%s' not found",
                          weir_schema_enum_name(&weir_schema_object_type, (int)object->type), property);
}

static const struct weir_schema_member *limits_member(unsigned index)
{
    return index < weir_schema_throttle_limits.member_count ? &weir_schema_throttle_limits.members[index]
                                                            : NULL;
}

static json_t *limits_json(struct weir_throttle_group *group)
{
    struct weir_q_throttle_limits limits;
    const struct weir_schema_member *member;
    json_t *object = json_object();

    weir_throttle_group_limits(group, &limits);
    for (unsigned i = 0; (member = limits_member(i)); i++) {
        int64_t value;

        memcpy(&value, (const char *)&limits + member->offset, sizeof(value));
        json_object_set_new(object, member->name, json_integer(value));
    }
    return object;
}

weir_co_fn int qmp_qom_get(struct weir_qmp_context *ctx, const struct weir_q_qom_get_args *args,
                           json_t **ret_value, struct weir_error **err)
{
    struct object *object = object_at(args->path, err);

    if (!object)
        return -ENOENT;
    if (!strcmp(args->property, "type")) {
        *ret_value = json_string(weir_schema_enum_name(&weir_schema_object_type, (int)object->type));
        return 0;
    }
    if (object->type != WEIR_Q_OBJECT_TYPE_THROTTLE_GROUP || strcmp(args->property, "limits"))
        return no_property(object, args->property, err);
    *ret_value = limits_json(weir_throttle_group_find(object->id));
    return 0;
}

weir_co_fn int qmp_qom_set(struct weir_qmp_context *ctx, const struct weir_q_qom_set_args *args,
                           json_t **ret_value, struct weir_error **err)
{
    struct object *object = object_at(args->path, err);
    struct weir_throttle_group *group;
    struct weir_q_throttle_limits limits;
    json_t *all;
    int ret;

    if (!object)
        return -ENOENT;
    if (object->type != WEIR_Q_OBJECT_TYPE_THROTTLE_GROUP || strcmp(args->property, "limits"))
        return no_property(object, args->property, err);
    group = weir_throttle_group_find(object->id);
    /* What is not given stays as it is. A value that is no object is left to the parser to refuse. */
    all = json_is_object(args->value) ? limits_json(group) : json_incref(args->value);
    if (all != args->value)
        json_object_update(all, args->value);
    ret = weir_schema_parse_at(&weir_schema_throttle_limits, "limits", all, WEIR_SCHEMA_JSON, &limits, err);
    json_decref(all);
    if (ret)
        return ret;
    ret = weir_throttle_group_set_limits(group, &limits, err);
    weir_schema_free(&weir_schema_throttle_limits, &limits);
    return ret;
}

/* ---- the tree ---- */

static const char *type_name(const struct object *object)
{
    return weir_schema_enum_name(&weir_schema_object_type, (int)object->type);
}

static void add_property(json_t *list, const char *name, const char *type)
{
    json_array_append_new(list, json_pack("{s:s, s:s}", "name", name, "type", type));
}

static void add_children(json_t *list)
{
    const struct object *object;

    TAILQ_FOREACH (object, &objects, link) {
        weir_autofree char *type = weir_strdup_printf("child<%s>", type_name(object));

        add_property(list, object->id, type);
    }
}

weir_co_fn int qmp_qom_list(struct weir_qmp_context *ctx, const struct weir_q_qom_list_args *args,
                            json_t **ret_value, struct weir_error **err)
{
    bool is_root = !strcmp(args->path, "/"), is_container = !strcmp(args->path, "/objects");
    const struct object *object = is_root || is_container ? NULL : object_at(args->path, err);

    if (!object && !is_root && !is_container)
        return -ENOENT;
    *ret_value = json_array();
    add_property(*ret_value, "type", "string");
    if (is_root)
        add_property(*ret_value, "objects", "child<container>");
    else if (is_container)
        add_children(*ret_value);
    else if (object->type == WEIR_Q_OBJECT_TYPE_THROTTLE_GROUP)
        add_property(*ret_value, "limits", "ThrottleLimits");
    return 0;
}

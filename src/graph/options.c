/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options of a node: which driver, what is inherited, the typed struct for the driver, the common options.
 *
 * An inline child inherits from its parent what is not given: read-only, auto-read-only, force-share and cache
 * options; a COW child is read-only. It passes discards on, as whether its parent may is asked there.
 */
#include "base/alloc.h"
#include "base/schema.h"
#include "graph/internal.h"

/* The common options, for whichever driver: those of a driver's own are in its typed struct. */
struct common_options {
    char *node_name;
    int discard, detect_zeroes;
    bool read_only, auto_read_only, force_share;
    struct {
        bool direct, no_flush;
    } cache;
};

static const char *const discard_values[] = { "ignore", "unmap" };
static const struct weir_schema_type discard_type = {
    .name = "BlockdevDiscardOptions",
    .kind = WEIR_SCHEMA_ENUM,
    .size = sizeof(int),
    .values = discard_values,
    .value_count = WEIR_ARRAY_SIZE(discard_values),
};
#define DISCARD_UNMAP 1

/* In the order of enum weir_detect_zeroes. */
static const char *const detect_values[] = { "off", "on", "unmap" };
static const struct weir_schema_type detect_type = {
    .name = "BlockdevDetectZeroesOptions",
    .kind = WEIR_SCHEMA_ENUM,
    .size = sizeof(int),
    .values = detect_values,
    .value_count = WEIR_ARRAY_SIZE(detect_values),
};

#define CACHE_SIZE sizeof(((struct common_options *)NULL)->cache)
static const struct weir_schema_member cache_members[] = {
    { "direct", &weir_schema_bool, true, "off", 0, WEIR_SCHEMA_NO_HAS },
    { "no-flush", &weir_schema_bool, true, "off", sizeof(bool), WEIR_SCHEMA_NO_HAS },
};
static const struct weir_schema_type cache_type = {
    .name = "BlockdevCacheOptions",
    .kind = WEIR_SCHEMA_STRUCT,
    .size = CACHE_SIZE,
    .members = cache_members,
    .member_count = WEIR_ARRAY_SIZE(cache_members),
};

#define MEMBER(name, type, preset, field)                                                    \
    {                                                                                        \
        name, type, true, preset, offsetof(struct common_options, field), WEIR_SCHEMA_NO_HAS \
    }
static const struct weir_schema_member common_members[] = {
    MEMBER("node-name", &weir_schema_str, NULL, node_name),
    MEMBER("discard", &discard_type, "ignore", discard),
    MEMBER("detect-zeroes", &detect_type, "off", detect_zeroes),
    MEMBER("read-only", &weir_schema_bool, "off", read_only),
    MEMBER("auto-read-only", &weir_schema_bool, "off", auto_read_only),
    MEMBER("force-share", &weir_schema_bool, "off", force_share),
    MEMBER("cache", &cache_type, NULL, cache),
};
static const struct weir_schema_type common_type = {
    .name = "BlockdevOptionsBase",
    .kind = WEIR_SCHEMA_STRUCT,
    .size = sizeof(struct common_options),
    .members = common_members,
    .member_count = WEIR_ARRAY_SIZE(common_members),
};

/* ---- inheritance ---- */

/* Options of another type than an object are left for the parser to refuse. */
static void set_default(json_t *object, const char *name, json_t *value)
{
    if (json_is_object(object) && !json_object_get(object, name))
        json_object_set(object, name, value);
    json_decref(value);
}

static void inherit(json_t *json, const struct weir_common *parent, unsigned role)
{
    bool cow = role & WEIR_ROLE_COW;

    if (cow || parent->read_only)
        set_default(json, "read-only", json_true());
    if (parent->auto_read_only)
        set_default(json, "auto-read-only", json_true());
    if (parent->force_share)
        set_default(json, "force-share", json_true());
    if (!cow)
        set_default(json, "discard", json_string("unmap"));
    if (parent->cache_direct || parent->cache_no_flush)
        set_default(json, "cache", json_object());
    if (parent->cache_direct)
        set_default(json_object_get(json, "cache"), "direct", json_true());
    if (parent->cache_no_flush)
        set_default(json_object_get(json, "cache"), "no-flush", json_true());
}

/* ---- parsing ---- */

static int find_driver(json_t *json, const struct weir_driver **ret_driver, struct weir_error **err)
{
    json_t *name = json_object_get(json, "driver");
    const struct weir_driver *driver;

    if (!json_is_object(json))
        return weir_error_set(err, -EINVAL, "Invalid parameter type for 'options', expected: object");
    if (!name)
        return weir_error_set(err, -EINVAL, "Parameter 'driver' is missing");
    if (!json_is_string(name))
        return weir_error_set(err, -EINVAL, "Invalid parameter type for 'driver', expected: string");
    driver = weir_driver_find(json_string_value(name));
    if (!driver || (driver->flags & WEIR_DRIVER_INTERNAL)) {
        return weir_error_set(err, -EINVAL, "Parameter 'driver' does not accept value '%s'",
                              json_string_value(name));
    }
    *ret_driver = driver;
    return 0;
}

static int check_common(const struct common_options *common, struct weir_error **err)
{
    if (common->force_share && !common->read_only) {
        return weir_error_set(err, -EINVAL, "force-share=on can only be used with read-only images");
    }
    if (common->detect_zeroes == WEIR_DETECT_ZEROES_UNMAP && common->discard != DISCARD_UNMAP) {
        return weir_error_set(
            err, -EINVAL,
            "setting detect-zeroes to unmap is not allowed without setting discard operation to "
            "unmap");
    }
    return 0;
}

/* The driver's own descriptor refuses what is unexpected; so here the rest is passed over. */
static int parse_common(struct weir_options *options, struct weir_error **err)
{
    struct common_options common;
    json_t *json = json_object();
    int ret;

    for (unsigned i = 0; i < WEIR_ARRAY_SIZE(common_members); i++) {
        json_t *value = json_object_get(options->json, common_members[i].name);

        if (value)
            json_object_set(json, common_members[i].name, value);
    }
    ret = weir_schema_parse(&common_type, json, WEIR_SCHEMA_JSON, &common, err);
    json_decref(json);
    if (ret < 0)
        return ret;
    ret = check_common(&common, err);
    options->node_name = weir_steal(&common.node_name);
    options->common = (struct weir_common){
        .discard_unmap = common.discard == DISCARD_UNMAP,
        .detect_zeroes = (enum weir_detect_zeroes)common.detect_zeroes,
        .read_only = common.read_only,
        .auto_read_only = common.auto_read_only,
        .force_share = common.force_share,
        .cache_direct = common.cache.direct,
        .cache_no_flush = common.cache.no_flush,
    };
    weir_schema_free(&common_type, &common);
    return ret;
}

static int parse_typed(struct weir_options *options, struct weir_error **err)
{
    const struct weir_schema_type *type = options->driver->options;
    void *typed;
    int ret;

    if (!type)
        return 0;
    typed = weir_alloc(type->size);
    ret = weir_schema_parse(type, options->json, WEIR_SCHEMA_JSON, typed, err);
    if (ret < 0)
        free(typed);
    else
        options->typed = typed;
    return ret;
}

int weir_options_parse(json_t *json, const struct weir_common *parent, unsigned role,
                       struct weir_options *ret_options, struct weir_error **err)
{
    struct weir_options options = { 0 };
    int ret = find_driver(json, &options.driver, err);

    if (ret < 0)
        return ret;
    options.json = json_deep_copy(json);
    if (parent)
        inherit(options.json, parent, role);
    ret = parse_typed(&options, err);
    if (!ret)
        ret = parse_common(&options, err);
    if (ret < 0) {
        weir_options_done(&options);
        return ret;
    }
    *ret_options = options;
    return 0;
}

struct weir_common weir_node_common(const struct weir_node *node)
{
    return (struct weir_common){
        .discard_unmap = node->discard_unmap,
        .detect_zeroes = node->detect_zeroes,
        .read_only = node->read_only_asked,
        .auto_read_only = node->auto_read_only,
        .force_share = node->force_share,
        .cache_direct = node->cache_direct,
        .cache_no_flush = node->cache_no_flush,
    };
}

/* A threshold that was reached meanwhile costs later writes a look, no more. */
static void watch_writes(struct weir_node *node)
{
    atomic_store(&node->watches_writes,
                 node->detect_zeroes != WEIR_DETECT_ZEROES_OFF || atomic_load(&node->write_threshold));
}

void weir_node_set_write_threshold(struct weir_node *node, uint64_t threshold)
{
    atomic_store(&node->write_threshold, threshold);
    watch_writes(node);
}

void weir_node_set_common(struct weir_node *node, const struct weir_common *common)
{
    node->discard_unmap = common->discard_unmap;
    node->detect_zeroes = common->detect_zeroes;
    node->read_only = node->read_only_asked = common->read_only;
    node->auto_read_only = common->auto_read_only;
    node->force_share = common->force_share;
    node->cache_direct = common->cache_direct;
    node->cache_no_flush = common->cache_no_flush;
    watch_writes(node);
}

void weir_options_done(struct weir_options *options)
{
    if (options->typed)
        weir_schema_free(options->driver->options, options->typed);
    free(options->typed);
    free(options->node_name);
    json_decref(options->json);
}

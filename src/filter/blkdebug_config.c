/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file of rules: sections [inject-error] and [set-state], each a rule, with lines `name = "value"`; empty lines and
 * lines that begin with # are passed over. A value without quotes is taken as it is.
 */
#include "base/alloc.h"
#include "filter/blkdebug_internal.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "sys/sys.h"
#include <ctype.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>

#define CONFIG_MAX 65536u /* bytes */

/* ---- reading ---- */

struct load {
    char *path, *text;
};

static int load_run(void *arg)
{
    struct load *load = arg;
    int fd = weir_sys->file.open(load->path, O_RDONLY, 0);
    size_t length = 0;
    ssize_t got = 1;

    if (fd < 0)
        return fd;
    load->text = weir_alloc(CONFIG_MAX + 1);
    while (got > 0 && length <= CONFIG_MAX) {
        got = weir_sys->file.pread(fd, load->text + length, CONFIG_MAX + 1 - length, length);
        length += got > 0 ? (size_t)got : 0;
    }
    weir_sys->file.close(fd);
    if (got < 0)
        return (int)got;
    if (length > CONFIG_MAX)
        return -EFBIG;
    load->text[length] = 0;
    return 0;
}

static void load_free(void *arg)
{
    struct load *load = arg;

    free(load->path);
    free(load->text);
    free(load);
}

static weir_co_fn int load_text(const char *path, char **ret_text, struct weir_error **err)
{
    struct load *load = weir_new(struct load);
    int ret;

    load->path = weir_strdup(path);
    ret = weir_co_work_until(load_run, load_free, load, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS);
    if (ret != -ETIMEDOUT) {
        if (!ret)
            *ret_text = weir_steal(&load->text);
        load_free(load);
    }
    return ret ? weir_error_set_errno(err, ret, "Could not read blkdebug config file") : 0;
}

/* ---- sections ---- */

struct section {
    bool begun, sets_state;
    json_t *values;
};

static const struct weir_schema_type *type_of(const struct section *section)
{
    return section->sets_state ? &weir_schema_blkdebug_set_state_options
                               : &weir_schema_blkdebug_inject_error_options;
}

/* The two values that are names: their texts are older than the schema's. */
static int check_names(const json_t *values, struct weir_error **err)
{
    const char *event = json_string_value(json_object_get(values, "event"));
    const char *iotype = json_string_value(json_object_get(values, "iotype"));

    if (!event)
        return weir_error_set(err, -EINVAL, "Missing event name for rule");
    if (weir_schema_enum_find(&weir_schema_blkdebug_event, event) < 0)
        return weir_error_set(err, -EINVAL, "invalid parameter value: %s", event);
    if (iotype && weir_schema_enum_find(&weir_schema_blkdebug_io_type, iotype) < 0)
        return weir_error_set(err, -EINVAL, "invalid parameter value: %s", iotype);
    return 0;
}

static int end_section(struct section *section, struct blkdebug_rules *rules, struct weir_error **err)
{
    int ret;

    if (!section->begun)
        return 0;
    section->begun = false;
    ret = check_names(section->values, err);
    if (!ret && section->sets_state) {
        struct weir_q_blkdebug_set_state_options opts;

        if (!json_object_get(section->values, "new_state"))
            json_object_set_new(section->values, "new_state", json_string("0"));
        ret = weir_schema_parse(type_of(section), section->values, WEIR_SCHEMA_KEYVAL, &opts, err);
        if (!ret) {
            blkdebug_rules_set_state(rules, &opts);
            weir_schema_free(type_of(section), &opts);
        }
    } else if (!ret) {
        struct weir_q_blkdebug_inject_error_options opts;

        ret = weir_schema_parse(type_of(section), section->values, WEIR_SCHEMA_KEYVAL, &opts, err);
        if (!ret) {
            ret = blkdebug_rules_inject(rules, &opts, err);
            weir_schema_free(type_of(section), &opts);
        }
    }
    json_decref(weir_steal(&section->values));
    return ret;
}

static int begin_section(struct section *section, const char *line, struct weir_error **err)
{
    size_t length = strcspn(line + 1, " ]\"");

    if (!strchr(line, ']'))
        return weir_error_set(err, -EINVAL, "There is no option group '%s'", line + 1);
    if (length == 12 && !strncmp(line + 1, "inject-error", length))
        section->sets_state = false;
    else if (length == 9 && !strncmp(line + 1, "set-state", length))
        section->sets_state = true;
    else
        return weir_error_set(err, -EINVAL, "There is no option group '%.*s'", (int)length, line + 1);
    section->begun = true;
    section->values = json_object();
    return 0;
}

static bool has_member(const struct weir_schema_type *type, const char *name)
{
    for (unsigned i = 0; i < type->member_count; i++) {
        if (!strcmp(type->members[i].name, name))
            return true;
    }
    return false;
}

/* name = "value", or name = value. Cuts the line to pieces. */
static int take_value(struct section *section, char *line, struct weir_error **err)
{
    char *value = strchr(line, '='), *name_end = value;
    size_t length;

    if (!value)
        return weir_error_set(err, -EINVAL, "Could not parse '%s' in blkdebug config file", line);
    value++;
    while (name_end > line && isspace((unsigned char)name_end[-1]))
        name_end--;
    *name_end = 0;
    while (isspace((unsigned char)*value))
        value++;
    length = strlen(value);
    if (length >= 2 && value[0] == '"' && value[length - 1] == '"') {
        value[length - 1] = 0;
        value++;
    }
    if (!has_member(type_of(section), line))
        return weir_error_set(err, -EINVAL, "Invalid parameter '%s'", line);
    if (json_object_set_new(section->values, line, json_string(value)))
        return weir_error_set(err, -EINVAL, "The value of '%s' is not text", line);
    return 0;
}

/* Without the white space at both ends. */
static char *strip(char *line)
{
    size_t length;

    while (isspace((unsigned char)*line))
        line++;
    length = strlen(line);
    while (length && isspace((unsigned char)line[length - 1]))
        line[--length] = 0;
    return line;
}

static int take_line(struct section *section, char *line, struct blkdebug_rules *rules,
                     struct weir_error **err)
{
    int ret;

    if (!*line || *line == '#')
        return 0;
    if (*line != '[')
        return section->begun ? take_value(section, line, err)
                              : weir_error_set(err, -EINVAL, "no group defined");
    ret = end_section(section, rules, err);
    return ret ? ret : begin_section(section, line, err);
}

int blkdebug_config_read(const char *path, struct blkdebug_rules *rules, struct weir_error **err)
{
    struct section section = { .begun = false };
    weir_autofree char *text = NULL;
    char *next = NULL;
    int ret = load_text(path, &text, err);

    for (char *line = text; line && !ret; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        ret = take_line(&section, strip(line), rules, err);
    }
    if (!ret)
        ret = end_section(&section, rules, err);
    json_decref(section.values);
    return ret;
}

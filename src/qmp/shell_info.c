/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command info of the shell, and the order in which the members of ImageInfo are shown.
 */
#include "qmp/shell_internal.h"

#include "graph/describe.h"
#include "qmp/json_order.h"
#include <jansson.h>

static void print_members(struct weir_shell *shell, const json_t *value, int level);

static void print_one(struct weir_shell *shell, const char *name, const json_t *value, int level)
{
    weir_autofree char *shown = weir_strdup(name);

    for (char *at = shown; (at = strchr(at, '-'));)
        *at = ' ';
    if (json_is_object(value) || json_is_array(value)) {
        weir_shell_print(shell, "%*s%s:\n", 4 * level, "", shown);
        print_members(shell, value, level + 1);
    } else if (json_is_string(value)) {
        weir_shell_print(shell, "%*s%s: %s\n", 4 * level, "", shown, json_string_value(value));
    } else if (json_is_integer(value)) {
        weir_shell_print(shell, "%*s%s: %" JSON_INTEGER_FORMAT "\n", 4 * level, "", shown,
                         json_integer_value(value));
    } else {
        weir_shell_print(shell, "%*s%s: %s\n", 4 * level, "", shown, json_is_true(value) ? "true" : "false");
    }
}

static void print_members(struct weir_shell *shell, const json_t *value, int level)
{
    weir_autofree const char **keys = NULL;

    for (size_t i = 0; i < json_array_size(value); i++) {
        char name[24];

        (void)snprintf(name, sizeof(name), "[%zu]", i);
        print_one(shell, name, json_array_get(value, i), level);
    }
    if (json_is_array(value))
        return;
    keys = weir_json_keys(value);
    for (unsigned i = 0; keys[i]; i++)
        print_one(shell, keys[i], json_object_get(value, keys[i]), level);
}

/* Where formats keep the state of a machine: behind the last table of the disk. 0: they cannot. */
static uint64_t vm_state_offset(const struct weir_node *node, const json_t *info, uint64_t cluster)
{
    const json_t *data = json_object_get(json_object_get(info, "format-specific"), "data");
    uint64_t entry = json_is_true(json_object_get(data, "extended-l2")) ? 16 : 8,
             span = cluster / entry * cluster;

    return span && node->driver->commit ? (weir_node_size(node) + span - 1) / span * span : 0;
}

int shell_info(struct weir_shell *shell, int argc, char **argv)
{
    struct weir_node *node = shell->edge->node;
    int64_t allocated = weir_node_allocated_size(node);
    json_t *info = weir_node_image_info(node, allocated), *data;
    uint64_t cluster = (uint64_t)json_integer_value(json_object_get(info, "cluster-size"));
    char size[32], offset[32];

    shell_human((double)cluster, size);
    shell_human((double)vm_state_offset(node, info, cluster), offset);
    weir_shell_print(shell, "format name: %s\ncluster size: %s\nvm state offset: %s\n", node->driver->name,
                     size, offset);
    data = json_object_get(json_object_get(info, "format-specific"), "data");
    if (json_object_size(data)) {
        weir_shell_print(shell, "Format specific information:\n");
        print_members(shell, data, 1);
    }
    json_decref(info);
    return 0;
}

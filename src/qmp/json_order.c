/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The members of JSON objects in a fixed order, the one that qemu-img prints them in: people compare outputs as text,
 * and a few scripts take lines by number.
 */
#include "qmp/json_order.h"

#include "base/alloc.h"
#include <string.h>

static const char *const key_order[] = {
    "icount",
    "vm-clock-nsec",
    "image-end-offset",
    "compressed-clusters",
    "total-clusters",
    "corruptions",
    "corruptions-fixed",
    "check-errors",
    "leaks",
    "leaks-fixed",
    "allocated-clusters",
    "flags",
    "name",
    "granularity",
    "date-sec",
    "date-nsec",
    "vm-clock-sec",
    "id",
    "vm-state-size",
    "snapshots",
    "backing-filename-format",
    "virtual-size",
    "filename",
    "cluster-size",
    "format",
    "actual-size",
    "fragmented-clusters",
    "type",
    "data",
    "compat",
    "compression-type",
    "lazy-refcounts",
    "bitmaps",
    "refcount-bits",
    "data-file",
    "data-file-raw",
    "corrupt",
    "extended-l2",
    "format-specific",
    "full-backing-filename",
    "backing-filename",
    "dirty-flag",
};

static unsigned rank(const char *key)
{
    unsigned i = 0;

    while (i < WEIR_ARRAY_SIZE(key_order) && strcmp(key_order[i], key) != 0)
        i++;
    return i;
}

const char **weir_json_keys(const json_t *object)
{
    size_t count = json_object_size(object), n = 0;
    const char **keys = weir_new_array(const char *, count + 1);
    json_t *walked = json_incref((json_t *)(uintptr_t)object);

    /* What has no rank keeps its place among the others of its kind, behind the known ones. */
    for (void *iter = json_object_iter(walked); iter; iter = json_object_iter_next(walked, iter)) {
        const char *key = json_object_iter_key(iter);
        size_t at = n++;

        for (; at && rank(keys[at - 1]) > rank(key); at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
    json_decref(walked);
    return keys;
}

/* SPDX-License-Identifier: BSD-2-Clause */
#include "graph/filename.h"

#include "base/alloc.h"
#include "co/co.h"
#include "graph/graph.h"
#include "sys/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define JSON_PREFIX "json:"
#define FILE_PREFIX "file:"

static bool begins(const char *text, const char *prefix)
{
    return !strncmp(text, prefix, strlen(prefix));
}

/* Length of the protocol in "nbd:..." or "nbd://..."; 0: a path. */
static size_t protocol_length(const char *name)
{
    size_t length = strcspn(name, ":/");

    return name[length] == ':' ? length : 0;
}

char *weir_filename_resolve(const char *name, const char *image)
{
    const char *slash = image ? strrchr(image, '/') : NULL;

    if (begins(name, JSON_PREFIX))
        return weir_strdup(name);
    if (begins(name, FILE_PREFIX))
        name += strlen(FILE_PREFIX);
    if (!slash || name[0] == '/' || protocol_length(name))
        return weir_strdup(name);
    return weir_strdup_printf("%.*s/%s", (int)(slash - image), image, name);
}

struct look {
    char *path;
    bool device;
};

static int run_look(void *arg)
{
    struct look *look = arg;
    int fd = weir_sys->file.open(look->path, O_RDONLY, 0);
    struct weir_sys_stat stat;

    if (fd < 0)
        return 0; /* whoever opens the node says why */
    look->device = weir_sys->file.stat(fd, &stat) == 0 && stat.type == WEIR_SYS_FILE_BLOCK;
    weir_sys->file.close(fd);
    return 0;
}

static void release_look(void *arg)
{
    struct look *look = arg;

    free(look->path);
    free(look);
}

/* A path below /dev may be a device; others are not opened just for that. */
static weir_co_fn bool is_device(const char *path)
{
    struct look *look;
    bool device;

    if (!begins(path, "/dev/"))
        return false;
    look = weir_new(struct look);
    look->path = weir_strdup(path);
    if (weir_co_work_until(run_look, release_look, look, weir_sys->clock_ns() + WEIR_OPEN_LIMIT_NS) ==
        -ETIMEDOUT)
        return false;
    device = look->device;
    release_look(look);
    return device;
}

int weir_filename_options(const char *name, const char *image, json_t **ret_options, bool *ret_is_tree,
                          struct weir_error **err)
{
    weir_autofree char *path = NULL;
    json_error_t json_error;

    *ret_is_tree = begins(name, JSON_PREFIX);
    if (*ret_is_tree) {
        *ret_options = json_loads(name + strlen(JSON_PREFIX), JSON_REJECT_DUPLICATES, &json_error);
        if (!json_is_object(*ret_options)) {
            json_decref(*ret_options);
            return weir_error_set(err, -EINVAL, "Could not parse the JSON options of '%s'", name);
        }
        return 0;
    }
    if (!begins(name, FILE_PREFIX) && protocol_length(name))
        return weir_error_set(err, -EINVAL, "Unknown protocol '%.*s'", (int)protocol_length(name), name);
    path = weir_filename_resolve(name, image);
    *ret_options =
        json_pack("{s:s, s:s}", "driver", is_device(path) ? "host_device" : "file", "filename", path);
    if (!*ret_options)
        return weir_error_set(err, -EINVAL, "The file name '%s' is not UTF-8", path);
    return 0;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The target of weir ctl mirror: a node that is there, or a new node for a file, which may have to be made first.
 *
 * All is done by the daemon, as its view of files is the one that counts; only relative paths are resolved here, for
 * the daemon's working directory is another one. Nobody probes: the format of a file that a guest has written to is
 * what the guest likes. Whether a file exists is found out by opening it read-only, as blockdev-create would empty it.
 */
#include "tools/ctl.h"

#include "sys/sys.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

/* What node names and job ids may have at most. */
#define NAME_MAX_BYTES 31
/* A node that a job has just let go of may be in use for a moment. */
#define UNDO_LIMIT_NS (5 * 1000000000LL)
#define UNDO_STEP_NS (50 * 1000000LL)

/* ---- names ---- */

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_name_byte(char c)
{
    return is_letter(c) || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
}

char *ctl_free_name(const char *text, const json_t *taken, const char *member)
{
    char base[NAME_MAX_BYTES + 1], name[NAME_MAX_BYTES + 1];
    size_t length = 0;

    if (!is_letter(*text))
        base[length++] = 'n';
    for (; *text && length < NAME_MAX_BYTES; text++)
        base[length++] = is_name_byte(*text) ? *text : '-';
    base[length] = '\0';
    (void)snprintf(name, sizeof(name), "%s", base);
    for (unsigned n = 2; ctl_find(taken, member, name); n++) {
        char suffix[16];
        int digits = snprintf(suffix, sizeof(suffix), "-%u", n);

        (void)snprintf(name, sizeof(name), "%.*s%s", NAME_MAX_BYTES - digits, base, suffix);
    }
    return weir_strdup(name);
}

/* The last part of the path, without what is behind its last dot. */
static char *name_of_path(const char *path, const json_t *nodes)
{
    const char *slash = strrchr(path, '/');
    weir_autofree char *last = weir_strdup(slash ? slash + 1 : path);
    char *dot = strrchr(last, '.');

    if (dot && dot != last)
        *dot = '\0';
    return ctl_free_name(last, nodes, "node-name");
}

static int absolute_path(const struct ctl *ctl, const char *given, char **ret_path, struct weir_error **err)
{
    char directory[PATH_MAX];
    int ret;

    if (*given == '/') {
        *ret_path = weir_strdup(given);
        return 0;
    }
    if (ctl_is_remote(ctl))
        return weir_error_set(
            err, -EINVAL,
            "'%s' is no node, and the path of a file must be absolute: the daemon may be on another host",
            given);
    ret = weir_sys->process.working_directory(directory, sizeof(directory));
    if (ret)
        return weir_error_set_errno(err, ret, "the working directory is not known");
    *ret_path = weir_strdup_printf("%s/%s", directory, given);
    return 0;
}

/* ---- definitions ---- */

/* Devices have a driver of their own. */
static const char *protocol_of(const char *path)
{
    bool device = !strncmp(path, "/dev/", 5) && strncmp(path, "/dev/shm/", 9) != 0;

    return device ? "host_device" : "file";
}

/* What the source's users give up, its copy may give up too: it stays as sparse as the source. */
static json_t *file_definition(const char *path)
{
    return json_pack("{s:s, s:s, s:s}", "driver", protocol_of(path), "filename", path, "discard", "unmap");
}

static json_t *node_definition(const struct ctl_target *target)
{
    return json_pack("{s:s, s:s, s:s, s:o}", "driver", target->format, "node-name", target->node, "discard",
                     "unmap", "file", file_definition(target->path));
}

static weir_co_fn int delete_node(struct ctl *ctl, const char *node, struct weir_error **err)
{
    return ctl_call(ctl, "blockdev-del", json_pack("{s:s}", "node-name", node), NULL, err);
}

/* ---- making the file ---- */

static weir_co_fn int check_absent(struct ctl *ctl, const struct ctl_target *target, struct weir_error **err)
{
    json_t *definition =
        json_pack("{s:s, s:s, s:s, s:b, s:s}", "driver", protocol_of(target->path), "node-name", target->node,
                  "filename", target->path, "read-only", 1, "locking", "off");
    WEIR_AUTO_ERROR refusal = NULL;
    const char *text;
    size_t length;

    if (!ctl_call(ctl, "blockdev-add", definition, NULL, &refusal)) {
        int ret = delete_node(ctl, target->node, err);

        return ret ? ret
                   : weir_error_set(err, -EEXIST,
                                    "the file exists; without --create the mirror writes into it");
    }
    text = weir_error_text(refusal);
    length = strlen(text);
    if (length >= strlen(strerror(ENOENT)) &&
        !strcmp(text + length - strlen(strerror(ENOENT)), strerror(ENOENT)))
        return 0;
    return weir_error_set(err, -EIO, "%s", text);
}

/* A job of blockdev-create, to its end. */
static weir_co_fn int run_create(struct ctl *ctl, json_t *options, struct weir_error **err)
{
    struct ctl_follow follow = { .quiet = true, .own = true };
    weir_autofree char *id = NULL;
    json_t *jobs = NULL;
    int ret = ctl_query_jobs(ctl, &jobs, err);

    if (ret) {
        json_decref(options);
        return ret;
    }
    id = ctl_free_name("create", jobs, "id");
    json_decref(jobs);
    ctl_drop_events(ctl);
    ret = ctl_call(ctl, "blockdev-create", json_pack("{s:s, s:o}", "job-id", id, "options", options), NULL,
                   err);
    if (ret)
        return ret;
    follow.job = id;
    ret = ctl_follow_job(ctl, &follow, err);
    if (!ret && follow.outcome != CTL_OUTCOME_GOOD)
        ret = weir_error_set(err, -EIO, "%s", follow.reason ? follow.reason : "the job was cancelled");
    free(follow.reason);
    if (!ctl_is_closed(ctl)) /* the job stays until then; somebody else may have been faster */
        (void)!ctl_call(ctl, "job-dismiss", json_pack("{s:s}", "id", id), NULL, NULL);
    return ret;
}

/* Into the file, which is empty. The node makes way for the one of the format, which has a file node of its own. */
static weir_co_fn int create_qcow2(struct ctl *ctl, const struct ctl_target *target, uint64_t size,
                                   struct weir_error **err)
{
    json_t *file = file_definition(target->path);
    int ret;

    json_object_set_new(file, "node-name", json_string(target->node));
    ret = ctl_call(ctl, "blockdev-add", file, NULL, err);
    if (ret)
        return ret;
    ret = run_create(
        ctl, json_pack("{s:s, s:s, s:I}", "driver", "qcow2", "file", target->node, "size", (json_int_t)size),
        err);
    if (!ret)
        return delete_node(ctl, target->node, err);
    (void)!delete_node(ctl, target->node, NULL); /* the first error is the one that counts */
    return ret;
}

static weir_co_fn int create(struct ctl *ctl, const struct ctl_target *target, uint64_t size,
                             struct weir_error **err)
{
    bool qcow2 = !strcmp(target->format, "qcow2");
    int ret = check_absent(ctl, target, err);
    bool absent = !ret;

    if (!ret)
        ret = run_create(ctl,
                         json_pack("{s:s, s:s, s:I}", "driver", "file", "filename", target->path, "size",
                                   (json_int_t)(qcow2 ? 0 : size)),
                         err);
    if (!ret && qcow2)
        ret = create_qcow2(ctl, target, size, err);
    if (ret)
        weir_error_prefix(err, absent ? "create '%s': " : "'%s': ", target->path);
    else
        printf("created '%s' (%s)\n", target->path, target->format);
    return ret;
}

/* ---- the node ---- */

weir_co_fn int ctl_target_open(struct ctl *ctl, struct ctl_target *target, const json_t *nodes, uint64_t size,
                               struct weir_error **err)
{
    int ret;

    if (ctl_find(nodes, "node-name", target->given)) {
        if (target->create || target->format_given)
            return weir_error_set(err, -EINVAL, "'%s' is a node: %s is for the path of a file", target->given,
                                  target->create ? "--create" : "--format");
        target->node = weir_strdup(target->given);
        return 0;
    }
    ret = absolute_path(ctl, target->given, &target->path, err);
    if (ret)
        return ret;
    target->node = name_of_path(target->path, nodes);
    ret = target->create ? create(ctl, target, size, err) : 0;
    if (ret)
        return ret;
    ret = ctl_call(ctl, "blockdev-add", node_definition(target), NULL, err);
    if (ret) {
        weir_error_prefix(err, "add a node for '%s': ", target->path);
        if (!target->create)
            weir_error_hint(err,
                            "TARGET is the name of a node, or the path of a file; --create makes the file.");
        return ret;
    }
    target->added = true;
    printf("node '%s' (%s) for '%s'\n", target->node, target->format, target->path);
    return 0;
}

weir_co_fn void ctl_target_undo(struct ctl *ctl, struct ctl_target *target)
{
    int64_t deadline = weir_sys->clock_ns() + UNDO_LIMIT_NS;

    while (target->added && !ctl_is_closed(ctl)) {
        WEIR_AUTO_ERROR err = NULL;

        if (!delete_node(ctl, target->node, &err)) {
            ctl_complain(ctl, "the node '%s' was removed again", target->node);
            return;
        }
        if (weir_sys->clock_ns() > deadline) {
            ctl_complain(ctl, "the node '%s' stays: %s", target->node, weir_error_text(err));
            return;
        }
        weir_co_sleep(UNDO_STEP_NS);
    }
}

void ctl_target_free(struct ctl_target *target)
{
    free(target->path);
    free(target->node);
}

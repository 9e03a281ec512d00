/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blkdebug: a filter that fails, delays or holds requests on demand, and can ask for other limits than its child has.
 *
 * Each request raises the events of its kind; formats and the core above raise more of them (graph/event.h). Events act
 * on the rules (blkdebug_rules.c), which fail requests, and on breakpoints (blkdebug_break.c), which hold whoever
 * raises them. An error with `immediately` is given back before the request is held or goes anywhere.
 *
 * Requests of guests raise read_aio, write_aio and flush_to_os; those for tables of a format do not.
 */
#include "filter/blkdebug_internal.h"

#include "base/alloc.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include "io/node_io.h"
#include "sys/sys.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define ALIGN_MAX (1u << 27)
#define EVENT_BIT(name) WEIR_EVENT_BIT(WEIR_EVENT_##name)

extern const struct weir_driver weir_driver_blkdebug;

struct blkdebug_state {
    struct weir_edge *image;
    uint64_t align, transfer_max;        /* 0: as the child */
    uint64_t zero_align, zero_max;       /* 0: as the child */
    uint64_t discard_align, discard_max; /* 0: as the child */
    unsigned take_perms, unshare_perms;  /* enum weir_perm */
    struct weir_mutex mutex;             /* rules and breakpoints */
    struct blkdebug_rules rules;
    struct blkdebug_breaks breaks;
    struct weir_co_queue delayed; /* requests that wait for their delay; a drain wakes them */
    unsigned draining;
};

/* Events that requests raise on their way to the child, by operation; "done" ones come after it. */
static const uint64_t events_before[WEIR_OP_COUNT] = {
    [WEIR_OP_READ] = EVENT_BIT(READ_AIO),
    [WEIR_OP_WRITE] = EVENT_BIT(WRITE_AIO) | EVENT_BIT(PWRITEV),
    [WEIR_OP_ZERO] = EVENT_BIT(PWRITEV_ZERO),
    [WEIR_OP_FLUSH] = EVENT_BIT(FLUSH_TO_OS) | EVENT_BIT(FLUSH_TO_DISK),
};
static const uint64_t events_after[WEIR_OP_COUNT] = {
    [WEIR_OP_WRITE] = EVENT_BIT(PWRITEV_DONE),
    [WEIR_OP_ZERO] = EVENT_BIT(PWRITEV_DONE),
};
/* Those of them that only a guest's requests raise. */
#define GUEST_EVENTS (EVENT_BIT(READ_AIO) | EVENT_BIT(WRITE_AIO) | EVENT_BIT(FLUSH_TO_OS))

struct blkdebug_breaks *blkdebug_breaks_of(struct weir_node *node, struct weir_mutex **ret_mutex)
{
    struct blkdebug_state *debug = weir_node_state(node);

    if (node->driver != &weir_driver_blkdebug)
        return NULL;
    *ret_mutex = &debug->mutex;
    return &debug->breaks;
}

/* ---- drain and end ---- */

static void blkdebug_drain_begin(struct weir_node *node)
{
    struct blkdebug_state *debug = weir_node_state(node);

    WEIR_SCOPE_LOCK(&debug->mutex);
    debug->draining++;
    weir_co_queue_wake_all(&debug->delayed);
}

static void blkdebug_drain_end(struct weir_node *node)
{
    struct blkdebug_state *debug = weir_node_state(node);

    WEIR_SCOPE_LOCK(&debug->mutex);
    debug->draining--;
}

static void blkdebug_let_go(struct weir_node *node)
{
    struct blkdebug_state *debug = weir_node_state(node);

    WEIR_SCOPE_LOCK(&debug->mutex);
    blkdebug_breaks_let_go(&debug->breaks);
    weir_co_queue_wake_all(&debug->delayed);
}

/* ---- options ---- */

static void free_state(struct blkdebug_state *debug)
{
    blkdebug_breaks_done(&debug->breaks);
    blkdebug_rules_done(&debug->rules);
    weir_mutex_done(&debug->mutex);
}

/* A size that is 0 (as the child), or a multiple of @unit below 2 GiB; a power of two where @power. */
static int take_size(const char *name, bool has, uint64_t value, uint64_t unit, bool power,
                     uint64_t *ret_size, struct weir_error **err)
{
    if (!has || !value)
        return 0;
    if (value >= INT32_MAX || value % unit || (power && !weir_is_power_of_2(value)))
        return weir_error_set(err, -EINVAL, "Cannot meet constraints with %s %" PRIu64, name, value);
    *ret_size = value;
    return 0;
}

static int take_sizes(struct blkdebug_state *debug, const struct weir_opts_blkdebug *opts,
                      struct weir_error **err)
{
    uint64_t unit;
    int ret = take_size("align", opts->has_align, opts->align, 1, true, &debug->align, err);

    if (!ret && debug->align > ALIGN_MAX)
        ret = weir_error_set(err, -EINVAL, "Cannot meet constraints with align %" PRIu64, debug->align);
    unit = WEIR_MAX(debug->align, (uint64_t)1);
    if (!ret)
        ret = take_size("max-transfer", opts->has_max_transfer, opts->max_transfer, unit, false,
                        &debug->transfer_max, err);
    if (!ret)
        ret = take_size("opt-write-zero", opts->has_opt_write_zero, opts->opt_write_zero, unit, true,
                        &debug->zero_align, err);
    if (!ret)
        ret = take_size("max-write-zero", opts->has_max_write_zero, opts->max_write_zero,
                        WEIR_MAX(unit, debug->zero_align), false, &debug->zero_max, err);
    if (!ret)
        ret = take_size("opt-discard", opts->has_opt_discard, opts->opt_discard, unit, true,
                        &debug->discard_align, err);
    if (!ret)
        ret = take_size("max-discard", opts->has_max_discard, opts->max_discard,
                        WEIR_MAX(unit, debug->discard_align), false, &debug->discard_max, err);
    return ret;
}

static unsigned perm_of(enum weir_q_block_permission permission)
{
    const char *name = weir_schema_enum_name(&weir_schema_block_permission, (int)permission);
    unsigned bit = 0;

    while (strcmp(weir_perm_name(bit), name) != 0)
        bit++;
    return 1u << bit;
}

static void take_perms(struct blkdebug_state *debug, const struct weir_opts_blkdebug *opts)
{
    for (size_t i = 0; opts->has_take_child_perms && i < opts->take_child_perms.count; i++)
        debug->take_perms |= perm_of(opts->take_child_perms.items[i]);
    for (size_t i = 0; opts->has_unshare_child_perms && i < opts->unshare_child_perms.count; i++)
        debug->unshare_perms |= perm_of(opts->unshare_child_perms.items[i]);
}

/* The file first, as in QEMU: where two rules match, the first one counts. */
static weir_co_fn int take_rules(struct blkdebug_state *debug, const struct weir_opts_blkdebug *opts,
                                 struct weir_error **err)
{
    int ret = opts->has_config ? blkdebug_config_read(opts->config, &debug->rules, err) : 0;

    for (size_t i = 0; !ret && opts->has_inject_error && i < opts->inject_error.count; i++)
        ret = blkdebug_rules_inject(&debug->rules, &opts->inject_error.items[i], err);
    for (size_t i = 0; !ret && opts->has_set_state && i < opts->set_state.count; i++)
        blkdebug_rules_set_state(&debug->rules, &opts->set_state.items[i]);
    return ret;
}

/* ---- life ---- */

static weir_co_fn int blkdebug_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_blkdebug *opts = options;
    struct blkdebug_state *debug = weir_node_state(node);
    int ret;

    blkdebug_rules_init(&debug->rules);
    blkdebug_breaks_init(&debug->breaks);
    weir_co_queue_init(&debug->delayed);
    weir_mutex_init(&debug->mutex);
    take_perms(debug, opts); /* asked for as soon as there is a child */
    ret = take_sizes(debug, opts, err);
    if (!ret)
        ret = take_rules(debug, opts, err);
    if (!ret)
        ret = weir_node_open_child(node, opts->image, "image", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                                   &debug->image, err);
    if (ret < 0) {
        free_state(debug);
        return ret;
    }
    blkdebug_rules_event(&debug->rules, WEIR_EVENT_NONE);
    weir_node_set_size(node, weir_node_size(debug->image->node));
    atomic_fetch_add(&weir_event_listeners, 1);
    return 0;
}

static void blkdebug_close(struct weir_node *node)
{
    atomic_fetch_sub(&weir_event_listeners, 1);
    free_state(weir_node_state(node));
}

static void blkdebug_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct blkdebug_state *debug = weir_node_state(node);

    limits->request_align = WEIR_MAX(limits->request_align, (uint32_t)debug->align);
    if (debug->transfer_max && (!limits->transfer_max || debug->transfer_max < limits->transfer_max))
        limits->transfer_max = debug->transfer_max;
    if (debug->zero_align)
        limits->zero_align = debug->zero_align;
    if (debug->zero_max)
        limits->zero_max = debug->zero_max;
    if (debug->discard_align)
        limits->discard_align = debug->discard_align;
    if (debug->discard_max)
        limits->discard_max = debug->discard_max;
    /* Durable writes come by as writes and flushes, so that rules can fail the one or the other. */
    limits->write_flags &= ~(unsigned)WEIR_REQUEST_FUA;
    limits->zero_flags &= ~(unsigned)WEIR_REQUEST_FUA;
    limits->apart = true; /* an error is for one request */
}

static void blkdebug_child_perm(struct weir_node *node, const struct weir_edge *edge, unsigned perm,
                                unsigned shared, unsigned *ret_perm, unsigned *ret_shared)
{
    const struct blkdebug_state *debug = weir_node_state(node);

    weir_perm_default(node, edge, perm, shared, ret_perm, ret_shared);
    *ret_perm |= debug->take_perms;
    *ret_shared &= ~debug->unshare_perms;
}

/* Every request, as a breakpoint may come at any time; the question where data is only for a rule that fails it. */
static unsigned blkdebug_cares(struct weir_node *node)
{
    const struct blkdebug_state *debug = weir_node_state(node);
    unsigned ops = WEIR_OP_BIT(WEIR_OP_COUNT) - 1;

    if (!blkdebug_rules_want(&debug->rules, WEIR_OP_STATUS))
        ops &= ~(unsigned)WEIR_OP_BIT(WEIR_OP_STATUS);
    return ops;
}

/* ---- events ---- */

static weir_co_fn void blkdebug_event(struct weir_node *node, unsigned event)
{
    struct blkdebug_state *debug = weir_node_state(node);

    weir_mutex_lock(&debug->mutex);
    blkdebug_rules_event(&debug->rules, (enum weir_event)event);
    blkdebug_breaks_hold(&debug->breaks, (enum weir_event)event, &debug->mutex);
    weir_mutex_unlock(&debug->mutex);
}

/* Mutex held. */
static void act_on_rules(struct blkdebug_state *debug, uint64_t events)
{
    for (unsigned event = 0; events && event < WEIR_EVENT_COUNT; event++) {
        if (events & WEIR_EVENT_BIT(event))
            blkdebug_rules_event(&debug->rules, (enum weir_event)event);
    }
}

/* Mutex held. */
static weir_co_fn void hold(struct blkdebug_state *debug, uint64_t events)
{
    for (unsigned event = 0; events && event < WEIR_EVENT_COUNT; event++) {
        if (events & WEIR_EVENT_BIT(event))
            blkdebug_breaks_hold(&debug->breaks, (enum weir_event)event, &debug->mutex);
    }
}

/* ---- requests ---- */

/* Mutex held; gives back what a rule says, after its delay. */
static weir_co_fn int inject(struct blkdebug_state *debug, const struct weir_request *request,
                             bool immediately)
{
    const struct blkdebug_rule *rule = blkdebug_rules_match(&debug->rules, request, immediately);
    int64_t deadline;
    int error, ret = 0;

    if (!rule)
        return 0;
    error = rule->error;
    if (!rule->delay_ns)
        return error;
    deadline = weir_sys->clock_ns() + rule->delay_ns;
    while (!debug->draining && !debug->breaks.over && !ret)
        ret = weir_co_queue_wait_until(&debug->delayed, &debug->mutex, deadline);
    return error;
}

static weir_co_fn int forward(struct blkdebug_state *debug, struct weir_request *request)
{
    if (request->op == WEIR_OP_STATUS)
        return weir_io_status(debug->image, request->offset, request->length, request->flags,
                              request->status);
    /* The alignment of this node, or of one above, may have made a read longer than the image is. */
    if (request->op == WEIR_OP_READ && request->offset + request->length > weir_node_size(debug->image->node))
        return weir_io_read_short(debug->image, request->offset, request->length, request->iov,
                                  request->iovcnt, request->flags);
    return weir_io(debug->image, request);
}

static weir_co_fn int blkdebug_submit(struct weir_node *node, struct weir_request *request)
{
    struct blkdebug_state *debug = weir_node_state(node);
    uint64_t events = events_before[request->op];
    int ret;

    if (request->flags & WEIR_REQUEST_METADATA)
        events &= ~GUEST_EVENTS;
    weir_mutex_lock(&debug->mutex);
    act_on_rules(debug, events);
    ret = inject(debug, request, true);
    if (!ret) {
        hold(debug, events);
        ret = inject(debug, request, false);
    }
    weir_mutex_unlock(&debug->mutex);
    if (ret)
        return ret;
    ret = forward(debug, request);
    if (events_after[request->op]) {
        weir_mutex_lock(&debug->mutex);
        act_on_rules(debug, events_after[request->op]);
        hold(debug, events_after[request->op]);
        weir_mutex_unlock(&debug->mutex);
    }
    return ret;
}

/* No option of its own may change. */
static const struct weir_reopen_ops blkdebug_reopen = { 0 };

const struct weir_driver weir_driver_blkdebug = {
    .name = "blkdebug",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct blkdebug_state),
    .options = &weir_schema_opts_blkdebug,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .limits = blkdebug_limits,
    .child_perm = blkdebug_child_perm,
    .cares = blkdebug_cares,
    .submit = blkdebug_submit,
    .drain_begin = blkdebug_drain_begin,
    .drain_end = blkdebug_drain_end,
    .let_go = blkdebug_let_go,
    .event = blkdebug_event,
    .reopen = &blkdebug_reopen,
};

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * blkdebug: a filter that fails or holds requests on demand, and can ask for larger alignment than its child.
 *
 * Errors: each request raises the events of its kind. The first event of a rule *arms* it; from then on the
 * rule fails every request that it matches (kind, sector), or the first one (`once`). Event "none" means
 * armed from the start. An error with `immediately` is given back before the request is held or goes
 * anywhere.
 *
 * Holding: weir_blkdebug_suspend() sets a trap for the next request of a kind.
 *
 * Only kinds of requests that a rule can match, arm, or a trap was ever set for pass through submit(); with
 * `align` all that carry a range do, as alignment is applied where a request is submitted.
 */
#include "filter/blkdebug.h"

#include "base/alloc.h"
#include "co/co.h"
#include "gen/schema.h"
#include "graph/graph.h"
#include "io/io.h"
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define SECTOR 512u
#define ALIGN_MAX (1u << 27)
#define ANY_SECTOR UINT64_MAX
#define RANGED                                                                            \
    (WEIR_OP_BIT(WEIR_OP_READ) | WEIR_OP_BIT(WEIR_OP_WRITE) | WEIR_OP_BIT(WEIR_OP_ZERO) | \
     WEIR_OP_BIT(WEIR_OP_DISCARD))
#define EVENT_BIT(name) (1u << WEIR_Q_BLKDEBUG_EVENT_##name)

extern const struct weir_driver weir_driver_blkdebug;

struct rule {
    enum weir_q_blkdebug_event event;
    unsigned ops; /* WEIR_OP_BIT */
    int error;    /* -errno */
    uint64_t sector;
    bool once, immediately;
    bool armed, spent; /* mutex */
};

struct trap {
    char *tag;
    enum weir_op op;
    bool held;                       /* a request is here */
    bool let_go;                     /* it may leave; it frees the trap */
    struct weir_co_queue held_queue; /* of the request */
    TAILQ_ENTRY(trap) link;
};

struct blkdebug_state {
    struct weir_edge *image;
    uint32_t align;       /* 0: as the child */
    unsigned trapped_ops; /* kinds that a trap was ever set for; control loop */
    struct rule *rules;
    unsigned rule_count;
    struct weir_mutex mutex;      /* rules and traps */
    struct weir_co_queue arrived; /* those who wait for a request to be held */
    unsigned draining;
    TAILQ_HEAD(, trap) traps;
};

/* ---- rules ---- */

/* Events that requests raise on their way to the child, by operation; "done" ones come after it. */
static const unsigned events_before[WEIR_OP_COUNT] = {
    [WEIR_OP_READ] = EVENT_BIT(READ_AIO),
    [WEIR_OP_WRITE] = EVENT_BIT(WRITE_AIO) | EVENT_BIT(PWRITEV),
    [WEIR_OP_ZERO] = EVENT_BIT(PWRITEV_ZERO),
    [WEIR_OP_FLUSH] = EVENT_BIT(FLUSH_TO_OS) | EVENT_BIT(FLUSH_TO_DISK),
};
static const unsigned events_after[WEIR_OP_COUNT] = {
    [WEIR_OP_WRITE] = EVENT_BIT(PWRITEV_DONE),
    [WEIR_OP_ZERO] = EVENT_BIT(PWRITEV_DONE),
};

static unsigned ops_of_iotype(enum weir_q_blkdebug_io_type iotype)
{
    switch (iotype) {
    case WEIR_Q_BLKDEBUG_IO_TYPE_READ:
        return WEIR_OP_BIT(WEIR_OP_READ);
    case WEIR_Q_BLKDEBUG_IO_TYPE_WRITE:
        return WEIR_OP_BIT(WEIR_OP_WRITE);
    case WEIR_Q_BLKDEBUG_IO_TYPE_WRITE_ZEROES:
        return WEIR_OP_BIT(WEIR_OP_ZERO);
    case WEIR_Q_BLKDEBUG_IO_TYPE_DISCARD:
        return WEIR_OP_BIT(WEIR_OP_DISCARD);
    case WEIR_Q_BLKDEBUG_IO_TYPE_FLUSH:
        return WEIR_OP_BIT(WEIR_OP_FLUSH);
    default:
        return WEIR_OP_BIT(WEIR_OP_STATUS);
    }
}

static int add_rule(struct blkdebug_state *debug, const struct weir_q_blkdebug_inject_error_options *opts,
                    struct weir_error **err)
{
    struct rule *rule = &debug->rules[debug->rule_count];

    if (opts->has_errno && (opts->errno_ <= 0 || opts->errno_ > 4095))
        return weir_error_set(err, -EINVAL, "Parameter 'errno' expects a number of an error");
    if (opts->has_sector && (opts->sector < -1 || opts->sector > INT64_MAX / SECTOR))
        return weir_error_set(err, -EINVAL, "Parameter 'sector' expects the number of a sector");
    *rule = (struct rule){
        .event = opts->event,
        .ops = opts->has_iotype ? ops_of_iotype(opts->iotype) : RANGED | WEIR_OP_BIT(WEIR_OP_FLUSH),
        .error = opts->has_errno ? -(int)opts->errno_ : -EIO,
        .sector = opts->has_sector && opts->sector >= 0 ? (uint64_t)opts->sector : ANY_SECTOR,
        .once = opts->has_once && opts->once,
        .immediately = opts->has_immediately && opts->immediately,
        .armed = opts->event == WEIR_Q_BLKDEBUG_EVENT_NONE,
    };
    debug->rule_count++;
    return 0;
}

/* Kinds of requests that can arm the rule or be failed by it. */
static unsigned rule_cares(const struct rule *rule)
{
    unsigned ops = rule->ops;

    for (unsigned op = 0; op < WEIR_OP_COUNT; op++) {
        if ((events_before[op] | events_after[op]) & (1u << rule->event))
            ops |= WEIR_OP_BIT(op);
    }
    return ops;
}

static bool matches(const struct rule *rule, const struct weir_request *request)
{
    uint64_t start = rule->sector * SECTOR;

    if (!rule->armed || rule->spent || !(rule->ops & WEIR_OP_BIT(request->op)))
        return false;
    if (rule->sector == ANY_SECTOR || request->op == WEIR_OP_FLUSH)
        return true;
    return start < request->offset + request->length && request->offset < start + SECTOR;
}

static void arm(struct blkdebug_state *debug, unsigned events)
{
    for (unsigned i = 0; events && i < debug->rule_count; i++)
        debug->rules[i].armed |= (events & (1u << debug->rules[i].event)) != 0;
}

/* The error that the first matching rule gives, or 0. */
static int injected(struct blkdebug_state *debug, const struct weir_request *request, bool immediately)
{
    for (unsigned i = 0; i < debug->rule_count; i++) {
        struct rule *rule = &debug->rules[i];

        if (rule->immediately != immediately || !matches(rule, request))
            continue;
        rule->spent = rule->once;
        return rule->error;
    }
    return 0;
}

/* ---- holding ---- */

static struct trap *find_trap(struct blkdebug_state *debug, const char *tag)
{
    struct trap *trap;

    TAILQ_FOREACH (trap, &debug->traps, link) {
        if (!strcmp(trap->tag, tag) && !trap->let_go)
            return trap;
    }
    return NULL;
}

static void free_trap(struct blkdebug_state *debug, struct trap *trap)
{
    TAILQ_REMOVE(&debug->traps, trap, link);
    free(trap->tag);
    free(trap);
}

/* Mutex held. */
static weir_co_fn void hold(struct blkdebug_state *debug, enum weir_op op)
{
    struct trap *trap;

    if (debug->draining)
        return;
    TAILQ_FOREACH (trap, &debug->traps, link) {
        if (trap->op == op && !trap->held)
            break;
    }
    if (!trap)
        return;
    trap->held = true;
    weir_co_queue_wake_all(&debug->arrived);
    while (!trap->let_go)
        weir_co_queue_wait(&trap->held_queue, &debug->mutex);
    free_trap(debug, trap);
}

static void let_go(struct trap *trap)
{
    trap->let_go = true;
    weir_co_queue_wake_all(&trap->held_queue);
}

/* Makes submit() see requests of this kind. */
static weir_co_fn int trap_op(struct weir_node *node, enum weir_op op, struct weir_error **err)
{
    struct blkdebug_state *debug = weir_node_state(node);
    struct weir_drain drain;
    int ret;

    if (atomic_load(&node->cares) & WEIR_OP_BIT(op)) {
        debug->trapped_ops |= WEIR_OP_BIT(op);
        return 0;
    }
    weir_graph_lock();
    ret = weir_drain_begin(&drain, &node, 1, WEIR_DRAIN_LIMIT_NS, err);
    if (!ret) {
        debug->trapped_ops |= WEIR_OP_BIT(op);
        weir_node_refresh_cares(node);
        weir_drain_end(&drain);
    }
    weir_graph_unlock();
    return ret;
}

int weir_blkdebug_suspend(struct weir_node *node, enum weir_op op, const char *tag, struct weir_error **err)
{
    struct blkdebug_state *debug = weir_node_state(node);
    struct trap *trap;
    int ret;

    WEIR_ASSERT(node->driver == &weir_driver_blkdebug);
    ret = trap_op(node, op, err);
    if (ret < 0)
        return ret;
    WEIR_SCOPE_LOCK(&debug->mutex);
    if (find_trap(debug, tag))
        return weir_error_set(err, -EEXIST, "Breakpoint '%s' exists already", tag);
    trap = weir_new(struct trap);
    trap->tag = weir_strdup(tag);
    trap->op = op;
    weir_co_queue_init(&trap->held_queue);
    TAILQ_INSERT_TAIL(&debug->traps, trap, link);
    return 0;
}

int weir_blkdebug_wait(struct weir_node *node, const char *tag, int64_t deadline_ns)
{
    struct blkdebug_state *debug = weir_node_state(node);
    struct trap *trap;
    int ret = 0;

    WEIR_ASSERT(node->driver == &weir_driver_blkdebug);
    weir_mutex_lock(&debug->mutex);
    while ((trap = find_trap(debug, tag)) && !trap->held && !ret)
        ret = weir_co_queue_wait_until(&debug->arrived, &debug->mutex, deadline_ns);
    if (!trap)
        ret = -ENOENT;
    else if (trap->held)
        ret = 0;
    weir_mutex_unlock(&debug->mutex);
    return ret;
}

int weir_blkdebug_resume(struct weir_node *node, const char *tag)
{
    struct blkdebug_state *debug = weir_node_state(node);
    struct trap *trap;

    WEIR_ASSERT(node->driver == &weir_driver_blkdebug);
    WEIR_SCOPE_LOCK(&debug->mutex);
    trap = find_trap(debug, tag);
    if (!trap)
        return -ENOENT;
    if (trap->held)
        let_go(trap);
    else
        free_trap(debug, trap);
    weir_co_queue_wake_all(&debug->arrived);
    return 0;
}

static void blkdebug_drain_begin(struct weir_node *node)
{
    struct blkdebug_state *debug = weir_node_state(node);
    struct trap *trap;

    WEIR_SCOPE_LOCK(&debug->mutex);
    debug->draining++;
    TAILQ_FOREACH (trap, &debug->traps, link) {
        if (trap->held)
            let_go(trap);
    }
}

static void blkdebug_drain_end(struct weir_node *node)
{
    struct blkdebug_state *debug = weir_node_state(node);

    WEIR_SCOPE_LOCK(&debug->mutex);
    debug->draining--;
}

/* ---- life ---- */

static void free_state(struct blkdebug_state *debug)
{
    struct trap *trap;

    while ((trap = TAILQ_FIRST(&debug->traps)))
        free_trap(debug, trap);
    weir_mutex_done(&debug->mutex);
    free(weir_steal(&debug->rules));
}

static int set_options(struct blkdebug_state *debug, const struct weir_opts_blkdebug *opts,
                       struct weir_error **err)
{
    if (opts->has_align) {
        if (opts->align <= 0 || opts->align > ALIGN_MAX || !weir_is_power_of_2((uint64_t)opts->align))
            return weir_error_set(err, -EINVAL, "Cannot meet constraints with align %" PRId64, opts->align);
        debug->align = (uint32_t)opts->align;
    }
    if (!opts->has_inject_error)
        return 0;
    debug->rules = weir_new_array(struct rule, opts->inject_error.count);
    for (size_t i = 0; i < opts->inject_error.count; i++) {
        int ret = add_rule(debug, &opts->inject_error.items[i], err);

        if (ret < 0)
            return ret;
    }
    return 0;
}

static weir_co_fn int blkdebug_open(struct weir_node *node, const void *options, struct weir_error **err)
{
    const struct weir_opts_blkdebug *opts = options;
    struct blkdebug_state *debug = weir_node_state(node);
    int ret;

    ret = weir_node_open_child(node, opts->image, "image", WEIR_ROLE_FILTERED | WEIR_ROLE_PRIMARY,
                               &debug->image, err);
    if (ret < 0)
        return ret;
    weir_mutex_init(&debug->mutex);
    weir_co_queue_init(&debug->arrived);
    TAILQ_INIT(&debug->traps);
    ret = set_options(debug, opts, err);
    if (ret < 0) {
        free_state(debug);
        return ret;
    }
    weir_node_set_size(node, weir_node_size(debug->image->node));
    return 0;
}

static void blkdebug_close(struct weir_node *node)
{
    free_state(weir_node_state(node));
}

static void blkdebug_limits(struct weir_node *node, struct weir_limits *limits)
{
    const struct blkdebug_state *debug = weir_node_state(node);

    limits->request_align = WEIR_MAX(limits->request_align, debug->align);
    limits->apart = true; /* an error is for one request */
}

static unsigned blkdebug_cares(struct weir_node *node)
{
    const struct blkdebug_state *debug = weir_node_state(node);
    unsigned ops = debug->trapped_ops | (debug->align ? RANGED : 0);

    for (unsigned i = 0; i < debug->rule_count; i++)
        ops |= rule_cares(&debug->rules[i]);
    return ops;
}

/* ---- requests ---- */

static weir_co_fn int forward(struct blkdebug_state *debug, struct weir_request *request)
{
    if (request->op == WEIR_OP_STATUS)
        return weir_io_status(debug->image, request->offset, request->length, 0, request->status);
    return weir_io(debug->image, request);
}

static weir_co_fn int blkdebug_submit(struct weir_node *node, struct weir_request *request)
{
    struct blkdebug_state *debug = weir_node_state(node);
    int ret;

    weir_mutex_lock(&debug->mutex);
    arm(debug, events_before[request->op]);
    ret = injected(debug, request, true);
    if (!ret) {
        hold(debug, request->op);
        ret = injected(debug, request, false);
    }
    weir_mutex_unlock(&debug->mutex);
    if (ret)
        return ret;
    ret = forward(debug, request);
    if (events_after[request->op]) {
        WEIR_SCOPE_LOCK(&debug->mutex);
        arm(debug, events_after[request->op]);
    }
    return ret;
}

const struct weir_driver weir_driver_blkdebug = {
    .name = "blkdebug",
    .flags = WEIR_DRIVER_FILTER,
    .state_size = sizeof(struct blkdebug_state),
    .options = &weir_schema_opts_blkdebug,
    .open = blkdebug_open,
    .close = blkdebug_close,
    .limits = blkdebug_limits,
    .cares = blkdebug_cares,
    .submit = blkdebug_submit,
    .drain_begin = blkdebug_drain_begin,
    .drain_end = blkdebug_drain_end,
};

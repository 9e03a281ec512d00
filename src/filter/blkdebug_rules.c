/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Rules of blkdebug, and the state that they depend on and change.
 *
 * An event arms the rules that are for it in the present state, and an armed rule stays so: it fails every request that
 * it matches (kind, sector), or the first one (`once`). Then the state changes, so that a rule for the new state waits
 * for the next event. "none" happens once, when the node is opened.
 */
#include "base/alloc.h"
#include "filter/blkdebug_internal.h"
#include "gen/schema.h"
#include <inttypes.h>

#define SECTOR 512u
#define ANY_SECTOR UINT64_MAX
#define ALL_OPS (WEIR_OP_BIT(WEIR_OP_COUNT) - 1)

void blkdebug_rules_init(struct blkdebug_rules *rules)
{
    *rules = (struct blkdebug_rules){ .state = 1 };
}

void blkdebug_rules_done(struct blkdebug_rules *rules)
{
    free(weir_steal(&rules->list));
}

static struct blkdebug_rule *append(struct blkdebug_rules *rules, enum weir_q_blkdebug_event event,
                                    int64_t state)
{
    struct blkdebug_rule *rule;

    rules->list = weir_realloc(rules->list, (rules->count + 1) * sizeof(*rules->list));
    rule = &rules->list[rules->count++];
    *rule = (struct blkdebug_rule){
        .event = weir_event_find(weir_schema_enum_name(&weir_schema_blkdebug_event, (int)event)),
        .state = state,
    };
    WEIR_ASSERT(rule->event != WEIR_EVENT_COUNT); /* the schema knows no other events than graph/event.h */
    return rule;
}

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

int blkdebug_rules_inject(struct blkdebug_rules *rules,
                          const struct weir_q_blkdebug_inject_error_options *opts, struct weir_error **err)
{
    struct blkdebug_rule *rule;

    if (opts->has_errno && (opts->errno_ < 0 || opts->errno_ > 4095))
        return weir_error_set(err, -EINVAL, "Parameter 'errno' expects a number of an error");
    if (opts->has_sector && (opts->sector < -1 || opts->sector > INT64_MAX / SECTOR))
        return weir_error_set(err, -EINVAL, "Parameter 'sector' expects the number of a sector");
    if (opts->has_delay_ns && opts->delay_ns > INT64_MAX / 2)
        return weir_error_set(err, -EINVAL, "Parameter 'delay-ns' is out of range");
    rule = append(rules, opts->event, opts->has_state ? opts->state : 0);
    rule->ops =
        opts->has_iotype ? ops_of_iotype(opts->iotype) : ALL_OPS & ~(unsigned)WEIR_OP_BIT(WEIR_OP_STATUS);
    rule->error = opts->has_errno ? -(int)opts->errno_ : -EIO;
    rule->sector = opts->has_sector && opts->sector >= 0 ? (uint64_t)opts->sector : ANY_SECTOR;
    rule->once = opts->has_once && opts->once;
    rule->immediately = opts->has_immediately && opts->immediately;
    rule->delay_ns = opts->has_delay_ns ? (int64_t)opts->delay_ns : 0;
    return 0;
}

void blkdebug_rules_set_state(struct blkdebug_rules *rules,
                              const struct weir_q_blkdebug_set_state_options *opts)
{
    struct blkdebug_rule *rule = append(rules, opts->event, opts->has_state ? opts->state : 0);

    rule->sets_state = true;
    rule->new_state = opts->new_state;
}

void blkdebug_rules_event(struct blkdebug_rules *rules, enum weir_event event)
{
    int64_t next = rules->state;

    for (unsigned i = 0; i < rules->count; i++) {
        struct blkdebug_rule *rule = &rules->list[i];

        if (rule->event != event || (rule->state && rule->state != rules->state))
            continue;
        if (rule->sets_state)
            next = rule->new_state;
        else
            rule->armed = true;
    }
    rules->state = next;
}

static bool matches(const struct blkdebug_rule *rule, const struct weir_request *request)
{
    uint64_t start = rule->sector * SECTOR;

    if (!rule->armed || rule->spent || !(rule->ops & WEIR_OP_BIT(request->op)))
        return false;
    if (rule->sector == ANY_SECTOR || request->op == WEIR_OP_FLUSH)
        return true;
    return start < request->offset + request->length && request->offset < start + SECTOR;
}

const struct blkdebug_rule *blkdebug_rules_match(struct blkdebug_rules *rules,
                                                 const struct weir_request *request, bool immediately)
{
    for (unsigned i = 0; i < rules->count; i++) {
        struct blkdebug_rule *rule = &rules->list[i];

        if (rule->immediately != immediately || !matches(rule, request))
            continue;
        rule->spent = rule->once;
        return rule;
    }
    return NULL;
}

bool blkdebug_rules_want(const struct blkdebug_rules *rules, enum weir_op op)
{
    for (unsigned i = 0; i < rules->count; i++) {
        if (rules->list[i].ops & WEIR_OP_BIT(op))
            return true;
    }
    return false;
}

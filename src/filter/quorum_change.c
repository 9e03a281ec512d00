/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quorum: what goes to all children: writes, zeroes, discards, flushes.
 */
#include "filter/quorum.h"

#include "io/stable.h"
#include "graph/graph.h"
#include "io/range_lock.h"

#define AT_ONCE (WEIR_REQUEST_MAY_UNMAP | WEIR_REQUEST_NO_FALLBACK)

static unsigned succeeded(const struct quorum_fan *fan)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fan->count; i++)
        count += fan->answers[i].done && !fan->answers[i].result;
    return count;
}

static bool enough_took_it(struct quorum_fan *fan)
{
    return succeeded(fan) >= fan->quorum->threshold;
}

static int first_error(const struct quorum_fan *fan)
{
    for (unsigned i = 0; i < fan->count; i++) {
        if (fan->answers[i].result)
            return fan->answers[i].result == -ETIMEDOUT ? -EIO : fan->answers[i].result;
    }
    return -EIO;
}

/* Reports who failed, and returns what the guest gets. */
static int judge(struct quorum_fan *fan, const struct weir_request *request)
{
    for (unsigned i = 0; i < fan->count; i++) {
        if (fan->answers[i].result)
            quorum_report_child(&fan->answers[i], request, fan->answers[i].result);
    }
    return succeeded(fan) >= fan->quorum->threshold ? 0 : first_error(fan);
}

/* After a change that the guest takes for done: who did it, and who did not. */
static void note_missed(struct quorum_fan *fan, const struct weir_request *request)
{
    for (unsigned i = 0; i < fan->count; i++) {
        struct quorum_answer *answer = &fan->answers[i];

        if (answer->result)
            quorum_missed(fan->quorum, answer->child, request->offset, request->length);
        else
            quorum_caught_up(fan->quorum, answer->child, request->offset, request->length);
    }
}

/*
 * Zeroes that must not be slow: where some children can and others cannot, those are made to, however long it takes.
 * What differs between children is worse. Returns whether none of them could.
 */
static weir_co_fn bool none_could(struct quorum_fan *fan)
{
    unsigned refused = 0;

    for (unsigned i = 0; i < fan->count; i++) {
        fan->answers[i].wanted = fan->answers[i].result == -ENOTSUP;
        refused += fan->answers[i].wanted;
        fan->answers[i].request.flags &= ~(unsigned)WEIR_REQUEST_NO_FALLBACK;
    }
    if (refused == fan->count)
        return true;
    if (refused)
        quorum_fan_ask(fan);
    return false;
}

/* The range is held exclusively, data stays as it is. */
static weir_co_fn int change_all(struct quorum *quorum, const struct weir_request *request)
{
    struct quorum_fan *fan = quorum_fan_new(quorum, request, enough_took_it);
    int ret;

    quorum_fan_ask(fan);
    if ((request->flags & WEIR_REQUEST_NO_FALLBACK) && none_could(fan)) {
        ret = -ENOTSUP;
    } else {
        ret = judge(fan, request);
        if (ret)
            quorum_report_failure(quorum, request);
        else
            note_missed(fan, request);
    }
    quorum_fan_free(fan);
    return ret;
}

/* One copy for all children, where the guest's memory may change or go before the last of them is done. */
static weir_co_fn int write_stable(struct quorum *quorum, const struct weir_request *request)
{
    struct weir_stable stable;
    int ret = weir_stable_init(&stable, request, true);

    if (!ret)
        ret = change_all(quorum, &stable.request);
    weir_stable_done(&stable);
    return ret;
}

/* A discard as zeroes; -ENOTSUP where not every child can give up space at once. */
static weir_co_fn int discard(struct quorum *quorum, const struct weir_request *request)
{
    struct weir_request zero = *request;

    for (unsigned i = 0; i < quorum->count; i++) {
        const struct weir_node *node = quorum->children[i].edge->node;

        if (!node->discard_unmap || (node->limits.zero_flags & AT_ONCE) != AT_ONCE)
            return -ENOTSUP;
    }
    zero.op = WEIR_OP_ZERO;
    zero.flags = AT_ONCE;
    return change_all(quorum, &zero);
}

int quorum_change(struct quorum *quorum, struct weir_request *request)
{
    struct weir_range_lock lock = { 0 };
    int ret;

    weir_range_lock(quorum->ranges, &lock, request->offset, request->length, true);
    if (request->op == WEIR_OP_WRITE)
        ret = write_stable(quorum, request);
    else if (request->op == WEIR_OP_DISCARD)
        ret = discard(quorum, request);
    else
        ret = change_all(quorum, request);
    weir_range_unlock(&lock);
    return ret;
}

int quorum_flush(struct quorum *quorum, struct weir_request *request)
{
    struct quorum_fan *fan = quorum_fan_new(quorum, request, enough_took_it);
    int ret;

    quorum_fan_ask(fan);
    ret = judge(fan, request);
    quorum_fan_free(fan);
    return ret;
}

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * quorum: reads, by vote or in order, and block status.
 */
#include "filter/quorum.h"

#include "base/alloc.h"
#include "base/iov.h"
#include "graph/graph.h"
#include "io/range_lock.h"
#include "io/io.h"
#include "io/slice.h"
#include <string.h>

#define NO_VERSION UINT32_MAX
/* Children that are damaged at different places: what no version of a long read wins, parts of it may. */
#define VOTE_UNIT 4096u

enum vote_again {
    VOTE_EXCLUSIVELY = 1, /* the range must be held so, to rewrite */
    VOTE_IN_UNITS = 2,
};

/* ---- voting ---- */

/* Whether the answer has data to vote with. */
static bool has_data(const struct quorum_answer *answer)
{
    return answer->done && !answer->result;
}

/* Gives each answer the number of the first one that holds the same. */
static void compare(struct quorum_fan *fan)
{
    for (unsigned i = 0; i < fan->count; i++) {
        struct quorum_answer *answer = &fan->answers[i];

        answer->version = NO_VERSION;
        for (unsigned j = 0; j <= i && has_data(answer) && answer->version == NO_VERSION; j++) {
            const struct quorum_answer *first = &fan->answers[j];

            if (has_data(first) &&
                (i == j || (first->version == j &&
                            !memcmp(answer->buffer->data, first->buffer->data, answer->request.length))))
                answer->version = j;
        }
    }
}

/* Votes, and among as many those of children that have missed nothing here. */
static unsigned weight(struct quorum_fan *fan, unsigned version, unsigned *ret_votes)
{
    unsigned votes = 0, sure = 0;

    for (unsigned i = 0; i < fan->count; i++) {
        const struct quorum_answer *answer = &fan->answers[i];

        if (answer->version != version)
            continue;
        votes++;
        sure +=
            !quorum_has_missed(fan->quorum, answer->child, answer->request.offset, answer->request.length);
    }
    *ret_votes = votes;
    return votes * (QUORUM_CHILDREN_MAX + 1) + sure;
}

/* The version that wins, or NO_VERSION where none has enough votes. */
static unsigned winner(struct quorum_fan *fan)
{
    unsigned best = NO_VERSION, most = 0, votes, best_votes = 0;

    compare(fan);
    for (unsigned i = 0; i < fan->count; i++) {
        unsigned this = fan->answers[i].version == i ? weight(fan, i, &votes) : 0;

        if (this > most) {
            most = this;
            best = i;
            best_votes = votes;
        }
    }
    return best_votes >= fan->quorum->threshold ? best : NO_VERSION;
}

static bool enough_votes(struct quorum_fan *fan)
{
    return winner(fan) != NO_VERSION;
}

/* Every child reads into memory of its own, which is lent: it may answer long after the guest was. */
static int give_buffers(struct quorum_fan *fan, const struct weir_request *request)
{
    for (unsigned i = 0; i < fan->count; i++) {
        struct quorum_answer *answer = &fan->answers[i];

        answer->buffer = weir_buffer_new(request->length);
        if (!answer->buffer)
            return -ENOMEM;
        answer->iov = (struct iovec){ answer->buffer->data, request->length };
        answer->request.iov = &answer->iov;
        answer->request.iovcnt = 1;
        answer->request.buffer = answer->buffer;
    }
    return 0;
}

static void report_minority(struct quorum_fan *fan, const struct weir_request *request, unsigned version)
{
    for (unsigned i = 0; i < fan->count; i++) {
        const struct quorum_answer *answer = &fan->answers[i];

        if (answer->result)
            quorum_report_child(answer, request, answer->result);
        else if (version != NO_VERSION && answer->version != version)
            quorum_report_child(answer, request, 0);
    }
}

/* Two children that must hold the same: where they do not, neither is right. */
static int verify(struct quorum_fan *fan, const struct weir_request *request)
{
    const char *a = fan->answers[0].buffer->data, *b = fan->answers[1].buffer->data;
    struct weir_dissent dissent = {
        .kind = WEIR_DISSENT_MISMATCH,
        .node = fan->quorum->node,
        .op = WEIR_OP_READ,
        .offset = request->offset,
        .length = request->length,
    };
    uint64_t at = 0;

    if (fan->answers[0].result || fan->answers[1].result || fan->answers[1].version == 0)
        return 0;
    while (a[at] == b[at])
        at++;
    dissent.at = (int64_t)(request->offset + at);
    weir_node_dissent(&dissent);
    return -EIO;
}

/* Whether somebody was outvoted. */
static bool dissent(const struct quorum_fan *fan, unsigned version)
{
    for (unsigned i = 0; i < fan->count; i++) {
        if (!fan->answers[i].result && fan->answers[i].version != version)
            return true;
    }
    return false;
}

/* Writes the winner to those that hold something else; the range is held exclusively. Who fails is reported. */
static weir_co_fn void rewrite(struct quorum_fan *fan, const struct weir_request *request, unsigned version)
{
    const struct quorum_answer *right = &fan->answers[version];
    struct weir_request write = right->request;

    write.op = WEIR_OP_WRITE;
    write.flags = 0; /* for the child it is a change, though readers of the quorum do not see it */
    for (unsigned i = 0; i < fan->count; i++) {
        struct quorum_answer *answer = &fan->answers[i];

        if (answer->result || answer->version == version)
            continue;
        answer->request = write;
        if (quorum_fan_ask_one(fan, i, true))
            quorum_report_child(answer, &write, answer->result);
        else
            quorum_caught_up(fan->quorum, answer->child, request->offset, request->length);
    }
}

/* Whether enough have answered for a winner, if they only held the same. */
static bool enough_data(const struct quorum_fan *fan)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fan->count; i++)
        count += has_data(&fan->answers[i]);
    return count >= fan->quorum->threshold;
}

/* With the range held. 0, -errno, or enum vote_again and nothing was reported. */
static weir_co_fn int vote(struct quorum *quorum, struct weir_request *request, bool exclusive)
{
    struct quorum_fan *fan = quorum_fan_new(quorum, request, enough_votes);
    unsigned version = NO_VERSION;
    int ret = give_buffers(fan, request);

    if (!ret) {
        quorum_fan_ask(fan);
        version = winner(fan);
        ret = quorum->blkverify ? verify(fan, request) : 0;
    }
    if (!ret && version != NO_VERSION && quorum->rewrite && !exclusive && dissent(fan, version)) {
        ret = VOTE_EXCLUSIVELY;
    } else if (!ret && version == NO_VERSION && request->length > VOTE_UNIT && enough_data(fan)) {
        ret = VOTE_IN_UNITS;
    } else if (!ret) {
        report_minority(fan, request, version);
        ret = version == NO_VERSION ? -EIO : 0;
        if (ret)
            quorum_report_failure(quorum, request);
        else
            weir_iov_from_buffer(request->iov, request->iovcnt, 0, fan->answers[version].buffer->data,
                                 request->length);
        if (!ret && quorum->rewrite && dissent(fan, version))
            rewrite(fan, request, version);
    }
    quorum_fan_free(fan);
    return ret;
}

static weir_co_fn int vote_in_units(struct quorum *quorum, const struct weir_request *request, bool exclusive)
{
    int ret = 0;

    for (uint64_t done = 0, length; done < request->length && !ret; done += length) {
        struct weir_request unit = *request;
        struct weir_slice slice;

        length = WEIR_MIN(request->length - done, VOTE_UNIT);
        weir_slice_init(&slice, request->iov, request->iovcnt, done, length);
        unit.offset += done;
        unit.length = length;
        unit.iov = slice.iov;
        unit.iovcnt = slice.count;
        ret = vote(quorum, &unit, exclusive);
        weir_slice_done(&slice);
    }
    return ret;
}

static weir_co_fn int read_by_vote(struct quorum *quorum, struct weir_request *request)
{
    struct weir_range_lock lock = { 0 };
    bool exclusive = false;
    int ret;

    do {
        weir_range_lock(quorum->ranges, &lock, request->offset, request->length, exclusive);
        ret = vote(quorum, request, exclusive);
        if (ret == VOTE_IN_UNITS)
            ret = vote_in_units(quorum, request, exclusive);
        weir_range_unlock(&lock);
        exclusive = true;
    } while (ret == VOTE_EXCLUSIVELY);
    return ret;
}

/* ---- in order ---- */

static weir_co_fn int read_in_order(struct quorum *quorum, struct weir_request *request)
{
    struct quorum_fan *fan = quorum_fan_new(quorum, request, NULL);
    bool asked = false;
    int ret = -EIO;

    for (unsigned i = 0, next; i < fan->count; i = next) {
        bool missed = quorum_has_missed(quorum, fan->answers[i].child, request->offset, request->length);

        for (next = i + 1; next < fan->count; next++) {
            if (!quorum_has_missed(quorum, fan->answers[next].child, request->offset, request->length))
                break;
        }
        if (missed)
            continue;
        asked = true;
        fan->answers[i].request.buffer = NULL; /* too late an answer must not reach the guest's memory */
        ret = quorum_fan_ask_one(fan, i, next < fan->count);
        if (!ret)
            break;
        quorum_report_child(&fan->answers[i], request, ret);
    }
    if (!asked)
        quorum_report_failure(quorum, request);
    quorum_fan_free(fan);
    return ret;
}

int quorum_read(struct quorum *quorum, struct weir_request *request)
{
    struct weir_range_lock lock = { 0 };
    int ret;

    if (!quorum->fifo)
        return read_by_vote(quorum, request);
    weir_range_lock(quorum->ranges, &lock, request->offset, request->length, false);
    ret = read_in_order(quorum, request);
    weir_range_unlock(&lock);
    return ret;
}

/* ---- status ---- */

static bool enough_statuses(struct quorum_fan *fan)
{
    unsigned count = 0;

    for (unsigned i = 0; i < fan->count; i++)
        count += has_data(&fan->answers[i]);
    return count >= fan->quorum->threshold;
}

/* Zero is what all say; whoever knows nothing of it says data. */
int quorum_status(struct quorum *quorum, struct weir_request *request)
{
    struct quorum_fan *fan = quorum_fan_new(quorum, request, enough_statuses);
    struct weir_status all = { .length = request->length, .zero = true };
    bool any = false;

    for (unsigned i = 0; i < fan->count; i++)
        fan->answers[i].wanted =
            !quorum_has_missed(quorum, fan->answers[i].child, request->offset, request->length);
    quorum_fan_ask(fan);
    for (unsigned i = 0; i < fan->count; i++) {
        const struct weir_status *one = &fan->answers[i].status;

        if (!fan->answers[i].wanted || fan->answers[i].result)
            continue;
        any = true;
        all.length = WEIR_MIN(all.length, one->length);
        all.zero &= one->zero;
        all.data |= one->data;
        all.allocated |= one->allocated;
    }
    if (!any)
        all = (struct weir_status){ .length = request->length, .data = true, .allocated = true };
    all.data |= !all.zero;
    all.allocated |= all.data;
    *request->status = all;
    quorum_fan_free(fan);
    return 0;
}

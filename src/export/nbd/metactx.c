/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Metadata contexts: LIST_META_CONTEXT and SET_META_CONTEXT. There is one: base:allocation.
 *
 * A query of LIST may be a whole name or "base:" (all of the namespace); no query at all lists everything. A query
 * of SET names one context exactly. SET replaces what an earlier SET has selected, also when it fails.
 */
#include "export/nbd/handshake.h"

#include "base/alloc.h"
#include "export/nbd/proto.h"

static const char context[] = "base:allocation";

static void put_context(struct weir_nbd_handshake *handshake, uint32_t number, uint32_t id)
{
    uint8_t *at = weir_nbd_handshake_reply(handshake, number, NBD_REP_META_CONTEXT, 4 + sizeof(context) - 1);

    weir_nbd_put32(at, id);
    memcpy(at + 4, context, sizeof(context) - 1);
}

/* Whether one of the queries means base:allocation; -EINVAL when the option is malformed. */
static int match_queries(struct weir_nbd_option *option)
{
    bool listing = option->number == NBD_OPT_LIST_META_CONTEXT;
    bool found = false;
    uint32_t count;

    if (!weir_nbd_option_take32(option, &count))
        return -1;
    found = listing && !count;
    for (uint32_t i = 0; i < count; i++) {
        weir_autofree char *query = NULL;

        if (weir_nbd_option_take_string(option, &query) < 0)
            return -1;
        if (!strcmp(query, context) || (listing && !strcmp(query, "base:")))
            found = true;
    }
    return option->length ? -1 : found;
}

void weir_nbd_option_contexts(struct weir_nbd_handshake *handshake, struct weir_nbd_option *option)
{
    bool listing = option->number == NBD_OPT_LIST_META_CONTEXT;
    weir_autofree char *name = NULL;
    struct weir_nbd_info info;
    int found;

    if (!listing) {
        free(weir_steal(&handshake->context_export));
        handshake->base_allocation = false;
    }
    if (!handshake->structured) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_INVALID,
                                  "structured replies must be negotiated first");
        return;
    }
    if (weir_nbd_option_take_string(option, &name) < 0 || (found = match_queries(option)) < 0) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_INVALID, "malformed request");
        return;
    }
    if (handshake->directory->find(handshake->directory_arg, name, false, &info) < 0) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_UNKNOWN, "there is no such export");
        return;
    }
    free(info.description);
    if (found)
        put_context(handshake, option->number, listing ? 0 : WEIR_NBD_BASE_ALLOCATION_ID);
    if (!listing) {
        handshake->context_export = weir_steal(&name);
        handshake->base_allocation = found;
    }
    (void)weir_nbd_handshake_reply(handshake, option->number, NBD_REP_ACK, 0); /* it has no content */
}

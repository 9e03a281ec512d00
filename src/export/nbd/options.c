/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options of the negotiation. Each function answers one; wrong ones are answered with an error and change
 * nothing.
 */
#include "export/nbd/handshake.h"

#include "base/alloc.h"
#include "export/nbd/proto.h"

static void acknowledge(struct weir_nbd_handshake *handshake, uint32_t number)
{
    (void)weir_nbd_handshake_reply(handshake, number, NBD_REP_ACK, 0); /* it has no content */
}

static enum weir_nbd_step end(struct weir_nbd_handshake *handshake, const char *reason)
{
    handshake->reason = reason;
    return WEIR_NBD_STEP_END;
}

static uint16_t transmission_flags(const struct weir_nbd_handshake *handshake,
                                   const struct weir_nbd_info *info)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if (info->read_only)
        flags |= NBD_FLAG_READ_ONLY;
    else
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    if (info->multi_conn)
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    if (handshake->structured)
        flags |= NBD_FLAG_SEND_DF;
    return (uint16_t)flags;
}

/* The client has chosen; what was selected for another export does not count. Takes *info and name over. */
static void enter(struct weir_nbd_handshake *handshake, char *name, const struct weir_nbd_info *info)
{
    if (!handshake->context_export || strcmp(handshake->context_export, name))
        handshake->base_allocation = false;
    handshake->export_name = name;
    handshake->info = *info;
}

/* The oldest way in: no error can be told, and what follows the reply depends on one flag. */
static weir_co_fn enum weir_nbd_step export_name(struct weir_nbd_handshake *handshake,
                                                 struct weir_nbd_option *option)
{
    struct weir_nbd_info info;
    uint8_t *at;
    char *name;

    if (option->length > WEIR_NBD_STRING_MAX || memchr(option->data, 0, option->length))
        return end(handshake, "asked for an export by a wrong name");
    name = weir_alloc(option->length + 1);
    memcpy(name, option->data, option->length);
    if (handshake->directory->find(handshake->directory_arg, name, true, &info) < 0) {
        free(name);
        return end(handshake, "asked for an export that does not exist");
    }
    at = weir_nbd_handshake_put(handshake, handshake->no_zeroes ? 10 : 134);
    weir_nbd_put64(at, info.size);
    weir_nbd_put16(at + 8, transmission_flags(handshake, &info));
    if (!handshake->no_zeroes)
        memset(at + 10, 0, 124);
    enter(handshake, name, &info);
    return WEIR_NBD_STEP_TRANSMISSION;
}

static weir_co_fn void list(struct weir_nbd_handshake *handshake, const struct weir_nbd_option *option)
{
    struct weir_nbd_listing *listings;
    unsigned count;

    if (option->length) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_INVALID, "LIST has no data");
        return;
    }
    count = handshake->directory->list(handshake->directory_arg, &listings);
    for (unsigned i = 0; i < count; i++) {
        size_t name = strlen(listings[i].name);
        size_t description = listings[i].description ? strlen(listings[i].description) : 0;
        uint8_t *at =
            weir_nbd_handshake_reply(handshake, option->number, NBD_REP_SERVER, 4 + name + description);

        weir_nbd_put32(at, (uint32_t)name);
        memcpy(at + 4, listings[i].name, name);
        if (description)
            memcpy(at + 4 + name, listings[i].description, description);
        free(listings[i].name);
        free(listings[i].description);
    }
    free(listings);
    acknowledge(handshake, option->number);
}

static void put_info(struct weir_nbd_handshake *handshake, uint32_t number, uint16_t type, const char *text)
{
    size_t length = strlen(text);
    uint8_t *at = weir_nbd_handshake_reply(handshake, number, NBD_REP_INFO, 2 + length);

    weir_nbd_put16(at, type);
    memcpy(at + 2, text, length);
}

/* What INFO and GO tell: size, flags and block sizes always, texts when asked for. */
static void put_infos(struct weir_nbd_handshake *handshake, const struct weir_nbd_option *asked,
                      const char *name, const struct weir_nbd_info *info)
{
    uint8_t *at = weir_nbd_handshake_reply(handshake, asked->number, NBD_REP_INFO, 12);

    weir_nbd_put16(at, NBD_INFO_EXPORT);
    weir_nbd_put64(at + 2, info->size);
    weir_nbd_put16(at + 10, transmission_flags(handshake, info));
    at = weir_nbd_handshake_reply(handshake, asked->number, NBD_REP_INFO, 14);
    weir_nbd_put16(at, NBD_INFO_BLOCK_SIZE);
    weir_nbd_put32(at + 2, 1);
    weir_nbd_put32(at + 6, info->preferred_size);
    weir_nbd_put32(at + 10, WEIR_NBD_PAYLOAD_MAX);
    for (uint32_t i = 0; i + 2 <= asked->length; i += 2) {
        uint16_t type = weir_nbd_get16(asked->data + i);

        if (type == NBD_INFO_NAME)
            put_info(handshake, asked->number, type, name);
        else if (type == NBD_INFO_DESCRIPTION && info->description)
            put_info(handshake, asked->number, type, info->description);
    }
}

/* INFO and GO: name, then 16 bits count and as many 16-bit numbers of what the client wants to know. */
static weir_co_fn enum weir_nbd_step info_or_go(struct weir_nbd_handshake *handshake,
                                                struct weir_nbd_option *option)
{
    bool go = option->number == NBD_OPT_GO;
    struct weir_nbd_info info;
    weir_autofree char *name = NULL;

    if (weir_nbd_option_take_string(option, &name) < 0 || option->length < 2 ||
        option->length != 2 + 2u * weir_nbd_get16(option->data)) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_INVALID, "malformed request");
        return WEIR_NBD_STEP_NEXT;
    }
    option->data += 2;
    option->length -= 2;
    if (handshake->directory->find(handshake->directory_arg, name, go, &info) < 0) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_UNKNOWN, "there is no such export");
        return WEIR_NBD_STEP_NEXT;
    }
    put_infos(handshake, option, name, &info);
    acknowledge(handshake, option->number);
    if (!go) {
        free(info.description);
        return WEIR_NBD_STEP_NEXT;
    }
    enter(handshake, weir_steal(&name), &info);
    return WEIR_NBD_STEP_TRANSMISSION;
}

static void structured_reply(struct weir_nbd_handshake *handshake, const struct weir_nbd_option *option)
{
    if (option->length) {
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_INVALID,
                                  "STRUCTURED_REPLY has no data");
        return;
    }
    handshake->structured = true;
    acknowledge(handshake, option->number);
}

enum weir_nbd_step weir_nbd_option_handle(struct weir_nbd_handshake *handshake,
                                          struct weir_nbd_option *option)
{
    if (option->number == NBD_OPT_EXPORT_NAME)
        return export_name(handshake, option);
    if (!handshake->fixed)
        return end(handshake, "sent an option that its handshake flags exclude");
    switch (option->number) {
    case NBD_OPT_ABORT:
        acknowledge(handshake, option->number);
        return end(handshake, "ended the negotiation");
    case NBD_OPT_LIST:
        list(handshake, option);
        break;
    case NBD_OPT_STARTTLS:
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_POLICY, "TLS is not configured");
        break;
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return info_or_go(handshake, option);
    case NBD_OPT_STRUCTURED_REPLY:
        structured_reply(handshake, option);
        break;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        weir_nbd_option_contexts(handshake, option);
        break;
    default:
        weir_nbd_handshake_refuse(handshake, option->number, NBD_REP_ERR_UNSUP, "unknown option");
        break;
    }
    return WEIR_NBD_STEP_NEXT;
}

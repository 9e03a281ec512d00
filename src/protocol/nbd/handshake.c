/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fixed newstyle: greeting, structured replies, metadata context, GO. Each option is sent when the one before it has
 * been answered. A server that does not know GO, or nothing of the fixed negotiation, is asked by EXPORT_NAME.
 */
#include "protocol/nbd/handshake.h"

#include <errno.h>

#define OPTION_HEADER 16u
#define ANSWER_HEADER 20u
#define GREETING 18u
/* Answers to one option: more are no negotiation any more. */
#define ANSWERS_MAX 256u
#define TEXT_MAX 512u
#define BLOCK_MIN_MAX 65536u

void nbd_handshake_init(struct nbd_handshake *handshake, const char *export, const char *context)
{
    *handshake = (struct nbd_handshake){
        .export = export,
        .context = context,
        .info = { .block_min = 1, .block_max = NBD_TRANSFER_DEFAULT },
    };
}

/* ---- out ---- */

static void put32(struct nbd_handshake *handshake, uint32_t value)
{
    weir_nbd_put32(handshake->output + handshake->output_length, value);
    handshake->output_length += 4;
}

static void put_bytes(struct nbd_handshake *handshake, const char *text)
{
    size_t length = strlen(text);

    memcpy(handshake->output + handshake->output_length, text, length);
    handshake->output_length += length;
}

static void put_string(struct nbd_handshake *handshake, const char *text)
{
    put32(handshake, (uint32_t)strlen(text));
    put_bytes(handshake, text);
}

static void put_option(struct nbd_handshake *handshake, uint32_t option, size_t length,
                       enum nbd_handshake_state next)
{
    weir_nbd_put64(handshake->output + handshake->output_length, NBD_IHAVEOPT);
    handshake->output_length += 8;
    put32(handshake, option);
    put32(handshake, (uint32_t)length);
    handshake->state = next;
    handshake->answers = 0;
}

static enum nbd_step ask_context(struct nbd_handshake *handshake)
{
    put_option(handshake, NBD_OPT_SET_META_CONTEXT,
               4 + strlen(handshake->export) + 4 + 4 + strlen(handshake->context), NBD_WAITS_CONTEXT);
    put_string(handshake, handshake->export);
    put32(handshake, 1);
    put_string(handshake, handshake->context);
    return NBD_STEP_SEND;
}

static enum nbd_step ask_go(struct nbd_handshake *handshake)
{
    put_option(handshake, NBD_OPT_GO, 4 + strlen(handshake->export) + 2 + 2, NBD_WAITS_GO);
    put_string(handshake, handshake->export);
    weir_nbd_put16(handshake->output + handshake->output_length, 1);
    weir_nbd_put16(handshake->output + handshake->output_length + 2, NBD_INFO_BLOCK_SIZE);
    handshake->output_length += 4;
    return NBD_STEP_SEND;
}

static enum nbd_step ask_by_name(struct nbd_handshake *handshake)
{
    put_option(handshake, NBD_OPT_EXPORT_NAME, strlen(handshake->export), NBD_WAITS_EXPORT);
    put_bytes(handshake, handshake->export);
    return NBD_STEP_SEND;
}

/* ---- in ---- */

static enum nbd_step fail(struct weir_error **err, const char *text)
{
    (void)weir_error_set(err, -EPROTO, "%s", text);
    return NBD_STEP_FAILED;
}

static enum nbd_step greeted(struct nbd_handshake *handshake, const uint8_t *data, struct weir_error **err)
{
    unsigned flags = weir_nbd_get16(data + 16);
    bool fixed = flags & NBD_FLAG_FIXED_NEWSTYLE;

    if (weir_nbd_get64(data) != NBD_MAGIC)
        return fail(err, "The server does not speak NBD");
    if (weir_nbd_get64(data + 8) == NBD_OLDSTYLE_MAGIC)
        return fail(err,
                    "The server speaks the old NBD protocol without a negotiation, which is not supported");
    if (weir_nbd_get64(data + 8) != NBD_IHAVEOPT)
        return fail(err, "The server does not speak NBD");
    handshake->no_zeroes = flags & NBD_FLAG_NO_ZEROES;
    put32(handshake, (fixed ? NBD_FLAG_FIXED_NEWSTYLE : 0) | (handshake->no_zeroes ? NBD_FLAG_NO_ZEROES : 0));
    if (!fixed)
        return ask_by_name(handshake);
    put_option(handshake, NBD_OPT_STRUCTURED_REPLY, 0, NBD_WAITS_STRUCTURED);
    return NBD_STEP_SEND;
}

/* What the server says becomes a part of our own error: nothing but plain characters of it. */
static void printable(const uint8_t *data, size_t length, char text[TEXT_MAX])
{
    size_t end = WEIR_MIN(length, (size_t)TEXT_MAX - 1);

    for (size_t i = 0; i < end; i++)
        text[i] = data[i] < ' ' || data[i] > '~' ? '?' : (char)data[i];
    text[end] = '\0';
}

static enum nbd_step refused(uint32_t kind, const uint8_t *data, size_t length, struct weir_error **err)
{
    char said[TEXT_MAX];
    const char *what, *between;

    printable(data, length, said);
    between = length ? ": " : "";
    switch (kind) {
    case NBD_REP_ERR_UNKNOWN:
        what = "Requested export not available";
        break;
    case NBD_REP_ERR_TLS_REQD:
        what = "The server wants TLS, which is not supported yet";
        break;
    case NBD_REP_ERR_POLICY:
        what = "The server does not allow this";
        break;
    case NBD_REP_ERR_SHUTDOWN:
        what = "The server is shutting down";
        break;
    case NBD_REP_ERR_BLOCK_SIZE_REQD:
        what = "The server wants other block sizes";
        break;
    default:
        (void)weir_error_set(err, -EIO, "The server refuses the export (error %u)%s%s", kind & ~NBD_REP_ERROR,
                             between, said);
        return NBD_STEP_FAILED;
    }
    (void)weir_error_set(err, kind == NBD_REP_ERR_UNKNOWN ? -ENOENT : -EPERM, "%s%s%s", what, between, said);
    return NBD_STEP_FAILED;
}

static bool must_end(uint32_t kind)
{
    return kind == NBD_REP_ERR_TLS_REQD || kind == NBD_REP_ERR_SHUTDOWN;
}

static enum nbd_step structured_answer(struct nbd_handshake *handshake, uint32_t kind, const uint8_t *data,
                                       size_t length, struct weir_error **err)
{
    if (must_end(kind))
        return refused(kind, data, length, err);
    if (kind & NBD_REP_ERROR)
        return ask_go(handshake);
    if (kind != NBD_REP_ACK)
        return fail(err, "The server's answer to STRUCTURED_REPLY makes no sense");
    handshake->info.structured = true;
    return ask_context(handshake);
}

static enum nbd_step context_answer(struct nbd_handshake *handshake, uint32_t kind, const uint8_t *data,
                                    size_t length, struct weir_error **err)
{
    if (must_end(kind))
        return refused(kind, data, length, err);
    /* What is wrong with the export is said in answer to GO. */
    if (kind == NBD_REP_ACK || (kind & NBD_REP_ERROR))
        return ask_go(handshake);
    if (kind != NBD_REP_META_CONTEXT || length != 4 + strlen(handshake->context) ||
        memcmp(data + 4, handshake->context, length - 4) != 0 || handshake->info.has_context)
        return fail(err, "The server's answer to SET_META_CONTEXT makes no sense");
    handshake->info.has_context = true;
    handshake->info.context_id = weir_nbd_get32(data);
    return NBD_STEP_DONE;
}

static bool take_export(struct nbd_handshake *handshake, const uint8_t *data)
{
    handshake->info.size = weir_nbd_get64(data);
    handshake->info.flags = weir_nbd_get16(data + 8);
    handshake->got_export = true;
    return handshake->info.size <= INT64_MAX && (handshake->info.flags & NBD_FLAG_HAS_FLAGS);
}

static bool take_sizes(struct nbd_export_info *info, const uint8_t *data)
{
    info->block_min = weir_nbd_get32(data);
    info->block_opt = weir_nbd_get32(data + 4);
    info->block_max = weir_nbd_get32(data + 8);
    return weir_is_power_of_2(info->block_min) && info->block_min <= BLOCK_MIN_MAX &&
           weir_is_power_of_2(info->block_opt) && info->block_opt >= info->block_min &&
           info->block_max >= info->block_min;
}

static enum nbd_step go_answer(struct nbd_handshake *handshake, uint32_t kind, const uint8_t *data,
                               size_t length, struct weir_error **err)
{
    unsigned type;

    if (kind == NBD_REP_ERR_UNSUP)
        return ask_by_name(handshake);
    if (kind & NBD_REP_ERROR)
        return refused(kind, data, length, err);
    if (kind == NBD_REP_ACK && handshake->got_export)
        return NBD_STEP_DONE;
    if (kind != NBD_REP_INFO || length < 2)
        return fail(err, "The server's answer to GO makes no sense");
    type = weir_nbd_get16(data);
    if (type == NBD_INFO_EXPORT && (length != 12 || !take_export(handshake, data + 2)))
        return fail(err, "The server's description of the export makes no sense");
    if (type == NBD_INFO_BLOCK_SIZE && (length != 14 || !take_sizes(&handshake->info, data + 2)))
        return fail(err, "The server's block sizes make no sense");
    return NBD_STEP_MORE;
}

/* One answer to an option. MORE: of several; go on with what follows. */
static enum nbd_step answered(struct nbd_handshake *handshake, const uint8_t *data, size_t length,
                              struct weir_error **err)
{
    static const uint32_t options[] = {
        [NBD_WAITS_STRUCTURED] = NBD_OPT_STRUCTURED_REPLY,
        [NBD_WAITS_CONTEXT] = NBD_OPT_SET_META_CONTEXT,
        [NBD_WAITS_GO] = NBD_OPT_GO,
    };
    uint32_t kind = weir_nbd_get32(data + 12);
    enum nbd_step step;

    if (weir_nbd_get32(data + 8) != options[handshake->state])
        return fail(err, "The server answers an option that was not asked for");
    if (++handshake->answers > ANSWERS_MAX)
        return fail(err, "The server sends too many answers");
    data += ANSWER_HEADER;
    switch (handshake->state) {
    case NBD_WAITS_STRUCTURED:
        return structured_answer(handshake, kind, data, length, err);
    case NBD_WAITS_CONTEXT:
        step = context_answer(handshake, kind, data, length, err);
        return step == NBD_STEP_DONE ? NBD_STEP_MORE : step;
    default:
        return go_answer(handshake, kind, data, length, err);
    }
}

static enum nbd_step export_answer(struct nbd_handshake *handshake, const uint8_t *data,
                                   struct weir_error **err)
{
    if (!take_export(handshake, data))
        return fail(err, "The server's description of the export makes no sense");
    return NBD_STEP_DONE;
}

/* With a state that expects something of a fixed length. */
static enum nbd_step fixed_step(struct nbd_handshake *handshake, const uint8_t *data, size_t length,
                                size_t *ret_used, struct weir_error **err)
{
    bool greeting = handshake->state == NBD_WAITS_GREETING;
    size_t needed = greeting ? GREETING : handshake->no_zeroes ? 10 : 10 + 124;

    if (length < needed)
        return NBD_STEP_MORE;
    *ret_used = needed;
    return greeting ? greeted(handshake, data, err) : export_answer(handshake, data, err);
}

enum nbd_step nbd_handshake_step(struct nbd_handshake *handshake, const uint8_t *data, size_t length,
                                 size_t *ret_used, struct weir_error **err)
{
    *ret_used = 0;
    handshake->output_length = 0;
    if (handshake->state == NBD_WAITS_GREETING || handshake->state == NBD_WAITS_EXPORT)
        return fixed_step(handshake, data, length, ret_used, err);
    while (length - *ret_used >= ANSWER_HEADER) {
        const uint8_t *answer = data + *ret_used;
        uint32_t content = weir_nbd_get32(answer + 16);
        enum nbd_step step;

        if (weir_nbd_get64(answer) != NBD_OPTION_REPLY_MAGIC)
            return fail(err, "The server's answer to an option is none");
        if (content > NBD_ANSWER_MAX)
            return fail(err, "The server's answer to an option is too long");
        if (length - *ret_used - ANSWER_HEADER < content)
            break;
        *ret_used += ANSWER_HEADER + content;
        step = answered(handshake, answer, content, err);
        if (step != NBD_STEP_MORE)
            return step;
    }
    return NBD_STEP_MORE;
}

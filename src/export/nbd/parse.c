/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Request headers and error codes of the wire. Pure functions on bytes that nobody may trust.
 */
#include "export/nbd/parse.h"

#include "export/nbd/proto.h"
#include <errno.h>

bool weir_nbd_parse_request(const uint8_t header[28], struct weir_nbd_command *ret_command)
{
    if (weir_nbd_get32(header) != NBD_REQUEST_MAGIC)
        return false;
    *ret_command = (struct weir_nbd_command){
        .flags = weir_nbd_get16(header + 4),
        .type = weir_nbd_get16(header + 6),
        .cookie = weir_nbd_get64(header + 8),
        .offset = weir_nbd_get64(header + 16),
        .length = weir_nbd_get32(header + 24),
    };
    return true;
}

static void refuse(struct weir_nbd_command *command, int error, const char *message)
{
    command->error = error;
    command->message = message;
}

/* FUA is allowed everywhere, as the protocol says; it means something for changes only. */
static unsigned flags_allowed(const struct weir_nbd_rules *rules, unsigned type)
{
    switch (type) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (rules->structured ? NBD_CMD_FLAG_DF : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

static bool changes(unsigned type)
{
    return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

void weir_nbd_check_request(const struct weir_nbd_rules *rules, struct weir_nbd_command *command)
{
    unsigned type = command->type;

    if (weir_unlikely(type > NBD_CMD_BLOCK_STATUS))
        refuse(command, -EINVAL, "unknown request");
    else if (weir_unlikely(command->flags & ~flags_allowed(rules, type)))
        refuse(command, -EINVAL, "flags that this request does not have");
    else if (type == NBD_CMD_FLUSH || type == NBD_CMD_DISC)
        return;
    else if (weir_unlikely(changes(type) && rules->read_only))
        refuse(command, -EPERM, "the export is read-only");
    else if (weir_unlikely(command->offset > rules->size || command->length > rules->size - command->offset))
        refuse(command, type == NBD_CMD_WRITE || type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL,
               "beyond the end of the export");
    else if (weir_unlikely(type == NBD_CMD_READ && command->length > WEIR_NBD_PAYLOAD_MAX))
        refuse(command, -EINVAL, "longer than the maximum of 32 MiB");
    else if (weir_unlikely(type == NBD_CMD_BLOCK_STATUS && !rules->base_allocation))
        refuse(command, -EINVAL, "no metadata context was negotiated");
    else if (weir_unlikely(type == NBD_CMD_BLOCK_STATUS && !command->length))
        refuse(command, -EINVAL, "the status of nothing");
}

uint32_t weir_nbd_wire_error(int error)
{
    switch (-error) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
        return 1;
    case ENOMEM:
        return 12;
    case EINVAL:
    case EACCES: /* has no code; clients of other servers know it as EINVAL */
        return 22;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return 28;
    case EOVERFLOW:
        return 75;
    case EOPNOTSUPP:
        return 95;
    case ESHUTDOWN:
        return 108;
    default:
        return 5;
    }
}

const char *weir_nbd_command_name(unsigned type)
{
    static const char *const names[] = { "read", "write", "disconnect",   "flush",
                                         "trim", "cache", "write zeroes", "block status" };

    return type < WEIR_ARRAY_SIZE(names) ? names[type] : "unknown request";
}

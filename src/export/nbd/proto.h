/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What this server accepts, beside the numbers of the protocol (base/nbd_proto.h).
 */
#ifndef WEIR_EXPORT_NBD_PROTO_H
#define WEIR_EXPORT_NBD_PROTO_H

#include "base/nbd_proto.h"

#define WEIR_NBD_STRING_MAX NBD_STRING_MAX
#define WEIR_NBD_OPTION_MAX 65536u       /* bytes of data of one option */
#define WEIR_NBD_PAYLOAD_MAX (32u << 20) /* bytes of one read or write */
#define WEIR_NBD_REQUESTS_MAX 256u       /* requests of one connection in flight */
#define WEIR_NBD_BYTES_MAX \
    ((uint64_t)64 << 20)           /* bytes in flight at which a connection is not read any more */
#define WEIR_NBD_EXTENTS_MAX 1024u /* descriptors in one answer to BLOCK_STATUS */

#endif

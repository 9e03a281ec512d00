/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From the schema's option values to those of host.h, for both drivers. Pure functions.
 */
#ifndef WEIR_PROTOCOL_HOST_OPTIONS_H
#define WEIR_PROTOCOL_HOST_OPTIONS_H

#include "gen/schema.h"
#include "protocol/host/host.h"

/* Nothing said: the best way for the file. `threads` said: no ring. */
static inline enum weir_host_aio weir_host_aio(bool given, enum weir_q_blockdev_aio_options aio)
{
    if (!given)
        return WEIR_HOST_AIO_BEST;
    switch (aio) {
    case WEIR_Q_BLOCKDEV_AIO_OPTIONS_NATIVE:
        return WEIR_HOST_AIO_NATIVE;
    case WEIR_Q_BLOCKDEV_AIO_OPTIONS_IO_URING:
        return WEIR_HOST_AIO_IO_URING;
    default:
        return WEIR_HOST_AIO_THREADS;
    }
}

/* auto: on, as every Linux that runs this has the locks. */
static inline bool weir_host_locking(bool given, enum weir_q_on_off_auto locking)
{
    return !given || locking != WEIR_Q_ON_OFF_AUTO_OFF;
}

#endif

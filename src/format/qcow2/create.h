/* SPDX-License-Identifier: BSD-2-Clause */
/* blockdev-create of a qcow2 image. */
#ifndef WEIR_FORMAT_QCOW2_CREATE_H
#define WEIR_FORMAT_QCOW2_CREATE_H

#include "graph/driver.h"

extern const struct weir_create_ops qcow2_create_ops;

#endif

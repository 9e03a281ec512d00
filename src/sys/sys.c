/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which world this process lives in. Written once, before other threads exist, and only read from then on.
 */
#include "sys/sys.h"

const struct weir_sys *weir_sys = &weir_sys_real;

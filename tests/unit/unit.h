/* SPDX-License-Identifier: BSD-2-Clause */
/* What every unit test includes: cmocka with the headers that it wants before it. */
#ifndef WEIR_TESTS_UNIT_H
#define WEIR_TESTS_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#endif

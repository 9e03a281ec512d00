/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The order in which the tools show the members of ImageInfo and the like.
 */
#ifndef WEIR_QMP_JSON_ORDER_H
#define WEIR_QMP_JSON_ORDER_H

#include <jansson.h>

/* The members of @object in that order; a new array of borrowed names, ended by NULL. */
const char **weir_json_keys(const json_t *object);

#endif

/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * File names as people and image headers write them, turned into the options of a node.
 */
#ifndef WEIR_GRAPH_FILENAME_H
#define WEIR_GRAPH_FILENAME_H

#include "base/error.h"
#include "base/macros.h"
#include <jansson.h>

/*
 * Options of the protocol node for @name: `json:{...}` is taken as it stands (*ret_is_tree true: it may be a whole
 * format node), `file:PATH` and a plain path become driver file, or host_device where the path is a block device. A
 * relative path is one below the directory of @image (may be NULL: the current directory). Other protocols
 * (`nbd:...`) fail with "Unknown protocol 'nbd'". The new reference is the caller's. Control loop.
 */
int weir_filename_options(const char *name, const char *image, json_t **ret_options, bool *ret_is_tree,
                          struct weir_error **err) weir_co_fn weir_must_check;
/* The path that @name means when it stands in @image; a new string. json: names are returned as they are. */
char *weir_filename_resolve(const char *name, const char *image);

#endif

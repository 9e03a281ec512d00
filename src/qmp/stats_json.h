/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef WEIR_QMP_STATS_JSON_H
#define WEIR_QMP_STATS_JSON_H

#include "io/stats.h"
#include <jansson.h>

/* BlockDeviceStats; a new reference. */
json_t *weir_stats_json(const struct weir_stats *stats);

#endif

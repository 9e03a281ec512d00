/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The create job: makes an image, as blockdev-create asks.
 */
#ifndef WEIR_JOB_CREATE_H
#define WEIR_JOB_CREATE_H

#include "base/error.h"
#include <jansson.h>

/*
 * Starts a job @job_id that has driver @driver_name make an image from @options (the command's object, with its
 * "driver"; borrowed). The job is finalized by itself and stays until it is dismissed. Control loop.
 */
int weir_create_start(const char *job_id, const char *driver_name, json_t *options,
                      struct weir_error **err) weir_must_check;

#endif

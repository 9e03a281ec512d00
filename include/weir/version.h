/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The version of the library: of the headers a program was compiled with, and of what it runs with.
 */
#ifndef WEIR_VERSION_H
#define WEIR_VERSION_H

#ifdef __cplusplus
extern "C" {
#endif

#define WEIR_VERSION_MAJOR 0
#define WEIR_VERSION_MINOR 1
#define WEIR_VERSION_PATCH 0
/* Grows with each version: `#if WEIR_VERSION >= 100`. */
#define WEIR_VERSION (WEIR_VERSION_MAJOR * 10000 + WEIR_VERSION_MINOR * 100 + WEIR_VERSION_PATCH)

/* "0.1.0" of the library that is loaded. A constant. Any thread. */
const char *weir_version(void);

#ifdef __cplusplus
}
#endif

#endif

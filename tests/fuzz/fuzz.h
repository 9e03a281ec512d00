/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What every fuzz target is: one function that takes foreign bytes and must come back, quickly and silently,
 * whatever they are. With -Dfuzz=true libFuzzer calls it; in the normal build replay.c does, for each file of a corpus.
 */
#ifndef WEIR_TESTS_FUZZ_FUZZ_H
#define WEIR_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif

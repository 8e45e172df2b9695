// What every fuzz target needs: a check that stops the fuzzer, and the random numbers of an input.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "base/hash.h"

/// Stops the fuzzer, which then keeps the input: a property that must hold did not.
#define FUZZ_CHECK(condition)                                                       \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)

namespace shira::fuzz {

/// The choices that a target makes for an input: always the same ones for the same input.
inline std::minstd_rand choices_of(const uint8_t* data, size_t size_bytes) {
  return std::minstd_rand(crc32c(data, size_bytes) | 1U);
}

}  // namespace shira::fuzz
